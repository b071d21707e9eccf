"""`Rays`: pictures as columns, columns as rays, and attention by their ends."""

import math

import pytest
import torch
import torch.nn.functional as F

from zoo.parts.networks import Maps
from zoo.parts.walking import Rays
from zoo.parts.walking.cloud import RAY, Cloud, tips
from zoo.parts.walking.rays import SideBySide, columns_of, rays

PICTURE = Maps(3, 4, 2)


def test_columns_of_a_picture_and_back(double_precision):
    x = torch.rand(2, 5, *(3, 4, 2))  # row by row, the channels of a pixel side by side
    columns = columns_of(x.flatten(2), PICTURE)
    assert columns.shape == (2, 5, 4, 6)
    assert torch.equal(columns[1, 2, 3], x[1, 2, :, 3].flatten())
    layer = SideBySide(6, PICTURE)
    with torch.no_grad():
        layer.column.weight.copy_(torch.eye(6))
        layer.column.bias.zero_()
    assert torch.equal(layer(columns), x.flatten(2))


def test_a_ray_s_bearing_is_that_of_a_column_of_a_flat_picture(double_precision):
    """The first column is the leftmost; the outer ones are the field of view apart."""
    recall = Rays(Maps(1, 5), field_of_view=2 * math.pi / 3, width=8)
    s = torch.tensor([[1.0, 2.0, math.pi / 6]])
    found = rays(s, recall.across)[0]
    bearing = torch.atan2(found[:, 3], found[:, 2])
    torch.testing.assert_close(bearing[[0, 2, 4]], torch.tensor([math.pi / 2, math.pi / 6, -math.pi / 6]))
    # equally far apart in the picture, hence in the tangents
    torch.testing.assert_close((bearing - s[0, 2]).tan().diff(), torch.full((4,), -(3**0.5) / 2))
    torch.testing.assert_close(found[:, :2], s[:, :2].expand(5, 2))
    torch.testing.assert_close(found[:, 5:], torch.stack([recall.across, recall.across.abs()], -1))


def test_the_distance_of_a_ray_s_line_from_the_origin_is_that_of_every_point_on_it(double_precision):
    s, across = torch.randn(2, 3, 3), torch.tensor([0.7, -0.2])
    found = rays(s, across)
    further = found[..., :2] + 1.7 * found[..., 2:4]
    moment = further[..., 0] * found[..., 3] - further[..., 1] * found[..., 2]
    torch.testing.assert_close(found[..., 4], moment, rtol=0, atol=1e-12)


def attended(cloud, stored, content, asked):
    """`Cloud`, pair by pair, as its docstring has it."""
    key, value, depth = cloud.stored(stored, cloud.seen(content)).split(cloud.parts, -1)
    query, expected = cloud.asked(asked).split([cloud.parts[0], 1], -1)
    origin = torch.zeros(2)
    square = (tips(asked, expected, origin)[:, None] - tips(stored, depth, origin)).square().sum(-1)
    out = []
    for h in range(cloud.heads):
        part, learned = slice(h * cloud.size, (h + 1) * cloud.size), cloud.size - 3
        k, q = (a[:, h * learned : (h + 1) * learned] for a in (key, query))
        logits = -(2 * cloud.sharpness[h]).exp() * square / 2 + q @ k.T / cloud.size**0.5
        out.append(logits.softmax(-1) @ value[:, part])
    return torch.cat(out, -1)


@pytest.mark.parametrize("heads", [1, 2])
def test_attention_is_by_the_distance_of_ends_and_a_learned_product(heads, double_precision):
    cloud = Cloud(6, width=8, heads=heads)
    stored, content, asked = torch.randn(7, RAY), torch.rand(7, 6), torch.randn(3, RAY)
    expected = attended(cloud, stored, content, asked)
    found = cloud(stored[None], content[None], asked[None])[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)
    # without a leading axis too
    torch.testing.assert_close(cloud(stored, content, asked), expected, rtol=0, atol=1e-11)


def test_a_single_stored_ray_is_all_that_is_told(double_precision):
    cloud = Cloud(6, width=8)
    stored, content, asked = torch.randn(1, 1, RAY), torch.rand(1, 1, 6), torch.randn(1, 5, RAY)
    value = cloud.stored(stored, cloud.seen(content)).split(cloud.parts, -1)[1]
    torch.testing.assert_close(cloud(stored, content, asked), value.expand(1, 5, 8), rtol=0, atol=1e-12)


def test_no_place_in_the_memory_at_all_is_no_nan():
    cloud = Cloud(6, width=8)
    mask = torch.tensor([[False] * 4, [True] * 4])
    content = torch.rand(2, 4, 6, requires_grad=True)
    found = cloud(torch.randn(2, 4, RAY), content, torch.randn(2, 3, RAY), mask)
    found.sum().backward()
    assert found.isfinite().all()
    assert content.grad.isfinite().all()


def test_ends_turn_and_shift_with_the_map(double_precision):
    s, across, depth = torch.randn(4, 3), torch.tensor([0.7, -0.2]), torch.randn(4, 2, 1)
    angle, shift = 1.1, torch.tensor([3.0, -2.0])
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    moved = torch.cat([s[:, :2] @ turn.T + shift, s[:, 2:] + angle], -1)
    before, after = (tips(rays(pose, across), depth, torch.zeros(2)) for pose in (s, moved))
    torch.testing.assert_close(after, before @ turn.T + shift, rtol=0, atol=1e-12)
    # as long as softplus says
    length = (before - s[:, None, :2]).norm(dim=-1)
    torch.testing.assert_close(length, F.softplus(depth + 0.5)[..., 0], rtol=0, atol=1e-12)


