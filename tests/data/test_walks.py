"""Walks over images: frames are crops at the true places, actions move by one step, walls stop."""

import time
from functools import partial

import numpy as np
import pytest
import torch

from zoo.data import Fresh, Sequences
from zoo.data.simulated.balls import ROOMS, videos
from zoo.data.simulated.walks import ACTIONS, MOVES, destinations, laid_out, partition, walks

STAY = ACTIONS.index("stay")


def noise_images(num=6, height=32, width=32, channels=(3,), seed=0):
    return torch.from_numpy(np.random.RandomState(seed).randint(0, 256, (num, height, width, *channels), np.uint8))


IMAGES = noise_images()


def parts(sequences):
    """Places `(N, T, 2)` from the middle and actions `(N, T)`, whole numbers."""
    return sequences.padded(sequences.truth).long().numpy(), sequences.u.argmax(-1).numpy()


@pytest.mark.parametrize(
    ("images", "crop", "stride", "grid"),
    [
        (IMAGES, 8, 3, (9, 9)),
        (noise_images(3, 64, 64, ()), 16, 4, (13, 13)),
        (noise_images(3, 20, 31, (1,)), 5, 5, (4, 6)),
        (noise_images(3, 9, 9), 9, 1, (1, 1)),
    ],
)
def test_frames_are_the_image_at_the_true_place(images, crop, stride, grid):
    some = walks(images, 5, 60, seed=3, crop=crop, stride=stride)
    place, _ = parts(some)
    pictures = images if images.ndim == 4 else images[..., None]
    frames = some.frames.unflatten(0, (5, 60)).unflatten(-1, (crop, crop, pictures.shape[-1]))
    middle = (np.array(grid) - 1) // 2
    for walk, number in enumerate(some.labels.tolist()):
        for t in range(60):
            row, column = (place[walk, t] + middle) * stride
            seen = pictures[number, row : row + crop, column : column + crop]
            assert torch.equal(frames[walk, t], seen), (walk, t)
    # the names of the columns say which pixel and channel: that of the last number of a frame
    assert some.columns[-1].startswith(f"row {crop - 1}, column {crop - 1}, ")
    # the ends of the grid, which may have no middle
    assert (place.min((0, 1)) >= -middle).all()
    assert (place.max((0, 1)) <= np.array(grid) - 1 - middle).all()


@pytest.mark.parametrize("channels", [(3,), ()])
def test_frames_of_all_places_laid_out_are_the_image(channels):
    image = noise_images(1, 32, 26, channels)
    some = walks(image, 4, 3000, seed=1)
    places, first = some.truth - some.truth.amin(0), some.frames.float()
    # a walk of this length has been everywhere in 9 x 7 places; a frame seen twice counts twice, and is the same
    assert len(places.unique(dim=0)) == 63
    torch.testing.assert_close(laid_out(first, places), image[0].reshape(32, 26, -1).float())
    # a sum of bytes would begin anew at 256
    assert torch.equal(laid_out(some.frames[:99], places[:99]), laid_out(first[:99], places[:99]))
    part = laid_out(first[:1], torch.tensor([[1, 2]]))
    assert part.shape[:2] == (11, 14)
    assert torch.equal(part[3:, 6:].flatten(), first[0])
    assert not part[:3].any()
    assert not part[:, :6].any()


def test_frames_that_cannot_be_laid_out_are_refused():
    frames = torch.zeros(3, 64)
    with pytest.raises(ValueError, match=r"frames: expected crops \(any, 7 \* 7 \* channels\), got \(3, 64\)"):
        laid_out(frames, torch.zeros(3, 2), crop=7)
    for places in (torch.zeros(2, 2), torch.tensor([[0, 0], [1, 2], [3, -1]])):
        with pytest.raises(ValueError, match=r"places: expected \(row, column\) of 3 frames from the corner \(0, 0\)"):
            laid_out(frames, places)


@pytest.mark.parametrize("walls", [False, True])
def test_actions_move_by_one_step_and_walls_stop(walls):
    some = walks(IMAGES, 40, 300, walls=walls)
    place, action = parts(some)
    moved = np.diff(place, axis=1)
    whole, none = (moved == MOVES[action[:, 1:]]).all(-1), (moved == 0).all(-1)
    assert (whole | none).all()
    stopped = none & (action[:, 1:] != STAY)
    beyond = (np.abs(place[:, :-1] + MOVES[action[:, 1:]]) > 4).any(-1)
    assert np.array_equal(stopped, beyond), "an action has no effect where the border is, and nowhere else"
    assert stopped.any() == walls
    assert np.abs(place).max() == 4, "the border is reached"
    assert (place[:, 0] == 0).all()
    assert (action[:, 0] == STAY).all()
    if walls:
        # a new action is never one that bumps at once
        new = action[:, 2:] != action[:, 1:-1]
        assert not (stopped[:, 1:] & new).any()


