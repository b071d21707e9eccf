"""Anomaly detection by a hierarchy: images that its upper levels do not explain.

L^{>k} is the bound of a guide whose levels 1..k come from the model: x has to be explained by the levels above k alone.
BIVA finds strange images by a small L^{>k}, Havtorn et al. 2021 by a large L - L^{>k}; log p(x) is high for some. The
table has the area under the ROC curve of each score, the share of pairs of a strange and a familiar image that it
orders rightly; the picture has the histograms.

    python examples/anomaly.py
    python examples/anomaly.py --data mnist --trained '~/.cache/pyro-latent-zoo/runs/mnist-5-top-down'
"""

import time
from pathlib import Path
from typing import Any, Literal

import pyro
import torch
import tyro
from matplotlib.figure import Figure
from record import record
from report import save
from sklearn.metrics import roc_auc_score
from strange import NAMES, images_of
from torch import Tensor

import guides
from zoo import Hierarchical, load_pair
from zoo.data import Binarized, load
from zoo.infer import ELBO, Tempered, fit, log_likelihood
from zoo.plots.look import CYCLE, HIDDEN, plain

COLOURS = (*CYCLE, HIDDEN)


def short_training(data: str, epochs: int, seed: int) -> tuple[Any, Any]:
    """A pair of three levels, trained on bits for a minute or so."""
    train = load(NAMES[data]).train
    model = Hierarchical(train.levels.shape[1], (8, 4, 2), ((64,), (32,), (16,)))
    guide = guides.TopDown(model, hidden=((64,), (32,), (16,)))
    # Free bits keep the upper levels open: a level that carries nothing explains nothing.
    loss = Tempered(ELBO(), free_bits=1.0)(model, guide)
    fit(loss, Binarized(train), epochs=epochs, batch_size=64, seed=seed, progress=False)
    return model, guide


def bounds_of(model: Any, guide: Any, x: Tensor, num_particles: int, seed: int) -> dict[str, Tensor]:
    """Name -> its values for the rows of x: log p(x), L, and for each k L^{>k} and L - L^{>k}."""
    found = log_likelihood(model, guide, x, num_particles=num_particles, seed=seed)
    upper, differences = {}, {}
    for k in range(1, len(model.layers)):
        below = guides.PriorBelow(guide, k)
        upper[f"L>{k}"] = log_likelihood(model, below, x, num_particles=num_particles, seed=seed).elbo
        differences[f"L - L>{k}"] = found.elbo - upper[f"L>{k}"]
    return {"log p": found.per_datum, "L": found.elbo} | upper | differences


def areas(familiar: dict[str, Tensor], strange: dict[str, Tensor]) -> dict[str, float]:
    """The area under the ROC curve of each score; a bound is a score by its negative."""
    labels = [0] * len(familiar["L"]) + [1] * len(strange["L"])
    signs = {name: 1 if " - " in name else -1 for name in familiar}
    return {n: roc_auc_score(labels, sign * torch.cat([familiar[n], strange[n]])) for n, sign in signs.items()}


def histograms(found: dict[str, dict[str, Tensor]]) -> Figure:
    """Panels of L^{>k}, and below them of L - L^{>k}; the familiar set, the first, is filled."""
    names = [name for name in next(iter(found.values())) if name != "log p"]
    columns = (len(names) + 1) // 2
    figure = Figure(figsize=(2.3 * columns, 4.0), layout="constrained")
    axes = figure.subplots(2, columns)
    # L - L^{>0} is 0: the legend stands in its place.
    for ax, name in zip([*axes[0], *axes[1, 1:]], names, strict=True):
        # Strange images may lie thousands of nats out: they stand in the outermost bars, whose tops are cut.
        low, high = next(iter(found.values()))[name].quantile(torch.tensor([0.05, 0.95]).double()).tolist()
        window = (3 * low - 2 * high, 3 * high - 2 * low)
        for number, (label, bounds) in enumerate(found.items()):
            style = {"histtype": "step", "linewidth": 1.3} if number else {"histtype": "stepfilled", "alpha": 0.35}
            values = bounds[name].clamp(*window)
            ax.hist(values, bins=30, range=window, density=True, color=COLOURS[number], label=label, **style)
        ax.set(title=name, yticks=[], ylim=(0, 1.8 * ax.patches[0].get_xy()[:, 1].max()))
        ax.locator_params(axis="x", nbins=4)
        plain(ax)
    axes[1, 0].set_axis_off()
    axes[1, 0].legend(*axes[0, 0].get_legend_handles_labels(), loc="center", frameon=False, fontsize=7)
    figure.supxlabel("nats per image", fontsize=9)
    return figure


def main(
    *, data: Literal["digits", "mnist", "notmnist", "cifar10"] = "digits", trained: Path | None = None,
    name: str | None = None, epochs: int = 60, num_images: int = 500, num_particles: int = 50, seed: int = 0,
    out: Path = Path("runs/anomaly"),
) -> None:  # fmt: skip
    """Scores the familiar and the strange images, prints the table, draws the histograms.

    Args:
        trained: the folder of a pair trained on `data`; None trains a small one here, of bits alone.
        name: of the row results/NAME.json; None writes none.
    """
    torch.set_num_threads(1)
    pyro.set_rng_seed(seed)
    began = time.time()
    if trained is None and data == "cifar10":
        raise SystemExit("cifar10: --trained FOLDER, of python tools/runs.py --run --only cifar10-maps-skip")
    model, guide = short_training(data, epochs, seed) if trained is None else load_pair(trained.expanduser())
    images = images_of(data, num_images)
    found = {label: bounds_of(model, guide, x, num_particles, seed) for label, x in images.items()}
    familiar, *strange = found
    auroc = {label: areas(found[familiar], found[label]) for label in strange}
    print(f"{'trained on ' + familiar:22}", *(f"{score:>9}" for score in found[familiar]))
    print(*(" ".join([f"{label:22}", *(f"{a:9.3f}" for a in row.values())]) for label, row in auroc.items()), sep="\n")
    save(histograms(found), out / f"{name or 'anomaly'}.png")
    if name is not None:
        pair, place = f"{type(model).__name__} + {type(guide).__name__}", trained.name if trained else "here"
        values = {"anomaly": familiar, "pair": pair, "trained": place, "auroc": auroc, "num_particles": num_particles}
        values["num_images"] = {label: len(x) for label, x in images.items()}
        record(name, values, seed=seed, device="cpu", threads=1, note="", began=began)


if __name__ == "__main__":
    tyro.cli(main)
