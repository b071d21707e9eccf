"""Tables of speed for docs/speed.md, from the records of `benchmarks/`; the first of them sums the others up."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cells import RESULTS, markdown, provenance, records

#: key of a benchmark's sizes in its record -> the systems that it times
SYSTEMS = {
    "sizes": "VAE + Amortized", "hierarchy_steps": "Hierarchical and BIVA", "label_steps": "M2 + Labelled",
    "pixelcnn_steps": "Density over PixelCNN", "sequence_steps": "sequences", "kvae_steps": "KVAE + KalmanSmoother",
    "walk_steps": "GTM-SM",
}  # fmt: skip


def steps_of(key: str, run: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], str]]:
    """The sizes of a record: words for the size, its rows, and the name of the ratio to the step by hand."""
    for name, size in run[key].items():
        if key == "sizes":
            yield image_size(size), size["rows"], "cpu / by hand"
        else:
            yield run.get("titles", {}).get(name, name), size, "ratio"


def overview_table(folder: Path = RESULTS) -> str:
    """A line for each system and size whose step was timed: the zoo's step over that by hand, eager and compiled."""
    rows = []
    for key, system in SYSTEMS.items():
        for run in (run for run in records(folder) if key in run):
            for size, timed, ratio in steps_of(key, run):
                if "zoo" not in timed:
                    continue
                base = next(row["cpu_ms"] for row in timed.values() if median(row[ratio]) == 1)
                ours = (timed.get(row) for row in ("zoo", "zoo, compiled"))
                cells = ("–" if row is None else f"{median(row[ratio]):.2f} ×" for row in ours)
                rows.append([system, size, f"{base:.3g} ms", *cells])
    if not rows:
        return "No timing is recorded yet; `make bench` records the first."
    return markdown(["system", "size", "by hand", "zoo", "zoo, compiled"], rows)


def median(ratio: Any) -> float:
    """A ratio, which some records hold as the quantiles of their rounds."""
    return ratio["median"] if isinstance(ratio, dict) else ratio


def image_size(size: dict[str, Any]) -> str:
    """The size of a VAE in words."""
    bound = "ELBO" if size["particles"] == 1 else f"IWELBO({size['particles']})"
    return f"{size['data']}-{size['hidden']}-{size['latent']}, batch {size['batch']}, {bound}"


def timing(row: str, timed: dict[str, Any] | None) -> str:
    """One cell: time, ratio, memory; the ratio of a compiled row is to the compiled base."""
    if timed is None:
        return "–"
    ratio = timed["cpu / by hand, compiled" if "compiled" in row else "cpu / by hand"]["median"]
    return f"{timed['cpu_ms']:.3g} ms, {ratio:.2f} ×, {timed['peak_bytes'] / 1e6:.1f} MB"


def each_run(folder: Path, key: str, target: str, shown: Callable[[dict[str, Any]], Iterable[str]]) -> str:
    """The records of a benchmark as text, each with its machine and versions; words where there is none.

    Args:
        folder: of the records.
        key: of the benchmark's numbers in its records.
        target: of make, which records one.
        shown: the tables of a record.
    """
    parts = [part for run in records(folder) if key in run for part in (*shown(run), provenance(run))]
    return "\n\n".join(parts) or f"No timing is recorded yet; `make {target}` records one."


def speed_table(folder: Path = RESULTS) -> str:
    """CPU time of a training step beside PyTorch written by hand, from the records of `benchmarks/vae_step.py`."""
    return each_run(folder, "sizes", "bench", image_parts)


def image_parts(run: dict[str, Any]) -> Iterator[str]:
    sizes = run["sizes"].values()
    rows = dict.fromkeys(row for size in sizes for row in size["rows"])
    cells = [[row, *(timing(row, size["rows"].get(row)) for size in sizes)] for row in rows]
    yield markdown(["one training step", *map(image_size, sizes)], cells)


def cost(timed: dict[str, Any]) -> str:
    return f"{timed['cpu_ms']:,.0f} ms, {timed['peak_bytes'] / 1e6:.0f} MB"


def step_cells(row: str, sizes: dict[str, Any]) -> list[str]:
    """The cells of a way to do a step: its cost, and the ratio to a step by hand, at each size that it was timed at."""
    return [row, *(f"{cost(size[row])}, {size[row]['ratio']:.2f} ×" if row in size else "" for size in sizes.values())]


def steps(sizes: dict[str, Any], titles: Sequence[str]) -> str:
    """The table of a benchmark that calls `benchmarks/steps.py`: a line for each way to do a step."""
    cells = [step_cells(row, sizes) for row in dict.fromkeys(row for size in sizes.values() for row in size)]
    return markdown(["one training step", *titles], cells)


