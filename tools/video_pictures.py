"""Pictures of videos of a ball for docs/results.md, from the rows' records and trained pairs.

    python tools/video_pictures.py
    python tools/video_pictures.py --room polygon --videos 3 14

Rows that are not done, or whose folder is not here, are left out.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from cells import RESULTS, ROOT, records
from hierarchy_pictures import store
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from rows.place import cache
from rows.video_figures import STATE_SPACE_READING, component_reading, kvae_latents, kvae_pictures
from rows.videos import SETS, components_of, in_both_forms
from torch import Tensor

from zoo import load_pair
from zoo.data import Sequences, load
from zoo.data.simulated.balls import ROOMS, Room
from zoo.data.simulated.tracking import planning_mask, positions
from zoo.infer import plot_reconstructions
from zoo.parts.aside import evaluating, seeded
from zoo.plots.look import array

#: test videos that are shown, by their place
VIDEOS = (0, 3)
#: frames of a long generation, of which every third is shown
LONG, EVERY = 60, 3
#: points of alpha over the room
POINTS = 2000
Pair = tuple[Any, Any]


def trained(data: str, results: Path) -> dict[str, dict[str, Any]]:
    """System -> its record of the best ELBO on a set, of those that are done; the best system is the last.

    A system without ELBO has one row.
    """
    done = [row for row in records(results) if "pixels" in (row.get("figures") or {}) and row["data"] == data]
    done.sort(key=lambda row: -row["figures"].get("elbo", 0.0))
    best: dict[str, dict[str, Any]] = {}
    for row in done:
        best.setdefault(row["system"], row)
    return dict(reversed(best.items()))


def pairs_of(rows: Mapping[str, dict[str, Any]]) -> dict[str, Pair]:
    """System in a word -> its trained pair, of those whose folder is here."""
    folders = {name.split(" ")[0] + (" (K = 1)" if "K = 1" in name else ""): cache() / row["name"]
               for name, row in rows.items()}  # fmt: skip
    return {name: load_pair(folder) for name, folder in folders.items() if (folder / "config.json").exists()}


def mixed(pairs: Mapping[str, Pair]) -> Pair | None:
    """The pair of the KVAE with several components."""
    return pairs.get("KVAE")


def draw_walls(ax: Axes, room: Room) -> None:
    ax.fill(*zip(*room.corners, strict=True), facecolor="none", edgecolor="0.6", linewidth=0.8)
    ax.set(xlim=(0, 32), ylim=(32, 0), xticks=[], yticks=[], aspect="equal")


def rooms(pairs: Mapping[str, Pair]) -> Figure:
    """A row of panels for each set: the frames of a video, a of several videos, and alpha over the room."""
    figure = Figure(figsize=(6.6, 2.1 * len(pairs)), layout="constrained")
    for line, (name, (model, guide)) in zip(figure.subplots(len(pairs), 3, squeeze=False), pairs.items(), strict=True):
        test, room = load(name).test, ROOMS[name]
        some = test[:100]
        with torch.no_grad(), evaluating(model, guide):
            a = kvae_latents(model, guide, some.values, some.u)
            alpha, _ = model.dynamics.weights(a)
        # every fourth frame over the others: a trace of the ball
        line[0].imshow(array(some.values[0, ::4].amax(0).unflatten(-1, (32, 32))), cmap="gray_r")
        for path in a[:8]:
            line[1].plot(path[:, 0], path[:, 1], ".-", linewidth=0.8, markersize=3)
        true = some.padded(some.truth)[..., :2].flatten(0, 1)[:POINTS]
        # the weights as shares of red, green and blue; fewer components leave some black
        colours = torch.nn.functional.pad(alpha.flatten(0, 1)[:POINTS, :3], (0, max(0, 3 - alpha.shape[-1])))
        line[2].scatter(true[:, 0], true[:, 1], c=colours.clamp(0, 1).numpy(), s=6)
        draw_walls(line[2], room)
        line[0].set_ylabel(name, fontsize=9)
        for ax, title in zip(line, ("every fourth frame", "paths in a", "alpha over the room"), strict=True):
            ax.set(xticks=[], yticks=[])
            if line[0] is figure.axes[0]:
                ax.set_title(title, fontsize=9)
    return figure


def one_model(room: str, pairs: Mapping[str, Pair], videos: Sequences) -> Figure:
    """The paths that the KVAE predicts from four frames, with one component and with several, over the true one."""
    figure = Figure(figsize=(3.0 * len(videos), 3.2), layout="constrained")
    mask = planning_mask(len(videos), 16)
    true = videos.padded(videos.truth)[..., :2]
    paths = {
        name: positions(kvae_pictures(*pairs[name], videos.values, videos.u, mask)["filtered"], ROOMS[room])
        for name in ("KVAE (K = 1)", "KVAE") if name in pairs
    }  # fmt: skip
    for number, ax in enumerate(figure.subplots(1, len(videos), squeeze=False)[0]):
        draw_walls(ax, ROOMS[room])
        ax.plot(*true[number].T, "o-", color="0.7", markersize=4, label="true")
        ax.plot(*true[number, :4].T, "o", color="black", markersize=4, label="seen")
        for colour, (name, path) in enumerate(paths.items()):
            ax.plot(*path[number, 3:].T, ".-", color=f"C{colour}", label=name)
    figure.axes[0].legend(frameon=False, fontsize=7)
    return figure


def imputed(room: str, pairs: Mapping[str, Pair], videos: Sequences) -> Figure:
    """A strip for each system: the means of frames in a gap of 12, filled in from both sides."""
    mask = planning_mask(len(videos), 12)
    readings = {"LGSSM": component_reading(components_of(load(room).train)), "DMM": STATE_SPACE_READING,
                "SRNN": STATE_SPACE_READING}  # fmt: skip
    found = {}
    with torch.no_grad(), seeded(0):
        for name, pair in pairs.items():
            read = readings[name].pictures if name in readings else kvae_pictures
            found[name] = read(*pair, videos.values, videos.u, mask)["smoothed"]
    rows: dict[str, Tensor] = {}
    for number, x in enumerate(videos.values):
        rows[f"true, {number + 1}"] = x
        rows[f"seen, {number + 1}"] = x * mask[number].unsqueeze(-1)
        rows |= {f"{name}, {number + 1}": pictures[number].clamp(0, 1) for name, pictures in found.items()}
    return plot_reconstructions(rows, (32, 32))


def generated(pair: Pair, videos: Sequences) -> Figure:
    """Every third of 60 frames that follow the first four of a test video, drawn at noise of the model's own."""
    model, guide = in_both_forms(*pair)
    with seeded(0):
        draws = model.sample_forecast(videos.values[:, :4], LONG, 1, guide)
    with torch.no_grad():
        means = model.decode(model.parts(draws.z[0])[1]).mean
    rows = {f"{number + 1}": frames[::EVERY] for number, frames in enumerate(means)}
    return plot_reconstructions(rows, (32, 32))


