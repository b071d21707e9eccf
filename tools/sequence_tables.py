"""Tables of music and speech, from the records of `examples/music.py`."""

import statistics
from pathlib import Path
from typing import Any

from cells import RESULTS, duration, markdown, records
from scipy import stats

# -log p in nats per frame under the papers' own average. Krishnan et al. 2017, tables 2 to 4, read again: DMM; for its
# guides DKS with MF-LR and ST-L; STORN. Fraccaro et al. 2016 from memory: SRNN, on its own files.
REPORTED_SEQUENCES = {
    ("jsb", "dmm", "smoother", "diagonal"): "a 6.388, b 6.926, c 6.856",
    ("nottingham", "dmm", "smoother", "diagonal"): "a 2.770, b 2.964, c 2.954",
    ("piano_midi", "dmm", "smoother", "diagonal"): "a 7.835, b 7.980, c 8.246",
    ("muse_data", "dmm", "smoother", "diagonal"): "a 6.831, b 6.989, c 6.203",
    ("jsb", "dmm", "mean-field", "diagonal"): "a 6.701, b 7.101 (MF-LR, ungated)",
    ("nottingham", "dmm", "mean-field", "diagonal"): "a 3.273, b 3.441 (MF-LR, ungated)",
    ("jsb", "dmm", "filter", "diagonal"): "a 7.020, b 7.519 (ST-L, ungated)",
    ("nottingham", "dmm", "filter", "diagonal"): "a 3.446, b 3.657 (ST-L, ungated)",
    ("jsb", "storn", "filter", "diagonal"): "a 6.91",
    ("nottingham", "storn", "filter", "diagonal"): "a 2.85",
    ("jsb_srnn", "srnn", "smoother", "residual"): "c 4.74",
    ("nottingham_srnn", "srnn", "smoother", "residual"): "c 2.94",
    ("muse_data_srnn", "srnn", "smoother", "residual"): "c 6.28",
    ("piano_midi_srnn", "srnn", "smoother", "residual"): "c 8.20",
}


