"""Videos of a ball in a room: `box`, `box_gravity`, `pong`, `polygon` and `box_pushed`.

Between two bounces the centre moves on a parabola, so the time of the next bounce is the root of a quadratic, and the
motion is exact. A physics engine (pymunk, as in the KVAE's own code) goes by small steps: its ball sinks into a wall by
up to a step, and it needs a library that draws (pygame), which rounds centres to whole pixels.

Positions are (x, y) in pixels, x to the right and y downwards, as pictures are indexed: pixel (row i, column j) is the
point (j, i). Pixels whose point lies in the ball, or within half a pixel of a wall, are 1.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from zoo.data import manifest
from zoo.data.dataset import Dataset
from zoo.data.sequences import Sequences
from zoo.data.simulated.arguments import check_whole
from zoo.data.sources import Root, check_content

SIZE = 32
RADIUS = 3.0
# Time from frame to frame.
STEP = 0.2
# Start positions are drawn around the middle and clipped, so that in the square rooms none lies in a wall.
MIDDLE, CLIP = 16.0, (6.0, 26.0)
# Draws of a start until it lies in the room, by more than a distance from its walls.
TRIALS, TOUCH = 100_000, 1e-6
# Half the length of a paddle, and how far it moves in a frame.
HALF, REACH = 3.0, 2.0
COLUMNS = tuple(f"row {row}, column {column}" for row in range(SIZE) for column in range(SIZE))
# (x, y) of each pixel, `(32, 32, 2)`
PIXELS = np.stack(np.meshgrid(np.arange(SIZE), np.arange(SIZE)), -1).astype(float)
Array = np.ndarray


@dataclass(frozen=True)
class Room:
    """A convex room, and how a ball starts and moves in it.

    Args:
        corners: of the polygon that the walls form, in order.
        spread: standard deviation of the start position before it is clipped.
        speeds: the least and the greatest speed at the start, in pixels per unit of time; a frame takes 0.2 of it.
        gravity: acceleration downwards.
        elasticity: ratio of the speeds across a wall after and before a bounce; 1: no loss.
        paddles: the second and fourth wall, which are upright, are drawn only where a paddle of 6 pixels is, at the
            ball's height. Each frame it moves up or down by 2 if the ball is more than 1 away.
        push: acceleration that a control of 1 causes; 0: there are no controls.

    Raises:
        ValueError: walls that form no convex room with the ball in its middle, (16, 16); paddles in a room of other
            walls, or outside the picture; numbers out of range; or accelerations in a room whose bounces lose speed,
            where a ball may bounce without end in finite time.
    """

    corners: tuple[tuple[float, float], ...]
    spread: float
    speeds: tuple[float, float]
    gravity: float = 0.0
    elasticity: float = 1.0
    paddles: bool = False
    push: float = 0.0

    def __post_init__(self) -> None:
        low, high = self.speeds
        polygon = np.shape(self.corners)[1:] == (2,) and len(self.corners) > 2
        inside = polygon and (self.gaps(np.array(self.corners)) + RADIUS >= -1e-9).all()
        if not inside or self.gaps(np.full((1, 2), MIDDLE)).min() <= 0:
            raise ValueError(f"corners: expected a convex room that holds the ball at (16, 16), got {self.corners}")
        if self.paddles and not self._has_upright_walls():
            expected = "a room of four walls, of which the second and the fourth are upright and in the picture"
            raise ValueError(f"paddles: expected {expected}, got {self.corners}")
        if not (0 <= low <= high < math.inf and 0 <= self.spread < math.inf):
            raise ValueError(f"expected 0 <= spread and 0 <= speeds[0] <= speeds[1], got {self.spread}, {self.speeds}")
        if not (math.isfinite(self.gravity) and math.isfinite(self.push)):
            raise ValueError(f"gravity, push: expected finite numbers, got {self.gravity}, {self.push}")
        if not 0 < self.elasticity <= 1:
            raise ValueError(f"elasticity: expected more than 0 and at most 1, got {self.elasticity}")
        if self.elasticity < 1 and (self.gravity or self.push):
            raise ValueError(f"elasticity: expected 1 under gravity or pushes, got {self.elasticity}")

    def _has_upright_walls(self) -> bool:
        """Tells whether the second and the fourth of four walls stand upright in the picture."""
        columns = [column for column, _ in self.corners]
        upright = len(columns) == 4 and columns[0] == columns[3] and columns[1] == columns[2]
        return upright and all(0 <= column <= SIZE - 1 for column in columns)

    @cached_property
    def normals(self) -> Array:
        """The unit vector into the room of each wall, `(W, 2)`; wall w goes from corner w to the next."""
        start = np.array(self.corners)
        along = np.roll(start, -1, 0) - start
        normals = np.stack([-along[:, 1], along[:, 0]], 1) / np.linalg.norm(along, axis=1, keepdims=True)
        # whichever way round the corners are given
        inward = np.sum(normals * (start.mean(0) - start), 1, keepdims=True)
        return normals * np.sign(inward)

    def gaps(self, position: Array) -> Array:
        """Distances of the ball's edge from each wall, `(N, W)`; negative: outside."""
        return position @ self.normals.T - np.sum(self.normals * np.array(self.corners), 1) - RADIUS

    def until_bounce(self, position: Array, velocity: Array, acceleration: Array) -> Array:
        """The time until the ball would touch each wall, `(N, W)`; infinite if it never does."""
        # The first root t > 0 of gap + rate t + pull t^2 / 2 on the way to the wall. Rounding leaves a ball that has
        # just bounced a little outside.
        gap = np.maximum(self.gaps(position), 0.0)
        rate, pull = velocity @ self.normals.T, acceleration @ self.normals.T
        discriminant = rate**2 - 2 * pull * gap
        root = np.sqrt(np.maximum(discriminant, 0.0))
        # Two forms of one root: each divides by a sum of terms of one sign, so nothing cancels.
        nears, turns = (rate <= 0) & (discriminant >= 0), (rate > 0) & (pull < 0)
        above = np.where(nears, 2 * gap, rate + root)
        below = np.where(nears, root - rate, -pull)
        possible = (nears | turns) & (below > 0)
        return np.where(possible, above / np.where(possible, below, 1.0), np.inf)

    def moved(self, position: Array, velocity: Array, acceleration: Array, time: float) -> tuple[Array, Array]:
        """Positions and velocities `(N, 2)` after a time, through every bounce on the way."""
        position, velocity = position.astype(float), velocity.astype(float)
        left, rows = np.full(len(position), time), np.arange(len(position))
        # Each round goes up to the next bounce, or to the end of the time, in the sequences that have not come there.
        while len(rows):
            pull = acceleration[rows]
            until = self.until_bounce(position[rows], velocity[rows], pull)
            step = np.minimum(until.min(1), left[rows])[:, None]
            position[rows] += velocity[rows] * step + pull * step**2 / 2
            velocity[rows] += pull * step
            bounces = until.min(1) < left[rows]
            left[rows] -= step[:, 0]
            rows, normal = rows[bounces], self.normals[until.argmin(1)[bounces]]
            across = np.sum(velocity[rows] * normal, 1, keepdims=True)
            velocity[rows] -= (1 + self.elasticity) * across * normal
        return position, velocity

    def starts(self, num: int, random: np.random.RandomState) -> tuple[Array, Array]:
        """Positions and velocities of the first frames, `(num, 2)`."""
        position, outside = np.zeros((num, 2)), np.ones(num, bool)
        # In a polygon a clipped position may still lie in a wall.
        for _ in range(TRIALS):
            drawn = MIDDLE + self.spread * random.standard_normal((int(outside.sum()), 2))
            position[outside] = np.clip(drawn, *CLIP)
            # Nor may it touch one: a ball that lies on a floor under gravity has no next bounce.
            outside = self.gaps(position).min(1) < TOUCH
            if not outside.any():
                break
        else:
            expected = f"starts within the walls, of which {TRIALS:,} draws found too few"
            raise ValueError(f"spread: expected {expected} for {num} balls, got {self.spread}")
        angle, speed = random.uniform(0, 2 * math.pi, num), random.uniform(*self.speeds, num)
        return position, speed[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)

    def path(self, position: Array, velocity: Array, controls: Array) -> Array:
        """Positions and velocities at each frame, `(N, T, 4)`, from those of the first.

        Args:
            controls: `(N, T, 2)`, the push that acts from frame t - 1 to frame t; the first is not used.
        """
        states = [(position, velocity)]
        for push in controls.swapaxes(0, 1)[1:]:
            states.append(self.moved(*states[-1], np.array([0.0, self.gravity]) + self.push * push, STEP))
        return np.stack([np.concatenate(state, 1) for state in states], 1)

    @cached_property
    def walls(self) -> Array:
        """The picture of the walls without ball and paddles, bool `(32, 32)`."""
        start = np.array(self.corners)
        along = np.roll(start, -1, 0) - start
        # along the wall: 0 at its first corner, 1 at the next
        place = np.sum((PIXELS[..., None, :] - start) * along, -1) / np.sum(along**2, -1)
        nearest = start + np.clip(place, 0, 1)[..., None] * along
        drawn = np.linalg.norm(PIXELS[..., None, :] - nearest, axis=-1) <= 0.5
        return (drawn[..., ::2] if self.paddles else drawn).any(-1)

    @cached_property
    def interior(self) -> Array:
        """The pixels inside that are part of no wall, and of no place of a paddle, bool `(32, 32)`."""
        gaps = self.gaps(PIXELS.reshape(-1, 2)) + RADIUS
        return (gaps > 0.5).all(1).reshape(SIZE, SIZE)

    def frames(self, positions: Array) -> Array:
        """Pictures of the ball at positions `(N, T, 2)`: uint8 0 and 1, `(N, T, 32, 32)`."""
        frames = np.empty((*positions.shape[:2], SIZE, SIZE), np.uint8)
        pixels, paddle = np.arange(SIZE), positions[:, 0, 1]
        # frame by frame: the distances of all pixels of all frames are gigabytes
        for t, (x, y) in enumerate(positions.transpose(1, 2, 0)):
            distance = (pixels - y[:, None])[:, :, None] ** 2 + (pixels - x[:, None])[:, None, :] ** 2
            frames[:, t] = (distance <= RADIUS**2) | self.walls
            if self.paddles:
                # pygame's paddles begin in the middle, up to 6 pixels from a ball that they have to meet
                paddle = paddle + REACH * np.sign(y - paddle) * (np.abs(y - paddle) > REACH / 2)
                for column in sorted({round(x) for x, _ in self.corners}):
                    frames[:, t, :, column] |= np.abs(pixels - paddle[:, None]) <= HALF
        return frames


