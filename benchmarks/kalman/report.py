"""The report of `benchmarks.kalman`: lines, tables, and a summary of the targets that are met and of our losses."""

import itertools
import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.kalman.problems import SIZES, TASKS, Cell

CLASSES = {
    "PyTorch": ("PyTorch by hand", "Pyro", "torch-kf"),
    "numpy": ("pykalman", "filterpy", "simdkalman"),
    "statsmodels": ("statsmodels",),
    "JAX": ("dynamax", "dynamax, parallel", "TFP", "smcx"),
}
OURS = "zoo"
Cells = list[dict[str, Any]]


def ratio(done: dict[str, Any], name: str) -> float | None:
    """Peer's time over ours; a lower bound where the peer was too slow to be measured; None if there is neither."""
    row, ours = done["rows"].get(name, {}), done["rows"][OURS].get("ms")
    if ours is None:
        return None
    return row.get("ratio", row["at_least_ms"] / ours if "at_least_ms" in row else None)


def written(value: float | None, bound: bool = False) -> str:
    """Two digits: 0.35, 1.2, 73; > 12 for a bound."""
    if value is None:
        return "–"
    digits = f"{value:.2f}" if value < 0.995 else f"{value:.1f}" if value < 9.95 else f"{value:,.0f}"
    return f"> {digits}" if bound else digits


def fastest(done: dict[str, Any], names: Iterable[str]) -> tuple[str, float] | None:
    """The peer of those names with the smallest ratio; one that was measured rather than one that was too slow."""
    # the bound of a peer that was too slow may be far below its ratio, so it would look fastest
    found = [(name, r) for name in names if (r := ratio(done, name)) is not None]
    timed = [(name, r) for name, r in found if "ratio" in done["rows"][name]]
    return min(timed or found, key=lambda pair: pair[1], default=None)


def shown(done: dict[str, Any], names: Iterable[str]) -> str:
    best = fastest(done, names)
    return "–" if best is None else written(best[1], "ratio" not in done["rows"][best[0]])


def best_recorded(cells: Cells) -> dict[tuple, tuple[str, float]]:
    """The fastest peer's milliseconds of each cell, for those who tune."""
    peers = [name for names in CLASSES.values() for name in names if name != "PyTorch by hand"]
    found = {}
    for done in cells:
        times = [(done["rows"][name]["ms"], name) for name in peers if "ms" in done["rows"].get(name, {})]
        if times:
            ms, name = min(times)
            found[(*done["cell"], done["task"])] = name, ms
    return found


def line(cell: Cell, task: str, rows: dict[str, dict[str, Any]], best: dict[tuple, tuple[str, float]]) -> str:
    """One measured cell, while the run goes on."""
    ours = rows[OURS]
    start = f"{cell.name:54} {task:10}"
    if "ms" not in ours:
        return f"{start} {ours['skipped']}"
    parts = [f"{ours['ms']:9.3f} ms"]
    if (*cell, task) in best:
        name, ms = best[(*cell, task)]
        parts.append(f"recorded {name} {ms:.3f} ms: {written(ms / ours['ms'])}")
    for name, row in rows.items():
        if name != OURS:
            parts.append(f"{name} {written(row['ratio']) if 'ratio' in row else row['skipped']}")
    return f"{start} {'; '.join(parts)}"


# --- the summary -----------------------------------------------------------------------------------------------------


# geometric: a ratio of 2 and one of 1/2 cancel, whichever program stands in the denominator
def geomean(values: Iterable[float]) -> float | None:
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs)) if logs else None


def summary(cells: Cells, peaks: list[dict[str, Any]]) -> dict[str, Any]:
    """Targets, geometric means of the ratios that were measured, cells ahead and behind, the table of the README."""
    measured = [done for done in cells if "ms" in done["rows"][OURS]]
    peers = [name for names in CLASSES.values() for name in names]
    # means of measured ratios only: a bound would enter as if the peer were no slower than that
    means, counts = {}, {}
    for name in peers:
        means[name] = {
            task: digits(geomean(d["rows"][name]["ratio"] for d in measured if _timed(d, name) and d["task"] == task))
            for task in TASKS
        }
        ratios = [r for done in measured if (r := ratio(done, name)) is not None]
        counts[name] = {"ahead": sum(r >= 1 for r in ratios), "behind": sum(r < 1 for r in ratios)}
    behind = [
        {"cell": Cell(*done["cell"]).name, "task": done["task"], "peer": name, "ratio": digits(r)}
        for done in measured
        for name in peers
        if _timed(done, name) and (r := ratio(done, name)) < 1
    ]
    return {
        "targets": _targets(measured, peaks),
        "geometric_means": means,
        "counts": counts,
        "best": _best(measured),
        "scaling": _scaling(measured),
        "unmeasured": [
            {"cell": Cell(*done["cell"]).name, "task": done["task"], "ours": done["rows"][OURS]["skipped"]}
            for done in cells
            if "ms" not in done["rows"][OURS]
        ],
        "behind": sorted(behind, key=lambda entry: entry["ratio"]),
    }


