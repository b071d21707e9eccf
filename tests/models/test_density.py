"""Density: exact under every objective, conditions, refusals; PixelVAE, VLAE and decoders of one's own."""

from functools import partial

import pyro
import pytest
import torch
from torch import nn

import guides
from zoo import VAE, Density
from zoo.data import dequantise
from zoo.infer import ELBO, bits_per_dim, fit, kl_per_site, log_likelihood
from zoo.parts.conditionals import MADE, FlowPrior, Logit, MAFPrior, Normal, PixelCNN
from zoo.parts.networks import ConvolutionalDecoder, Maps, ToPicture

picture = partial(PixelCNN, shape=(2, 3), channels=4, layers=2, kernel=3)
BITS = (torch.rand(5, 6, generator=torch.Generator().manual_seed(0)) < 0.5).float()
REALS = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))


def test_all_figures_of_a_pair_without_latents():
    model = Density(6, picture(0, 6))
    guide, exact = guides.Empty(model), model.log_prob(BITS).detach()
    found = log_likelihood(model, guide, BITS, num_particles=5000)
    torch.testing.assert_close(found.per_datum.float(), exact, rtol=1e-5, atol=1e-5)
    assert (found.num_particles, found.monte_carlo_error) == (1, 0)
    assert kl_per_site(model, guide, BITS) == {}
    assert model.log_prob(BITS.expand(3, 5, 6)).shape == (3, 5)


def test_training_makes_the_data_likelier():
    torch.manual_seed(0)
    model = Density(6, picture(0, 6))
    before = model.log_prob(BITS).sum().item()
    fit(ELBO()(model, guides.Empty(model)), BITS, steps=2, progress=False)
    assert model.log_prob(BITS).sum().item() > before


def test_a_conditional_density_reads_its_condition():
    model = Density(6, picture(3, 6), condition_dim=3)
    y = torch.tensor([0, 1, 2, 0, 1])
    by_class = model.log_prob(BITS, y)
    torch.testing.assert_close(by_class, model.log_prob(BITS, torch.eye(3)[y]))
    assert not torch.allclose(by_class, model.log_prob(BITS, y.flip(0) * 0))
    torch.testing.assert_close(-ELBO()(model, guides.Empty(model))(BITS, y=y), by_class.sum())
    latents, x = model.generate(2, torch.tensor(1))
    assert (latents, x.shape) == ({}, (2, 6))


def test_generation():
    model = Density(6, Logit(FlowPrior(6)))
    assert model.generate(3)[1].shape == pyro.poutine.uncondition(model)(torch.zeros(3, 6)).shape == (3, 6)


def test_nats_of_the_unit_interval_are_bits_of_levels():
    # p(x) = 1 on (0, 1)^6 says P(k) = 4^-6: two bits for each of the entries
    model = Density(6, Logit(Uniform(), margin=0.0))
    x = dequantise(torch.randint(4, (5, 6)), seed=0, num_levels=4)
    torch.testing.assert_close(model.log_prob(x), torch.zeros(5), rtol=0, atol=1e-4)
    assert bits_per_dim(model.log_prob(x).mean().item(), 6, levels=4) == pytest.approx(2.0, abs=1e-4)


class Uniform(nn.Module):
    """A standard logistic density: its logits are uniform."""

    def forward(self):
        unit = torch.distributions.transforms.SigmoidTransform().inv
        uniform = torch.distributions.Uniform(torch.zeros(6), torch.ones(6))
        return pyro.distributions.TransformedDistribution(pyro.distributions.Independent(uniform, 1), [unit])


class Sampling(nn.Module):
    def forward(self):
        z = pyro.sample("z", pyro.distributions.Normal(torch.zeros(6), 1.0).to_event(1))
        return pyro.distributions.Normal(z, 1.0).to_event(1)


class Nothing(nn.Module):
    def forward(self):
        return torch.zeros(6)


@pytest.mark.parametrize(("make", "error", "message"), [
    (lambda: Density(6, FlowPrior), TypeError, "conditional: expected a module such as FlowPrior"),
    (lambda: Density(6, VAE(6, 2)), ValueError, "conditional: VAE is a model; a Density has no latents"),
    (lambda: Density(6, Sampling()), ValueError, "conditional: Sampling samples site 'z'; a Density has no latents"),
    (lambda: Density(6, FlowPrior(5)), ValueError, r"event shape \(6,\) from FlowPrior, got event shape \(5,\)"),
    (lambda: Density(6, Nothing()), ValueError, r"event shape \(6,\) from Nothing, got Tensor"),
    (lambda: Density(6, FlowPrior(6), condition_dim=3), ValueError, "condition_dim: FlowPrior takes no condition"),
    (lambda: guides.Amortized(Density(6, FlowPrior(6))), ValueError, "Amortized: Density has no latent_dim"),
    (lambda: VAE(6, 2, decoder=nn.Linear(2, 4)), ValueError, "`decoder` and `features` .* come together"),
    (lambda: VAE(6, 2, decoder=lambda z: z, features=2), TypeError, "decoder: expected a module such as"),
    (lambda: VAE(6, 2, features=4), ValueError, "`decoder` and `features` .* come together"),
])  # fmt: skip
def test_wrong_parts_are_refused_by_name(make, error, message):
    with pytest.raises(error, match=message):
        make()


