"""The table of structural figures beside statsmodels', from results/structural.json."""

from pathlib import Path

from cells import RESULTS, markdown, provenance, records
from structural_figures import SYSTEMS

TESTS = {"ljung_box": "Ljung-Box", "heteroscedasticity": "H", "jarque_bera": "Jarque-Bera"}


def structural_table(folder: Path = RESULTS) -> str:
    """Each figure of ours, and in brackets its difference from statsmodels', or the largest relative one."""
    runs = [run for run in records(folder) if "structural" in run]
    if not runs:
        return "No comparison is recorded yet; `python tools/structural_figures.py` records one."
    head = ["series", "our model, statsmodels'", "log p(x)", "AIC", "BIC", "standard errors", *TESTS.values()]
    parts = []
    for run in runs:
        cells = []
        for name, found in run["structural"].items():
            ours, theirs = SYSTEMS[name]
            line = [f"{name} ({found['frames']})", f"`{ours}`, `{theirs}`"]
            line += [both(*found[key], ".3f") for key in ("log-likelihood", "AIC", "BIC")]
            errors, their_errors = found["standard errors"]
            off = max(abs(a / b - 1) for a, b in zip(errors, their_errors, strict=True))
            line.append(f"{', '.join(f'{e:.4g}' for e in errors)} ({off:.0e})")
            tests = found["tests"]
            line += [both(tests[t][0][0], tests[t][1][0], ".4f") if t in tests else "–" for t in TESTS]
            cells.append(line)
        parts += [markdown(head, cells), provenance(run)]
    return "\n\n".join(parts)


def both(ours: float, theirs: float, form: str) -> str:
    return f"{ours:{form}} ({ours - theirs:+.0e})"
