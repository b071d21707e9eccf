"""Draws of a pair that ships: new data and reconstructions, beside the rows that the pair is scored on."""

import inspect
from collections.abc import Mapping
from typing import Any

import pyro
import torch
from matplotlib.figure import Figure
from torch import Tensor

from zoo.parts.aside import held, seeded
from zoo.plots.images import plot_reconstructions
from zoo.plots.look import DRAWS, EXACT, GUIDE, array, plain


def new_data(model: Any, arguments: Mapping[str, Tensor], num: int, seed: int) -> Tensor:
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


def reconstructed(model: Any, guide: Any, arguments: Mapping[str, Tensor], num: int, seed: int) -> Tensor | None:
    """E[x | z] of one draw of z given x for each of the first `num` rows; None of a pair without latents."""
    some = {name: value[:num] for name, value in arguments.items()}
    with torch.no_grad(), held(model, guide), seeded(seed):
        latents = pyro.poutine.trace(guide).get_trace(**some)
        if not latents.stochastic_nodes:
            return None
        node = pyro.poutine.trace(pyro.poutine.replay(model, latents)).get_trace(**some).nodes["x"]
        try:
            return node["fn"].mean
        except NotImplementedError:
            # a density without a mean in closed form
            return node["fn"].sample()


def plot_beside(parts: Mapping[str, Tensor], shape: tuple[int, int] | None = None) -> Figure:
    """Data, reconstructions, draws beside each other: images, series over time, or points of two coordinates.

    Args:
        parts: label -> `(N, D)`, or `(N, T, D)`, of which the first coordinate is shown; the data first.
        shape: `(height, width)` of a row, or of a frame: the first, middle and last frame are shown.
    """
    if shape is not None:
        return plot_reconstructions({label: _images(part) for label, part in parts.items()}, shape)
    figure = Figure(figsize=(6.0, 3.2), layout="constrained")
    ax = figure.add_subplot()
    # draws of the model have one colour, reconstructed data beside them or not
    colours = (DRAWS, GUIDE) if len(parts) == 2 else (DRAWS, EXACT, GUIDE)
    for (label, part), colour in zip(parts.items(), colours, strict=True):
        if part.dim() == 3:
            lines = ax.plot(array(part[:5, :, 0]).T, color=colour, linewidth=0.9)
            lines[0].set_label(label)
            ax.set_xlabel("frame", fontsize=9)
        else:
            ax.plot(*array(part[:, :2]).T, "o", color=colour, markersize=3, alpha=0.6, label=label)
    ax.legend(frameon=False, fontsize=8)
    plain(ax)
    return figure


def _images(part: Tensor) -> Tensor:
    """The first dozen images, of sequences three frames of each of the first four."""
    return part[:4, [0, part.shape[1] // 2, -1]].flatten(0, 1) if part.dim() == 3 else part[:12]
