"""Rooms with coloured walls, seen by an agent that turns and walks: one ray for each column of the picture.

A room is a polygon around the origin, where every agent starts and looks along the axis of x; positions are (x, y), and
headings are in radians, to the left. Each wall is a row of panels in colours drawn anew for every walk, so that views
behind the agent can only be remembered. Convex or not: a ray ends at the nearest wall that it meets.

References:
    Fraccaro, M., Rezende, D. J., Zwols, Y., Pritzel, A., Eslami, S. M. A. and Viola, F. 2018. Generative temporal
    models with spatial memory for partially observed environments. ICML (a room of the Labyrinth, for which these
    rooms stand in).
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from zoo.data.sequences import Sequences
from zoo.data.simulated.arguments import check_at_least_zero, check_whole
from zoo.data.simulated.wandering import Wandering, sequences_seen

ACTIONS = ("ahead", "back", "left", "right", "stay")
CHANCES = (0.3, 0.15, 0.25, 0.25, 0.05)
# Levels of ceiling and floor; the colours of panels, and their shade by distance: 1.15 - 0.25 depth, within limits.
CEILING, FLOOR = 38, 89
DARKEST, BRIGHTEST = 0.1, 1.0
NEAR, FADING, SHADES = 1.15, 0.25, (0.3, 1.0)
# Half the height of a wall; the eye is in its middle.
HALF = 0.5
# A ray through a corner would slip between its two walls by rounding.
OVERLAP = 1e-9
Array = np.ndarray


@dataclass(frozen=True)
class PanelledRoom:
    """A room, and how an agent moves in it and sees.

    Args:
        corners: of the polygon that the walls form, in order; the origin is inside.
        panels: of each wall, of equal width.
        margin: the agent comes no nearer to a wall.
        turn: radians by which "left" and "right" turn.
        stride: of "ahead" and "back".
        field: horizontal and vertical field of view, in radians.
        size: height and width of a picture.

    Raises:
        ValueError: corners of no room around the origin; numbers out of range; a stride of the margin or longer, which
            could lead through a wall.
    """

    corners: tuple[tuple[float, float], ...]
    panels: int = 4
    margin: float = 0.2
    turn: float = math.pi / 12
    stride: float = 0.15
    field: float = math.pi / 2
    size: int = 16

    def __post_init__(self) -> None:
        check_whole(panels=self.panels)
        check_whole(2, size=self.size)
        check_at_least_zero(stride=self.stride, turn=self.turn)
        if not 0 < self.field < math.pi:
            raise ValueError(f"field: expected an angle between 0 and pi, got {self.field}")
        if not self.stride < self.margin < math.inf:
            raise ValueError(f"margin: expected more than the stride, {self.stride}, got {self.margin}")
        corners = np.array(self.corners, float)
        polygon = corners.ndim == 2 and corners.shape[1] == 2 and len(corners) > 2 and np.isfinite(corners).all()
        if not polygon or np.ptp(corners, 0).min() == 0 or not self._surrounds_the_origin():
            raise ValueError(f"corners: expected a polygon around the origin, {self.margin} or more from each wall, "
                             f"got {self.corners}")  # fmt: skip

    def _surrounds_the_origin(self) -> bool:
        """Tells whether the walls go round the origin, and leave it room."""
        # the angles between neighbouring corners add up to a whole turn if they go round, and to nothing if not
        angle = np.arctan2(*self.starts.T[::-1])
        turned = (np.roll(angle, -1) - angle + math.pi) % (2 * math.pi) - math.pi
        return abs(turned.sum()) > 1 and self.gaps(np.zeros((1, 2)))[0] >= self.margin

    @cached_property
    def starts(self) -> Array:
        """The corner at which each wall starts, `(walls, 2)`."""
        return np.array(self.corners, float)

    @cached_property
    def along(self) -> Array:
        """The way from there to the corner at which the wall ends, `(walls, 2)`."""
        return np.roll(self.starts, -1, 0) - self.starts

    @cached_property
    def across(self) -> Array:
        """The picture's columns from left to right, and its rows downwards, in a flat picture one unit away."""
        return math.tan(self.field / 2) * np.linspace(1, -1, self.size)

    def gaps(self, positions: Array) -> Array:
        """Distances of positions `(..., 2)` from the nearest wall."""
        away = positions[..., None, :] - self.starts
        share = np.clip((away * self.along).sum(-1) / (self.along**2).sum(-1), 0, 1)
        return np.sqrt(((away - share[..., None] * self.along) ** 2).sum(-1)).min(-1)

    def moved(self, poses: Array) -> Array:
        """Poses `(..., 3)` after each action, `(..., 5, 3)`: first the turn, then the stride along the new heading."""
        heading = poses[..., 2:] + np.array([0, 0, self.turn, -self.turn, 0])
        stride = np.array([self.stride, -self.stride, 0, 0, 0])
        return np.stack([
            poses[..., :1] + stride * np.cos(heading), poses[..., 1:2] + stride * np.sin(heading), heading
        ], -1)  # fmt: skip

    def hits(self, poses: Array) -> tuple[Array, Array]:
        """The depth at which the ray of each column ends, and the number of the panel there, `(..., size)`.

        Depth is measured along the heading. Panels are numbered wall by wall.
        """
        heading = poses[..., 2, None]
        cos, sin = np.cos(heading), np.sin(heading)
        ray = np.stack([cos - self.across * sin, sin + self.across * cos], -1)[..., None, :]
        # p + depth ray = start + share along. Both are ratios of cross products, and that of a ray parallel to a wall
        # has nothing to be divided by: the ray does not meet it.
        away, below = self.starts - poses[..., None, None, :2], _cross(ray, self.along)
        meets = below != 0
        below = np.where(meets, below, 1.0)
        depth, share = _cross(away, self.along) / below, _cross(away, ray) / below
        meets &= (depth > 0) & (share > -OVERLAP) & (share < 1 + OVERLAP)
        depth = np.where(meets, depth, np.inf)
        wall = depth.argmin(-1)[..., None]
        depth, share = (np.take_along_axis(value, wall, -1)[..., 0] for value in (depth, share))
        panel = np.clip((share * self.panels).astype(int), 0, self.panels - 1)
        return depth, wall[..., 0] * self.panels + panel

    def frames(self, poses: Array, colours: Array) -> Array:
        """Views from poses `(num, T, 3)`: uint8 `(num, T, size, size, 3)`.

        Args:
            colours: of each panel, in [0, 1], `(num, panels of all walls, 3)`.
        """
        depth, panel = self.hits(poses)
        colour = np.take_along_axis(colours[:, None], panel.reshape(len(poses), -1)[:, None, :, None], 2)
        shade = np.clip(NEAR - FADING * depth, *SHADES)[..., None]
        levels = np.rint(255 * colour.reshape(*panel.shape, 3) * shade).astype(np.uint8)
        ground = np.where(self.across > 0, CEILING, FLOOR).astype(np.uint8)[:, None, None]
        wall = np.abs(self.across)[:, None] <= HALF / depth[..., None, :]
        return np.where(wall[..., None], levels[..., None, :, :], ground)