def square_room(low: float, high: float) -> tuple[tuple[float, float], ...]:
    """The corners of a square room, its upper wall first."""
    return (low, low), (high, low), (high, high), (low, high)


# From the code of the KVAE; its stream of random numbers goes through pygame and cannot be had again.
ROOMS = {
    "box": Room(square_room(2, 30), spread=10, speeds=(10, 15)),
    "box_gravity": Room(square_room(2, 30), spread=8, speeds=(5, 10), gravity=5),
    # a ball of elasticity 0.9 and walls of 0.99
    "pong": Room(((2, 1), (30, 1), (30, 31), (2, 31)), spread=3, speeds=(10, 10), elasticity=0.9 * 0.99, paddles=True),
    "polygon": Room(((3, 1), (1, 15), (8, 30), (25, 30), (30, 8), (15, 1)), spread=2.5, speeds=(10, 15)),
    # ours: a frame's push changes the speed by 2, a fifth of that at the start
    "box_pushed": Room(square_room(2, 30), spread=8, speeds=(5, 10), push=10),
}


def videos(room: Room, num: int, T: int = 20, seed: int = 0) -> Sequences:
    """Simulated videos of a room: uint8 frames, true positions and velocities, and controls where the room has them.

    Args:
        room: one of `ROOMS`, or your own.
        num: sequences.
        T: frames of each.
        seed: of start positions, velocities and controls.

    Raises:
        ValueError: `num` or `T` below 1, `seed` below 0, or no whole number.

    Returns:
        `Sequences` of 1024 columns; `truth` is (x, y, velocity of x, velocity of y) of each frame.

    Example:
        >>> from zoo.data.simulated.balls import ROOMS, videos
        >>> long = videos(ROOMS["polygon"], num=2, T=100)
        >>> long.frames.dtype, long.values.shape, long.padded(long.truth).shape
        (torch.uint8, torch.Size([2, 100, 1024]), torch.Size([2, 100, 4]))
    """
    check_whole(num=num, T=T)
    check_whole(0, seed=seed)
    # The stream of RandomState is the same everywhere and in every version of numpy.
    random = np.random.RandomState(seed)
    start = room.starts(num, random)
    controls = random.standard_normal((num, T, 2)) if room.push else np.zeros((num, T, 2))
    truth = room.path(*start, controls)
    frames = room.frames(truth[..., :2])
    return Sequences(
        torch.from_numpy(frames).reshape(num * T, SIZE * SIZE),
        torch.full((num,), T),
        COLUMNS,
        num_levels=2,
        truth=torch.from_numpy(truth).float().flatten(0, 1),
        controls=torch.from_numpy(controls).float().flatten(0, 1) if room.push else None,
    )


# Sequences and seed of each split: the sizes and seeds of the KVAE's code, which validates on the test set.
SPLITS = {"train": (5000, 1234), "valid": (500, 4321), "test": (1000, 5678)}


def _dataset(name: str) -> Callable[[Root], Dataset[Sequences]]:
    def balls(root: Root = None) -> Dataset[Sequences]:
        """5,000/500/1,000 videos of 20 frames, 32 x 32 bits, made at each load in a few seconds; no file is needed."""
        parts = {part: videos(ROOMS[name], num, seed=seed) for part, (num, seed) in SPLITS.items()}
        sha256 = manifest.SETS[name]["sha256"]
        # as of `cadences`: this machine draws the set whose numbers are printed
        check_content({part: split.frames.numpy() for part, split in parts.items()}, sha256, f"{name}()")
        digests = {f"{name}/{part}": value for part, value in sha256.items()}
        return manifest.dataset(name, (parts["train"], parts["valid"], parts["test"]), (SIZE, SIZE), digests)

    return balls


BALL_SETS = {name: _dataset(name) for name in ROOMS}