def sequence_records(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The records of `examples/music.py`: those of bits, and those of real numbers (speech)."""
    rows = [row for row in records(folder) if "convention" in row]
    return [row for row in rows if row["likelihood"] == "bernoulli"], [
        row for row in rows if row["likelihood"] != "bernoulli"
    ]


def by_convention(rows: list[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """(line, rows): rows that compare, and the line above them that names the data and the convention."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["evaluated"], row["convention"]), []).append(row)
    parts = []
    for (evaluated, convention), group in sorted(found.items()):
        exact = group[0].get("exact")
        known = "" if exact is None else f"; their exact log p(x) has a = {exact:.3f}"
        frames = f"{group[0]['num_sequences']:,} sequences, {group[0]['num_frames']:,} frames; {convention}"
        parts.append((f"**{evaluated}**: {frames}{known}.", group))
    return parts


def origin(rows: list[dict[str, Any]]) -> str:
    """The machines, versions and seeds of a group of rows."""
    hardware = sorted({row["hardware"] for row in rows})
    versions = sorted({", ".join(f"{name} {version}" for name, version in row["versions"].items()) for row in rows})
    seeds = sorted({row["seed"] for row in rows})
    return f"{'; '.join(hardware)}; {'; '.join(versions)}; seed {', '.join(map(str, seeds))}."


def averaged(row: dict[str, Any], name: str) -> str:
    return f"{row[name]:.3f} ± {row[f'{name}_error']:.3f}"


def sequences_table(folder: Path = RESULTS) -> str:
    """A table of music for each data set and convention, the best `a` first."""
    parts = []
    for line, rows in by_convention(sequence_records(folder)[0]):
        cells = []
        resampled, carried = ([row for row in rows if row.get(name)] for name in ("resampled", "carried"))
        for row in sorted(rows, key=lambda row: row["a"]):
            # A number in print is of one data set, model, guide and family: any other row has none.
            paper = REPORTED_SEQUENCES.get((row["data"], row["model"], row["guide"], row["family"]))
            cells.append([
                *(row[name] for name in ("name", "model", "guide", "family")),
                averaged(row, "a"),
                *([averaged(row["resampled"], "a") if row in resampled else "–"] if resampled else []),
                *(averaged(row, name) for name in "bc"),
                *([averaged(row["carried"], "c") if row in carried else "–"] if carried else []),
                str(row["num_particles"]),
                f"{paper}{', reported, unverified' if row['model'] == 'srnn' else ''}" if paper else "–",
                f"{row['epochs']:,} (best {row['best_epoch']:,})",
                duration(row["training_seconds"]),
            ])  # fmt: skip
        head = ["run", "model", "guide", "family", "a", *(["a, resampled"] if resampled else []), "b", "c"]
        head += ["c, state carried"] if carried else []
        shown = markdown([*head, "K", "paper", "epochs", "training"], cells)
        notes = [f"- {row['name']}: {row['note']}" for row in rows if row["note"]]
        parts.append("\n".join([line, "", shown, *([""] if notes else []), *notes, "", origin(rows)]))
    return "\n\n".join(parts) or "No run is recorded yet; `python examples/music.py --name cadences` records one."


def interval(values: list[float]) -> str:
    """Mean and half the width of Student's 95 % interval."""
    if len(values) < 2:
        return f"{values[0]:.1f}"
    half = stats.sem(values) * stats.t.ppf(0.975, len(values) - 1)
    return f"{statistics.mean(values):.1f} ± {half:.1f}"


# Claims of SRNN's table of speech: the first is better than the second.
ORDER = [
    (("srnn", "smoother", "residual"), ("srnn", "smoother", "diagonal")),
    (("srnn", "smoother", "diagonal"), ("srnn", "filter", "diagonal")),
    (("srnn", "smoother", "residual"), ("vrnn", "filter", "diagonal")),
    (("srnn", "smoother", "diagonal"), ("vrnn", "filter", "diagonal")),
    (("srnn", "filter", "diagonal"), ("vrnn", "filter", "diagonal")),
]


def order(found: dict[tuple[str, ...], list[dict[str, Any]]]) -> list[str]:
    """Each claim of ORDER with Welch's 95 % interval of the difference of the bounds, and a verdict."""
    lines = []
    for better, worse in ORDER:
        first, second = ([row["bound_per_sequence"] for row in found.get(key, [])] for key in (better, worse))
        if len(first) > 1 and len(second) > 1:
            # Welch's: a few seeds each, and no reason for equal variances.
            between = stats.ttest_ind(first, second, equal_var=False).confidence_interval()
            verdict = "as in SRNN's table" if between.low > 0 else "the other way" if between.high < 0 else "undecided"
            gap = statistics.mean(first) - statistics.mean(second)
            lines.append(f"- {' + '.join(better)} above {' + '.join(worse)}: {verdict}; difference {gap:.1f} nats a "
                         f"sequence, 95 % from {between.low:.1f} to {between.high:.1f}.")  # fmt: skip
    return lines


def refuse_mixtures(rows: list[dict[str, Any]]) -> None:
    """Refuses rows whose average would be no average over seeds.

    Raises:
        ValueError: two rows with one seed, or with different settings; it names both.
    """
    same = ("likelihood", "epochs", "num_particles", "num_sequences")
    for row in rows:
        if any(row[name] != rows[0][name] for name in same) or sum(row["seed"] == r["seed"] for r in rows) > 1:
            raise ValueError(f"{rows[0]['name']} and {row['name']} are not seeds of one run: look at {', '.join(same)}")


def mean_bound(rows: list[dict[str, Any]]) -> float:
    return statistics.mean(row["bound_per_sequence"] for row in rows)


def speech_table(folder: Path = RESULTS) -> str:
    """Log-likelihoods of whole sequences, over seeds, and their order beside that of SRNN's table."""
    parts = []
    for line, rows in by_convention(sequence_records(folder)[1]):
        found: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        for row in rows:
            found.setdefault((row["model"], row["guide"], row["family"]), []).append(row)
        # Seeds of one run stand in one row; an interval over different settings would mean nothing.
        for group in found.values():
            refuse_mixtures(group)
        cells = []
        for key, group in sorted(found.items(), key=lambda item: mean_bound(item[1]), reverse=True):
            epochs = sorted({f"{row['epochs']:,}" for row in group})
            cells.append([
                *key,
                group[0]["likelihood"],
                interval([row["bound_per_sequence"] for row in group]),
                interval([row["log_p_per_sequence"] for row in group]),
                str(group[0]["num_particles"]),
                str(len(group)),
                ", ".join(epochs),
                duration(statistics.mean(row["training_seconds"] for row in group)),
            ])  # fmt: skip
        names = [" + ".join(row[:3]) for row in cells]
        found_order = f"Found, the best first: {' > '.join(names)}. SRNN's table says, each tested by itself:"
        head = "model, guide, family, emission, bound, log p, K, seeds, epochs, training of one"
        shown = markdown(head.split(", "), cells)
        parts.append("\n".join([line, "", shown, "", found_order, "", *order(found), "", origin(rows)]))
    return "\n\n".join(parts) or "No run is recorded yet; `python tools/runs.py --run --only spoken` records some."
