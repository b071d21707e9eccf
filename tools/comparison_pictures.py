"""Pictures of the comparison for docs/results.md: draws, lines between images, and nearest training images.

    python tools/comparison_pictures.py

Of rows whose folder is here, in runs/comparison-long-NAME: others are left out.
"""

import argparse
from pathlib import Path

import torch
from cells import ROOT
from comparison_tables import LONG
from hierarchy_pictures import store
from matplotlib.figure import Figure
from rows.comparison import SYSTEMS
from torch import Tensor

from zoo.infer import plot_reconstructions

SHAPE = (28, 28)


def figures(shown: dict[str, dict[str, Tensor]]) -> dict[str, Figure]:
    """The three pictures, from each system's images: `draws`, `nearest`, `real`, and `between` where it has any."""
    real = {"test images": next(iter(shown.values()))["real"]}
    rows = {
        "comparison_draws": real | {name: images["draws"] for name, images in shown.items()},
        "comparison_between": {name: images["between"] for name, images in shown.items() if "between" in images},
        "comparison_nearest": {f"{name}{part}": images[key] for name, images in shown.items()
                               for key, part in (("draws", ""), ("nearest", ", nearest"))},
    }  # fmt: skip
    return {name: plot_reconstructions(lines, SHAPE) for name, lines in rows.items() if lines}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs", metavar="FOLDER")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "pictures", metavar="FOLDER")
    args = parser.parse_args()
    files = {word: args.runs / f"{LONG}{word}" / "shown.pt" for word in SYSTEMS}
    shown = {word: torch.load(file) for word, file in files.items() if file.exists()}
    store(figures(shown) if shown else {}, args.out)


if __name__ == "__main__":
    main()
