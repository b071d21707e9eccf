"""Figures of a guide's contours over a sampler's draws and the exact posterior, one panel for each datum."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from zoo.infer.pieces import weighted_draws, with_index
from zoo.infer.reference.compare import model_of
from zoo.infer.reference.fingerprint import check_fingerprint
from zoo.infer.reference.inference_data import InferenceData
from zoo.infer.reference.reference import Reference, as_reference
from zoo.infer.sites.programs import batch_rows, has_autoguide
from zoo.parts.aside import held, seeded
from zoo.parts.door import entered
from zoo.plots.contours import BINS, Window, draw_contours, histogram
from zoo.plots.look import DRAWS, EXACT, GUIDE, looks

__all__ = ["plot_overlay"]

# Kinds of references that have a density, shown by contours.
DENSITIES = ("exact", "grid")
# Side of the image in a panel, and its distance from the frame, in sides of the panel.
IMAGE, GAP = 0.27, 0.02


def plot_overlay(
    guide: Callable,
    references: Reference | InferenceData | Sequence[Reference | InferenceData],
    x: Any,
    *args: Any,
    model: Callable | None = None,
    data: Sequence[int] | None = None,
    coordinates: tuple[int, int] = (0, 1),
    image_shape: tuple[int, int] | None = None,
    titles: Sequence[str] | None = None,
    columns: int = 4,
    num_draws: int = 20000,
    num_dots: int = 300,
    seed: int | None = 0,
    **kwargs: Any,
) -> Figure:
    """The guide's contours, a sampler's dots and the exact contours for several data points, one panel each.

    Contours are the smallest regions that hold 50 % and 95 % of the mass. The guide's contours are those of a smoothed
    histogram of its draws, so that any guide will do; the exact contours are those of the density itself where the
    density is known in just these two coordinates. The guide is orange and dashed, the exact posterior blue, a
    sampler's draws are grey dots; a second of a kind has a colour of its own.

    Args:
        guide: any guide.
        references: one or several of the same data: draws become dots, densities become contours.
        x, *args, **kwargs: the data of the references, and the other arguments of model and guide.
        model: the model of the references; None: `guide.model`.
        data: rows of x to show; None: all. A joint posterior of all data has one panel.
        coordinates: the two entries of the latent vector on the axes.
        image_shape: `(height, width)`, to show each data point as an image in a corner of its panel.
        titles: for each panel; None: the row number.
        columns: panels in a row.
        num_draws: number of the guide's draws, for its contours.
        num_dots: number of a sampler's draws that are shown.
        seed: of a random stream of its own; None: the caller's stream.

    Raises:
        ValueError: no model, references of other data, of another model or of other sites, a posterior with one
            coordinate, rows, coordinates or titles that do not fit.
    """
    model = model_of(guide, model, "plot_overlay")
    x, args, kwargs = entered((model, guide), x, args, kwargs)
    found = _found(references, model, x, args, kwargs)
    size = len(found[0].mean)
    rows, pair = list(range(size)) if data is None else list(data), list(coordinates)
    names = _check_choice(found[0].coordinates, size, rows, pair, titles)
    titles = ["all data"] if found[0].joint and titles is None else titles
    places = [[_place(reference, name) for name in names] for reference in found]
    # the guide's colour is its own
    own = looks([GUIDE, *(EXACT if one.kind in DENSITIES else DRAWS for one in found)])[1:]
    shown = [_Shown(*one) for one in zip(found, places, own, strict=True)]
    with held(model, guide), seeded(seed):
        latents = _guide_draws(model, guide, (x, *args), kwargs, found[0], rows, num_draws)[..., pair]

    columns = min(columns, len(rows))
    lines = math.ceil(len(rows) / columns)
    legend = _legend(shown)
    figure, across = _sheet(lines, columns, len(legend))
    for panel, row in enumerate(rows):
        ax = figure.add_subplot(lines, columns, panel + 1)
        window = _draw_panel(ax, shown, row, latents[:, panel], num_dots)
        if image_shape is not None:
            clouds = [latents[:, panel], *(one.draws(row) for one in shown if one.reference.draws is not None)]
            window = _draw_image(ax, x[row].detach().cpu().reshape(image_shape), window, clouds)
        (left, bottom), (right, top) = window.low.tolist(), window.high.tolist()
        ax.set(xlim=(left, right), ylim=(bottom, top))
        ax.set_title(f"datum {row}" if titles is None else titles[panel], fontsize=9)
        ax.tick_params(labelsize=7)
        ax.locator_params(nbins=4)
        # Names at the outer panels alone: all panels share the two coordinates, not their scales.
        if panel % columns == 0:
            ax.set_ylabel(names[1], fontsize=9)
        if panel + columns >= len(rows):
            ax.set_xlabel(names[0], fontsize=9)
    figure.legend(
        handles=legend,
        title="contours hold 50 % and 95 % of the mass",
        title_fontsize=8,
        loc="outside upper center",
        ncols=across,
        frameon=False,
        fontsize=9,
    )
    return figure


@dataclass(frozen=True)
class _Shown:
    """A reference, the columns of the two coordinates in it, and the colour and dashes that it is drawn in."""

    reference: Reference
    places: list[int]
    look: tuple[str, Any]

    @property
    def exact(self) -> bool:
        """Tells a reference with a density, shown by contours, from a sampler's, shown by dots."""
        return self.reference.kind in DENSITIES

    def draws(self, row: int) -> Tensor:
        """Draws of one datum in the two coordinates, `(K, 2)`."""
        if self.reference.draws is None:
            raise ValueError(
                f"plot_overlay: the {self.reference.kind} reference has neither draws nor a density to show"
            )
        return self.reference.draws[:, row, self.places].cpu()

    def moments(self, row: int) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of one datum, `(2,)` each."""
        return self.reference.mean[row, self.places], self.reference.sd[row, self.places]

    def density(self, row: int, window: Window) -> Tensor:
        """The density of one datum on the bins: that of the reference, or that of its draws."""
        known, mean = self.reference.log_density, self.reference.mean
        # A density in more coordinates than the two would have to be integrated over the others.
        if known is None or mean.shape[1] > 2:
            return histogram(self.draws(row), window)
        mesh = torch.cartesian_prod(*window.centres())
        z = mesh[:, self.places].unsqueeze(1).to(mean)
        with torch.no_grad():
            log_density = known(z, torch.tensor([row], device=mean.device))
        return log_density.double().cpu().squeeze(-1).reshape(BINS, BINS).exp()


def _check_choice(
    names: list[str], size: int, rows: list[int], pair: list[int], titles: Sequence[str] | None
) -> list[str]:
    """The names of the two chosen coordinates; raises ValueError for rows, coordinates or titles that do not fit."""
    if len(names) < 2:
        raise ValueError("plot_overlay: two coordinates are needed, the posterior has one; plot_marginals shows one")
    if not rows or any(not 0 <= row < size for row in rows):
        raise ValueError(f"plot_overlay: data: expected some of the rows 0..{size - 1}, got {rows}")
    if len(pair) != 2 or any(not 0 <= place < len(names) for place in pair):
        raise ValueError(f"plot_overlay: coordinates: expected two of 0..{len(names) - 1}, got {pair}")
    if titles is not None and len(titles) != len(rows):
        raise ValueError(f"plot_overlay: titles: expected {len(rows)}, one for each panel, got {len(titles)}")
    return [names[place] for place in pair]


def _place(reference: Reference, name: str) -> int:
    """The column of a coordinate in a reference."""
    # By name, because the sites of draws may come in any order.
    if name not in reference.coordinates:
        raise ValueError(
            f"plot_overlay: the {reference.kind} reference has no coordinate {name!r} but {reference.coordinates[:6]}"
        )
    return reference.coordinates.index(name)


def _sheet(lines: int, columns: int, entries: int) -> tuple[Figure, int]:
    """A figure with room for the panels and for a legend of so many entries, and the number of these on a line."""
    # A legend on one line is wider than one panel or two, and would be cut at the figure's edge.
    across = min(entries, columns)
    height = 2.6 * lines + 0.15 + 0.2 * math.ceil(entries / across)
    return Figure(figsize=(max(2.5 * columns, 2.9), height), layout="constrained"), across


def _found(references: Any, model: Any, x: Any, args: tuple, kwargs: dict[str, Any]) -> list[Reference]:
    """The references, of the data and the model of the figure.

    Raises:
        ValueError: none, or one of other data or of another model.
    """
    several: Sequence[Any] = references if isinstance(references, list | tuple) else [references]
    found = [as_reference(reference) for reference in several]
    joint = bool(found) and found[0].joint
    size = 1 if joint else len(x)
    if not found or any(len(reference.mean) != size or reference.joint != joint for reference in found):
        raise ValueError(f"plot_overlay: every reference must hold the {len(x)} data of x, and there must be one")
    for reference in found:
        check_fingerprint(reference.fingerprint, model, x, args, kwargs, "plot_overlay")
    return found


def _guide_draws(
    model: Callable,
    guide: Callable,
    inputs: tuple,
    kwargs: dict[str, Any],
    like: Reference,
    rows: list[int],
    num_draws: int,
) -> Tensor:
    """Draws of the guide at a reference's sites for some rows of the data, `(num_draws, len(rows), d)`, on the CPU."""
    x, *args = inputs
    wanted: dict[str, Any] = {"num_particles": num_draws, "sites": list(like.sites)}
    if like.joint:
        return weighted_draws(model, guide, x, tuple(args), kwargs, joint=True, **wanted)[0]
    index = torch.as_tensor(rows, device=x.device)
    named = with_index(guide, x, kwargs)
    # An autoguide holds parameters for all rows, in order, and cannot be run for some of them.
    whole = has_autoguide(guide)
    if not whole:
        (x, *args), named = batch_rows(x, tuple(args), named, index)
    latents, _ = weighted_draws(model, guide, x, tuple(args), named, **wanted)
    return latents[:, index.cpu()] if whole else latents


