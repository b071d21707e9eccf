"""Frames that need no model: the mean of the memory, the frame that was seen nearest."""

import numpy as np
import pytest
import torch

from zoo.data.simulated.recollection import been_there, mean_seen, nearest_seen, squared_errors
from zoo.data.simulated.walks import walks

IMAGES = torch.from_numpy(np.random.RandomState(0).randint(0, 256, (5, 32, 32, 3), np.uint8))


def some(tau):
    walked = walks(IMAGES, 5, 300)
    return walked.values, walked.padded(walked.truth), tau


def test_the_nearest_frame_is_the_true_one_where_the_agent_has_been():
    frames, places, tau = some(200)
    found = nearest_seen(frames, places, tau)
    away = (places[:, tau:, None] - places[:, None, :tau]).square().sum(-1)
    been = away.amin(-1) == 0
    assert torch.equal(been_there(places, tau), been)
    assert 0.5 < been.double().mean() < 1
    error = squared_errors(found, frames[:, tau:])
    assert error[been].max() == 0
    # elsewhere a neighbour, whose pixels of noise are others
    assert error[~been].min() > 0.01
    for walk in range(5):
        for t in range(0, 100, 9):
            best = int(away[walk, t].argmin())
            assert torch.equal(found[walk, t], frames[walk, best])


def test_places_far_off_are_told_apart():
    frames = torch.arange(4.0).reshape(1, 4, 1)
    places = torch.tensor([[[1e4, 0.0], [1e4, 0.01], [1e4, 0.02], [1e4, 0.012]]])
    assert nearest_seen(frames, places, 3).item() == 1
    assert not been_there(places, 3)
    assert been_there(places, 3, within=0.01)


def test_the_mean_is_of_the_memorised_frames_of_each_walk():
    frames = torch.tensor([[[0.0, 1.0], [1.0, 2.0], [9.0, 9.0]], [[4.0, 4.0], [4.0, 8.0], [0.0, 0.0]]])
    assert mean_seen(frames, 2).tolist() == [[[0.5, 1.5]], [[4.0, 6.0]]]
    assert mean_seen(frames, 1).shape == (2, 2, 2)


def test_errors_are_means_over_pixels():
    assert squared_errors(torch.tensor([[[1.0, 0.0], [2.0, 2.0]]]), torch.zeros(1, 2, 2)).tolist() == [[0.5, 4.0]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_seen(torch.zeros(1, 3, 2), 3), "tau: expected 1 to 2 memorised frames of 3, got 3"),
        (lambda: mean_seen(torch.zeros(1, 3, 2), 0), "tau: .* got 0"),
        (lambda: nearest_seen(torch.zeros(1, 3, 2), torch.zeros(1, 3, 2), 4), "tau: .* got 4"),
        (lambda: nearest_seen(torch.zeros(1, 3, 2), torch.zeros(1, 2, 2), 1), r"places: expected .* got \(1, 2, 2\)"),
        (lambda: been_there(torch.zeros(1, 3, 2), 3), "tau: .* got 3"),
        (lambda: squared_errors(torch.zeros(1, 3, 2), torch.zeros(1, 2, 2)), r"predicted: expected shape \(1, 2, 2\)"),
    ],
)
def test_what_cannot_be_compared_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
