"""Figures: a guide over its references, training curves, image grids, KL by site. Each returns a matplotlib `Figure`.

Figures are made without pyplot: nothing is shown and nothing stays open; `figure.savefig("overlay.png")` writes one.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from zoo.plots.overlay import EXACT, GUIDE, plot_overlay

__all__ = ["plot_elbo_history", "plot_images", "plot_kl", "plot_overlay", "plot_reconstructions"]

_CYCLE = (EXACT, GUIDE, "#2f8f4e", "#8a4fa3", "#b8860b", "#4a4a4a")


def plot_elbo_history(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, unit: str = "step", skip: float = 0.02
) -> Figure:
    """Bounds over training: label -> (steps or epochs, nats per datum).

    Args:
        curves: each curve is drawn as it is, with a running mean over it where it has more than 200 points.
        unit: name of the horizontal axis.
        skip: share of the first points left out of the vertical limits, where a curve falls from nowhere.
    """
    figure = Figure(figsize=(6.0, 3.6), layout="constrained")
    ax = figure.add_subplot()
    shown = []
    for number, (label, curve) in enumerate(curves.items()):
        colour = _CYCLE[number % len(_CYCLE)]
        steps, values = (np.asarray(part, dtype=float) for part in curve)
        if len(values) > 200:
            width = len(values) // 50
            ax.plot(steps, values, color=colour, alpha=0.25, linewidth=0.6)
            smooth = np.convolve(values, np.ones(width) / width, mode="valid")
            ax.plot(steps[width - 1 :], smooth, color=colour, linewidth=1.6, label=label)
        else:
            ax.plot(steps, values, color=colour, linewidth=1.6, label=label, marker="." if len(values) < 30 else "")
        shown.append(values[int(skip * len(values)) :])
    flat = np.concatenate(shown) if shown else np.zeros(1)
    flat = flat[np.isfinite(flat)]
    if len(flat):
        bottom, top = np.quantile(flat, 0.01), flat.max()
        margin = 0.06 * max(top - bottom, 1e-6)
        ax.set_ylim(bottom - margin, top + margin)
    ax.set(xlabel=unit, ylabel="nats per datum")
    _plain(ax)
    ax.legend(frameon=False, fontsize=9, loc="lower right")
    return figure


def plot_images(images: Tensor, image_shape: tuple[int, int], *, columns: int = 10, title: str | None = None) -> Figure:
    """A grid of grey images `(N, height * width)` with values in [0, 1]."""
    images = images.detach().cpu().reshape(len(images), *image_shape)
    count, (height, width) = math.ceil(len(images) / columns), image_shape
    columns = min(columns, len(images))
    canvas = torch.ones(count * (height + 1) - 1, columns * (width + 1) - 1)
    for n, image in enumerate(images):
        top, left = n // columns * (height + 1), n % columns * (width + 1)
        canvas[top : top + height, left : left + width] = 1 - image.clamp(0, 1)
    size = (0.62 * columns, 0.62 * count * height / width + (0.3 if title else 0))
    figure = Figure(figsize=size, layout="constrained")
    ax = figure.add_subplot()
    ax.imshow(canvas.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set_axis_off()
    if title:
        ax.set_title(title, fontsize=10)
    return figure


def plot_reconstructions(rows: Mapping[str, Tensor], image_shape: tuple[int, int]) -> Figure:
    """Rows of images under each other: label -> `(N, height * width)`, for example data, reconstructions, samples."""
    height, width = image_shape
    count = max(len(images) for images in rows.values())
    figure = Figure(figsize=(1.3 + 0.62 * count, 0.66 * len(rows) * height / width), layout="constrained")
    axes = figure.subplots(len(rows), 1, squeeze=False)[:, 0]
    for ax, (label, images) in zip(axes, rows.items(), strict=True):
        canvas = torch.ones(height, count * (width + 1) - 1)
        for n, image in enumerate(images.detach().cpu().reshape(len(images), height, width)):
            canvas[:, n * (width + 1) : n * (width + 1) + width] = 1 - image.clamp(0, 1)
        ax.imshow(canvas.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
        ax.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
    return figure


def plot_kl(kl: Mapping[str, Tensor | float], *, title: str | None = None) -> Figure:
    """KL by site as bars, in nats per datum: site -> `(batch,)` of `kl_per_site`, or its mean."""
    figure = Figure(figsize=(4.8, 0.5 + 0.34 * max(len(kl), 2)), layout="constrained")
    ax = figure.add_subplot()
    values = [float(torch.as_tensor(value).double().mean()) for value in kl.values()]
    bars = ax.barh(list(kl), values, color=GUIDE, height=0.7)
    ax.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
    ax.invert_yaxis()
    ax.margins(x=0.14)
    ax.set(xlabel="KL, nats per datum", title=title)
    _plain(ax)
    return figure


def _plain(ax: Axes) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=8)