def test_attention_by_ends_alone_does_not_know_where_the_map_lies():
    """In single precision, a million units off: without the middle the distances would have lost all their digits."""
    torch.manual_seed(0)
    cloud = Cloud(6, width=8)
    with torch.no_grad():  # depths, keys, queries and values of their own, whatever the place
        for network in (cloud.stored, cloud.asked):
            network.head.weight.zero_()
            network.head.bias.normal_()
    s, at, across = torch.randn(1, 6, 3), torch.randn(1, 3, 3), torch.tensor([0.5, -0.5])
    content = torch.rand(1, 12, 6)
    shift = torch.tensor([2.0**20, -(2.0**20), 0.0])
    # places that the shift does not round
    s[..., :2], at[..., :2] = (s[..., :2] * 8).round() / 8, (at[..., :2] * 8).round() / 8
    with torch.no_grad():  # values by the frames, so that the weights show
        cloud.stored.head.weight[cloud.parts[0] : cloud.parts[0] + 8].normal_()
        cloud.stored.stage.inputs.layers[0].weight.zero_()
    one = cloud(*asked_about(s, content, at, across))
    two = cloud(*asked_about(s + shift, content, at + shift, across))
    torch.testing.assert_close(two, one, rtol=0, atol=1e-4)
    assert one.std(-2).max() > 0.01


def asked_about(s, content, at, across):
    return rays(s, across).flatten(-3, -2), content, rays(at, across).flatten(-3, -2)


def test_some_columns_of_each_stored_frame_in_training_mode_alone(double_precision):
    recall = Rays(Maps(3, 6, 2), columns=2, width=8)
    assert recall.chosen(4).tolist() == [[0, 3], [1, 4], [2, 5], [0, 3]]
    s, x, at = torch.randn(1, 4, 3), torch.rand(1, 4, 36), torch.randn(1, 2, 3)
    x.requires_grad_()
    for training in (True, False):
        recall.train(training)
        x.grad = None
        recall.emission(None, recall.context(s, x, at)).mean.sum().backward()
        looked = (columns_of(x.grad, recall.picture) != 0).any(-1)[0]
        expected = torch.ones(4, 6, dtype=torch.bool)
        if training:
            expected = torch.zeros(4, 6).scatter(1, recall.chosen(4), 1.0).bool()
        assert torch.equal(looked, expected)
    # those columns of those frames, and nothing else
    recall.train()
    each, columns = rays(s, recall.across), columns_of(x, recall.picture)
    stored, content = (torch.cat([v[:, t, [t % 3, t % 3 + 3]] for t in range(4)], 1) for v in (each, columns))
    told = recall.cloud(stored, content, rays(at, recall.across).flatten(1, 2))
    torch.testing.assert_close(recall.context(s, x, at)[..., :-RAY].flatten(1, 2), told, rtol=0, atol=1e-12)


def test_scores_of_all_pairs_of_rays_are_never_held():
    """Neither with particles nor without: no tensor has a tenth as many numbers as there are pairs of rays."""
    recall, largest = Rays(Maps(2, 32), width=8).eval(), 0

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            out = function(*args, **(kwargs or {}))
            for value in out if isinstance(out, tuple) else (out,):
                largest = max(largest, value.numel() if isinstance(value, torch.Tensor) else 0)
            return out

    with torch.no_grad(), Sizes():
        recall.context(torch.randn(1, 50, 3), torch.rand(1, 50, 64), torch.randn(1, 50, 3))
        recall.context(torch.randn(2, 1, 50, 3), torch.rand(1, 50, 64), torch.randn(2, 1, 50, 3))
    assert 0 < largest < (50 * 32) ** 2 / 10


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"picture": 24}, TypeError, r"picture: expected Maps\(height, width, channels\), got 24"),
        ({"picture": Maps(3, 1, 2)}, ValueError, r"picture: expected a width of at least two columns, got Maps\(3, 1"),
        ({"latent_dim": -1}, ValueError, "latent_dim: expected a whole number, at least 0, got -1"),
        ({"field_of_view": 0.0}, ValueError, "field_of_view: expected an angle between 0 and pi, got 0.0"),
        ({"field_of_view": math.pi}, ValueError, "field_of_view: expected an angle between 0 and pi, got 3.14"),
        ({"field_of_view": math.nan}, ValueError, "field_of_view: expected an angle between 0 and pi, got nan"),
        ({"columns": 0}, ValueError, "columns: expected a whole number, at least 1, got 0"),
        ({"columns": 3}, ValueError, "columns: expected a divisor of the picture's width, 4, got 3"),
        ({"columns": 8}, ValueError, "columns: expected a divisor of the picture's width, 4, got 8"),
        ({"width": 9}, ValueError, "width: expected at least four entries for each of 2 heads, got 9"),
        ({"width": 6}, ValueError, "width: expected at least four entries for each of 2 heads, got 6"),
        ({"heads": 0}, ValueError, "heads: expected a whole number, at least 1, got 0"),
    ],
)
def test_arguments_that_do_not_fit_are_named(given, error, message):
    with pytest.raises(error, match=message):
        Rays(**({"picture": PICTURE} | given))


def test_a_z_that_is_not_there_is_named():
    recall = Rays(PICTURE, width=8)
    c = recall.context(torch.randn(1, 2, 3), torch.rand(1, 2, 24), torch.randn(1, 1, 3))
    for ask in (recall.prior, recall.likeliest, lambda c: recall.posterior(torch.rand(1, 1, 24), c)):
        with pytest.raises(ValueError, match="Rays: there is no z, since latent_dim is 0"):
            ask(c)
