"""Rows of videos of a ball: their data, pairs and figures, their tables and their pictures."""

import json
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

import guides
import zoo
from zoo.data.simulated.balls import ROOMS
from zoo.data.simulated.balls import videos as simulated
from zoo.data.simulated.tracking import planning_mask

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

import table
import video_pictures
import video_tables
from rows import ROWS, video_figures, videos
from rows.row import Splits
from rows.video_figures import Held


def splits(room="box", gaps=False):
    train, valid, test = (simulated(ROOMS[room], num, seed=seed) for seed, num in enumerate((40, 12, 15)))
    return Splits(videos.Gaps(train) if gaps else train, valid, Held(room, valid, test))


def components(room="box"):
    found = splits(room)
    basis = videos.components_of(found.train, 6)
    return Splits(basis.of(found.train.values), basis.of(found.validation.values), (found.test, basis))


def row_of(name):
    return next(row for row in ROWS if row.name == name)


def small_kvae(num_components=3, control_dim=0):
    torch.manual_seed(0)
    dynamics = zoo.MixedDynamics(2, 4, control_dim, num_components=num_components, recurrent=6)
    likelihood = zoo.parts.conditionals.Bernoulli(8, 1024)
    model = zoo.KVAE(dynamics, zoo.parts.networks.mlp(2, (8,)), likelihood, 1024)
    encoder = zoo.parts.networks.mlp(1024, (8,))
    return model, guides.KalmanSmoother(model, encoder=encoder, context=8, family=guides.BoundedDiagonal)


def test_rows_are_those_of_the_issue():
    names = [row.name for row in ROWS if "box" in row.name or row.name.startswith(("pong", "polygon"))]
    assert names == [row.name for row in videos.ROWS]
    assert len(set(names)) == len(names)
    for room in videos.SETS:
        assert row_of(f"{room}-kvae-0").minutes == 60
        for other in ("kvae_one", "lgssm", "dmm", "srnn"):
            assert row_of(f"{room}-{other}").minutes == 10
    assert [row_of(f"box-kvae-{seed}").seed for seed in range(3)] == [0, 1, 2]
    assert row_of("box-kvae_paper").after == row_of("box-kvae_paper_begun").name


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["box-dmm", "pong-lgssm", "box_pushed-kvae", "box_pushed-kvae_blind"])
def test_rows_have_the_videos_that_they_say(name):
    row = row_of(name)
    data = row.data()
    assert [len(part) for part in data[:2]] == [5000, 500]
    assert row.planned(data) == row.steps
    held = data.test[0] if "lgssm" in name else data.test
    assert (held.room, len(held.test)) == (name.partition("-")[0], 1000)
    if "pushed" in name:
        assert (data.train.controls is None) == (held.test.controls is None) == ("blind" in name)


def test_half_of_the_videos_have_a_gap():
    rows = splits(gaps=True).train
    x, u, mask = rows.batch(torch.arange(40), torch.Generator().manual_seed(0))
    assert torch.equal(x, rows.sequences.values)
    assert u is None
    with_gap = ~mask.all(1)
    assert 10 < with_gap.sum() < 30
    assert mask[:, :3].all()
    assert (~mask).sum(1).max() <= 12
    # one gap each: from seen to missing once
    assert ((~mask[:, 1:] & mask[:, :-1]).sum(1) == with_gap).all()


SYSTEMS = ["box-kvae-0", "box-kvae_one", "box-dmm", "box-srnn", "box-kvae_paper_begun", "box-kvae_convolutional",
           "box_pushed-kvae"]  # fmt: skip
FIGURES = {"elbo", "error", "r2", "pixels", "hamming", "num_test"}


@pytest.fixture
def quick_start(monkeypatch):
    """Two steps in place of hundreds, of the start at components and of the dynamics alone."""
    for name in ("start_at_components", "begin_dynamics"):
        begin = getattr(videos, name)
        monkeypatch.setattr(videos, name, partial(begin, steps=2))


@pytest.mark.thorough
@pytest.mark.parametrize("name", SYSTEMS)
def test_a_row_has_the_figures_that_it_names(name, quick_start):
    row = row_of(name)
    data = splits(name.partition("-")[0], gaps=name in ("box-dmm", "box-srnn"))
    torch.manual_seed(0)
    loss = row.build(data)
    loss(*data.train.batch(torch.arange(32), torch.Generator().manual_seed(0))).backward()
    trained = {name for name, p in loss.named_parameters() if p.requires_grad}
    assert {name for name, p in loss.named_parameters() if p.grad is not None} == trained
    assert any("alpha" in name for name in trained) == ("kvae" in name and "begun" not in name)
    figures = row.evaluate(loss.model, loss.guide, data)
    assert figures.keys() == FIGURES
    name, check = row.check
    assert check(loss.model, loss.guide, data) == figures[name]
    assert figures["pixels"].keys() == figures["hamming"].keys() == {"4", "8", "12"}
    assert figures["pixels"]["12"].keys() - {"encoder"} == {"smoothed", "filtered", "straight line"}
    assert ("encoder" in figures["pixels"]["4"]) == ("kvae" in row.name)
    seen = row.look(loss.model, loss.guide, data)
    assert seen["pixels"].keys() == figures["pixels"]["12"].keys()
    assert seen["r2"] <= 1


