"""The evidence lower bound after an epoch, over the size of the weights with which a family's last layer starts.

Prints the markdown table behind the starts of `guides.families`: rows are families and latent sizes, columns the
factors on torch's own start of a linear layer: for the locations, for the log scales, and for all else that the layer
puts out (off-diagonals, weights, flow parameters). Binarised MNIST, a 784-400 VAE, batch 128, learning rate 1e-3, one
thread; medians over seeds, nats per datum.

    python -m benchmarks.starts                        # about an hour
    python -m benchmarks.starts --families iaf --rows 5000 --seeds 1
"""

import argparse
import statistics
from collections.abc import Callable
from functools import partial

import pyro
import torch
from torch import Tensor, nn

import guides
from guides.families import Family
from zoo import VAE
from zoo.data import load
from zoo.infer import ELBO, fit

FAMILIES: dict[str, Callable[[int, int], Family]] = {
    "diagonal": guides.Diagonal,
    "precision-weighted": guides.PrecisionWeighted,
    "full rank": guides.FullRank,
    "mixture": guides.Mixture,
    "planar": guides.Planar,
    "radial": guides.Radial,
    "iaf": guides.IAF,
    "spline": guides.Spline,
}
# On (locations, log scales, the rest).
FACTORS = [(0.1, 0.1, 0.1), (0.3, 0.3, 0.3), (1.0, 0.1, 0.1), (1.0, 0.1, 1.0), (1.0, 0.3, 0.3), (1.0, 1.0, 1.0)]
SIZES = 2, 20, 64


def started(family: Family, locations: float, log_scales: float, rest: float) -> None:
    """Starts the family's head as torch does, without a bias, and multiplies its rows by the factors."""
    assert isinstance(family.head, nn.Linear)
    with torch.no_grad():
        family.head.reset_parameters()
        family.head.bias.zero_()
        where, factor = family.locations, torch.full((family.num_parameters, 1), rest)
        factor[where] = locations
        # The log scales come next in every family.
        factor[where.stop : 2 * where.stop - (where.start or 0)] = log_scales
        family.head.weight.mul_(factor)


def bound(
    name: str, latent: int, factors: tuple[float, float, float] | None, seed: int, x: Tensor, test: Tensor
) -> float:
    """The bound on `test` after one epoch, nats per datum; without factors from the family's own start."""
    # The model has the same start and the same batches in every column.
    pyro.set_rng_seed(seed)
    model = VAE(784, latent)
    guide = guides.Amortized(model, family=FAMILIES[name])
    if factors is not None:
        started(guide.family, *factors)
    loss = ELBO()(model, guide)
    fit(loss, x, epochs=1, batch_size=128, optimizer=partial(torch.optim.Adam, lr=1e-3), seed=seed, progress=False)
    with torch.no_grad():
        return -loss(test).item() / len(test)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="*", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--sizes", nargs="*", type=int, default=list(SIZES))
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    bits = load("binarized_mnist")
    x, test = bits.train.images[: options.rows].float(), bits.test.images[:2000].float()
    columns = [*FACTORS, None]
    heads = ["own start" if f is None else ", ".join(map(str, f)) for f in columns]
    print(f"| family, latents | {' | '.join(heads)} |\n|{'---|' * (len(heads) + 1)}")
    for name in options.families:
        for latent in options.sizes:
            found = [statistics.median(bound(name, latent, f, seed, x, test) for seed in range(options.seeds))
                     for f in columns]  # fmt: skip
            print(f"| {name}, {latent} | {' | '.join(f'{v:.1f}' for v in found)} |", flush=True)


if __name__ == "__main__":
    main()
