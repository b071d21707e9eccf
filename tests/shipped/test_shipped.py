"""Pairs that ship: listed, checked byte by byte, scored again, new_data from; and all that a folder may have wrong."""

import math
import shutil
from pathlib import Path

import pytest
import torch
from pyro import distributions as dist
from tiers import needs_files, thorough_but
from torch import nn

import guides
import zoo
import zoo.__main__
from zoo.parts.conditionals import FlowPrior
from zoo.parts.recorded.files import json_of
from zoo.shipped import shelf as shelves
from zoo.shipped.draws import new_data, plot_beside, reconstructed
from zoo.shipped.rescore import AGREES, DIFFERS, REFUSED, SAME, SKIPPED, Rescored, report, rescore, scored
from zoo.shipped.shelf import FORMAT, SCORE, Shelf
from zoo.shipped.subset import ARGUMENTS, entries_of, from_data, keep_subset, subset_of
from zoo.shipped.sums import SUMS, check_sums, seal

DATA = {"set": "digits", "split": "test", "form": "bits", "seed": 1, "rows": [0, 5, 7, 9]}


def made(folder, *, kept=True, data=DATA, **changed):
    """A folder of a VAE on digits that ships, its figure recorded as `tools/ship.py` does."""
    torch.manual_seed(0)
    model = zoo.VAE(64, 2, (8,))
    guide = guides.Amortized(model, hidden=(8,))
    zoo.save_pair(folder, model, guide, about={"name": folder.name, "data": "digits"})
    arguments = from_data(DATA)
    found = scored(model, guide, arguments, 20, 3)
    facts = {
        "format": FORMAT, "value": found.mean, "monte_carlo_error": found.monte_carlo_error,
        "error": found.standard_error, "unit": "nats per datum", "num_particles": 20, "seed": 3, "data": data,
        "arguments": entries_of(arguments), "picture": [8, 8],
    }  # fmt: skip
    if kept:
        keep_subset(folder, arguments)
    (folder / SCORE).write_bytes(json_of(facts | changed))
    seal(folder)
    return folder


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return made(tmp_path_factory.mktemp("weights") / "tiny")


@pytest.fixture
def folder(original, tmp_path):
    """A copy that a test may damage."""
    return Path(shutil.copytree(original, tmp_path / "tiny"))


def entry(folder):
    return Shelf(folder.parent)[folder.name]


# --- names and lists -------------------------------------------------------------------------------------------------


def test_a_pair_by_its_name_is_the_one_that_was_saved(original, monkeypatch):
    monkeypatch.setattr(shelves, "WEIGHTS", original.parent)
    model, guide = zoo.pretrained("tiny")
    torch.manual_seed(0)
    assert torch.equal(model.decoder[0].weight, zoo.VAE(64, 2, (8,)).decoder[0].weight)
    assert guide.model is model
    assert [model.training, guide.training] == [False, False]
    assert list(zoo.pretrained()) == ["tiny"]
    assert "missing" not in zoo.pretrained()


def test_the_list_says_pair_data_and_figure(folder):
    made(folder.parent / "another")
    (folder.parent / "cache").mkdir()
    (folder / SCORE).write_bytes(b"{}")
    head, another, tiny = repr(Shelf(folder.parent)).splitlines()
    assert head.split() == ["name", "pair", "data", "figure", "on", "its", "fixed", "rows"]
    assert another.split()[:5] == ["another", "VAE", "+", "Amortized(Diagonal)", "digits"]
    assert another.endswith("nats per datum, 4 rows")
    # a list shows the others, though one folder is damaged
    assert tiny.startswith("tiny")
    assert "changed since it was sealed" in tiny


def test_an_unknown_name_lists_the_names_the_closest_first(folder):
    for name in ("mnist-long", "tin"):
        shutil.copytree(folder, folder.parent / name)
    with pytest.raises(ValueError, match="no pair 'tyny' ships; there are, the closest first, tiny, tin, mnist-long"):
        Shelf(folder.parent)["tyny"]


