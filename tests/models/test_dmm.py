"""The deep Markov model: its linear case against LGSSM, its gate by hand, errors, NUTS."""

import math
from functools import partial

import pytest
import torch
from gaussian_pairs import Z_MAX
from pyro import poutine
from torch.nn import functional as F

from guides import Exact, Smoother
from zoo import DMM, LGSSM
from zoo.infer import ELBO, nuts_reference, terms
from zoo.infer.reference.reference import as_reference
from zoo.parts.conditionals import Normal
from zoo.parts.kalman import Parameters
from zoo.parts.transitions import FLOOR, GatedTransition, LinearTransition

N, T, DATA, LATENT = 4, 7, 3, 2

pytestmark = pytest.mark.usefixtures("double_precision")


def linear(**options):
    """A DMM that is linear, and the LGSSM that it is."""
    deep = DMM(DATA, LATENT, transition=LinearTransition, hidden=(), likelihood=Normal)
    with torch.no_grad():
        for parameter in deep.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    step, out = deep.step, deep.likelihood
    with torch.no_grad():
        variance = torch.diag((2 * step.log_scale).exp())
        known = LGSSM(
            Parameters,
            **options,
            initial_mean=step.linear(deep.z_0),
            initial_covariance=variance,
            transition_matrix=step.linear.weight.clone(),
            transition_bias=step.linear.bias.clone(),
            transition_covariance=variance,
            emission_matrix=out.loc.weight.clone(),
            emission_bias=out.loc.bias.clone(),
            emission_covariance=torch.diag((2 * out.log_scale).exp()),
        )
    return deep, known


def log_joint(model, z, *arguments):
    trace = poutine.trace(poutine.condition(model, {"z": z})).get_trace(*arguments)
    trace.compute_log_prob()
    return trace.nodes["z"]["log_prob"].sum() + trace.nodes["x"]["log_prob"].sum()


def padding(*lengths):
    return torch.arange(T) < torch.tensor(lengths).unsqueeze(-1)


# --- the linear case -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("mask", [None, padding(7, 3, 5, 1)], ids=["whole", "padded"])
def test_with_a_linear_transition_it_is_lgssm(dtype, tolerance, mask):
    models = [model.to(dtype) for model in linear(marginal=False)]
    x, z = torch.randn(N, T, DATA, dtype=dtype), torch.randn(N, T, LATENT, dtype=dtype)
    deep, known = (log_joint(model, z, x, None, mask) for model in models)
    assert deep.dtype == dtype
    assert abs(deep - known) <= tolerance * abs(known)


def test_the_exact_posterior_of_the_linear_case_makes_every_bound_the_evidence():
    """log p(x, z) - log p(z | x) = log p(x), for any z: no constant is missing anywhere."""
    deep, known = linear(marginal=False)
    x = torch.randn(N, T, DATA)
    run = terms(deep, Exact(known), x, num_particles=3)
    torch.testing.assert_close(run.log_weights, known.log_prob(x).expand(3, N))


def test_forecasts_of_the_linear_case_are_those_of_the_recursions():
    """z from the exact posterior; moments of 4,000 draws, of sequences that end at different times."""
    deep, known = linear(marginal=False)
    x, mask, num, horizon = torch.randn(N, T, DATA), padding(7, 3, 5, 1), 4000, 3
    draws = deep.sample_forecast(x, horizon, num, Exact(known), None, mask)
    assert draws.z.shape == (num, N, horizon, LATENT)
    assert draws.start.tolist() == [7, 3, 5, 1]
    for n, length in enumerate((7, 3, 5, 1)):
        exact = known.forecast(x[n : n + 1, :length], horizon)
        variance = exact.observation_covariances[0].diagonal(dim1=-2, dim2=-1)
        score = (draws.x[:, n].mean(0) - exact.observation_means[0]) / (variance / num).sqrt()
        assert score.abs().max() < Z_MAX
        assert ((draws.x[:, n].var(0) / variance - 1) * math.sqrt(num / 2)).abs().max() < Z_MAX
    lower, upper = draws.interval(0.8)
    inside = ((draws.x >= lower) & (draws.x <= upper)).double().mean()
    assert abs(inside - 0.8) < 2 / num + 1e-9


def test_imputation_of_the_linear_case_is_exact():
    deep, known = linear(marginal=False)
    x, num = torch.randn(N, T, DATA), 4000
    mask = torch.rand(N, T) < 0.6
    mask[:, 0] = True
    draws = deep.sample_imputation(x.masked_fill(~mask.unsqueeze(-1), math.nan), mask, Exact(known), num)
    assert torch.equal(draws.x[5][mask], x[mask])
    assert draws.start.tolist() == [0] * N
    expected = known.impute(x, mask)
    score = (draws.x.mean(0) - expected)[~mask] / (draws.x.std(0)[~mask] / math.sqrt(num))
    assert score.abs().max() < Z_MAX


# --- the gate --------------------------------------------------------------------------------------------------------


def test_the_gated_transition_is_the_papers():
    gated, z = GatedTransition(LATENT, (5, 4)), torch.randn(3, 6, LATENT)
    p = gated(z)
    g, h = torch.sigmoid(gated.gate(z)), gated.proposal(z)
    torch.testing.assert_close(p.mean, (1 - g) * gated.linear(z) + g * h)
    torch.testing.assert_close(p.variance, F.softplus(gated.variance(torch.relu(h))) + FLOOR)
    assert torch.equal(gated.linear(z), z), "the linear part starts as the identity"