def test_a_system_that_knows_the_frames_has_the_error_of_the_pictures(quick_start):
    """Its pictures are the true frames, its latents a turned room."""
    held = splits().test
    test = held.test
    turned = test.padded(test.truth)[..., :2] @ torch.tensor([[1.0, 2.0], [0.5, -1.0]])
    reading = video_figures.Reading(
        lambda model, guide, x, u, mask: {"smoothed": x, "filtered": 0.4 * x}, lambda model, guide, x, u: turned
    )
    figures = video_figures.figures_of(reading, None, None, Splits(None, None, held))
    assert figures["r2"] == pytest.approx(1)
    for gap in ("4", "8", "12"):
        assert figures["pixels"][gap]["smoothed"] < 0.2
        assert figures["pixels"][gap]["straight line"] > 0.5
        assert figures["hamming"][gap]["smoothed"] == 0
        assert figures["hamming"][gap]["filtered"] == pytest.approx((112 + 28.3) / 1024, abs=0.002)
    assert figures["hamming"]["4"]["paper's baseline"] == figures["hamming"]["12"]["paper's baseline"]


def test_components_give_the_frames_back():
    frames, basis = splits().train.values, videos.components_of(splits().train, 6)
    code = basis.of(frames)
    assert code.shape == (40, 20, 6)
    torch.testing.assert_close(basis.of(basis.frames(code)), code, atol=1e-4, rtol=1e-4)
    assert (frames - basis.frames(code)).square().mean() < (frames - basis.mean).square().mean()


def test_an_lgssm_of_components_fills_gaps_by_its_own_moments():
    row, data = row_of("box-lgssm"), components()
    torch.manual_seed(0)
    loss = videos.linear(data, latent_dim=3)
    loss(data.train).backward()
    figures = row.evaluate(loss.model, loss.guide, data)
    assert figures.keys() == FIGURES - {"elbo", "error"} | {row.figure}
    held, basis = data.test
    x, mask = held.test.values, planning_mask(15, 8)
    pictures = video_figures.component_reading(basis).pictures(loss.model, None, x, None, mask)
    filled = loss.model.impute(basis.of(x), mask)
    torch.testing.assert_close(pictures["smoothed"][~mask], basis.frames(filled)[~mask], atol=1e-4, rtol=1e-4)
    ahead = loss.model.forecast(basis.of(x)[:, :4], 8)
    torch.testing.assert_close(
        pictures["filtered"][:, 4:12], basis.frames(ahead.observation_means), atol=1e-4, rtol=1e-4
    )


def test_a_deep_chain_fills_a_gap_from_both_sides_or_from_the_frames_before():
    torch.manual_seed(0)
    loss = videos.deep_chain(splits(gaps=True), recurrent=True, steps=10)
    x, mask = splits().test.test.values[:3], planning_mask(3, 8)
    other = x.clone()
    other[:, 12:] = x[:, 12:].flip(0)
    found = []
    for value in (x, other):
        torch.manual_seed(1)
        pictures = video_figures.state_space_pictures(loss.model, loss.guide, value, None, mask)
        found.append(pictures)
        assert pictures["smoothed"].shape == x.shape
        assert 0 <= pictures["smoothed"].min() <= pictures["smoothed"].max() <= 1
    assert not torch.equal(found[0]["smoothed"], found[1]["smoothed"])
    assert torch.equal(found[0]["filtered"], found[1]["filtered"])


def test_the_pair_over_both_latents_has_the_parameters_of_the_marginal_one():
    model, guide = small_kvae()
    latent, smoother = videos.in_both_forms(model, guide)
    x = splits().test.test.values[:4]
    torch.manual_seed(0)
    codes = guide(x)
    torch.manual_seed(0)
    # a is drawn first, from the same stream
    _, a = latent.parts(smoother(x))
    torch.testing.assert_close(a, codes)
    assert latent.sample_forecast(x, 30, 1, smoother).x.shape == (1, 4, 30, 1024)
    assert {id(p) for p in latent.parameters()} == {id(p) for p in model.parameters()}
    assert {id(p) for p in smoother.parameters()} == {id(p) for p in guide.parameters()}


# Tables and pictures

