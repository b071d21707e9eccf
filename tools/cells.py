"""Cells and records: the parts that all tables are made of."""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"


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
