"""Figures of single numbers: bounds over training, KL by site and over training."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from zoo.infer.training.fit import Fit
from zoo.plots.look import GUIDE, plain, styles

__all__ = ["plot_elbo_history", "plot_kl", "plot_kl_history"]

# Nats per datum; a site that carries less is shut, and how shut it is would fill the axis.
SHUT = 1e-2


def plot_elbo_history(
    curves: Fit | Mapping[str, Fit | tuple[Sequence[float], Sequence[float]]],
    *,
    unit: str | None = None,
    skip: float = 0.02,
) -> Figure:
    """A figure of bounds over training, one curve for each label.

    Args:
        curves: label -> (steps or epochs, nats per datum), or the result of `fit`, whose losses with the sign turned
            are bounds by epoch: of the training and, where there were such data, of the validation. A result alone
            needs no label. A curve of more than 200 points is drawn pale, with a running mean over it.
        unit: name of the horizontal axis; None: "epoch" of results of `fit`, "step" of others.
        skip: share of the first points of each curve that the vertical limits need not hold.
    """
    figure = Figure(figsize=(6.0, 3.6), layout="constrained")
    ax = figure.add_subplot()
    shown = []
    given = {"": curves} if isinstance(curves, Fit) else curves
    if unit is None:
        unit = "epoch" if any(isinstance(one, Fit) for one in given.values()) else "step"
    for (label, curve), (colour, style) in zip(_expanded(given).items(), styles(), strict=False):
        steps, values = (np.asarray(part, dtype=float) for part in curve)
        if len(values) > 200:
            # Bounds of single batches scatter by more than a training gains late; their running mean shows the gain.
            width = len(values) // 50
            ax.plot(steps, values, color=colour, linestyle=style, alpha=0.25, linewidth=0.6)
            smooth = np.convolve(values, np.ones(width) / width, mode="valid")
            ax.plot(steps[width - 1 :], smooth, color=colour, linestyle=style, linewidth=1.6, label=label)
        else:
            marker = "." if len(values) < 30 else ""
            ax.plot(steps, values, color=colour, linestyle=style, linewidth=1.6, label=label, marker=marker)
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


def _expanded(
    curves: Mapping[str, Fit | tuple[Sequence[float], Sequence[float]]],
) -> dict[str, tuple[Sequence[float], Sequence[float]]]:
    """The curves, those of a result of `fit` under names of their own."""
    found: dict[str, tuple[Sequence[float], Sequence[float]]] = {}
    for label, curve in curves.items():
        if not isinstance(curve, Fit):
            found[label] = curve
            continue
        for part, name in (("train", "training"), ("validation", "validation")):
            points = [(record["epoch"], -record[part]) for record in curve.history if record.get(part) is not None]
            if points:
                epochs, values = zip(*points, strict=True)
                found[f"{label}, {name}" if label else name] = epochs, values
    return found


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


def plot_kl_history(histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """KL of each site over a training, in nats per datum on a logarithmic axis: which levels of a hierarchy open, when.

    References: Sonderby et al. 2016, figure 4; Maaloe et al. 2019, figure 2 (both of units, on a logarithmic scale).

    Args:
        histories: label of a panel -> `Fit.history`, or other records with `epoch` and `kl`, site -> nats per datum.
            Values below 0.01 are drawn there. Of more than 100 epochs the lines are running means.

    Example:
        >>> from zoo.plots import plot_kl_history
        >>> history = [{"epoch": n, "kl": {"z_1": 9.0, "z_2": 0.1 * n}} for n in range(1, 4)]
        >>> [line.get_label() for line in plot_kl_history({"two levels": history}).axes[0].lines]
        ['z_2', 'z_1']
    """
    columns = min(len(histories), 3)
    lines = -(-len(histories) // columns)
    figure = Figure(figsize=(3.3 * columns + 0.3, 2.7 * lines + 0.2), layout="constrained")
    panels = figure.subplots(lines, columns, sharey=True, squeeze=False)
    for ax in panels.flat[len(histories) :]:
        ax.set_axis_off()
    for ax, (label, history) in zip(panels.flat, histories.items(), strict=False):
        # The top of a hierarchy stands first in the legend, as it does in a drawing of the model.
        sites = sorted({site for record in history for site in record["kl"]}, key=_numbered, reverse=True)
        for number, site in enumerate(sites):
            epochs, values = np.array([(r["epoch"], r["kl"][site]) for r in history if site in r["kl"]], dtype=float).T
            # The history's KL is of one draw and one batch: over a long training its noise hides its course.
            width = max(1, len(values) // 50) if len(values) > 100 else 1
            smooth = np.convolve(values, np.ones(width) / width, mode="valid").clip(min=SHUT)
            # Shades, not the cycle's colours: sites of a hierarchy have an order.
            shade = matplotlib.colormaps["viridis"](0.9 * number / max(len(sites) - 1, 1))
            ax.plot(epochs[width - 1 :], smooth, color=shade, linewidth=1.4, label=site)
        ax.set(yscale="log", xlabel="epoch", title=label)
        plain(ax)
        ax.title.set_size(9)
        if sites:
            # Beside the panel: the lines of a deep hierarchy leave no corner free.
            ax.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5), handlelength=1)
    figure.supylabel("KL, nats per datum", fontsize=10)
    return figure


def _numbered(site: str) -> list[str]:
    # z_10 after z_9, and not after z_1
    return [part.zfill(3) for part in site.split("_")]
