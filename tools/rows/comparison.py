"""Rows of the comparison on MNIST in 16 grey levels: each is a call of examples/comparison.py, for one system.

45 CPU minutes of training each with one seed, and 5 minutes with three. Evaluation takes some minutes more, most of all
the draws of a masked autoregressive flow.
"""

from rows.row import Script

SYSTEMS = ("vae", "hierarchical", "coupling", "maf", "pixelcnn", "pixelvae", "gan")
LONG, SHORT, SEEDS = 45, 5, range(3)


def script(name: str, system: str, minutes: int, seed: int) -> Script:
    line = f"--data mnist --systems {system} --minutes {minutes} --seed {seed}"
    return Script(name=f"comparison-{name}", script="examples/comparison.py", line=line)


ROWS = [
    *(script(f"long-{system}", system, LONG, 0) for system in SYSTEMS),
    *(script(f"short-{system}-{seed}", system, SHORT, seed) for seed in SEEDS for system in SYSTEMS),
]
