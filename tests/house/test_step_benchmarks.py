"""Programs that are timed beside one another compute the same."""

import sys
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from benchmarks import hierarchy_step, kvae_step, label_step, pixelcnn, walk_step  # noqa: E402

SMALL = label_step.Size(7, 6, 4, 16)


@pytest.fixture(autouse=True)
def _warnings_stay_as_they_were():
    # the program with Pyro's objective silences one of its warnings
    with warnings.catch_warnings():
        yield


@pytest.mark.thorough
def test_steps_of_labels_are_those_of_one_loss(monkeypatch):
    """By hand in both forms, the zoo's, Pyro's and a loop over the classes."""
    label_step.check(SMALL)
    bound = label_step.Looped.bound
    monkeypatch.setattr(label_step.Looped, "bound", lambda *args: bound(*args) + 0.01)
    with pytest.raises(AssertionError, match="not close"):
        label_step.check(SMALL)


@pytest.mark.thorough
@pytest.mark.parametrize("size", ["LVAE+, batch 128", "BIVA, batch 128"])
def test_steps_of_hierarchies_are_those_of_one_loss(size):
    hierarchy_step.check(hierarchy_step.SIZES[size])


@pytest.mark.thorough
@pytest.mark.parametrize("size", [*kvae_step.SIZES][:4])
def test_steps_of_a_kalman_vae_are_those_of_one_bound(size, monkeypatch):
    """By hand with filter and smoother, and with the filter alone, and the zoo's two forms."""
    kvae_step.check(kvae_step.SIZES[size])
    mixed = kvae_step.ByHand.matrices
    monkeypatch.setattr(kvae_step.ByHand, "matrices", lambda *args: tuple(1.01 * m for m in mixed(*args)))
    with pytest.raises(AssertionError, match="not close"):
        kvae_step.check(kvae_step.SIZES[size])


@pytest.mark.thorough
@pytest.mark.parametrize("size", [*walk_step.SIZES][:4])
def test_steps_of_walks_are_those_of_one_bound(size, monkeypatch):
    """Without walls, and with them in the two phases of the guide that watches: losses and gradients."""
    walk_step.check(walk_step.SIZES[size])
    walk = walk_step.ByHand.walk
    monkeypatch.setattr(walk_step.ByHand, "walk", lambda *args: (walk(*args)[0], walk(*args)[1] + 0.01))
    with pytest.raises(AssertionError, match="not close"):
        walk_step.check(walk_step.SIZES[size])


@pytest.mark.thorough
@pytest.mark.parametrize("levels", [2, 5])
def test_steps_and_draws_of_pictures_are_those_of_masked_convolutions(levels, monkeypatch):
    """By hand with masks and whole passes, and the zoo's: losses, gradients, draws."""
    size = pixelcnn.Size(6, 4, 3, 5, 7, draws=True, levels=levels)
    pixelcnn.check(size)
    logits = pixelcnn.ByHand.logits
    monkeypatch.setattr(pixelcnn.ByHand, "logits", lambda *args: 3 * logits(*args) + 1)
    with pytest.raises(AssertionError, match="not close"):
        pixelcnn.check(size)
