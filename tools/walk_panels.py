"""Panels of `tools/walk_pictures.py`: a trained pair's places, memory, gate and walls, of one test walk."""

from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from rows.row import Row
from rows.walk_figures import Trial
from torch import Tensor, nn

from zoo.data import load
from zoo.data.simulated.rooms import SHAPES, PanelledRoom
from zoo.data.simulated.walks import ACTIONS, laid_out
from zoo.parts.aside import evaluating
from zoo.parts.walking.cloud import tips
from zoo.parts.walking.rays import columns_of, rays
from zoo.plots.look import EXACT, GUIDE, array, plain

#: frames of a memory that knows little; draws of what it tells
FEW, DRAWS = 30, 50


class Seen(NamedTuple):
    """A trained pair, and what it predicts of some test walks.

    Attributes:
        row: the row of tools/rows.
        model, guide: the pair.
        given: the walks.
        frames: the predicted ones, `(N, T - tau, data_dim)`.
        states: of all frames, `(N, T, state_dim)`; None of a system without them.
    """

    row: Row
    model: Any
    guide: Any
    given: Trial
    frames: Tensor
    states: Tensor | None

    @property
    def clean(self) -> Tensor:
        """The true frames after the memorised ones."""
        return self.given.clean.values[:, self.given.tau :]

    @property
    def places(self) -> Tensor:
        """The true states of all frames."""
        return self.given.clean.padded(self.given.clean.truth).float()


# Walks over images


def world_of(row: Row) -> tuple[str, int, int, Any]:
    """The data set of a walk's images, the sizes of a crop and of a step, and the pairs of places with a wall."""
    made: Any = row.data
    world = made.keywords
    # those of `walks`, if the row states none
    return made.args[0], world.get("crop", 8), world.get("stride", 3), world.get("blocked", ())


def image_of(name: str, number: Any) -> Tensor:
    data = load(name)
    return data.test.levels[int(number)].unflatten(-1, data.shape) / 255


def show(ax: Axes, picture: Tensor, title: str = "", *paths: Tensor) -> None:
    """A picture `(height, width[, channels])`, with paths of (row, column) over it: memorised, then predicted."""
    ax.imshow(array(picture.clamp(0, 1)), cmap="gray", vmin=0, vmax=1)
    ax.set(xticks=[], yticks=[])
    ax.set_title(title, fontsize=9)
    for path, colour in zip(paths, (EXACT, GUIDE), strict=False):
        # a little apart: of a path to and fro on one line nothing would be seen
        ax.plot(*array(path + 0.4 * torch.randn(path.shape)).T[::-1], color=colour, linewidth=0.8)


def draw_walls(ax: Axes, blocked: Any, size: float = 1.0, offset: float = 0.0, colour: str = "white") -> None:
    """Draws the walls between pairs of places, (row, column); a place is at `size * place + offset`."""
    for here, there in blocked:
        (row, column), (down, across) = (size * np.array(place) + offset for place in (here, there))
        # a wall stands upright on the middle of the step that it stops
        along = 0.5 * np.array([across - column, row - down])
        middle = np.array([row + down, column + across]) / 2
        ax.plot(*np.array([middle - along, middle + along]).T[::-1], color=colour, linewidth=1.5)


