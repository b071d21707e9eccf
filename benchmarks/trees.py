"""One training step in two checkouts of this repository, interleaved: is the newer one slower?

    python -m benchmarks.trees --before ../other-checkout

Two processes, one for each tree, take turns of some steps each, in an order that changes from round to round. Printed
are the medians of the CPU time of a step, and the median and quartiles of the rounds' own ratios, now / before.
"""

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORKER = """
import sys, time, torch
torch.set_num_threads(1)
torch.manual_seed(0)
import guides, zoo
from zoo.infer import ELBO, IWELBO
objective, n = ELBO(), int(sys.argv[2])
if sys.argv[1] in ("toy", "mnist"):
    size, latent, hidden = (2, 2, 32) if sys.argv[1] == "toy" else (784, 20, 400)
    model, x = zoo.VAE(size, latent, (hidden,)), torch.rand(128, size).round()
    guide = guides.Amortized(model, hidden=(hidden,))
else:
    sizes, x = {"recurrent": 32, "hidden": (32,)}, torch.rand(16, 40, 20).round()
    if sys.argv[1] == "srnn":
        model = zoo.SRNN(20, 8, **sizes)
        guide = guides.Smoother(model, family=guides.Residual, **sizes)
    else:
        model, objective = zoo.VRNN(20, 8, **sizes), IWELBO(2, gradient="doubly")
        guide = guides.Filter(model, hidden=(32,), recurrent=0)
loss = objective(model, guide)
loss(x)  # the pair is checked here
optimizer = torch.optim.Adam(loss.parameters(), lr=1e-4, fused=True)
def steps(number):
    for _ in range(number):
        for p in loss.parameters():
            p.grad = None
        loss(x).backward()
        optimizer.step()
steps(5)
for line in sys.stdin:
    start = time.process_time()
    steps(n)
    print((time.process_time() - start) / n * 1e3, flush=True)
"""
STEPS = {"toy": 150, "mnist": 15, "srnn": 6, "vrnn-doubly": 5}  # steps of a turn: about a quarter of a second


def worker(name: str, tree: Path) -> subprocess.Popen:
    """A process that runs the steps of one tree whenever it is sent a line."""
    # The tree comes first on the path, before an installed zoo.
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WORKER, name, str(STEPS[name])]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=tree, env=environment, stdin=pipe, stdout=pipe, text=True)


def turn(process: subprocess.Popen) -> float:
    """CPU time of a step, ms."""
    process.stdin.write("\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=Path, required=True, help="the other checkout")
    parser.add_argument("--rounds", type=int, default=24)
    chosen = parser.parse_args()
    for name in STEPS:
        before, now = worker(name, chosen.before.resolve()), worker(name, ROOT)
        times: dict[str, list[float]] = {"before": [], "now": []}
        for number in range(chosen.rounds):
            order = [("before", before), ("now", now)]
            for tree, process in order if number % 2 else reversed(order):
                times[tree].append(turn(process))
        low, middle, high = statistics.quantiles([b / a for a, b in zip(*times.values(), strict=True)], n=4)
        medians = ", ".join(f"{tree} {statistics.median(values):.3f} ms" for tree, values in times.items())
        print(f"{name}: {medians}, now / before {middle:.3f} ({low:.3f} to {high:.3f})", flush=True)
        for process in (before, now):
            process.stdin.close()


if __name__ == "__main__":
    main()
