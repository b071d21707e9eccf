"""Figures of structural models: their components over time, and the residuals of one step ahead."""

from collections.abc import Mapping

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import stats
from torch import Tensor

from zoo.parts.structural import Component
from zoo.plots.bands import Band, draw_band, draw_points
from zoo.plots.look import CYCLE, DRAWS, EXACT, array, plain

__all__ = ["plot_components", "plot_residuals"]


def plot_components(
    components: Mapping[str, Component],
    n: int = 0,
    *,
    observed: Tensor | None = None,
    coordinate: int = 0,
    times: Tensor | None = None,
    mass: float = 0.9,
    time_label: str = "frame",
    label: str = "x",
) -> Figure:
    """The components of one series over time, one panel each, with central intervals; the data above them.

    Args:
        components: result of `LGSSM.components`.
        n: number of the sequence.
        observed: `(N, T, D)`, shown with the first component; NaN is left out.
        coordinate: of x.
        times: `(T,)`; None: numbers of frames.
        mass: probability of the intervals.
        time_label, label: names of the horizontal axis and of x, with units.

    Raises:
        ValueError: no components, an n or a coordinate that is not there, times or data of another length.
    """
    if not components:
        raise ValueError("plot_components: there must be at least one component")
    N, T, size = next(iter(components.values())).mean.shape
    for name, place, count in (("n", n, N), ("coordinate", coordinate, size)):
        if not -count <= place < count:
            raise ValueError(f"plot_components: {name}: there is no {place} of {count}")
    for name, part, shape in (("times", times, (T,)), ("observed", observed, (N, T, size))):
        if part is not None and part.shape != shape:
            raise ValueError(f"plot_components: {name}: expected shape {shape}, got {tuple(part.shape)}")
    times = torch.arange(T) if times is None else times
    figure = Figure(figsize=(7.0, 0.6 + 1.7 * len(components)), layout="constrained")
    panels = figure.subplots(len(components), 1, sharex=True, squeeze=False)[:, 0]
    for number, (ax, (name, found)) in enumerate(zip(panels, components.items(), strict=True)):
        mean, variance = (a[n, :, coordinate] for a in found)
        # rounding may leave a variance of zero a little below it
        band = Band.normal(mean, variance.clamp(min=0.0).sqrt(), mass)
        if number == 0 and observed is not None:
            draw_points(ax, times, observed[n, :, coordinate], markersize=2.5)
        draw_band(ax, times, band, CYCLE[number % len(CYCLE)], name)
        ax.set_ylabel(label if number == 0 else name, fontsize=9)
        ax.legend(frameon=False, fontsize=8, loc="upper left")
        plain(ax)
    panels[-1].set_xlabel(time_label, fontsize=9)
    return figure


def plot_residuals(
    residuals: Tensor,
    n: int = 0,
    *,
    coordinate: int = 0,
    times: Tensor | None = None,
    lags: int = 24,
    time_label: str = "frame",
) -> Figure:
    """Standardised residuals of one series: over time, their histogram, quantiles and autocorrelations.

    Under the model they are independent N(0, 1): 95 % lie within the shade, and as many autocorrelations in theirs.

    Args:
        residuals: `(N, T, D)`, result of `LGSSM.residuals`; NaN is left out.
        n, coordinate, times, time_label: as in `plot_components`.
        lags: number of autocorrelations.

    Raises:
        ValueError: an n or a coordinate that is not there, times of another length, no more residuals than lags.
    """
    N, T, size = residuals.shape
    for name, place, count in (("n", n, N), ("coordinate", coordinate, size)):
        if not -count <= place < count:
            raise ValueError(f"plot_residuals: {name}: there is no {place} of {count}")
    if times is not None and times.shape != (T,):
        raise ValueError(f"plot_residuals: times: expected shape {(T,)}, got {tuple(times.shape)}")
    series = residuals[n, :, coordinate]
    known = array(series[~series.isnan()])
    if len(known) <= lags:
        raise ValueError(f"plot_residuals: lags: expected fewer than the {len(known)} residuals, got {lags}")
    figure = Figure(figsize=(8.5, 5.2), layout="constrained")
    over, histogram, quantiles, correlations = figure.subplots(2, 2).flat
    over.axhspan(-1.96, 1.96, color=EXACT, alpha=0.15, linewidth=0)
    over.plot(array(torch.arange(T) if times is None else times), array(series), color=DRAWS, linewidth=0.9)
    over.set(xlabel=time_label, ylabel="residual, in its sd")
    grid = np.linspace(-4, 4, 200)
    histogram.hist(known, bins=20, density=True, color=DRAWS, alpha=0.4)
    histogram.plot(grid, stats.norm.pdf(grid), color=EXACT, label="N(0, 1)")
    histogram.set(xlabel="residual, in its sd", ylabel="density")
    histogram.legend(frameon=False, fontsize=8)
    expected = stats.norm.ppf((np.arange(len(known)) + 0.5) / len(known))
    quantiles.plot(expected, expected, color=EXACT, linewidth=1)
    quantiles.plot(expected, np.sort(known), "o", color=DRAWS, markersize=3, markeredgewidth=0)
    quantiles.set(xlabel="quantile of N(0, 1)", ylabel="of the residuals")
    centred = known - known.mean()
    found = [centred[k:] @ centred[:-k] / (centred @ centred) for k in range(1, lags + 1)]
    width = 1.96 / np.sqrt(len(known))
    correlations.axhspan(-width, width, color=EXACT, alpha=0.15, linewidth=0)
    correlations.vlines(range(1, lags + 1), 0, found, color=DRAWS)
    correlations.axhline(0, color=DRAWS, linewidth=0.6)
    correlations.set(xlabel="lag", ylabel="autocorrelation")
    for ax in (over, histogram, quantiles, correlations):
        plain(ax)
    return figure
