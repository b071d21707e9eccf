"""`Views`: combined views, in coordinates of the pose that is asked for."""

import math

import pytest
import torch

import guides
from zoo import GTMSM, HeadingStep, load_pair, save_pair
from zoo.infer import ELBO
from zoo.parts.walking import Views
from zoo.parts.walking.poses import on_circle, seen_from


def moved(s, angle, shift):
    """Poses after the map is turned about the origin, and shifted."""
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return torch.cat([s[..., :2] @ turn.T + torch.tensor(shift), s[..., 2:] + angle], -1)


def test_a_map_that_is_turned_and_shifted_makes_no_difference(double_precision):
    recall = Views(6, 2, neighbours=3, width=8)
    s, x, at = torch.randn(2, 5, 3), torch.rand(2, 5, 6), torch.randn(2, 4, 3)
    expected = recall.context(s, x, at)
    found = recall.context(moved(s, 0.8, (3.0, -5.0)), x, moved(at, 0.8, (3.0, -5.0)))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)


def test_a_pose_is_seen_from_another(double_precision):
    """An agent at (1, 2) that looks along the second axis: what is north of it lies ahead, what is west to its left."""
    at = torch.tensor([1.0, 2.0, math.pi / 2])
    s = torch.tensor([[1.0, 5.0, math.pi / 2], [-1.0, 2.0, 0.0], [1.0, 2.0, math.pi]])
    expected = torch.tensor([[3.0, 0, 1, 0], [0, 2, 0, -1], [0, 0, 0, 1]])
    torch.testing.assert_close(seen_from(at, s), expected)
    assert on_circle(s).shape == (3, 4)


def test_the_context_is_a_weighted_sum_over_the_nearest(double_precision):
    recall = Views(6, 2, neighbours=2, width=8)
    s, x = torch.tensor([[[0.0, 0, 0], [9, 9, 0], [0.1, 0, 0]]]), torch.rand(1, 3, 6)
    at = torch.tensor([[[0.0, 0.2, 0.1]]])
    nearest = torch.tensor([0, 2])
    views = recall.placed(recall.glance(x[0, nearest]), seen_from(at[0], s[0, nearest]))
    square = (on_circle(s[0, nearest]) - on_circle(at[0])).square().sum(-1)
    weights = recall.trust(views)[:, 0].exp() / (square + 1e-4)
    torch.testing.assert_close(recall.context(s, x, at)[0, 0], weights / weights.sum() @ views, rtol=0, atol=1e-12)


def test_a_pair_comes_back_from_its_folder(tmp_path):
    model = GTMSM(HeadingStep((0, 1), (1, 0)), memorise=3, recall=Views(6, 2, neighbours=2, width=8))
    save_pair(tmp_path, model, guides.Remembering(model))
    x, u, losses = torch.rand(2, 5, 6), torch.eye(2).repeat(2, 3, 1)[:, :5], []
    for pair in ((model, guides.Remembering(model)), load_pair(tmp_path)):
        torch.manual_seed(1)
        losses.append(ELBO()(*pair)(x, u))
    assert torch.equal(*losses)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"data_dim": 0}, "data_dim: expected a whole number, at least 1, got 0"),
        ({"latent_dim": 0}, "latent_dim: expected a whole number, at least 1, got 0"),
        ({"neighbours": 0}, "neighbours: expected a whole number, at least 1, got 0"),
        ({"width": 1}, "width: expected a whole number, at least 2, got 1"),
    ],
)
def test_sizes_that_do_not_fit_are_named(given, message):
    with pytest.raises(ValueError, match=message):
        Views(**({"data_dim": 6} | given))


def test_more_neighbours_than_frames_are_named():
    recall = Views(6, 2, neighbours=4, width=8)
    with pytest.raises(ValueError, match="neighbours: expected at most 3"):
        recall.context(torch.randn(1, 3, 3), torch.rand(1, 3, 6), torch.randn(1, 1, 3))
