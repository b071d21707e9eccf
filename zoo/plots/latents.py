"""Figures of latents: densities of single coordinates, of all pairs of them, and the latents of labelled data."""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations_with_replacement
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.stats import gaussian_kde
from torch import Tensor

from zoo.infer.reference.inference_data import InferenceData, is_inference_data, site_draws
from zoo.infer.reference.log_joint import entry_names, flatten
from zoo.infer.reference.reference import Reference
from zoo.plots.contours import Window, draw_contours, histogram
from zoo.plots.look import EXACT, GUIDE, array, looks, plain

__all__ = ["plot_latents", "plot_marginals", "plot_pairs"]

# Points of a density curve, the most draws that it is estimated from, and coordinates of a pair plot.
POINTS, MOST, COORDINATES = 200, 4000, 5


class _Shown(NamedTuple):
    """A posterior in a figure: draws `(K, N, d)`, None of a grid, with names of the d entries."""

    label: str
    source: Reference | None
    draws: Tensor | None
    names: list[str]
    size: int

    def column(self, name: str, row: int, who: str) -> Tensor:
        """Draws of one coordinate of one datum, `(K,)`."""
        if self.draws is None:
            raise ValueError(f"{who}: {self.label}: a grid of {len(self.names)} coordinates has no draws of one")
        return self.draws[:, row, self.place(name, who)].double().cpu()

    def place(self, name: str, who: str) -> int:
        """The column of a coordinate."""
        if name not in self.names:
            raise ValueError(f"{who}: {self.label}: no coordinate {name!r} but {self.names[:6]}")
        return self.names.index(name)


def _shown(posteriors: Mapping[str, Reference | InferenceData], who: str) -> list[_Shown]:
    found = []
    for label, one in posteriors.items():
        if isinstance(one, Reference):
            found.append(_Shown(label, one, one.draws, one.coordinates, len(one.mean)))
        elif is_inference_data(one):
            # draws as they are: those of a guide are one chain, which is no reference
            values = site_draws(one)
            names = [name for site, value in values.items() for name in entry_names(site, value.shape[3:])]
            draws = flatten(values, 3).flatten(0, 1)
            found.append(_Shown(label, None, draws, names, draws.shape[1]))
        else:
            raise ValueError(f"{who}: {label}: expected draws in arviz's container or a Reference, got {type(one)}")
    if len({one.size for one in found}) != 1:
        raise ValueError(
            f"{who}: expected posteriors of the same data, at least one, got {[one.size for one in found]}"
        )
    return found


def _looks(shown: list[_Shown]) -> list[tuple[str, Any]]:
    """Colour and dashes of each: solid blue for the first exact one, dashed orange for the first of the others."""
    exact = [one.source is not None and one.source.kind in ("exact", "grid") for one in shown]
    return looks([EXACT if known else GUIDE for known in exact])


def plot_marginals(
    posteriors: Mapping[str, Reference | InferenceData],
    *,
    data: Sequence[int] | None = None,
    coordinates: Sequence[str] | None = None,
    columns: int = 4,
) -> Figure:
    """Densities of single coordinates, those of several posteriors over each other, a panel for datum and coordinate.

    Densities of draws are kernel estimates; of a reference in one coordinate the density itself is drawn.

    Args:
        posteriors: label -> a `Reference`, or draws in arviz's container: of a guide by `posterior_draws`.
        data: rows to show; None: all.
        coordinates: names such as `z[0]`; None: all of the first posterior.
        columns: panels in a row.

    Raises:
        ValueError: posteriors of other data, none, or something else; rows or coordinates that are not there; a grid in
            several coordinates, which has no draws.
    """
    shown = _shown(posteriors, "plot_marginals")
    names = list(shown[0].names if coordinates is None else coordinates)
    rows = list(range(shown[0].size) if data is None else data)
    if not rows or not names or any(not 0 <= row < shown[0].size for row in rows):
        raise ValueError(f"plot_marginals: data: expected some of the rows 0..{shown[0].size - 1}, got {rows}")
    panels = [(row, name) for row in rows for name in names]
    columns = min(columns, len(panels))
    lines = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(max(2.3 * columns, 3.4), 1.9 * lines + 0.3), layout="constrained")
    for number, (row, name) in enumerate(panels):
        ax = figure.add_subplot(lines, columns, number + 1)
        for one, look in zip(shown, _looks(shown), strict=True):
            _draw_density(ax, one, name, row, look, "plot_marginals")
        ax.set_title(f"datum {row}", fontsize=9)
        ax.set_xlabel(name, fontsize=9)
        ax.set(yticks=[], ylim=(0, None))
        plain(ax)
    _draw_legend(figure, shown, columns)
    return figure


