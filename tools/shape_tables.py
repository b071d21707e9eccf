"""The table of codes of shapes, from the records of rows/shapes.py; and their pictures."""

from pathlib import Path
from statistics import median
from typing import Any

from cells import RESULTS, ROOT, machines, markdown, records, shown_pictures

# Figure of a record -> the head of its column.
COLUMNS = {
    "reconstruction": "E log p(x given z)",
    "mig": "MIG",
    "sap": "SAP",
    "disentanglement": "D",
    "completeness": "C",
    "informativeness": "I",
    "beta_vae_score": "beta-VAE score",
}
PICTURES = {
    "shapes_scores": "Reconstruction against MIG: a point for each seed, a colour for each objective. Weights on the "
    "KL move points to the left; the spread over seeds goes up and down.",
    "shapes_traversals": "Pictures along the codes of the row of the highest MIG: a line for each coordinate of the "
    "code that carries most nats, from -2 to 2.",
}


def shape_rows(folder: Path = RESULTS) -> list[dict[str, Any]]:
    """The records of rows that are done."""
    return [row for row in records(folder) if "mig" in (row.get("figures") or {})]


def by_objective(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Objective -> its rows, one for each seed."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["system"], []).append(row)
    return found


def shapes_table(folder: Path = RESULTS) -> str:
    """A line for each objective: the median over its seeds, and the range."""
    rows = shape_rows(folder)
    if not rows:
        return "No row is recorded yet; `python tools/runs.py --run --only shapes-` trains them."
    lines = []
    for system, group in by_objective(rows).items():
        kl = spread([row["figures"]["kl"]["z"] for row in group])
        cells = [spread([row["figures"][name] for row in group]) for name in COLUMNS]
        lines.append([system, str(len(group)), cells[0], kl, *cells[1:]])
    head, *scores = COLUMNS.values()
    shown = markdown(["objective", "seeds", head, "KL", *scores], lines)
    tested = sorted({f"{row['figures']['num_test']:,}" for row in rows})
    return "\n\n".join([f"{', '.join(tested)} test pictures; median (range) over seeds.", shown, *machines(rows)])


def spread(numbers: list[float]) -> str:
    """The median and the range of some numbers."""
    return f"{median(numbers):.2f} ({min(numbers):.2f} to {max(numbers):.2f})"


def shape_pictures(folder: Path = ROOT / "docs" / "pictures") -> str:
    """The stored pictures of `tools/shape_pictures.py`, each with its caption."""
    return shown_pictures(PICTURES, folder, "tools/shape_pictures.py")
