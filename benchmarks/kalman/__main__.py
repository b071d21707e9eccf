"""Exact linear-Gaussian recursions beside every peer: the same numbers, one core, one interleaved run.

    make bench-kalman                        # the whole grid, hours; writes results/speed_kalman.json
    python -m benchmarks.kalman --quick      # a few cells, a quarter of an hour; prints, writes nothing
    python -m benchmarks.kalman --ours       # our own times, seconds; beside the best recorded peer's

Every row is a process of its own (`benchmarks.turns`) that may use one core. A cell is a problem (sizes, T, batch,
parameters shared or not, dtype) and a task. Before a row is timed, what it computes is compared with ours; one that
computes something else is refused. In every round every row does a block of steps, in an order that rotates; a ratio is
the median over rounds of the peer's time over ours in that round, of CPU time, which does not count what other programs
do. Compilation is not in the times; it is recorded. A row that is too slow or too large for a cell is left out of it,
and the reason is written down. The file is written after every cell, and a run goes on where the file ends.
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
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.kalman import problems, report
from benchmarks.kalman.problems import Cell
from benchmarks.kalman.report import digits
from benchmarks.turns import Runner, processor
from zoo.infer.training.settings import versions

ROOT = Path(__file__).parents[2]
PEERS = ROOT / ".venv-kalman-peers/bin/python"
OUT = ROOT / "results/speed_kalman.json"
OURS = "zoo"
TOLERANCE = {"float64": 1e-6, "float32": 2e-2}  # dynamax adds 1e-9 to every diagonal; float32 loses digits, not laws


class Row(NamedTuple):
    module: str  # benchmarks.<module>
    ours: bool = False  # runs in our environment, not the peers'
    compiles: float = 0  # seconds of CPU time that its compilation may take
    only: str = ""  # what it is not measured on, and why
    linear: bool = False  # a loop over sequences
    settles: bool = False  # with shared parameters it works less once the covariances do not change


ROWS = {
    OURS: Row("by_hand", ours=True, compiles=120, settles=True),
    "zoo, without numba": Row("by_hand", ours=True, settles=True),
    "PyTorch by hand": Row("by_hand", ours=True),
    "Pyro": Row("by_hand", ours=True),
    "torch-kf": Row("by_hand"),
    "dynamax": Row("peers", compiles=60),
    "dynamax, parallel": Row(
        "peers", compiles=240, only="compiles for minutes: float64 in batches of 1 and 32 only"
    ),
    "TFP": Row("peers", compiles=60),
    "statsmodels": Row("peers", linear=True, settles=True),
    "pykalman": Row("peers", linear=True),
    "filterpy": Row("peers", linear=True),
    "simdkalman": Row("peers"),
}
Marks = dict[str, list[float]]  # a fingerprint
Timed = dict[str, Any]  # {"error", "first_s", "ms", "ratio", "rounds"} or {"skipped", "at_least_ms" if too slow}


class Rows:
    """The processes; one that was ended is started again when it is needed."""

    def __init__(self, names: list[str], core: int) -> None:
        self.names, self.core, self.running = names, core, {}

    def __getitem__(self, name: str) -> Runner:
        if name not in self.running:
            row = ROWS[name]
            command = [sys.executable if row.ours else str(PEERS), "-m", f"benchmarks.kalman.{row.module}", name]
            self.running[name] = Runner(command, {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}, self.core)
        return self.running[name]

    def ended(self, name: str) -> None:
        self.running.pop(name, None)

    def release(self, size: int = 10**9) -> None:
        """Between cells: nothing is held, and who has grown begins anew."""
        for name, runner in list(self.running.items()):
            try:
                runner.ask({})
                if runner.resident() <= size:
                    continue
                runner.close()
            except (OSError, RuntimeError):
                pass  # it had ended
            self.ended(name)

    def close(self) -> None:
        for runner in self.running.values():
            runner.close()


class Grid:
    """Measures cells; remembers what was measured, so that hopeless rows are not tried.

    A peer's step may take `limit` seconds, or twice our time if that is longer; ours may take ten times the limit.
    """

    def __init__(self, rows: Rows, finished: list[dict[str, Any]], limit: float, size: float, rounds: int) -> None:
        self.rows, self.limit, self.size, self.rounds = rows, limit, size, rounds
        self.finished = finished

    def measure(self, cell: Cell, task: str, folder: Path) -> dict[str, Timed]:
        timed: dict[str, Timed] = {}
        request = {"cell": cell, "task": task, "folder": str(folder)}
        steps: dict[str, float] = {}
        mark = _textbook(cell, task, folder)
        for name in self.rows.names:
            limit = 10 * self.limit if name == OURS else max(self.limit, 2 * steps[OURS])
            reason = self._foreseen(name, cell, task, limit)
            if reason is None:
                try:
                    reason, mark = self._prepare(name, request, cell, mark, timed, limit)
                    if reason is None:
                        steps[name] = self._ask(name, 1, limit)
                except TimeoutError:
                    reason = {"skipped": f"> {limit:.3g} s", "at_least_ms": 1e3 * limit}
                except MemoryError:
                    reason = {"skipped": f"> {self.size / 1e9:g} GB"}
                except RuntimeError as error:
                    self.rows.ended(name)
                    reason = {"skipped": "failed: " + str(error).strip().splitlines()[-1][:160]}
            if reason is not None:
                timed[name] = reason
                if name == OURS:
                    return {OURS: {"skipped": reason["skipped"]}}
        times = self._rounds(steps)
        for name, own in times.items():
            ratios = [t / ours for t, ours in zip(own, times[OURS], strict=False)]
            timed[name] |= {
                "ms": digits(1e3 * statistics.median(own), 4),
                "ratio": digits(statistics.median(ratios), 4),
                "rounds": len(own),
            }
        return timed

    def _prepare(
        self, name: str, request: dict[str, Any], cell: Cell, mark: Marks, timed: dict[str, Timed], limit: float
    ) -> tuple[Timed | None, Marks]:
        answer = self._ask(name, request, limit + 5 + ROWS[name].compiles)
        if "refused" in answer:
            return {"skipped": answer["refused"]}, mark
        if "error" in answer:
            return {"skipped": f"failed: {answer['error']}"}, mark
        mark = mark or answer["fingerprint"]
        error = problems.disagreement(mark, answer["fingerprint"])
        if not error < TOLERANCE[cell.dtype]:
            if name == OURS:
                sys.exit(f"{cell.name}: our log-likelihood differs from the textbook's by {error:.1e}")
            return {"skipped": f"computes something else: relative difference {error:.1e}"}, mark
        timed[name] = {"error": digits(error, 4), "first_s": digits(answer["first"], 4)}
        return None, mark

    def _ask(self, name: str, request: Any, seconds: float) -> Any:
        try:
            answer = self.rows[name].ask(request, 1.5 * seconds, self.size)
        except (TimeoutError, MemoryError):
            self.rows.ended(name)
            raise
        each = answer["cpu"] / request if isinstance(request, int) else 0.0
        if each > seconds:
            raise TimeoutError(name)
        return each or answer

    def _rounds(self, steps: dict[str, float]) -> dict[str, list[float]]:
        """CPU seconds of a step, by round. Slow rows take part in the first rounds only."""
        block = {name: max(1, int(0.1 / max(t, 1e-6))) for name, t in steps.items()}
        rounds = {name: self.rounds if t < 0.5 else 3 if t < 2.5 else 2 for name, t in steps.items()}
        times: dict[str, list[float]] = {name: [] for name in steps}
        order = list(steps)
        for k in range(max(rounds.values(), default=0)):
            turn = k % len(order)
            for name in order[turn:] + order[:turn]:
                if k < rounds[name]:
                    if steps[name] < 0.02:
                        self.rows[name].ask(1 + block[name] // 5)  # the others have used the caches in the meantime
                    times[name].append(self.rows[name].ask(block[name])["cpu"] / block[name])
        return times

    def _foreseen(self, name: str, cell: Cell, task: str, limit: float) -> Timed | None:
        """A reason not to try: its time in a smaller problem, times what must be more work."""
        if ROWS[name].only and (cell.dtype != "float64" or cell.batch > 32):
            return {"skipped": ROWS[name].only}
        expected, source = 0.0, None
        for done in self.finished:
            other, row = Cell(*done["cell"]), done["rows"].get(name)
            same = other._replace(T=cell.T, batch=cell.batch) == cell and done["task"] == task
            if row is None or not same or other.T > cell.T or other.batch > cell.batch:
                continue
            if "GB" in row.get("skipped", ""):
                return {"skipped": f"{row['skipped']} at T {other.T}, batch {other.batch}"}
            ms = row.get("ms", row.get("at_least_ms", 0.0))
            more = cell.batch / other.batch if ROWS[name].linear else 1.0
            more *= 1.0 if ROWS[name].settles and not cell.varying else cell.T / other.T
            if ms > 200 and 1e-3 * ms * more > expected:
                expected, source = 1e-3 * ms * more, other
        if source is None or expected < 1.5 * limit:
            return None
        reason = f"> {limit:.3g} s: about {expected:.3g} s by its time at T {source.T}, batch {source.batch}"
        return {"skipped": reason, "at_least_ms": 1e3 * limit}


def _textbook(cell: Cell, task: str, folder: Path) -> Marks:
    """What we are checked against ourselves, where the textbook in numpy is quick."""
    if task != "likelihood" or cell.T * cell.batch > 5000:
        return {}
    return problems.fingerprint(task, problems.dense_loglik(problems.load(folder)))


def memory(rows: Rows, cells: list[Cell]) -> list[dict[str, Any]]:
    """Peak memory of the gradient: ours, and autograd through the textbook's loop, each in a fresh process."""
    found = []
    for cell in cells:
        with tempfile.TemporaryDirectory() as folder:
            problems.save(cell, Path(folder))
            request = {"cell": cell, "task": "gradient", "folder": folder, "memory": True}
            for name in (OURS, "zoo, without numba", "PyTorch by hand"):
                fresh = Rows([name], rows.core)
                found.append({"cell": cell, "row": name, "bytes": fresh[name].ask(request)["bytes"]})
                fresh.close()
    return found