def test_a_returned_place_shows_the_same_frame():
    some = walks(IMAGES, 1, 300)
    place, frames = some.truth, some.values[0]
    same = (place[:, None] == place).all(-1)
    assert same.sum() > 2 * 300
    apart = (frames[:, None] - frames).abs().amax(-1)
    assert apart[same].max() == 0
    assert apart[~same].min() > 0, "every crop of noise is another"


def test_actions_last_as_long_as_said():
    """Away from walls a run of an action is 1 + Poisson(2) steps, and one in five is followed by the same action."""
    large = noise_images(1, 404, 404, ())
    _, action = parts(walks(large, 60, 200, seed=1, crop=4, stride=1))
    begins = (np.diff(action, axis=1) != 0).sum()
    # 3 steps an action, and one in five is followed by itself: 3.75 steps between changes, of variance 5.3; 4.5
    # standard errors, and the first frame, before which there is no change
    assert abs(action.size / begins - 3.75) < 4.5 * (5.3 / begins) ** 0.5 + 3.75 / 200
    share = np.bincount(action.ravel(), minlength=5) / action.size
    # runs of 3 steps on average, whose squares average 11: standard error of a share
    assert np.abs(share - 0.2).max() < 4.5 * (0.16 * 11 / 3 / action.size) ** 0.5
    _, brief = parts(walks(large, 60, 200, seed=1, crop=4, stride=1, repeat=0))
    assert abs((np.diff(brief, axis=1) != 0).mean() - 0.8) < 4.5 * (0.16 / brief.size) ** 0.5


def test_a_partition_is_passed_at_its_gap_alone():
    """A wall right of column 5 of 9, one of the middle, with a gap in the two lowest rows."""
    wall = partition(9, 5, gap=(7, 8))
    assert len(wall) == 7
    assert wall[0] == ((0, 5), (0, 6))
    crossings = []
    for walls in (False, True):
        place, action = parts(walks(IMAGES, 60, 300, blocked=wall, walls=walls))
        row, column = place[..., 0] + 4, place[..., 1] + 4
        passes = (column[:, 1:] > 5) != (column[:, :-1] > 5)
        assert set(row[:, 1:][passes]) <= {7, 8}
        crossings.append(passes.sum())
        at = (column[:, :-1] == 5) & (action[:, 1:] == ACTIONS.index("right")) & (row[:, :-1] < 7)
        assert at.any() == walls, "only with walls it runs into the partition"
        assert (column[:, 1:][at] == 5).all()
        back = (column[:, :-1] == 6) & (action[:, 1:] == ACTIONS.index("left")) & (row[:, :-1] < 7)
        assert (column[:, 1:][back] == 6).all(), "from the other side too"
    assert min(crossings) > 10


def test_destinations_by_hand():
    """Two rows of three places, numbered 0 to 5, with a wall between 1 and 4 that is named twice."""
    found = destinations(2, 3, [((0, 1), (1, 1)), ((1, 1), (0, 1))])
    expected = [[1, 0, 0, 3, 0], [2, 0, 1, 1, 1], [2, 1, 2, 5, 2], [4, 3, 0, 3, 3], [5, 3, 4, 4, 4], [5, 4, 2, 5, 5]]
    assert found.tolist() == expected


def test_each_walk_has_an_image_of_its_own_while_there_are_enough():
    assert sorted(walks(IMAGES, 6, 2).labels.tolist()) == [0, 1, 2, 3, 4, 5]
    many = walks(IMAGES, 14, 2).labels
    assert sorted(many.bincount(minlength=6).tolist()) == [2, 2, 2, 2, 3, 3]


def test_a_seed_gives_the_same_walks_and_noise_moves_none():
    one, two, other = (walks(IMAGES, 4, 50, seed=seed) for seed in (7, 7, 8))
    assert torch.equal(one.frames, two.frames)
    assert torch.equal(one.controls, two.controls)
    assert not torch.equal(one.truth, other.truth)
    noisy = walks(IMAGES, 4, 50, seed=7, noise=0.05)
    assert (noisy.frames.dtype, noisy.num_levels) == (torch.float32, None)
    for name in ("truth", "controls", "labels"):
        assert torch.equal(getattr(one, name), getattr(noisy, name))
    noise = noisy.values - one.values
    # 200 x 192 numbers, 4.5 standard errors of mean and standard deviation
    assert abs(noise.mean()) < 4.5 * 0.05 / noise.numel() ** 0.5
    assert abs(noise.std() - 0.05) < 4.5 * 0.05 / (2 * noise.numel()) ** 0.5


