"""The look that all figures share: a colour means the same everywhere, so that figures can be compared."""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from torch import Tensor

__all__ = ["CYCLE", "DRAWS", "EXACT", "GUIDE", "HIDDEN", "array", "looks", "plain", "styles"]

# Colours of a guide or any approximation, the exact posterior, draws and observed data, data kept from the model.
GUIDE, EXACT, DRAWS, HIDDEN = "#d9541e", "#1f5fa8", "#6b6b6b", "#2f8f4e"
# Curves and bands in their order. Draws' grey and the hidden data's green are left out: they lie over the bands.
CYCLE = (EXACT, GUIDE, "#8a4fa3", "#b8860b", "#4a4a4a")


def plain(ax: Axes) -> None:
    """Takes away the upper and the right frame and makes the numbers small."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=8)


def array(part: Tensor) -> np.ndarray:
    """A tensor as an array of doubles."""
    # matplotlib asks for values on the CPU without a graph; bfloat16 has no counterpart in numpy.
    return part.detach().cpu().double().numpy()


def styles(*first: str) -> Iterator[tuple[str, str]]:
    """Colours and line styles of curves in their order, `first` before the others; no two are alike among 20."""
    # Lines that share a colour differ in their dashes: more colours than these cannot be told apart.
    colours = [*first, *(colour for colour in CYCLE if colour not in first)]
    for style, colour in product(("solid", "dashed", "dotted", "dashdot"), colours):
        yield colour, style


def looks(kinds: Sequence[str]) -> list[tuple[str, Any]]:
    """Colours and dashes of posteriors in one figure; the colours differ as far as there are colours, dashes beyond.

    Args:
        kinds: EXACT, GUIDE or DRAWS of each: the colour that the first of its kind bears.
    """
    # Dashes let an exact line be seen below one that covers it, and are not shared by the kinds.
    dashes: dict[str, tuple[Any, ...]] = {
        EXACT: ("solid", "dashdot", (0, (8, 2))),
        GUIDE: ("dashed", "dotted", (0, (3, 1, 1, 1))),
        DRAWS: ("solid",),
    }
    further = product(range(len(dashes[EXACT])), [colour for colour in CYCLE if colour not in kinds])
    found: list[tuple[str, Any]] = []
    for place, kind in enumerate(kinds):
        turn, colour = (0, kind) if kind not in kinds[:place] else next(further, (0, kind))
        found.append((colour, dashes[kind][min(turn, len(dashes[kind]) - 1)]))
    return found
