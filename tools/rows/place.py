"""The files of a row: its folder, the lock on it, and its record."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
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
    """

    def __init__(self, row: Row | Script, results: Path) -> None:
        self.row, self.record = row, results / f"{row.name}.json"
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
            try:
                # The child inherits the file, so that the lock lives as long as the run, even if the runner is killed.
                fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
                return
            # Resuming under other arguments would mix two trainings in one row.
            begun = self.folder / "line.txt"
            if begun.exists() and begun.read_text() != self.row.arguments:
                raise Refused(f"begun with other arguments ({begun}): move {self.folder} away")
            begun.write_text(self.row.arguments)
            yield log

    def read(self) -> dict[str, Any]:
        """The record; empty where there is none."""
        return json.loads(self.record.read_text()) if self.record.exists() else {}

    @property
    def done(self) -> bool:
        """Tells whether the row has its figures."""
        # A script records at its end alone, and says nothing of `ended`.
        found = self.read()
        return bool(found) and found.get("ended", "plan") is not None

    @property
    def waits(self) -> str:
        """The name of the row that must be done before; empty where there is none."""
        before = getattr(self.row, "after", None)
        return before if before and not Place(replace(self.row, name=before), self.record.parent).done else ""

    @property
    def state(self) -> str:
        """The state of the row in a word or two."""
        if self.done:
            return "done"
        if not self.log.exists():
            return "not begun"
        with self.log.open("a") as log:
            try:
                fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return "running"
        return "stopped"

    def last(self) -> dict[str, Any]:
        """The record of the latest epoch; empty where none is saved."""
        path = self.folder / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return json.loads(lines[-1]) if lines else {}

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
