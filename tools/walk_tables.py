"""The tables of walks over images and of rooms, from the records of tools/rows/{walks,rooms}.py; and their pictures."""

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from cells import RESULTS, ROOT, machines, markdown, records, shown_pictures
from rows.rooms import OFF
from rows.walk_figures import FIRST, LAST
from video_tables import middle

Figures = Mapping[str, Any]
Record = dict[str, Any]
#: kind of rows -> their records, of which each has another seed
Kinds = Mapping[str, Sequence[Record]]

#: the kinds of which the best row ships, one of each environment
SHIPPED = ("walk-free", "walk-walls", "room-actions")
PICTURES = {
    "walk_places": "Walks over held-out images. Left to right: the image with the path while memorised (blue) and "
    "predicted (red); s over many walks, coloured by the true place; every place of the image as remembered from all "
    "memorised frames; four times the standard deviation of what is remembered from the first 30, with their path.",
    "walk_gates": "Walls as they were found from frames alone: the model's probability that a step from each place is "
    "made (white: 1, black: 0), for each way to go. Red: the partition.",
    "walk_frames": "True frames, and those predicted from actions alone, over the steps after the last one seen (the "
    "deck's slides on image navigation).",
    "walk_errors": "Squared error of a pixel over the steps after the last frame seen, running mean of 16 steps: each "
    "system's median over seeds, and what needs no model, of the walks of the first system.",
    "room_views": "Views of a held-out room over the steps after the last one seen: the true ones, and those that each "
    "system predicts.",
    "room_maps": "Rooms from above: the true path while memorised (blue) and predicted (red) within the walls; the "
    "path in s, from actions alone; and the ends that the model gives the rays of the memorised views, in the colours "
    "which the rays show. Nothing but views and actions told it where walls are.",
}


class Target(NamedTuple):
    """A number that a kind of rows is to reach.

    Attributes:
        kind: the rows' name without their seed.
        seeds: number of rows that are planned.
        words: the number in words.
        found: the number, from a row's figures and the medians of the kind `other`.
        sign, asked: "≥" or "≤" and the target; "" of a number that is reported alone.
        form: of its cells.
        other: the kind that it is compared with; "" of none.
    """

    kind: str
    seeds: int
    words: str
    found: Callable[[Figures, Figures], float]
    sign: str = ""
    asked: float = 0.0
    form: str = ".4f"
    other: str = ""


def error_of(found: Figures, other: Figures) -> float:
    """The squared error of all steps."""
    return float(found["errors"]["all"])


def over_reconstruction(span: str) -> Callable[[Figures, Figures], float]:
    """The squared error of some steps as a multiple of that of the model's own reconstruction."""
    return lambda found, other: found["errors"][span] / found["reconstruction"]


def times_ours(name: str) -> Callable[[Figures, Figures], float]:
    """The squared error of a measure that needs no model as a multiple of a row's own."""
    return lambda found, other: found["without model"][name]["all"] / error_of(found, other)


def theirs_over_ours(found: Figures, other: Figures) -> float:
    return error_of(other, {}) / error_of(found, {})


def ours_over_theirs(found: Figures, other: Figures) -> float:
    return 1 / theirs_over_ours(found, other)


def agreement(part: str) -> Callable[[Figures, Figures], float]:
    """R^2 of a part of the states of the predicted frames."""
    return lambda found, other: float(found["r2"][part])


PLACE, FREE = agreement("place"), ("walk-free", 3)
RATIO: dict[str, Any] = {"form": ".2f"}
WALKS = [
    Target(*FREE, "R^2 of the place, 256 steps", PLACE, "≥", 0.99),
    Target(*FREE, "squared error of 256 steps / own reconstruction's", over_reconstruction("all"), "≤", 2, **RATIO),
    Target(*FREE, "that of the last 64 of them / own reconstruction's", over_reconstruction("last"), "≤", 2, **RATIO),
    Target(*FREE, "the mean frame's squared error / ours", times_ours("mean frame"), "≥", 3, **RATIO),
    Target(*FREE, "an LSTM's squared error / ours", theirs_over_ours, "≥", 3, **RATIO, other="walk-lstm"),
    Target(*FREE, "an SRNN's squared error / ours", theirs_over_ours, **RATIO, other="walk-srnn"),
    Target("walk-walls", 5, "R^2 of the place, 256 steps", PLACE, "≥", 0.99),
    Target("walk-walls", 5, "R^2 of the place, 1,024 steps", lambda found, other: PLACE(found["long"], other),
           "≥", 0.99),
    Target("walk-walls", 5, "squared error of 256 steps / that without walls", ours_over_theirs, "≤", 1,
           **RATIO, other="walk-free"),
    Target("walk-walls_noise", 1, "R^2 of the place, 256 steps", PLACE, "≥", 0.9),
    Target("walk-partition", 1, "R^2 of the place, 256 steps", PLACE),
]  # fmt: skip
POSES, ACTIONS = ("room-poses", 3), ("room-actions", 3)
ROOMS = [
    Target(*POSES, "squared error of 150 steps", error_of, "≤", 0.009),
    Target(*POSES, "the nearest view's squared error / ours", times_ours("nearest frame"), **RATIO),
    Target(*POSES, "whole views' squared error / ours", theirs_over_ours, **RATIO, other="room-views"),
    Target(*ACTIONS, "squared error of 150 steps", error_of, "≤", 0.012),
    Target(*ACTIONS, "R^2 of the place, 150 steps", PLACE, "≥", 0.998),
    Target(*ACTIONS, "R^2 of the heading, 150 steps", agreement("heading"), "≥", 0.998),
    Target(*ACTIONS, "squared error of 600 steps", lambda found, other: error_of(found["long"], other)),
    Target(*ACTIONS, "an LSTM's squared error / ours", theirs_over_ours, **RATIO, other="room-lstm"),
]


