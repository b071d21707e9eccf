"""What the benchmark of the exact recursions says is what was measured, and of the same problem."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

import table  # noqa: E402

from benchmarks.kalman import report  # noqa: E402
from benchmarks.kalman.by_hand import ROWS  # noqa: E402
from benchmarks.kalman.problems import (  # noqa: E402
    TASKS,
    Cell,
    dense_loglik,
    disagreement,
    fingerprint,
    load,
    problem,
    save,
)
from benchmarks.turns import Runner  # noqa: E402

SHARED, VARYING = Cell(3, 2, 6, 4), Cell(3, 2, 6, 4, varying=True)
HERE = [name for name in ROWS if name not in ("torch-kf", "zoo, without numba")]  # the last would switch numba off


@pytest.fixture(autouse=True)
def _validation_stays_as_it_was():
    before = torch.distributions.Distribution._validate_args
    yield
    torch.distributions.Distribution.set_default_validate_args(before)


@pytest.mark.parametrize("cell", [SHARED, VARYING], ids=["shared", "varying"])
def test_rows_compute_the_same(cell):
    arrays = problem(cell)
    textbook = fingerprint("likelihood", dense_loglik(arrays))
    for task in TASKS:
        steps = {name: ROWS[name](task, cell, arrays) for name in HERE}
        found = {name: fingerprint(task, step()) for name, step in steps.items() if not isinstance(step, str)}
        assert len(found) == (2 if task == "smoother" else 3)
        base = textbook if task == "likelihood" else found["zoo"]
        assert all(disagreement(base, other) < 1e-9 for other in found.values())


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("cell", [SHARED, VARYING], ids=["shared", "varying"])
def test_another_problem_has_another_fingerprint(cell, task):
    def found(arrays):
        return fingerprint(task, ROWS["PyTorch by hand"](task, cell, arrays)())

    arrays = problem(cell)
    for name in arrays:
        moved = {**arrays, name: arrays[name].copy()}
        moved[name][(-1,) * moved[name].ndim] *= 1.01
        assert disagreement(found(arrays), found(moved)) > 1e-5, name
    broken = {**arrays, "R": np.full_like(arrays["R"], np.nan)}
    with pytest.raises(torch.linalg.LinAlgError):
        found(broken)
    assert disagreement({"a": [1.0]}, {"a": [float("nan")]}) == float("inf")


def test_a_problem_is_the_same_from_its_files(tmp_path):
    cell = VARYING._replace(dtype="float32")
    save(cell, tmp_path)
    arrays = problem(cell)
    loaded = load(tmp_path)
    assert loaded.keys() == arrays.keys()
    assert all(np.array_equal(loaded[name], value) for name, value in arrays.items())
    time_and_sequence = sum(arrays[name].nbytes for name in ("x", "A", "Q", "C", "R"))
    assert time_and_sequence == cell.bytes


def test_a_process_that_is_too_slow_or_too_large_is_ended():
    loop = "import sys; sys.stdin.readline()\nwhile True: pass"
    with pytest.raises(TimeoutError):
        Runner([sys.executable, "-c", loop], {}).ask(1, seconds=0.3)
    hold = "import sys, time; sys.stdin.readline(); held = b'x' * 10**8; time.sleep(100)"
    with pytest.raises(MemoryError):
        Runner([sys.executable, "-c", hold], {}).ask(1, seconds=50, size=5 * 10**7)
    answer = "import os, sys; sys.stdin.readline(); print(list(os.sched_getaffinity(0)))"
    core = min(os.sched_getaffinity(0))
    runner = Runner([sys.executable, "-c", answer], {}, core)
    assert runner.ask(1, seconds=50) == [core]
    runner.close()


def done(task, T, **ratios):
    """A measured cell in which ours took 2 ms; a negative number is a peer that was stopped after so many ms."""
    rows = {"zoo": {"ms": 2.0, "ratio": 1.0}}
    for name, r in ratios.items():
        rows[name] = {"ms": 2 * r, "ratio": r} if r > 0 else {"skipped": "> 5 s", "at_least_ms": -r}
    return {"cell": [2, 1, T, 32, False, "float64"], "task": task, "rows": rows}


def test_the_summary_counts_what_was_measured():
    cells = [
        done("gradient", 50, TFP=0.5, dynamax=4.0, Pyro=3.0, statsmodels=-5000.0),
        done("gradient", 1000, TFP=2.0, dynamax=9.0, Pyro=0.8, statsmodels=-1.0),
        {"cell": [2, 1, 10_000, 32, False, "float64"], "task": "gradient", "rows": {"zoo": {"skipped": "> 50 s"}}},
    ]
    peaks = [{"cell": [4, 2, 9, 1, False, "float64"], "row": row, "bytes": b} for row, b in
             [("zoo", 10), ("PyTorch by hand", 49)]]  # fmt: skip
    found = report.summary(cells, peaks)
    assert found["geometric_means"]["dynamax"]["gradient"] == 6.0
    assert found["counts"]["TFP"] == {"ahead": 1, "behind": 1}
    assert found["counts"]["statsmodels"] == {"ahead": 1, "behind": 1}
    assert [(entry["peer"], entry["ratio"]) for entry in found["behind"]] == [("TFP", 0.5), ("Pyro", 0.8)]
    assert [(entry["task"], entry["ours"]) for entry in found["unmeasured"]] == [("gradient", "> 50 s")]
    met = [target["met"] for target in found["targets"]]
    # PyTorch behind once; no numpy; a bound below 1 does not count; JAX at T x batch 1600 and 32,000; means; memory
    assert met == [False, None, True, False, True, True, False]
    assert [row["ratios"]["statsmodels"] for row in found["best"]] == ["– / > 2,500 / –", "– / > 0.50 / –"]


def test_the_file_and_the_table_show_the_summary(tmp_path):
    cells = [done("gradient", 1000, TFP=2.0, dynamax=9.0)]
    run = {"command": "python -m x", "hardware": "an abacus", "versions": {"torch": "2.10"}, "cells": cells}
    assert "No timing" in table.kalman_speed_table(tmp_path)
    report.write(tmp_path / "speed.json", run | {"summary": report.summary(cells, [])})
    assert json.loads((tmp_path / "speed.json").read_text())["cells"] == cells
    shown = table.kalman_speed_table(tmp_path)
    own = ["| (2, 1) | 1,000 | 32 |", "– / 2.0 / –", "| dynamax | – | 9 | – | 1 | 0 |"]
    for part in [*own, "an abacus", "torch 2.10"]:
        assert part in shown, part
