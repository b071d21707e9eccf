"""Makes a trained pair ready to ship: zoo/weights/NAME, of a row of results and the folder of its training.

    python tools/ship.py results/mnist-short.json runs/mnist-short
    python tools/ship.py results/mnist-5-ladder.json          # a row of tools/rows: its folder is in the user's cache

The pair is scored on the row's test data, and must give the row's figure, or for a row of tools/rows that of its
`check`. It is stored in half precision if that moves the score by less than the figure's error.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from cells import ROOT
from rows import ROWS
from rows.place import cache
from rows.row import Row
from torch import nn

import zoo
from zoo.data import binarize, load
from zoo.infer import log_likelihood, sequence_log_likelihood


class Figure(NamedTuple):
    """The figure of a row, and the score by which a pair is told to be that of the row.

    Attributes:
        name, convention, value, error: of the figure.
        score: of a pair, and the number that it must give, within `tolerance`.
    """

    name: str
    convention: str
    value: float
    error: float
    score: Callable[[nn.Module, nn.Module], float]
    expected: float
    tolerance: float


def of_images(row: dict[str, Any]) -> Figure:
    """log p of test images, as `examples/mnist.py` evaluates it."""
    test = load(row["data"]).test.shuffled(123)[: row["num_test"]]
    x = test.images if test.num_levels == 2 else binarize(test, seed=123)
    return Figure(
        "log p, nats per image",
        f"5000 importance samples, {len(x)} test images, bits drawn once with seed 123",
        row["log_p"], row["log_p_error"],
        lambda model, guide: log_likelihood(model, guide, x, num_particles=5000, seed=123).mean,
        row["log_p"], row["monte_carlo_error"],
    )  # fmt: skip


def of_sequences(row: dict[str, Any]) -> Figure:
    """Minus log p of test sequences by frame, average a, as `examples/music.py` evaluates whole sequences."""
    if row["convention"] != "first frame scored, each sequence from its own start" or "cut" in row["evaluated"]:
        raise SystemExit(f"{row['name']}: evaluated as {row['evaluated']}, {row['convention']}: not known here")
    test = load(row["data"]).test
    return Figure(
        "-log p, nats per frame, averaged over all frames of a sequence and then over sequences",
        f"{row['convention']}; {row['num_particles']} importance samples", row["a"], row["a_error"],
        lambda model, guide: sequence_log_likelihood(
            model, guide, test.values, None, test.mask, data=row["data"], num_particles=row["num_particles"], seed=123
        ).a,
        row["a"], row["monte_carlo_error"],
    )  # fmt: skip


def of_runner(record: dict[str, Any], row: Row) -> Figure:
    """The main figure of a row of tools/rows, told by its cheaper `check`."""
    if row.check is None:
        raise SystemExit(f"{row.name}: the row states no check, by which its pair could be told")
    splits, found = row.data(), record["figures"]
    name, score = row.check
    return Figure(
        f"{row.figure}, {row.unit}", f"{row.system}; {record['data']}, {found['num_test']} test data",
        found[row.figure], found["error"], lambda model, guide: score(model, guide, splits),
        found[name], found["error"],
    )  # fmt: skip


def ship(row: dict[str, Any], trained: Path, target: Path, figure: Figure | None = None) -> dict[str, Any]:
    """Scores the pair in full and in half precision, and writes it; returns the facts that it wrote."""
    figure = figure or (of_images(row) if "log_p" in row else of_sequences(row))
    model, guide = zoo.load_pair(trained)
    before = figure.score(model, guide)
    # The same draws on the same machine give the same number; another machine may differ in the last digits.
    if abs(before - figure.expected) > figure.tolerance:
        raise SystemExit(f"{row['name']}: the row has {figure.expected}, the pair in {trained} gives {before}")
    with tempfile.TemporaryDirectory() as folder:
        zoo.save_pair(folder, model, guide, stored=torch.float16)
        moved = figure.score(*zoo.load_pair(folder)) - before
    stored = torch.float16 if abs(moved) < figure.error else None
    kept = {name: row[name] for name in ("name", "data", "command", "note", "seed", "versions", "date")}
    about = kept | {
        "figure": figure.name, "convention": figure.convention, "value": figure.value, "error": figure.error,
        "moved_by_half_precision": moved, "stored": "float16" if stored else "float32",
    }  # fmt: skip
    zoo.save_pair(target, model, guide, about=about, stored=stored)
    return about


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("row", type=Path, help="a file of results")
    parser.add_argument("trained", type=Path, nargs="?", help="the folder of the training")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    record = json.loads(chosen.row.read_text())
    row = next((row for row in ROWS if row.name == record["name"] and isinstance(row, Row)), None)
    if row is None and chosen.trained is None:
        parser.error(f"{record['name']} is no row of tools/rows: say the folder of its training")
    shown = ship(record, chosen.trained or cache() / record["name"], ROOT / "zoo" / "weights" / record["name"],
                 None if row is None else of_runner(record, row))  # fmt: skip
    print(json.dumps(shown, indent=1))
