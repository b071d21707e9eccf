"""Walks over images: an agent sees a small crop of an image, moves it by actions, and cannot leave the image.

Places are those of the crop, a grid whose steps are a few pixels: (row, column), counted from the upper left corner, as
pictures are indexed. There is a wall around the grid, and others may stand between two places.

References:
    Fraccaro, M., Rezende, D. J., Zwols, Y., Pritzel, A., Eslami, S. M. A. and Viola, F. 2018. Generative temporal
    models with spatial memory for partially observed environments. ICML (image navigation).
"""

from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor

from zoo.data.sequences import Sequences
from zoo.data.simulated.arguments import check_at_least_zero, check_whole
from zoo.data.simulated.wandering import Wandering, sequences_seen

ACTIONS = ("right", "left", "up", "down", "stay")
# (row, column) of a step
MOVES = np.array([(0, 1), (0, -1), (-1, 0), (1, 0), (0, 0)])
CHANCES = (0.2,) * 5
Place = tuple[int, int]
Array = np.ndarray


def walks(
    images: Tensor,
    num: int,
    T: int = 288,
    seed: int = 0,
    *,
    walls: bool = False,
    blocked: Collection[tuple[Place, Place]] = (),
    crop: int = 8,
    stride: int = 3,
    repeat: float = 2.0,
    noise: float = 0.0,
) -> Sequences:
    """Walks of an agent over images: uint8 frames, actions as controls, and the agent's true places.

    Each walk begins in the middle, over an image of its own as long as there are enough; an action is kept for
    1 + Poisson(repeat) steps. A new action is never one that a wall stops at once.

    Args:
        images: uint8 `(any, height, width)` or `(any, height, width, channels)`, levels 0 .. 255: of a data set
            `train.levels.unflatten(-1, shape)`.
        num: walks.
        T: frames of each.
        seed: of images, actions and noise; without noise the walks are the same.
        walls: an action goes on where a wall stops it, and the agent stays there. Without, no action is taken that a
            wall would stop.
        blocked: pairs of neighbouring places with a wall between them, such as a `partition`.
        crop: height and width of a frame.
        stride: pixels of a step.
        repeat: mean number of further steps of an action.
        noise: standard deviation of noise of each pixel; frames are then floats, levels / 255 and noise.

    Returns:
        `Sequences`, the numbers of a pixel together as in `Split`: `truth` is (row, column) in steps from the middle,
        `controls` are one-hot, in the order of `ACTIONS`; action t leads to frame t, the first is "stay". `labels` are
        the numbers of the images.

    Raises:
        ValueError: images of another dtype or shape, or smaller than the crop; numbers out of range; pairs of places
            that are no neighbours.

    Example:
        >>> from zoo.data import load
        >>> from zoo.data.simulated.walks import walks
        >>> digits = load("digits")
        >>> images = (digits.train.levels * 15).unflatten(-1, digits.shape)
        >>> some = walks(images, num=4, T=100, crop=4, stride=1)
        >>> some.frames.dtype, some.values.shape, some.u.shape, some.padded(some.truth).shape
        (torch.uint8, torch.Size([4, 100, 16]), torch.Size([4, 100, 5]), torch.Size([4, 100, 2]))
    """
    check_whole(num=num, T=T, crop=crop, stride=stride)
    check_whole(0, seed=seed)
    check_at_least_zero(repeat=repeat, noise=noise)
    pictures = _pictures(images, crop)
    rows, columns = (1 + (size - crop) // stride for size in pictures.shape[1:3])
    after = destinations(rows, columns, blocked)
    # The stream of RandomState is the same everywhere and in every version of numpy.
    random = np.random.RandomState(seed)
    chosen = np.concatenate([random.permutation(len(pictures)) for _ in range(-(-num // len(pictures)))])[:num]
    middle = (rows - 1) // 2, (columns - 1) // 2
    wandering = Wandering(num, T, CHANCES, repeat, walls, random)
    places, actions = _ways(after, middle[0] * columns + middle[1], wandering)
    row, column = places // columns, places % columns
    # a view of every crop of an image; only those that are seen are copied
    crops = np.lib.stride_tricks.sliding_window_view(pictures, (crop, crop), (1, 2))[:, ::stride, ::stride]
    frames = crops[chosen[:, None], row, column]
    return sequences_seen(
        np.moveaxis(frames, 2, -1),
        actions,
        np.stack([row - middle[0], column - middle[1]], -1),
        num_actions=len(ACTIONS),
        noise=noise,
        random=random,
        labels=chosen,
    )


def destinations(rows: int, columns: int, blocked: Collection[tuple[Place, Place]] = ()) -> Array:
    """The place that each action leads to from each place, `(rows columns, 5)`: the same place where a wall stops it.

    Args:
        rows, columns: of the grid; place (row, column) is number row * columns + column.
        blocked: pairs of neighbouring places with a wall between them.

    Raises:
        ValueError: a pair of places that are no neighbours in the grid.
    """
    size = np.array([rows, columns])
    place = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), -1)[:, :, None]
    after = place + MOVES
    after = np.where(((after >= 0) & (after < size)).all(-1, keepdims=True), after, place)
    for pair in blocked:
        ends = np.array(pair)
        if ends.shape != (2, 2) or not ((ends >= 0) & (ends < size)).all() or np.abs(ends[1] - ends[0]).sum() != 1:
            raise ValueError(f"blocked: expected pairs of neighbours in {rows} x {columns} places, got {pair}")
        for here, there in (ends, ends[::-1]):
            after[(*here, (there - here == MOVES).all(1))] = here
    return (after @ (columns, 1)).reshape(-1, len(ACTIONS))


def laid_out(frames: Tensor, places: Tensor, crop: int = 8, stride: int = 3) -> Tensor:
    """Crops at their places as one picture `(height, width, channels)`: their mean where they overlap, 0 where none is.

    Args:
        frames: `(any, crop * crop * channels)`.
        places: (row, column) of each in steps from the upper left corner, whole numbers, `(any, 2)`.

    Returns:
        Floats, of bytes too, in units of the frames.

    Raises:
        ValueError: frames of another size; places of another number, or beyond the upper or left edge.
    """
    if frames.ndim != 2 or frames.shape[1] % crop**2:
        raise ValueError(f"frames: expected crops (any, {crop} * {crop} * channels), got {tuple(frames.shape)}")
    if places.shape != (len(frames), 2) or places.min() < 0:
        raise ValueError(f"places: expected (row, column) of {len(frames)} frames from the corner (0, 0), got "
                         f"{tuple(places.shape)}, least {places.min():g}")  # fmt: skip
    high, wide = (int(most) * stride + crop for most in places.amax(0))
    # a sum of bytes begins anew at 256
    frames = frames if frames.is_floating_point() else frames.float()
    total = frames.new_zeros(high, wide, frames.shape[1] // crop**2)
    count = total.new_zeros(high, wide, 1)
    for frame, (row, column) in zip(frames, (places.long() * stride).tolist(), strict=True):
        total[row : row + crop, column : column + crop] += frame.unflatten(-1, (crop, crop, -1))
        count[row : row + crop, column : column + crop] += 1
    return total / count.clamp(min=1)


def partition(rows: int, column: int, gap: Collection[int]) -> tuple[tuple[Place, Place], ...]:
    """An upright wall through a grid, right of a column: the pairs of places that it parts, but for rows with a gap."""
    return tuple(((row, column), (row, column + 1)) for row in range(rows) if row not in gap)


def _pictures(images: Tensor, crop: int) -> Array:
    """The images as `(any, height, width, channels)`."""
    if images.dtype != torch.uint8 or images.ndim not in (3, 4) or not len(images):
        raise ValueError(f"images: expected torch.uint8 (any, height, width[, channels]), got {images.dtype} "
                         f"{tuple(images.shape)}; levels.unflatten(-1, shape) makes pictures of a split")  # fmt: skip
    if min(images.shape[1:3]) < crop:
        raise ValueError(f"images: expected at least {crop} x {crop} pixels, the size of a crop, got "
                         f"{tuple(images.shape)}")  # fmt: skip
    pictures = images.cpu().numpy()
    return pictures if images.ndim == 4 else pictures[..., None]


def _ways(after: Array, start: int, wandering: Wandering) -> tuple[Array, Array]:
    """Numbers of places and actions, `(num, T)` each; the first action is to stay at the start."""
    free = after != np.arange(len(after))[:, None]
    free[:, -1] = True
    place, action = np.full(len(wandering.agents), start), wandering.action
    places, actions = [place], [action]
    for t in range(1, len(wandering.uniform)):
        action = wandering.action_of(t, free[place])
        place = after[place, action]
        places.append(place)
        actions.append(action)
    return np.stack(places, 1), np.stack(actions, 1)
