"""The table of systems of unlike kinds, from the records of tools/rows/comparison.py, and what it says of the slide.

A slide of the field's taxonomy ranks latent variable models, flows, autoregressive models and GANs in words, in four
columns. The table has a number for each of its cells, and a sentence for each of its words that numbers can contradict.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from cells import RESULTS, ROOT, machines, markdown, records, shown_pictures
from scipy.stats import kendalltau

Record = Mapping[str, Any]
KINDS = {
    "latent variable models": ("vae", "hierarchical", "pixelvae"),
    "flows": ("coupling", "maf"),
    "autoregressive": ("pixelcnn",),
    "GAN": ("gan",),
}
HEAD = [
    "system", "−log P (nats)", "how", "bits/dim", "one draw", "1,000 draws", "Frechet", "precision", "recall", "probe",
    "nearest training image", "parameters", "CPU minutes", "command",
]  # fmt: skip
LONG, SHORT = "comparison-long-", "comparison-short-"
PICTURES = {
    "comparison_draws": "Draws of each system, 45 CPU minutes: none was chosen.",
    "comparison_between": "Between two test images: of models with latents the means of the pixels on a line between "
    "their latents, of PixelVAE draws; of flows on a line between their noise; of the GAN between two drawn latents.",
    "comparison_nearest": "Draws, and below each the training image nearest to it.",
}


def nats(row: Record) -> float | None:
    """-log P, smaller is better; None of a system without a likelihood."""
    return row["nats"] and -row["nats"]["log_p"]


def slack(row: Record) -> float | None:
    """Nats between the bound and a looser one of the same kind: how far from exact an evaluation is."""
    return row["nats"] and row["nats"]["log_p"] - row["nats"]["looser"]


def seconds(row: Record) -> float:
    """CPU seconds of a thousand draws."""
    return 1000 * row["seconds"]["all"] / row["seconds"]["num"]


def misread(row: Record) -> float | None:
    """Per cent of test images whose class the linear probe of the representation does not tell."""
    return None if row["probe"] is None else 100 * (1 - row["probe"])


def frechet(row: Record) -> float:
    return row["quality"]["frechet"]


@dataclass(frozen=True)
class Claim:
    """A word of the slide as an order of numbers: those of `small` are smaller than those of `large`."""

    column: str
    words: str
    unit: str
    figure: Callable[[Record], float | None]
    small: tuple[str, ...]
    large: tuple[str, ...]

    def judged(self, rows: Mapping[str, Record]) -> str:
        """A sentence: the numbers of both sides, and the pairs that stand the other way round."""
        values = {word: value for word in (*self.small, *self.large)
                  if word in rows and (value := self.figure(rows[word])) is not None}  # fmt: skip
        sides = [[word for word in side if word in values] for side in (self.small, self.large)]
        if not all(sides):
            return ""
        numbers = [", ".join(f"{rows[word]['system']} {values[word]:.3g}" for word in side) for side in sides]
        wrong = [f"{rows[b]['system']} before {rows[a]['system']}" for a in sides[0] for b in sides[1]
                 if values[b] < values[a]]  # fmt: skip
        verdict = f"**contradicted**: {', '.join(wrong)}" if wrong else "the numbers agree"
        return f"- *{self.column}*: {self.words}. {self.unit}: {numbers[0]}; {numbers[1]}: {verdict}."


LATENT, FLOWS = KINDS["latent variable models"], KINDS["flows"]
CLAIMS = (
    Claim("expressivity", "flows are limited to invertible maps, so all others with a likelihood should leave fewer "
          "nats", "−log P, nats", nats, (*LATENT, "pixelcnn"), FLOWS),
    Claim("sampling", "autoregressive models are slow to draw from, and no other kind is", "CPU seconds of 1,000 draws",
          seconds, ("vae", "hierarchical", *FLOWS, "gan"), ("pixelcnn", "pixelvae")),
    Claim("evaluating p(x)", "approximate for latent variable models alone", "nats between a bound and a looser one of "
          "its kind (of flows by dequantisation, since images are levels)", slack, (*FLOWS, "pixelcnn"), LATENT),
    Claim("latent representation", "a flow's is exact and a latent variable model's approximate, so it should tell no "
          "less", "% of test images that a linear probe misreads", misread, FLOWS, LATENT),
)  # fmt: skip


def slide(rows: Mapping[str, Record]) -> str:
    """The slide's own table, with the number that fills each cell."""
    lines = []
    for kind, words in KINDS.items():
        found = [rows[word] for word in words if word in rows]
        if found:
            lines.append([
                kind,
                each(found, lambda row: "no −log P" if nats(row) is None else f"{nats(row):.2f} nats")
                + f"; Frechet {each(found, lambda row: f'{frechet(row):.2f}', named=False)}",
                each(found, lambda row: f"{seconds(row):.3g} s"),
                each(found, lambda row: row["nats"]["how"] if row["nats"] else "none"),
                each(found, lambda row: "none" if misread(row) is None else f"{misread(row):.1f} %"),
            ])  # fmt: skip
    head = ["the slide's rows", "expressivity: −log P; draws", "sampling: 1,000 draws", "evaluating p(x)",
            "latent representation: misread by a probe"]  # fmt: skip
    return markdown(head, lines)