def errors(results: Path) -> Figure:
    """A panel for each set: the error in pixels over the number of missing frames, a line for each system."""
    sets = {name: rows for name in SETS if (rows := trained(name, results))}
    # a system has one colour in all panels, of which some lack it
    colours = {system: f"C{i}" for i, system in enumerate(sorted({name for rows in sets.values() for name in rows}))}
    figure = Figure(figsize=(3.0 * len(sets), 3.2), layout="constrained")
    for (name, rows), ax in zip(
        sets.items(), figure.subplots(1, len(sets), squeeze=False, sharey=True)[0], strict=True
    ):
        for system, row in rows.items():
            pixels, colour = row["figures"]["pixels"], colours[system]
            gaps = [int(gap) for gap in pixels]
            ax.plot(gaps, [found["smoothed"] for found in pixels.values()], ".-", color=colour)
            ax.plot(gaps, [found["filtered"] for found in pixels.values()], ".--", color=colour, linewidth=0.8)
        ax.plot(gaps, [found["straight line"] for found in pixels.values()], ":", color="0.4")
        ax.set(title=name, xlabel="missing frames", xticks=gaps)
        ax.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("error in pixels (dashed: filtered)")
    shown = [Line2D([], [], color=colour, marker=".", label=system) for system, colour in colours.items()]
    shown.append(Line2D([], [], color="0.4", linestyle=":", label="straight line"))
    figure.legend(handles=shown, loc="outside lower center", ncols=2, frameon=False, fontsize=7)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "pictures", metavar="FOLDER")
    parser.add_argument("--room", default="box", choices=SETS)
    parser.add_argument("--videos", type=int, nargs="+", default=VIDEOS, help="places of test videos", metavar="PLACE")
    args = parser.parse_args()
    figures, pairs = {}, {name: pairs_of(trained(name, args.results)) for name in SETS}
    if any(trained(name, args.results) for name in SETS):
        figures["videos_errors"] = errors(args.results)
    if kvaes := {name: pair for name, here in pairs.items() if (pair := mixed(here)) is not None}:
        figures["videos_rooms"] = rooms(kvaes)
    here: Sequence[str] = list(pairs[args.room])
    if here:
        some = load(args.room).test[torch.tensor(args.videos)]
        figures["videos_imputation"] = imputed(args.room, pairs[args.room], some)
        if "KVAE" in here:
            figures["videos_one_model"] = one_model(args.room, pairs[args.room], some)
            figures["videos_generation"] = generated(pairs[args.room]["KVAE"], some)
    store(figures, args.out)


if __name__ == "__main__":
    main()
