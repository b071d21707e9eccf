"""The figures of `LGSSM.summary` beside statsmodels' on six series: results/structural.json, for docs/results.md.

    python tools/structural_figures.py

Both are taken at the maximum that our fit finds, so that they differ by their arithmetic alone.
"""

import json
import os
import platform
import shlex
import sys
import time
from typing import Any

import pyro
import statsmodels
import torch
from cells import RESULTS, ROOT

# name -> (our model, statsmodels')
SYSTEMS = {
    "nile": ("components(level=, noise=)", 'UnobservedComponents(y, "llevel")'),
    "air_passengers": ("arima(0, 1, 1, seasonal=(0, 1, 1, 12))", "SARIMAX(y, (0, 1, 1), (0, 1, 1, 12))"),
    "co2": ("components(trend=, season=, noise=), gaps", 'UnobservedComponents(y, "lldtrend", seasonal=12)'),
    "uk_gas": ("components(trend=, season=, noise=)", 'UnobservedComponents(y, "strend", seasonal=4)'),
    "lake_huron": ("arima(2), intercept", 'SARIMAX(y, (2, 0, 0), trend="c")'),
    "lynx": ("arima(2, 0, 1), intercept", 'SARIMAX(y, (2, 0, 1), trend="c")'),
}


def figures(name: str) -> dict[str, Any]:
    """The figures of one series: each a pair, ours and statsmodels'."""
    sys.path.insert(0, str(ROOT / "tests"))
    from structural_series import SERIES, beside

    ours, theirs, (errors, their_errors), tests = beside(name)
    vector = [v for known in SERIES[name][3] for v, own in zip(ours.estimates.values.tolist(), ours.estimates.names,
              strict=True) if own.partition("[")[0] == known]  # fmt: skip
    return {
        "frames": ours.num_frames,
        "log-likelihood": (ours.log_likelihood, float(theirs.llf)),
        "AIC": (ours.aic, float(theirs.aic)),
        "BIC": (ours.bic, float(theirs.bic)),
        "parameters": theirs.model.param_names,
        "estimates": vector,
        "standard errors": (errors.tolist(), their_errors.tolist()),
        "tests": {test: (numbers, expected.tolist()) for test, (numbers, expected) in tests.items()},
    }


def main() -> None:
    """Compares the six series and writes the record."""
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    began = time.process_time()
    found = {name: figures(name) for name in SYSTEMS}
    versions = {"python": platform.python_version(), "torch": torch.__version__, "pyro": pyro.__version__}
    record = {
        "name": "structural",
        "structural": found,
        "command": shlex.join(["python", *sys.argv]),
        "cpu_seconds": time.process_time() - began,
        "versions": versions | {"statsmodels": statsmodels.__version__},
        "hardware": f"cpu, 1 thread of {os.cpu_count()}, {platform.machine()}",
        "date": time.strftime("%Y-%m-%d"),
    }
    (RESULTS / "structural.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
