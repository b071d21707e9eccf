"""What the makers of README's tables share."""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A table; vertical bars in cells are escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def duration(seconds: float) -> str:
    """7260 -> 2 h 1 min."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def records(folder: Path) -> list[dict[str, Any]]:
    """Everything in the results folder."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def provenance(run: dict[str, Any]) -> str:
    """Under a table of times: the command, and on what it ran."""
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    return f"`{run['command']}`; {run['hardware']}; {versions}."
