"""Figures of images: a grid of them, rows to compare, or lines through the latents."""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

__all__ = ["plot_images", "plot_reconstructions", "plot_traversal"]

# Inches on paper for one image across, and of a label beside a row of them.
CELL, LABEL = 0.62, 1.3


def plot_images(images: Tensor, image_shape: tuple[int, int], *, columns: int = 10, title: str | None = None) -> Figure:
    """A grid of grey images, filled row by row.

    Args:
        images: `(N, height * width)` with values in [0, 1], 0 is white; values outside are clipped.
        image_shape: `(height, width)`.
        columns: images in a row.
        title: above the grid.
    """
    count, (height, width) = math.ceil(len(images) / columns), image_shape
    columns = min(columns, len(images))
    size = (CELL * columns, CELL * count * height / width + (0.3 if title else 0))
    figure = Figure(figsize=size, layout="constrained")
    ax = figure.add_subplot()
    _show(ax, images, image_shape, columns)
    ax.set_axis_off()
    if title:
        ax.set_title(title, fontsize=10)
    return figure


def plot_reconstructions(rows: Mapping[str, Tensor], image_shape: tuple[int, int]) -> Figure:
    """Rows of images under each other, for example data, reconstructions, samples.

    Args:
        rows: label -> `(N, height * width)` with values in [0, 1]; a shorter row ends earlier.
        image_shape: `(height, width)`.
    """
    height, width = image_shape
    count = max(len(images) for images in rows.values())
    # A little higher than the images, so that constrained layout leaves a gap between the rows.
    figure = Figure(figsize=(LABEL + CELL * count, 0.66 * len(rows) * height / width), layout="constrained")
    axes = figure.subplots(len(rows), 1, squeeze=False)[:, 0]
    for ax, (label, images) in zip(axes, rows.items(), strict=True):
        _show(ax, images, image_shape, count)
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
        ax.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
    return figure


def plot_traversal(
    decode: Callable[[Tensor], Tensor],
    z: Tensor,
    image_shape: tuple[int, int],
    *,
    coordinates: Sequence[int] | None = None,
    values: Sequence[float] = (-3.0, -2.25, -1.5, -0.75, 0.0, 0.75, 1.5, 2.25, 3.0),
) -> Figure:
    """Images along each latent coordinate: a row for a coordinate, which takes all values while the others stay.

    Args:
        decode: mean images `(n, height * width)` of latents `(n, d)`, such as `lambda z: model.likelihood(z).mean`.
        z: latents of the point that the lines go through, `(d,)`.
        image_shape: `(height, width)`.
        coordinates: entries of z to show; None: all.
        values: of the coordinate, for each column.

    Raises:
        ValueError: z is no vector, a coordinate that it has not, or no values.
    """
    if z.dim() != 1:
        raise ValueError(f"plot_traversal: z: expected shape (d,), got {tuple(z.shape)}")
    chosen = list(range(len(z)) if coordinates is None else coordinates)
    if not chosen or any(not 0 <= place < len(z) for place in chosen):
        raise ValueError(f"plot_traversal: coordinates: expected some of 0..{len(z) - 1}, got {chosen}")
    if not len(values):
        raise ValueError("plot_traversal: values: there must be at least one")
    points = z.repeat(len(chosen), len(values), 1)
    for row, place in enumerate(chosen):
        points[row, :, place] = torch.as_tensor(values, dtype=z.dtype)
    with torch.no_grad():
        images = decode(points.flatten(0, 1)).reshape(len(chosen), len(values), -1)
    figure = plot_reconstructions({f"z[{p}]": row for p, row in zip(chosen, images, strict=True)}, image_shape)
    below = figure.axes[-1]
    places = [n * (image_shape[1] + 1) + (image_shape[1] - 1) / 2 for n in range(len(values))]
    below.set_xticks(places, [f"{value:g}" for value in values], fontsize=8)
    below.tick_params(length=0)
    figure.set_figheight(figure.get_figheight() + 0.25)
    return figure


def _show(ax: Axes, images: Tensor, image_shape: tuple[int, int], columns: int) -> None:
    """Draws images `(N, height * width)` row by row, one pixel apart, dark on white."""
    height, width = image_shape
    count = math.ceil(len(images) / columns)
    # One picture, not an axis for each image: a hundred axes take seconds to lay out.
    canvas = torch.ones(count * (height + 1) - 1, columns * (width + 1) - 1)
    for n, image in enumerate(images.detach().cpu().reshape(len(images), height, width)):
        top, left = n // columns * (height + 1), n % columns * (width + 1)
        canvas[top : top + height, left : left + width] = 1 - image.clamp(0, 1)
    ax.imshow(canvas.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
