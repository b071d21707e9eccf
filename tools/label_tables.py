"""The table of MNIST with 100 labels, from the records of tools/rows/labels.py; and its pictures."""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from cells import RESULTS, ROOT, end_slope, machines, markdown, records, shown_pictures

# System -> the paper's test error in per cent, the words for those that another work quotes (the rest is from memory),
# and the paper's passes over the images. Kingma et al. 2014 (M1, M2, M1+M2), Maaloe et al. 2016 (SDGM, ADGM).
REPORTED = {
    "M1, SVM": ("11.82 ± 0.25 (transductive)", "as quoted elsewhere", ""),
    "mnist-100-m2": ("11.97 ± 1.71", "", "3,000"),
    "mnist-100-m1m2": ("3.33 ± 0.14", "as quoted elsewhere", "3,000"),
    "mnist-100-sdgm": ("1.32 ± 0.07", "as quoted elsewhere", "1,000"),
    "mnist-100-adgm": ("0.96 ± 0.02", "as quoted elsewhere", "1,000"),
    "mnist-100-biva": ("0.83 ± 0.02", "as quoted elsewhere", ""),
}
BASELINE = "pixels, logistic regression"

PICTURES = {
    "label_analogies": "Digits by class with the style held fixed (Kingma et al. 2014, figure 1b): left a test image, "
    "then, with the style that the guide finds in it, the mean image of each class.",
    "label_errors": "Error of the 1,000 images held out over CPU minutes of training, a line for each draw of the "
    "labels; dashed: logistic regression on the pixels of the same labels, on the test images.",
}


def over_draws(values: Sequence[float], form: str = "{:.2f}") -> str:
    """Mean ± standard error over draws of the labels; of one draw no error is known."""
    if len(values) < 2:
        return f"{form.format(values[0])} (one draw)"
    return f"{form.format(mean(values))} ± {form.format(stdev(values) / math.sqrt(len(values)))}"


def percent(values: Sequence[float]) -> str:
    return over_draws([100 * value for value in values])


def by_system(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """System, a row's name without its draw -> the records of its draws that have their figures."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in records(folder):
        if "test_error" in (row.get("figures") or {}):
            found.setdefault(row["name"].rpartition("-")[0], []).append(row)
    return found


def classifiers(folder: Path) -> tuple[dict[str, list[float]], list[dict[str, Any]]]:
    """Classifier -> its test error for each draw; and the record of M1 that they stand in."""
    rows = [row for row in records(folder) if "classifiers" in (row.get("figures") or {})]
    return ({} if not rows else rows[0]["figures"]["classifiers"]), rows[:1]


def paper(system: str) -> str:
    """The cell of a system's number in print."""
    if system not in REPORTED:
        return "–"
    number, quoted, _ = REPORTED[system]
    return f"{number}, reported, {quoted or 'unverified'}"


def learning(row: dict[str, Any]) -> str:
    """Per cent per CPU minute by which the validation error changed over the last part of a run."""
    return end_slope([(look["cpu_minutes"], 100 * look["valid_error"]) for look in row["looks"]])


def cells(system: str, rows: list[dict[str, Any]]) -> list[str]:
    """The line of a trained system."""
    figures = [row["figures"] for row in rows]
    # only M1+M2 has the paper's own way of reading the class
    at_mean = [found["test_error_at_mean"] for found in figures if "test_error_at_mean" in found]
    read = f"; by the mean of z_1 {percent(at_mean)}" if at_mean else ""
    passes = over_draws([row["epochs"] for row in rows], "{:.0f}").partition(" ")[0]
    of_paper = REPORTED.get(system, ("", "", ""))[2]
    return [
        rows[0]["system"],
        f"{percent([found['test_error'] for found in figures])}{read}",
        ", ".join(f"{100 * found['test_error']:.2f}" for found in figures),
        percent([found["valid_error"] for found in figures]),
        over_draws([-found["elbo"] for found in figures]),
        paper(system),
        f"{passes}{f' ({of_paper})' if of_paper else ''}",
        f"{mean(row['cpu_minutes'] for row in rows):.0f}",
        "; ".join(learning(row) for row in rows),
        f"`python tools/runs.py --run --only {system}`",
    ]


def passes(systems: dict[str, list[dict[str, Any]]]) -> str:
    """The passes over the images that each system has seen, beside the paper's, and how a run ended."""
    parts = []
    for system, rows in systems.items():
        ended = sum(row["ended"] == "budget" for row in rows)
        short = f" ({ended} of {len(rows)} ended by the budget before the plan)" if ended else ""
        of_paper = REPORTED.get(system, ("", "", ""))[2]
        beside = f" of the paper's {of_paper}" if of_paper else ""
        parts.append(f"{rows[0]['system']} {mean(row['epochs'] for row in rows):.0f}{beside}{short}")
    return f"Passes over the images: {'; '.join(parts)}."


def labels_table(folder: Path = RESULTS) -> str:
    """A line for each system, the smallest error first; rows that are still being trained have none."""
    systems, (errors, m1) = by_system(folder), classifiers(folder)
    if not (systems or errors):
        return "No row is recorded yet; `python tools/runs.py --run --only mnist-100` trains them."
    lines = [(mean(row["figures"]["test_error"] for row in rows), cells(system, rows))
             for system, rows in systems.items()]  # fmt: skip
    for name, values in errors.items():
        each = ", ".join(f"{100 * value:.2f}" for value in values)
        of_m1 = name.startswith("M1")
        minutes = f"{m1[0]['cpu_minutes']:.0f}" if of_m1 else "–"
        command = f"`{m1[0]['command']}`"
        line = [name, percent(values), each, "–", "–", paper(name), str(m1[0]["epochs"]) if of_m1 else "–", minutes,
                "–", command]  # fmt: skip
        lines.append((mean(values), line))
    head = ("system, test error (%), of each draw, validation error (%), −ELBO without labels, paper (%), "
            "passes (paper's), CPU minutes of a draw, % a minute at the end, command")  # fmt: skip
    shown = markdown(head.split(", "), [line for _, line in sorted(lines, key=lambda pair: pair[0])])
    trained = [row for rows in systems.values() for row in rows]
    said = [passes(systems)] if systems else []
    return "\n".join([shown, "", *said, "", *machines(trained + m1)])


def label_pictures(folder: Path = ROOT / "docs" / "pictures") -> str:
    """The stored pictures of `tools/label_pictures.py`, each with its caption."""
    return shown_pictures(PICTURES, folder, "tools/label_pictures.py")
