"""Rows of walks over images and of rooms: their data, pairs and figures."""

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

import guides
import zoo
from zoo.data.simulated.rooms import rooms as rooms_walked
from zoo.data.simulated.walks import walks as walked
from zoo.infer import ELBO

sys.path[:0] = [str(Path(__file__).resolve().parents[2] / "tools"), str(Path(__file__).parent)]

from rows import ROWS, rooms, walk_figures, walks  # noqa: E402
from rows.unrolled import Unrolled  # noqa: E402
from rows.walk_figures import PLACE, POSE, trial  # noqa: E402
from tiny_walks import IMAGES, room_splits, splits  # noqa: E402


def row_of(name):
    return next(row for row in ROWS if row.name == name)


@pytest.fixture
def small(monkeypatch):
    """Memories of 12 frames and 4 more in training, in place of 128 or 150."""
    for module, names in ((walks, ("MEMORISED",)), (rooms, ("TAU",))):
        for name in names:
            monkeypatch.setattr(module, name, 12)


def test_rows_are_those_of_the_issue():
    names = [row.name for row in ROWS if row.name.startswith(("walk-", "room-"))]
    assert names == [row.name for row in (*walks.ROWS, *rooms.ROWS)]
    assert len(set(names)) == len(names)
    for row in (*walks.ROWS, *rooms.ROWS):
        assert row.minutes <= 15
        assert (row.after is None) == ("walls" not in row.system or "_begun" in row.name)
    for kind, seeds in (("walk-free", 3), ("walk-walls", 5), ("room-poses", 3), ("room-actions", 3)):
        assert [row_of(f"{kind}-{seed}").seed for seed in range(seeds)] == [*range(seeds)]
    assert row_of("walk-walls-3").after == "walk-walls_begun-3"


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("name", "size"),
    [("walk-free-0", 192), ("walk-faces", 256), ("walk-photos", 768), ("walk-partition_begun-0", 192),
     ("room-l_shaped", 768)],
)  # fmt: skip
def test_rows_have_the_walks_that_they_say(name, size):
    row = row_of(name)
    data, room = row.data(), name.startswith("room")
    assert walks.data_dim_of(data) == size
    x, u, mask = data.train.batch(torch.arange(2), torch.Generator().manual_seed(0))
    assert (x.shape, u.shape, mask) == ((2, 180 if room else 160, size), (2, x.shape[1], 5), None)
    assert len(data.train) == 100 * row.batch_size
    held = data.test
    assert [(part.tau, part.seen.values.shape[1]) for part in held[:3]] == (
        [(150, 300), (150, 300), (150, 750)] if room else [(256, 512), (256, 512), (256, 1280)]
    )
    place = held.test.clean.padded(held.test.clean.truth)
    if name == "walk-partition_begun-0":
        row_number, column = place.unbind(-1)
        crosses = (column[:, 1:] > 1) != (column[:, :-1] > 1)
        assert crosses.any()
        assert row_number[:, 1:][crosses].abs().max() <= 1
    if not room:
        assert place.abs().max() == 4, "nine places each way"


KINDS = {
    "walk-free-0": (splits, {}), "walk-walls_begun-0": (splits, {"walls": True}),
    "walk-walls_noise_begun-0": (splits, {"walls": True, "noise": 0.05}), "walk-lstm": (splits, {}),
    "walk-srnn": (splits, {}), "room-poses-0": (room_splits, {}), "room-actions-0": (room_splits, {}),
    "room-views": (room_splits, {}), "room-noise": (room_splits, {"noise": 0.05}), "room-lstm": (room_splits, {}),
}  # fmt: skip


