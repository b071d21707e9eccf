"""Effective draws per CPU second: Pyro's NUTS against batched HMC, on the posterior of a decoder's latents.

    python -m benchmarks.hmc            # about ten minutes, prints the table
    python -m benchmarks.hmc --quick    # a smoke run on a toy

One thread; the rows take turns in each round, with the round's number as seed. Warm-up is counted in the time. The ESS
is the bulk ESS of a coordinate, averaged over coordinates and added up over data points: posteriors sampled side by
side are all work done. A row shows its worst R-hat too, because fast draws from the wrong place are worth nothing.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from zoo import VAE
from zoo.infer import hmc_reference, nuts_reference
from zoo.infer.reference.inference_data import diagnose, site_draws

# Draws that fail their checks are no error here: the table shows R-hat and ESS.
ANYTHING = {"max_rhat": float("inf"), "min_ess": 0.0, "max_divergences": 10**9}


class Turn(NamedTuple):
    """The result of one row in one round."""

    ess: float
    rhat: float
    seconds: float


def decoder(data_dim: int, hidden: int, latent_dim: int) -> VAE:
    """A VAE with random weights, larger than at the start of a training: the data then tell about z."""
    model = VAE(data_dim, latent_dim, (hidden,), activation=nn.ReLU)
    with torch.no_grad():
        for parameter in model.parameters():
            nn.init.normal_(parameter, 0.0, 1.5 / parameter.shape[-1] ** 0.5 if parameter.dim() > 1 else 0.1)
    return model


def turn(sample: Callable[..., Any], seed: int) -> Turn:
    # CPU time: other programs on the machine do not count.
    start = time.process_time()
    data = sample(seed=seed)
    seconds = time.process_time() - start
    found = diagnose(site_draws(data))
    return Turn(found.ess_bulk["z"].mean(-1).sum().item(), found.rhat["z"].max().item(), seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a toy in one round")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    sizes = (20, 10, 3) if options.quick else (784, 400, 20)
    rounds = 1 if options.quick else options.rounds
    warmup, num_samples = (20, 20) if options.quick else (300, 500)
    model = decoder(*sizes)
    with torch.no_grad():
        x = model.likelihood(torch.randn(16, sizes[-1])).sample()
    common = {"warmup": warmup, "num_samples": num_samples, **ANYTHING}
    # NUTS steps one chain at a time, HMC all chains and data at once.
    rows = {
        "Pyro NUTS, 1 datum x 4 chains": partial(nuts_reference, model, x[:1], chains=4, **common),
        "HMC, 1 datum x 4 chains": partial(hmc_reference, model, x[:1], chains=4, **common),
        "HMC, 1 datum x 64 chains": partial(hmc_reference, model, x[:1], chains=64, **common),
        "HMC, 16 data x 4 chains": partial(hmc_reference, model, x, chains=4, **common),
    }
    turns: dict[str, list[Turn]] = {name: [] for name in rows}
    for number in range(rounds):
        names = list(rows)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            turns[name].append(turn(rows[name], number))
    # Ratios are of one round: both rows met the same machine.
    first = [t.ess / t.seconds for t in turns["Pyro NUTS, 1 datum x 4 chains"]]
    title = f"Decoder {'-'.join(map(str, sizes))}, {warmup} warm-up and {num_samples} kept draws"
    print(f"{title}, {rounds} rounds, one thread\n")
    print("| sampler | CPU s | ESS | ESS per CPU s | against NUTS | worst R-hat |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, done in turns.items():
        rate = [t.ess / t.seconds for t in done]
        ratio = statistics.median(r / f for r, f in zip(rate, first, strict=True))
        cells = [
            f"{statistics.median(t.seconds for t in done):.1f}",
            f"{statistics.median(t.ess for t in done):.0f}",
            f"{statistics.median(rate):.0f}",
            f"{ratio:.1f} x",
            f"{max(t.rhat for t in done):.3f}",
        ]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