def loss_of(model):
    return ELBO()(model, guides.Empty(model))


FLOW, UNIT = Density(6, FlowPrior(6)), Density(6, Logit(FlowPrior(6)))
AR, LEVELS = Density(6, MADE(0, 6, hidden=(6,))), Density(6, picture(0, 6, levels=4))


@pytest.mark.parametrize(("model", "x", "message"), [
    (LEVELS, BITS * 4, r"site 'x': Autoregressive has support .*the observed values lie outside in rows 0, 1, 2, 3"),
    (LEVELS, BITS - 1, r"outside in rows 0, 1, 2, 3"),
    (LEVELS, BITS * 0.9 + 0.05, "Levels are whole numbers .* dequantised pixels need a density"),
    (AR, BITS * 0.9 + 0.05, "dequantised ones a density"),
    (UNIT, BITS, "Levels need dequantising"),
    (UNIT, 3 * BITS, "Levels need dequantising"),
])  # fmt: skip
def test_values_of_the_other_kind_are_refused(model, x, message):
    with pytest.raises(ValueError, match=message):
        loss_of(model)(x)
    with pytest.raises(ValueError, match=r"x: values outside .* in rows 0, 1, 2, 3"):
        model.log_prob(x)


def test_levels_under_a_density_of_real_numbers_are_refused():
    for score in (loss_of(FLOW), FLOW.log_prob):
        with pytest.raises(ValueError, match=r"x: whole numbers alone, and FlowPrior .*zoo.data.Dequantised"):
            score(BITS)
    assert FLOW.log_prob(torch.zeros(2, 6)).isfinite().all()
    assert FLOW.log_prob(REALS).isfinite().all()
    with pyro.validation_enabled(False):
        assert FLOW.log_prob(BITS).isfinite().all()


@pytest.mark.parametrize(("model", "x"), [(FLOW, REALS), (LEVELS, BITS)])
def test_a_mask_is_refused_with_the_reason(model, x):
    with pytest.raises(ValueError, match="mask: the entries of x are not independent"):
        model(x, torch.ones(5, 6, dtype=torch.bool))


def test_a_guide_that_samples_is_refused():
    model = Density(6, FlowPrior(6))
    with pytest.raises(ValueError, match="'z'"):
        ELBO()(model, guides.Amortized(VAE(6, 2, (4,), likelihood=Normal), hidden=(4,)))(REALS)


def test_a_decoder_of_ones_own():
    decoder = ConvolutionalDecoder(2, Maps(8, 8), (3, 3))
    emission = partial(Normal, layer=partial(ToPicture, kernel=1))
    model = VAE(Maps(8, 8), 2, decoder=decoder, features=decoder.size, likelihood=emission)
    x = torch.randn(3, 64)
    ELBO()(model, guides.Amortized(model, hidden=(4,)))(x).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert model.generate(2)[1].shape == (2, 64)
    wrong = VAE(6, 2, decoder=nn.Linear(2, 4), features=5)
    with pytest.raises(ValueError, match=r"decoder: expected features of shape \(3, 5\) from Linear, got \(3, 4\)"):
        wrong(torch.zeros(3, 6))
    # a row of features for several rows of z would be taken for all of theirs
    mixing = VAE(6, 2, decoder=nn.Sequential(nn.Flatten(0), nn.Linear(6, 5)), features=5)
    with pytest.raises(ValueError, match=r"decoder: expected features of shape \(3, 5\) from Sequential, got \(5,\)"):
        mixing(torch.zeros(3, 6))


def test_a_pixel_vae_uses_its_latent_and_the_pixels():
    torch.manual_seed(0)
    model = VAE(6, 2, (4,), likelihood=partial(picture, layers=1), prior=MAFPrior(2, num_flows=2, hidden=(4,)))
    z = torch.randn(7, 5, 2)
    scores = model.likelihood(z).log_prob(BITS)
    assert scores.shape == (7, 5)
    torch.testing.assert_close(scores[3, 2], model.likelihood(z[3, 2]).log_prob(BITS[2]))
    assert (scores.std(0) > 0).all()
