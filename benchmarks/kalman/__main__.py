"""Exact linear-Gaussian recursions beside every peer: the same numbers, one core, one interleaved run.

    make bench-kalman                        # the whole grid, hours; writes results/speed_kalman.json
    python -m benchmarks.kalman --quick      # a few cells, a quarter of an hour; prints, writes nothing
    python -m benchmarks.kalman --ours       # our own times, seconds; beside the best recorded peer's
    python -m benchmarks.kalman --lanes      # both kinds of parameters in four cells, beside dynamax and smcx; prints

Every row is a process of its own (`benchmarks.turns`) that may use one core. A cell is a problem (sizes, T, batch,
parameters shared or not, dtype) and a task. Before a row is timed, its result is compared with ours; a row that
computes something else is refused. In every round every row does a block of steps, in an order that rotates. A ratio is
the median over rounds of the peer's time over ours in that round. Times are CPU times, so that other programs do not
count. Compilation is not in the times; it is recorded. A row that is too slow or too large for a cell is left out of
it, and the reason is written down. The file is written after every cell, and a later call goes on where the file ends.
`make bench-kalman-peers` installs the peers; without it there are the PyTorch rows only.
"""

import argparse
import ast
import hashlib
import itertools
import json
import math
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.kalman import problems, report
from benchmarks.kalman.grid import PEERS, ROOT, ROWS, TOLERANCE, Grid, Rows, Timed
from benchmarks.kalman.problems import Cell
from benchmarks.kalman.report import OURS
from benchmarks.turns import processor
from zoo.infer.training.settings import versions

OUT = ROOT / "results/speed_kalman.json"


def memory(rows: Rows, cells: list[Cell]) -> list[dict[str, Any]]:
    """Peak memory of the gradient: ours, and autograd through the textbook's loop, each in a fresh process."""
    found = []
    for cell in cells:
        with tempfile.TemporaryDirectory() as folder:
            problems.save(cell, Path(folder))
            request = {"cell": cell, "task": "gradient", "folder": folder, "memory": True}
            for name in (OURS, "zoo, without numba", "PyTorch by hand"):
                # a fresh process: the peak of one that has grown before says nothing
                fresh = Rows([name], rows.core)
                found.append({"cell": cell, "row": name, "bytes": fresh[name].ask(request)["bytes"]})
                fresh.close()
    return found


def source() -> str:
    """A digest of the code that is timed: one file holds the results of one code."""
    # of the syntax trees without docstrings: a better comment makes no measured cell worthless
    trees = [ast.parse(path.read_text()) for path in sorted((ROOT / "zoo/parts/kalman").rglob("*.py"))]
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module) and ast.get_docstring(node):
            node.body = node.body[1:]
    return hashlib.sha256("".join(map(ast.dump, trees)).encode()).hexdigest()[:12]