def _timed(done: dict[str, Any], name: str) -> bool:
    return "ratio" in done["rows"].get(name, {})


def digits(value: float | None, count: int = 3) -> float | None:
    return None if value is None else float(f"{value:.{count}g}")


def _targets(cells: Cells, peaks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    def ahead(text: str, names: Iterable[str], which: Callable[[Cell, str], bool]) -> dict[str, Any]:
        """The target "ahead in every cell that `which` accepts"."""
        # a peer that was stopped below our own time may be faster or slower: it does not count
        ratios = [
            r
            for done in cells
            if which(Cell(*done["cell"]), done["task"])
            for name in names
            if (r := ratio(done, name)) is not None and (_timed(done, name) or r >= 1)
        ]
        behind = sum(r < 1 for r in ratios)
        value = f"{len(ratios) - behind} of {len(ratios)}" + (f", smallest {written(min(ratios))}" if ratios else "")
        return {"target": text, "met": behind == 0 if ratios else None, "value": value}

    found = [
        ahead("ahead of every PyTorch peer in every cell", CLASSES["PyTorch"], lambda cell, task: True),
        ahead("ahead of every interpreted numpy peer in every cell", CLASSES["numpy"], lambda cell, task: True),
        ahead("ahead of statsmodels from 8 sequences on", CLASSES["statsmodels"], lambda cell, task: cell.batch >= 8),
        ahead(
            "gradient: ahead of jitted JAX where T x batch >= 1000",
            CLASSES["JAX"],
            lambda cell, task: task == "gradient" and cell.T * cell.batch >= 1000,
        ),
    ]
    for name, chosen in (("dynamax", ["dynamax"]), ("dynamax, the faster of serial and parallel", CLASSES["JAX"][:2])):
        gradients = [done for done in cells if done["task"] == "gradient"]
        best = [pair for done in gradients if (pair := fastest(done, [n for n in chosen if _timed(done, n)]))]
        mean = geomean(r for _, r in best)
        text = f"gradient: geometric mean over the grid against {name} above 1"
        found.append({"target": text, "met": mean and mean > 1, "value": f"{written(mean)} over {len(best)} cells"})
    for peak in peaks:
        if peak["row"].startswith(OURS):
            cell = Cell(*peak["cell"])
            loop = next(p["bytes"] for p in peaks if p["cell"] == peak["cell"] and p["row"] == "PyTorch by hand")
            value = f"{loop / 1e6:.1f} MB / {peak['bytes'] / 1e6:.1f} MB = {written(loop / max(peak['bytes'], 1))}"
            where = f"{peak['row']}: peak memory of the gradient, T {cell.T}, batch {cell.batch}"
            text = f"{where}: 5 x below autograd through the loop"
            found.append({"target": text, "met": loop >= 5 * peak["bytes"], "value": value})
    return found


def _scaling(cells: Cells) -> list[dict[str, Any]]:
    """Our times with shared parameters in float64: how they grow with T and with the batch."""
    ms = {(*done["cell"], done["task"]): done["rows"][OURS]["ms"] for done in cells}
    found = []
    for size in SIZES:
        for task in TASKS:

            def growth(few: tuple, many: tuple, size: tuple = size, task: str = task) -> float | None:
                one, other = (ms.get((*size, *at, False, "float64", task)) for at in (few, many))
                return digits(other / one) if one and other else None

            row = {
                "size": size,
                "task": task,
                "T 1000 to 10,000, batch 1": growth((1000, 1), (10_000, 1)),
                "T 1000 to 10,000, batch 32": growth((1000, 32), (10_000, 32)),
                "batch 1 to 32, T 1000": growth((1000, 1), (1000, 32)),
                "batch 1 to 1000, T 100": growth((100, 1), (100, 1000)),
                "batch 1 to 1000, T 1000": growth((1000, 1), (1000, 1000)),
            }
            if any(isinstance(value, float) for value in row.values()):
                found.append(row)
    return found


def _best(cells: Cells) -> list[dict[str, Any]]:
    """Shared parameters, float64: against the fastest peer of each class, likelihood / gradient / smoother."""
    found = []
    at = {(*done["cell"], done["task"]): done for done in cells}
    for size, T, batch in itertools.product(SIZES[:2], (50, 1000, 10_000), (1, 32, 1000)):
        tasks = [at.get((*size, T, batch, False, "float64", task)) for task in TASKS]
        if any(tasks):
            classes = {
                label: " / ".join("–" if done is None else shown(done, names) for done in tasks)
                for label, names in CLASSES.items()
            }
            found.append({"size": size, "T": T, "batch": batch, "ratios": classes})
    return found


# --- tables ----------------------------------------------------------------------------------------------------------


def markdown(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *rows])