@pytest.mark.thorough
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", KINDS)
def test_a_row_has_the_figures_that_it_names(name):
    row, (make, world) = row_of(name), KINDS[name]
    data = make(**world)
    torch.manual_seed(0)
    # an LSTM is given its memory as an argument
    build = partial(row.build, memorise=12) if "lstm" in name else row.build
    loss = build(data)
    loss(*data.train.batch(torch.arange(4), torch.Generator().manual_seed(0))).backward()
    trained = {name for name, p in loss.named_parameters() if p.requires_grad}
    assert {name for name, p in loss.named_parameters() if p.grad is not None} == trained
    if name.startswith("room") and "lstm" not in name:
        assert any("gain" in name for name in trained) == (name in ("room-actions-0", "room-noise"))
    torch.manual_seed(1)
    figures = row.evaluate(loss.model, loss.guide, data)
    assert figures["num_test"] == figures["num"] == 4
    assert (figures["ahead"], figures["long"]["ahead"]) == (6, 8)
    assert figures["errors"].keys() == {"first", "all", "last", "curve"}
    assert len(figures["errors"]["curve"]) == 6
    torch.testing.assert_close(figures["errors"]["curve"].mean().item(), figures[row.figure])
    assert figures["error"] > 0
    assert figures["without model"].keys() == {"nearest frame", "mean frame"}
    assert ("reconstruction" in figures) == (name.startswith("walk-") and name not in ("walk-lstm", "walk-srnn"))
    kinds = {"walk": {"place"}, "room": {"place", "heading"}}[name[:4]]
    assert ("r2" in figures) == ("lstm" not in name and "srnn" not in name)
    assert figures.get("r2", dict.fromkeys(kinds)).keys() == kinds
    name, check = row.check
    torch.manual_seed(1)
    assert check(loss.model, loss.guide, data) == figures[name]
    assert row.look(loss.model, loss.guide, data)["squared_error"] > 0


def test_a_system_that_knows_frames_and_states_has_no_error():
    """Its frames are the clean ones, its states the true ones in another map; a heading that stands still is none."""
    given = trial(partial(rooms_walked, noise=0.1), 12, 99, 12, 6)
    true = given.clean.padded(given.clean.truth)
    moved = true @ torch.tensor([[2.0, 1.0, 0.0], [-1.0, 0.5, 0.0], [0.0, 0.0, 1.0]]) + torch.tensor([3.0, 1.0, 0.4])
    frozen = torch.cat([moved[..., :2], torch.randn(12, 18, 1)], -1)

    def knowing(states, model, guide, x, u):
        rows = [int((given.seen.values[:, :12] == one).all(-1).all(-1).nonzero()) for one in x]
        return given.clean.values[rows, 12:], states[rows]

    figures = walk_figures.figures_of(partial(knowing, moved), None, None, given, POSE)
    assert figures["squared_error"] == figures["errors"]["last"] == 0
    assert figures["r2"] == pytest.approx({"place": 1, "heading": 1})
    assert walk_figures.figures_of(partial(knowing, frozen), None, None, given, POSE)["r2"]["heading"] < 0.5


def test_frames_without_a_model_are_compared_with_clean_ones():
    noisy = trial(partial(walked, IMAGES, noise=0.5), 4, 99, 200, 50)
    found = walk_figures.without_model(PLACE, noisy)
    # where the agent has been, noise of variance 1/4 is all of the error
    clean = walk_figures.without_model(PLACE, noisy._replace(seen=noisy.clean))
    assert found["nearest frame"]["all"] == pytest.approx(clean["nearest frame"]["all"] + 0.25, rel=0.05)
    # the mean of 200 frames has hardly any
    assert found["mean frame"]["all"] == pytest.approx(clean["mean frame"]["all"], rel=0.05)


def test_schedules():
    cycle, warmed, narrowing = walks.Cycle(100), rooms.Warmed(1000), walks.Narrowing(10)
    assert [cycle(step) for step in (0, 69, 100, 169)] == [1, 1, 1, 1]
    assert cycle(85) == pytest.approx(0.5)
    assert cycle(99) < 0.01
    assert [warmed(step) for step in (0, 49, 99, 500)] == [0.01, 0.5, 1, 1]
    assert warmed(750) == pytest.approx(0.505)
    assert warmed(1000) == warmed(2000) == pytest.approx(0.01)
    assert [narrowing(step) for step in (0, 10, 99)] == pytest.approx([0.01, 0.003, 0.003])
    assert narrowing(5) ** 2 == pytest.approx(0.01 * 0.003)
    steps = [[walks.walls_are_learned({"epoch": epoch, "kl": {"s": 32 * nats}}) for epoch in (14, 15, 30)]
             for nats in (18, 20)]  # fmt: skip
    assert steps == [[False, True, True], [False, False, False]]


