"""The runner of rows: trains those whose results/NAME.json has no figures yet, and goes on where it was stopped.

    python tools/runs.py                        # a line for each of those; nothing is run
    python tools/runs.py --run --jobs 2         # all of them, a core each
    python tools/runs.py --run --only jsb-      # those whose names begin so
    python tools/runs.py --status               # how far each has come, and the CPU minutes used
    python tools/runs.py --plan --only lvae     # how many epochs fit into the budget of each
    python tools/runs.py --commit               # commits the records of those that are done

The rows stand in tools/rows, a file for each group of systems; `--rows FILE` runs those of another file. Trained pairs
stay in the user's cache (`$XDG_CACHE_HOME`, or ~/.cache; pyro-latent-zoo/runs/NAME), those of scripts in runs/NAME.
Data files are looked for as `zoo.data.load` says.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rows import ROWS
from rows.place import Place, Refused
from rows.row import ROOT, Row, Script
from rows.train import plan, train


def rows_in(path: Path) -> list[Row | Script]:
    """The rows of a file, its `ROWS`."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    # Importable by its name, since a row's functions may be looked up there.
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module.ROWS


def start(place: Place, options: list[str]) -> int:
    """Starts or resumes a row; 0 if it ended well, is recorded already, or runs in another process.

    A row that was begun with other arguments is refused: 1.
    """
    name = place.row.name
    try:
        with place.taken() as log:
            # Again, under the lock: another process may have ended the row since the list was made.
            if log is None or place.done:
                return 0
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
            command = place.row.command(options)
            code = subprocess.run(command, cwd=ROOT, stdout=log, stderr=log, check=False, env=environment).returncode
    except Refused as refused:
        print(f"{name}: {refused}", flush=True)
        return 1
    print(name, "done" if code == 0 else f"ended with {code}: {place.log}", flush=True)
    return code


def run(todo: list[Place], jobs: int, options: list[str]) -> int:
    """Runs rows, those that wait for another one after it; 0 if all ended well."""
    codes = []
    while todo:
        ready = [place for place in todo if not place.waits]
        if not ready:
            print(*(f"{place.row.name}: waits for {place.waits}, which is not done" for place in todo), sep="\n")
            return 1
        # Threads: each waits for a process of its own.
        with ThreadPoolExecutor(jobs) as pool:
            codes += pool.map(start, ready, [options] * len(ready))
        todo = [place for place in todo if place not in ready]
    return int(any(codes))


def status(place: Place) -> str:
    """A line: the state of a row, the last point of its curve, and the CPU minutes it has used."""
    found, last = place.read(), place.last()
    parts = [f"{place.row.name}: {place.state}"]
    if last:
        parts.append(f"epoch {last['epoch']}, validation {last['validation'] or float('nan'):.3f}")
    if "cpu_minutes" in found:
        # a script has no budget
        budget = f" of {found['budget_cpu_minutes']:g}" if "budget_cpu_minutes" in found else ""
        parts.append(f"{found['cpu_minutes']:.1f}{budget} CPU minutes")
    return ", ".join(parts)


def commit(place: Place) -> None:
    """Commits the record of a row that is done, unless it is committed already."""
    changed = subprocess.run(["git", "status", "--porcelain", place.record], cwd=ROOT, check=True, capture_output=True)
    if place.done and changed.stdout:
        found = place.read()
        end = "ended by its {ended} after {cpu_minutes:.1f} CPU minutes".format(**found) if "ended" in found else ""
        subprocess.run(["git", "add", place.record], cwd=ROOT, check=True)
        message = f"Row {place.row.name}: trained and evaluated{end and ', '}{end}"
        subprocess.run(["git", "commit", "--quiet", "--message", message, "--", place.record], cwd=ROOT, check=True)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    action = parser.add_mutually_exclusive_group()
    for name in ("--list", "--run", "--status", "--plan", "--commit"):
        action.add_argument(name, action="store_true")
    # A process of its own for each row, since `time.process_time` counts all threads of a process.
    action.add_argument("--row", help=argparse.SUPPRESS)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--only", nargs="+", default=[""], metavar="PREFIX")
    # Whole, since the process of a row starts in the repository.
    parser.add_argument("--rows", type=lambda path: Path(path).resolve(), metavar="FILE")
    parser.add_argument("--results", type=Path, default=ROOT / "results", metavar="FOLDER")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    rows = ROWS if args.rows is None else rows_in(args.rows)
    options = ["--results", str(args.results.resolve()), *(["--rows", str(args.rows)] if args.rows else [])]
    places = {row.name: Place(row, args.results.resolve(), args.rows) for row in rows}
    if args.row:
        sys.exit(train(places[args.row].row, places[args.row]))
    # A dict keeps the order and drops a name that two prefixes choose.
    chosen = dict.fromkeys(name for prefix in args.only for name in places if name.startswith(prefix))
    todo = [places[name] for name in chosen if not places[name].done]
    if args.status:
        print(*(status(places[name]) for name in chosen), sep="\n")
    elif args.commit:
        for name in chosen:
            commit(places[name])
    elif args.plan:
        for place in todo:
            if isinstance(place.row, Row):
                print(plan(place.row), flush=True)
    elif args.run:
        sys.exit(run(todo, args.jobs, options))
    else:
        print(*(place.row.shown() for place in todo), sep="\n")


if __name__ == "__main__":
    main()
