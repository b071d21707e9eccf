"""Figures of piano rolls."""

from collections.abc import Mapping

import numpy as np
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from torch import Tensor

from zoo.plots.look import GUIDE

__all__ = ["plot_piano_rolls"]

LOWEST = 21  # MIDI number of A0, the first of 88 keys


def plot_piano_rolls(
    rolls: Mapping[str, Tensor],
    *,
    known: Mapping[str, int] | None = None,
    lowest: int = LOWEST,
    title: str | None = None,
) -> Figure:
    """Rolls side by side, keys up and frames across: data, reconstruction, sample, forecast.

    The picture is cut to the keys that sound in some roll, with two keys above and below.

    Args:
        rolls: name -> `(T, keys)`, bits or probabilities (grey).
        known: name -> number of frames at the start that the model was given; the frames after them (a forecast) have
            the colour of guides.
        lowest: MIDI number of the first key.
        title: above the rolls.

    Raises:
        ValueError: no rolls, shapes that differ in keys, or values outside [0, 1].
    """
    if not rolls:
        raise ValueError("plot_piano_rolls: there must be at least one roll")
    found = {name: roll.detach().cpu().float() for name, roll in rolls.items()}
    keys = {roll.shape[-1] for roll in found.values() if roll.dim() == 2}
    if len(keys) != 1 or any(roll.dim() != 2 for roll in found.values()):
        shapes = {name: tuple(roll.shape) for name, roll in found.items()}
        raise ValueError(f"plot_piano_rolls: expected (T, keys) with the same keys, got {shapes}")
    for name, roll in found.items():
        if not ((roll >= 0) & (roll <= 1)).all():
            raise ValueError(f"plot_piano_rolls: {name}: expected bits or probabilities, got values outside [0, 1]")
    sounding = torch.cat(list(found.values())).amax(0) > 0.5
    # Rolls in which nothing sounds show all keys.
    ends = sounding.nonzero().flatten().tolist() or [0, keys.pop() - 1]
    low, high = max(ends[0] - 2, 0), ends[-1] + 2
    figure = Figure(figsize=(min(3.4 * len(found), 16.0), 3.4), layout="constrained")
    axes = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for ax, (name, roll) in zip(axes, found.items(), strict=True):
        start = (known or {}).get(name, len(roll))
        ax.imshow(_coloured(roll, start), origin="lower", aspect="auto", interpolation="nearest",
                  extent=(-0.5, len(roll) - 0.5, lowest - 0.5, lowest + roll.shape[-1] - 0.5))  # fmt: skip
        if 0 < start < len(roll):
            ax.axvline(start - 0.5, color=GUIDE, linewidth=1.0, linestyle="dashed")
        ax.set_ylim(lowest + low - 0.5, lowest + high + 0.5)
        ax.set_title(name, fontsize=10)
        ax.set_xlabel("frame", fontsize=9)
        ax.tick_params(labelsize=8)
    octaves = [midi for midi in range(12, 128, 12) if lowest + low <= midi <= lowest + high]
    axes[0].set_yticks(octaves, [f"C{midi // 12 - 1}" for midi in octaves])
    axes[0].set_ylabel("key", fontsize=9)
    if title is not None:
        figure.suptitle(title, fontsize=10)
    return figure


def _coloured(roll: Tensor, start: int) -> np.ndarray:
    """A roll `(T, keys)` as an image `(keys, T, 3)`: dark grey on white, from frame `start` on the guides' colour."""
    # Colours by hand, not by a colour map: the two halves of one image have different inks on the same white.
    ink = torch.tensor([[0.15, 0.15, 0.15], to_rgb(GUIDE)])
    colour = ink[(torch.arange(len(roll)) >= start).long()]
    shade = roll.T.unsqueeze(-1)
    return (1 - shade * (1 - colour)).numpy()
