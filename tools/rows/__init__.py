"""The rows of the results: a file for each group of systems, which `tools/runs.py` trains."""

from rows import (
    anomaly,
    calibration,
    codes,
    comparison,
    densities,
    gaps,
    hierarchies,
    labels,
    music,
    rooms,
    shapes,
    videos,
    walks,
)
from rows.row import Row, Script

ROWS: list[Row | Script] = [
    *music.ROWS, *hierarchies.ROWS, *anomaly.ROWS, *labels.ROWS, *codes.ROWS, *videos.ROWS, *walks.ROWS, *rooms.ROWS,
    *calibration.ROWS, *gaps.ROWS, *densities.ROWS, *comparison.ROWS, *shapes.ROWS,
]  # fmt: skip