def test_thousands_of_frames_a_second():
    """A batch of 16 x 160 frames in a few milliseconds; ten times that is allowed on a busy machine."""
    walks(IMAGES, 16, 160)
    began = time.process_time()
    for seed in range(5):
        walks(IMAGES, 16, 160, seed=seed, walls=True)
    assert (time.process_time() - began) / 5 < 0.05


# Rows for fit


def test_fresh_rows_are_new_at_every_batch_and_a_function_of_the_generator():
    rows = Fresh(partial(walks, IMAGES, T=20), num=100)
    generator = torch.Generator().manual_seed(1)
    begun = generator.get_state()
    x, u, mask = rows.batch(torch.arange(8), generator)
    later, _, _ = rows.batch(torch.arange(8), generator)
    assert (len(rows), x.shape, u.shape, mask) == (100, (8, 20, 192), (8, 20, 5), None)
    assert (x.dtype, x.min() >= 0, x.max() <= 1) == (torch.float32, True, True)
    assert not torch.equal(x, later)
    again, steps, _ = rows.batch(torch.arange(50, 58), torch.Generator().set_state(begun))
    assert torch.equal(x, again)
    assert torch.equal(u, steps)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    rows.batch(torch.arange(3), generator)
    assert torch.equal(state, torch.get_rng_state())


def test_levels_are_floats_from_zero_to_one_wherever_frames_become_floats():
    some = walks(IMAGES, 3, 10)
    assert torch.equal(some.values.flatten(0, 1), some.frames.float() / 255)
    assert torch.equal(some.without_first().first, some.values[:, 0])
    cut = some.without_first().cut(4)
    assert torch.equal(cut.first[1], some.values[0, 4])
    assert torch.equal(cut.values[1], some.values[0, 5:9])
    padded = Sequences(some.frames, torch.tensor([10, 5, 15]), some.columns, num_levels=256)
    assert padded.values[1, 5:].abs().max() == 0
    assert videos(ROOMS["box"], 1, 2).values.max() == 1, "bits stay bits"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: walks(IMAGES.float(), 1), r"images: expected torch.uint8 .any, height, width.*, got torch.float"),
        (lambda: walks(IMAGES.flatten(1), 1), r"got torch.uint8 \(6, 3072\); levels.unflatten\(-1, shape\) makes"),
        (lambda: walks(IMAGES[:0], 1), "images: expected"),
        (lambda: walks(IMAGES, 1, crop=33), "images: expected at least 33 x 33 pixels"),
        (lambda: walks(noise_images(1, 6, 40), 1), "images: expected at least 8 x 8 pixels"),
        (lambda: walks(IMAGES, 0), "num: expected a whole number, at least 1, got 0"),
        (lambda: walks(IMAGES, True), "num: expected a whole number, at least 1, got True"),
        (lambda: walks(IMAGES, 1, 0), "T: expected a whole number, at least 1, got 0"),
        (lambda: walks(IMAGES, 1, seed=None), "seed: expected a whole number, at least 0, got None"),
        (lambda: walks(IMAGES, 1, crop=0), "crop: .* got 0"),
        (lambda: walks(IMAGES, 1, stride=1.5), "stride: .* got 1.5"),
        (lambda: walks(IMAGES, 1, repeat=-1.0), "repeat: expected a finite number, at least 0, got -1.0"),
        (lambda: walks(IMAGES, 1, noise=float("nan")), "noise: .* got nan"),
        (lambda: walks(IMAGES, 1, noise=float("inf")), "noise: .* got inf"),
        (lambda: destinations(9, 9, [((0, 0), (0, 2))]), r"blocked: expected pairs of neighbours in 9 x 9 .* \(0, 2\)"),
        (lambda: destinations(9, 9, [((0, 0), (1, 1))]), "blocked"),
        (lambda: destinations(9, 9, [((0, 8), (0, 9))]), "blocked"),
        (lambda: destinations(9, 9, [((0, 0), (0, 0))]), "blocked"),
        (lambda: destinations(9, 9, [(0, 1)]), "blocked"),
        (lambda: Fresh(partial(walks, IMAGES), 0), "num: expected a whole number, at least 1, got 0"),
        (
            lambda: Fresh(lambda num, seed: walks(IMAGES, 3, 2), 9).batch(torch.arange(4), torch.Generator()),
            r"Fresh: expected 4 sequences of make\(num=4\), got 3",
        ),
    ],
)
def test_what_cannot_be_walked_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