# --- folders that are wrong ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["README.md", "config.json", "model.safetensors", SCORE, ARGUMENTS])
def test_a_changed_byte_is_named(name, folder):
    at = entry(folder)
    at.load()
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"tiny/{name}: changed since it was sealed: expected sha256 \w+ by {SUMS}"):
        at.load()
    assert rescore(entry(folder)).verdict == REFUSED


def test_a_missing_file_is_named(folder):
    (folder / SCORE).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{SCORE}: there is no such file, and {SUMS} lists it"):
        entry(folder).load()


def test_damaged_sums_are_named(folder):
    sums = (folder / SUMS).read_text()
    (folder / SUMS).write_text(sums.replace("  ", " ", 1))
    with pytest.raises(ValueError, match=rf"{SUMS}: line 1: expected a sha256 and a file's name, found '\w+ README"):
        entry(folder).load()
    (folder / SUMS).write_text("".join(line for line in sums.splitlines(True) if SCORE not in line))
    with pytest.raises(ValueError, match=rf"{SUMS}: lists no {SCORE}"):
        entry(folder).load()
    (folder / SUMS).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{SUMS}: there is no such file; expected the folder of a pair"):
        check_sums(folder)


@pytest.mark.parametrize("newer", [FORMAT + 1, "2", None])
def test_a_newer_format_is_named(newer, tmp_path):
    with pytest.raises(ValueError, match=f"format: expected at most {FORMAT}, found {newer!r}: written by a newer zoo"):
        entry(made(tmp_path / "tiny", format=newer)).load()


# --- the rows --------------------------------------------------------------------------------------------------------


def test_rows_that_ship_are_those_of_their_data_set(original, folder):
    kept = entry(original).data()
    (folder / ARGUMENTS).unlink()
    assert kept.keys() == {"x"}
    assert torch.equal(kept["x"], subset_of(folder, entry(original).score)["x"])
    assert kept["x"].dtype == torch.float32


@pytest.mark.parametrize("form", ["images", "levels"])
def test_forms_of_images(form):
    digits = zoo.data.load("digits").test.shuffled(4)
    x = from_data({"set": "digits", "split": "test", "form": form, "shuffled": 4, "rows": [2, 1]})["x"]
    assert torch.equal(x, digits.images[[2, 1]] if form == "images" else digits.levels[[2, 1]].float())


def test_sequences_are_cut_and_masked():
    test = zoo.data.load("cadences").test
    found = from_data({"set": "cadences", "split": "test", "rows": [0, 3, 4]})
    lengths = test.lengths[[0, 3, 4]].tolist()
    assert found["x"].shape == (3, max(lengths), 88)
    assert found["mask"].sum(-1).tolist() == lengths
    cut = from_data({"set": "cadences", "split": "test", "rows": [0, 1], "cut": 5})
    assert (cut["x"].shape, cut.keys()) == ((2, 5, 88), {"x"})


def test_arguments_come_back_in_their_own_dtype(tmp_path):
    given = {"x": torch.tensor([[0.0, 1.0]]), "u": torch.tensor([[0.25]]).double(), "mask": torch.tensor([True])}
    keep_subset(tmp_path, given)
    found = subset_of(tmp_path, {"arguments": entries_of(given)})
    assert {name: t.dtype for name, t in found.items()} == {name: t.dtype for name, t in given.items()}
    assert all(torch.equal(found[name], given[name]) for name in given)


def test_rows_of_a_script_have_no_data_set(tmp_path):
    with pytest.raises(ValueError, match=r"the rows are those of a room, which no data set of zoo\.data has"):
        from_data({"source": "a room"})
    # such a folder is refused, and not taken for one whose data are not there
    assert rescore(entry(made(tmp_path / "tiny", kept=False, data={"source": "a room"}))).verdict == REFUSED


