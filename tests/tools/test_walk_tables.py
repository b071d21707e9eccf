"""Tables and pictures of walks over images and of rooms."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import zoo
from zoo.data.simulated.walks import MOVES
from zoo.shipped.rescore import SAME, rescore
from zoo.shipped.shelf import Shelf

sys.path[:0] = [str(Path(__file__).resolve().parents[2] / "tools"), str(Path(__file__).parent)]

import ship  # noqa: E402
import table  # noqa: E402
import walk_panels  # noqa: E402
import walk_pictures  # noqa: E402
import walk_tables  # noqa: E402
from rows import ROWS, rooms, walks  # noqa: E402
from rows.train import plain as in_json  # noqa: E402
from tiny_walks import IMAGES  # noqa: E402


def errors(first, every, last):
    return {"first": first, "all": every, "last": last, "curve": [first, last]}


FIGURES = {
    "squared_error": 0.012, "error": 0.0004, "num_test": 64, "num": 64, "ahead": 256, "reconstruction": 0.006,
    "errors": errors(0.01, 0.012, 0.014), "r2": {"place": 0.995}, "been there": {"share": 0.75, "squared_error": 0.01},
    "long": {"ahead": 1024, "num": 16, "errors": errors(0.01, 0.02, 0.03), "r2": {"place": 0.991}, "error": 0.001},
    "without model": {"nearest frame": errors(0.007, 0.0072, 0.0074), "mean frame": errors(0.04, 0.048, 0.05)},
}  # fmt: skip
RECORD = {
    "system": walks.SYSTEM, "data": "walks over images", "ended": "plan", "steps": 12_000, "planned_steps": 12_000,
    "cpu_minutes": 14.2, "note": "", "versions": {"torch": "2.10"}, "hardware": "2 abaci",
    "looks": [{"squared_error": 0.5}, {"squared_error": 0.012}],
}  # fmt: skip


def figures_with(figures, changes):
    """Figures with some numbers changed, those of nested ones too."""
    nested = {name: figures_with(figures[name], value) for name, value in changes.items() if isinstance(value, dict)}
    return figures | changes | nested


def record(folder, name, figures=None, without=(), **changes):
    seed = name.rpartition("-")[2]
    found = figures_with(FIGURES, figures or {})
    found = {key: value for key, value in found.items() if key not in without}
    row = RECORD | {
        "name": name,
        "figures": found,
        "command": f"run {name}",
        "seed": int(seed) if seed.isdigit() else 0,
    }
    (folder / f"{name}.json").write_text(json.dumps(row | changes))


def reached(place, error=0.012):
    return {"r2": {"place": place}, "squared_error": error, "errors": {"all": error}}


def test_walks_are_tabled_by_images_with_medians_and_what_needs_no_model(tmp_path):
    assert table.walks_table(tmp_path).startswith("No row is recorded yet; `python tools/runs.py --run --only walk-`")
    for seed, (place, error) in enumerate([(0.996, 0.011), (0.98, 0.013), (0.995, 0.012)]):
        record(tmp_path, f"walk-free-{seed}", reached(place, error), looks=[{"squared_error": [3, 1, 2][seed]}])
    record(tmp_path, "walk-lstm", reached(0.0, 0.066), without=("r2", "reconstruction", "been there"), system="LSTM",
           ended="budget", steps=3_000, note="a remark")  # fmt: skip
    record(tmp_path, "walk-faces", data="walks over faces")
    record(tmp_path, "walk-srnn", system="in training")
    (tmp_path / "walk-srnn.json").write_text(json.dumps(RECORD | {"name": "walk-srnn", "figures": None}))
    shown = table.walks_table(tmp_path)
    for part in (
        "**walks over faces**: 64 test walks.", "**walks over images**",
        "| row | system | R^2, 256 steps | R^2, 1,024 steps | squared error of steps 1 to 32 | 1 to 256 |",
        "| median of 3 seeds | GTM-SM + Remembering | 0.9950 | 0.9910 | 0.0100 | 0.0120 ± 0.0004 | 0.0140 | 0.0200 "
        "(0.0300) | 0.0100 (75%) | 0.0060 | – | – | – |",
        "| walk-free-1 | GTM-SM + Remembering | 0.9800 | 0.9910 | 0.0100 | 0.0130 ± 0.0004 |",
        "12,000 | 14 | `run walk-free-1` |",
        "| walk-lstm | LSTM | – | 0.9910 | 0.0100 | 0.0660 ± 0.0004 | 0.0140 | 0.0200 (0.0300) | – | – | 3,000, 25% of "
        "the plan | 14 |",
        "| – | nearest frame | – | – | 0.0070 | 0.0072 | 0.0074 | – | – | – | – | – | – |",
        "- walk-lstm: a remark", "2 abaci; torch 2.10; seed 2.",
        "| walk-free | R^2 of the place, 256 steps | ≥ 0.99 | 0.9950 | 0.9800, 0.9950, 0.9960 | met by the median, "
        "met by 2 of 3 |",
        "| squared error of 256 steps / own reconstruction's | ≤ 2 | 2.00 | 1.83, 2.00, 2.17 | met by the median",
        "| that of the last 64 of them / own reconstruction's | ≤ 2 | 2.33 | 2.33, 2.33, 2.33 | missed |",
        "| the mean frame's squared error / ours | ≥ 3 | 4.00 | 3.69, 4.00, 4.36 | met |",
        "| an LSTM's squared error / ours | ≥ 3 | 5.50 | 5.08, 5.50, 6.00 | met |",
        "Smallest squared error on the validation walks: `walk-free-1`.",
    ):  # fmt: skip
        assert part in shown, part
    for part in ("SRNN", "gains", "in training", "walk-walls", "partition"):
        assert part not in shown, part
    assert shown.index("| walk-free-0 |") < shown.index("| walk-free-1 |") < shown.index("| walk-lstm |")
    assert "No row" in table.rooms_table(tmp_path)


def test_rows_with_walls_have_both_phases_and_are_compared_with_those_without(tmp_path):
    walled = {"data": "walks with walls", "system": walks.WATCHED, "steps": 4_000}
    for seed, place in enumerate((0.999, 0.98, 0.97)):
        record(tmp_path, f"walk-walls-{seed}", reached(place, 0.015), **walled)
        ended = {"ended": "enough" if seed else "plan", "steps": 1_500 if seed else 6_000}
        record(tmp_path, f"walk-walls_begun-{seed}", **walled | ended)
    record(tmp_path, "walk-walls_begun-3", **walled)
    record(tmp_path, "walk-walls_noise-0", reached(0.95), **walled | {"data": "walks with walls, pixel noise 0.05"})
    record(tmp_path, "walk-partition-0", reached(0.5), **walled | {"data": "walks with walls and a partition"})
    shown = table.walks_table(tmp_path)
    for part in (
        "| 6,000 without its sign + 4,000 | 28 | `run walk-walls-0` |", "| 1,500 by its sign + 4,000 | 28 |",
        "| walk-walls | R^2 of the place, 256 steps | ≥ 0.99 | 0.9800 | 0.9700, 0.9800, 0.9990 | missed by the median, "
        "met by 1 of 3; 3 of 5 seeds are trained |",
        "| walk-walls | R^2 of the place, 1,024 steps | ≥ 0.99 | 0.9910 | 0.9910, 0.9910, 0.9910 | met; 3 of 5 seeds",
        "| walk-walls_noise | R^2 of the place, 256 steps | ≥ 0.9 | 0.9500 | 0.9500 | met |",
        "| walk-partition | R^2 of the place, 256 steps | – | 0.5000 | 0.5000 | reported alone |",
        "| 4,000 | 14 | `run walk-partition-0` |",
    ):  # fmt: skip
        assert part in shown, part
    for part in ("begun", "that without walls", "walk-free"):
        assert part not in shown, part
    record(tmp_path, "walk-free-0", reached(0.99, 0.01))
    beside = (
        "| walk-walls | squared error of 256 steps / that without walls | ≤ 1 | 1.50 | 1.50, 1.50, 1.50 | missed; 3"
    )
    assert beside in table.walks_table(tmp_path)


def test_rooms_are_tabled_with_the_gains_that_were_found(tmp_path):
    both = {"place": 0.9991, "heading": 0.9975}
    figures = {"r2": both, "long": {"ahead": 600, "r2": both}, "ahead": 150, "num_test": 48}
    room = {"data": "rooms, square", "without": ("reconstruction",)}
    found = {"squared_error": 0.01, "step.turn_gain": 1.0 / rooms.OFF, "step.stride_gain": 1.1 / rooms.OFF}
    record(tmp_path, "room-actions-0", figures, **room, system=rooms.RAYS, looks=[found])
    record(tmp_path, "room-poses-0", figures | reached(1.0, 0.009), **room, system=f"{rooms.RAYS}, true poses",
           looks=[found])  # fmt: skip
    record(tmp_path, "room-views", figures | reached(1.0, 0.045), **room, system=rooms.VIEWS)
    shown = table.rooms_table(tmp_path)
    for part in (
        "**rooms, square**: 48 test walks.", "| R^2, 150 steps | R^2, 600 steps |", "| gains found / true |",
        "| room-actions-0 | GTM-SM, rays + Remembering | 0.9991 / 0.9975 | 0.9991 / 0.9975 |",
        "| turn 1.000, stride 1.100 |",
        "| room-poses | squared error of 150 steps | ≤ 0.009 | 0.0090 | 0.0090 | met; 1 of 3 seeds are trained |",
        "| the nearest view's squared error / ours | – | 0.80 |",
        "| whole views' squared error / ours | – | 5.00 | 5.00 | reported alone; 1 of 3",
        "| room-actions | R^2 of the place, 150 steps | ≥ 0.998 | 0.9991 | 0.9991 | met;",
        "| room-actions | R^2 of the heading, 150 steps | ≥ 0.998 | 0.9975 | 0.9975 | missed;",
        "| room-actions | squared error of 600 steps | – | 0.0200 |",
    ):  # fmt: skip
        assert part in shown, part
    assert "own reconstruction" not in shown, "rays have none"
    assert shown.count("turn 1.000") == 1, "true poses are given"
    assert "Smallest squared error on the validation walks: `room-actions-0`." in shown


def test_every_kind_of_a_table_and_of_a_picture_is_one_of_the_rows():
    kinds = walk_tables.by_kind([{"name": row.name, "figures": {"squared_error": 0}} for row in ROWS])
    targets = [*walk_tables.WALKS, *walk_tables.ROOMS]
    for target in targets:
        assert len(kinds[target.kind]) == target.seeds
    named = {target.other for target in targets} - {""} | set(walk_tables.SHIPPED)
    shown = walk_pictures
    for part in (shown.PLACES, shown.GATES, shown.MAPS, shown.WALKERS, shown.VIEWERS, *shown.ERRORS.values()):
        named |= part.keys()
    assert named <= kinds.keys()


# Pictures

SHOWN = ("walk-free-0", "walk-partition-0", "walk-photos", "walk-lstm", "walk-srnn", "room-poses-0", "room-actions-0",
         "room-views", "room-l_shaped", "room-lstm")  # fmt: skip


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Rows of images of noise, a few frames long, and a cache of their own."""
    part = SimpleNamespace(levels=IMAGES.flatten(1))
    data = SimpleNamespace(train=part, valid=part, test=part, shape=(32, 32, 3))
    for module in (walks, walk_panels):
        monkeypatch.setattr(module, "load", lambda name: data)
    for module in (walks, rooms):
        for name, value in {"TAU": 12, "AHEAD": 20, "FAR": 24, "PREDICTED": 4}.items():
            monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(walks, "MEMORISED", 12)
    return tmp_path / "cache" / "pyro-latent-zoo" / "runs"


