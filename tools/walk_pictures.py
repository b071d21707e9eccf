"""Pictures of walks over images and of rooms for docs/results.md, from the rows' records and trained pairs.

    python tools/walk_pictures.py
    python tools/walk_pictures.py --walk 7

Rows that are not done, or whose folder is neither in the user's cache nor in zoo/weights, are left out. Of the seeds of
a kind that are here the best one is shown.
"""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from cells import RESULTS, ROOT
from hierarchy_pictures import store
from matplotlib.figure import Figure
from rows import ROWS
from rows.place import cache
from rows.row import Row
from rows.walk_figures import Trial
from torch import Tensor, nn
from walk_panels import Seen, gate_panels, map_panels, place_panels
from walk_tables import best, by_kind, done

from zoo import load_pair
from zoo.parts.aside import seeded
from zoo.plots.look import array, plain

WEIGHTS = ROOT / "zoo" / "weights"
#: kinds of rows whose places, frames and maps are shown, and their names
PLACES = {"walk-free": "no walls", "walk-walls": "walls", "walk-partition": "a partition", "walk-walls_noise": "noise",
          "walk-faces": "faces", "walk-photos": "photographs"}  # fmt: skip
GATES = {kind: PLACES[kind] for kind in ("walk-walls", "walk-partition", "walk-walls_noise")}
MAPS = {"room-actions": "square", "room-hexagon": "hexagon", "room-l_shaped": "L-shaped", "room-noise": "noise"}
#: systems whose frames are shown under the true ones
WALKERS = {"walk-free": "GTM-SM", "walk-lstm": "LSTM", "walk-srnn": "SRNN"}
VIEWERS = {"room-poses": "rays, true poses", "room-actions": "rays, actions alone", "room-views": "whole views",
           "room-lstm": "LSTM"}  # fmt: skip
#: panels of errors: kinds and their names
ERRORS = {
    "walks": {"walk-free": "no walls", "walk-walls": "walls", "walk-partition": "a partition",
              "walk-walls_noise": "walls, noise", "walk-lstm": "LSTM", "walk-srnn": "SRNN"},
    "rooms": VIEWERS | {kind: f"rays, {MAPS[kind]}" for kind in ("room-hexagon", "room-l_shaped", "room-noise")},
}  # fmt: skip
WITHOUT = {"nearest frame": ":", "mean frame": "--"}
#: walks of a map of s; frames of a strip; steps of a running mean; colours of a stored picture
WALKS, STRIP, MEAN, COLOURS = 16, 16, 16, 256


def folder_of(name: str) -> Path | None:
    """The folder of a trained row: in the user's cache, or where it ships; None of one that is not here."""
    return next((place for place in (cache() / name, WEIGHTS / name) if (place / "config.json").exists()), None)


def predicted(name: str, first: int) -> Seen:
    """The predictions of a trained row, of as many test walks as a map of s needs, from one on."""
    row = next(row for row in ROWS if row.name == name and isinstance(row, Row))
    # the recurrent network of the rows is no part of the library
    (model, guide), held = load_pair(folder_of(name), trust=("rows",)), row.data().test.test
    some = slice(first, first + WALKS)
    given = Trial(held.seen[some], held.clean[some], held.tau)
    with seeded(0), torch.no_grad():
        reading = row.check[1].keywords["reading"]
        frames, states = reading(model, guide, given.seen.values[:, : given.tau], given.seen.u)
    return Seen(row, model, guide, given, frames.clamp(0, 1), states)


def best_pairs(kinds: Mapping[str, list[dict[str, Any]]], first: int) -> dict[str, Seen]:
    """Kind -> the predictions of its best row, of those whose folder is here."""
    here = {kind: [row for row in rows if folder_of(row["name"])] for kind, rows in kinds.items()}
    return {kind: predicted(best(rows)["name"], first) for kind, rows in here.items() if rows}


def lines_of_panels(
    draw: Callable[[Any, Seen], None], pairs: Mapping[str, Seen], names: Mapping[str, str], panels: int
) -> Figure:
    """A line of panels for each kind, under its name."""
    figure = Figure(figsize=(2.4 * panels, 2.5 * len(pairs)), layout="constrained")
    with seeded(0):
        for line, (kind, shown) in zip(figure.subplots(len(pairs), panels, squeeze=False), pairs.items(), strict=True):
            draw(line, shown)
            line[0].set_ylabel(names[kind], fontsize=10)
    return figure


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
    figure = Figure(figsize=(5.4 * len(panels), 3.4), layout="constrained")
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
        # by itself a logarithmic axis writes 3 x 10^-2
        bottom, top = ax.get_ylim()
        ticks = [tick for tick in (0.003, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5) if bottom <= tick <= top]
        ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.minorticks_off()
        ax.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
        plain(ax)
    figure.axes[0].set_ylabel("squared error of a pixel")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "pictures", metavar="FOLDER")
    # a room has 48 test walks
    parser.add_argument("--walk", type=int, default=0, choices=range(48 - WALKS), metavar="PLACE",
                        help="place of the test walk that is shown")  # fmt: skip
    args = parser.parse_args()
    # a first phase alone is a row that is still being trained
    kinds = {kind: rows for begins in ("walk-", "room-") for kind, rows in by_kind(done(args.results, begins)).items()
             if not kind.endswith("_begun")}  # fmt: skip
    pairs, figures = best_pairs(kinds, args.walk), {}
    if any(kind in names for kind in kinds for names in ERRORS.values()):
        figures["walk_errors"] = error_figure(kinds)
    for name, draw, names, panels in (
        ("walk_places", place_panels, PLACES, 4), ("walk_gates", gate_panels, GATES, 4),
        ("room_maps", map_panels, MAPS, 3),
    ):  # fmt: skip
        if here := {kind: pairs[kind] for kind in names if kind in pairs}:
            figures[name] = lines_of_panels(draw, here, names, panels)
    for name, rows in (("walk_frames", walk_strips(pairs)), ("room_views", beneath(pairs, VIEWERS))):
        if rows:
            figures[name] = strip_figure(rows)
    store(figures, args.out, COLOURS)


if __name__ == "__main__":
    main()
