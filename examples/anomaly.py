"""Anomaly detection by a hierarchy: images that its upper levels do not explain.

L^{>k} is the bound of a guide whose levels 1..k come from the model: x has to be explained by the levels above k alone.
BIVA's authors find strange images by a small L^{>k}, Havtorn et al. by a large L - L^{>k}; plain log p(x) is known to
be high for some of them. The table holds the area under the ROC curve of each score, 0.5 being chance: the share of
pairs of a strange and a familiar test image in which the score orders them rightly. The picture has the histograms.

    python examples/anomaly.py
    python examples/anomaly.py --data mnist --trained '~/.cache/pyro-latent-zoo/runs/mnist-5-top-down'
"""

import time
from functools import partial
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
from zoo.parts.conditionals import Bernoulli
from zoo.plots.look import CYCLE, plain

WIDTHS = ((64, 64), (32, 32), (16, 16))
Bounds = dict[str, Tensor]


def short_training(data: str, epochs: int, seed: int) -> tuple[Any, Any]:
    """A pair of three levels, trained on bits for a minute or so."""
    train = load(NAMES[data]).train
    likelihood = partial(Bernoulli, mean=train.images.mean(0))
    downwards = tuple(widths[::-1] for widths in WIDTHS)
    model = Hierarchical(train.images.shape[1], (8, 4, 2), downwards, likelihood=likelihood)
    guide = guides.TopDown(model, hidden=WIDTHS)
    # Free bits keep the upper levels open: a level that carries nothing explains nothing.
    loss = Tempered(ELBO(), free_bits=1.0)(model, guide)
    fit(loss, Binarized(train), epochs=epochs, batch_size=64, seed=seed, progress=False)
    return model, guide


def bounds_of(model: Any, guide: Any, x: Tensor, num_particles: int, seed: int) -> Bounds:
    """Name -> its values for the rows of x: log p(x), L, and for each k L^{>k} and L - L^{>k}."""
    found = log_likelihood(model, guide, x, num_particles=num_particles, seed=seed)
    upper = {}
    for k in range(1, len(model.layers)):
        below = guides.PriorBelow(guide, k)
        upper[k] = log_likelihood(model, below, x, num_particles=num_particles, seed=seed).elbo
    differences = {f"L - L>{k}": found.elbo - bound for k, bound in upper.items()}
    return {"log p": found.per_datum, "L": found.elbo} | {f"L>{k}": v for k, v in upper.items()} | differences


def areas(familiar: Bounds, strange: Bounds) -> dict[str, float]:
    """The area under the ROC curve of each score; a bound is a score by its negative."""
    labels = [0] * len(familiar["L"]) + [1] * len(strange["L"])
    return {
        name: roc_auc_score(labels, torch.cat([values, strange[name]]) * (1 if " - " in name else -1))
        for name, values in familiar.items()
    }


def histograms(found: dict[str, Bounds]) -> Figure:
    """A panel for each bound: L^{>k} in the upper row, L - L^{>k} in the lower, the familiar set filled."""
    names = [name for name in next(iter(found.values())) if name != "log p"]
    columns = (len(names) + 1) // 2
    figure = Figure(figsize=(2.5 * columns, 4.2), layout="constrained")
    axes = figure.subplots(2, columns, squeeze=False).T.flatten()
    # The lower left corner, L - L, has no panel: the legend stands there.
    order = [names[0], None, *(name for pair in zip(names[1:columns], names[columns:], strict=True) for name in pair)]
    for ax, name in zip(axes, order, strict=True):
        if name is None:
            ax.set_axis_off()
            ax.legend(*axes[0].get_legend_handles_labels(), loc="center", frameon=False, fontsize=8)
            continue
        pooled = torch.cat([bounds[name] for bounds in found.values()])
        # A few images lie far out, and would press all others into one bar.
        low, high = pooled.quantile(0.01).item(), pooled.quantile(0.99).item()
        for number, (label, bounds) in enumerate(found.items()):
            style = {"histtype": "stepfilled", "alpha": 0.35} if number == 0 else {"histtype": "step", "linewidth": 1.3}
            values = bounds[name].clamp(low, high).numpy()
            ax.hist(values, bins=40, range=(low, high), density=True, color=CYCLE[number], label=label, **style)
        ax.set(title=name, yticks=[])
        plain(ax)
    figure.supxlabel("nats per image", fontsize=9)
    return figure


def main(
    *, data: Literal["digits", "mnist", "notmnist", "cifar10"] = "digits", trained: Path | None = None,
    name: str | None = None, epochs: int = 60, num_images: int = 500, num_particles: int = 50, seed: int = 0,
    out: Path = Path("runs/anomaly"), note: str = "",
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
    width = max(map(len, found))
    print(f"{'trained on ' + familiar:{width}}", *(f"{score:>9}" for score in found[familiar]))
    for label, row in auroc.items():
        print(f"{label:{width}}", *(f"{area:9.3f}" for area in row.values()))
    save(histograms(found), out / f"{name or 'anomaly'}.png")
    if name is not None:
        values = {
            "anomaly": familiar, "pair": f"{type(model).__name__} + {type(guide).__name__}",
            "trained": trained.name if trained else f"here, {epochs} epochs", "num_particles": num_particles,
            "num_images": {label: len(x) for label, x in images.items()}, "auroc": auroc,
        }  # fmt: skip
        record(name, values, seed=seed, device="cpu", threads=1, note=note, began=began)


if __name__ == "__main__":
    tyro.cli(main)
