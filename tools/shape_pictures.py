"""Pictures of codes of shapes for docs/results.md, from the rows' records and trained pairs.

    python tools/shape_pictures.py

Rows that are not done, or whose folder is not here, are left out.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from cells import RESULTS, ROOT
from hierarchy_pictures import store
from matplotlib.figure import Figure
from rows.place import cache
from shape_tables import by_objective, shape_rows
from torch import Tensor

from zoo import load_pair
from zoo.data import load
from zoo.infer import plot_images
from zoo.parts.aside import aside
from zoo.plots.look import plain, styles

#: coordinates of a code that are shown, and the places on each
SHOWN, PLACES = 6, 11


def scores(rows: list[dict[str, Any]]) -> Figure:
    """Reconstruction against MIG, a point for each row and a colour with a mark for each objective."""
    figure = Figure(figsize=(5.4, 4.0), layout="constrained")
    ax = figure.subplots()
    marks = "oooooDDDDD"
    for (system, group), (colour, _), mark in zip(by_objective(rows).items(), styles(), marks, strict=False):
        across, up = ([row["figures"][name] for row in group] for name in ("reconstruction", "mig"))
        ax.plot(across, up, mark, color=colour, label=system, alpha=0.8)
    ax.set(xlabel="reconstruction, E log p(x | z), nats per picture", ylabel="mutual information gap")
    ax.legend(frameon=False, fontsize=7)
    plain(ax)
    return figure


@torch.no_grad()
def traversals(model: Any, guide: Any, x: Tensor, units: list[float]) -> Figure:
    """Pictures along the coordinates that carry most nats, `units` each, from the code of one picture x `(1, D)`."""
    with aside(guide), aside(model):
        z = guide.posterior(x).mean.repeat(SHOWN, PLACES, 1)
        for row, coordinate in enumerate(torch.tensor(units).argsort(descending=True)[:SHOWN].tolist()):
            z[row, :, coordinate] = torch.linspace(-2, 2, PLACES)
        means = model.likelihood(z).mean
    return plot_images(means.flatten(0, 1), (16, 16), columns=PLACES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "pictures")
    chosen = parser.parse_args()
    rows = shape_rows(chosen.results)
    if not rows:
        return
    found = {"shapes_scores": scores(rows)}
    best = max(rows, key=lambda row: row["figures"]["mig"])
    if (folder := cache() / best["name"]).exists():
        pair = load_pair(folder)
        x = load("shapes").test.images[:1]
        found["shapes_traversals"] = traversals(*pair, x, best["figures"]["kl_units"])
    store(found, chosen.out)


if __name__ == "__main__":
    main()
