"""The files of a row: its folder, the lock on it, and its record."""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from rows.row import ROOT, Row, Script
from zoo.infer.training.checkpoint import write


class Refused(Exception):
    """A row that was begun with other arguments."""


def cache() -> Path:
    """The folder of the trained rows: large, and made again by a run, so it belongs to the user's cache."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "pyro-latent-zoo" / "runs"


class Place:
    """The files of a row.

    Args:
        row: the row.
        results: folder of the records.
        file: the file of rows that it stands in; None: tools/rows.
    """

    def __init__(self, row: Row | Script, results: Path, file: Path | None = None) -> None:
        self.row, self.record = row, results / f"{row.name}.json"
        # as a user types it in the repository, for the record
        shown = file.relative_to(ROOT) if file is not None and file.is_relative_to(ROOT) else file
        self.command = f"python tools/runs.py --run{f' --rows {shown}' if shown else ''} --only {row.name}"
        self.folder = (cache() if isinstance(row, Row) else ROOT / "runs") / row.name
        self.log = self.folder / "log.txt"

    @contextmanager
    def taken(self) -> Iterator[IO[str] | None]:
        """A context in which no other process runs the row; gives its log, or None where another one runs it.

        Raises:
            Refused: the row was begun with other arguments.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log.open("a") as log:
            # The child inherits the file, so that the lock lives as long as the run, even if the runner is killed.
            # Twice, since one that looks at the state holds a lock for a moment.
            if not _locked(log, fcntl.LOCK_EX):
                time.sleep(0.2)
                if not _locked(log, fcntl.LOCK_EX):
                    yield None
                    return
            # Resuming under other arguments would mix two trainings in one row.
            begun = self.folder / "line.txt"
            if begun.exists() and begun.read_text() != self.row.arguments:
                raise Refused(f"begun with other arguments ({begun}): move {self.folder} away")
            # Whole or not at all: a line torn by a kill would refuse the row for good.
            write(begun, self.row.arguments.encode())
            yield log

    def read(self) -> dict[str, Any]:
        """The record; empty where there is none."""
        return _read(self.record)

    @property
    def done(self) -> bool:
        """Tells whether the row has its figures, those of the budget that it has now."""
        found = self.read()
        short = found.get("ended") == "budget" and found["budget_cpu_minutes"] < self.row.minutes
        return _ended(found) and not short

    @property
    def waits(self) -> str:
        """The name of the row that must be done before; empty where there is none."""
        before = getattr(self.row, "after", None)
        return before if before and not _ended(_read(self.record.with_name(f"{before}.json"))) else ""

    @property
    def state(self) -> str:
        """The state of the row in a word or two."""
        if self.done:
            return "done"
        if not self.log.exists():
            return "not begun"
        # Shared, so that two who look at once do not take each other for a run.
        with self.log.open("a") as log:
            return "stopped" if _locked(log, fcntl.LOCK_SH) else "running"

    def last(self) -> dict[str, Any]:
        """The record of the latest epoch; empty where none is saved."""
        path = self.folder / "metrics.jsonl"
        for line in reversed(path.read_text().splitlines() if path.exists() else []):
            # The last line may be half written, or torn by a kill.
            with suppress(ValueError):
                return json.loads(line)
        return {}

    def save(self, record: dict[str, Any]) -> None:
        """Writes the record, a line for each entry and for each point of a curve."""
        # A curve of 700 epochs, indented throughout, would be 10,000 lines.
        entries = []
        for name, value in record.items():
            text = json.dumps(value)
            if isinstance(value, list) and value:
                text = "[\n  " + ",\n  ".join(json.dumps(v) for v in value) + "\n ]"
            entries.append(f" {json.dumps(name)}: {text}")
        self.record.parent.mkdir(parents=True, exist_ok=True)
        write(self.record, ("{\n" + ",\n".join(entries) + "\n}\n").encode())


def _locked(log: IO[str], kind: int) -> bool:
    """Locks a file; False if another process holds it."""
    with suppress(BlockingIOError):
        fcntl.flock(log, kind | fcntl.LOCK_NB)
        return True
    return False


def _read(record: Path) -> dict[str, Any]:
    return json.loads(record.read_text()) if record.exists() else {}


def _ended(record: dict[str, Any]) -> bool:
    # A script records at its end alone, and says nothing of `ended`.
    return bool(record) and record.get("ended", "plan") is not None
