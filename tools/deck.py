"""The generated parts of docs/deck.md: for each system of the deck its pairs, numbers, checks and pictures."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import comparison_tables
import hierarchy_tables
import image_tables
import label_tables
import video_tables
import walk_tables
from calibration_tables import LEVEL
from cells import RESULTS, ROOT, markdown, records, shown_pictures
from sequence_tables import REPORTED_SEQUENCES, averaged

PICTURES = ROOT / "docs" / "pictures"
Record = Mapping[str, Any]


@dataclass(frozen=True)
class System:
    """A section of the page.

    Attributes:
        pairs: names of rows of tests/pairs.py, each in one section.
        records: beginnings of the names of records with its numbers.
        pictures: names of stored pictures, which have their captions in CAPTIONS.
    """

    pairs: tuple[str, ...] = ()
    records: tuple[str, ...] = ()
    pictures: tuple[str, ...] = ()


#: captions of pictures that have none with a table of theirs
CAPTIONS = {
    "conditions": "The missing three quadrants of digits, drawn from p(x | y).",
    "gaps": "Real data with gaps: errors of imputed entries.",
    "mixture_em": "EM of a mixture.",
    "ppca": "PCA as a model.",
    "deck_minima": "One posterior with two modes, p(x | z) = N(x; z_0² + z_1 / 2, 0.3²) at x = 1: a Gaussian q lands "
    "on either, as its start decides.",
    "posterior_check": "Exact posterior, draws and guides in one overlay.",
    "deck_digits": "Two latents of the digits 0 to 3: draws of q(z | x) for test images by class, and the mean image "
    "at each quantile of the prior.",
    "vae": "q(z | x) of test digits, NUTS draws, the exact posterior.",
    "mnist": "Test digits, their reconstructions, and new ones.",
    "amortization_gap": "The gaps of amortisation and of the family.",
    "gradients": "Variance of gradient estimators.",
    "codes": "Codes of digits.",
    "deck_flows": "Draws of N(0, I), and of a uniform, under 1, 2 and 10 flows with random parameters (Rezende and "
    "Mohamed 2015, figure 1).",
    "flow_posteriors": "A posterior with two modes, and what each family makes of it.",
    "labels": "Two classes where a digit is ambiguous: grid, HMC, guide.",
    "ball": "A ball seen with noise: path, filtered, smoothed, steps ahead, imputed.",
    "nile": "The level of the Nile.",
    "kvae": "From `examples/kvae.py`.",
    "music": "A test chorale, its reconstruction, a sample, a forecast.",
    "sequence_posterior": "The guide of a sequence beside NUTS.",
    "speech": "Read speech, its reconstruction, a sample, a forecast.",
    "walk": "From `examples/walk.py`.",
    **comparison_tables.PICTURES, **hierarchy_tables.PICTURES, **label_tables.PICTURES, **video_tables.PICTURES,
    **walk_tables.PICTURES,
}  # fmt: skip

#: marker of the page -> section, in the deck's order
SYSTEMS: dict[str, System] = {
    "conditions": System(("cvae", "vae-gaps", "vae-with-mask"), pictures=("conditions", "gaps")),
    "taxonomy": System(
        ("density-flow", "density-spline", "density-maf", "density-made", "pixelcnn"),
        ("static-pixelcnn",),
        ("comparison_draws",),
    ),
    "linear": System(("mixture-exact", "ppca-exact", "ppca-amortized"), pictures=("mixture_em", "ppca")),
    "inference": System(("vae-full-rank", "vae-mixture"), pictures=("deck_minima", "posterior_check")),
    "vae": System(
        ("vae", "vae-normal", "vae-categorical", "vae-logistic", "vae-mixture-prior", "vae-flow-prior"),
        ("mnist-elbo", "mnist-iwelbo-50"),
        ("deck_digits", "vae", "mnist"),
    ),
    "amortised": System(("vae-per-datum", "vae-per-datum-iaf", "vae-auto-normal"), pictures=("amortization_gap",)),
    "gradients": System(pictures=("gradients",)),
    "decoders": System(("pixel-vae", "vlae", "pixel-vae-hierarchical"), ("static-pixelvae", "static-vlae")),
    "codes": System(("vae-jang", "vae-straight-through", "vae-concrete", "vae-codes-rloo"), ("codes-",), ("codes",)),
    "auxiliary": System(("vae-auxiliary",)),
    "lvae": System(
        ("hierarchical-bottom-up", "hierarchical-top-down", "hierarchical-ladder", "hierarchical-skip-top-down",
         "hierarchical-conditional", "hierarchical-factorised"),
        ("mnist-5-bottom-up", "mnist-5-top-down", "mnist-5-ladder", "mnist-5-skip", "mnist-iwae-",
         "static-maps-skip"),
        ("hierarchy_kl", "hierarchy_levels"),
    ),
    "biva": System(("biva",), ("mnist-5-biva", "static-maps-biva"), ("hierarchy_samples", "anomaly-mnist")),
    "flows": System(
        ("vae-planar", "vae-radial", "vae-iaf", "vae-spline"),
        ("static-diagonal", "static-planar", "static-iaf", "static-spline"),
        ("deck_flows", "flow_posteriors"),
    ),
    "labels": System(
        ("m2", "m2-labelled", "m1m2", "adgm", "sdgm", "biva-labels"),
        ("mnist-100-m2", "mnist-100-m1m2", "mnist-100-sdgm", "mnist-100-adgm", "mnist-100-biva"),
        ("label_analogies", "labels"),
    ),
    "linear-dynamics": System(
        ("lgssm-exact", "lgssm-auto-normal", "lgssm-mean-field", "lgssm-filter", "lgssm-smoother", "hmm", "hmm-path"),
        pictures=("ball", "nile"),
    ),
    "kvae": System(
        ("mixed-dynamics-exact", "kvae", "kvae-joint"),
        ("box-kvae", "box_gravity-kvae", "pong-kvae", "polygon-kvae"),
        ("videos_one_model", "videos_rooms", "videos_imputation", "kvae"),
    ),
    "srnn": System(
        ("dmm-mean-field", "dmm-filter", "dmm-smoother", "dmm-smoother-iaf", "storn-filter", "vrnn-filter",
         "vrnn-gauss", "vrnn-gmm", "srnn-filter", "srnn-filter-residual", "srnn-smoother", "srnn-smoother-residual"),
        ("long-", "jsb-dmm-smoother", "jsb-storn", "jsb_srnn-srnn-smoother", "jsb_srnn-vrnn"),
        ("music", "sequence_posterior"),
    ),
    "speech": System(pictures=("speech",)),
    "walks": System(
        ("gtmsm", "gtmsm-walls"),
        ("walk-free", "walk-walls-", "walk-lstm", "walk-srnn"),
        ("walk_places", "walk_frames", "walk"),
    ),
    "rooms": System(
        ("gtmsm-room", "gtmsm-room-codes"),
        ("room-poses", "room-actions", "room-lstm"),
        ("room_views", "room_maps"),
    ),
}  # fmt: skip


def block(name: str, pairs_of: Callable[[list[str]], str], folder: Path = RESULTS, pictures: Path = PICTURES) -> str:
    """The generated part of a section.

    Args:
        name: key of SYSTEMS.
        pairs_of: names of pairs -> their table.
        folder, pictures: of the records and of the stored pictures.
    """
    system, rows = SYSTEMS[name], records(folder)
    parts = [pairs_of([*system.pairs])] if system.pairs else []
    lines = [numbers(row) for row in rows if row.get("name", "").startswith(system.records or ("/",))]
    if system.records:
        head = ["row", "obtained", "published", "command"]
        found = [line for line in lines if line]
        wanted = f"No row is recorded yet; `python tools/runs.py --run --only {' '.join(system.records)}` trains them."
        parts.append(markdown(head, found) if found else wanted)
    parts += [said for pair in system.pairs if (said := checked(pair, rows))]
    # a page may not show a picture that is not there
    captions = {picture: CAPTIONS[picture] for picture in system.pictures if (pictures / f"{picture}.png").exists()}
    parts += [shown_pictures(captions, pictures, "")] if captions else []
    return "\n\n".join(parts)


def numbers(row: Record) -> list[str]:
    """The line of a record: name, figure in its convention, the published one, command; empty without figures."""
    figures = row.get("figures") or {}
    cell = next((cells(row) for asks, cells in KINDS if asks(row, figures)), None)
    return [row["name"], *cell, f"`{row['command']}`"] if cell else []


def _bound(row: Record) -> tuple[str, str]:
    name, value = hierarchy_tables.bound(row["figures"])
    return f"{value:.2f} ± {row['figures']['error']:.2f} nats ({name})", hierarchy_tables.paper(row["name"])


def _label(row: Record) -> tuple[str, str]:
    return f"{100 * row['figures']['test_error']:.2f} % test error", label_tables.paper(row["name"].rpartition("-")[0])


def _music(row: Record) -> tuple[str, str]:
    paper = REPORTED_SEQUENCES.get(tuple(row[word] for word in ("data", "model", "guide", "family")))
    doubt = ", reported, unverified" if row["model"] == "srnn" else ""
    return ", ".join(f"{name} {averaged(row, name)}" for name in "abc"), f"{paper}{doubt}" if paper else "–"


def _video(row: Record) -> tuple[str, str]:
    figures = row["figures"]
    elbo = f"ELBO {figures['elbo']:.2f} ± {figures['error']:.2f} nats a frame, " if "elbo" in figures else ""
    return f"{elbo}R^2 of the position {figures['r2']:.3f}, smoothed {figures['pixels']['12']['smoothed']:.2f} px", "–"


def _walk(row: Record) -> tuple[str, str]:
    figures = row["figures"]
    place = f"R^2 of the place {figures['r2']['place']:.4f}, " if "r2" in figures else ""
    return f"{place}squared error {figures['errors']['all']:.4f} over {figures['ahead']} steps", "–"


def _image(row: Record) -> tuple[str, str]:
    return f"{row['log_p']:.2f} ± {row['log_p_error']:.2f} nats (L_5000)", image_tables.reported(row)


#: (asks whether a record is of a kind, its cells)
KINDS: tuple[tuple[Callable[[Record, Record], bool], Callable[[Record], tuple[str, str]]], ...] = (
    (lambda row, figures: "active_units" in row, _image),
    (lambda row, figures: "convention" in row, _music),
    (lambda row, figures: "test_error" in figures, _label),
    (lambda row, figures: "pixels" in figures and "r2" in figures, _video),
    (lambda row, figures: "errors" in figures and "ahead" in figures, _walk),
    (lambda row, figures: "L_1" in figures, _bound),
)


def checked(pair: str, rows: list[dict[str, Any]]) -> str:
    """The verdicts on a pair's trained guide beside a reference, and of its calibration, in words; "" without a row."""
    row = next((row for row in rows if row.get("name") == f"calibration-{pair}" and row["figures"]), None)
    if row is None:
        return ""
    figures = row["figures"]
    ranks = f"calibration p = {figures['p_value']:.2g}, {'passes' if figures['p_value'] > LEVEL else 'fails'} at 1 %"
    found = figures.get("check", {})
    if "rows" not in found:
        reason = f"; no reference: {found['refused']}" if "refused" in found else ""
        return f"`{pair}`, trained on draws of its own model: {ranks}{reason}."
    verdicts = [datum["verdict"] for datum in found["rows"]]
    said = ", ".join(f"{verdicts.count(word)} {word}" for word in ("good", "fair", "bad") if word in verdicts)
    gap = sum(datum["gap"] for datum in found["rows"]) / len(verdicts)
    return (
        f"`{pair}`, trained on draws of its own model: beside the reference ({found['kind']}) {said} of "
        f"{len(verdicts)} data, KL(q ‖ p) {gap:.3f} nats on average; {ranks}."
    )


def blocks(pairs_of: Callable[[list[str]], str]) -> dict[str, Callable[[], str]]:
    """Marker -> the function that makes the part."""
    return {f"deck-{name}": partial(block, name, pairs_of) for name in SYSTEMS}
