"""Rows of hierarchies that strange images are scored with, and the pictures that are made of rows."""

import json
import sys
from pathlib import Path

import pytest
import torch
from pyro import poutine
from tiers import needs_files

import guides
import zoo
from zoo.infer import ELBO

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

import hierarchy_pictures
from rows import anomaly
from rows.row import Splits


def small(num_levels=3):
    torch.manual_seed(0)
    latents, hidden = (3, 3, 2)[:num_levels], ((6,), (5,), (4,))[:num_levels]
    model = zoo.Hierarchical(784, latents, tuple(widths[::-1] for widths in hidden))
    return model, guides.TopDown(model, hidden=hidden)


def test_colours_are_scored_as_levels_and_enter_the_guide_about_zero():
    images = torch.randint(0, 256, (4, 3072), generator=torch.Generator().manual_seed(0)).float()
    splits = Splits(images, images, images[:2])
    torch.manual_seed(0)
    loss = anomaly.colour(splits, steps=10)
    seen = []
    loss.guide.parts[0].stage.stage.inputs[0].register_forward_hook(lambda module, inputs, out: seen.append(inputs[0]))
    figures = anomaly.evaluate_colour(loss.model, loss.guide, splits)
    assert seen[0].abs().max() <= 1
    assert figures["bits_per_dim"] == pytest.approx(-figures["L_1"] / (3072 * 0.6931471805599453))
    assert figures.keys() >= {"L_1", "L_100", "error", "kl", "num_test"}
    row = next(row for row in anomaly.ROWS if row.evaluate is anomaly.evaluate_colour)
    assert {row.figure, row.check[0]} <= figures.keys(), "by which it ships"
    with pytest.raises(ValueError, match="x"):
        ELBO().loss(loss.model, loss.guide, images + 0.5)


@needs_files
def test_rows_have_the_images_that_they_say():
    letters, colours = anomaly.letters(), anomaly.cifar10()
    assert (len(letters.train), len(letters.validation), len(letters.test)) == (8000, 1000, 1000)
    assert letters.test.unique().tolist() == [0, 1]
    assert [len(part) for part in colours] == [3300, 200, 500]
    assert colours.train.max() == 255


def test_samples_hold_the_levels_that_they_say():
    model, _ = small()
    figure = hierarchy_pictures.samples(model)
    labels = [ax.get_ylabel() for ax in figure.axes]
    assert labels[:4] == ["T = 0", "T = 0.4", "T = 0.7", "T = 1"]
    assert labels[4:] == ["z_3 held", "z_2..z_3 held"]
    coldest, hottest = (figure.axes[n].images[0].get_array() for n in (0, 3))
    # images of 28 pixels, one pixel apart
    assert (coldest[:, :28] == coldest[:, 29:57]).all(), "at temperature 0 all images are the same"
    assert not (hottest[:, :28] == hottest[:, 29:57]).all()


def test_means_are_those_of_the_program():
    model, _ = small()
    latents, _ = model.generate(5)
    with poutine.trace() as tape, poutine.condition(data=latents):
        model(torch.zeros(5, 784))
    torch.testing.assert_close(hierarchy_pictures.means(model, latents), tape.trace.nodes["x"]["fn"].mean)


@needs_files
def test_pictures_are_made_of_the_rows_that_are_here(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["hierarchy_pictures.py", "--results", str(tmp_path / "results"), "--out",
                                      str(tmp_path / "out"), "--num-images", "20"])  # fmt: skip
    hierarchy_pictures.main()
    assert capsys.readouterr().out == ""
    (tmp_path / "results").mkdir()
    curve = [{"epoch": n, "kl": {"z_1": 9.0, "z_2": 0.0}} for n in (1, 2)]
    rows = (("mnist-5-ladder", -90.0, "plan"), ("mnist-5-bottom-up", -95.0, "budget"), ("mnist-5-biva", -80.0, None))
    for name, value, ended in rows:
        zoo.save_pair(tmp_path / "cache" / "pyro-latent-zoo" / "runs" / name, *small(2))
        record = {"ended": ended, "budget_cpu_minutes": 60, "figures": {"L_1": -99.0, "L_1000": value}, "curve": curve}
        (tmp_path / "results" / f"{name}.json").write_text(json.dumps(record))
    hierarchy_pictures.main()
    made = {path.stem for path in (tmp_path / "out").iterdir()}
    assert made == {"hierarchy_kl", "hierarchy_levels", "hierarchy_samples"}
    done = hierarchy_pictures.recorded(hierarchy_pictures.COURSES, tmp_path / "results")
    assert list(done) == ["mnist-5-bottom-up", "mnist-5-ladder"], "a row in training is left out"
