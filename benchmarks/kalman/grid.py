"""The rows of `benchmarks.kalman`, processes of their own, and the measurement of a cell: all rows, interleaved."""

import statistics
import sys
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.kalman import problems
from benchmarks.kalman.problems import Cell
from benchmarks.kalman.report import OURS, digits
from benchmarks.turns import Runner

ROOT = Path(__file__).parents[2]
PEERS = ROOT / ".venv-kalman-peers/bin/python"
# relative: dynamax adds 1e-9 to every diagonal, and in float32 a peer may lose digits but must follow the same laws
TOLERANCE = {"float64": 1e-6, "float32": 2e-2}


class Row(NamedTuple):
    """A program, and the limits within which it is tried."""

    module: str  # benchmarks.kalman.<module>
    ours: bool = False  # runs in our environment, not the peers'
    compiles: float = 0  # seconds of CPU time that its compilation may take
    only: str = ""  # why it is measured on a part of the grid alone
    linear: bool = False  # a loop over sequences
    settles: bool = False  # with shared parameters it works less once the covariances do not change


ROWS = {
    OURS: Row("by_hand", ours=True, compiles=120, settles=True),
    "zoo, without numba": Row("by_hand", ours=True, settles=True),
    "PyTorch by hand": Row("by_hand", ours=True),
    "Pyro": Row("by_hand", ours=True),
    "torch-kf": Row("by_hand"),
    "dynamax": Row("peers", compiles=60),
    "dynamax, parallel": Row("peers", compiles=240, only="compiles for minutes: float64 in batches of 1 and 32 only"),
    "TFP": Row("peers", compiles=60),
    "smcx": Row("peers", compiles=60),
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
        """Frees the numbers of a cell; ends processes that hold more than `size` bytes even so."""
        for name, runner in list(self.running.items()):
            try:
                runner.ask({})
                if runner.resident() <= size:
                    continue
                runner.close()
            except (OSError, RuntimeError):
                # it had ended, and is started again when it is needed
                pass
            self.ended(name)

    def close(self) -> None:
        for runner in self.running.values():
            runner.close()


class Grid:
    """Measures cells; knows the finished ones, so that a row that was hopeless in a smaller cell is not tried.

    A peer's step may take `limit` seconds, or twice our time if that is longer; ours may take ten times the limit.
    """

    def __init__(self, rows: Rows, finished: list[dict[str, Any]], limit: float, size: float, rounds: int) -> None:
        self.rows, self.limit, self.size, self.rounds = rows, limit, size, rounds
        self.finished = finished

    def measure(self, cell: Cell, task: str, folder: Path) -> dict[str, Timed]:
        """The time of every row, or the reason why it has none."""
        timed: dict[str, Timed] = {}
        request = {"cell": cell, "task": task, "folder": str(folder)}
        steps: dict[str, float] = {}
        mark = _textbook(cell, task, folder)
        # ours is the first: the limit of the others and their ratios hang on it
        for name in self.rows.names:
            limit = 10 * self.limit if name == OURS else max(self.limit, 2 * steps[OURS])
            reason = self._foreseen(name, cell, task, limit)
            if reason is None:
                reason, mark = self._try(name, request, cell, mark, timed, steps, limit)
            if reason is not None and name == OURS:
                return {OURS: {"skipped": reason["skipped"]}}
            if reason is not None:
                timed[name] = reason
        times = self._rounds(steps)
        for name, own in times.items():
            ratios = [t / ours for t, ours in zip(own, times[OURS], strict=False)]
            timed[name] |= {
                "ms": digits(1e3 * statistics.median(own), 4),
                "ratio": digits(statistics.median(ratios), 4),
                "rounds": len(own),
            }
        return timed

    def _try(
        self, name: str, request: dict, cell: Cell, mark: Marks, timed: dict, steps: dict[str, float], limit: float
    ) -> tuple[Timed | None, Marks]:
        """Adds a row to `timed` and the seconds of its step to `steps`, or gives a reason; with the fingerprint."""
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
        return reason, mark

    def _prepare(
        self, name: str, request: dict[str, Any], cell: Cell, mark: Marks, timed: dict[str, Timed], limit: float
    ) -> tuple[Timed | None, Marks]:
        """Has the row build its step, and compares the result with the fingerprint."""
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
        """An answer, or for a number of steps the seconds of one."""
        try:
            # wall time is the limit that can be enforced; CPU time, which is less, is the limit that counts
            answer = self.rows[name].ask(request, 1.5 * seconds, self.size)
        except (TimeoutError, MemoryError):
            self.rows.ended(name)
            raise
        each = answer["cpu"] / request if isinstance(request, int) else 0.0
        if each > seconds:
            raise TimeoutError(name)
        return each or answer

    def _rounds(self, steps: dict[str, float]) -> dict[str, list[float]]:
        """CPU seconds of a step, by round."""
        # a block takes a tenth of a second: long enough for the clock, short enough that the rows of a round meet the
        # same machine
        block = {name: max(1, int(0.1 / max(t, 1e-6))) for name, t in steps.items()}
        # slow rows take part in the first rounds only: their ratios are large, and two digits of them say enough
        rounds = {name: self.rounds if t < 0.5 else 3 if t < 2.5 else 2 for name, t in steps.items()}
        times: dict[str, list[float]] = {name: [] for name in steps}
        order = list(steps)
        for k in range(max(rounds.values(), default=0)):
            turn = k % len(order)
            for name in (name for name in order[turn:] + order[:turn] if k < rounds[name]):
                # the other rows have used the processor's caches in the meantime; a slow step does not notice
                if steps[name] < 0.02:
                    self.rows[name].ask(1 + block[name] // 5)
                times[name].append(self.rows[name].ask(block[name])["cpu"] / block[name])
        return times

    def _foreseen(self, name: str, cell: Cell, task: str, limit: float) -> Timed | None:
        """A reason not to try: the row's time in a smaller problem, times the factor of the larger one's work."""
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
            # work grows with T, but for a row that stops once covariances have settled; and with the batch, if the row
            # loops over it (others may do a batch at once)
            more = cell.batch / other.batch if ROWS[name].linear else 1.0
            more *= 1.0 if ROWS[name].settles and not cell.varying else cell.T / other.T
            if ms > 200 and 1e-3 * ms * more > expected:
                expected, source = 1e-3 * ms * more, other
        if source is None or expected < 1.5 * limit:
            return None
        reason = f"> {limit:.3g} s: about {expected:.3g} s by its time at T {source.T}, batch {source.batch}"
        return {"skipped": reason, "at_least_ms": 1e3 * limit}


def _textbook(cell: Cell, task: str, folder: Path) -> Marks:
    """The textbook's fingerprint, against which our own result is checked; empty where numpy would take long."""
    if task != "likelihood" or cell.T * cell.batch > 5000:
        return {}
    return problems.fingerprint(task, problems.dense_loglik(problems.load(folder)))
