"""Time and memory of one training step of a VAE, against PyTorch written by hand, in one interleaved run.

    python -m benchmarks.vae_step            # prints the tables, writes results/speed_vae_step.json
    python -m benchmarks.vae_step --quick    # a smoke run, writes nothing

Every row is a process (`benchmarks.turns`) with one thread; in each round every row does a block of steps, in an order
that rotates from round to round. A ratio is the median over rounds of a row's time over the base's in that round: of
CPU time, which leaves other programs out. Memory is the peak of a step's tensors (activations, gradients,
temporaries) without the parameters and the optimiser's moments. pythae is timed if `make bench-peers` installed it.
"""

import argparse
import json
import math
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyro
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import guides
from benchmarks.turns import Runner, processor, turns
from zoo import VAE
from zoo.infer import ELBO, IWELBO, fit
from zoo.infer.training.settings import versions
from zoo.infer.training.step.compiled import compiled

ROOT = Path(__file__).parents[1]
PEERS = ROOT / ".venv-peers/bin/python"


class Size(NamedTuple):
    data: int
    hidden: int
    latent: int
    batch: int
    particles: int = 1
    # Of a block: long enough for the clock, short enough for many rounds.
    steps: int = 1


SIZES = {
    "mnist": Size(784, 400, 20, 128, steps=12),
    "toy": Size(2, 32, 2, 128, steps=120),
    "iwelbo": Size(784, 400, 20, 64, particles=50, steps=2),
}
# So slow that all rows stay at their start.
OPTIONS = {"lr": 1e-6, "fused": True}


class ByHand(nn.Module):
    """The networks, bound and estimator of the zoo's pair; log p(z) - log q(z) is simplified with pencil and paper."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.particles = size.particles
        self.encoder = nn.Sequential(
            nn.Linear(size.data, size.hidden), nn.ReLU(), nn.Linear(size.hidden, 2 * size.latent)
        )
        self.decoder = nn.Sequential(nn.Linear(size.latent, size.hidden), nn.ReLU(), nn.Linear(size.hidden, size.data))

    def forward(self, x: Tensor) -> Tensor:
        loc, log_scale = self.encoder(x).chunk(2, -1)
        if self.particles == 1:
            noise = torch.randn_like(loc)
            z = torch.addcmul(loc, log_scale.exp(), noise)
            # log q(z) - log p(z) of a draw: the constants cancel.
            kl = 0.5 * (z * z - noise * noise).sum() - log_scale.sum()
            return F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum") + kl
        noise = torch.randn(self.particles, *loc.shape)
        z = torch.addcmul(loc, log_scale.exp(), noise)
        log_ratio = 0.5 * (noise * noise - z * z).sum(-1) + log_scale.sum(-1)
        logits = self.decoder(z)
        missed = F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)
        return len(x) * math.log(self.particles) - torch.logsumexp(log_ratio - missed, 0).sum()


def pair(size: Size) -> tuple[VAE, guides.Amortized]:
    model = VAE(size.data, size.latent, (size.hidden,))
    return model, guides.Amortized(model, hidden=(size.hidden,))


def zoo_loss(size: Size) -> nn.Module:
    return (ELBO() if size.particles == 1 else IWELBO(size.particles))(*pair(size))


def train(loss: nn.Module, x: Tensor) -> None:
    optimizer = torch.optim.Adam(loss.parameters(), **OPTIONS)
    for _ in turns():
        optimizer.zero_grad(set_to_none=True)
        loss(x).backward()
        optimizer.step()


class AdamInTurns(torch.optim.Adam):
    """Adam that waits for a turn in each `step`: `fit` calls it once in each of its own, and at no other time."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.turns = turns()

    def step(self, closure: Any = None) -> Any:
        for _ in self.turns:
            return super().step(closure)
        # No request any more.
        sys.exit()


def pyro_svi(size: Size, data: Tensor) -> None:
    # RenyiELBO with alpha 0 is the importance-weighted bound.
    elbo = pyro.infer.Trace_ELBO()
    if size.particles > 1:
        elbo = pyro.infer.RenyiELBO(alpha=0, num_particles=size.particles, vectorize_particles=True)
    svi = pyro.infer.SVI(*pair(size), pyro.optim.Adam({"lr": 1e-6}), elbo)
    for _ in turns():
        svi.step(data[: size.batch])


ROWS: dict[str, Callable[[Size, Tensor], Any]] = {
    "by hand": lambda size, data: train(ByHand(size), data[: size.batch]),
    "zoo": lambda size, data: train(zoo_loss(size), data[: size.batch]),
    "zoo, in `fit` with its batches": lambda size, data: fit(
        zoo_loss(size), data, steps=10**9, batch_size=size.batch, optimizer=partial(AdamInTurns, **OPTIONS)
    ),
    "by hand, compiled": lambda size, data: train(torch.compile(ByHand(size), fullgraph=True), data[: size.batch]),
    "zoo, compiled": lambda size, data: train(compiled(zoo_loss(size), data[: size.batch]), data[: size.batch]),
    "Pyro's SVI and bound, the zoo's pair": pyro_svi,
}
# The loader is a part of pythae's step: with it and without it.
PEER_ROWS = {"pythae's trainer, given batches": [], "pythae's trainer, with its loader": ["--own-loader"]}
BASES = ("by hand", "by hand, compiled")


