"""Rows and tables of the comparison: words that the example knows, and sentences that follow from the numbers."""

import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "examples")]

import comparison_pictures  # noqa: E402
import comparison_tables as tables  # noqa: E402
import recipes  # noqa: E402
from rows import comparison  # noqa: E402
from rows.place import Place  # noqa: E402

NAMES = {"vae": "VAE", "coupling": "coupling flow", "maf": "MAF", "pixelcnn": "PixelCNN", "gan": "GAN"}


def fake(word, log_p, *, frechet=1.0, all_draws=1.0, probe=0.9, looser=None, name=None, minutes=45):
    has = log_p is not None
    return {
        "name": name or f"comparison-long-{word}", "comparison": word, "system": NAMES[word], "data": "mnist",
        "nats": {"log_p": log_p, "error": 0.5, "how": f"how-{word}", "looser": log_p if looser is None else looser}
        if has else None,
        "bits_per_dim": 0.1234 if has else None, "parameters": 1234, "training_minutes": minutes, "minutes": minutes,
        "steps": 10, "seconds": {"one": 0.002, "all": all_draws, "num": 500}, "num_test": 1000, "num_judged": 500,
        "quality": {"frechet": frechet, "precision": 0.75, "recall": 0.5}, "probe": probe,
        "size_of_code": None if probe is None else 32, "probe_of_pixels": 0.91, "nearest": 5.0, "nearest_of_test": 6.0,
        "floor": {"frechet": 0.125, "precision": 0.875, "recall": 0.625}, "hardware": "a cpu",
        "versions": {"torch": "9"}, "seed": 0,
    }  # fmt: skip


ROWS = [
    fake("vae", -90.0, looser=-95.0, frechet=2.0, probe=0.95),
    fake("coupling", -100.0, looser=-103.0, frechet=3.0, probe=0.8),
    fake("maf", -85.0, looser=-86.0, frechet=1.0, probe=0.8, all_draws=400.0),
    fake("pixelcnn", -80.0, frechet=4.0, probe=None, all_draws=100.0),
    fake("gan", None, frechet=0.5, probe=None, all_draws=0.1),
]


def table_of(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "records", lambda folder: rows)
    return tables.comparison_table(tmp_path)


def test_rows_are_resumable_calls_of_the_example():
    words = {row.line.split()[3] for row in comparison.ROWS}
    assert words == set(recipes.SYSTEMS) == set(comparison.SYSTEMS)
    assert words == {word for kind in tables.KINDS.values() for word in kind}
    names = [row.name for row in comparison.ROWS]
    assert len(set(names)) == len(names) == 7 * 4
    assert sum(name.startswith(tables.LONG) for name in names) == 7
    assert sum(name.startswith(tables.SHORT) for name in names) == 21
    assert all(row.command([])[-1] == "--resume" for row in comparison.ROWS)
    assert Place(comparison.ROWS[0], ROOT / "results").folder == ROOT / "runs" / "comparison-long-vae"


def test_systems_are_ordered_by_their_nats_and_none_is_said(tmp_path, monkeypatch):
    text = table_of(ROWS, tmp_path, monkeypatch)
    lines = [line for line in text.splitlines() if line.startswith(("| PixelCNN", "| MAF", "| VAE", "| coup", "| GAN"))]
    assert [line.split(" | ")[0] for line in lines[:5]] == ["| PixelCNN", "| MAF", "| VAE", "| coupling flow", "| GAN"]
    assert "| 90.00 ± 0.50 (95.00 by one draw) | how-vae | 0.1234 | 2 ms | 2 s |" in lines[2]
    assert "| 80.00 ± 0.50 | how-pixelcnn |" in lines[0]
    assert lines[4].startswith("| GAN | none | – | none |")
    assert "none" in lines[0].split(" | ")[9]
    assert "95.0 % (32 numbers)" in lines[2]
    assert "Frechet 0.12, precision 0.88, recall 0.62" in text


