"""Figures of trajectories: bands over time, regions along a path in the plane."""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from torch import Tensor

from zoo.parts.kalman import Forecast
from zoo.parts.trajectory import Draws
from zoo.parts.trajectory.masks import ends
from zoo.plots.look import CYCLE, DRAWS, EXACT, HIDDEN, array, plain

__all__ = ["Band", "draw_band", "draw_points", "draw_regions", "plot_bands", "plot_draws"]


class Band(NamedTuple):
    """Intervals over time, with their centres; each part is `(T,)` or `(T, D)`.

    Attributes:
        centre: mean or median.
        lower, upper: ends of the interval.
        mass: probability of each interval, for the legend.
        times: `(T,)`, for a band that has other times than the data, such as a forecast; None: the data's times.
    """

    centre: Tensor
    lower: Tensor
    upper: Tensor
    mass: float
    times: Tensor | None = None

    @staticmethod
    def normal(mean: Tensor, sd: Tensor, mass: float = 0.9, times: Tensor | None = None) -> "Band":
        """The central intervals of N(mean, sd^2) that hold `mass`.

        Raises:
            ValueError: a mass that is not between 0 and 1.
        """
        width = math.sqrt(2) * torch.special.erfinv(torch.tensor(_share(mass), dtype=torch.float64)).item() * sd
        return Band(mean, mean - width, mean + width, mass, times)

    @staticmethod
    def of_draws(draws: Tensor, mass: float = 0.9, times: Tensor | None = None) -> "Band":
        """The medians and the central intervals that hold `mass` of draws `(S, T)` or `(S, T, D)`.

        Raises:
            ValueError: a mass that is not between 0 and 1.
        """
        ends = torch.tensor([0.5, (1 - _share(mass)) / 2, (1 + mass) / 2], dtype=draws.dtype, device=draws.device)
        centre, lower, upper = draws.quantile(ends, dim=0)
        return Band(centre, lower, upper, mass, times)

    def covers(self, x: Tensor) -> Tensor:
        """Tells which entries of x lie in their intervals; False for NaN."""
        return (self.lower <= x) & (x <= self.upper)


def plot_bands(
    times: Tensor,
    bands: Mapping[str, Band],
    *,
    observed: Tensor | None = None,
    hidden: Tensor | None = None,
    names: Sequence[str] | None = None,
    time_label: str = "time",
    title: str | None = None,
) -> Figure:
    """Bands over time with the data, one panel for each coordinate: filtered, smoothed, imputed or forecast.

    Args:
        times: `(T,)`, of the data, and of every band without times of its own.
        bands: name -> `Band` of `(T,)` or `(T, D)`.
        observed: the data that the model saw, `(T,)` or `(T, D)`; NaN is left out.
        hidden: the data kept from the model, in the same shape; NaN is left out.
        names: of the D coordinates, with units.
        time_label: name of the horizontal axis, with the unit.
        title: above the panels.

    Raises:
        ValueError: no bands, or shapes that differ.
    """
    if not bands:
        raise ValueError("plot_bands: there must be at least one band")
    found = {name: _each(band, _columns) for name, band in bands.items()}
    data = {name: _columns(x) for name, x in {"observed": observed, "held out": hidden}.items() if x is not None}
    size = next(iter(found.values())).centre.shape[1]
    for name, part, own in [
        *((name, band.centre, band.times) for name, band in found.items()),
        *((name, x, None) for name, x in data.items()),
    ]:
        expected = (len(times if own is None else own), size)
        if part.shape != expected:
            raise ValueError(f"plot_bands: {name} is {tuple(part.shape)}, its times and the first band ask {expected}")
    # The extra height holds the legend, which stands outside: within a panel it would cover a band.
    figure = Figure(figsize=(7.0, 0.9 + 2.3 * size), layout="constrained")
    axes = figure.subplots(size, 1, sharex=True, squeeze=False)[:, 0]
    for place, ax in enumerate(axes):
        for number, (name, band) in enumerate(found.items()):
            column = _each(band, operator.itemgetter((slice(None), place)))
            draw_band(ax, times, column, CYCLE[number % len(CYCLE)], name, "solid" if number == 0 else "dashed")
        for name, x in data.items():
            draw_points(ax, times, x[:, place], name)
        ax.set_ylabel(names[place] if names is not None else f"$x_{{{place + 1}}}$" if size > 1 else "x", fontsize=9)
        plain(ax)
    axes[-1].set_xlabel(time_label, fontsize=9)
    if title is not None:
        axes[0].set_title(title, fontsize=10)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False, fontsize=8)
    return figure