def done(folder: Path, begins: str) -> list[Record]:
    """The records whose names begin so, of those that have their figures."""
    return [row for row in records(folder) if row.get("figures") and row["name"].startswith(begins)]


def by_kind(rows: Sequence[Record]) -> dict[str, list[Record]]:
    """Kind, a row's name without its seed -> its records, those of the smallest error first."""
    found: dict[str, list[Record]] = {}
    for row in sorted(rows, key=lambda row: row["figures"]["squared_error"]):
        found.setdefault(re.sub(r"-\d+$", "", row["name"]), []).append(row)
    return found


def best(rows: Sequence[Record]) -> Record:
    """The record of the smallest squared error on the validation walks, at its last look."""
    return min(rows, key=lambda row: row["looks"][-1]["squared_error"])


def numbers_of(figures: Figures) -> dict[str, Any]:
    """Figures without their curves, so that a median can be taken of each."""
    return {name: numbers_of(value) if isinstance(value, Mapping) else value
            for name, value in figures.items() if not isinstance(value, list)}  # fmt: skip


def parts(found: Figures) -> str:
    """R^2 of each part of a state; a dash of a system without states."""
    return " / ".join(f"{value:.4f}" for value in found.get("r2", {}).values()) or "–"


def error_cells(errors: Figures, standard: float | None = None) -> list[str]:
    """The squared errors of the first steps, of all and of the last."""
    found = [f"{errors[span]:.4f}" for span in ("first", "all", "last")]
    return found if standard is None else [found[0], f"{found[1]} ± {standard:.4f}", found[2]]


def figure_cells(figures: Figures) -> list[str]:
    """The cells of a row's figures."""
    far, been = figures["long"], figures.get("been there")
    return [
        parts(figures), parts(far), *error_cells(figures["errors"], figures["error"]),
        "{all:.4f} ({last:.4f})".format(**far["errors"]),
        f"{been['squared_error']:.4f} ({been['share']:.0%})" if been else "–",
        f"{figures['reconstruction']:.4f}" if "reconstruction" in figures else "–",
    ]  # fmt: skip


def gains(row: Record) -> str:
    """The gains of turn and stride at the last look, as multiples of the true ones; a dash where they are given."""
    found = {name: value for name, value in row["looks"][-1].items() if name.endswith("gain")}
    if not found or "true poses" in row["system"]:
        return "–"
    return ", ".join(f"{name.rpartition('.')[2].removesuffix('_gain')} {OFF * found[name]:.3f}"
                     for name in sorted(found, reverse=True))  # fmt: skip


def course(row: Record, begun: Record | None) -> list[str]:
    """The cells of a row's steps and CPU minutes, with those of the first phase, and how that one ended."""
    minutes, phases = row["cpu_minutes"], [f"{row['steps']:,}"]
    if row["ended"] == "budget":
        phases[-1] += f", {row['steps'] / row['planned_steps']:.0%} of the plan"
    if begun is not None:
        # of a slow gate the cycles come to their end without the sign that it has learned the walls
        sign = "by its sign" if begun["ended"] == "enough" else "without its sign"
        minutes, phases = minutes + begun["cpu_minutes"], [f"{begun['steps']:,} {sign}", *phases]
    return [" + ".join(phases), f"{minutes:.0f}"]