def source() -> str:
    """Of the code that is timed, without its comments: results of different code do not belong into one file."""
    trees = [ast.parse(path.read_text()) for path in sorted((ROOT / "zoo/parts").glob("kalman*.py"))]
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module) and ast.get_docstring(node):
            node.body = node.body[1:]
    return hashlib.sha256("".join(map(ast.dump, trees)).encode()).hexdigest()[:12]


def record(args: argparse.Namespace, seconds: float, cells: list[dict[str, Any]], peaks: list) -> dict[str, Any]:
    used = versions()
    names = "dynamax jax jaxlib tfp-nightly statsmodels pykalman filterpy simdkalman torch-kf"
    ask = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
    for python, asked in ((sys.executable, "numba"), (str(PEERS), names)):
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
    add("--again", action="store_true", help="measure what the file has, too")
    add("--quick", action="store_true", help="(2, 1) and (4, 2), T 50 and 1000, batch 1 and 32, float64, three rounds")
    add("--ours", action="store_true", help="our own times in a few cells, beside the best that `--against` has")
    add("--against", type=Path, default=OUT, help="recorded peers for --ours")
    add("--out", type=Path, help=f"default {OUT.relative_to(ROOT)}; nothing with --quick and --ours")
    args = parser.parse_args()
    args.rows = args.rows or [name for name, row in ROWS.items() if not args.quick or row.compiles < 240]
    if args.quick or args.ours:
        args.lengths, args.batches, args.dtypes, args.rounds = (50, 1000), (1, 32), ("float64",), 3
        args.sizes = ["2,1", "4,2"] if args.quick else ["2,1", "4,2", "10,5"]
    else:
        args.out = args.out or OUT
    return args


def main() -> None:
    args = arguments()
    names = [OURS] if args.ours else [OURS, *(name for name in args.rows if name != OURS)]
    if not PEERS.exists():
        names = [name for name in names if ROWS[name].ours]
        print("no peers: `make bench-kalman-peers` installs them")
    kept = json.loads(args.out.read_text()) if args.out and args.out.exists() else {"cells": [], "memory": []}
    if kept["cells"] and kept["source"] != source():
        sys.exit(f"{args.out} is of other code in zoo/parts/kalman*.py: move it away, or give another --out")
    sizes = [tuple(map(int, size.split(","))) for size in args.sizes]
    order = itertools.product(args.dtypes, args.parameters, sizes, args.lengths, args.batches)
    cells = [Cell(*size, T, batch, kind == "varying", dtype) for dtype, kind, size, T, batch in order]
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
            with tempfile.TemporaryDirectory() as folder:
                if fits := cell.bytes <= args.input * 1e9:
                    problems.save(cell, Path(folder))
                for task in tasks:
                    large = {OURS: {"skipped": f"inputs of {cell.bytes / 1e9:.1f} GB"}}
                    measured = grid.measure(cell, task, Path(folder)) if fits else large
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