def tables(cells: Cells, found: dict[str, Any], names: list[str]) -> str:
    """Peer's time over ours: likelihood / gradient / smoother, a table for each size, kind of parameters and dtype."""
    parts = []
    groups: dict[tuple, dict[tuple, dict[str, Any]]] = {}
    for done in cells:
        n, m, T, batch, varying, dtype = done["cell"]
        groups.setdefault((n, m, varying, dtype), {}).setdefault((T, batch), {})[done["task"]] = done
    for group, at in groups.items():
        title = Cell(*group[:2], 0, 0, *group[2:]).name.replace(" T 0 batch 0", ",")
        rows = []
        for (T, batch), tasks in sorted(at.items()):
            ours = [tasks[task]["rows"][OURS].get("ms") if task in tasks else None for task in TASKS]
            cells_of = [" / ".join("–" if ms is None else f"{ms:.3g}" for ms in ours)]
            for name in (name for name in names if name != OURS):
                cells_of.append(" / ".join(shown(tasks[t], [name]) if t in tasks else "–" for t in TASKS))
            rows.append([f"{T:,}, {batch}", *cells_of])
        head = ["T, batch", "zoo, ms", *(name for name in names if name != OURS)]
        parts.append(f"### {title}: peer's time / ours, likelihood / gradient / smoother\n\n{markdown(head, rows)}")
    means = [[n, *(written(m[t]) for t in TASKS)] for n, m in found["geometric_means"].items()]
    counts = found["counts"]
    rows = [[*row, f"{counts[row[0]]['ahead']}, {counts[row[0]]['behind']}"] for row in means]
    head = ["geometric means", *TASKS, "cells ahead, behind"]
    parts.append(markdown(head, rows))
    if found["scaling"]:
        head = list(found["scaling"][0])
        lines = [[written(v) if isinstance(v, float | None) else str(v) for v in r.values()] for r in found["scaling"]]
        parts.append("Our time grows by the factor:\n\n" + markdown(head, lines))
    lines = [f"- {e['cell']}, {e['task']}: {e['peer']} {written(e['ratio'])}" for e in found["behind"]]
    parts.append(f"Behind in {len(lines)}:\n" + "\n".join(lines))
    lines = [f"- {e['cell']}, {e['task']}: {e['ours']}" for e in found["unmeasured"]]
    parts.append(f"Not measured, since ours took too much, in {len(lines)}:\n" + "\n".join(lines))
    refused = sorted(
        f"- {Cell(*done['cell']).name}, {done['task']}: {name} {row['skipped']}"
        for done in cells
        for name, row in done["rows"].items()
        if row.get("skipped", "").startswith(("failed", "computes"))
    )
    if refused:
        parts.append("Refused, or failed:\n" + "\n".join(refused))
    met = {True: "met", False: "NOT MET", None: "not measured"}
    parts.append("\n".join(f"- {met[t['met']]}: {t['target']} ({t['value']})" for t in found["targets"]))
    return "\n\n".join(parts)


# --- the file ---------------------------------------------------------------------------------------------------------


def write(path: Path, found: dict[str, Any]) -> None:
    """Writes one cell a line; an interrupted call leaves the file before it, never half of a new one."""
    rest = {name: value for name, value in found.items() if name != "cells"}
    text = json.dumps(rest | {"cells": []}, indent=1).removesuffix("[]\n}")
    lines = ",\n".join("  " + json.dumps(cell, separators=(",", ":")) for cell in found["cells"])
    path.parent.mkdir(exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(f"{text}[\n{lines}\n ]\n}}\n")
    part.replace(path)