def test_other_rows_than_those_that_were_scored(tmp_path):
    at = entry(made(tmp_path / "tiny", kept=False, data=DATA | {"rows": [0, 5, 7, 8]}))
    with pytest.raises(ValueError, match=r"the data set 'digits': x: expected sha256 .*: other rows than the pair was"):
        at.data()
    with pytest.raises(ValueError, match="has no argument 'u', on which the pair was scored"):
        subset_of(at.folder, at.score | {"arguments": {"u": {}}})


def test_data_that_are_not_there_are_asked_for_and_skipped(tmp_path, monkeypatch, capsys):
    def absent(name):
        raise FileNotFoundError(f"{name}.npz was not found; set ZOO_DATA to a folder that has it")

    made(tmp_path / "tiny", kept=False)
    monkeypatch.setattr("zoo.shipped.subset.load", absent)
    assert zoo.__main__.main(["--all"], Shelf(tmp_path)) == 0
    said = capsys.readouterr().out
    assert "1 skipped" in said
    assert "tiny, skipped: digits.npz was not found; set ZOO_DATA" in said


# --- scored again ----------------------------------------------------------------------------------------------------


def test_the_same_draws_give_the_same_figure(original):
    state = torch.get_rng_state()
    found = rescore(entry(original))
    assert found.verdict == SAME
    assert abs(found.found - found.recorded) <= found.rounding
    assert found.rounding < 0.1 * found.recorded_error
    assert torch.equal(torch.get_rng_state(), state)


def test_other_draws_agree_and_another_figure_differs(original, tmp_path):
    """Ten other seeds: each fails once in 16,000 by its Monte Carlo errors."""
    at = entry(original)
    model, guide = at.load()
    for seed in range(10):
        found = scored(model, guide, at.data(), 20, seed)
        other = Rescored("tiny", at.score["value"], at.score["monte_carlo_error"], found.mean, found.monte_carlo_error)
        assert other.verdict in (SAME, AGREES)
    value = at.score["value"] + 2 * rescore(at).allowed
    wrong = rescore(entry(made(tmp_path / "tiny", value=value)))
    assert wrong.verdict == DIFFERS
    assert "1 DIFFERS" in report([wrong])


def test_verdicts():
    at = Rescored("it", -100.0, 0.03, -100.0, 0.04, precision=2.0**-24)
    assert math.isclose(at.allowed, 4 * 0.05 + 1000 * 2.0**-24 * 101)
    verdicts = {found: Rescored("it", -100.0, 0.03, found, 0.04, 2.0**-24).verdict for found in (-100.001, -100.19)}
    assert list(verdicts.values()) == [SAME, AGREES]
    # a figure that is not a number is no figure
    assert [Rescored("it", -100.0, 0.03, found, 0.04).verdict for found in (-100.3, math.nan)] == [DIFFERS] * 2
    assert [Rescored("it", missing="x").verdict, Rescored("it", fault="x").verdict] == [SKIPPED, REFUSED]


# --- from a shell ----------------------------------------------------------------------------------------------------


def test_a_shell_lists_scores_and_draws(original, tmp_path, capsys):
    shelf = Shelf(original.parent)
    assert zoo.__main__.main([], shelf) == 0
    assert "VAE + Amortized(Diagonal)" in capsys.readouterr().out
    picture = tmp_path / "new" / "tiny.png"
    assert zoo.__main__.main(["tiny", "--num", "3", "--out", str(picture)], shelf) == 0
    said = capsys.readouterr().out
    assert "1 same" in said
    assert "3 draws of shape (64,)" in said
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert zoo.__main__.main(["tiny"], shelf) == 0


