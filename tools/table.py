"""The pages' tables, written between their markers: the pairs from tests/pairs.py, the numbers from results/*.json.

make table
"""

import sys
from collections.abc import Sequence
from typing import Any

from calibration_tables import calibrated_sentence, calibration_table
from cells import ROOT, markdown
from comparison_tables import comparison_pictures, comparison_table
from deck import blocks
from gap_tables import gaps_table
from hierarchy_tables import anomaly_table, codes_table, hierarchies_table, hierarchy_pictures
from image_tables import results_table
from label_tables import label_pictures, labels_table
from sequence_tables import sequences_table, speech_table
from shape_tables import shape_pictures, shapes_table
from speed_tables import (
    hidden_markov_speed_table,
    hierarchy_speed_table,
    kalman_speed_table,
    kvae_speed_table,
    label_speed_table,
    overview_table,
    pixelcnn_speed_table,
    sequence_speed_table,
    speed_table,
    walk_speed_table,
)
from structural_tables import structural_table
from video_tables import video_pictures, videos_table
from walk_tables import rooms_table, walk_pictures, walks_table

WIDTH = 120


def registry() -> tuple[Any, Any]:
    """The tests' pairs and objectives, so that no row of a table is untested."""
    sys.path.insert(0, str(ROOT / "tests"))
    from pairs import OBJECTIVES, PAIRS

    return PAIRS, OBJECTIVES


def systems_table() -> str:
    """A row for each model, or models of the same guides and families: these, and the systems that the pairs make."""
    pairs, _ = registry()
    models: dict[str, tuple[dict[str, None], dict[str, None], list[str]]] = {}
    for pair in pairs.values():
        # Constructor arguments and module paths are left to the long table.
        model, guide, family = (part.partition("(")[0].rpartition(".")[2] for part in pair.code)
        guides, families, systems = models.setdefault(model, ({}, {}, []))
        guides |= {guide: None}
        families |= {family: None} if family else {}
        systems += [system.partition(" (")[0].partition("; ")[0] for system in pair.systems]
    # README is short, so models that swap alike share a row, and then rows of a single system.
    alike: dict[tuple[str, str], tuple[list[str], list[str]]] = {}
    for model, (guides, families, systems) in models.items():
        named_models, made = alike.setdefault((", ".join(guides), ", ".join(families)), ([], []))
        named_models.append(f"`{model}`")
        made += systems
    shared: dict[tuple[str, str], tuple[list[str], list[str], list[str]]] = {}
    for (guide_names, family_names), (named_models, systems) in alike.items():
        key = "" if len(systems) == 1 else guide_names
        row = shared.setdefault((key, family_names), ([], [], []))
        for cell, found in zip(row, (named_models, [guide_names], systems), strict=True):
            cell += found
    head, rows = ["model", "guides", "families", "systems, such as"], []
    for (_, family_names), (named_models, named_guides, systems) in shared.items():
        shown, guide_names = [family_names], ", ".join(named_guides)
        # As many families and then as many names as README's lines, 120 columns wide, have room for.
        while not (fits := fitting(head, [", ".join(named_models), guide_names, shown[0]], systems)):
            shown = [f"{shown[0].removesuffix(', …').rpartition(', ')[0]}, …"]
        rows.append(fits[-1])
    return markdown(head, rows)


def fitting(head: list[str], row: list[str], systems: list[str]) -> list[list[str]]:
    """The row with the number of systems in its last cell, and with one name, two and so on, up to `WIDTH` columns."""
    cells = [f"{len(systems)}", *(f"{len(systems)}: {'; '.join(systems[:n])}" for n in range(1, len(systems) + 1))]
    return [line for cell in cells if len(markdown(head, [line := [*row, cell]]).splitlines()[-1]) <= WIDTH]


def pairs_table(names: Sequence[str] | None = None) -> str:
    """A row for each system of the literature that is a pair of the registry with an objective.

    Args:
        names: of rows of the registry; None: all.
    """
    pairs, objectives = registry()
    rows = []
    for pair in pairs.values() if names is None else [pairs[name] for name in names]:
        refused, evaluated = (
            ", ".join(f"`{word}`" for word in objectives if word in words)
            for words in (pair.refused - pair.evaluated, pair.evaluated)
        )
        valid = f"all but {refused}" if refused else "all"
        if len(pair.valid) == 1:
            valid = f"`{pair.valid[0]}` alone"
        if evaluated:
            valid += f"; {evaluated} in evaluation alone"
        for system, objective in pair.systems.items():
            cells = [f"`{part}`" if part else "" for part in (*pair.code, objective)]
            rows.append([system, *cells, valid])
    return markdown(["in the literature", "model", "guide", "family", "objective", "valid"], rows)


PAGES = {
    "README.md": {"systems": systems_table},
    "docs/pairs.md": {"pairs": pairs_table},
    "docs/deck.md": blocks(pairs_table),
    "docs/results.md": {
        "results": results_table, "hierarchies": hierarchies_table, "anomaly": anomaly_table,
        "hierarchy-pictures": hierarchy_pictures, "codes": codes_table,
        "comparison": comparison_table, "comparison-pictures": comparison_pictures, "labels": labels_table,
        "label-pictures": label_pictures, "shapes": shapes_table, "shape-pictures": shape_pictures,
        "videos": videos_table, "video-pictures": video_pictures,
        "walks": walks_table, "rooms": rooms_table, "walk-pictures": walk_pictures, "sequences": sequences_table,
        "speech": speech_table, "structural": structural_table, "calibration": calibration_table, "gaps": gaps_table,
    },
    "docs/guide/posterior.md": {"calibrated": calibrated_sentence},
    "docs/speed.md": {
        "overview-speed": overview_table, "speed": speed_table, "hierarchy-speed": hierarchy_speed_table,
        "label-speed": label_speed_table,
        "pixelcnn-speed": pixelcnn_speed_table,
        "sequence-speed": sequence_speed_table, "kvae-speed": kvae_speed_table, "kalman-speed": kalman_speed_table,
        "hidden-markov-speed": hidden_markov_speed_table, "walk-speed": walk_speed_table,
    },
}  # fmt: skip


def render(page: str, text: str) -> str:
    """The text of a page with every table between its markers written anew.

    Raises:
        ValueError: the markers of a table are missing.
    """
    for name, make in PAGES[page].items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        # By markers, not by headings: the prose around a table may change.
        before, found, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not (found and closed):
            raise ValueError(f"{page}: the markers {begin} and {end} are missing")
        text = f"{before}{begin}\n{make()}\n{end}{after}"
    return text


if __name__ == "__main__":
    for page in PAGES:
        path = ROOT / page
        path.write_text(render(page, path.read_text()))