def plot_draws(
    draws: Draws | Forecast,
    x: Tensor,
    n: int = 0,
    *,
    mask: Tensor | None = None,
    truth: Tensor | None = None,
    coordinates: Sequence[int] | None = None,
    mass: float = 0.9,
    names: Sequence[str] | None = None,
    time_label: str = "frame",
    title: str | None = None,
) -> Figure:
    """Forecast or imputed frames of one sequence: median and central intervals of their draws, with the observed data.

    Args:
        draws: result of a model's `sample_forecast` or `sample_imputation`; or of its `forecast`, whose intervals are
            those of a normal distribution, exact for an `LGSSM`.
        x, mask: data and mask from which the model drew, `(N, T, D)` and `(N, T)`.
        n: number of the sequence.
        truth: `(N, T', D)` from the first frame on. Frames that the model did not see are shown as rings; NaN is left
            out.
        coordinates: numbers of the coordinates of x to show, one panel each; None: all.
        mass: probability of the intervals.
        names: of the coordinates shown, with units.
        time_label: name of the horizontal axis.
        title: above the panels.

    Raises:
        ValueError: an n or coordinates that are not there, more than 16 coordinates, shapes that do not fit.
    """
    size = x.shape[-1]
    chosen = list(range(size)) if coordinates is None else list(coordinates)
    frames = draws.observation_means if isinstance(draws, Forecast) else draws.x[0]
    if frames.shape[::2] != x.shape[::2]:
        raise ValueError(f"plot_draws: draws of {tuple(frames.shape[::2])} sequences and coordinates, x has "
                         f"{tuple(x.shape[::2])}")  # fmt: skip
    if not -len(x) <= n < len(x):
        raise ValueError(f"plot_draws: n: there is no sequence {n} of {len(x)}")
    if any(not 0 <= place < size for place in chosen) or not 0 < len(chosen) <= 16:
        shown = f"{len(chosen)} of them" if len(chosen) > 16 else chosen
        raise ValueError(f"plot_draws: coordinates: expected 1 to 16 of 0..{size - 1}, got {shown}")
    if mask is not None and mask.shape != x.shape[:2]:
        raise ValueError(f"plot_draws: mask: expected shape {tuple(x.shape[:2])}, got {tuple(mask.shape)}")
    if truth is not None and truth.shape[::2] != x.shape[::2]:
        raise ValueError(f"plot_draws: truth: expected shape ({len(x)}, T', {size}), got {tuple(truth.shape)}")
    if names is not None and len(names) != len(chosen):
        raise ValueError(f"plot_draws: names: expected {len(chosen)}, one for each coordinate shown, got {len(names)}")
    seen = torch.ones(x.shape[1], dtype=torch.bool, device=x.device) if mask is None else mask[n]
    start = int(ends(x, mask)[n] if isinstance(draws, Forecast) else draws.start[n])
    across = torch.arange(start, start + frames.shape[1])
    if isinstance(draws, Forecast):
        sd = draws.observation_covariances[n].diagonal(dim1=-2, dim2=-1).sqrt()
        band = Band.normal(frames[n][:, chosen], sd[:, chosen], mass, across)
    else:
        band = Band.of_draws(draws.x[:, n][..., chosen], mass, across)
    T = max(start + frames.shape[1], x.shape[1], 0 if truth is None else truth.shape[1])
    # NaN marks frames without a dot. Data and draws thus have one time axis, however far the forecast reaches.
    observed, hidden = x.new_full((2, T, len(chosen)), math.nan)
    observed[: x.shape[1]] = torch.where(seen.unsqueeze(-1), x[n][:, chosen], math.nan)
    if truth is not None:
        hidden[: truth.shape[1]] = truth[n][:, chosen].to(hidden)
        hidden[: x.shape[1]][seen] = math.nan
    if names is None and coordinates is not None:
        names = [f"x[{place}]" for place in chosen]
    label = "forecast" if isinstance(draws, Forecast) else "draws"
    return plot_bands(torch.arange(T), {label: band}, observed=observed, hidden=None if truth is None else hidden,
                      names=names, time_label=time_label, title=title)  # fmt: skip