def made(name, cache):
    """An untrained pair of a row, its folder, and its record."""
    row = next(row for row in ROWS if row.name == name)
    splits = row.data()
    torch.manual_seed(0)
    if row.after:
        first = next(other for other in ROWS if other.name == row.after).build(splits)
        zoo.save_pair(cache / row.after, first.model, first.guide)
    loss = row.build(splits)
    zoo.save_pair(cache / name, loss.model, loss.guide)
    torch.manual_seed(1)
    figures = in_json(row.evaluate(loss.model, loss.guide, splits))
    return RECORD | {"name": name, "figures": figures, "system": row.system, "command": "", "seed": 0} | row.facts


@pytest.mark.thorough
def test_pictures_are_made_of_the_rows_that_are_here(tiny, tmp_path, monkeypatch, capsys):
    results, out = tmp_path / "results", tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["walk_pictures.py", "--results", str(results), "--out", str(out), "--walk", "2"])
    walk_pictures.main()
    assert capsys.readouterr().out == ""
    results.mkdir()
    for name in SHOWN:
        (results / f"{name}.json").write_text(json.dumps(made(name, tiny)))
    # rows that are done, and whose folder is not here
    record(results, "walk-faces")
    record(results, "walk-walls_begun-0")
    # and of a kind with two seeds, of which the better one is not here either
    better = json.loads((results / "walk-free-0.json").read_text()) | {
        "name": "walk-free-1",
        "looks": [{"squared_error": 0}],
    }
    (results / "walk-free-1.json").write_text(json.dumps(better))
    walk_pictures.main()
    assert {path.stem for path in out.iterdir()} == set(walk_tables.PICTURES)
    assert table.walk_pictures(out).count("](pictures/") == len(walk_tables.PICTURES)
    # tables of figures that rows have themselves
    for shown, begins in ((table.walks_table(results), "walk-"), (table.rooms_table(results), "room-")):
        assert all(f"| {name} |" in shown for name in SHOWN if name.startswith(begins))
        assert "nan" not in shown


