"""Tables of hierarchies and codes, from the records of rows and of `examples/anomaly.py`; and their pictures."""

import math
from pathlib import Path
from statistics import mean
from typing import Any

from cells import RESULTS, ROOT, end_slope, machines, markdown, provenance, records, shown_pictures

# Row -> the paper's number, and the words for those that another work quotes; the rest is from memory. Sonderby et al.
# 2016 (LVAE), Burda et al. 2016 (IWAE), Maaloe et al. 2019 (BIVA), on the same binarisation, 1,000 and more epochs;
# Jang et al. 2017 (codes).
REPORTED = {
    "mnist-5-ladder": ("-81.74 (L_5000, fine-tuned with 10 samples)", "as quoted elsewhere"),
    "mnist-5-biva": ("-80.60 (L_1, feature maps)", "as quoted elsewhere"),
    "static-maps-biva": ("-80.47 (L_1), -78.59 (L_1000), six layers", "the first as quoted elsewhere"),
    "mnist-iwae-2-1": ("-85.33 (L_5000)", ""),
    "mnist-iwae-2-50": ("-82.90 (L_5000)", "as quoted elsewhere"),
    "codes-200x2-jang": ("-105.0 (bound)", ""),
    "codes-20x10-jang": ("-101.5 (bound)", ""),
    "codes-200x2-straight-through": ("-111.5 (bound)", ""),
    "codes-20x10-straight-through": ("-107.8 (bound)", ""),
}
PICTURES = {
    "hierarchy_kl": "KL of each level over epochs: the levels that open, and when (as in LVAE's figure 4, BIVA's "
    "figure 2). A level at the free bits carries as much as it is not charged for.",
    "hierarchy_levels": "Draws of each level given test images, by class: the first two principal components (LVAE's "
    "figure 6).",
    "hierarchy_samples": "Means of p(x | z) for new latents: at four temperatures T, and with the upper levels of one "
    "draw held and those below drawn anew.",
    **{f"anomaly-{data}": f"Bounds of test images of {data}, on which the pair was trained, and of others (in BIVA's "
       "paper histograms of L^{>k})." for data in ("mnist", "notmnist", "cifar10")},
}  # fmt: skip


def paper(name: str) -> str:
    """The cell of a row's number in print."""
    if name not in REPORTED:
        return "–"
    number, quoted = REPORTED[name]
    return f"{number}, reported, {quoted or 'unverified'}"


def bound(figures: dict[str, Any]) -> tuple[str, float]:
    """The name and the value of a row's importance-weighted bound, L_K."""
    return next((name, value) for name, value in figures.items() if name.startswith("L_") and name != "L_1")


def sharper(record: dict[str, Any] | None) -> str:
    """The words for the bound of more particles, which `tools/many_particles.py` records."""
    return "" if record is None else f", {record['log_p']:,.2f} (L_{record['num_particles']})"


def levels(kl: dict[str, float]) -> str:
    """KL by level, from the data upwards."""
    return ", ".join(f"{site} {kl[site]:.2f}" for site in sorted(kl))


def slope(curve: list[dict[str, Any]]) -> str:
    """Nats per CPU minute by which the validation bound rose over the last part of a run, with its standard error."""
    return end_slope(
        [(point["cpu_minutes"], -point["validation"]) for point in curve if point["validation"] is not None]
    )


def course(row: dict[str, Any]) -> str:
    """The epochs of a row, the best of them, and how much of its plan it came to."""
    done = "" if row["ended"] != "budget" else f", {row['steps'] / row['planned_steps']:.0%} of the plan"
    return f"{row['epochs']:,} (best {row['best_epoch']:,}){done}"


def hierarchies_table(folder: Path = RESULTS) -> str:
    """A table for each data set, the best bound first; rows that are still being trained have no line."""
    rows = [row for row in records(folder) if "L_1" in (row.get("figures") or {}) and "codes" not in row]
    groups = {f"**{data}**": [row for row in rows if row["data"] == data] for data in {row["data"] for row in rows}}
    more = {row["of"]: row for row in records(folder) if "of" in row}
    return tables_of(groups, more) or "No row is recorded yet; `python tools/runs.py --run --only mnist-5` trains some."


def codes_table(folder: Path = RESULTS) -> str:
    """A table for each size of code, as `hierarchies_table`."""
    rows = [row for row in records(folder) if row.get("codes") and row["figures"]]
    groups = {
        f"**{size}** (variables × values), {rows[0]['data']}": [row for row in rows if row["codes"] == size]
        for size in {row["codes"] for row in rows}
    }
    return tables_of(groups) or "No row is recorded yet; `python tools/runs.py --run --only codes-` trains them."


