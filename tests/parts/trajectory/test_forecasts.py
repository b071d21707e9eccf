"""Moments and draws of forecasts and imputations: one contract for all state spaces, exact in `LGSSM`."""

import math

import pytest
import torch
from gaussian_pairs import Z_MAX
from pyro.distributions import LogNormal
from state_spaces import CONTROL, DATA, FRAMES, LATENT, SEQUENCES, STATE_SPACES, linear_gaussian

from guides import Exact, Smoother
from zoo import DMM, HMM, LGSSM, PPCA
from zoo.parts.conditionals import PoissonEmission
from zoo.parts.kalman import Forecast
from zoo.parts.structural import local_level

NUM, AHEAD = 4000, 2
#: two-sided failure rate below 6e-7 an entry, so below 1e-3 over the few hundred entries of a comparison
Z_ALL = 5.0
LENGTHS = torch.tensor([FRAMES, 2, 4, 1])
PADDING = torch.arange(FRAMES) < LENGTHS.unsqueeze(-1)

pytestmark = pytest.mark.usefixtures("double_precision")


def scores(draws, mean, covariance):
    """z-scores of the means and of the second moments of draws `(num, N, T, size)`."""
    variance, count = covariance.diagonal(dim1=-2, dim2=-1), len(draws)
    yield (draws.mean(0) - mean) / (variance / count).sqrt()
    away = draws - mean
    product = torch.einsum("snti,sntj->ntij", away, away) / count
    spread = covariance**2 + variance.unsqueeze(-1) * variance.unsqueeze(-2)
    yield (product - covariance) / (spread / count).sqrt()


def gaps(entries):
    mask = torch.rand(SEQUENCES, FRAMES, DATA) < 0.6 if entries else torch.rand(SEQUENCES, FRAMES) < 0.6
    mask[:, 0] = True
    return mask


def controls(frames):
    return torch.randn(SEQUENCES, frames, CONTROL)


@pytest.mark.parametrize("marginal", [True, False])
@pytest.mark.parametrize("entries", [None, False, True], ids=["all seen", "frames", "entries"])
@pytest.mark.parametrize("lead", [(), (SEQUENCES, FRAMES + AHEAD)], ids=["shared", "both"])
def test_exact_draws_have_the_exact_moments(lead, entries, marginal):
    model, x, u = linear_gaussian(lead=lead, marginal=marginal), torch.randn(SEQUENCES, FRAMES, DATA), controls(8)
    mask = None if entries is None else gaps(entries)
    if mask is not None:
        x = x.masked_fill(~(mask if entries else mask.unsqueeze(-1)), math.nan)
    with torch.no_grad():
        exact, draws = model.forecast(x, AHEAD, u, mask), model.sample_forecast(x, AHEAD, NUM, None, u, mask)
    assert draws.x.shape == (NUM, SEQUENCES, AHEAD, DATA)
    for values, *moments in ((draws.z, *exact[:2]), (draws.x, *exact[2:])):
        assert all(score.abs().max() < Z_ALL for score in scores(values, *moments))


@pytest.mark.parametrize("entries", [False, True])
def test_exact_imputations_are_draws_given_the_observed_entries(entries):
    model, x, u, mask = linear_gaussian(), torch.randn(SEQUENCES, FRAMES, DATA), controls(FRAMES), gaps(entries)
    seen = mask if entries else mask.unsqueeze(-1).expand(x.shape)
    x = x.masked_fill(~seen, math.nan)
    with torch.no_grad():
        draws, mean = model.sample_imputation(x, mask, None, NUM, u), model.impute(x, mask, u)
    assert all(torch.equal(draw[seen], x[seen]) for draw in draws.x[:3])
    assert draws.start.tolist() == [0] * SEQUENCES
    score = (draws.x.mean(0) - mean)[~seen] / (draws.x.std(0)[~seen] / math.sqrt(NUM))
    assert score.abs().max() < Z_MAX
    found = model.posterior(x, u, mask)
    assert all(s.abs().max() < Z_ALL for s in scores(draws.z, found.mean, found.covariances))


def test_draws_of_one_guide_and_exact_moments_agree():
    """`guide=` in a model that needs none: the same contract, from draws."""
    model, x = STATE_SPACES["lgssm"].build()[:2]
    u = controls(FRAMES + AHEAD)
    exact, found = model.forecast(x, AHEAD, u, PADDING), model.forecast(x, AHEAD, u, PADDING, guide=Exact(model),
                                                                       num=NUM)  # fmt: skip
    for mean, expected, covariance in ((found[0], *exact[:2]), (found[2], *exact[2:])):
        error = (covariance.diagonal(dim1=-2, dim2=-1) / NUM).sqrt()
        assert ((mean - expected) / error).abs().max() < Z_MAX