def test_a_word_of_the_slide_is_contradicted_by_each_pair_that_stands_the_other_way(tmp_path, monkeypatch):
    """Of the fake numbers MAF is ahead of the VAE, slower than PixelCNN, and the flows' probes are worse."""
    text = table_of(ROWS, tmp_path, monkeypatch)
    said = {line.split("*")[1]: line for line in text.splitlines() if line.startswith("- *")}
    assert said["expressivity"].endswith("VAE 90, PixelCNN 80; coupling flow 100, MAF 85: **contradicted**: "
                                         "MAF before VAE.")  # fmt: skip
    assert said["sampling"].endswith("**contradicted**: PixelCNN before MAF.")
    assert said["evaluating p(x)"].endswith("coupling flow 3, MAF 1, PixelCNN 0; VAE 5: the numbers agree.")
    assert said["latent representation"].endswith("**contradicted**: VAE before coupling flow, VAE before MAF.")
    assert "PixelCNN by −log P, GAN by Frechet distance, VAE by probe, GAN by 1,000 draws" in said["Best"]
    # nats 80, 85, 90, 100 and Frechet 4, 1, 2, 3: three pairs in order, three not
    assert "Kendall's tau +0.00 of 4 systems" in said["Best"]


def test_numbers_that_agree_contradict_nothing():
    rows = {row["comparison"]: row for row in ROWS if row["comparison"] != "maf"}
    assert tables.CLAIMS[0].judged(rows).endswith("the numbers agree.")
    assert tables.CLAIMS[0].judged({"vae": rows["vae"]}) == ""


def test_the_slides_cells_hold_the_numbers(tmp_path, monkeypatch):
    text = table_of(ROWS, tmp_path, monkeypatch)
    cells = {line.split(" | ")[0][2:]: line.rstrip(" |").split(" | ")[1:] for line in text.splitlines()
             if line.startswith(("| flows", "| auto", "| latent", "| GAN | no −"))}  # fmt: skip
    assert cells["flows"] == [
        "coupling flow 100.00 nats, MAF 85.00 nats; Frechet 3.00, 1.00", "coupling flow 2 s, MAF 800 s",
        "coupling flow how-coupling, MAF how-maf", "coupling flow 20.0 %, MAF 20.0 %",
    ]  # fmt: skip
    assert cells["autoregressive"] == ["80.00 nats; Frechet 4.00", "200 s", "how-pixelcnn", "none"]
    assert cells["GAN"] == ["no −log P; Frechet 0.50", "0.2 s", "none", "none"]


def test_seeds_are_tabled_by_mean_and_range(tmp_path, monkeypatch):
    rows = [fake("vae", -90.0 - seed, name=f"comparison-short-vae-{seed}", minutes=5) for seed in range(3)]
    rows += [fake("gan", None, probe=None, name="comparison-short-gan-0", minutes=5)]
    text = table_of(rows, tmp_path, monkeypatch)
    assert "5 CPU minutes, mean and range over seeds" in text
    assert "| VAE | 3 | 91.00 (90.00 to 92.00) | 1.00 (1.00 to 1.00) |" in text
    assert "| GAN | 1 | none | 1.00 (1.00 to 1.00) | 0.75 (0.75 to 0.75) | 0.50 (0.50 to 0.50) | none |" in text


def test_no_row_yet_names_the_command(tmp_path):
    assert "python tools/runs.py --run --only comparison-" in tables.comparison_table(tmp_path)


def test_pictures_are_made_of_the_rows_that_are_here(tmp_path, monkeypatch, capsys):
    images = torch.rand(3, 784)
    for word, shown in {"vae": {"between": images}, "pixelcnn": {}}.items():
        folder = tmp_path / "runs" / f"comparison-long-{word}"
        folder.mkdir(parents=True)
        torch.save({"draws": images, "nearest": images, "real": images} | shown, folder / "shown.pt")
    monkeypatch.setattr(sys, "argv", ["x", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "made")])
    comparison_pictures.main()
    made = {path.stem for path in (tmp_path / "made").glob("*.png")}
    assert made == set(tables.PICTURES)
    assert capsys.readouterr().out.count("wrote") == 3
    monkeypatch.setattr(sys, "argv", ["x", "--runs", str(tmp_path / "none"), "--out", str(tmp_path / "made2")])
    comparison_pictures.main()
    assert not [*tmp_path.glob("made2/*.png")]


@pytest.mark.parametrize("word", NAMES)
def test_a_figure_is_none_where_there_is_none(word):
    row = next(row for row in ROWS if row["comparison"] == word)
    assert (tables.nats(row) is None) == (tables.slack(row) is None) == (word == "gan")
    assert (tables.misread(row) is None) == (word in ("pixelcnn", "gan"))