def start(name: str, seed: int, cache: str) -> dict[str, Runner]:
    environment = {"TORCHINDUCTOR_CACHE_DIR": cache, "PYTHONPATH": str(ROOT)}
    common = ["--seed", str(seed)]
    commands = {row: [sys.executable, "-m", "benchmarks.vae_step", "--row", row, "--sizes", name] for row in ROWS}
    if PEERS.exists():
        size = json.dumps(SIZES[name]._asdict())
        worker = [str(PEERS), "-m", "benchmarks.vae_step_pythae", size]
        commands |= {row: worker + options for row, options in PEER_ROWS.items()}
    return {row: Runner(command + common, environment) for row, command in commands.items()}


def in_turns(running: dict[str, Runner], rounds: int, steps: int) -> dict[str, list[dict[str, float]]]:
    """Row -> seconds of a block of steps in each round, the order rotating from round to round."""
    rows, times = list(running), {row: [] for row in running}
    # The first call checks the pair, or compiles.
    for runner in running.values():
        runner.ask(3)
    for k in range(rounds):
        turn = k % len(rows)
        for row in rows[turn:] + rows[:turn]:
            # A few steps that do not count: the other rows have used the processor's caches in the meantime.
            running[row].ask(1 + steps // 5)
            times[row].append(running[row].ask(steps))
    return times


def measure(name: str, rounds: int, seed: int) -> dict[str, dict[str, Any]]:
    """Row -> milliseconds of a step, ratios to both bases with quartiles, bytes of the peak."""
    steps = SIZES[name].steps
    # A cache of the compiler's own for each run: graphs are compiled here, not found.
    with tempfile.TemporaryDirectory() as cache:
        running = start(name, seed, cache)
        try:
            rows = list(running)
            times = in_turns(running, rounds, steps)
            results = {row: {"peak_bytes": running[row].ask("memory")["peak"]} for row in rows}
        finally:
            for runner in running.values():
                runner.close()
    # CPU time is the measure; wall time shows a row that waits.
    for row in rows:
        for clock in ("cpu", "wall"):
            results[row][f"{clock}_ms"] = 1e3 * statistics.median(t[clock] for t in times[row]) / steps
            for base in BASES:
                ratios = [t[clock] / b[clock] for t, b in zip(times[row], times[base], strict=True)]
                low, median, high = statistics.quantiles(ratios, n=4)
                results[row][f"{clock} / {base}"] = {"median": median, "quartiles": [low, high]}
    return results


def table(size: Size, results: dict[str, dict[str, Any]]) -> str:
    bound = "ELBO" if size.particles == 1 else f"IWELBO, K = {size.particles}"
    head = ["", "CPU ms", "/ by hand", "quartiles", "/ by hand, compiled", "quartiles", "wall / by hand", "peak MB"]
    lines = [f"\n### {size.data}-{size.hidden}-{size.latent}, batch {size.batch}, {bound}\n"]
    lines += ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    for row, r in results.items():
        cells = [f"{r['cpu_ms']:.3f}"]
        for base in BASES:
            ratio = r[f"cpu / {base}"]
            cells += [f"{ratio['median']:.2f}", "{:.2f} to {:.2f}".format(*ratio["quartiles"])]
        cells += [f"{r['wall / by hand']['median']:.2f}", f"{r['peak_bytes'] / 1e6:.2f}"]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def record(args: argparse.Namespace, seconds: float, tables: dict[str, dict[str, Any]]) -> dict[str, Any]:
    # The peer has an environment of its own, with a torch of its own.
    used = versions()
    if PEERS.exists():
        ask = "from importlib.metadata import version as v; print(v('pythae'), 'on torch', v('torch'))"
        used["pythae"] = subprocess.check_output([str(PEERS), "-c", ask], text=True).strip()
    return {
        "command": shlex.join(["python", "-m", "benchmarks.vae_step", *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": args.seed,
        "rounds": args.rounds,
        "seconds": round(seconds),
        "hardware": f"{processor()}, one thread",
        "load": os.getloadavg()[1],
        "versions": used,
        "sizes": {name: SIZES[name]._asdict() | {"rows": rows} for name, rows in tables.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="three rounds, nothing written")
    parser.add_argument("--out", type=Path, default=ROOT / "results/speed_vae_step.json")
    # With it this process is one row of the size.
    parser.add_argument("--row", choices=ROWS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.row:
        size = SIZES[args.sizes[0]]
        pyro.set_rng_seed(args.seed)
        ROWS[args.row](size, torch.bernoulli(torch.full((60_000, size.data), 0.2)))
        return
    begun, tables = time.perf_counter(), {}
    for name in args.sizes:
        tables[name] = measure(name, 3 if args.quick else args.rounds, args.seed)
        print(table(SIZES[name], tables[name]), flush=True)
    if not args.quick:
        args.out.parent.mkdir(exist_ok=True)
        args.out.write_text(json.dumps(record(args, time.perf_counter() - begun, tables), indent=1) + "\n")


if __name__ == "__main__":
    main()
