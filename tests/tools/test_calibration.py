"""Rows and table of calibration."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from tiers import thorough_but

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

from calibration_tables import NONE, calibrated_sentence, calibration_table
from rows import ROWS, calibration

EXACT = ("ppca-exact", "exact")


def record(name, p, recipe=0):
    failing = [] if p > 0.01 else ["z[1]"]
    return {
        "name": f"calibration-{name}", "system": name, "steps": 3000, "cpu_minutes": 1.25, "recipe": recipe,
        "figures": {"p_value": p, "p_values": {"z[0]": 0.5, "z[1]": p / 2}, "failing": failing, "num_data": 2000},
    }  # fmt: skip


def write(folder, *found):
    for one in found:
        (folder / f"{one['name']}.json").write_text(json.dumps(one))


def test_every_row_freezes_its_model_and_trains_its_guide(monkeypatch):
    monkeypatch.setattr(calibration, "NUM_TRAIN", 6)
    monkeypatch.setattr(calibration, "NUM_DATA", 4)
    monkeypatch.setattr(calibration, "NUM_DRAWS", 3)
    assert all(any(row is one for one in ROWS) for row in calibration.ROWS)
    for row in calibration.ROWS:
        splits = row.data()
        loss = row.build(splits)
        assert len(splits.train) == 6, row.name
        assert not any(p.requires_grad for p in loss.model.parameters()), row.name
        assert any(p.requires_grad for p in loss.guide.parameters()), row.name
        assert torch.isfinite(loss(splits.train)), row.name
    figures = row.evaluate(loss.model, loss.guide, splits)
    assert set(figures["p_values"]) == {"z[0]", "z[1]", "log p(x | z)", "distance"}
    assert {row["verdict"] for row in figures["check"]["rows"]} <= {"good", "fair", "bad"}


@pytest.mark.parametrize(("name", "kind"), thorough_but([EXACT], [EXACT, ("vae", "HMC")]))
def test_a_guide_is_held_against_the_first_reference_that_serves(name, kind, monkeypatch):
    monkeypatch.setattr(calibration, "HMC_SECONDS", 600)
    model, guide, x = calibration.registered(name)
    found = calibration.checked(model, guide, x)
    assert found["kind"] == kind
    assert len(found["rows"]) == 1
    if kind == "exact":
        assert found["rows"][0]["verdict"] == "good"


@pytest.mark.parametrize(("name", "seconds", "words"), [("hmm", 600, "no continuous latent"), ("biva", 0.01, "budget")])
def test_a_model_without_a_reference_says_why(name, seconds, words, monkeypatch):
    monkeypatch.setattr(calibration, "HMC_SECONDS", seconds)
    assert words in calibration.checked(*calibration.registered(name))["refused"]


def test_table_has_verdicts_and_the_recipe_comes_last(tmp_path):
    assert calibration_table(tmp_path) == NONE
    assert calibrated_sentence(tmp_path) == NONE
    write(tmp_path, record("two-iaf", 0.3, 1), record("vae", 1e-5))
    lines = calibration_table(tmp_path).splitlines()
    assert [part.strip() for part in lines[2].split("|")[1:6]] == ["vae", "3,000", "1.2 min", "1e-05", "fails"]
    assert [part.strip() for part in lines[3].split("|")[1:6]] == ["two-iaf", "3,000", "1.2 min", "0.3", "passes"]


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ([("two-a", 0.001, 1), ("two-b", 0.002, 2)], "Of 2 trained guides .* none passes at 1 % with 2,000 data."),
        ([("two-a", 0.001, 1), ("two-b", 0.2, 2), ("two-c", 0.4, 2)], r"passes .* is two-b \(p = 0.2\)."),
    ],
)
def test_sentence_names_the_first_that_passes(tmp_path, found, words):
    write(tmp_path, *(record(*one) for one in found))
    assert re.search(words, calibrated_sentence(tmp_path))