def plot_pairs(
    posteriors: Mapping[str, Reference | InferenceData],
    datum: int = 0,
    *,
    coordinates: Sequence[str] | None = None,
) -> Figure:
    """All pairs of coordinates of one datum: contours of 50 % and 95 % of the mass, densities on the diagonal.

    Args:
        posteriors: as in `plot_marginals`, all with draws.
        datum: row to show.
        coordinates: names such as `z[0]`, two or more; None: the first five.

    Raises:
        ValueError: as `plot_marginals`; fewer than two coordinates.
    """
    shown = _shown(posteriors, "plot_pairs")
    names = list(shown[0].names[:COORDINATES] if coordinates is None else coordinates)
    if len(names) < 2:
        raise ValueError(f"plot_pairs: coordinates: expected two or more, got {names}")
    if not 0 <= datum < shown[0].size:
        raise ValueError(f"plot_pairs: datum: expected one of the rows 0..{shown[0].size - 1}, got {datum}")
    d = len(names)
    figure = Figure(figsize=(max(1.8 * d, 3.4), 1.7 * d + 0.3), layout="constrained")
    for i, j in combinations_with_replacement(range(d), 2):
        # column i, line j: the lower triangle
        ax = figure.add_subplot(d, d, j * d + i + 1)
        if i == j:
            for one, look in zip(shown, _looks(shown), strict=True):
                _draw_density(ax, one, names[j], datum, look, "plot_pairs")
            ax.set(yticks=[], ylim=(0, None))
        else:
            _draw_pair(ax, shown, (names[i], names[j]), datum)
        ax.locator_params(nbins=3)
        plain(ax)
        # Names at the left and the lower edge alone: the panels of a line share a coordinate.
        if j == d - 1:
            ax.set_xlabel(names[i], fontsize=9)
        if i == 0 < j:
            ax.set_ylabel(names[j], fontsize=9)
    _draw_legend(figure, shown, d)
    return figure


def plot_latents(z: Tensor, labels: Tensor, *, coordinates: tuple[int, int] = (0, 1), size: float = 6.0) -> Figure:
    """Latents of labelled data as dots, a colour for each label.

    Args:
        z: `(N, d)`, such as the means or one draw of a guide.
        labels: integers `(N,)`.
        coordinates: the two entries of z on the axes.
        size: of a dot, in points.

    Raises:
        ValueError: z or labels of another shape, labels that are no integers, a coordinate that z has not.
    """
    if z.dim() != 2 or labels.shape != z.shape[:1] or labels.is_floating_point():
        raise ValueError(
            f"plot_latents: expected z (N, d) and integers as labels (N,), got {tuple(z.shape)} and "
            f"{labels.dtype} {tuple(labels.shape)}"
        )
    if len(coordinates) != 2 or any(not 0 <= place < z.shape[1] for place in coordinates):
        raise ValueError(f"plot_latents: coordinates: expected two of 0..{z.shape[1] - 1}, got {coordinates}")
    figure = Figure(figsize=(4.8, 4.0), layout="constrained")
    ax = figure.add_subplot()
    points, known = array(z[:, list(coordinates)]), labels.unique().tolist()
    # matplotlib's table of twenty: digits and letters have more classes than curves have colours.
    colours = _colours(len(known))
    for label, colour in zip(known, colours, strict=True):
        chosen = points[(labels == label).cpu().numpy()]
        ax.plot(chosen[:, 0], chosen[:, 1], ".", color=colour, markersize=size, markeredgewidth=0, alpha=0.7,
                label=str(label))  # fmt: skip
    ax.set_xlabel(f"z[{coordinates[0]}]", fontsize=9)
    ax.set_ylabel(f"z[{coordinates[1]}]", fontsize=9)
    plain(ax)
    figure.legend(loc="outside right center", frameon=False, fontsize=8, handletextpad=0.2, markerscale=1.5)
    return figure


def _colours(count: int) -> np.ndarray:
    """Colours of `count` classes: matplotlib's ten or twenty, or a rainbow of more."""
    import matplotlib

    if count <= 20:
        # a table of colours is read by whole numbers
        return matplotlib.colormaps["tab10" if count <= 10 else "tab20"](np.arange(count))
    return matplotlib.colormaps["turbo"](np.linspace(0.02, 0.98, count))


def _draw_density(ax: Axes, one: _Shown, name: str, row: int, look: tuple[str, str], who: str) -> None:
    """Draws the density of one coordinate of one datum."""
    colour, style = look
    known = one.source.log_density if one.source is not None else None
    if one.source is not None and known is not None and len(one.names) == 1:
        one.place(name, who)
        mean, sd = one.source.mean[row, 0].double(), one.source.sd[row, 0].double()
        points = mean + sd * torch.linspace(-4, 4, POINTS, dtype=torch.double, device=mean.device)
        with torch.no_grad():
            rows = torch.tensor([row], device=mean.device)
            density = known(points.reshape(-1, 1, 1).to(one.source.mean), rows)[:, 0].exp()
        grid, values = array(points), array(density)
    else:
        draws = one.column(name, row, who)
        some = draws[:: max(1, len(draws) // MOST)][:MOST].numpy()
        grid = some.mean() + some.std() * np.linspace(-4, 4, POINTS)
        values = gaussian_kde(some)(grid)
    ax.plot(grid, values, color=colour, linestyle=style, linewidth=1.4, zorder=2 if colour == EXACT else 3)


def _draw_pair(ax: Axes, shown: list[_Shown], names: tuple[str, str], row: int) -> None:
    """Draws the contours of two coordinates of one datum."""
    pairs = [torch.stack([one.column(name, row, "plot_pairs") for name in names], -1) for one in shown]
    window = Window.around([(pair.mean(0), pair.std(0)) for pair in pairs])
    # Exact ones first: the dashes of the others are then seen above them.
    drawn = zip(_looks(shown), pairs, strict=True)
    for (colour, style), pair in sorted(drawn, key=lambda one: one[0][0] != EXACT):
        draw_contours(ax, window, histogram(pair, window), colour, style)


def _draw_legend(figure: Figure, shown: list[_Shown], columns: int) -> None:
    handles = [Line2D([], [], label=one.label) for one in shown]
    for handle, (colour, style) in zip(handles, _looks(shown), strict=True):
        handle.set(color=colour, linestyle=style)
    figure.legend(handles=handles, loc="outside upper center", ncols=max(2, columns), frameon=False, fontsize=8)