def record(args: argparse.Namespace, seconds: float, cells: list[dict[str, Any]], peaks: list) -> dict[str, Any]:
    """The content of the file."""
    used = versions()
    names = "dynamax jax jaxlib tfp-nightly smcx statsmodels pykalman filterpy simdkalman torch-kf"
    ask = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
    for python, asked in ((sys.executable, "numba"), *([(str(PEERS), names)] if PEERS.exists() else [])):
        done = subprocess.run([python, "-c", ask, *asked.split()], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            used |= dict(zip(asked.split(), done.stdout.split(), strict=True))
    return {
        "command": shlex.join(["python", "-m", "benchmarks.kalman", *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds),
        "hardware": f"{processor()}, one used",
        "load": os.getloadavg()[1],
        "versions": used,
        "source": source(),
        "limit_s": args.limit,
        "summary": report.summary(cells, peaks),
        "memory": peaks,
        "cells": cells,
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--sizes", nargs="+", default=[f"{n},{m}" for n, m in problems.SIZES], help="state,data")
    add("--lengths", nargs="+", type=int, default=problems.LENGTHS)
    add("--batches", nargs="+", type=int, default=problems.BATCHES)
    add("--parameters", nargs="+", choices=("shared", "varying"), default=("shared", "varying"))
    add("--dtypes", nargs="+", choices=TOLERANCE, default=("float64", "float32"))
    add("--tasks", nargs="+", choices=problems.TASKS, default=problems.TASKS)
    add("--rows", nargs="+", choices=ROWS, help=f"default all; with --quick those that compile fast; {OURS} always")
    add("--rounds", type=int, default=5)
    add("--limit", type=float, default=5, help="seconds: a peer whose step takes longer is left out of the cell")
    add("--input", type=float, default=2, help="GB: cells whose numbers take more are left out")
    add("--memory", type=float, default=8, help="GB: a row whose process holds more is left out of the cell")
    add("--minutes", type=float, default=math.inf, help="begin no further cell after that long")
    add("--core", type=int, default=max(os.sched_getaffinity(0)), help="the one that every row uses")
    add("--again", action="store_true", help="measure the cells that the file has, too")
    add("--quick", action="store_true", help="(2, 1) and (4, 2), T 50 and 1000, batch 1 and 32, float64, three rounds")
    add("--ours", action="store_true", help="our own times in a few cells, beside the best that `--against` has")
    add("--lanes", action="store_true", help="the cells of `problems.LANES`, nine rounds; writes only with `--out`")
    add("--against", type=Path, default=OUT, help="recorded peers for --ours")
    add("--out", type=Path, help=f"default {OUT.relative_to(ROOT)}; nothing with --quick and --ours")
    args = parser.parse_args()
    args.rows = args.rows or [name for name, row in ROWS.items() if not args.quick or row.compiles < 240]
    if args.lanes:
        args.rows, args.rounds = args.rows if "--rows" in sys.argv else ["dynamax", "smcx"], 9
    elif args.quick or args.ours:
        args.lengths, args.batches, args.dtypes, args.rounds = (50, 1000), (1, 32), ("float64",), 3
        args.sizes = ["2,1", "4,2"] if args.quick else ["2,1", "4,2", "10,5"]
    else:
        args.out = args.out or OUT
    return args


def asked_cells(args: argparse.Namespace) -> list[Cell]:
    """The cells that the arguments ask for."""
    kinds = [kind == "varying" for kind in args.parameters]
    if args.lanes:
        return [cell._replace(varying=varying) for varying in kinds for cell in problems.LANES]
    sizes = [tuple(map(int, size.split(","))) for size in args.sizes]
    order = itertools.product(args.dtypes, kinds, sizes, args.lengths, args.batches)
    return [Cell(*size, T, batch, varying, dtype) for dtype, varying, size, T, batch in order]


def measure(grid: Grid, cell: Cell, tasks: list[str], size: float) -> Iterator[tuple[str, dict[str, Timed]]]:
    """The tasks of a cell one by one, on the same numbers; none is tried where these take more than `size` bytes."""
    if cell.bytes > size:
        yield from ((task, {OURS: {"skipped": f"inputs of {cell.bytes / 1e9:.1f} GB"}}) for task in tasks)
        return
    with tempfile.TemporaryDirectory() as folder:
        problems.save(cell, Path(folder))
        for task in tasks:
            yield task, grid.measure(cell, task, Path(folder))


def main() -> None:
    args = arguments()
    names = [OURS] if args.ours else [OURS, *(name for name in args.rows if name != OURS)]
    if not PEERS.exists():
        names = [name for name in names if ROWS[name].ours]
        print("no peers: `make bench-kalman-peers` installs them")
    kept = json.loads(args.out.read_text()) if args.out and args.out.exists() else {"cells": [], "memory": []}
    if kept["cells"] and kept["source"] != source():
        sys.exit(f"{args.out} is of other code in zoo/parts/kalman: move it away, or give another --out")
    cells = asked_cells(args)
    asked = {(*cell, task) for cell in cells for task in args.tasks}
    finished = [done for done in kept["cells"] if not (args.again and (*done["cell"], done["task"]) in asked)]
    recorded = json.loads(args.against.read_text())["cells"] if args.ours and args.against.exists() else []
    best = report.best_recorded(recorded)
    grid = Grid(rows := Rows(names, args.core), finished, args.limit, args.memory * 1e9, args.rounds)
    begun, peaks, before = time.perf_counter(), kept["memory"], kept.get("seconds", 0)
    try:
        for cell in cells:
            tasks = [task for task in args.tasks if not any((*cell, task) == (*d["cell"], d["task"]) for d in finished)]
            if not tasks or (time.perf_counter() - begun) / 60 > args.minutes:
                continue
            for task, measured in measure(grid, cell, tasks, args.input * 1e9):
                finished.append({"cell": list(cell), "task": task, "rows": measured})
                print(report.line(cell, task, measured, best), flush=True)
            rows.release()
            if args.out:
                seconds = before + time.perf_counter() - begun
                report.write(args.out, record(args, seconds, finished, peaks))
        if not args.ours and (args.again or not peaks):
            peaks = memory(rows, [Cell(4, 2, 1000 if args.quick else 10_000, batch) for batch in (1, 32)])
    finally:
        rows.close()
    found = record(args, before + time.perf_counter() - begun, finished, peaks)
    if args.out:
        report.write(args.out, found)
    if not args.ours:
        print(report.tables(finished, found["summary"], list(ROWS)))


if __name__ == "__main__":
    main()