def steps_table(key: str, target: str, folder: Path) -> str:
    """A training step beside PyTorch written by hand. Arguments: `each_run`."""
    return each_run(folder, key, target, lambda run: [steps(run[key], [*run[key]])])


def hierarchy_speed_table(folder: Path = RESULTS) -> str:
    """A training step of hierarchies, from `benchmarks/hierarchy_step.py`."""
    return steps_table("hierarchy_steps", "bench-hierarchies", folder)


def label_speed_table(folder: Path = RESULTS) -> str:
    """A semi-supervised training step, from `benchmarks/label_step.py`."""
    return steps_table("label_steps", "bench-labels", folder)


def pixelcnn_speed_table(folder: Path = RESULTS) -> str:
    """A training step and a draw of PixelCNN, from `benchmarks/pixelcnn.py`."""
    return steps_table("pixelcnn_steps", "bench-pixelcnn", folder)


def kvae_speed_table(folder: Path = RESULTS) -> str:
    """A training step of a Kalman VAE, from `benchmarks/kvae_step.py`."""
    return steps_table("kvae_steps", "bench-kvae", folder)


def walk_speed_table(folder: Path = RESULTS) -> str:
    """A training step of a model of walks, from `benchmarks/walk_step.py`."""
    return steps_table("walk_steps", "bench-walk", folder)


def sequence_speed_table(folder: Path = RESULTS) -> str:
    """A training step of DMM and SRNN, and its cost over T, from the records of `benchmarks/sequence_step.py`."""
    return each_run(folder, "sequence_steps", "bench-sequences", sequence_parts)


def sequence_parts(run: dict[str, Any]) -> Iterator[str]:
    sizes = run["sequence_steps"]
    if sizes:
        yield steps(sizes, [*run["titles"].values()])
    if run["lengths"]:
        cells = [[f"{int(T):,}", *map(cost, rows.values())] for T, rows in run["lengths"].items()]
        head = ["T", *next(iter(run["lengths"].values()))]
        yield "DMM, batch 4, over the number of frames:\n\n" + markdown(head, cells)


def kalman_speed_table(folder: Path = RESULTS) -> str:
    """The exact linear-Gaussian recursions beside their peers, from the summary of `benchmarks/kalman`."""
    return each_run(folder, "summary", "bench-kalman", kalman_parts)


def kalman_parts(run: dict[str, Any]) -> Iterator[str]:
    summary = run["summary"]
    classes = list(dict.fromkeys(label for row in summary["best"] for label in row["ratios"]))
    rows = [
        [f"({row['size'][0]}, {row['size'][1]})", f"{row['T']:,}", f"{row['batch']:,}"]
        + [row["ratios"][label] for label in classes]
        for row in summary["best"]
    ]
    head = ["(state, data)", "T", "sequences", *classes]
    yield (
        "Time of the fastest peer of each kind / ours: likelihood / gradient / smoother; float64, shared parameters"
        f" (> n: more than n, it was stopped):\n\n{markdown(head, rows)}"
    )
    tasks = ["likelihood", "gradient", "smoother"]
    rows = []
    for peer, means in summary["geometric_means"].items():
        counts = summary["counts"][peer]
        numbers = ["–" if means[task] is None else f"{means[task]:.3g}" for task in tasks]
        rows.append([peer, *numbers, str(counts["ahead"]), str(counts["behind"])])
    yield (
        "Geometric means of peer's time / ours over all measured cells, and in how many we are ahead or behind:\n\n"
        + markdown(["peer", *tasks, "ahead", "behind"], rows)
    )


def hidden_markov_speed_table(folder: Path = RESULTS) -> str:
    """Hidden Markov models beside hmmlearn and Pyro, from the records of `benchmarks/hidden_markov.py`."""
    return each_run(folder, "hidden_markov", "bench-hmm", hidden_markov_parts)


def hidden_markov_parts(run: dict[str, Any]) -> Iterator[str]:
    sizes = run["hidden_markov"]
    for task in next(iter(sizes.values())):
        cells: dict[str, list[str]] = {}
        for column, tasks in enumerate(sizes.values()):
            for row, timed in tasks[task].items():
                line = cells.setdefault(row, [row, *["–"] * len(sizes)])
                line[1 + column] = f"{timed['cpu_ms']:.3g} ms, {timed['ratio']:.2f} ×"
        yield markdown([task, *sizes], list(cells.values()))
