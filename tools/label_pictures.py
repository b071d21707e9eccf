"""Pictures of MNIST with 100 labels for docs/results.md, from the rows' records and trained pairs.

    python tools/label_pictures.py
    python tools/label_pictures.py --digits 0 5 9

Rows that are not done, or whose folder is not here, are left out.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from cells import RESULTS, ROOT
from hierarchy_pictures import store
from label_tables import BASELINE, by_system, classifiers
from matplotlib.figure import Figure
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from rows.pictures import mnist
from rows.place import cache
from torch import Tensor

from zoo import load_pair
from zoo.data import Split
from zoo.infer import plot_reconstructions
from zoo.parts.aside import aside

#: test images whose style is shown, by their place: a thin slanting seven, an upright two, a broad zero
DIGITS = (0, 1, 3)


def style_site(model: Any) -> str:
    """The latent that the class is independent of: z, or z_2 where z_1 is drawn from the class."""
    return "z_2" if hasattr(model, "m2") else "z"


class Means(Messenger):
    """A handler that gives every site that has no value yet the mean of its density."""

    def _pyro_sample(self, message: dict[str, Any]) -> None:
        # a plate is a site too, and has no mean
        if message["value"] is None and not site_is_subsample(message):
            message["value"], message["done"] = message["fn"].mean, True


def analogies(model: Any, guide: Any, x: Tensor, y: Tensor) -> Tensor:
    """The mean image of each class with the style of each x: `(N, C, data_dim)`.

    The style is the guide's mean of z given x and its class; what stands between z and x is at its mean, too.
    """
    site, classes = style_site(model), torch.arange(model.num_classes)
    with aside(guide), aside(model), torch.no_grad(), Means():
        style = poutine.trace(guide.forward).get_trace(x, y).nodes[site]["value"]
        given = {"y": classes.repeat(len(x)), site: style.repeat_interleave(len(classes), 0)}
        program = poutine.condition(poutine.uncondition(model.forward), given)
        images = poutine.trace(program).get_trace(x.new_zeros(len(given["y"]), model.data_dim)).nodes["x"]["value"]
    return images.unflatten(0, (len(x), len(classes)))


def analogy_rows(name: str, model: Any, guide: Any, images: Split) -> dict[str, Tensor]:
    """A row of pictures for each image: the image, and its analogies."""
    found = analogies(model, guide, images.images, images.labels)
    return {
        f"{name}, a {label}": torch.cat([image[None], row])
        for image, label, row in zip(images.images, images.labels.tolist(), found, strict=True)
    }


def best_draws(systems: Mapping[str, list[dict[str, Any]]]) -> dict[str, str]:
    """System in a word -> its row of the smallest validation error, of those whose folder is here."""
    found = {}
    for system, rows in systems.items():
        here = [row for row in rows if (cache() / row["name"] / "config.json").exists()]
        if here:
            best = min(here, key=lambda row: row["figures"]["valid_error"])
            found[system.rpartition("-")[2].upper()] = best["name"]
    return found


def errors(systems: Mapping[str, list[dict[str, Any]]], baseline: Sequence[float] | None) -> Figure:
    """The validation error of every draw over CPU minutes, a colour for each system."""
    figure = Figure(figsize=(6.0, 3.6), layout="constrained")
    ax = figure.add_subplot()
    for number, (system, rows) in enumerate(systems.items()):
        for draw, row in enumerate(rows):
            minutes = [look["cpu_minutes"] for look in row["looks"]]
            shares = [100 * look["valid_error"] for look in row["looks"]]
            # one entry of the legend for the draws of a system
            label = None if draw else system.rpartition("-")[2].upper()
            ax.plot(minutes, shares, color=f"C{number}", linewidth=1.1, label=label)
    if baseline is not None:
        ax.axhline(100 * sum(baseline) / len(baseline), color="0.4", linestyle="--", label=BASELINE)
    ax.set(xlabel="CPU minutes", ylabel="validation error, %", yscale="log")
    # by itself a logarithmic axis writes 3 x 10^0
    bottom, top = ax.get_ylim()
    ticks = [tick for tick in (1, 2, 3, 5, 10, 20, 30, 50, 90) if bottom <= tick <= top]
    ax.set_yticks(ticks, [str(tick) for tick in ticks])
    ax.minorticks_off()
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=8)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "pictures", metavar="FOLDER")
    parser.add_argument("--digits", type=int, nargs="+", default=DIGITS, help="places of test images", metavar="PLACE")
    args = parser.parse_args()
    figures, systems = {}, by_system(args.results)
    if systems:
        figures["label_errors"] = errors(systems, classifiers(args.results)[0].get(BASELINE))
    if best := best_draws(systems):
        images = mnist()[1][torch.tensor(args.digits)]
        rows = [analogy_rows(word, *load_pair(cache() / name), images) for word, name in best.items()]
        figures["label_analogies"] = plot_reconstructions({k: v for part in rows for k, v in part.items()}, (28, 28))
    store(figures, args.out)


if __name__ == "__main__":
    main()