GAP = {"smoothed": 1.0, "filtered": 2.0, "encoder": 0.25, "straight line": 6.5}
SHARE = {"smoothed": 0.01, "filtered": 0.02, "encoder": 0.001, "walls only": 0.0276, "paper's baseline": 0.055}
RECORD = {
    "name": "box-kvae-0", "system": videos.KVAE_SYSTEM, "data": "box", "ended": "plan", "epochs": 380,
    "figures": {"elbo": -5.5, "error": 0.01, "r2": 0.991, "num_test": 1000,
                "pixels": dict.fromkeys(("4", "8", "12"), GAP), "hamming": dict.fromkeys(("4", "8", "12"), SHARE)},
    "steps": 60_000, "planned_steps": 60_000, "cpu_minutes": 55.2, "note": "", "seed": 0,
    "command": "python tools/runs.py --run --only box-kvae-0", "versions": {"torch": "2.10"}, "hardware": "2 abaci",
}  # fmt: skip


def record(folder, name, **changes):
    figures = RECORD["figures"] | changes.pop("figures", {})
    (folder / f"{name}.json").write_text(json.dumps(RECORD | {"name": name, "figures": figures} | changes))


def test_sets_are_tabled_with_the_median_of_seeds_and_what_needs_no_model(tmp_path):
    assert table.videos_table(tmp_path).startswith("No row is recorded yet")
    for seed, bound in enumerate((-5.5, -6.5, -5.75)):
        record(tmp_path, f"box-kvae-{seed}", figures={"elbo": bound, "r2": 0.991 + 0.001 * seed})
    linear = {name: value for name, value in GAP.items() if name != "encoder"}
    gaps = dict.fromkeys(("4", "8", "12"), linear)
    record(tmp_path, "box-lgssm", system="LGSSM", figures={"pixels": gaps}, ended="budget", steps=30_000,
           note="a remark")  # fmt: skip
    found = json.loads((tmp_path / "box-lgssm.json").read_text())
    del found["figures"]["elbo"], found["figures"]["error"]
    (tmp_path / "box-lgssm.json").write_text(json.dumps(found))
    record(tmp_path, "pong-kvae-0", data="pong")
    (tmp_path / "t.json").write_text(json.dumps(RECORD | {"name": "in training", "figures": None}))
    shown = table.videos_table(tmp_path)
    for part in (
        "**box**: 1,000 test videos of 20 frames.",
        "**pong**",
        "| median of 3 seeds | KVAE + KalmanSmoother | -5.75 ± 0.01 | 0.992 | 1.00 / 1.00 / 1.00 | 2.00 / 2.00 / 2.00",
        "| box-kvae-1 | KVAE + KalmanSmoother | -6.50 ± 0.01 |",
        "| box-lgssm | LGSSM | – | 0.991 | 1.00 / 1.00 / 1.00 | 2.00 / 2.00 / 2.00 | – | 0.0100 / 0.0100 / 0.0100 |",
        "| – | straight line | – | – | 6.50 / 6.50 / 6.50 |",
        "| – | walls only | – | – | – | – | – | 0.0276 / 0.0276 / 0.0276 |",
        "380, 50% of the plan",
        "- box-lgssm: a remark",
        "2 abaci; torch 2.10; seed 0.",
    ):
        assert part in shown, part
    assert shown.index("| box-kvae-0 |") < shown.index("| box-kvae-1 |") < shown.index("| box-lgssm |")
    assert "in training" not in shown
    assert table.hierarchies_table(tmp_path).startswith("No row"), "another table"


@pytest.mark.thorough
def test_pictures_are_made_of_the_rows_that_are_here(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["video_pictures.py", "--results", str(tmp_path / "results"), "--out",
                                      str(tmp_path / "out")])  # fmt: skip
    video_pictures.main()
    assert capsys.readouterr().out == ""
    (tmp_path / "results").mkdir()
    torch.manual_seed(0)
    losses = {"box-lgssm": videos.linear(components()), "box-dmm": row_of("box-dmm").build(splits(gaps=True))}
    # the picture has the components of the set itself
    monkeypatch.setattr(video_pictures, "components_of", lambda train: components().test[1])
    pairs = {name: (loss.model, loss.guide) for name, loss in losses.items()}
    pairs |= {"box-kvae-0": small_kvae(), "box-kvae_one": small_kvae(1)}
    for name, pair in pairs.items():
        zoo.save_pair(tmp_path / "cache" / "pyro-latent-zoo" / "runs" / name, *pair)
        record(tmp_path / "results", name, system=row_of(name).system)
    # a row that is done, and whose folder is not here
    record(tmp_path / "results", "box-srnn", system="SRNN + Smoother")
    video_pictures.main()
    made = {path.stem for path in (tmp_path / "out").iterdir()}
    assert made == set(video_tables.PICTURES)
    shown = table.video_pictures(tmp_path / "out")
    assert shown.count("](pictures/videos_") == 5
