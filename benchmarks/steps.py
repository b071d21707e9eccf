"""Tables of training steps: programs in processes of their own, timed in turns beside the first of them.

`benchmarks.hierarchy_step`, `benchmarks.label_step` and `benchmarks.kvae_step` state sizes and rows, and call `main`.
"""

import argparse
import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyro

from benchmarks.turns import Runner, in_turns, processor
from zoo.infer.training.settings import versions

ROOT = Path(__file__).parents[1]


def measure(module: str, size: str, steps: int, rounds: int, rows: list[str]) -> dict[str, dict[str, Any]]:
    """Row -> CPU milliseconds of a step, ratio to the first row with quartiles, bytes of the peak.

    Args:
        module: the benchmark, which runs one row when it is called with `--sizes` and `--row`.
        size: one of its sizes.
        steps: of a block.
        rounds: blocks of each row.
        rows: the first is the base of the ratios.
    """
    with tempfile.TemporaryDirectory() as cache:
        environment = {"PYTHONPATH": str(ROOT), "TORCHINDUCTOR_CACHE_DIR": cache}
        command = [sys.executable, "-m", module, "--sizes", size, "--row"]
        running = {row: Runner([*command, row], environment) for row in rows}
        # the first call checks the pair, or compiles
        return in_turns(running, rounds, steps=steps, first=3)


def main(
    module: str,
    doc: str,
    sizes: Mapping[str, Any],
    rows: Mapping[str, Callable[[Any], Any]],
    check: Callable[[Any], None],
    *,
    key: str,
    alone: Mapping[str, Callable[[], None]] | None = None,
    applies: Callable[[str, Any], bool] = lambda row, size: True,
) -> None:
    """The command line of a benchmark: prints a table for each size, and writes the record.

    Args:
        module: its name, for `python -m`.
        doc: the text of `--help`.
        sizes: name -> size, whose `steps` are those of a block: long enough for the clock, short enough for many
            rounds.
        rows: name -> the timed program of a size, a loop over `benchmarks.turns.turns`.
        check: refuses a size at which the programs do not compute the same.
        key: name of the tables in the record; the record goes to `results/speed_<benchmark>.json`.
        alone: name of an option -> a measurement made in place of the tables.
        applies: (row, size) -> that there is such a row for this size; the first row is there for all.
    """
    alone = alone or {}
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=sizes, default=list(sizes))
    parser.add_argument("--rows", nargs="+", choices=rows, default=list(rows))
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="two rounds, nothing written")
    for name in alone:
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT / f"results/speed_{module.rpartition('.')[2]}.json")
    parser.add_argument("--row", choices=rows, help=argparse.SUPPRESS)
    args = parser.parse_args()
    pyro.set_rng_seed(args.seed)
    if args.row:
        rows[args.row](sizes[args.sizes[0]])
        return
    for name, measurement in alone.items():
        if getattr(args, name):
            measurement()
            return
    begun, tables = time.perf_counter(), {}
    for name in args.sizes:
        check(sizes[name])
        of_size = [row for row in args.rows if applies(row, sizes[name])]
        tables[name] = measure(module, name, sizes[name].steps, 2 if args.quick else args.rounds, of_size)
        print(f"\n### {name}\n\n| | CPU ms | / {args.rows[0]} | quartiles | peak MB |\n|---|---:|---:|---:|---:|")
        for row, r in tables[name].items():
            low, high = r["quartiles"]
            peak = r["peak_bytes"] / 1e6
            cells = [row, f"{r['cpu_ms']:.1f}", f"{r['ratio']:.2f}", f"{low:.2f} to {high:.2f}", f"{peak:.1f}"]
            print(f"| {' | '.join(cells)} |", flush=True)
    if not args.quick:
        args.out.parent.mkdir(exist_ok=True)
        record = {
            "command": shlex.join(["python", "-m", module, *sys.argv[1:]]),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "seed": args.seed,
            "rounds": args.rounds,
            "seconds": round(time.perf_counter() - begun),
            "hardware": f"{processor()}, one thread",
            "load": os.getloadavg()[1],
            "versions": versions(),
            key: tables,
        }
        args.out.write_text(json.dumps(record, indent=1) + "\n")
