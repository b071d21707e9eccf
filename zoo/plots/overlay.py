"""The picture of the house: a guide's contours over a sampler's draws and the exact posterior, datum by datum.

Colours mean the same everywhere: the guide is orange and dashed, the exact posterior blue, a sampler's draws grey dots.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from pyro.infer.autoguide import AutoGuide
from torch import Tensor

from zoo.infer.pieces import batch_rows, draws, with_index
from zoo.infer.reference.fingerprint import check_fingerprint
from zoo.infer.reference.inference_data import InferenceData
from zoo.infer.reference.reference import Reference, as_reference
from zoo.parts.aside import held, seeded

GUIDE, EXACT, DRAWS = "#d9541e", "#1f5fa8", "#6b6b6b"
_MASSES = (0.95, 0.5)
_BINS = 100


def plot_overlay(
    guide: Callable,
    references: Reference | InferenceData | Sequence[Reference | InferenceData],
    x: Tensor,
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

    Contours are the smallest regions that hold 50 % and 95 % of the mass. The guide's are those of a smoothed histogram
    of its draws (so that any guide will do), the exact ones of the density itself where it is known in these two
    coordinates.

    Args:
        guide: any guide.
        references: one or several of the same data: draws become dots, densities become contours.
        x, *args, **kwargs: the data of the references, and the other arguments of model and guide.
        model: by default `guide.model`.
        data: rows of x to show; all of them by default.
        coordinates: the two entries of the latent vector on the axes.
        image_shape: `(height, width)`, to show each data point as an image in a corner of its panel.
        titles: for each panel; by default the row number.
        columns: panels in a row.
        num_draws: from the guide, for its contours.
        num_dots: how many of a sampler's draws are shown.
        seed: of a random stream of its own.

    Raises:
        ValueError: no model, references of other data, of another model or of other sites, a posterior with one
            coordinate, rows, coordinates or titles that do not fit.
    """
    several: Sequence[Any] = references if isinstance(references, list | tuple) else [references]
    found = [as_reference(reference) for reference in several]
    if not found or any(len(reference.mean) != len(x) for reference in found):
        raise ValueError(f"plot_overlay: every reference must hold the {len(x)} data of x, and there must be one")
    model = getattr(guide, "model", None) if model is None else model
    if not callable(model):
        raise ValueError(f"plot_overlay: {type(guide).__name__} does not know its model; give model=")
    for reference in found:
        check_fingerprint(reference.fingerprint, model, x, args, kwargs, "plot_overlay")
    names = found[0].coordinates
    if len(names) < 2:
        raise ValueError("plot_overlay: two coordinates are needed, the posterior has one")
    rows, pair = list(range(len(x))) if data is None else list(data), list(coordinates)
    if not rows or any(not 0 <= row < len(x) for row in rows):
        raise ValueError(f"plot_overlay: data: expected some of the rows 0..{len(x) - 1}, got {rows}")
    if len(pair) != 2 or any(not 0 <= place < len(names) for place in pair):
        raise ValueError(f"plot_overlay: coordinates: expected two of 0..{len(names) - 1}, got {pair}")
    if titles is not None and len(titles) != len(rows):
        raise ValueError(f"plot_overlay: titles: expected {len(rows)}, one for each panel, got {len(titles)}")
    # the sites of draws may come in any order
    places = {id(r): [_place(r, names[place]) for place in pair] for r in found}
    sampled = [r for r in found if r.kind not in ("exact", "grid")]
    exact = [r for r in found if r.kind in ("exact", "grid")]
    latents = _guide_draws(model, guide, x, args, kwargs, list(found[0].sites), rows, num_draws, seed)[..., pair]

    columns = min(columns, len(rows))
    lines = math.ceil(len(rows) / columns)
    figure = Figure(figsize=(2.5 * columns, 2.6 * lines + 0.35), layout="constrained")
    for panel, row in enumerate(rows):
        ax = figure.add_subplot(lines, columns, panel + 1)
        moments = [(r.mean[row, places[id(r)]], r.sd[row, places[id(r)]]) for r in found]
        moments.append((latents[:, panel].mean(0), latents[:, panel].std(0)))
        low = torch.stack([(m - 3.4 * s).double().cpu() for m, s in moments]).amin(0)
        high = torch.stack([(m + 3.4 * s).double().cpu() for m, s in moments]).amax(0)
        for reference in sampled:
            assert reference.draws is not None  # a sampler's reference
            dots = reference.draws[:, row, places[id(reference)]].cpu().numpy()
            dots = dots[:: max(1, len(dots) // num_dots)][:num_dots]
            ax.plot(dots[:, 0], dots[:, 1], ".", color=DRAWS, markersize=3.2, markeredgewidth=0, alpha=0.6, zorder=1)
        for reference in exact:
            _contours(ax, low, high, _density(reference, row, places[id(reference)], low, high), EXACT, "solid")
        _contours(ax, low, high, _histogram(latents[:, panel], low, high), GUIDE, "dashed")
        if image_shape is not None:
            clouds = [latents[:, panel], *(r.draws[:, row, places[id(r)]] for r in found if r.draws is not None)]
            high = _image(ax, x[row].detach().cpu().reshape(image_shape), low, high, clouds)
        ax.set(xlim=(low[0].item(), high[0].item()), ylim=(low[1].item(), high[1].item()))
        ax.set_title(f"datum {row}" if titles is None else titles[panel], fontsize=9)
        ax.tick_params(labelsize=7)
        ax.locator_params(nbins=4)
        if panel % columns == 0:
            ax.set_ylabel(names[pair[1]], fontsize=9)
        if panel + columns >= len(rows):
            ax.set_xlabel(names[pair[0]], fontsize=9)
    handles = [Line2D([], [], color=GUIDE, linestyle="dashed", label="guide")]
    handles += [
        Line2D([], [], color=EXACT, label="exact posterior" + (" (grid)" if r.kind == "grid" else "")) for r in exact
    ]
    handles += [Line2D([], [], color=DRAWS, marker=".", linestyle="", label=f"{r.kind} draws") for r in sampled]
    figure.legend(
        handles=handles,
        title="contours hold 50 % and 95 % of the mass",
        title_fontsize=8,
        loc="outside upper center",
        ncols=len(handles),
        frameon=False,
        fontsize=9,
    )
    return figure


def _place(reference: Reference, name: str) -> int:
    if name not in reference.coordinates:
        raise ValueError(
            f"plot_overlay: the {reference.kind} reference has no coordinate {name!r} but {reference.coordinates[:6]}"
        )
    return reference.coordinates.index(name)


def _guide_draws(
    model: Callable,
    guide: Callable,
    x: Tensor,
    args: tuple,
    kwargs: dict[str, Any],
    sites: list[str],
    rows: list[int],
    num_draws: int,
    seed: int | None,
) -> Tensor:
    """`(num_draws, len(rows), d)` on the CPU."""
    index = torch.as_tensor(rows, device=x.device)
    named = with_index(guide, x, kwargs)
    whole = isinstance(guide, AutoGuide)  # holds parameters for all rows, in order
    inputs, named = ((x, *args), named) if whole else batch_rows(x, args, named, index)
    with held(model, guide), seeded(seed):
        latents, _ = draws(model, guide, inputs[0], inputs[1:], named, num_particles=num_draws, sites=sites)
    return latents[:, index.cpu()] if whole else latents


def _mesh(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Centres of the bins on the two axes."""
    centres = (torch.arange(_BINS, dtype=torch.double) + 0.5) / _BINS
    return low[0] + centres * (high[0] - low[0]), low[1] + centres * (high[1] - low[1])


def _density(reference: Reference, row: int, pair: list[int], low: Tensor, high: Tensor) -> Tensor:
    """The density on the bins: the reference's own where it has just these two coordinates, else of its draws."""
    if reference.log_density is None or reference.mean.shape[1] > 2:
        if reference.draws is None:
            raise ValueError(f"plot_overlay: the {reference.kind} reference has neither draws nor a density to show")
        return _histogram(reference.draws[:, row, pair].double().cpu(), low, high)
    z = torch.cartesian_prod(*_mesh(low, high))[:, pair].unsqueeze(1).to(reference.mean)
    with torch.no_grad():
        log_density = reference.log_density(z, torch.tensor([row], device=reference.mean.device))
    return log_density.double().cpu().squeeze(-1).reshape(_BINS, _BINS).exp()


def _histogram(z: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Draws counted in bins and smoothed by a Gaussian of a quarter of their standard deviation.

    They are first drawn together by as much as the smoothing spreads them, so that the covariance is kept.
    """
    width = 0.25
    z, mean, sd = z.double(), z.double().mean(0), z.double().std(0)
    z = mean + (z - mean) / math.sqrt(1 + width**2)
    place = ((z - low) / (high - low) * _BINS).floor().long()
    place = place[((place >= 0) & (place < _BINS)).all(-1)]
    counts = torch.bincount(place[:, 0] * _BINS + place[:, 1], minlength=_BINS**2).reshape(_BINS, _BINS).double()
    bins = (width * sd / (high - low) * _BINS).clamp(min=0.7)
    offsets = torch.arange(_BINS)
    for axis in range(2):
        kernel = torch.exp(-0.5 * ((offsets[:, None] - offsets) / bins[axis]) ** 2)
        counts = torch.tensordot(kernel / kernel.sum(0, keepdim=True), counts, dims=([1], [0])).T
    return counts


def _contours(ax: Axes, low: Tensor, high: Tensor, density: Tensor, colour: str, style: str) -> None:
    ordered = density.flatten().sort(descending=True).values
    mass = ordered.cumsum(0) / ordered.sum()
    levels = sorted({ordered[int((mass < share).sum())].item() for share in _MASSES})
    across, up = _mesh(low, high)
    ax.contour(
        across.numpy(),
        up.numpy(),
        density.T.numpy(),
        levels=levels,
        colors=colour,
        linestyles=style,
        linewidths=1.4,
        zorder=3,
    )


def _image(ax: Axes, image: Tensor, low: Tensor, high: Tensor, clouds: list[Tensor]) -> Tensor:
    """Puts the image into the emptier upper corner, above the draws if both are full; gives the new limits."""
    size = 0.27
    shares = []
    for right in (True, False):
        share = 0.0
        for cloud in clouds:
            place = (cloud.double().cpu() - low) / (high - low)
            across = place[:, 0] > 1 - size - 0.03 if right else place[:, 0] < size + 0.03
            share = max(share, (across & (place[:, 1] > 1 - size - 0.03)).double().mean().item())
        shares.append(share)
    right = shares[0] <= shares[1]
    if min(shares) > 0.003:
        high = torch.stack([high[0], high[1] + (size + 0.02) / (1 - size - 0.02) * (high[1] - low[1])])
    corner = ax.inset_axes((1 - size - 0.02 if right else 0.02, 1 - size - 0.02, size, size))
    corner.imshow((1 - image.float()).numpy(), cmap="gray", interpolation="nearest")
    corner.set(xticks=[], yticks=[])
    corner.spines[:].set(linewidth=0.5, color="#999999")
    return high
