"""The page of the deck: no system is missing, and its numbers, checks and pictures are those that are stored."""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import deck  # noqa: E402
import table  # noqa: E402
from pairs import PAIRS  # noqa: E402
from rows import ROWS  # noqa: E402

PAGE = (ROOT / "docs" / "deck.md").read_text()


def test_every_pair_of_the_registry_is_in_one_section():
    named = [pair for system in deck.SYSTEMS.values() for pair in system.pairs]
    assert sorted(named) == sorted(PAIRS)
    for pair in PAIRS.values():
        for system in pair.systems:
            assert f"| {system} |" in PAGE


def test_the_page_has_the_sections_in_order_and_names_files_that_exist():
    assert re.findall(r"<!-- deck-([\w-]+):begin -->", PAGE) == [*deck.SYSTEMS]
    named = re.findall(r"`(tests/[\w/.]+)`|`python (examples/\w+\.py)", PAGE)
    assert len(named) > 20
    for test, example in named:
        assert (ROOT / (test or example)).exists(), test or example


def test_every_row_that_a_section_asks_for_is_planned_or_recorded():
    names = [row.name for row in ROWS] + [path.stem for path in (ROOT / "results").glob("*.json")]
    for begins in (begin for system in deck.SYSTEMS.values() for begin in system.records):
        assert any(name.startswith(begins) for name in names), begins


def record(name, **entries):
    return {"name": name, "command": f"run {name}"} | entries


def test_each_kind_of_record_has_its_convention():
    bound = record("mnist-5-ladder", figures={"L_1": -90.0, "L_1000": -85.25, "error": 0.23})
    assert deck.numbers(bound) == [
        "mnist-5-ladder", "-85.25 ± 0.23 nats (L_1000)",
        "-81.74 (L_5000, fine-tuned with 10 samples), reported, as quoted elsewhere", "`run mnist-5-ladder`",
    ]  # fmt: skip
    label = record("mnist-100-m2-0", figures={"test_error": 0.1234})
    assert deck.numbers(label)[1:3] == ["12.34 % test error", "11.97 ± 1.71, reported, unverified"]
    video = record("box-kvae-0", figures={"elbo": -5.0, "error": 0.1, "r2": 0.99, "pixels": {"12": {"smoothed": 2.0}}})
    assert deck.numbers(video)[1] == "ELBO -5.00 ± 0.10 nats a frame, R^2 of the position 0.990, smoothed 2.00 px"
    walk = record("walk-free-0", figures={"r2": {"place": 0.9951}, "errors": {"all": 0.012}, "ahead": 256})
    assert deck.numbers(walk)[1] == "R^2 of the place 0.9951, squared error 0.0120 over 256 steps"
    assert deck.numbers(record("box-kvae-0", figures=None)) == []


def test_a_section_shows_lines_checks_and_stored_pictures(tmp_path):
    def write(found):
        (tmp_path / f"{found['name']}.json").write_text(json.dumps(found))

    shown = deck.block("biva", table.pairs_table, tmp_path, tmp_path)
    assert "No row is recorded yet; `python tools/runs.py --run --only mnist-5-biva static-maps-biva`" in shown
    assert "pictures/" not in shown
    write(record("mnist-5-biva", figures={"L_1": -88.2, "L_1000": -83.7, "error": 0.2}))
    check = {"kind": "HMC", "rows": [{"verdict": "good", "gap": 0.1}, {"verdict": "bad", "gap": 2.1}]}
    write(record("calibration-biva", figures={"p_value": 0.004, "check": check}))
    (tmp_path / "anomaly-mnist.png").touch()
    shown = deck.block("biva", table.pairs_table, tmp_path, tmp_path)
    assert "| mnist-5-biva | -83.70 ± 0.20 nats (L_1000) |" in shown
    assert "beside the reference (HMC) 1 good, 1 bad of 2 data, KL(q ‖ p) 1.100 nats on average; " in shown
    assert "; calibration p = 0.004, fails at 1 %." in shown
    assert "](pictures/anomaly-mnist.png)" in shown
    write(record("calibration-biva", figures={"p_value": 0.4, "check": {"refused": "chains disagree"}}))
    shown = deck.block("biva", table.pairs_table, tmp_path, tmp_path)
    assert "own model: calibration p = 0.4, passes at 1 %; no reference: chains disagree." in shown