def _draw_panel(ax: Axes, shown: list[_Shown], row: int, latents: Tensor, num_dots: int) -> Window:
    """Draws the references and the guide's draws `(K, 2)` of one datum; returns the rectangle around all of them."""
    window = Window.around([*(one.moments(row) for one in shown), (latents.mean(0), latents.std(0))])
    for one in shown:
        if one.exact:
            draw_contours(ax, window, one.density(row, window), *one.look)
        else:
            dots = one.draws(row).numpy()
            # Equally spaced over the joined chains, so that every chain is seen.
            dots = dots[:: max(1, len(dots) // num_dots)][:num_dots]
            colour, _ = one.look
            ax.plot(dots[:, 0], dots[:, 1], ".", color=colour, markersize=3.2, markeredgewidth=0, alpha=0.6, zorder=1)
    draw_contours(ax, window, histogram(latents, window), GUIDE, "dashed")
    return window


def _draw_image(ax: Axes, image: Tensor, window: Window, clouds: list[Tensor]) -> Window:
    """Puts the image into the emptier upper corner, above the draws if both are full; returns the new rectangle."""
    covered = []
    for right in (True, False):
        shares = [window.shares(cloud) for cloud in clouds]
        inside = [(s[:, 0] > 1 - IMAGE - 0.03 if right else s[:, 0] < IMAGE + 0.03) & (s[:, 1] > 1 - IMAGE - 0.03)
                  for s in shares]  # fmt: skip
        covered.append(max(share.double().mean().item() for share in inside))
    right = covered[0] <= covered[1]
    corner_side = IMAGE + GAP
    if min(covered) > 0.003:
        # Three in a thousand draws under the image may be the tail that the picture is made to show.
        low, high = window
        window = Window(low, torch.stack([high[0], high[1] + corner_side / (1 - corner_side) * (high[1] - low[1])]))
    corner = ax.inset_axes((1 - corner_side if right else GAP, 1 - corner_side, IMAGE, IMAGE))
    corner.imshow((1 - image.float()).numpy(), cmap="gray", interpolation="nearest")
    corner.set(xticks=[], yticks=[])
    corner.spines[:].set(linewidth=0.5, color="#999999")
    return window


def _legend(shown: list[_Shown]) -> list[Line2D]:
    """The entries of one legend for all panels: the guide, then the exact posteriors, then the draws."""
    handles = [Line2D([], [], color=GUIDE, linestyle="dashed", label="guide")]
    labels: list[str] = []
    for one in sorted(shown, key=lambda one: not one.exact):
        kind, (colour, dashes) = one.reference.kind, one.look
        labels.append("exact posterior" + (" (grid)" if kind == "grid" else "") if one.exact else f"{kind} draws")
        many = labels.count(labels[-1])
        label = labels[-1] if many == 1 else f"{labels[-1]}, {many}"
        line: dict[str, Any] = {"linestyle": dashes} if one.exact else {"linestyle": "", "marker": "."}
        handles.append(Line2D([], [], color=colour, label=label, **line))
    return handles
