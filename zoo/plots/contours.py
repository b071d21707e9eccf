"""Contours of densities in a plane: the smallest regions that hold a given mass, of draws or of a density itself."""

import math
from typing import Any, NamedTuple

import torch
from matplotlib.axes import Axes
from torch import Tensor

__all__ = ["BINS", "MASSES", "Window", "draw_contours", "histogram"]

MASSES = (0.95, 0.5)
BINS = 100
# Standard deviation of the smoothing, in standard deviations of the draws.
SMOOTHING = 0.25


class Window(NamedTuple):
    """A rectangle of the plane with `BINS` bins on each axis; `low` and `high` are `(2,)`."""

    low: Tensor
    high: Tensor

    @staticmethod
    def around(moments: list[tuple[Tensor, Tensor]]) -> "Window":
        """The rectangle that holds 3.4 standard deviations around each mean; `moments` are (mean, sd), `(2,)` each."""
        # The contour of 95 % of a Gaussian has the radius 2.45; heavier tails, the image and the frame want room.
        low = torch.stack([(mean - 3.4 * sd).double().cpu() for mean, sd in moments]).amin(0)
        high = torch.stack([(mean + 3.4 * sd).double().cpu() for mean, sd in moments]).amax(0)
        return Window(low, high)

    def centres(self) -> tuple[Tensor, Tensor]:
        """Centres of the bins on the two axes."""
        steps = (torch.arange(BINS, dtype=torch.double) + 0.5) / BINS
        across, up = (self.low + steps.unsqueeze(-1) * (self.high - self.low)).unbind(-1)
        return across, up

    def shares(self, z: Tensor) -> Tensor:
        """Positions `(K, 2)` in units of the rectangle: 0 at its lower corner, 1 at its upper one."""
        return (z.double().cpu() - self.low) / (self.high - self.low)


def histogram(z: Tensor, window: Window) -> Tensor:
    """Draws `(K, 2)` counted in the bins and smoothed by a Gaussian, `(BINS, BINS)`."""
    z = z.double().cpu()
    mean, sd = z.mean(0), z.std(0)
    # The draws are first drawn together by as much as the smoothing spreads them, which keeps the covariance: a plain
    # kernel estimate would show every guide too wide by 3 %.
    z = mean + (z - mean) / math.sqrt(1 + SMOOTHING**2)
    place = (window.shares(z) * BINS).floor().long()
    place = place[((place >= 0) & (place < BINS)).all(-1)]
    counts = torch.bincount(place[:, 0] * BINS + place[:, 1], minlength=BINS**2).reshape(BINS, BINS).double()
    # At least 0.7 bins: a narrow cloud in a wide window would be a lattice of peaks.
    widths = (SMOOTHING * sd / (window.high - window.low) * BINS).clamp(min=0.7)
    offsets = torch.arange(BINS)
    for width in widths:
        kernel = torch.exp(-0.5 * ((offsets[:, None] - offsets) / width) ** 2)
        # Each pass smooths one axis and turns the square, so that two passes put it back.
        counts = torch.tensordot(kernel / kernel.sum(0, keepdim=True), counts, dims=([1], [0])).T
    return counts


def draw_contours(ax: Axes, window: Window, density: Tensor, colour: str, style: Any) -> None:
    """Draws the contours of the smallest regions that hold `MASSES` of a density on the bins, `(BINS, BINS)`.

    Args:
        ax: axes to draw on.
        window: rectangle of the bins.
        density: need not be normalised.
        colour, style: of the lines, the style in any form that matplotlib takes.
    """
    # The smallest region of a mass is a level set: bins are taken from the highest down until the mass is reached.
    ordered = density.flatten().sort(descending=True).values
    mass = ordered.cumsum(0) / ordered.sum()
    # A set: matplotlib refuses two equal levels, as a density in one bin would give.
    levels = sorted({ordered[int((mass < share).sum())].item() for share in MASSES})
    across, up = window.centres()
    ax.contour(
        across.numpy(),
        up.numpy(),
        density.T.numpy(),
        levels=levels,
        colors=colour,
        linestyles=[style],
        linewidths=1.4,
        zorder=3,
    )
