"""Programs timed in turns: each runs in a process of its own and does some steps whenever a request comes.

Other work on the machine then falls on all of them alike, and no program's global state (parameter stores, validation
flags, compilers, another environment's libraries) touches another's. Needs only torch, so that peers can import it.
"""

import json
import math
import os
import platform
import resource
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile


def turns() -> Iterator[None]:
    """The loop of the timed process, `for _ in turns(): step()`: a pass for each step asked for, timed and reported."""
    torch.set_num_threads(1)
    # A peer may print: its lines must not stand between the replies.
    replies, sys.stdout = sys.stdout, sys.stderr
    # Between requests the process sleeps, and costs the others nothing.
    for request in sys.stdin:
        if request.strip() == "memory":
            with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
                yield from [None] * 3
            answer = {"peak": peak_of(profiler)}
        else:
            wall, cpu = time.perf_counter(), time.process_time()
            yield from [None] * int(request)
            answer = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
        print(json.dumps(answer), file=replies, flush=True)


def train(loss: torch.nn.Module, *batch: torch.Tensor) -> None:
    """Steps of fused Adam in turns; the rate is so small that all steps are about alike."""
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-6, fused=True)
    for _ in turns():
        optimizer.zero_grad(set_to_none=True)
        loss(*batch).backward()
        optimizer.step()


def serve(prepare: Callable[[Any], tuple[Callable[[], Any] | None, dict[str, Any]]]) -> None:
    """The loop of a timed process of many programs: a request that is a number is so many steps of the latest one.

    Args:
        prepare: request -> (step, answer), for a request that is no number. An exception is answered as "error".
    """
    torch.set_num_threads(1)
    replies, sys.stdout = sys.stdout, sys.stderr
    step: Callable[[], Any] | None = None
    for line in sys.stdin:
        request = json.loads(line)
        if isinstance(request, int):
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(request):
                step()
            answer = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
        else:
            # The last program is let go first: its memory must not count for the next one.
            step = None
            try:
                step, answer = prepare(request)
            except Exception as error:
                answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
        print(json.dumps(answer), file=replies, flush=True)


def peak_of(profiler: profile) -> int:
    """The most bytes held at once, of those that torch's CPU allocator gave within the profile."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = [e for e in json.loads(path.read_text())["traceEvents"] if e["name"] == "[memory]"]
    # Within the profile only: parameters and optimiser were allocated before it and do not count.
    held = peak = 0
    for event in sorted(events, key=lambda e: e["ts"]):
        held += event["args"]["Bytes"]
        peak = max(peak, held)
    return peak


def processor() -> str:
    """The machine's name of its processor, and the number of cores."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    name = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), platform.processor())
    return f"{name}, {os.cpu_count()} cores"


class Runner:
    """A process that runs `for _ in turns(): step()`, or `serve(prepare)`.

    Args:
        command: of the process.
        environment: variables besides those of this process.
        core: the only core that the process may use; None: all.
    """

    def __init__(self, command: list[str], environment: Mapping[str, str], core: int | None = None) -> None:
        self.command = command
        # A file, not a pipe: a pipe that nobody reads would stop the process when it is full.
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            preexec_fn=None if core is None else lambda: os.sched_setaffinity(0, {core}),
        )

    def ask(self, request: Any, seconds: float = math.inf, size: float = math.inf) -> dict[str, Any]:
        """The answer to a request.

        Args:
            request: a number of steps, answered by their `cpu` and `wall` seconds; "memory", answered by the `peak`
                bytes of a step; or a request for `prepare`.
            seconds: CPU time that the process may take.
            size: bytes that it may hold.

        Raises:
            TimeoutError, MemoryError: the process took or held more; it is ended.
            RuntimeError: the process ended by itself; with the end of its log.
        """
        try:
            print(request if isinstance(request, str) else json.dumps(request), file=self.process.stdin, flush=True)
            if not (math.isinf(seconds) and math.isinf(size)):
                self._watch(seconds, size)
            return json.loads(self.process.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError) as error:
            self.process.wait()
            self.log.seek(0)
            raise RuntimeError(f"{' '.join(self.command)} ended:\n{self.log.read()[-4000:]}") from error

    def _watch(self, seconds: float, size: float) -> None:
        """Waits until the process answers, and ends it when it is over time or over size."""
        begun, worked = time.monotonic(), self.worked()
        while not select.select([self.process.stdout], [], [], 0.1)[0] and self.process.poll() is None:
            # CPU time decides; a process that waits, for a busy machine or for memory, has five times as long.
            late = self.worked() - worked > seconds or time.monotonic() - begun > 5 * seconds + 60
            if late or self.resident() > size:
                self.process.kill()
                self.close()
                raise (TimeoutError if late else MemoryError)(" ".join(self.command))

    def worked(self) -> float:
        """Seconds of CPU time of the process so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident(self) -> int:
        """Bytes of memory of the process, without those of files that several processes map."""
        resident, shared = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1:3]
        return (int(resident) - int(shared)) * resource.getpagesize()

    def close(self) -> None:
        """Ends the process."""
        # The end of its requests ends its loop.
        self.process.communicate()
        self.log.close()


def in_turns(running: Mapping[str, Runner], rounds: int, *, steps: int, first: int) -> dict[str, dict[str, Any]]:
    """Row -> CPU milliseconds of a step, ratio to the first row with quartiles, bytes of the peak; ends the programs.

    Args:
        running: row -> its program; the first is the base of the ratios.
        rounds: blocks of each row.
        steps: timed steps of a block, after one that is not timed.
        first: steps of the first call, which is not timed.
    """
    rows = [*running]
    times: dict[str, list[float]] = {row: [] for row in rows}
    try:
        for runner in running.values():
            runner.ask(first)
        for k in range(rounds):
            turn = k % len(rows)
            for row in rows[turn:] + rows[:turn]:
                running[row].ask(1)
                times[row].append(running[row].ask(steps)["cpu"])
        found: dict[str, dict[str, Any]] = {row: {"peak_bytes": running[row].ask("memory")["peak"]} for row in rows}
    finally:
        for runner in running.values():
            runner.close()
    # ratios within a round, then their median: a busy minute falls on both sides of a ratio
    for row in rows:
        ratios = [a / b for a, b in zip(times[row], times[rows[0]], strict=True)]
        low, median, high = statistics.quantiles(ratios, n=4)
        found[row] |= {"cpu_ms": 1e3 * statistics.median(times[row]) / steps, "ratio": median, "quartiles": [low, high]}
    return found
