"""Pictures of the deck, in small."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

import deck
import deck_pictures

from zoo.data import load
from zoo.infer import grid_reference


def test_the_page_asks_for_each_picture():
    asked = {name for system in deck.SYSTEMS.values() for name in system.pictures}
    assert {"deck_minima", "deck_flows", "deck_digits"} <= asked


def test_the_posterior_has_two_equal_modes():
    found = grid_reference(deck_pictures.Square(), torch.ones(1, 1))
    torch.testing.assert_close(found.mean[0, 0].item(), 0.0, atol=1e-3, rtol=0)
    assert found.sd[0, 0] > 0.7


@pytest.mark.thorough
def test_pictures_are_drawn():
    assert [ax.get_title() for ax in deck_pictures.minima(3, 0).axes][:2] == ["started left", "started right"]
    assert len(deck_pictures.flows(500, 0).axes) == 16
    digits = load("digits")
    left, right = deck_pictures.digits(digits.train[:300], digits.test[:100], 1, 0).axes
    assert len(left.lines) == deck_pictures.DIGITS
    assert right.images[0].get_array().shape == (15 * 8, 15 * 8)
