"""Convolutional networks of pictures: the same functions as plain torch, in the order of memory that is fast."""

from functools import partial

import pytest
import torch
from torch import nn

import guides
from zoo import KVAE, MixedDynamics, load_pair, save_pair
from zoo.infer import ELBO
from zoo.parts.conditionals import Bernoulli
from zoo.parts.networks import ConvolutionalDecoder, ConvolutionalEncoder, Maps, ToPicture

PICTURE, FILTERS = Maps(16, 24, 3), (5, 4, 6)


def convolutions(network):
    return [part for part in network.modules() if isinstance(part, nn.Conv2d)]


def pictures(*lead):
    """Vectors `(*lead, length)`, and the same as torch has pictures, `(n, channels, height, width)`."""
    x = torch.randn(*lead, PICTURE, dtype=torch.float64)
    return x, x.reshape(-1, 16, 24, 3).permute(0, 3, 1, 2).contiguous()


def test_the_encoder_is_strided_convolutions():
    torch.manual_seed(0)
    encoder = ConvolutionalEncoder(PICTURE, FILTERS).double()
    x, h = pictures(2, 3)
    for layer, channels in zip(convolutions(encoder), FILTERS, strict=True):
        assert layer.weight.shape[0] == channels
        h = nn.functional.conv2d(h, layer.weight, layer.bias, stride=2, padding=1).relu()
    assert encoder.size == Maps(2, 3, 6)
    torch.testing.assert_close(encoder(x), h.permute(0, 2, 3, 1).reshape(2, 3, -1), rtol=0, atol=1e-13)


def test_the_decoder_is_the_paper_s_network_where_the_four_pixels_share_their_weights():
    """The paper spreads the channels of the last layer, too, and then makes the picture by a 1 x 1 convolution."""
    torch.manual_seed(0)
    decoder = ConvolutionalDecoder(2, PICTURE, FILTERS).double()
    layer = ToPicture(decoder.size, PICTURE, kernel=1).double()
    last, bias = torch.randn(3, 6, 1, 1, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    with torch.no_grad():
        # pixel_shuffle's order: the four channels of a pixel of 2 x 2 stand side by side, in inputs and in outputs
        shared = torch.einsum("oi,st->osit", last[..., 0, 0], torch.eye(4, dtype=torch.float64))
        (convolution,) = convolutions(layer)
        convolution.weight.copy_(shared.reshape(12, 24, 1, 1))
        layer.bias.copy_(bias.repeat(16 * 24))
    a = torch.randn(2, 1, 4, 2, dtype=torch.float64)
    h = decoder.network[0](a).reshape(-1, 2, 3, 5).permute(0, 3, 1, 2)
    for step, channels in zip(convolutions(decoder), FILTERS, strict=True):
        assert step.weight.shape[0] == 4 * channels
        h = nn.functional.pixel_shuffle(nn.functional.conv2d(h, step.weight, step.bias, padding=1).relu(), 2)
    expected = nn.functional.conv2d(h, last, bias).permute(0, 2, 3, 1).reshape(2, 1, 4, -1)
    assert (decoder.size, layer(decoder(a)).shape) == (Maps(8, 12, 24), (2, 1, 4, PICTURE))
    torch.testing.assert_close(layer(decoder(a)), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("filters", [(2,), (4, 4, 4)], ids=str)
def test_no_layer_copies_its_input(filters):
    """channels_last throughout: one layer that left it would double the time, and no other test would see it."""
    orders = []
    encoder, decoder = ConvolutionalEncoder(PICTURE, filters), ConvolutionalDecoder(2, PICTURE, filters)
    likelihood = Bernoulli(decoder.size, PICTURE, layer=partial(ToPicture, kernel=1))
    for network in (encoder, decoder, likelihood):
        for layer in convolutions(network):
            layer.register_forward_pre_hook(
                lambda _, given: orders.append(given[0].is_contiguous(memory_format=torch.channels_last))
            )
            layer.register_forward_hook(
                lambda _, given, h: orders.append(h.is_contiguous(memory_format=torch.channels_last))
            )
    encoder(pictures(2)[0].float())
    likelihood(decoder(torch.zeros(3, 1, 2)))
    assert orders == [True] * (4 * len(filters) + 2)


def test_a_pair_of_them_comes_back_from_its_folder(tmp_path):
    torch.manual_seed(0)
    encoder, decoder = ConvolutionalEncoder(PICTURE, (2, 3)), ConvolutionalDecoder(2, PICTURE, (3, 2))
    likelihood = Bernoulli(decoder.size, PICTURE, layer=partial(ToPicture, kernel=1))
    model = KVAE(MixedDynamics(2, 4, recurrent=3), decoder, likelihood, PICTURE)
    guide = guides.KalmanSmoother(model, encoder=encoder, context=encoder.size, family=guides.BoundedDiagonal)
    save_pair(tmp_path, model, guide)
    x, losses = torch.rand(2, 3, PICTURE).round(), []
    for pair in ((model, guide), load_pair(tmp_path)):
        torch.manual_seed(1)
        losses.append(ELBO()(*pair)(x))
    assert torch.equal(*losses)
    losses[0].backward()
    assert all(p.grad.isfinite().all() for network in (encoder, decoder, likelihood) for p in network.parameters())


NETWORKS = {"encoder": ConvolutionalEncoder, "decoder": partial(ConvolutionalDecoder, 2)}


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS.keys())
@pytest.mark.parametrize(
    ("picture", "filters", "error", "message"),
    [
        (1024, (8,), TypeError, r"picture: expected Maps\(height, width, channels\), got 1024"),
        (PICTURE, (), ValueError, r"filters: expected at least one, .* got \(\)"),
        (PICTURE, (8,) * 4, ValueError, r"filters: .* as many as Maps\(16, 24, 3\) can be halved, got \(8, 8, 8, 8\)"),
        (Maps(6, 8), (8, 8), ValueError, r"filters: .* as many as Maps\(6, 8, 1\) can be halved"),
        (PICTURE, (8, 0), ValueError, r"filters: expected widths >= 1, got \(8, 0\)"),
        (PICTURE, 8, TypeError, "filters: expected a tuple of layer widths .* got 8"),
        (PICTURE, (8.0,), TypeError, "filters: expected a tuple of layer widths"),
    ],
)
def test_sizes_that_do_not_fit_are_named(network, picture, filters, error, message):
    with pytest.raises(error, match=message):
        network(picture, filters)


def test_a_decoder_of_no_features_is_named():
    with pytest.raises(ValueError, match="in_features: expected a whole number, at least 1, got 0"):
        ConvolutionalDecoder(0, PICTURE, FILTERS)


@pytest.mark.parametrize("mean", [torch.tensor([0.5]), torch.full((4,), 128.0), torch.full((4,), torch.nan)])
def test_a_mean_that_is_none_of_bits_is_named(mean):
    with pytest.raises(ValueError, match=r"mean: expected shape \(4,\), values in \[0, 1\], got shape"):
        Bernoulli(3, 4, mean=mean)