def data_table(kinds: Kinds, firsts: Kinds) -> str:
    """The table of one data set: each row, the medians of several seeds, and what needs no model."""
    figures = next(iter(kinds.values()))[0]["figures"]
    ahead, far, num = figures["ahead"], figures["long"]["ahead"], figures["num_test"]
    head = ["row", "system", f"R^2, {ahead} steps", f"R^2, {far:,} steps", f"squared error of steps 1 to {FIRST}",
            f"1 to {ahead}", f"last {LAST} of {ahead}", f"1 to {far:,} (last {LAST})", "places seen before (share)",
            "own reconstruction", "gains found / true", "steps", "CPU minutes", "command"]  # fmt: skip
    lines = []
    for kind, rows in kinds.items():
        if len(rows) > 1:
            cells = figure_cells(middle([numbers_of(row["figures"]) for row in rows]))
            lines.append([f"median of {len(rows)} seeds", rows[0]["system"], *cells, "–", "–", "–", "–"])
        begun = {row["seed"]: row for row in firsts.get(f"{kind}_begun", ())}
        lines += [[row["name"], row["system"], *figure_cells(row["figures"]), gains(row),
                   *course(row, begun.get(row["seed"])), f"`{row['command']}`"] for row in rows]  # fmt: skip
    for name, errors in figures["without model"].items():
        lines.append(["–", name, "–", "–", *error_cells(errors), *["–"] * 7])
    # rays have no codes, and no system over images has gains
    shown = [column for column in zip(head, *lines, strict=True) if set(column[1:]) != {"–"}]
    head, *lines = ([*line] for line in zip(*shown, strict=True))
    group = [row for rows in kinds.values() for row in rows]
    notes = [f"- {row['name']}: {row['note']}" for row in group if row["note"]]
    title = f"**{group[0]['data']}**: {num:,} test walks."
    return "\n".join([title, "", markdown(head, lines), *([""] if notes else []), *notes, "", *machines(group)])


def verdict(target: Target, values: Sequence[float]) -> str:
    """Words for a target that is met or missed by the median of the seeds, and by how many of them."""
    few = f"; {len(values)} of {target.seeds} seeds are trained" if len(values) < target.seeds else ""
    if not target.sign:
        return f"reported alone{few}"
    holds = operator.ge if target.sign == "≥" else operator.le
    reached = sum(holds(value, target.asked) for value in values)
    if reached in (0, len(values)):
        return f"{'met' if reached else 'missed'}{few}"
    by_median = "met" if holds(median(values), target.asked) else "missed"
    return f"{by_median} by the median, met by {reached} of {len(values)}{few}"


def targets_table(targets: Sequence[Target], kinds: Kinds) -> str:
    """A line for each target whose rows are trained: the number that was asked for, and the numbers found."""
    medians = {kind: middle([numbers_of(row["figures"]) for row in rows]) for kind, rows in kinds.items()}
    lines = []
    for target in targets:
        # neither has a ratio a line while the row that it is to is being trained
        if target.kind not in kinds or (target.other and target.other not in kinds):
            continue
        other = medians.get(target.other, {})
        values = sorted(target.found(row["figures"], other) for row in kinds[target.kind])
        asked = f"{target.sign} {target.asked:g}" if target.sign else "–"
        lines.append([target.kind, target.words, asked, f"{median(values):{target.form}}",
                      ", ".join(f"{value:{target.form}}" for value in values), verdict(target, values)])  # fmt: skip
    return markdown(["rows", "number", "target", "median", "each seed", "met or missed"], lines) if lines else ""


def tables(folder: Path, begins: str, targets: Sequence[Target]) -> str:
    """The tables of all data sets of rows whose names begin so, their targets, and the rows that ship."""
    rows = done(folder, begins)
    firsts = by_kind([row for row in rows if "_begun-" in row["name"]])
    # a first phase alone is a row that is still being trained
    kinds = by_kind([row for row in rows if "_begun-" not in row["name"]])
    if not kinds:
        return f"No row is recorded yet; `python tools/runs.py --run --only {begins}` trains some."
    sets: dict[str, dict[str, list[Record]]] = {}
    for kind, group in kinds.items():
        sets.setdefault(group[0]["data"], {})[kind] = group
    shown = [data_table(group, firsts) for _, group in sorted(sets.items())]
    if found := targets_table(targets, kinds):
        shown.append(f"**Targets**\n\n{found}")
    if names := [f"`{best(kinds[kind])['name']}`" for kind in SHIPPED if kind in kinds]:
        shown.append(f"Smallest squared error on the validation walks: {', '.join(names)}.")
    return "\n\n".join(shown)


def walks_table(folder: Path = RESULTS) -> str:
    """Walks over images, without walls and with them."""
    return tables(folder, "walk-", WALKS)


def rooms_table(folder: Path = RESULTS) -> str:
    """An agent in rooms."""
    return tables(folder, "room-", ROOMS)


def walk_pictures(folder: Path = ROOT / "docs" / "pictures") -> str:
    """The stored pictures of `tools/walk_pictures.py`, each with its caption."""
    return shown_pictures(PICTURES, folder, "tools/walk_pictures.py")