def grid_of(image: Tensor, crop: int, stride: int) -> tuple[Tensor, Tensor]:
    """All places of an image, (row, column) from its upper left corner, and the place where walks begin."""
    last = torch.tensor([(size - crop) // stride for size in image.shape[:2]])
    return torch.cartesian_prod(*(torch.arange(most + 1.0) for most in last.tolist())), last // 2


def at_places(shown: Seen, places: Tensor) -> Tensor:
    """s of true places `(any, 2)`, as an affine map of all walks' states: the unit of s is its own."""
    assert shown.states is not None
    fitted = torch.linalg.lstsq(_with_one(shown.places.flatten(0, 1)), shown.states.flatten(0, 1)).solution
    return _with_one(places) @ fitted


def _with_one(places: Tensor) -> Tensor:
    return nn.functional.pad(places, (0, 1), value=1.0)


def remembered(shown: Seen, places: Tensor, known: int) -> Tensor:
    """Draws of the frame at places, from the first frames of the first walk: `(draws, places, data_dim)`."""
    model, given = shown.model, shown.given
    assert shown.states is not None
    with torch.no_grad(), evaluating(model):
        s, x = shown.states[:1, :known], given.seen.values[:1, :known]
        c = model.recall.context(s, x, at_places(shown, places)[None])
        return torch.stack([model.emission(model.prior(c).sample(), c).mean[0] for _ in range(DRAWS)])


def place_panels(line: Any, shown: Seen) -> None:
    """The path in the image, the map of s, all places as remembered, and where draws differ."""
    name, crop, stride, blocked = world_of(shown.row)
    tau, places = shown.given.tau, shown.places
    image = image_of(name, shown.given.clean.labels[0])
    grid, middle = grid_of(image, crop, stride)
    # pixels of the crops' middles
    path = (places[0] + middle) * stride + (crop - 1) / 2
    show(line[0], image, "image and path", path[:tau], path[tau:])
    draw_walls(line[0], blocked, stride, (crop - 1) / 2)
    assert shown.states is not None
    s, true = shown.states[:, tau:].flatten(0, 1), places[:, tau:].flatten(0, 1)
    line[1].scatter(*array(s).T, c=array(true @ torch.tensor([1.0, 0.3])), s=3, alpha=0.4)
    line[1].set_title("$s_t$ by the true place", fontsize=9)
    plain(line[1])
    few = min(FEW, tau)
    whole, little = (remembered(shown, grid - middle, known) for known in (tau, few))
    show(line[2], laid_out(whole.mean(0), grid, crop, stride), f"remembered from {tau}", path[:tau])
    show(line[3], laid_out(4 * little.std(0), grid, crop, stride), f"4 x std. dev. from {few}", path[:few])


def gates(shown: Seen, places: Tensor) -> Tensor:
    """The model's probability that a step from each place is made, for each action: `(places, actions)`."""
    step, s = shown.model.step, at_places(shown, places).unsqueeze(1)
    with torch.no_grad():
        actions = torch.eye(step.control_dim)
        return step.gate(s + step.move(actions), actions).sigmoid()


def gate_panels(line: Any, shown: Seen) -> None:
    """A panel for each way to go: where the model takes a step for possible, and inner walls as they are."""
    name, crop, stride, blocked = world_of(shown.row)
    grid, middle = grid_of(image_of(name, 0), crop, stride)
    size = [int(most) + 1 for most in grid.amax(0)]
    for ax, action, shares in zip(line, ACTIONS, gates(shown, grid - middle).T, strict=False):
        show(ax, shares.unflatten(0, size), action)
        draw_walls(ax, blocked, colour=GUIDE)


# Rooms


def ends(shown: Seen) -> tuple[Tensor, Tensor]:
    """The ends of the rays of the first walk's memorised views, `(M, 2)`, and the colours there, `(M, 3)`."""
    recall, tau, states = shown.model.recall, shown.given.tau, shown.states
    assert states is not None
    content = columns_of(shown.given.seen.values[0, :tau], recall.picture)
    stored = rays(states[0, :tau], recall.across)
    with torch.no_grad(), evaluating(recall):
        *_, depth = recall.cloud.stored(stored, recall.cloud.seen(content)).split(recall.cloud.parts, -1)
    # at the height of the eye a column shows its wall however far off
    middle = content.unflatten(-1, (recall.picture.height, -1))[..., recall.picture.height // 2, :]
    return tips(stored, depth, torch.zeros(2)).flatten(0, 1), middle.flatten(0, 1).clamp(0, 1)


def map_panels(line: Any, shown: Seen) -> None:
    """The room from above, the path in s, and the ends of the memorised rays."""
    made: Any = shown.row.data
    room, tau, states = PanelledRoom(SHAPES[made.args[0]]), shown.given.tau, shown.states
    assert states is not None
    place, s = shown.places[0, :, :2], states[0, :, :2]
    # the unit of length in s, by which the walls are drawn there
    unit = float(s.norm() / place.norm())
    points, colours = ends(shown)
    for ax, scale, title in zip(line, (1.0, unit, unit), ("true path", "$s_t$", "ends of rays"), strict=True):
        ax.fill(*(scale * room.starts).T, facecolor="none", edgecolor="0.5", linewidth=1)
        ax.set(xticks=[], yticks=[], aspect="equal")
        ax.set_title(title, fontsize=9)
    for ax, path in zip(line, (place, s), strict=False):
        for part, colour in ((path[:tau], EXACT), (path[tau:], GUIDE)):
            ax.plot(*array(part).T, ".-", color=colour, linewidth=0.7, markersize=2)
    # of a ray that ends far off the room the others would be too small to be seen
    least, most = (1.15 * unit * corner for corner in (room.starts.min(0), room.starts.max(0)))
    line[2].set(xlim=(least[0], most[0]), ylim=(least[1], most[1]))
    line[2].scatter(*array(points).T, c=array(colours), s=4, linewidths=0)
