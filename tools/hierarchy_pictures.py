"""Pictures of hierarchies for docs/results.md, from the rows' records and trained pairs.

    python tools/hierarchy_pictures.py
    python tools/hierarchy_pictures.py --samples mnist-5-skip

Rows that are not done, or whose folder is not here, are left out.
"""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from cells import RESULTS, ROOT
from hierarchy_tables import bound
from matplotlib.figure import Figure
from PIL import Image
from rows.hierarchies import ROWS
from rows.place import Place
from sklearn.decomposition import PCA
from torch import Tensor

from zoo import load_pair
from zoo.data import binarize, load
from zoo.infer import plot_kl_history, plot_reconstructions
from zoo.parts.aside import seeded

#: rows whose course is shown, and those whose levels are: LVAE's figures have its own and the guide from below
COURSES = ("mnist-5-bottom-up", "mnist-5-top-down", "mnist-5-ladder", "mnist-5-skip", "mnist-5-biva", "mnist-5-plain")
LEVELS = ("mnist-5-bottom-up", "mnist-5-ladder")
TEMPERATURES = (0.0, 0.4, 0.7, 1.0)
COLUMNS = 12


def recorded(names: Sequence[str], results: Path) -> dict[str, dict[str, Any]]:
    """Row -> its record, of those that have their figures."""
    places = {row.name: Place(row, results) for row in ROWS if row.name in names}
    return {name: places[name].read() for name in names if places[name].done}


def pairs_of(names: Iterable[str], results: Path) -> dict[str, tuple[Any, Any]]:
    """Row -> its trained pair, of those whose folder is here."""
    folders = {row.name: Place(row, results).folder for row in ROWS}
    return {name: load_pair(folders[name]) for name in names if (folders[name] / "config.json").exists()}


def levels(pairs: dict[str, tuple[Any, Any]], images: Tensor, labels: Tensor) -> Figure:
    """A row of panels for each pair: a draw of every level given each image, its first two principal components."""
    depth = max(len(model.sites) for model, _ in pairs.values())
    figure = Figure(figsize=(1.9 * depth, 2.0 * len(pairs) + 0.3), layout="constrained")
    axes = figure.subplots(len(pairs), depth, squeeze=False)
    for row, (name, (model, guide)) in zip(axes, pairs.items(), strict=True):
        with torch.no_grad():
            drawn = guide(images)
        row[0].set_ylabel(name.removeprefix("mnist-5-"), fontsize=9)
        for ax, site in zip(row, model.sites, strict=False):
            # components of variance alone: an axis has no unit
            first = PCA(2).fit_transform(drawn[site].numpy())
            shown = ax.scatter(*first.T, c=labels, cmap="tab10", s=2.5, linewidths=0)
            ax.set(title=site, xticks=[], yticks=[])
            ax.title.set_size(9)
        for ax in row[len(model.sites) :]:
            ax.set_axis_off()
    figure.legend(*shown.legend_elements(), loc="outside right center", frameon=False, fontsize=8, handletextpad=0)
    return figure


@torch.no_grad()
def means(model: Any, latents: dict[str, Tensor]) -> Tensor:
    """The means of p(x | z)."""
    above: Any = None
    for level in range(len(model.sites), 0, -1):
        above = model.descend(level, above, latents[model.sites[level - 1]])
    return model.likelihood(above).mean


def samples(model: Any, seed: int = 0) -> Figure:
    """Rows of new images: by temperature; then one draw, of which ever more levels, from the top, are held."""
    rows = {}
    with seeded(seed):
        for temperature in TEMPERATURES:
            rows[f"T = {temperature:g}"] = means(model, model.generate(COLUMNS, temperature)[0])
        first = {site: z[0] for site, z in model.generate(1)[0].items()}
        for held in range(1, len(model.sites)):
            fixed = {site: first[site] for site in model.sites[-held:]}
            label = f"{model.sites[-held]}..{model.sites[-1]} held" if held > 1 else f"{model.sites[-1]} held"
            rows[label] = means(model, model.generate(COLUMNS, fixed=fixed)[0])
    return plot_reconstructions(rows, (28, 28))


def store(figures: Mapping[str, Figure], folder: Path, colours: int = 64) -> None:
    """Writes figures, file name without its end -> figure, in few colours, which a page loads three times as fast."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        full = BytesIO()
        figure.savefig(full, format="png", dpi=100)
        path = folder / f"{name}.png"
        Image.open(full).convert("RGB").quantize(colours, dither=Image.Dither.NONE).save(path, optimize=True)
        print(f"wrote {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "pictures", metavar="FOLDER")
    parser.add_argument("--samples", choices=[row.name for row in ROWS], metavar="ROW",
                        help="the row that new images are drawn from; the best without")  # fmt: skip
    parser.add_argument("--num-images", type=int, default=1000)
    args = parser.parse_args()
    figures, courses = {}, recorded(COURSES, args.results)
    if courses:
        histories = {name.removeprefix("mnist-5-"): record["curve"] for name, record in courses.items()}
        figures["hierarchy_kl"] = plot_kl_history(histories)
    if pairs := pairs_of(recorded(LEVELS, args.results), args.results):
        test = load("mnist").test.shuffled(123)[: args.num_images]
        with seeded(0):
            figures["hierarchy_levels"] = levels(pairs, binarize(test, seed=123), test.labels)
    best = args.samples or max(courses, key=lambda name: bound(courses[name]["figures"])[1], default=None)
    for model, _ in pairs_of([best] if best else [], args.results).values():
        figures["hierarchy_samples"] = samples(model)
    store(figures, args.out)


if __name__ == "__main__":
    main()
