"""Figures of single numbers: bounds over training, KL by site."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from zoo.plots.look import CYCLE, GUIDE, plain

__all__ = ["plot_elbo_history", "plot_kl"]


def plot_elbo_history(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, unit: str = "step", skip: float = 0.02
) -> Figure:
    """A figure of bounds over training, one curve for each label.

    Args:
        curves: label -> (steps or epochs, nats per datum). A curve of more than 200 points is drawn pale, with a
            running mean over it.
        unit: name of the horizontal axis.
        skip: share of the first points of each curve that the vertical limits need not hold.
    """
    figure = Figure(figsize=(6.0, 3.6), layout="constrained")
    ax = figure.add_subplot()
    shown = []
    for number, (label, curve) in enumerate(curves.items()):
        colour = CYCLE[number % len(CYCLE)]
        steps, values = (np.asarray(part, dtype=float) for part in curve)
        if len(values) > 200:
            # Bounds of single batches scatter by more than a training gains late; their running mean shows the gain.
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
        # A training rises from hundreds of nats below: with these points in the limits, the rest would be a flat line.
        bottom, top = np.quantile(flat, 0.01), flat.max()
        margin = 0.06 * max(top - bottom, 1e-6)
        ax.set_ylim(bottom - margin, top + margin)
    ax.set(xlabel=unit, ylabel="nats per datum")
    plain(ax)
    ax.legend(frameon=False, fontsize=9, loc="lower right")
    return figure


def plot_kl(kl: Mapping[str, Tensor | float], *, title: str | None = None) -> Figure:
    """KL by site as bars, in nats per datum.

    Args:
        kl: site -> `(batch,)` as from `kl_per_site`, or its mean.
        title: above the bars.
    """
    figure = Figure(figsize=(4.8, 0.5 + 0.34 * max(len(kl), 2)), layout="constrained")
    ax = figure.add_subplot()
    values = [float(torch.as_tensor(value).double().mean()) for value in kl.values()]
    bars = ax.barh(list(kl), values, color=GUIDE, height=0.7)
    ax.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
    # matplotlib counts upwards; the first site stands above the others, as in a table.
    ax.invert_yaxis()
    ax.margins(x=0.14)
    ax.set(xlabel="KL, nats per datum", title=title)
    plain(ax)
    return figure
