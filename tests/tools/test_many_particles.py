"""The bound of more particles: piece by piece, resumed, and in the table beside the row's own."""

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path[:0] = [str(Path(__file__).resolve().parents[2] / "tools"), str(Path(__file__).parent)]

import hierarchy_tables  # noqa: E402
import many_particles  # noqa: E402
import rows.scored  # noqa: E402
import tiny_rows  # noqa: E402
from rows.place import Place  # noqa: E402

import zoo  # noqa: E402
from zoo.infer import log_likelihood  # noqa: E402

NAME, K = "tiny-vae-L_30", 30


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """An untrained pair in the folder of a row whose record says that it is done; gives the folder of records."""
    monkeypatch.setattr(many_particles, "ROWS", [tiny_rows.ROW])
    monkeypatch.setattr(rows.scored, "IMAGES", 20)
    place = Place(tiny_rows.ROW, tmp_path / "results")
    torch.manual_seed(0)
    loss = tiny_rows.build(tiny_rows.data())
    zoo.save_pair(place.folder, loss.model, loss.guide)
    place.save({"name": "tiny-vae", "ended": "plan"})
    return tmp_path / "results"


def test_pieces_that_are_there_are_not_scored_again(trained, monkeypatch):
    scored = []

    def stops_at(most):
        def score(model, guide, images, **options):
            if len(scored) == most:
                raise KeyboardInterrupt
            scored.append(len(images))
            return log_likelihood(model, guide, images, **options)

        return score

    monkeypatch.setattr(rows.scored, "log_likelihood", stops_at(2))
    with pytest.raises(KeyboardInterrupt):
        many_particles.main(NAME, "tiny-vae", K, True, trained)
    monkeypatch.setattr(rows.scored, "log_likelihood", stops_at(9))
    many_particles.main(NAME, "tiny-vae", K, True, trained)
    assert scored == [20, 20, 10]
    record = json.loads((trained / f"{NAME}.json").read_text())
    pair = zoo.load_pair(Place(tiny_rows.ROW, trained).folder)
    pieces = [
        log_likelihood(*pair, images, num_particles=K, seed=many_particles.SEED + n).per_datum
        for n, images in enumerate(tiny_rows.data().test.split(20))
    ]
    assert record["log_p"] == pytest.approx(torch.cat(pieces).mean().item())
    assert (record["of"], record["num_particles"], record["num_test"]) == ("tiny-vae", K, 50)
    assert hierarchy_tables.sharper(record) == f", {record['log_p']:,.2f} (L_30)"
    assert hierarchy_tables.sharper(None) == ""


@pytest.mark.parametrize("change", ["pair", "images", "particles", "seed", "afresh"])
def test_the_pieces_of_another_evaluation_are_left_alone(trained, change):
    model, guide = zoo.load_pair(Place(tiny_rows.ROW, trained).folder)
    x, options = tiny_rows.data().test, {"num_particles": K, "seed": 1}
    found, _ = rows.scored.scored(model, guide, x, **options)
    if change == "pair":
        next(guide.parameters()).data += 1
    elif change == "images":
        x = 1 - x
    else:
        options |= {"particles": {"num_particles": 2 * K}, "seed": {"seed": 2}, "afresh": {"resume": False}}[change]
    again, minutes = rows.scored.scored(model, guide, x, **options)
    assert torch.equal(again.per_datum, found.per_datum) == (change == "afresh")
    assert minutes > 0
    kept, same = rows.scored.scored(model, guide, x, **options | {"resume": True})
    assert torch.equal(kept.per_datum, again.per_datum)
    assert (same, str(kept)) == (minutes, str(again))


def test_a_row_that_is_not_trained_is_named(trained):
    (trained / "tiny-vae.json").unlink()
    with pytest.raises(SystemExit, match="tiny-vae: not trained yet"):
        many_particles.main(NAME, "tiny-vae", K, True, trained)
