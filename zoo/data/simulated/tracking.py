"""Positions of the ball in pictures, and how far a system's pictures and latents are from the true ones.

Pictures `(N, T, 1024)` are frames, or a system's probabilities of white pixels; positions `(N, T, 2)` are in pixels, as
`balls` has them; masks `(N, T)` are True where a frame is seen, and everything is measured where none is.

Both measures of pictures are needed. A picture without any ball has a smaller Hamming distance from the true frame than
one whose ball is a diameter off (`walls_only`), and the paper's baseline is easier than either.
"""

from typing import NamedTuple

import numpy as np
import torch
from sklearn.linear_model import LinearRegression
from torch import Tensor

from zoo.data.simulated.balls import MIDDLE, PIXELS, SIZE, Room


def planning_mask(num: int, missing: int, T: int = 20, seen: int = 4) -> Tensor:
    """The mask of a gap, bool `(num, T)`: `seen` frames, then `missing` that are not seen, then seen ones again.

    Raises:
        ValueError: no missing frame, or more than there are.
    """
    if not 0 < missing <= T - seen or seen < 0:
        raise ValueError(f"missing: expected 1 to {T - seen} frames after {seen} of {T}, got {missing}")
    mask = torch.ones(num, T, dtype=torch.bool)
    mask[:, seen : seen + missing] = False
    return mask


def positions(pictures: Tensor, room: Room) -> Tensor:
    """The centre of mass of each picture without its walls and paddles; of an empty one the middle of the room."""
    _refuse_pictures(pictures)
    inside = pictures * torch.from_numpy(room.interior).flatten().to(pictures)
    points = torch.from_numpy(PIXELS).reshape(-1, 2).to(pictures)
    # so little that a ball of grey 0.1 moves by less than a thousandth of a pixel
    little = 1e-4
    return (inside @ points + little * MIDDLE) / (inside.sum(-1, keepdim=True) + little)


def straight_line(positions: Tensor, mask: Tensor) -> Tensor:
    """Positions with those of missing frames on the straight line between the seen ones around them.

    Before the first and after the last seen frame the ball stands still.

    Raises:
        ValueError: a sequence of which no frame is seen.
    """
    if not mask.any(1).all():
        raise ValueError(f"mask: sequence {int((~mask.any(1)).nonzero()[0])} has no frame that is seen")
    filled = positions.clone()
    times = np.arange(mask.shape[1])
    for row, seen in enumerate(mask.cpu().numpy()):
        for axis in range(positions.shape[-1]):
            known = positions[row, :, axis].cpu().numpy()[seen]
            filled[row, :, axis] = torch.from_numpy(np.interp(times, times[seen], known)).to(filled)
    return filled


def distance(found: Tensor, true: Tensor, mask: Tensor) -> float:
    """The mean distance from the true positions in frames that are not seen, in pixels.

    Raises:
        ValueError: every frame is seen; another number of sequences or frames.
    """
    _refuse_seen(mask)
    _refuse_others("found", found, true, mask)
    return (found - true)[~mask].norm(dim=-1).double().mean().item()


def hamming(pictures: Tensor, frames: Tensor, mask: Tensor) -> float:
    """The share of wrong pixels in frames that are not seen; probabilities above a half are white.

    Raises:
        ValueError: no pictures; every frame is seen; another number of sequences or frames.
    """
    _refuse_pictures(pictures)
    _refuse_seen(mask)
    _refuse_others("pictures", pictures, frames, mask)
    return ((pictures > 0.5) != (frames > 0.5))[~mask].double().mean().item()


class HammingBaselines(NamedTuple):
    """Hamming distances of frames that are not seen from pictures that no model is needed for.

    Attributes:
        paper: the largest one between frames 0, 3, 6 and frames 9, 12, 15 of a sequence, mean over sequences; the paper
            prints it as its baseline.
        walls_only: of a picture of the walls without ball and paddles.
    """

    paper: float
    walls_only: float


def hamming_baselines(frames: Tensor, room: Room, mask: Tensor) -> HammingBaselines:
    """The two baselines of `hamming` for true frames of at least 16 time steps.

    Raises:
        ValueError: fewer time steps.
    """
    if frames.shape[1] < 16:
        raise ValueError(f"frames: expected at least 16 time steps, to the last that the paper compares, got "
                         f"{frames.shape[1]}")  # fmt: skip
    bits = frames > 0.5
    pairs = [(bits[:, i] != bits[:, j]).double().mean(-1) for i in (0, 3, 6) for j in (9, 12, 15)]
    walls = torch.from_numpy(room.walls).flatten().to(frames)
    paper = torch.stack(pairs).amax(0).mean().item()
    return HammingBaselines(paper, hamming(walls.expand_as(frames), frames, mask))


def linear_r2(latents: Tensor, true: Tensor) -> float:
    """R^2 of true positions read off latent means `(N, T, D)` linearly: fitted to half of the sequences, of the others.

    A model whose ELBO is high may have folded the room in its code; then a straight line of the ball is none in the
    code, its dynamics cannot be linear, and R^2 is about a half.

    Raises:
        ValueError: fewer than two sequences, or other numbers of sequences and frames than the positions have.
    """
    if latents.shape[:-1] != true.shape[:-1] or len(latents) < 2:
        expected = f"(N, T, any) beside positions {tuple(true.shape)} of two sequences or more"
        raise ValueError(f"latents: expected {expected}, got {tuple(latents.shape)}")
    half = len(latents) // 2
    parts = [
        [values[rows].flatten(0, 1).double().cpu().numpy() for values in (latents, true)]
        for rows in (slice(half), slice(half, None))
    ]
    fitted, others = parts
    return float(LinearRegression().fit(*fitted).score(*others))


def _refuse_pictures(pictures: Tensor) -> None:
    if not pictures.is_floating_point() or pictures.shape[-1] != SIZE * SIZE:
        raise ValueError(
            f"pictures: expected floats (..., {SIZE * SIZE}), got {pictures.dtype} {tuple(pictures.shape)}"
        )


def _refuse_seen(mask: Tensor) -> None:
    if mask.all():
        raise ValueError("mask: every frame is seen, and measured are those that are not")


def _refuse_others(name: str, found: Tensor, true: Tensor, mask: Tensor) -> None:
    # they would broadcast, and one sequence be compared with all
    if found.shape != true.shape or found.shape[:2] != mask.shape:
        raise ValueError(f"{name}: expected the shape of the true ones, {tuple(true.shape)}, and a mask of its "
                         f"(N, T), got {tuple(found.shape)} and mask {tuple(mask.shape)}")  # fmt: skip
