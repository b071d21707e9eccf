"""Cells and records: the parts that all tables are made of."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scipy import stats

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"
# The last part of a run by CPU time, whose slope says how far its curve had come.
LAST = 0.1


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A table of Markdown; vertical bars in cells are escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def duration(seconds: float) -> str:
    """7260 -> 2 h 1 min."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def records(folder: Path) -> list[dict[str, Any]]:
    """The records of a folder of results, in the order of their names."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def provenance(run: dict[str, Any]) -> str:
    """The line under a table of times: command, machine and versions."""
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    return f"`{run['command']}`; {run['hardware']}; {versions}."


def machines(rows: list[dict[str, Any]]) -> list[str]:
    """The machines, versions and seeds of some rows."""
    return sorted({
        f"{row['hardware']}; {', '.join(f'{name} {version}' for name, version in row['versions'].items())}; seed "
        f"{row['seed']}." for row in rows
    })  # fmt: skip


def end_slope(points: list[tuple[float, float]]) -> str:
    """The slope of a curve over the last part of its time, with its standard error; points: (time, value)."""
    last = [point for point in points if point[0] >= (1 - LAST) * points[-1][0]]
    # a line through fewer points has no error to speak of
    last = last if len(last) >= 3 else points[-3:]
    if len(last) < 3:
        return "–"
    if len({value for _, value in last}) == 1:
        return "0 (constant)"
    found = stats.linregress(*zip(*last, strict=True))
    return f"{found.slope:+.3f} ± {found.stderr:.3f}"


def shown_pictures(captions: Mapping[str, str], folder: Path, tool: str) -> str:
    """The stored pictures of a tool, each with its caption; `captions`: file name without its end -> caption."""
    # A page may not show a picture that is not there: those of rows in training are left out.
    stored = {name: caption for name, caption in captions.items() if (folder / f"{name}.png").exists()}
    shown = [f"![{caption.partition(':')[0]}](pictures/{name}.png)\n\n*{caption}*" for name, caption in stored.items()]
    return "\n\n".join(shown) or f"No picture is stored yet; `python {tool}` makes them."