def each(rows: list[Record], cell: Callable[[Record], str], *, named: bool = True) -> str:
    """A cell of a kind: that of each of its systems, with its name where there are several."""
    names = [f"{row['system']} " if named and len(rows) > 1 else "" for row in rows]
    return ", ".join(f"{name}{cell(row)}" for name, row in zip(names, rows, strict=True))


def cells(row: Record) -> list[str]:
    """The line of a system, trained once."""
    found, quality = row["nats"], row["quality"]
    likelihood = ["none", "–", "none"]
    if found:
        looser = "" if abs(slack(row)) < 1e-6 else f" ({-found['looser']:.2f} by one draw)"
        likelihood = [f"{nats(row):.2f} ± {found['error']:.2f}{looser}", found["how"], f"{row['bits_per_dim']:.4f}"]
    probe = "none" if row["probe"] is None else f"{100 * row['probe']:.1f} % ({row['size_of_code']} numbers)"
    return [
        row["system"], *likelihood, f"{1000 * row['seconds']['one']:.3g} ms", f"{seconds(row):.3g} s",
        f"{frechet(row):.2f}", f"{quality['precision']:.2f}", f"{quality['recall']:.2f}", probe,
        f"{row['nearest']:.2f}", f"{row['parameters']:,}", f"{row['training_minutes']:.0f} ({row['steps']:,} steps)",
        f"`python tools/runs.py --run --only {row['name']}`",
    ]  # fmt: skip


def reference(row: Record) -> str:
    """The same measures of test images, which no system should do better than by much."""
    floor, num = row["floor"], row["num_judged"]
    return (
        f"Test images in place of draws: Frechet {floor['frechet']:.2f}, precision {floor['precision']:.2f}, recall "
        f"{floor['recall']:.2f}, median distance to a training image {row['nearest_of_test']:.2f}; {num:,} of "
        f"either against as many training images. Probe of the pixels {100 * row['probe_of_pixels']:.1f} %. −log P of "
        f"{row['num_test']:,} test images."
    )


def rankings(rows: Mapping[str, Record]) -> str:
    """The best by each measure, and the agreement of the order by nats with that by Frechet distance."""
    best = []
    for name, figure in {"−log P": nats, "Frechet distance": frechet, "probe": misread, "1,000 draws": seconds}.items():
        values = {word: value for word, row in rows.items() if (value := figure(row)) is not None}
        if values:
            best.append(f"{rows[min(values, key=values.__getitem__)]['system']} by {name}")
    both = [(nats(row), frechet(row)) for row in rows.values() if row["nats"]]
    said = f"- *Best*: {', '.join(best)}."
    if len(both) > 2:
        said += (
            f" Orders by −log P and by Frechet distance: Kendall's tau {kendalltau(*zip(*both, strict=True))[0]:+.2f} "
        )
        said += f"of {len(both)} systems (1 is the same order, 0 none in common)."
    return said


def spread(rows: list[Record], figure: Callable[[Record], float | None], form: str = ".2f") -> str:
    """Mean and range over seeds; none where the systems have no such figure."""
    values = [value for row in rows if (value := figure(row)) is not None]
    if not values:
        return "none"
    return f"{mean(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def seeds_table(rows: list[Record]) -> str:
    """The short runs: mean and range over seeds."""
    by_system: dict[str, list[Record]] = {}
    for row in rows:
        by_system.setdefault(row["system"], []).append(row)
    lines = [
        [system, str(len(found)), spread(found, nats), spread(found, frechet),
         spread(found, lambda row: row["quality"]["precision"]), spread(found, lambda row: row["quality"]["recall"]),
         spread(found, misread, ".1f")]
        for system, found in by_system.items()
    ]  # fmt: skip
    head = ["system", "seeds", "−log P (nats)", "Frechet", "precision", "recall", "misread by a probe (%)"]
    return f"{rows[0]['minutes']:g} CPU minutes, mean and range over seeds:\n\n{markdown(head, lines)}"


def comparison_table(folder: Path = RESULTS) -> str:
    """The systems by -log P, the slide's table filled, its words beside the numbers, and the spread over seeds."""
    found = [row for row in records(folder) if "comparison" in row]
    long = {row["comparison"]: row for row in found if row["name"].startswith(LONG)}
    short = [row for row in found if row["name"].startswith(SHORT)]
    if not (long or short):
        return "No row is recorded yet; `python tools/runs.py --run --only comparison-` trains them."
    parts = []
    if long:
        # those without a likelihood last
        order = sorted(long.values(), key=lambda row: (nats(row) is None, nats(row) or 0.0))
        words = [sentence for claim in CLAIMS if (sentence := claim.judged(long))]
        parts += [markdown(HEAD, [cells(row) for row in order]), reference(order[0]), slide(long),
                  "\n".join([*words, rankings(long)])]  # fmt: skip
    if short:
        parts.append(seeds_table(short))
    return "\n\n".join([*parts, *machines(found)])


def comparison_pictures(folder: Path = ROOT / "docs" / "pictures") -> str:
    """The stored pictures of `tools/comparison_pictures.py`, each with its caption."""
    return shown_pictures(PICTURES, folder, "tools/comparison_pictures.py")
