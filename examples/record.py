"""The record of a run: a row of the tables, with the command, versions and machine that made it."""

import json
import os
import platform
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import pyro
import torch


def record(name: str, values: dict[str, Any], *, seed: int, device: str, threads: int, note: str, began: float) -> str:
    """Writes results/<name>.json and returns its text; `began`: the time at which the run began."""
    row = {
        "name": name,
        **values,
        "command": shlex.join(["python", *sys.argv]),
        "seed": seed,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "pyro": pyro.__version__},
        "hardware": f"{device}, {threads} thread(s) of {os.cpu_count()}, {platform.machine()}",
        "note": note,
        "date": time.strftime("%Y-%m-%d", time.localtime(began)),
    }
    Path("results").mkdir(exist_ok=True)
    text = json.dumps(row, indent=1)
    Path("results", f"{name}.json").write_text(text + "\n")
    return text
