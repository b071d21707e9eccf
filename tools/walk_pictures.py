"""Pictures of walks over images and of rooms for docs/results.md, from the rows' records and trained pairs.

    python tools/walk_pictures.py
    python tools/walk_pictures.py --walk 7

Rows that are not done, or whose folder is neither in the user's cache nor in zoo/weights, are left out. Of the seeds of
a kind the best one is shown.
"""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from cells import RESULTS, ROOT
from hierarchy_pictures import store
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rows import ROWS
from rows.place import cache
from rows.row import Row
from rows.walk_figures import Trial
from torch import Tensor, nn
from walk_tables import best, by_kind, done

from zoo import load_pair
from zoo.data import load
from zoo.data.simulated.rooms import SHAPES, PanelledRoom
from zoo.data.simulated.walks import laid_out
from zoo.parts.aside import evaluating, seeded
from zoo.parts.walking.cloud import tips
from zoo.parts.walking.rays import columns_of, rays
from zoo.plots.look import EXACT, GUIDE, array, plain

WEIGHTS = ROOT / "zoo" / "weights"
#: kinds of rows whose places, frames and maps are shown, and their names
PLACES = {"walk-free": "no walls", "walk-walls": "walls", "walk-partition": "a partition", "walk-walls_noise": "noise",
          "walk-faces": "faces", "walk-photos": "photographs"}  # fmt: skip
MAPS = {"room-actions": "square", "room-hexagon": "hexagon", "room-l_shaped": "L-shaped", "room-noise": "noise"}
#: systems whose frames are shown under the true ones
WALKERS = {"walk-free": "GTM-SM", "walk-lstm": "LSTM", "walk-srnn": "SRNN"}
VIEWERS = {"room-poses": "rays, true poses", "room-actions": "rays, actions alone", "room-views": "whole views",
           "room-lstm": "LSTM"}  # fmt: skip
#: panels of errors: kinds and their names
ERRORS = {
    "walks": {"walk-free": "no walls", "walk-walls": "walls", "walk-partition": "a partition",
              "walk-walls_noise": "walls and noise", "walk-lstm": "LSTM", "walk-srnn": "SRNN"},
    "rooms": VIEWERS | {"room-hexagon": "rays, hexagon", "room-l_shaped": "rays, L-shaped"},
}  # fmt: skip
WITHOUT = {"nearest frame": ":", "mean frame": "--"}
#: walks of a map of s; frames of a memory that knows little; frames of a strip; draws; frames of a running mean
WALKS, FEW, STRIP, DRAWS, MEAN = 16, 30, 16, 50, 16


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


def folder_of(name: str) -> Path | None:
    """The folder of a trained row: in the user's cache, or where it ships; None of one that is not here."""
    return next((place for place in (cache() / name, WEIGHTS / name) if (place / "config.json").exists()), None)


def predicted(name: str, folder: Path, first: int) -> Seen:
    """The predictions of a trained row, of as many test walks as a map of s needs, from one on."""
    row = next(row for row in ROWS if row.name == name and isinstance(row, Row))
    # the recurrent network of the rows is no part of the library
    (model, guide), held = load_pair(folder, trust=("rows",)), row.data().test.test
    some = slice(first, first + WALKS)
    given = Trial(held.seen[some], held.clean[some], held.tau)
    with seeded(0), torch.no_grad():
        reading = row.check[1].keywords["reading"]
        frames, states = reading(model, guide, given.seen.values[:, : given.tau], given.seen.u)
    return Seen(row, model, guide, given, frames.clamp(0, 1), states)


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


def remembered(shown: Seen, grid: Tensor, known: int) -> Tensor:
    """Draws of the frame at every place, from the first frames of the first walk: `(draws, places, data_dim)`."""
    model, given, states = shown.model, shown.given, shown.states
    assert states is not None
    ones: Callable[[Tensor], Tensor] = lambda a: nn.functional.pad(a, (0, 1), value=1.0)  # noqa: E731
    # the unit of s is its own, so s of a place is fitted
    to_s = torch.linalg.lstsq(ones(shown.places.flatten(0, 1)), states.flatten(0, 1)).solution
    with torch.no_grad(), evaluating(model):
        c = model.recall.context(states[:1, :known], given.seen.values[:1, :known], (ones(grid) @ to_s)[None])
        return torch.stack([model.emission(model.prior(c).sample(), c).mean[0] for _ in range(DRAWS)])


