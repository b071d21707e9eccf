"""Figures of images: a grid of them, or rows to compare."""

import math
from collections.abc import Mapping

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

__all__ = ["plot_images", "plot_reconstructions"]

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