def tables_of(groups: dict[str, list[dict[str, Any]]], more: dict[str, dict[str, Any]] | None = None) -> str:
    """A table for each group, under its title, the best bound first; `more`: row -> a record of more particles."""
    parts = []
    for title, group in sorted(groups.items()):
        cells = []
        for row in sorted(group, key=lambda row: -bound(row["figures"])[1]):
            figures, (name, value) = row["figures"], bound(row["figures"])
            bits = f" ({figures['bits_per_dim']:.2f} bits per dimension)" if "bits_per_dim" in figures else ""
            cells.append([
                row["name"],
                row["system"],
                f"{figures['L_1']:,.2f}{bits}",
                f"{value:,.2f} ± {figures['error']:.2f} ({name}){sharper((more or {}).get(row['name']))}",
                levels(figures["kl"]),
                paper(row["name"]),
                course(row),
                f"{row['cpu_minutes']:.0f}",
                slope(row["curve"]),
                f"`{row['command']}`",
            ])  # fmt: skip
        head = "row, system, L_1, log p, KL by level, paper, epochs, CPU minutes, nats a minute at the end, command"
        tested = sorted({f"{row['figures']['num_test']:,}" for row in group})
        line = f"{title}: {', '.join(tested)} test images."
        notes = [f"- {row['name']}: {row['note']}" for row in group if row["note"]]
        shown = markdown(head.split(", "), cells)
        parts.append("\n".join([line, "", shown, *([""] if notes else []), *notes, "", *machines(group)]))
    return "\n\n".join(parts)


def anomaly_table(folder: Path = RESULTS) -> str:
    """For each trained pair the area under the ROC curve of every score for every strange set; average precisions."""
    parts = []
    for run in (run for run in records(folder) if "anomaly" in run):
        least = min(run["num_images"].values())
        # the variance of an area is at most A (1 - A) / n for any two distributions
        error = math.sqrt(0.25 / least)
        images = ", ".join(f"{count:,} {label}" for label, count in run["num_images"].items())
        parts.append("\n\n".join([
            f"**Trained on {run['anomaly']}** ({run['trained']}: {run['pair']}). Images: {images}; "
            f"{run['num_particles']} draws each; standard error of an area at most {error:.3f}.",
            measured(run["auroc"]), *([said] if (said := of_levels(run["auroc"])) else []),
            *(["Average precision; a score that tells nothing has the share of the strange images among all:",
               measured(run["average_precision"])] if "average_precision" in run else []),
            *([run["note"]] if run["note"] else []), provenance(run),
        ]))  # fmt: skip
    return "\n\n".join(parts) or "No row is recorded yet; `python examples/anomaly.py --name anomaly` records one."


def of_levels(table: dict[str, dict[str, float]]) -> str:
    """Scores of the upper levels beside log p, by their mean area over the strange sets; empty without levels."""
    means = {name: mean(row[name] for row in table.values()) for name in next(iter(table.values()))}
    bounds, differences = ([name for name in means if name.startswith(start)] for start in ("L>", "L - L>"))
    if not bounds:
        return ""
    parts = []
    for names in (bounds, differences):
        best = max(names, key=lambda name: means[name])
        above = [label for label, row in table.items() if row[best] > row["log p"]]
        name, where = f"{best.replace('L>', 'L^{>')}}}", "; ".join(above) if above else "none of them"
        parts.append(f"{name} has {means[best]:.3f} (above log p for: {where})")
    return (f"By the mean over these sets log p has {means['log p']:.3f}. Of the bounds of upper levels the best, "
            f"{parts[0]}. Of the differences the best, {parts[1]}.")  # fmt: skip


def measured(table: dict[str, dict[str, float]]) -> str:
    """The lines of a table with a row for each strange set and their mean, and a column for each score."""
    scores = list(next(iter(table.values())))
    # as on paper; on a command line braces are noise
    head = ["strange images", *(f"{name.replace('L>', 'L^{>')}}}" if ">" in name else name for name in scores)]
    rows = table | {"mean": {name: mean(row[name] for row in table.values()) for name in scores}}
    return markdown(head, [[label, *(f"{number:.3f}" for number in row.values())] for label, row in rows.items()])


def hierarchy_pictures(folder: Path = ROOT / "docs" / "pictures") -> str:
    """The stored pictures of `tools/hierarchy_pictures.py` and `examples/anomaly.py`, each with its caption."""
    return shown_pictures(PICTURES, folder, "tools/hierarchy_pictures.py")