SHAPES = {
    "square": ((-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)),
    "hexagon": tuple((1.2 * math.cos(k * math.pi / 3), 1.2 * math.sin(k * math.pi / 3)) for k in range(6)),
    # a corner in the way of the eye
    "l_shaped": ((-0.6, -0.6), (1.4, -0.6), (1.4, 0.4), (0.4, 0.4), (0.4, 1.4), (-0.6, 1.4)),
}
SQUARE = PanelledRoom(SHAPES["square"])


def rooms(
    num: int,
    T: int = 300,
    seed: int = 0,
    *,
    room: PanelledRoom = SQUARE,
    repeat: float = 2.0,
    noise: float = 0.0,
) -> Sequences:
    """Walks of an agent in rooms of one shape, each with colours of its own: uint8 views, actions, and true poses.

    Each walk begins at the origin; an action is kept for 1 + Poisson(repeat) steps. No action is taken that would end
    nearer to a wall than the room's margin.

    Args:
        num: walks.
        T: frames of each.
        seed: of colours, actions and noise; without noise the walks are the same.
        room: its shape, and the agent's way to move and see; the square [-1, 1]^2 by default.
        repeat: mean number of further steps of an action.
        noise: standard deviation of noise of each pixel; frames are then floats, levels / 255 and noise.

    Returns:
        `Sequences`, row by row, the numbers of a pixel together as in `Split`: `values.unflatten(-1, (16, 16, 3))`.
        `truth` is (x, y, heading), the heading counted on from turn to turn. `controls` are one-hot, in the order of
        `ACTIONS`; action t leads to frame t, the first is "stay".

    Raises:
        ValueError: numbers out of range.

    Example:
        >>> from zoo.data.simulated.rooms import SHAPES, PanelledRoom, rooms
        >>> some = rooms(num=2, T=50, room=PanelledRoom(SHAPES["hexagon"], panels=3))
        >>> some.frames.dtype, some.values.shape, some.u.shape, some.padded(some.truth).shape
        (torch.uint8, torch.Size([2, 50, 768]), torch.Size([2, 50, 5]), torch.Size([2, 50, 3]))
    """
    check_whole(num=num, T=T)
    check_whole(0, seed=seed)
    check_at_least_zero(repeat=repeat, noise=noise)
    # The stream of RandomState is the same everywhere and in every version of numpy.
    random = np.random.RandomState(seed)
    colours = random.uniform(DARKEST, BRIGHTEST, (num, len(room.corners) * room.panels, 3))
    poses, actions = _ways(room, Wandering(num, T, CHANCES, repeat, False, random))
    return sequences_seen(
        room.frames(poses, colours), actions, poses, num_actions=len(ACTIONS), noise=noise, random=random
    )


def _ways(room: PanelledRoom, wandering: Wandering) -> tuple[Array, Array]:
    """Poses `(num, T, 3)` and actions `(num, T)`; the first action is to stay at the origin."""
    pose, action = np.zeros((len(wandering.agents), 3)), wandering.action
    poses, actions = [pose], [action]
    free = np.ones((len(pose), len(ACTIONS)), bool)
    for t in range(1, len(wandering.uniform)):
        after = room.moved(pose)
        # the others leave the agent in its place
        free[:, :2] = room.gaps(after[:, :2, :2]) >= room.margin
        action = wandering.action_of(t, free)
        pose = after[wandering.agents, action]
        poses.append(pose)
        actions.append(action)
    return np.stack(poses, 1), np.stack(actions, 1)


def _cross(a: Array, b: Array) -> Array:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
