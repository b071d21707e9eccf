"""PixelCNN and MADE: causality, normalisation, draws that keep what they know, broadcasting, and refusals."""

import itertools
from functools import partial

import pytest
import torch
from scipy.stats import chi2
from torch.autograd.functional import jacobian

from zoo import Density
from zoo.parts.conditionals import MADE, PixelCNN
from zoo.parts.conditionals.autoregressive import pixel_cnn
from zoo.parts.distributions.autoregressive import draw_level, scaled

pytestmark = pytest.mark.usefixtures("double_precision")


def networks(levels, in_features=0):
    """A PixelCNN of 2 x 3 pixels and a MADE of 6 numbers."""
    return [
        PixelCNN(in_features, 6, shape=(2, 3), channels=4, layers=2, kernel=3, levels=levels),
        MADE(in_features, 6, hidden=(9, 7), levels=levels),
    ]


def seen_by(network, h=None):
    """Entry (d, e): some logit of entry d depends on entry e, `(D, D)`."""
    x = 2 * torch.rand(4, network.data_dim) - 1
    found = jacobian(lambda x: network.logits(x, h).abs().sum((0, 2)), x)
    return (found != 0).any(1)


@pytest.mark.parametrize(("layers", "kernel"), [(1, 3), (1, 5), (2, 3), (3, 3), (2, 5)])
def test_a_pixel_sees_its_receptive_field_and_no_other(layers, kernel):
    height, width, reach = 5, 6, layers * (kernel // 2)
    network = PixelCNN(0, height * width, shape=(height, width), channels=8, layers=layers, kernel=kernel)
    place = torch.arange(height * width)
    row, column = place // width, place % width
    above, aside = row[:, None] - row, (column[:, None] - column).abs()
    before = place[:, None] > place
    # the whole rectangle: one stack of convolutions alone would leave out what stands above and to the right
    assert torch.equal(seen_by(network), before & (above <= reach) & (aside <= reach))


@pytest.mark.parametrize("levels", [2, 3])
def test_an_output_of_made_sees_the_entries_before_it_alone(levels):
    assert torch.equal(seen_by(MADE(0, 5, hidden=(12,), levels=levels)), torch.ones(5, 5).tril(-1).bool())


@pytest.mark.parametrize("make", [lambda **k: PixelCNN(3, channels=3, layers=2, kernel=3, **k),
                                  lambda shape, **k: MADE(3, hidden=(12,), **k)])  # fmt: skip
@pytest.mark.parametrize(("levels", "shape"), [(2, (3, 3)), (3, (2, 2))])
def test_probabilities_of_all_pictures_sum_to_one(make, levels, shape):
    size = shape[0] * shape[1]
    network = make(data_dim=size, shape=shape, levels=levels)
    pictures = torch.tensor(list(itertools.product(range(levels), repeat=size)), dtype=torch.double)
    p = network(torch.randn(4, 1, 3)).log_prob(pictures).exp().sum(-1)
    torch.testing.assert_close(p, torch.ones(4), rtol=1e-12, atol=0)


@pytest.mark.parametrize("levels", [2, 4])
@pytest.mark.parametrize("in_features", [0, 3])
@pytest.mark.parametrize(
    ("shape", "layers", "kernel"), [((3, 5), 3, 3), ((4, 2), 2, 5), ((1, 6), 1, 3), ((6, 1), 2, 3)]
)
def test_draws_are_those_of_the_whole_network_for_each_pixel(levels, in_features, shape, layers, kernel):
    size = shape[0] * shape[1]
    network = PixelCNN(in_features, size, shape=shape, channels=3, layers=layers, kernel=kernel, levels=levels)
    for parameter in network.parameters():  # large, so that all terms matter
        parameter.data.mul_(3)
    uniform, h = torch.rand(8, size), torch.randn(8, in_features) if in_features else None
    expected = torch.zeros(8, size)
    with torch.no_grad():
        for d in range(size):
            logits = network.logits(scaled(expected, levels), h)[:, d]
            expected[:, d] = draw_level(logits, uniform[:, d])
        assert torch.equal(network.draw(uniform, h), expected)
    assert expected.unique().numel() > 1


def test_draws_have_the_probabilities_of_the_scores():
    # 81 pictures, two features: each statistic is chi-squared with 80 degrees; fails for 1 seed in 10^5 for each
    pictures = torch.tensor(list(itertools.product(range(3), repeat=4)), dtype=torch.double)
    powers = torch.tensor([27.0, 9.0, 3.0, 1.0])
    pixels = PixelCNN(2, 4, shape=(2, 2), channels=4, layers=2, kernel=3, levels=3)
    for network in (pixels, MADE(2, 4, hidden=(9,), levels=3)):
        p = network(torch.randn(2, 2))
        drawn = (p.sample((8000,)) @ powers).long()
        for k in range(2):
            expected = 8000 * network(p.h[k]).log_prob(pictures).exp()
            counts = torch.bincount(drawn[:, k], minlength=81)
            assert ((counts - expected) ** 2 / expected).sum() < chi2.ppf(1 - 1e-5, 80)


@pytest.mark.parametrize("levels", [2, 3])
@pytest.mark.parametrize("place", [0, 1], ids=["PixelCNN", "MADE"])
def test_particles_are_scored_as_one_by_one(levels, place):
    network = networks(levels, 3)[place]
    h, x = torch.randn(4, 5, 3), torch.randint(levels, (5, 6)).double()
    each = torch.stack([torch.stack([network(h[k, n]).log_prob(x[n]) for n in range(5)]) for k in range(4)])
    torch.testing.assert_close(network(h).log_prob(x), each, rtol=1e-12, atol=1e-12)
    # one h for all particles
    shared = network(h[0]).expand((4, 5))
    torch.testing.assert_close(shared.log_prob(x), each[:1].expand(4, 5), rtol=1e-12, atol=1e-12)
    assert shared.sample((2,)).shape == (2, 4, 5, 6)
    assert networks(levels)[place]().expand((4, 5)).log_prob(x).shape == (4, 5)


@pytest.mark.parametrize("in_features", [0, 3])
def test_pieces_change_nothing(in_features, monkeypatch):
    network = networks(3, in_features)[0]
    p = network(torch.randn(7, 3)) if in_features else network().expand((7,))
    with torch.no_grad():
        torch.manual_seed(1)
        x = p.sample()
        scores = p.log_prob(x)
        monkeypatch.setattr(pixel_cnn, "BYTES", 3 * 8 * 6 * (6 * 4 + 2 * 3))
        assert network.rows_at_once == 3
        torch.manual_seed(1)
        assert torch.equal(p.sample(), x)
        torch.testing.assert_close(p.log_prob(x), scores, rtol=1e-12, atol=1e-12)


def test_memory_of_a_pass_is_bounded():
    network = PixelCNN(0, 784, shape=(28, 28))
    assert 2**26 < network.rows_at_once * 8 * 784 * (6 * 16 + 2) <= 2**27
    assert MADE(0, 784, hidden=(784,)).rows_at_once > 1


def test_no_mean_but_an_error_with_the_name():
    with pytest.raises(NotImplementedError, match="PixelCNN: no closed form of the mean"):
        _ = networks(2)[0]().mean


PICTURE = {"shape": (2, 3)}


@pytest.mark.parametrize(("make", "message"), [
    (lambda: PixelCNN(0, 6, shape=(2, 2)), "shape: 2 x 2 pixels are 4 numbers, and data_dim is 6"),
    (lambda: PixelCNN(0, 6, shape=(1, 2, 3)), "shape: PixelCNN expects .* without channels, got"),
    (lambda: PixelCNN(0, 6, kernel=4, **PICTURE), "kernel: expected an odd width.*got 4"),
    (lambda: PixelCNN(0, 6, kernel=1, **PICTURE), "kernel: expected a whole number, at least 3, got 1"),
    (lambda: PixelCNN(0, 6, levels=1, **PICTURE), "levels: expected a whole number, at least 2, got 1"),
    (lambda: PixelCNN(0, 6, layers=0, **PICTURE), "layers: expected a whole number"),
    (lambda: PixelCNN(0, 6, channels=0, **PICTURE), "channels: expected a whole number"),
    (lambda: PixelCNN(-1, 6, **PICTURE), "in_features: expected a whole number, at least 0"),
    (lambda: MADE(0, 6, hidden=(5,)), r"hidden: MADE expects widths >= data_dim = 6, got \(5,\)"),
    (lambda: MADE(0, 6, hidden=()), r"hidden: MADE expects widths >= data_dim = 6, got \(\)"),
    (lambda: MADE(0, 6, hidden=(6,), levels=1), "levels: expected a whole number, at least 2"),
])  # fmt: skip
def test_bad_arguments_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_vector_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"PixelCNN: expected vectors \(..., 6\), got a value of shape \(3, 1\)"):
        networks(2)[0]().log_prob(torch.zeros(3, 1))


@pytest.mark.parametrize("make", [partial(PixelCNN, shape=(2, 3), channels=4, layers=1), partial(MADE, hidden=(6,))])
@pytest.mark.parametrize(("size", "given"), [(0, 3), (3, 0), (3, 2)])
def test_features_of_another_size_are_refused_by_name(make, size, given):
    """A network without features would leave them out without a word."""
    network = make(size, 6)
    with pytest.raises(ValueError, match=rf"{type(network).__name__} was built with in_features = {size}, and was"):
        network(*([torch.zeros(5, given)] if given else []))
    if not size:
        with pytest.raises(ValueError, match="in_features = 0, and was given 3 features"):
            Density(6, network, condition_dim=3)
