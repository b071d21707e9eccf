"""Draws of a pair that ships: new data, and their picture beside the rows that the pair is scored on."""

import inspect
from collections.abc import Mapping
from typing import Any

import pyro
import torch
from matplotlib.figure import Figure
from torch import Tensor

from zoo.parts.aside import held, seeded
from zoo.plots.images import plot_reconstructions
from zoo.plots.look import DRAWS, GUIDE, array, plain


def drawn(model: Any, arguments: Mapping[str, Tensor], num: int, seed: int) -> Tensor:
    """New data of the model, `(num, ...)` or as many as there are rows if they are fewer.

    A model of sequences goes on from its own x, by `generate`; all others are the program without its data.
    """
    some = {name: value[:num] for name, value in arguments.items()}
    x = some.pop("x")
    steps = hasattr(model, "generate") and "T" in inspect.signature(model.generate).parameters
    with torch.no_grad(), held(model), seeded(seed):
        if steps:
            # without the mask, which says where frames of the data are missing
            controls = {"u": some["u"]} if "u" in some else {}
            return model.generate(len(x), x.shape[1], **controls)[1]
        trace = pyro.poutine.trace(pyro.poutine.uncondition(model)).get_trace(x, **some)
        return trace.nodes["x"]["value"]


def plot_beside(x: Tensor, new: Tensor, shape: tuple[int, int] | None = None) -> Figure:
    """Rows of data beside draws: images, series over time, or a scatter of the first two coordinates.

    Args:
        x, new: `(N, D)`, or `(N, T, D)`, of which the first coordinate is shown.
        shape: `(height, width)` of a row, or of a frame: the first, middle and last frame are shown.
    """
    if shape is not None and x.dim() == 3:
        x, new = (part[:4, [0, part.shape[1] // 2, -1]].flatten(0, 1) for part in (x, new))
    if shape is not None:
        return plot_reconstructions({"data": x[:12], "draws": new[:12]}, shape)
    figure = Figure(figsize=(6.0, 3.2), layout="constrained")
    ax = figure.add_subplot()
    for label, part, colour in (("data", x, DRAWS), ("draws", new, GUIDE)):
        if x.dim() == 3:
            lines = ax.plot(array(part[:5, :, 0]).T, color=colour, linewidth=0.9)
            lines[0].set_label(label)
            ax.set_xlabel("frame", fontsize=9)
        else:
            ax.plot(*array(part[:, :2]).T, "o", color=colour, markersize=3, alpha=0.6, label=label)
    ax.legend(frameon=False, fontsize=8)
    plain(ax)
    return figure