def test_a_pair_is_found_in_the_cache_or_where_it_ships(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(walk_pictures, "WEIGHTS", tmp_path / "weights")
    assert walk_pictures.folder_of("walk-free-0") is None
    for folder in (tmp_path / "weights", tiny):
        (folder / "walk-free-0").mkdir(parents=True)
        (folder / "walk-free-0" / "config.json").touch()
        assert walk_pictures.folder_of("walk-free-0") == folder / "walk-free-0"


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["walk-free-0", "walk-walls-0", "room-actions-0"])
def test_the_best_row_of_an_environment_ships(name, tiny, tmp_path):
    row, found = next(row for row in ROWS if row.name == name), made(name, tiny)
    found |= {"date": "today"}
    subset = ship.subset_of_row(found, row, zoo.load_pair(tiny / name)[0], 1, "simulated")
    assert subset.arguments.keys() == {"x", "u"}
    said = ship.ship(found, tiny / name, tmp_path / "shipped", subset, ship.of_runner(found, row))
    assert rescore(Shelf(tmp_path)["shipped"]).verdict == SAME
    assert (said["value"], said["error"]) == (found["figures"]["squared_error"], found["figures"]["error"])
    assert said["figure"] == "squared_error, a pixel, predicted frames"
    assert type(zoo.load_pair(tmp_path / "shipped")[0]) is zoo.GTMSM


