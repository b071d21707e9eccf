"""Figures of checks: ranks over simulated data, coverage of credible regions, statistics of replicated data."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from zoo.infer.calibration.calibration import DISTANCE, Calibration
from zoo.infer.reference.inference_data import InferenceData
from zoo.plots.look import DRAWS, EXACT, GUIDE, plain, styles

__all__ = ["plot_coverage", "plot_predictive", "plot_ranks"]


def plot_ranks(
    calibrations: Calibration | Mapping[str, Calibration],
    *,
    level: float = 0.01,
    names: Sequence[str] | None = None,
    columns: int = 4,
) -> Figure:
    """Cumulative distribution of the ranks minus the diagonal, a panel for each quantity, with its simultaneous band.

    Uniform ranks of all quantities stay within their bands with probability 1 - level. Above the band at small ranks
    and below it at large ones, a guide is too narrow; the other way round it is too wide; above or below it
    throughout, the guide's draws are too large or too small.

    References: Saeilynoja, Buerkner and Vehtari 2022.

    Args:
        calibrations: result of `simulation_based_calibration`; or label of a curve -> result, of the same number of
            data and draws.
        level: of the verdict over all quantities, those that are not shown too.
        names: quantities to show; None: all of the first result.
        columns: panels in a row.

    Raises:
        ValueError: no results, or of different numbers of data or draws; a quantity that was not ranked, or none; a
            level that is not between 0 and 1.
    """
    several = {"": calibrations} if isinstance(calibrations, Calibration) else dict(calibrations)
    if len({(len(one.ranks), one.num_draws, len(one.names)) for one in several.values()}) != 1:
        raise ValueError("plot_ranks: expected results of the same numbers of data, draws and quantities, at least one")
    first = next(iter(several.values()))
    chosen = list(first.names if names is None else names)
    strange = [name for one in several.values() for name in chosen if name not in one.names]
    if strange or not chosen:
        raise ValueError(f"plot_ranks: names: expected some of {[*first.names]}, got {strange or chosen}")
    law = first.law
    first.passes(level)  # checks the level
    low, high = law.band(level / len(first.names))
    columns = min(columns, len(chosen))
    lines = math.ceil(len(chosen) / columns)
    figure = Figure(figsize=(2.5 * columns + 0.4, 2.3 * lines + 0.3 * (len(several) > 1)), layout="constrained")
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    for ax in panels.flat[len(chosen) :]:
        ax.set_axis_off()
    for ax, name in zip(panels.flat, chosen, strict=False):
        _band(ax, law.shares, low / law.num_data - law.shares, high / law.num_data - law.shares)
        for (label, one), (colour, style) in zip(several.items(), styles(GUIDE), strict=False):
            counts = law.counts(one.ranks[:, [one.names.index(name)]].numpy())[:, 0]
            curve = counts / law.num_data - law.shares
            ax.plot(
                np.r_[0, law.shares, 1], np.r_[0, curve, 0], color=colour, linestyle=style, linewidth=1.3, label=label
            )
        ax.axhline(0, color=EXACT, linewidth=0.6)
        worst = min(one.p_values[one.names.index(name)].item() for one in several.values())
        verdict = "passes" if worst > level / len(first.names) else "fails"
        ax.set_title(name if len(several) > 1 else f"{name}: {verdict}, p = {worst:.2g}", fontsize=9)
        plain(ax)
    if len(several) > 1:
        handles, labels = panels.flat[0].get_legend_handles_labels()
        verdicts = [f"{label}: {'passes' if several[label].passes(level) else 'fails'}" for label in labels]
        figure.legend(handles, verdicts, loc="outside upper center", ncols=4, frameon=False, fontsize=8)
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
    ax.plot(np.r_[0, law.shares, 1], np.r_[0, found, 1], color=GUIDE, linewidth=1.3)
    verdict = "fails" if calibration.p_values[place] <= level else "passes"
    ax.set_title(f"coverage {verdict}, p = {calibration.p_values[place]:.2g}", fontsize=9)
    ax.set(xlabel="credibility", ylabel="share of data inside", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    plain(ax)
    return figure


STATISTICS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda x: x.mean(-1),
    "standard deviation": lambda x: x.std(-1),
    "least": lambda x: x.amin(-1),
    "largest": lambda x: x.amax(-1),
}


def plot_predictive(
    draws: InferenceData,
    *,
    site: str = "x",
    statistics: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
) -> Figure:
    """Statistics of replicated data as histograms, a panel for each, with that of the observed data as a line.

    A model whose replicated data never have the observed statistic misses it. The number above a panel is the share of
    replicated statistics that are as large as the observed one or larger.

    References: Gelman, Meng and Stern 1996.

    Args:
        draws: result of `posterior_draws`, or another container with `posterior_predictive` and `observed_data`.
        site: the observed site.
        statistics: name -> function of data `(..., N, *event)` that keeps the leading axes, where entries that were
            not observed are NaN; None: mean, standard deviation, least and largest of all observed entries.

    Raises:
        ValueError: a container without replicated or observed data of the site, or with none observed; a statistic of
            another shape or NaN.
    """
    try:
        replicated, observed = (
            torch.as_tensor(draws[group][site].values.copy()).double()
            for group in ("posterior_predictive", "observed_data")
        )
    except KeyError as error:
        raise ValueError(f"plot_predictive: the container has no replicated and observed data of {site!r}") from error
    # replicates have values where nothing was observed, which are none of the statistics' business
    seen = ~observed.isnan()
    if not seen.any():
        raise ValueError(f"plot_predictive: no entry of {site!r} was observed")
    if statistics is None:
        chosen, replicated, observed = STATISTICS, replicated[..., seen], observed[seen]
    else:
        chosen, replicated = statistics, replicated.masked_fill(~seen, torch.nan)
    figure = Figure(figsize=(2.3 * len(chosen) + 0.3, 2.3), layout="constrained")
    panels = figure.subplots(1, len(chosen), squeeze=False)[0]
    for ax, (name, statistic) in zip(panels, chosen.items(), strict=True):
        many, one = statistic(replicated), statistic(observed)
        if many.shape != replicated.shape[:2] or one.dim():
            raise ValueError(
                f"plot_predictive: statistics: {name!r}: expected shape {tuple(replicated.shape[:2])} of data "
                f"{tuple(replicated.shape)}, got {tuple(many.shape)}"
            )
        if one.isnan() or many.isnan().any():
            raise ValueError(f"plot_predictive: statistics: {name!r}: NaN; entries that were not observed are NaN, "
                             "which torch.nanmean and its like leave out")  # fmt: skip
        ax.hist(many.flatten().numpy(), bins=30, color=GUIDE, alpha=0.5)
        ax.axvline(one.item(), color=DRAWS, linewidth=1.6)
        ax.set_title(f"{name}: {(many >= one).double().mean():.2f}", fontsize=9)
        ax.set(yticks=[])
        ax.locator_params(axis="x", nbins=4)
        plain(ax)
    panels[0].set_ylabel("replicated data", fontsize=9)
    return figure


def _band(ax: Axes, shares: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
    """Fills the band between its edges."""
    ax.fill_between(shares, low, high, color=EXACT, alpha=0.2, linewidth=0)
