"""Problems of `benchmarks.kalman`: the same numbers for every program, from a seed, by numpy alone. Every program's
environment can import it.

z_1 ~ N(m, P), z_t = A_t z_{t-1} + N(0, Q_t) for t >= 2, x_t = C_t z_t + N(0, R_t).
"""

import ctypes
import gc
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import turns

Arrays = dict[str, np.ndarray]
FIELDS = ("initial_mean", "initial_covariance", "A", "Q", "C", "R")
TASKS = ("likelihood", "gradient", "smoother")
SIZES = ((2, 1), (4, 2), (10, 5), (32, 16))  # of the state, of an observation
LENGTHS = (50, 100, 1000, 10_000)
BATCHES = (1, 32, 256, 1000)


class Cell(NamedTuple):
    """One problem. `varying`: A, Q, C, R differ for every sequence and time, m and P for every sequence."""

    state: int
    data: int
    T: int
    batch: int
    varying: bool = False
    dtype: str = "float64"

    @property
    def name(self) -> str:
        kind = "per sequence and time" if self.varying else "shared"
        return f"({self.state}, {self.data}) T {self.T} batch {self.batch} {kind} {self.dtype}"

    @property
    def bytes(self) -> int:
        n, m = self.state, self.data
        numbers = m + (2 * n * n + m * n + m * m if self.varying else 0)
        return self.batch * self.T * numbers * np.dtype(self.dtype).itemsize


#: a batch that is filled, one large sequence, many short ones in float32, a long scalar one
LANES = (Cell(4, 2, 200, 32), Cell(8, 4, 1000, 1), Cell(2, 1, 100, 256, dtype="float32"), Cell(1, 1, 10_000, 1))


def problem(cell: Cell, seed: int = 0) -> Arrays:
    """m, P, A, Q, C, R and x (batch, T, data). Time does not depend on the data's values: x is plain noise.

    The state turns and shrinks (|eigenvalues| 0.95) and P - Q is positive definite, which GaussianHMM needs.
    """
    generator = np.random.default_rng(seed)
    (n, m), lead = (cell.state, cell.data), (cell.batch, cell.T)

    def noise(*shape: int) -> np.ndarray:
        return generator.standard_normal(shape, dtype=np.float32).astype(cell.dtype)

    def covariance(d: int) -> np.ndarray:
        # well-conditioned: programs that lose digits elsewhere still compute the same here, so speed alone is compared
        factor = generator.standard_normal((d, d)) / d**0.5
        return 0.2 * factor @ factor.T + 0.1 * np.eye(d)

    shared = {
        "initial_mean": generator.standard_normal(n),
        "initial_covariance": np.eye(n) + (initial := covariance(n)),
        "A": 0.95 * np.linalg.qr(generator.standard_normal((n, n)))[0],
        "Q": initial,
        "C": generator.standard_normal((m, n)) / n**0.5,
        "R": covariance(m),
    }
    arrays = {field: np.ascontiguousarray(value, cell.dtype) for field, value in shared.items()}
    if cell.varying:
        # small changes: every step differs, yet no product of transitions grows
        spread = {"A": 0.05 / n**0.5, "C": 0.1}
        for field in ("A", "C"):
            varied = noise(*lead, *arrays[field].shape)
            varied *= spread[field]
            varied += arrays[field]
            arrays[field] = varied
        for field in ("Q", "R"):
            arrays[field] = arrays[field] * generator.uniform(0.5, 1, (*lead, 1, 1)).astype(cell.dtype)
        arrays["initial_mean"] = arrays["initial_mean"] + noise(cell.batch, n)
        scale = generator.uniform(1, 1.5, (cell.batch, 1, 1)).astype(cell.dtype)
        arrays["initial_covariance"] = arrays["initial_covariance"] * scale
    return arrays | {"x": noise(*lead, m)}


def save(cell: Cell, folder: Path) -> None:
    """Writes a problem to files that the programs map into memory: all of them together hold the numbers once."""
    for name, value in problem(cell).items():
        np.save(folder / f"{name}.npy", value)


def load(folder: Path) -> Arrays:
    return {path.stem: np.load(path, mmap_mode="c") for path in sorted(folder.glob("*.npy"))}


