"""The tool that makes a trained pair ready to ship: its figure is found again, and half precision must not move it."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import guides
import zoo
from zoo.data import binarize, load
from zoo.infer import log_likelihood, sequence_log_likelihood

sys.path[:0] = [str(Path(__file__).resolve().parents[2] / "tools"), str(Path(__file__).parent)]

import ship  # noqa: E402
from tiny_rows import ROW  # noqa: E402

FACTS = {"name": "mine", "command": "python", "note": "", "seed": 0, "versions": {}, "date": "today"}


@pytest.fixture
def images(tmp_path):
    torch.manual_seed(0)
    model = zoo.VAE(64, 2, (8,))
    guide = guides.Amortized(model, hidden=(8,))
    zoo.save_pair(tmp_path / "trained", model, guide)
    x = binarize(load("digits").test.shuffled(123)[:3], seed=123)
    found = log_likelihood(model, guide, x, num_particles=5000, seed=123)
    errors = {"log_p_error": found.standard_error, "monte_carlo_error": found.monte_carlo_error}
    return FACTS | {"data": "digits", "num_test": 3, "log_p": found.mean} | errors


@pytest.mark.parametrize(("error", "stored"), [(1.0, "float16"), (1e-12, "float32")])
def test_half_precision_where_it_moves_the_figure_by_less_than_its_error(error, stored, images, tmp_path):
    said = ship.ship(images | {"log_p_error": error}, tmp_path / "trained", tmp_path / "shipped")
    config = json.loads((tmp_path / "shipped" / "config.json").read_text())
    assert config["about"] == said
    assert (said["stored"], said["value"], said["data"]) == (stored, images["log_p"], "digits")
    assert ("dtypes" in config) == (stored == "float16")


def test_a_row_of_another_pair_is_refused(images, tmp_path):
    with pytest.raises(SystemExit, match=r"mine: the row has .*, the pair in .*trained gives"):
        ship.ship(images | {"log_p": images["log_p"] + 1}, tmp_path / "trained", tmp_path / "shipped")
    assert not (tmp_path / "shipped").exists()


def test_a_row_of_the_runner_is_told_by_its_check(tmp_path):
    splits = ROW.data()
    loss = ROW.build(splits)
    zoo.save_pair(tmp_path / "trained", loss.model, loss.guide)
    with pytest.raises(SystemExit, match="tiny-vae: the row states no check"):
        ship.of_runner(FACTS, ROW)

    def bound(model, guide, splits):
        return log_likelihood(model, guide, splits.test, num_particles=1, seed=0).elbo.mean().item()

    row = replace(ROW, figure="log_p", check=("bound", bound))
    found = {"log_p": -3.0, "error": 0.1, "bound": bound(loss.model, loss.guide, splits), "num_test": 50}
    record = FACTS | {"name": row.name, "data": "coins", "figures": found}
    said = ship.ship(record, tmp_path / "trained", tmp_path / "shipped", ship.of_runner(record, row))
    assert (said["value"], said["error"], said["stored"]) == (-3.0, 0.1, "float16")
    record["figures"] = found | {"bound": found["bound"] + 1}
    with pytest.raises(SystemExit, match="tiny-vae: the row has"):
        ship.ship(record, tmp_path / "trained", tmp_path / "shipped", ship.of_runner(record, row))


def test_sequences_by_the_convention_that_is_known(tmp_path):
    torch.manual_seed(0)
    model = zoo.STORN(88, 2, recurrent=4, hidden=(4,))
    guide = guides.Filter(model, hidden=(4,), recurrent=0)
    zoo.save_pair(tmp_path / "trained", model, guide)
    test = load("cadences").test
    found = sequence_log_likelihood(
        model, guide, test.values, None, test.mask, data="cadences", num_particles=2, seed=123
    )
    row = FACTS | {"data": "cadences", "evaluated": "cadences test (generated)", "num_particles": 2} | found.row()
    assert ship.ship(row, tmp_path / "trained", tmp_path / "shipped")["value"] == found.a
    with pytest.raises(SystemExit, match=r"mine: evaluated as cadences test, cut to 40 frames, .*: not known here"):
        ship.ship(row | {"evaluated": "cadences test, cut to 40 frames"}, tmp_path / "trained", tmp_path / "shipped")
