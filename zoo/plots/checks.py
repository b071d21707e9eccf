"""Figures of checks of a posterior: ranks over simulated data, and coverage of credible regions."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from zoo.infer.calibration.calibration import DISTANCE, Calibration
from zoo.plots.look import EXACT, GUIDE, plain

__all__ = ["plot_coverage", "plot_ranks"]


def plot_ranks(
    calibration: Calibration, *, level: float = 0.01, names: Sequence[str] | None = None, columns: int = 4
) -> Figure:
    """Cumulative distribution of the ranks minus the diagonal, a panel for each quantity, with its simultaneous band.

    Uniform ranks of all quantities stay within their bands with probability 1 - level. Above the band at small ranks
    and below it at large ones, a guide is too narrow; the other way round it is too wide; above or below it
    throughout, the guide's draws are too large or too small.

    References: Saeilynoja, Buerkner and Vehtari 2022.

    Args:
        calibration: result of `simulation_based_calibration`.
        level: of the verdict over all quantities, those that are not shown too.
        names: quantities to show; None: all.
        columns: panels in a row.

    Raises:
        ValueError: a quantity that was not ranked, or none; a level that is not between 0 and 1.
    """
    chosen = list(calibration.names if names is None else names)
    strange = [name for name in chosen if name not in calibration.names]
    if strange or not chosen:
        raise ValueError(f"plot_ranks: names: expected some of {[*calibration.names]}, got {strange or chosen}")
    failing = calibration.failing(level)
    law = calibration.law
    low, high = law.band(level / len(calibration.names))
    found = law.counts(calibration.ranks.numpy())
    columns = min(columns, len(chosen))
    lines = math.ceil(len(chosen) / columns)
    figure = Figure(figsize=(2.5 * columns + 0.4, 2.3 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    for ax in panels.flat[len(chosen) :]:
        ax.set_axis_off()
    for ax, name in zip(panels.flat, chosen, strict=False):
        place = calibration.names.index(name)
        _band(ax, law.shares, low / law.num_data - law.shares, high / law.num_data - law.shares)
        curve = found[:, place] / law.num_data - law.shares
        ax.plot([0, *law.shares, 1], [0, *curve, 0], color=GUIDE, linewidth=1.3)
        ax.axhline(0, color=EXACT, linewidth=0.6)
        verdict = "fails" if name in failing else "passes"
        ax.set_title(f"{name}: {verdict}, p = {calibration.p_values[place]:.2g}", fontsize=9)
        plain(ax)
    figure.supxlabel("rank of the true value, as a share", fontsize=9)
    figure.supylabel("share of data below, minus rank", fontsize=9)
    return figure


def plot_coverage(calibration: Calibration, *, level: float = 0.01) -> Figure:
    """Share of data whose true latents lie in a credible region, over the region's credibility, with its band.

    The regions are balls around random points, as TARP has them, which hold the given mass of the guide. An exact
    guide is on the diagonal, within the band with probability 1 - level.

    References: Lemos, Coogan, Hezaveh and Perreault-Levasseur 2023.

    Args:
        calibration: result of `simulation_based_calibration` for a model with real latents.
        level: probability that an exact guide leaves the band.

    Raises:
        ValueError: a model without real latents, in which there are no distances; a level not between 0 and 1.
    """
    if DISTANCE not in calibration.names:
        raise ValueError("plot_coverage: no distances were ranked, as the model has no real latents")
    calibration.passes(level)  # checks the level
    law, place = calibration.law, calibration.names.index(DISTANCE)
    low, high = law.band(level)
    found = law.counts(calibration.ranks.numpy())[:, place] / law.num_data
    figure = Figure(figsize=(3.6, 3.6), layout="constrained")
    ax = figure.add_subplot()
    _band(ax, law.shares, low / law.num_data, high / law.num_data)
    ax.plot([0, 1], [0, 1], color=EXACT, linewidth=0.6)
    ax.plot([0, *law.shares, 1], [0, *found, 1], color=GUIDE, linewidth=1.3)
    verdict = "fails" if calibration.p_values[place] <= level else "passes"
    ax.set_title(f"coverage {verdict}, p = {calibration.p_values[place]:.2g}", fontsize=9)
    ax.set(xlabel="credibility", ylabel="share of data inside", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    plain(ax)
    return figure


def _band(ax: Axes, shares: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
    """Fills the band between its edges."""
    ax.fill_between(shares, low, high, color=EXACT, alpha=0.2, linewidth=0)
