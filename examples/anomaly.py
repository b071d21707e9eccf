"""Anomaly detection by any model with a likelihood: images that are strange to it, told from familiar ones.

log p(x) is high for some strange images, plain ones above all. log p + C sets it against the length C of a lossless
code (Serra et al. 2020: here the shorter of zlib's and PNG's). Of hierarchies L^{>k} is the bound of a guide whose
levels 1..k come from the model: x has to be explained by the levels above k alone. BIVA finds strange images by a small
L^{>k}, Havtorn et al. 2021 by a large L - L^{>k}. The tables have the area under the ROC curve of each score, the share
of pairs of a strange and a familiar image that it orders rightly, and its average precision; the picture has the
histograms.

    python examples/anomaly.py
    python examples/anomaly.py --model vae --data notmnist
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
from scores import judged, scores_of
from strange import NAMES, images_of, shape_of
from torch import Tensor

import guides
from zoo import VAE, Hierarchical, load_pair
from zoo.data import Binarized, load
from zoo.infer import ELBO, Tempered, fit
from zoo.plots.look import plain, styles


def short_training(data: str, name: str, epochs: int, seed: int) -> tuple[Any, Any]:
    """A hierarchy of three levels, or a VAE, trained on bits for a minute or so."""
    train = load(NAMES[data]).train
    if name == "vae":
        model: Any = VAE(train.levels.shape[1], 16, hidden=(64,))
        loss = ELBO()(model, guides.Amortized(model, hidden=(64,)))
    else:
        model = Hierarchical(train.levels.shape[1], (8, 4, 2), ((64,), (32,), (16,)))
        # Free bits keep the upper levels open: a level that carries nothing explains nothing.
        loss = Tempered(ELBO(), free_bits=1.0)(model, guides.TopDown(model, hidden=((64,), (32,), (16,))))
    fit(loss, Binarized(train), epochs=epochs, batch_size=64, seed=seed, progress=False)
    return loss.model, loss.guide


def histograms(found: dict[str, dict[str, Tensor]]) -> Figure:
    """Panels of L and L^{>k}, below them of log p + C and L - L^{>k}; the familiar set, the first, is filled."""
    scores = [*next(iter(found.values()))]
    bounds = [name for name in scores if name[0] == "L" and " - " not in name]
    below = ["log p + C", *(name for name in scores if " - " in name)]
    figure = Figure(figsize=(max(2.3 * len(bounds), 5.0), 4.4), layout="constrained")
    axes = figure.subplots(2, len(bounds), squeeze=False)
    for ax, name in zip(axes.flat, bounds + below, strict=True):
        # Strange images may lie thousands of nats out: they stand in the outermost bars, whose tops are cut.
        low, high = next(iter(found.values()))[name].quantile(torch.tensor([0.05, 0.95]).double()).tolist()
        window = (3 * low - 2 * high, 3 * high - 2 * low)
        for number, ((label, values), (colour, dashes)) in enumerate(zip(found.items(), styles(), strict=False)):
            style: Any = {"histtype": "step", "linewidth": 1.3} if number else {"histtype": "stepfilled", "alpha": 0.35}
            style |= {"color": colour, "linestyle": dashes, "label": label}
            ax.hist(values[name].clamp(*window), bins=30, range=window, density=True, **style)
        ax.set(title=name, yticks=[], ylim=(0, 1.8 * ax.patches[0].get_xy()[:, 1].max()))
        ax.locator_params(axis="x", nbins=4)
        plain(ax)
    shown = axes[0, 0].get_legend_handles_labels()
    figure.legend(*shown, loc="outside upper center", ncols=4, frameon=False, fontsize=7)
    figure.supxlabel("nats per image", fontsize=9)
    return figure


def main(
    *, data: Literal["digits", "mnist", "notmnist", "cifar10"] = "digits", trained: Path | None = None,
    model: Literal["hierarchy", "vae"] = "hierarchy", name: str | None = None, epochs: int = 60, num_images: int = 500,
    num_particles: int = 50, seed: int = 0, out: Path = Path("runs/anomaly"),
) -> None:  # fmt: skip
    """Scores the familiar and the strange images, prints the tables, draws the histograms.

    Args:
        trained: the folder of a pair trained on `data`, any whose log p(x) can be estimated; None trains a small one
            here, of bits alone.
        model: of the small one.
        name: of the row results/NAME.json; None writes none.
    """
    torch.set_num_threads(1)
    pyro.set_rng_seed(seed)
    began = time.time()
    if trained is None and data == "cifar10":
        raise SystemExit("cifar10: --trained FOLDER, of python tools/runs.py --run --only cifar10-maps-skip")
    pair = short_training(data, model, epochs, seed) if trained is None else load_pair(trained.expanduser())
    images = images_of(data, num_images)
    found = {label: scores_of(*pair, x, shape_of(data), num_particles, seed) for label, x in images.items()}
    measures = judged(found)
    for measure, table in measures.items():
        print(f"{measure + ', trained on ' + data:38}", *(f"{score:>9}" for score in found[data]))
        for label, row in table.items():
            print(f"{label:38}", *(f"{number:9.3f}" for number in row.values()))
    save(histograms(found), out / f"{name or 'anomaly'}.png")
    if name is not None:
        values = {"anomaly": data, "pair": " + ".join(type(half).__name__ for half in pair)}
        values |= {"trained": trained.name if trained else "here", **measures, "num_particles": num_particles}
        values["num_images"] = {label: len(x) for label, x in images.items()}
        record(name, values, seed=seed, device="cpu", threads=1, note="", began=began)


if __name__ == "__main__":
    tyro.cli(main)