def dense_loglik(arrays: Arrays) -> np.ndarray:
    """log p(x) of each sequence in float64, from the textbook: the check of every program in small cells."""
    p = {k: np.asarray(v, np.float64) for k, v in arrays.items()}
    batch, T, m = p["x"].shape
    at = {k: (lambda t, v=p[k]: v if v.ndim == 2 else v[:, t]) for k in "AQCR"}
    mean = np.broadcast_to(p["initial_mean"], (batch, p["initial_mean"].shape[-1]))
    covariance, total = p["initial_covariance"], 0.0
    for t in range(T):
        if t:
            A = at["A"](t)
            mean = (A @ mean[..., None])[..., 0]
            covariance = A @ covariance @ A.swapaxes(-1, -2) + at["Q"](t)
        C = at["C"](t)
        S = C @ covariance @ C.swapaxes(-1, -2) + at["R"](t)
        error = p["x"][:, t] - (C @ mean[..., None])[..., 0]
        gain = np.linalg.solve(S, C @ covariance).swapaxes(-1, -2)
        whitened = np.linalg.solve(np.broadcast_to(S, (batch, m, m)), error[..., None])[..., 0]
        total = total - 0.5 * ((error * whitened).sum(-1) + np.linalg.slogdet(2 * np.pi * S)[1])
        mean = mean + (gain @ error[..., None])[..., 0]
        covariance = covariance - gain @ S @ gain.swapaxes(-1, -2)
    return total


def fingerprint(task: str, result: Any) -> dict[str, list[float]]:
    """Few numbers that two programs share only if they computed the same.

    likelihood: an array (batch,), given as it is. gradient: {field: array}; of each its norm and a product with fixed
    weights, of covariances after symmetrising (who writes Q = L L' or 0.5 (Q + Q') has another gradient off the
    symmetric matrices). smoother: (means, covariances); the covariances may lack the batch axis. Of a batch the first
    and the last sequence count.
    """
    if task == "likelihood":
        return {"loglik": np.asarray(result, np.float64).ravel().tolist()}
    if task == "gradient":
        parts = {}
        for field, value in result.items():
            g = value if value.ndim <= (1 if field == "initial_mean" else 2) else _ends(value)
            g = np.asarray(g, np.float64)
            if field in ("Q", "R", "initial_covariance"):
                g = 0.5 * (g + g.swapaxes(-1, -2))
            if field in ("A", "Q") and g.ndim == 4:
                g = g[:, 1:]  # the first entry is never used
            parts[field] = g
    else:
        means, covariances = result
        shared = getattr(covariances, "ndim", 4) == 3
        parts = {"means": _ends(means), "covariances": _ends([covariances] if shared else covariances)}
    return {name: _products(g) for name, g in parts.items()}


def _ends(values: Any) -> np.ndarray:
    return np.stack([np.asarray(values[0], np.float64), np.asarray(values[len(values) - 1], np.float64)])


def _products(g: np.ndarray) -> list[float]:
    weights = np.random.default_rng(1).standard_normal(997)
    flat = np.ravel(g)
    product = float(flat @ np.resize(weights, flat.size))
    return [product, float(np.sqrt(flat @ flat))]


def disagreement(ours: dict[str, list[float]], theirs: dict[str, list[float]]) -> float:
    """Largest difference of two fingerprints: relative, of products by the norm."""
    worst = 0.0
    for name, values in ours.items():
        a, b = np.array(values), np.array(theirs[name])
        scale = np.abs(a) if name == "loglik" else max(abs(a[-1]), 1e-300)
        error = np.max(np.abs(a - b) / scale)
        worst = max(worst, float(error)) if np.isfinite(error) else float("inf")
    return worst


def serve(program: Callable[[str, Cell, Arrays], Any]) -> None:
    """In a timed process: cells and tasks as they are asked for, each with the fingerprint of its first result.

    {"cell", "folder", "task"} -> {"first": CPU seconds, compilation included; "fingerprint"} or {"refused": reason};
    with "memory", {"bytes"}: how much more than before the process holds at most during a step. {} frees everything.
    """

    def prepare(request: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        gc.collect()
        if "jax" in sys.modules:
            sys.modules["jax"].clear_caches()
        if not request:
            return None, {}
        cell, task, arrays = Cell(*request["cell"]), request["task"], load(Path(request["folder"]))
        if request.get("memory"):
            return None, {"bytes": _peak(program, task, cell, arrays)}
        step = program(task, cell, arrays)
        if isinstance(step, str):
            return None, {"refused": step}
        begun = time.process_time()
        result = step()
        first = time.process_time() - begun
        return step, {"first": first, "fingerprint": fingerprint(task, result)}

    turns.serve(prepare)


def _peak(program: Callable[[str, Cell, Arrays], Any], task: str, cell: Cell, arrays: Arrays) -> int:
    """Peak memory of one step, in bytes."""
    # of the process, not of an allocator, so that graphs count too; a short problem first loads all that a first call
    # loads
    arrays = {name: np.array(value) for name, value in arrays.items()}
    short = cell._replace(T=50)
    warm = program(task, short, arrays | {"x": arrays["x"][:, :50].copy()})
    for _ in range(3):
        warm()
    step = program(task, cell, arrays)
    gc.collect()
    # memory that the short problem has freed, but the allocator still holds, would be spare room for the long one
    ctypes.CDLL(None).malloc_trim(0)
    # the high-water mark starts anew
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    step()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))
