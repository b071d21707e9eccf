"""Rows of codes of shapes: losses that train, figures, tables and pictures."""

import json
import sys
from pathlib import Path

import pytest
import torch

import zoo

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

import shape_pictures
import shape_tables
from rows import ROWS, shapes
from rows.row import Splits

from zoo.data.simulated.shapes import shapes as drawn

SPLIT = drawn(300)
FEW = Splits(SPLIT.images, SPLIT.images, SPLIT)


def test_each_objective_has_five_seeds_and_a_plan():
    assert all(any(row is one for one in ROWS) for row in shapes.ROWS)
    assert {len(group) for group in shape_tables.by_objective([vars(row) for row in shapes.ROWS]).values()} == {5}
    assert {row.seed for row in shapes.ROWS} == set(range(5))


@pytest.mark.parametrize("row", shapes.ROWS[::5], ids=lambda row: row.name)
def test_rows_build_and_train_from_their_first_step(row):
    for _ in range(2):
        torch.manual_seed(0)
        loss = row.build(FEW)
        assert getattr(loss.elbo, "step", 0) == 0, "an objective of its own for each training"
        loss(FEW.train[:64]).backward()
    assert all(p.grad is not None for p in loss.parameters())


def test_figures_hold_all_that_the_table_asks_for(tmp_path):
    row = shapes.ROWS[0]
    torch.manual_seed(0)
    loss = row.build(FEW)
    figures = row.evaluate(loss.model, loss.guide, FEW)
    assert {row.figure, row.check[0], "error", "num_test", "kl", *shape_tables.COLUMNS} <= figures.keys()
    assert row.check[1](loss.model, loss.guide, FEW) == figures[row.check[0]]
    assert figures["reconstruction"] - figures["kl"]["z"] == pytest.approx(figures["elbo"], abs=1.0)
    assert shape_tables.shapes_table(tmp_path).startswith("No row is recorded yet")
    for seed, mig in enumerate((0.1, 0.3, 0.2)):
        record = {"name": f"shapes-vae-{seed}", "system": "VAE", "figures": figures | {"mig": mig}, "seed": seed,
                  "hardware": "an abacus", "versions": {"torch": "2.10"}}  # fmt: skip
        (tmp_path / f"{seed}.json").write_text(json.dumps(record))
    shown = shape_tables.shapes_table(tmp_path)
    assert "| VAE | 3 |" in shown
    assert "| 0.20 (0.10 to 0.30) |" in shown
    assert "300 test pictures; median (range) over seeds." in shown


@pytest.mark.thorough
def test_pictures_are_made_of_the_rows_that_are_here(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "argv", ["shape_pictures.py", "--results", str(tmp_path), "--out", str(tmp_path / "out")])
    shape_pictures.main()
    assert not (tmp_path / "out").exists()
    loss = shapes.ROWS[0].build(FEW)
    zoo.save_pair(tmp_path / "cache" / "pyro-latent-zoo" / "runs" / "shapes-vae-0", loss.model, loss.guide)
    figures = {"mig": 0.2, "reconstruction": -20.0, "kl_units": [0.1 * n for n in range(shapes.LATENTS)]}
    (tmp_path / "a.json").write_text(json.dumps({"name": "shapes-vae-0", "system": "VAE", "figures": figures}))
    shape_pictures.main()
    assert {path.stem for path in (tmp_path / "out").iterdir()} == {*shape_tables.PICTURES}