def test_a_shell_says_which_folder_is_wrong_and_scores_the_others(folder, capsys):
    shutil.copytree(folder, folder.parent / "whole")
    (folder / SCORE).write_bytes(b"{}")
    assert zoo.__main__.main(["--all"], Shelf(folder.parent)) == 1
    said = capsys.readouterr().out
    assert "1 same, 1 REFUSED" in said
    assert "tiny, REFUSED:" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("tyny", "no pair 'tyny' ships"),
        ("tiny --num 0", "--num: expected at least 1, got 0"),
        ("--out a.png", "--out: expected one name, got 0"),
        ("tiny --all", "--all: expected no names beside it"),
    ],
)
def test_wrong_words_are_named(words, message, original, capsys):
    with pytest.raises(SystemExit) as ended:
        zoo.__main__.main(words.split(), Shelf(original.parent))
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_draws_of_sequences_go_on_from_their_own():
    torch.manual_seed(0)
    model = zoo.STORN(3, 2, recurrent=4, hidden=(4,))
    arguments = {"x": torch.zeros(5, 6, 3), "mask": torch.ones(5, 6, dtype=torch.bool)}
    new = new_data(model, arguments, 4, 0)
    assert new.shape == (4, 6, 3)
    # teacher-forced draws would see the zeros of the data alone, and be the same for every change of x
    assert torch.equal(new, new_data(model, arguments | {"x": torch.ones(5, 6, 3)}, 4, 0))


def test_reconstructions_are_means_where_there_are_some_and_none_without_latents(original):
    model, guide = entry(original).load()
    x = entry(original).data()["x"]
    found = reconstructed(model, guide, {"x": x}, 2, 0)
    assert found.shape == (2, 64)
    # means of bits are no bits
    assert ((found > 0) & (found < 1)).all()
    flow = zoo.Density(4, FlowPrior(4))
    assert reconstructed(flow, guides.Empty(flow), {"x": torch.randn(3, 4)}, 2, 0) is None
    without = zoo.VAE(4, 2, (8,), likelihood=Meanless)
    found = reconstructed(without, guides.Amortized(without, hidden=(8,)), {"x": torch.randn(3, 4)}, 2, 0)
    assert found.shape == (2, 4)


class Meanless(nn.Module):
    """A likelihood whose mean torch does not know."""

    def __init__(self, width, data_dim):
        super().__init__()
        self.layer = nn.Linear(width, data_dim)

    def forward(self, h):
        base = dist.Normal(self.layer(h), 1.0).to_event(1)
        return dist.TransformedDistribution(base, dist.transforms.TanhTransform())


def test_pictures_of_images_frames_series_and_vectors():
    images, frames = torch.rand(3, 12), torch.rand(3, 5, 12)
    parts = {"data": images, "decoded": images, "draws": images}
    assert [ax.get_ylabel() for ax in plot_beside(parts, (3, 4)).axes] == list(parts)
    assert len(plot_beside({"data": frames, "draws": frames}, (3, 4)).axes) == 2
    assert len(plot_beside({"data": frames, "draws": frames}).axes[0].lines) == 6
    three, two = (plot_beside(some).axes[0].lines for some in (parts, {"data": images, "draws": images}))
    assert [len(three), len(two)] == [3, 2]
    assert three[-1].get_color() == two[-1].get_color()


# --- those that ship -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", thorough_but(["nile-states"], list(Shelf())))
def test_a_pair_that_ships_has_its_figure_and_draws(name):
    at = Shelf()[name]
    found = rescore(at)
    assert found.verdict in (SAME, AGREES, SKIPPED), report([found])
    if not found.missing:
        x = at.data()["x"]
        new = new_data(at.load()[0], at.data(), 4, 0)
        assert new.shape == (min(4, len(x)), *x.shape[1:])


def described():
    """Pairs whose rows ship and are those of a data set, as values of a parameter."""
    scores = {name: at.score for name, at in Shelf().items() if (at.folder / ARGUMENTS).exists()}
    of_sets = {name: score["data"]["set"] for name, score in scores.items() if "set" in score["data"]}
    return [pytest.param(name, marks=[] if of_sets[name] in ("digits", "nile") else needs_files) for name in of_sets]


@pytest.mark.thorough
@pytest.mark.parametrize("name", described())
def test_rows_that_ship_are_those_that_their_description_names(name):
    at = Shelf()[name]
    assert entries_of(from_data(at.score["data"])) == at.score["arguments"]