def test_a_gate_is_shown_at_the_places_where_a_step_starts(tiny):
    """s is the true place in another map, and the gate is shut for a step that ends right of the middle column."""
    row = next(row for row in ROWS if row.name == "walk-partition_begun-0")
    loss, held = row.build(row.data()), row.data().test.test
    places = held.clean.padded(held.clean.truth).float()
    turn, apart = torch.tensor([[2.0, 1.0], [-1.0, 0.5]]), torch.tensor([3.0, -1.0])
    step = loss.model.step
    with torch.no_grad():
        step.move.weight.copy_((torch.from_numpy(MOVES).float() @ turn).T)
    step.gate = lambda s, u: 20 * (0.5 - ((s - apart) @ turn.inverse())[..., 1])
    shown = walk_panels.Seen(row, loss.model, loss.guide, held, held.clean.values, places @ turn + apart)
    grid = torch.cartesian_prod(torch.arange(-4.0, 5), torch.arange(-4.0, 5))
    found = walk_panels.gates(shown, grid).reshape(9, 9, 5)
    for number, last in enumerate((0, 2, 1, 1, 1)):
        # columns from which an action ends no further right than the middle
        torch.testing.assert_close(
            found[..., number], (torch.arange(9) < 4 + last).float().expand(9, 9), atol=1e-3, rtol=0
        )
    line = Figure().subplots(1, 4)
    walk_panels.gate_panels(line, shown)
    assert [ax.get_title() for ax in line] == ["right", "left", "up", "down"]
    torch.testing.assert_close(torch.from_numpy(line[0].images[0].get_array().data).float(), found[..., 0])
    walls = {tuple(map(tuple, part.get_xydata())) for part in line[0].lines}
    assert walls == {((5.5, row - 0.5), (5.5, row + 0.5)) for row in (0, 1, 2, 6, 7, 8)}