def test_variances_stay_positive_however_far_a_network_goes():
    gated = GatedTransition(LATENT).float()
    with torch.no_grad():
        gated.variance.bias.fill_(-1e4)
    z = torch.randn(5, LATENT, dtype=torch.float32, requires_grad=True)
    p = gated(z)
    gradients = torch.autograd.grad(p.log_prob(torch.zeros_like(z)).sum(), [z, *gated.parameters()])
    assert p.scale.min() > 0
    assert all(g.isfinite().all() for g in gradients)


# --- the model -------------------------------------------------------------------------------------------------------


def small(**options):
    return DMM(DATA, LATENT, hidden=(6,), transition_hidden=(5,), **options)


def test_sizes_are_those_of_the_papers_example():
    model = DMM(88, 100)
    gates = 2 * (100 * 200 + 200 + 200 * 100 + 100) + 2 * (100 * 100 + 100)
    assert sum(p.numel() for p in model.parameters()) == gates + 100 * 100 + 100 + 100 * 88 + 88 + 100


def test_a_sequence_that_is_all_missing_has_evidence_one():
    """Its bound is 0, exactly; and it does not disturb the others."""
    model = small(likelihood=Normal)
    x, z, mask = torch.randn(N, T, DATA), torch.randn(N, T, LATENT), padding(7, 3, 5, 1)
    mask[1] = False
    s = model.states(z, x)
    scores = model.observation(z, s, mask).log_prob(x)
    assert scores[1] == 0
    assert (scores[[0, 2, 3]] != 0).all()


def test_values_that_are_not_finite_are_found():
    model, x = small(), torch.zeros(N, T, DATA)
    x[2, 3, 1] = math.nan
    with pytest.raises(ValueError, match="NaN or infinite in 1 observed frames, the first of them sequence 2, frame 3"):
        model(x)
    mask = torch.ones(N, T, dtype=torch.bool)
    mask[2, 3] = False
    model(x, None, mask)
    x[0, 1, 0] = math.inf
    with pytest.raises(ValueError, match="sequence 0, frame 1"):
        model(x, None, mask)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x, g: m.sample_forecast(x, 0, 3, g), "k: expected a whole number, at least 1, got 0"),
        (lambda m, x, g: m.sample_forecast(x, 3, 0, g), "num: expected a whole number, at least 1, got 0"),
        (lambda m, x, g: m.sample_forecast(x[0, 0], 3, 2, g), r"x: expected shape \(N, T, 3\)"),
        (lambda m, x, g: m.sample_forecast(x, 3, 2, lambda x: None), "guide: expected a site 'z', it samples none"),
        (lambda m, x, g: m.sample_imputation(x, x[..., 0], g), "mask: expected torch.bool"),
        (lambda m, x, g: m.sample_imputation(x, x < 2, g), "mask: DMM takes whole frames, shape"),
        (lambda m, x, g: m(x, x), "u: DMM takes no controls"),
        (lambda m, x, g: m(x[:2], None, None, m.given(x[:, 0])), r"carry.z: expected shape \(2, 2\) for 2 sequences"),
        (lambda m, x, g: m.extend(x[..., :2], x, 0), "k: expected a whole number, at least 1, got 0"),
        (lambda m, x, g: m.sample_forecast(x, 2, 2, g).interval(1.0), "mass: expected a number between 0 and 1"),
    ],
)
def test_what_does_not_fit_is_named(call, message):
    model = small()
    with pytest.raises(ValueError, match=message):
        call(model, torch.zeros(N, T, DATA), Smoother(model, recurrent=4))


def test_a_step_of_training_lowers_the_loss():
    model = small()
    x = (torch.rand(N, T, DATA) < 0.2).double()
    loss = ELBO(20)(model, Smoother(model, recurrent=5, hidden=(6,)))
    optimizer = torch.optim.Adam(loss.parameters(), 0.03)
    values = []
    for _ in range(40):
        optimizer.zero_grad()
        value = loss(x)
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert sum(values[-5:]) < 0.8 * sum(values[:5])


@pytest.mark.slow
def test_nuts_on_a_short_sequence_agrees_with_importance_sampling():
    """A nonlinear DMM: the means of z under NUTS and under self-normalised weights of many draws of the prior."""
    model = small(likelihood=partial(Normal, scale=0.7))
    x = model.generate(1, 3)[1]
    found = as_reference(nuts_reference(model, x, num_samples=300, warmup=200, chains=4, seed=1))
    with torch.no_grad():
        z, _ = model.generate(400_000, 3)
        s = model.states(z, x)
        weights = model.observation(z, s).log_prob(x.expand(len(z), -1, -1)).softmax(0)
        mean = (weights[:, None, None] * z).sum(0)
        variance = (weights[:, None, None] * (z - mean) ** 2).sum(0)
        error = ((weights**2)[:, None, None] * (z - mean) ** 2).sum(0)
    score = (found.mean[0] - mean.flatten()) / (error.flatten() + found.mean_error[0] ** 2).sqrt()
    assert score.abs().max() < Z_MAX
    assert (found.sd[0] / variance.sqrt().flatten() - 1).abs().max() < 0.15
