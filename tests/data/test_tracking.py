"""Positions of the ball in pictures, and the measures of pictures and latents."""

import numpy as np
import pytest
import torch

from zoo.data.simulated.balls import ROOMS, videos
from zoo.data.simulated.tracking import (
    distance,
    hamming,
    hamming_baselines,
    linear_r2,
    planning_mask,
    positions,
    straight_line,
)  # fmt: skip

BOX = ROOMS["box"]
SEEN = torch.ones(1, 2, dtype=torch.bool)


def some(name="box", num=60, seed=0):
    sequences = videos(ROOMS[name], num, seed=seed)
    return sequences.values, sequences.padded(sequences.truth)[..., :2]


def test_a_gap_is_where_it_is_said():
    mask = planning_mask(2, 12)
    assert mask.tolist() == [[True] * 4 + [False] * 12 + [True] * 4] * 2
    assert planning_mask(1, 2, 4, 1).tolist() == [[True, False, False, True]]


@pytest.mark.parametrize("name", ROOMS)
def test_a_ball_is_found_in_its_own_frame(name):
    frames, true = some(name)
    # pixels of a disc; in the polygon those beside a slanting wall are left out as the wall's
    assert distance(positions(frames, ROOMS[name]), true, torch.zeros(60, 20, dtype=torch.bool)) < 0.2
    assert (positions(frames, ROOMS[name]) - true).abs().max() < 0.75


def test_walls_paddles_and_greys_do_not_move_the_ball():
    frames, _ = some("pong", 5)
    room = ROOMS["pong"]
    found, outside = positions(frames, room), torch.from_numpy(~room.interior).flatten()
    assert torch.equal(positions(frames.masked_fill(outside, 1.0), room), found)
    torch.testing.assert_close(positions(0.1 * frames, room), found, atol=1e-3, rtol=0)
    assert positions(torch.zeros(1, 1, 1024), room).tolist() == [[[16, 16]]]


def test_the_straight_line_joins_the_frames_around_a_gap():
    place = torch.tensor([[[0.0, 9], [1, 8], [7, 7], [6, 2], [5, 1]]])
    mask = torch.tensor([[False, True, False, False, True]])
    assert torch.equal(
        straight_line(place, mask)[0, 1:], torch.tensor([[1, 8], [7 / 3, 17 / 3], [11 / 3, 10 / 3], [5, 1]])
    )
    assert straight_line(place, mask)[0, 0].tolist() == [1, 8], "it stands still before the first"
    assert place[0, 0].tolist() == [0, 9], "the caller's own stay"


def test_distances_are_of_frames_that_are_not_seen():
    true = torch.zeros(1, 3, 2)
    found = torch.tensor([[[9.0, 9], [3, 4], [0, 1]]])
    assert distance(found, true, torch.tensor([[True, False, False]])) == 3.0


def test_hamming_counts_wrong_pixels_of_frames_that_are_not_seen():
    frames = torch.zeros(1, 2, 1024)
    grey = torch.full_like(frames, 0.4)
    grey[0, 1, :8] = 0.6
    assert hamming(grey, frames, torch.tensor([[True, False]])) == 8 / 1024
    assert hamming(grey, frames, torch.tensor([[False, False]])) == 4 / 1024


def test_a_picture_without_a_ball_passes_the_papers_baseline():
    """No ball: 9 pi of 1,024 pixels. Two frames without common pixels: about twice that."""
    frames, _ = some(num=400)
    found = hamming_baselines(frames, BOX, planning_mask(400, 12))
    # the areas of 4,800 discs of pixels, which vary by less than 1.3 pixels
    assert abs(found.walls_only - 9 * np.pi / 1024) < 4.5 * 1.3 / 1024 / 4800**0.5
    assert 1.9 * found.walls_only < found.paper < 2.2 * found.walls_only
    shifted = frames.unflatten(-1, (32, 32)).roll(3, -1).flatten(-2)
    assert hamming(shifted, frames, planning_mask(400, 12)) > found.walls_only


def test_positions_are_read_off_linearly():
    _, true = some(num=200)
    turned = true @ torch.tensor([[0.3, -1.0, 2.0], [1.0, 0.4, 0.1]]) + 5
    assert linear_r2(turned, true) == pytest.approx(1)
    # noise of the variance of the positions, in each direction: half of what is read off
    noise = torch.randn(true.shape, generator=torch.Generator().manual_seed(0)) * true.std((0, 1))
    assert linear_r2(true + noise, true) == pytest.approx(0.5, abs=0.05)
    folded = (true - 16).abs()
    assert linear_r2(folded, true) < 0.1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: planning_mask(1, 0), "missing: expected 1 to 16 frames after 4 of 20, got 0"),
        (lambda: planning_mask(1, 17), "got 17"),
        (lambda: planning_mask(1, 1, seen=-1), "after -1 of 20"),
        (lambda: positions(torch.zeros(1, 20, 1024, dtype=torch.uint8), BOX), "expected floats .* got torch.uint8"),
        (lambda: hamming(torch.zeros(1, 32, 32), torch.zeros(1, 32, 32), torch.ones(1, 32)), r"got .* \(1, 32, 32\)"),
        (
            lambda: straight_line(torch.zeros(2, 2, 2), torch.tensor([[True, True], [False, False]])),
            "sequence 1 has no",
        ),
        (lambda: distance(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2), SEEN), "mask: every frame is seen"),
        (lambda: hamming(torch.zeros(1, 2, 1024), torch.zeros(1, 2, 1024), SEEN), "mask: every frame is seen"),
        (lambda: distance(torch.zeros(1, 2, 2), torch.zeros(3, 2, 2), ~torch.ones(3, 2).bool()), "found: expected"),
        (lambda: distance(torch.zeros(3, 2, 2), torch.zeros(3, 2, 2), ~torch.ones(3, 1).bool()), r"mask \(3, 1\)"),
        (lambda: hamming(torch.zeros(1, 2, 1024), torch.zeros(3, 2, 1024), ~SEEN), r"pictures: .* \(3, 2, 1024\)"),
        (lambda: hamming_baselines(torch.zeros(1, 9, 1024), BOX, ~SEEN), r"at least 16 time steps, .* got 9"),
        (lambda: linear_r2(torch.zeros(1, 2, 3), torch.zeros(1, 2, 2)), r"two sequences or more, got \(1, 2, 3\)"),
        (lambda: linear_r2(torch.zeros(4, 2, 3), torch.zeros(4, 3, 2)), r"beside positions \(4, 3, 2\)"),
    ],
)
def test_what_cannot_be_measured_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