def place_panels(line: Any, shown: Seen) -> None:
    """The path in the image, the map of s, all places as remembered, and where draws differ."""
    name, crop, stride, blocked = world_of(shown.row)
    tau, places = shown.given.tau, shown.places
    image = image_of(name, shown.given.clean.labels[0])
    corner = torch.tensor([((size - crop) // stride) // 2 for size in image.shape[:2]])
    last = torch.tensor([(size - crop) // stride for size in image.shape[:2]])
    # pixels of the crops' middles
    path = (places[0] + corner) * stride + (crop - 1) / 2
    show(line[0], image, "image and path", path[:tau], path[tau:])
    for pair in blocked:
        (row, column), (down, across) = (stride * np.array(place) + (crop - 1) / 2 for place in pair)
        # the wall stands upright on the middle of the step that it stops
        along = 0.5 * np.array([across - column, row - down])
        middle = np.array([row + down, column + across]) / 2
        line[0].plot(*np.array([middle - along, middle + along]).T[::-1], color="white", linewidth=1.5)
    assert shown.states is not None
    s, true = shown.states[:, tau:].flatten(0, 1), places[:, tau:].flatten(0, 1)
    line[1].scatter(*array(s).T, c=array(true @ torch.tensor([1.0, 0.3])), s=3, alpha=0.4)
    line[1].set_title("$s_t$ by the true place", fontsize=9)
    plain(line[1])
    grid = torch.cartesian_prod(*(torch.arange(float(most) + 1) for most in last))
    whole, little = (remembered(shown, grid - corner, known) for known in (tau, min(FEW, tau)))
    show(line[2], laid_out(whole.mean(0), grid, crop, stride), f"remembered from {tau}", path[:tau])
    spread = laid_out(4 * little.std(0), grid, crop, stride)
    show(line[3], spread, f"4 x std. dev. from {min(FEW, tau)}", path[: min(FEW, tau)])


def place_figure(pairs: Mapping[str, Seen]) -> Figure:
    """A line of panels for each kind of walks over images."""
    figure = Figure(figsize=(9.6, 2.5 * len(pairs)), layout="constrained")
    with seeded(0):
        for line, (kind, shown) in zip(figure.subplots(len(pairs), 4, squeeze=False), pairs.items(), strict=True):
            place_panels(line, shown)
            line[0].set_ylabel(PLACES[kind], fontsize=10)
    return figure


# Frames and errors over time


def canvas(frames: Tensor, size: int) -> np.ndarray:
    """Pictures side by side, a pixel apart, in colours: `(size, N (size + 1) - 1, 3)`."""
    pictures = frames.unflatten(-1, (size, size, -1)).expand(-1, -1, -1, 3)
    return array(nn.functional.pad(pictures, (0, 0, 0, 1), value=1.0).movedim(0, 1).flatten(1, 2)[:, :-1])


def strip_figure(rows: Mapping[str, Tensor]) -> Figure:
    """Rows of pictures over time, of the size of their kind: label -> `(N, data_dim)`, as colours or as grey."""
    figure = Figure(figsize=(9.6, 0.62 * len(rows)), layout="constrained")
    for ax, (label, frames) in zip(figure.subplots(len(rows), 1, squeeze=False)[:, 0], rows.items(), strict=True):
        # pictures are square, in three colours or none
        colours = 3 if round((frames.shape[-1] / 3) ** 0.5) ** 2 * 3 == frames.shape[-1] else 1
        ax.imshow(canvas(frames, round((frames.shape[-1] / colours) ** 0.5)), vmin=0, vmax=1, interpolation="nearest")
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
        ax.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
    return figure


def at_times(frames: Tensor) -> Tensor:
    """Frames of one walk at equal distances in time."""
    return frames[:: max(1, len(frames) // STRIP)][:STRIP]


def beneath(pairs: Mapping[str, Seen], names: Mapping[str, str]) -> dict[str, Tensor]:
    """The true frames of the first walk, and under them those of several systems that have seen the same walk."""
    here = {name: pairs[kind] for kind, name in names.items() if kind in pairs}
    if not here:
        return {}
    truth = at_times(next(iter(here.values())).clean[0])
    return {"true": truth} | {name: at_times(shown.frames[0]) for name, shown in here.items()}


def walk_strips(pairs: Mapping[str, Seen]) -> dict[str, Tensor]:
    """True and predicted frames: of all systems without walls, and of the others in pairs."""
    found = beneath(pairs, WALKERS)
    for kind, name in PLACES.items():
        if kind not in WALKERS:
            strips = beneath(pairs, {kind: "predicted"})
            found |= {f"{name}: {label}": frames for label, frames in strips.items()}
    return found


def smooth(curve: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Running means of a curve over steps, and the middles of their steps."""
    width = min(MEAN, len(curve))
    means = np.convolve(curve, np.ones(width) / width, "valid")
    return np.arange(len(means)) + (width + 1) / 2, means


def error_figure(kinds: Mapping[str, list[dict[str, Any]]]) -> Figure:
    """The squared error over steps, of walks and of rooms: each kind's median over seeds, and lines without a model."""
    panels = {title: {kind: name for kind, name in names.items() if kind in kinds} for title, names in ERRORS.items()}
    panels = {title: names for title, names in panels.items() if names}
    figure = Figure(figsize=(4.8 * len(panels), 3.6), layout="constrained")
    for ax, (title, names) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for number, (kind, name) in enumerate(names.items()):
            curves = np.array([row["figures"]["errors"]["curve"] for row in kinds[kind]])
            ax.plot(*smooth(np.median(curves, 0)), color=f"C{number}", label=name, linewidth=1.2)
        # the first kind's: of its own walks, those of the others differ a little
        figures = [row["figures"] for row in kinds[next(iter(names))]]
        for name, style in WITHOUT.items():
            curve = np.array(figures[0]["without model"][name]["curve"])
            ax.plot(*smooth(curve), style, color="0.4", label=name, linewidth=1)
        if all("reconstruction" in found for found in figures):
            own = median(found["reconstruction"] for found in figures)
            ax.axhline(own, color="0.4", linestyle="-.", linewidth=1, label="own reconstruction")
        ax.set(title=title, yscale="log", xlabel="steps after the last frame seen")
        ax.legend(frameon=False, fontsize=7)
        plain(ax)
    figure.axes[0].set_ylabel("squared error of a pixel")
    return figure


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
    unit = float((place * s).sum() / place.square().sum())
    points, colours = ends(shown)
    for ax, scale, title in zip(line, (1.0, unit, unit), ("true path", "$s_t$", "ends of rays"), strict=True):
        ax.fill(*(scale * room.starts).T, facecolor="none", edgecolor="0.5", linewidth=1)
        ax.set(xticks=[], yticks=[], aspect="equal")
        ax.set_title(title, fontsize=9)
        limits = 1.15 * scale * np.stack([room.starts.min(0), room.starts.max(0)])
        ax.set(xlim=sorted(limits[:, 0]), ylim=sorted(limits[:, 1]))
    for ax, path in zip(line, (place, s), strict=False):
        for part, colour in ((path[:tau], EXACT), (path[tau:], GUIDE)):
            ax.plot(*array(part).T, ".-", color=colour, linewidth=0.7, markersize=2)
    line[2].scatter(*array(points).T, c=array(colours), s=4, linewidths=0)


def map_figure(pairs: Mapping[str, Seen]) -> Figure:
    """A line of panels for each shape of room."""
    figure = Figure(figsize=(7.2, 2.5 * len(pairs)), layout="constrained")
    for line, (kind, shown) in zip(figure.subplots(len(pairs), 3, squeeze=False), pairs.items(), strict=True):
        map_panels(line, shown)
        line[0].set_ylabel(MAPS[kind], fontsize=10)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "pictures", metavar="FOLDER")
    parser.add_argument("--walk", type=int, default=0, help="place of the test walk that is shown", metavar="PLACE")
    args = parser.parse_args()
    figures = {}
    kinds = by_kind([row for begins in ("walk-", "room-") for row in done(args.results, begins)])
    folders = {kind: (name, folder) for kind, rows in kinds.items()
               if (folder := folder_of(name := best(rows)["name"])) is not None}  # fmt: skip
    pairs = {kind: predicted(*found, args.walk) for kind, found in folders.items() if not kind.endswith("_begun")}
    if any(kind in names for kind in kinds for names in ERRORS.values()):
        figures["walk_errors"] = error_figure(kinds)
    if here := {kind: pairs[kind] for kind in PLACES if kind in pairs}:
        figures["walk_places"] = place_figure(here)
    if rows := walk_strips(pairs):
        figures["walk_frames"] = strip_figure(rows)
    if rows := beneath(pairs, VIEWERS):
        figures["room_views"] = strip_figure(rows)
    if here := {kind: pairs[kind] for kind in MAPS if kind in pairs}:
        figures["room_maps"] = map_figure(here)
    store(figures, args.out)


if __name__ == "__main__":
    main()
