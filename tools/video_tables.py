"""The tables of videos of a ball, from the records of tools/rows/videos.py; and their pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from cells import RESULTS, ROOT, machines, markdown, records, shown_pictures

GAPS = ("4", "8", "12")
#: what is measured in a gap without any model
WITHOUT = {"pixels": ("straight line",), "hamming": ("walls only", "paper's baseline")}
HEAD = ("row, system, ELBO a frame, R^2, smoothed, filtered, each frame alone, Hamming smoothed, Hamming filtered, "
        "epochs, CPU minutes, command")  # fmt: skip

PICTURES = {
    "videos_rooms": "The four sets: a test video, the paths of the encoder's a in eight of them, and the weights alpha "
    "over the room as shares of red, green and blue (the deck's slides on the KVAE).",
    "videos_one_model": "Prediction from four frames by one linear model (K = 1) and by the mixture, over the true "
    "path (the deck's slide: one model is wrong at a bounce).",
    "videos_imputation": "A gap of 12 frames: the true frames, those that are seen, and the means that each system "
    "fills in from both sides.",
    "videos_generation": "Every third of 60 frames that the KVAE draws after the first four of a test video.",
    "videos_errors": "Error of the ball's position over the number of missing frames, on each set.",
}


def numbers(values: Mapping[str, Mapping[str, float]], name: str, form: str) -> str:
    """A system's figure in the gaps, "1.2 / 1.9 / 3.4"; a dash where it has none."""
    found = [values[gap].get(name) for gap in GAPS]
    return "–" if None in found else " / ".join(form.format(value) for value in found)


def middle(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of several seeds: the median of each."""
    first = rows[0]
    return {
        name: middle([row[name] for row in rows]) if isinstance(value, Mapping) else median(row[name] for row in rows)
        for name, value in first.items()
    }


def figure_cells(figures: Mapping[str, Any]) -> list[str]:
    """The cells of a row's figures."""
    bound = f"{figures['elbo']:.2f} ± {figures['error']:.2f}" if "elbo" in figures else "–"
    pixels = [numbers(figures["pixels"], name, "{:.2f}") for name in ("smoothed", "filtered", "encoder")]
    shares = [numbers(figures["hamming"], name, "{:.4f}") for name in ("smoothed", "filtered")]
    return [bound, f"{figures['r2']:.3f}", *pixels, *shares]


def line(row: Mapping[str, Any]) -> list[str]:
    """The line of a row."""
    done = "" if row["ended"] != "budget" else f", {row['steps'] / row['planned_steps']:.0%} of the plan"
    return [row["name"], row["system"], *figure_cells(row["figures"]), f"{row['epochs']:,}{done}",
            f"{row['cpu_minutes']:.0f}", f"`{row['command']}`"]  # fmt: skip


def without_model(figures: Mapping[str, Any]) -> list[list[str]]:
    """Lines of the measures that need no model."""
    shown = []
    for kind, names in WITHOUT.items():
        for name in names:
            value = numbers(figures[kind], name, "{:.2f}" if kind == "pixels" else "{:.4f}")
            cells = [value, "–", "–", "–", "–"] if kind == "pixels" else ["–", "–", "–", value, "–"]
            shown.append(["–", name, "–", "–", *cells, "–", "–", "–"])
    return shown


def videos_table(folder: Path = RESULTS) -> str:
    """A table for each set, the best ELBO first; rows that are still being trained have no line."""
    rows = [row for row in records(folder) if "pixels" in (row.get("figures") or {})]
    if not rows:
        return "No row is recorded yet; `python tools/runs.py --run --only box` trains some."
    parts = []
    for data in dict.fromkeys(row["data"] for row in rows):
        group = sorted((row for row in rows if row["data"] == data), key=lambda row: -row["figures"].get("elbo", -1e9))
        seeds: dict[str, list[dict[str, Any]]] = {}
        for row in group:
            seeds.setdefault(row["system"], []).append(row)
        lines = []
        for system, several in seeds.items():
            if len(several) > 1:
                figures = middle([row["figures"] for row in several])
                lines.append([f"median of {len(several)} seeds", system, *figure_cells(figures), "–", "–", "–"])
            lines += [line(row) for row in several]
        lines += without_model(group[0]["figures"])
        title = f"**{data}**: {group[0]['figures']['num_test']:,} test videos of 20 frames."
        notes = [f"- {row['name']}: {row['note']}" for row in group if row["note"]]
        parts.append("\n".join([title, "", markdown(HEAD.split(", "), lines), *([""] if notes else []), *notes, "",
                                *machines(group)]))  # fmt: skip
    return "\n\n".join(parts)


def video_pictures(folder: Path = ROOT / "docs" / "pictures") -> str:
    """The stored pictures of `tools/video_pictures.py`, each with its caption."""
    return shown_pictures(PICTURES, folder, "tools/video_pictures.py")
