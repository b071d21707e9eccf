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
from zoo.shipped.rescore import SAME, rescore
from zoo.shipped.shelf import Shelf
from zoo.shipped.subset import ARGUMENTS, entries_of, from_data

sys.path[:0] = [str(Path(__file__).resolve().parents[2] / "tools"), str(Path(__file__).parent)]

import ship  # noqa: E402
import small  # noqa: E402
from rows import labels, video_figures  # noqa: E402
from rows.row import Splits  # noqa: E402
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
    subset = ship.subset_of_record(images, 2)
    said = ship.ship(images | {"log_p_error": error}, tmp_path / "trained", tmp_path / "shipped", subset)
    config = json.loads((tmp_path / "shipped" / "config.json").read_text())
    assert config["about"] == said
    assert (said["stored"], said["value"], said["data"]) == (stored, images["log_p"], "digits")
    assert ("dtypes" in config) == (stored == "float16")
    # the rows are the first of those that the row was evaluated on
    at = Shelf(tmp_path)["shipped"]
    assert torch.equal(at.data()["x"], binarize(load("digits").test.shuffled(123), seed=123)[:2])
    assert rescore(at).verdict == SAME
    # a pair that ships already keeps what its first rounding moved
    again = ship.ship(images | {"log_p_error": 1.0}, at.folder, tmp_path / "again", subset)
    assert again["moved_by_half_precision"] == said["moved_by_half_precision"]


def test_a_row_of_another_pair_is_refused(images, tmp_path):
    with pytest.raises(SystemExit, match=r"mine: the row has .*, the pair in .*trained gives"):
        ship.ship(images | {"log_p": images["log_p"] + 1}, tmp_path / "trained", tmp_path / "shipped",
                  ship.subset_of_record(images, 2))  # fmt: skip
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
    with pytest.raises(SystemExit, match=r"tiny-vae: coins: no data set of zoo\.data gives its test rows"):
        ship.subset_of_row(record, row, loss.model, 5, None)
    subset = ship.subset_of_row(record, row, loss.model, 5, "those of coins")
    assert subset.arguments["x"].shape == (5, 6)
    said = ship.ship(record, tmp_path / "trained", tmp_path / "shipped", subset, ship.of_runner(record, row))
    assert rescore(Shelf(tmp_path)["shipped"]).verdict == SAME
    assert (said["value"], said["error"], said["stored"]) == (-3.0, 0.1, "float16")
    record["figures"] = found | {"bound": found["bound"] + 1}
    with pytest.raises(SystemExit, match="tiny-vae: the row has"):
        ship.ship(record, tmp_path / "trained", tmp_path / "shipped", subset, ship.of_runner(record, row))


def held_by(test):
    return replace(ROW, data=lambda: Splits(None, None, test))


def test_a_row_of_a_data_set_is_described_by_the_form_that_gives_its_rows():
    digits = load("digits")
    for form, test in (("bits", binarize(digits.test.images, seed=123)), ("images", digits.test.images)):
        row = replace(ROW, data=lambda test=test: Splits(None, None, test))
        subset = ship.subset_of_row(FACTS | {"data": f"digits, {form}"}, row, zoo.VAE(64, 2), 7, None)
        assert subset.data["form"] == form
        assert entries_of(from_data(subset.data)) == entries_of(subset.arguments)
        assert subset.picture == (8, 8)
    cadences = load("cadences").test
    row = replace(ROW, data=lambda: Splits(None, None, cadences))
    subset = ship.subset_of_row(FACTS | {"data": "cadences"}, row, zoo.STORN(88, 2), 3, None)
    assert subset.arguments.keys() == {"x", "mask"}
    # rows that are judged by labels or places hold them beside the data
    grey = labels.Held(digits.valid, digits.test)
    subset = ship.subset_of_row(FACTS | {"data": "digits, 100 labels"}, held_by(grey), zoo.M2(64, 2, 10), 7, None)
    assert subset.data["form"] == "bits"
    videos = video_figures.Held("box", cadences, cadences)
    subset = ship.subset_of_row(FACTS | {"data": "cadences"}, held_by(videos), zoo.STORN(88, 2), 3, None)
    assert subset.data["set"] == "cadences"
    pairs = replace(ROW, data=lambda: Splits(None, None, (torch.rand(9, 4), torch.rand(9, 3))))
    subset = ship.subset_of_row(FACTS | {"data": "mine"}, pairs, zoo.DMM(4, 2), 3, "mine")
    assert {name: t.shape for name, t in subset.arguments.items()} == {"x": (3, 4), "u": (3, 3)}


@pytest.mark.parametrize(
    ("terms", "may"), [("none stated for the music", False), ("none stated; MNIST's terms apply", True), ("MIT", True)]
)
def test_rows_ship_where_their_terms_allow_it(terms, may, images, tmp_path):
    subset = ship.subset_of_record(images, 2)._replace(terms=terms)
    ship.ship(images, tmp_path / "trained", tmp_path / "shipped", subset)
    assert (tmp_path / "shipped" / ARGUMENTS).exists() == may
    # those that do not ship are read from the data set
    assert rescore(Shelf(tmp_path)["shipped"]).verdict == SAME


def test_more_than_may_ship_is_refused(tmp_path):
    for name, size in (("shelf/one/a", 60), ("shelf/two/a", 30), ("made/a", 50)):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(bytes(size))
    made, shelf = tmp_path / "made", tmp_path / "shelf"
    with pytest.raises(SystemExit, match=r"three: with it 0\.0 MB would ship, of at most 0\.00014"):
        ship.place(made, shelf / "three", shelf, 140)
    # in the place of another, whose files no longer count
    ship.place(made, shelf / "one", shelf, 81)
    assert (shelf / "one" / "a").stat().st_size == 50


@pytest.mark.thorough
def test_a_small_pair_is_made_and_has_its_figure(tmp_path):
    small.make("iris-mixture", tmp_path)
    assert rescore(Shelf(tmp_path)["iris-mixture"]).verdict == SAME


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
    subset = ship.subset_of_record(row, 2)
    assert ship.ship(row, tmp_path / "trained", tmp_path / "shipped", subset)["value"] == found.a
    with pytest.raises(SystemExit, match=r"mine: evaluated as cadences test, cut to 40 frames, .*: not known here"):
        ship.ship(row | {"evaluated": "cadences test, cut to 40 frames"}, tmp_path / "trained", tmp_path / "shipped",
                  subset)  # fmt: skip