@pytest.mark.parametrize("name", ["dmm", "storn", "vrnn", "srnn", "driven", "feedback"])
def test_moments_are_those_of_the_draws(name):
    model, x, _ = STATE_SPACES[name].build()
    guide = Smoother(model, hidden=(5,), recurrent=4)
    torch.manual_seed(1)
    draws = model.sample_forecast(x, AHEAD, 30, guide, None, PADDING)
    torch.manual_seed(1)
    found = model.forecast(x, AHEAD, None, PADDING, guide=guide, num=30)
    assert isinstance(found, Forecast)
    for values, mean, covariance in ((draws.z, *found[:2]), (draws.x, *found[2:])):
        torch.testing.assert_close(mean, values.mean(0))
        torch.testing.assert_close(covariance[1, 1], values[:, 1, 1].T.cov())
    mask = PADDING.clone()
    mask[0, 2] = False
    hidden = x.masked_fill(~mask.unsqueeze(-1), math.nan)
    torch.manual_seed(2)
    drawn = model.sample_imputation(hidden, mask, guide, 5)
    torch.manual_seed(2)
    filled = model.impute(hidden, mask, guide=guide, num=5)
    assert torch.equal(filled[mask], x[mask])
    torch.testing.assert_close(filled[~mask], drawn.x.mean(0)[~mask])


def test_values_of_priors_are_taken_where_there_are_priors():
    prior, noise = LogNormal(0.0, 1.0), torch.tensor(0.5)
    model = LGSSM(local_level, priors={"level_variance": prior}, observation_variance=noise)
    plain, x = LGSSM(local_level, level_variance=torch.tensor(0.7), observation_variance=noise), torch.randn(2, 5, 1)
    mask, value = torch.arange(5) < torch.tensor([[5], [3]]), {"level_variance": torch.tensor(0.7)}
    for call in (
        lambda m, v: m.forecast(x, 2, None, mask, **v),
        lambda m, v: (m.impute(x, mask, **v),),
        lambda m, v: m.sample_forecast(x, 2, 3, None, None, mask, **v),
        lambda m, v: m.sample_imputation(x, mask, **v),
        lambda m, v: m.generate(2, 5, **v),
    ):
        torch.manual_seed(0)
        expected = call(plain, {})
        torch.manual_seed(0)
        assert all(torch.equal(a, b) for a, b in zip(call(model, value), expected, strict=True))


def test_a_level_without_noise_is_imputed_by_draws():
    """R = 0 and a state that hardly moves: covariances without an inverse."""
    model = LGSSM(local_level, level_variance=torch.tensor(1e-6), observation_variance=torch.tensor(0.0))
    x = torch.tensor([[[2.0], [math.nan], [2.0]]])
    draws = model.sample_imputation(x, ~x.isnan(), None, 50).x
    assert ((draws - 2.0).abs() < 0.01).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x, g: m.forecast(x, 2), "guide: missing, and DMM has no posterior in closed form; give guide="),
        (lambda m, x, g: m.impute(x, PADDING), "guide: missing, and DMM has no posterior in closed form"),
        (lambda m, x, g: m.sample_forecast(x, 2, 3), "guide: missing, and DMM has no posterior in closed form"),
        (lambda m, x, g: m.sample_imputation(x, PADDING), "guide: missing, and DMM has no posterior in closed form"),
        (lambda m, x, g: m.forecast(x, 2, guide=g, num=1), "num: expected a whole number, at least 2, got 1"),
        (lambda m, x, g: m.forecast(x, 2, guide=g, level=x), "level: not used by draws of a DMM"),
        (lambda m, x, g: m.impute(x, PADDING, guide=g, level=x), "level: not used by draws of a DMM"),
        (lambda m, x, g: m.generate(2, 3, level=x), "level: not used by draws of a DMM"),
        (lambda m, x, g: m.sample_forecast(x, 2, 3, g, None, x < 1), "mask: DMM takes whole frames"),
    ],
)
def test_what_does_not_fit_is_named(call, message):
    model, x, _ = STATE_SPACES["dmm"].build()
    with pytest.raises(ValueError, match=message):
        call(model, x, Smoother(model, hidden=(5,), recurrent=4))


def test_latents_of_a_forecast_have_their_size():
    model, x, u = STATE_SPACES["lgssm"].build()
    found = model.sample_forecast(x[:, :3], 3, 2, Smoother(model, hidden=(5,), recurrent=4), u)
    assert found.z.shape == (2, SEQUENCES, 3, LATENT)
    assert found.start.tolist() == [3] * SEQUENCES


@pytest.mark.parametrize(
    "fill",
    [
        lambda x: PPCA(DATA, 2).impute(x[0], None),
        lambda x: HMM(2, PoissonEmission(2, DATA)).impute(x, None),
        lambda x: HMM(2, PoissonEmission(2, DATA)).sample_imputation(x, None),
        lambda x: linear_gaussian().impute(x, None),
        lambda x: linear_gaussian().sample_imputation(x, None),
        lambda x: DMM(DATA, 2).impute(x, None, guide=lambda *args: None),
    ],
)
def test_gaps_are_filled_where_a_mask_says_so(fill):
    with pytest.raises(TypeError, match=r"mask: expected a boolean .*, got NoneType"):
        fill(torch.zeros(2, 4, DATA))
