"""Programs timed in turns: each runs in a process of its own and does some steps whenever it is asked.

Other work on the machine then falls on all of them alike, and no program's global state (parameter stores, validation
flags, compilers, another environment's libraries) touches another's. Needs only torch, so that peers can import it.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile


def turns() -> Iterator[None]:
    """In the timed process, `for _ in turns(): step()`: yields for each step asked for, and reports what they took."""
    torch.set_num_threads(1)
    replies, sys.stdout = sys.stdout, sys.stderr  # a peer may print
    for request in sys.stdin:
        if request.strip() == "memory":
            with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
                yield from [None] * 3
            answer = {"peak": _peak(profiler)}
        else:
            wall, cpu = time.perf_counter(), time.process_time()
            yield from [None] * int(request)
            answer = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
        print(json.dumps(answer), file=replies, flush=True)


def _peak(profiler: profile) -> int:
    """Largest sum of bytes held at once of what torch's CPU allocator gave within the profile, not before it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = [e for e in json.loads(path.read_text())["traceEvents"] if e["name"] == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e["ts"]):
        held += event["args"]["Bytes"]
        peak = max(peak, held)
    return peak


class Runner:
    """A process that holds `for _ in turns(): step()`."""

    def __init__(self, command: list[str], environment: Mapping[str, str]) -> None:
        self.command = command
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        )

    def ask(self, request: int | str) -> dict[str, float]:
        """`cpu` and `wall` seconds of that many steps; or, of "memory", the `peak` bytes of a step."""
        try:
            print(request, file=self.process.stdin, flush=True)
            return json.loads(self.process.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError) as error:
            self.process.wait()
            self.log.seek(0)
            raise RuntimeError(f"{' '.join(self.command)} ended:\n{self.log.read()[-4000:]}") from error

    def close(self) -> None:
        """The end of its requests ends the process."""
        self.process.communicate()
        self.log.close()
