"""The table of imputation errors, from the record of `examples/gaps.py`."""

from pathlib import Path

from cells import RESULTS, markdown, provenance, records

NONE = "No run is recorded yet; `python tools/runs.py --run --only gaps` records one."


def gaps_table(folder: Path = RESULTS) -> str:
    """A row for each case of missing entries: RMSE of each method over the gaps, the smallest in bold."""
    runs = [row for row in records(folder) if "rmse" in row]
    if not runs:
        return NONE
    parts = []
    for row in runs:
        # not-MIWAE has a figure where the mask depends on the values alone, so that the last case names every method
        methods = list(dict.fromkeys(method for errors in row["rmse"].values() for method in errors))
        cells = []
        for case, errors in row["rmse"].items():
            least = min(errors.values())
            shown = [_cell(errors.get(method), least) for method in methods]
            cells.append([case, *shown])
        parts += [markdown(["entries missing", *methods], cells), provenance(row)]
    return "\n\n".join(parts)


def _cell(error: float | None, least: float) -> str:
    if error is None:
        return "–"
    return f"**{error:.3f}**" if error == least else f"{error:.3f}"