def test_pictures_of_a_strip_lie_side_by_side_in_time():
    frames = torch.rand(40, 12)
    assert torch.equal(walk_pictures.at_times(frames), frames[:32:2])
    found = walk_pictures.canvas(frames[:3], 2)
    assert found.shape == (2, 8, 3)
    for number in range(3):
        assert (found[:, 3 * number : 3 * number + 2] == frames[number].reshape(2, 2, 3).double().numpy()).all()
    assert (found[:, 2::3] == 1).all()
    steps, means = walk_pictures.smooth(np.arange(1.0, 257))
    assert (steps == means).all(), "a straight line is where it was"


def test_rays_of_a_model_that_knows_the_room_end_at_its_walls(tiny):
    """Depths of a network that is told the truth: the ends are then the walls' points, in their colours."""
    row = next(row for row in ROWS if row.name == "room-poses-0")
    loss, held = row.build(row.data()), row.data().test.test
    states = held.clean.padded(held.clean.truth).float()
    shown = walk_panels.Seen(row, loss.model, loss.guide, held, held.clean.values[:, held.tau :], states)
    depth, panel = rooms.SQUARE.hits(states[0, : held.tau].double().numpy())
    # depth is along the heading, a ray's length along itself, and softplus(a + 1/2) is the length
    length = torch.from_numpy(depth * np.sqrt(1 + rooms.SQUARE.across**2)).float().unsqueeze(-1)
    sizes = loss.model.recall.cloud.parts

    def stored(rays, content):
        return torch.cat([rays.new_zeros(*rays.shape[:-1], sum(sizes[:2])), length.expm1().log() - 0.5], -1)

    loss.model.recall.cloud.stored.forward = stored
    points, colours = walk_panels.ends(shown)
    assert points.shape == (*colours.shape[:1], 2) == (12 * 16, 2)
    torch.testing.assert_close(points.abs().amax(-1), torch.ones(len(points)), atol=1e-4, rtol=0)
    # of one panel, from afar and from near, colours differ by their shade alone
    for number in np.unique(panel):
        some = colours[torch.from_numpy(panel == number).flatten()]
        torch.testing.assert_close(some / some.norm(dim=-1, keepdim=True), (some[:1] / some[:1].norm()).expand_as(some),
                                   atol=0.02, rtol=0)  # fmt: skip