@pytest.mark.usefixtures("small")
def test_a_row_with_walls_goes_on_from_the_one_that_began_it(tmp_path):
    row, data = row_of("walk-walls-1"), splits(walls=True)
    torch.manual_seed(0)
    begun = row_of(row.after).build(data)
    assert begun.guide.follow
    zoo.save_pair(tmp_path / "cache" / "pyro-latent-zoo" / "runs" / row.after, begun.model, begun.guide)
    torch.manual_seed(1)
    loss = row.build(data)
    assert not loss.guide.follow
    theirs = begun.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in loss.state_dict().items())
    assert loss.model.noise == pytest.approx(walks.FOLLOWS)
    names = [name for name, _ in loss.named_parameters()]
    for pattern in row.settings["groups"]:
        assert any(name.startswith(pattern.rstrip("*")) for name in names), pattern


# The baseline


def test_an_unrolled_network_reads_its_own_frames_after_the_memory():
    torch.manual_seed(0)
    model = Unrolled(6, 3, memorise=4, recurrent=5, hidden=8)
    x, u = torch.rand(2, 9, 6), torch.rand(2, 9, 3)
    found = model.predict(x[:, :4], u)
    assert found.shape == (2, 5, 6)
    # by hand: one step after the other, from the frame before, its own from the sixth on
    state, before, means = None, torch.zeros(2, 6), []
    for t in range(9):
        h, state = model.recurrence(torch.cat([model.feature(before), u[:, t]], -1).unsqueeze(1), state)
        means.append(model.likelihood.head.loc(model.likelihood.stage(h[:, 0])))
        before = x[:, t] if t < 4 else means[-1]
    torch.testing.assert_close(torch.stack(means[4:], 1), found)
    loss = ELBO()(model, guides.Empty(model))(x, u)
    expected = model.likelihood.head(model.features(x[:, :4], u)).log_prob(x).sum()
    torch.testing.assert_close(-loss, expected)
    with pytest.raises(ValueError, match="mask: Unrolled reads every frame"):
        model(x, u, torch.ones(2, 9, dtype=torch.bool))


def test_a_state_space_predicts_from_the_memory_and_all_actions(small):
    data = splits()
    torch.manual_seed(0)
    loss = walks.recurrent(data)
    x, u = data.validation.values, data.validation.u
    found = []
    for actions in (u, torch.cat([u[:, :-1], u[:, -1:].roll(1, -1)], 1)):
        torch.manual_seed(1)
        frames, states = walk_figures.forecast(loss.model, loss.guide, x[:, :12], actions)
        found.append(frames)
        assert (frames.shape, states) == ((4, 4, 192), None)
    assert torch.equal(found[0][:, :-1], found[1][:, :-1])
    assert not torch.equal(found[0][:, -1], found[1][:, -1])


def test_a_prediction_does_not_depend_on_the_frames_to_come(small):
    data = splits()
    torch.manual_seed(0)
    loss = row_of("walk-free-0").build(data)
    given = data.test.test
    other = replace(given.seen, frames=given.seen.frames.clone())
    other.frames.reshape(4, 18, -1)[:, 12:] = 0
    frames, states = walk_figures.read(walk_figures.recalled, loss.model, loss.guide, given)
    again, _ = walk_figures.read(walk_figures.recalled, loss.model, loss.guide, given._replace(seen=other))
    assert torch.equal(frames, again)
    assert (frames.shape, states.shape) == ((4, 6, 192), (4, 18, 2))
