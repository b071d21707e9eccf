"""The table of calibration, from the records of tools/rows/calibration.py; and the sentence that the guide quotes."""

from pathlib import Path
from typing import Any

from cells import RESULTS, markdown, records

LEVEL = 0.01
NONE = "No row of calibration is recorded yet; `python tools/runs.py --run --only calibration-` records them."


def recorded(folder: Path) -> list[dict[str, Any]]:
    """The records that have their figures: other systems first, then the recipe in the order of its cost."""
    rows = [row for row in records(folder) if "p_values" in (row.get("figures") or {})]
    return sorted(rows, key=lambda row: (row.get("recipe", 0), row["name"]))


def calibration_table(folder: Path = RESULTS) -> str:
    """A row for each trained guide: the verdict at 1 %, and the quantities that fail."""
    rows = recorded(folder)
    if not rows:
        return NONE
    cells = []
    for row in rows:
        figures = row["figures"]
        passes = figures["p_value"] > LEVEL
        worst = min(figures["p_values"], key=figures["p_values"].get)
        cells.append([
            row["system"],
            f"{row['steps']:,}",
            f"{row['cpu_minutes']:.1f} min",
            f"{figures['p_value']:.2g}",
            "passes" if passes else "fails",
            f"{worst} ({figures['p_values'][worst]:.2g})",
            "" if passes else ", ".join(figures["failing"]),
        ])  # fmt: skip
    head = ["system", "steps", "CPU", "p, all quantities", "at 1 %", "worst quantity (its own p)", "failing"]
    return markdown(head, cells)


def calibrated_sentence(folder: Path = RESULTS) -> str:
    """The first guide of the recipe for a VAE of two latents that passes, in words."""
    rows = [row for row in recorded(folder) if row.get("recipe")]
    if not rows:
        return NONE
    number = rows[0]["figures"]["num_data"]
    passing = [row for row in rows if row["figures"]["p_value"] > LEVEL]
    if not passing:
        return f"Of {len(rows)} trained guides of a VAE of two latents none passes at 1 % with {number:,} data."
    first = passing[0]
    return (
        f"Of {len(rows)} trained guides of a VAE of two latents, from the cheapest on, the first that passes at 1 % "
        f"with {number:,} data is {first['system']} (p = {first['figures']['p_value']:.2g})."
    )