def draw_band(
    ax: Axes,
    times: Tensor,
    band: Band,
    colour: str = EXACT,
    label: str | None = None,
    style: str = "solid",
    edges: bool = False,
) -> None:
    """Draws one line with its interval.

    Args:
        ax: axes to draw on.
        times: `(T,)`, for a band without times of its own.
        band: of parts `(T,)`.
        colour, style: of the line.
        label: in the legend, with the mass of the band; None: no entry.
        edges: draw lines at the ends of the interval in place of a shade, to lay one band over another.
    """
    across = array(times if band.times is None else band.times)
    if edges:
        for end in (band.lower, band.upper):
            ax.plot(across, array(end), color=colour, linestyle=style, linewidth=0.9, zorder=3)
    else:
        ax.fill_between(across, array(band.lower), array(band.upper), color=colour, alpha=0.2, linewidth=0, zorder=2)
    if label is not None:
        label = f"{label}, {100 * band.mass:g} % band"
    ax.plot(across, array(band.centre), color=colour, linestyle=style, linewidth=1.5, label=label, zorder=3)


def draw_points(ax: Axes, across: Tensor, up: Tensor, label: str = "observed", **style: Any) -> None:
    """Draws data as dots, grey for the label "observed", as green rings for any other label; NaN is left out.

    Args:
        ax: axes to draw on.
        across, up: `(T,)` each.
        label: in the legend.
        **style: settings of `Axes.plot` that replace the ones here.
    """
    seen: dict[str, Any] = {"color": DRAWS, "markersize": 3.5, "markeredgewidth": 0}
    unseen: dict[str, Any] = {"color": HIDDEN, "markersize": 4.5, "markerfacecolor": "none"}
    look = {**(seen if label == "observed" else unseen), "linestyle": "", "label": label, "zorder": 4, **style}
    ax.plot(array(across), array(up), "o", **look)


def draw_regions(
    ax: Axes,
    means: Tensor,
    covariances: Tensor,
    colour: str = EXACT,
    label: str | None = None,
    style: str = "solid",
    mass: float = 0.9,
    between: int = 7,
) -> None:
    """Draws a path in the plane and, in one shade, the union of the ellipses that hold `mass` of each Gaussian.

    Args:
        ax: axes to draw on.
        means, covariances: of the Gaussians, `(T, 2)` and `(T, 2, 2)`; singular covariances are fine.
        colour, style: of the line.
        label: in the legend, with the mass; None: no entry.
        mass: probability of each ellipse.
        between: ellipses interpolated between neighbours, so that a sparse path has a band and no beads.

    Raises:
        ValueError: a mass that is not between 0 and 1.
    """
    # In two dimensions the squared radius is chi-square with two degrees of freedom, whose quantile is this logarithm.
    radius = math.sqrt(-2 * math.log(1 - _share(mass)))
    centres, covariances = (_between(part.detach().cpu().double(), between) for part in (means, covariances))
    values, vectors = torch.linalg.eigh(covariances)
    axes = vectors * values.clamp(min=0).sqrt().unsqueeze(-2) * radius  # columns: half axes
    # All outlines turn the same way, or the shade of their union would have holes where two of them overlap.
    axes = torch.where(torch.linalg.det(axes)[:, None, None] < 0, axes.flip(-1), axes)
    unit = Path.unit_circle()
    circle = torch.tensor(np.asarray(unit.vertices))
    outlines = centres.unsqueeze(1) + circle @ axes.mT
    codes = np.tile(np.asarray(unit.codes), len(centres))
    shape = Path(outlines.reshape(-1, 2).numpy(), codes)
    # One patch for all: many patches with a transparent colour would darken each other.
    ax.add_patch(PathPatch(shape, facecolor=colour, alpha=0.2, linewidth=0, zorder=2))
    ax.update_datalim(shape.get_extents().get_points())
    if label is not None:
        label = f"{label}, {100 * mass:g} % regions"
    ax.plot(*array(means).T, color=colour, linestyle=style, linewidth=1.5, label=label, zorder=3)


def _share(mass: float) -> float:
    """The mass itself; raises ValueError where it is not between 0 and 1."""
    if not 0 < mass < 1:
        raise ValueError(f"mass: expected a number between 0 and 1, got {mass}")
    return mass


def _between(points: Tensor, count: int) -> Tensor:
    """The points, with `count` more on the straight line from each to the next."""
    share = torch.arange(count + 1, dtype=points.dtype).div(count + 1).reshape(-1, *[1] * (points.dim() - 1))
    inner = points[:-1].unsqueeze(1) + share * points.diff(dim=0).unsqueeze(1)
    return torch.cat([inner.flatten(0, 1), points[-1:]])


def _each(band: Band, change: Callable[[Tensor], Tensor]) -> Band:
    """A band with its centre and its ends changed."""
    return band._replace(centre=change(band.centre), lower=change(band.lower), upper=change(band.upper))


def _columns(part: Tensor) -> Tensor:
    """`(T,)` as one column `(T, 1)`, `(T, D)` as it is."""
    return part.unsqueeze(-1) if part.dim() == 1 else part
