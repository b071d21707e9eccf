"""`LGSSM` and its distributions against the dense joint Gaussian; EM, maximum likelihood, priors, NUTS."""

import copy
import math

import dense_gaussian as dense
import pyro
import pyro.distributions as dist
import pytest
import torch
from gaussian_pairs import Z_MAX
from pairs import OBJECTIVES
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer import Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal
from pyro.nn import PyroParam
from state_spaces import CONTROL, DATA, FRAMES, LATENT, SEQUENCES, linear_gaussian, positive
from statsmodels.tsa.api import UnobservedComponents
from torch import nn
from torch.distributions import MultivariateNormal

import guides
from zoo import LGSSM
from zoo.data import load
from zoo.infer import ELBO, em, exact_reference, fit, nuts_reference, terms
from zoo.infer.reference.inference_data import diagnose, site_draws
from zoo.parts.kalman import Parameters
from zoo.parts.kalman.distributions import GaussianFrames, LinearGaussian, LinearGaussianPosterior
from zoo.parts.structural import local_level

LEADS = {"shared": (), "in time": (FRAMES,), "per sequence": (SEQUENCES, 1), "both": (SEQUENCES, FRAMES)}

pytestmark = pytest.mark.usefixtures("double_precision")


def masks():
    """None, whole frames, single entries with an empty frame and padding."""
    frames = torch.rand(SEQUENCES, FRAMES) < 0.6
    entries = torch.rand(SEQUENCES, FRAMES, DATA) < 0.6
    entries[0, 3:] = False
    entries[1, 2] = False
    return {"all seen": None, "frames": frames, "entries": entries}


def data(mask=None):
    """Data with NaN where they are missing, and controls."""
    x, u = torch.randn(SEQUENCES, FRAMES, DATA), torch.randn(SEQUENCES, FRAMES, CONTROL)
    if mask is not None:
        x = x.masked_fill(~(mask if mask.ndim == 3 else mask.unsqueeze(-1)), math.nan)
    return x, u


every_lead = pytest.mark.parametrize("lead", LEADS.values(), ids=LEADS)
every_mask = pytest.mark.parametrize("missing", ["all seen", "frames", "entries"])


# --- against the dense joint Gaussian --------------------------------------------------------------------------------


@every_lead
@every_mask
def test_both_forms_and_their_methods_equal_the_dense_gaussian(lead, missing):
    model = linear_gaussian(lead=lead)
    summed = LGSSM(Parameters, **dict(model.named_parameters()))
    mask = masks()[missing]
    x, u = data(mask)
    p = model.system()
    log_p = dense.marginal_loglik(p, x, u, mask)
    torch.testing.assert_close(model.log_prob(x, u, mask), log_p)
    trace = poutine.trace(summed).get_trace(x, u, mask)
    trace.compute_log_prob()
    assert set(trace.observation_nodes) == {"x"}
    assert not trace.stochastic_nodes or trace.stochastic_nodes == ["data"]
    torch.testing.assert_close(trace.nodes["x"]["log_prob"], log_p)

    z = torch.randn(SEQUENCES, FRAMES, LATENT)
    trace = poutine.trace(poutine.condition(model, {"z": z})).get_trace(x, u, mask)
    trace.compute_log_prob()
    joint = trace.nodes["z"]["log_prob"] + trace.nodes["x"]["log_prob"]
    torch.testing.assert_close(joint, dense.log_joint(p, z, x, u, mask))

    found = dense.smoother(p, x, u, mask)
    posterior = model.posterior(x, u, mask)
    torch.testing.assert_close(posterior.mean, found.smoothed_means)
    torch.testing.assert_close(posterior.covariances, found.smoothed_covariances)
    torch.testing.assert_close(posterior.variance, posterior.covariances.diagonal(dim1=-2, dim2=-1))
    whole = MultivariateNormal(found.smoothed_means.flatten(-2), found.joint_covariance)
    torch.testing.assert_close(posterior.log_prob(z), whole.log_prob(z.flatten(-2)))


@every_lead
@every_mask
@pytest.mark.parametrize("particles", [1, 4])
def test_with_the_exact_guide_every_weight_is_log_p(lead, missing, particles):
    model = linear_gaussian(lead=lead)
    mask = masks()[missing]
    x, u = data(mask)
    log_p = model.log_prob(x, u, mask)
    for seed in range(3):
        torch.manual_seed(seed)
        run = terms(model, guides.Exact(model), x, u, mask, num_particles=particles)
        torch.testing.assert_close(run.log_weights, log_p.expand(particles, -1), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("word", [word for word in OBJECTIVES if word not in ("analytic_kl", "tempered")])
def test_with_the_exact_guide_every_bound_is_log_p_and_so_is_its_gradient(word):
    """The gradient of every bound is that of log p(x) at the exact posterior, whatever estimates it.

    Not so for the plain and the sticking ELBO, whose gradients are right on average only.
    """
    model = linear_gaussian()
    x, u = data()
    log_p = model.log_prob(x, u).sum()
    value = OBJECTIVES[word]()(model, guides.Exact(model))(x, u)
    torch.testing.assert_close(-value, log_p, rtol=1e-10, atol=1e-10)
    parameters = list(model.parameters())
    if word not in ("sticking", "doubly"):
        expected = torch.autograd.grad(log_p, parameters)
        for one, other in zip(torch.autograd.grad(-value, parameters), expected, strict=True):
            torch.testing.assert_close(one, other)


def of_sequence(p, n, T):
    """The parameters of one sequence and its first T frames."""
    found = {}
    for name, value in p._asdict().items():
        timed, event = not name.startswith("initial"), 2 if name.endswith(("matrix", "covariance", "input")) else 1
        if value.ndim > event + timed:
            value = value[n]
        found[name] = value[:T] if timed and value.ndim > event and len(value) > 1 else value
    return Parameters(**found)


@every_lead
@every_mask
def test_forecasts_follow_the_last_observed_frame(lead, missing):
    """Each sequence alone, without what comes after its last observation; controls and parameters of those frames."""
    k = 2
    lead = (*lead[:-1], FRAMES + k) if lead and lead[-1] > 1 else lead
    model, mask = linear_gaussian(lead=lead), masks()[missing]
    x, _ = data(mask)
    u = torch.randn(SEQUENCES, FRAMES + k, CONTROL)
    p, found = model.system(), model.forecast(x, k, u, mask)
    for n in range(SEQUENCES):
        seen = torch.ones(FRAMES, DATA, dtype=torch.bool) if mask is None else mask[n]
        seen = seen if seen.ndim == 2 else seen.unsqueeze(-1).expand(FRAMES, DATA)
        end = int(seen.any(-1).nonzero().max()) + 1
        own = of_sequence(p, n, end + k)
        expected = dense.forecast(own, x[n, :end], k, u[n, : end + k], seen[:end])
        for name in found._fields:
            torch.testing.assert_close(getattr(found, name)[n], getattr(expected, name))


def test_a_sequence_observed_nowhere_is_forecast_from_its_start():
    model = linear_gaussian()
    x, u = torch.full((2, FRAMES, DATA), math.nan), torch.randn(2, FRAMES + 3, CONTROL)
    mask = torch.zeros(2, FRAMES, dtype=torch.bool)
    x[1, 0], mask[1, 0] = 1.0, True
    found, joint = model.forecast(x, 3, u, mask), dense.joint(model.system(), 3, u[:, :3])
    torch.testing.assert_close(found.observation_means[0], joint.mean[0, 3 * LATENT :].unflatten(0, (3, DATA)))
    torch.testing.assert_close(found.predicted_covariances[0, 0], model.initial_covariance)
    alone = model.forecast(x[1:, :1], 3, u[1:, :4])
    torch.testing.assert_close(found.observation_means[1:], alone.observation_means)


@pytest.mark.parametrize("length", [1, 7, 20])
def test_padding_does_not_enter_a_forecast(length):
    """A local level: the level after the last observation, and its variance, whatever the padding is."""
    fixed = {"level_variance": torch.tensor(0.1), "observation_variance": torch.tensor(0.2)}
    model = LGSSM(local_level, **fixed)
    x = torch.randn(2, 20, 1) + 5
    mask = torch.arange(20) < torch.tensor([[20], [length]])
    found, alone = model.forecast(x, 4, mask=mask), model.forecast(x[1:, :length], 4)
    for name in found._fields:
        torch.testing.assert_close(getattr(found, name)[1:], getattr(alone, name))
    with pytest.raises(ValueError, match="k: expected a whole number, at least 1, got 0"):
        model.forecast(x, 0, mask=mask)


@every_lead
@pytest.mark.parametrize("missing", ["frames", "entries"])
def test_imputation_equals_the_dense_gaussian(lead, missing):
    model, mask = linear_gaussian(lead=lead), masks()[missing]
    x, u = data(mask)
    joint = dense.joint(model.system(), FRAMES, u)
    mean = dense.condition(joint, *dense.entries(joint, x, mask))[0][..., FRAMES * LATENT :]
    seen = mask if mask.ndim == 3 else mask.unsqueeze(-1).expand(x.shape)
    expected = torch.where(seen, x, mean.unflatten(-1, (FRAMES, DATA)))
    torch.testing.assert_close(model.impute(x, mask, u), expected)


def test_imputation_uses_the_noise_shared_by_the_entries_of_a_frame():
    """Strongly correlated noise, states known: the missing entry follows the observed one."""
    model = LGSSM(
        Parameters,
        initial_mean=torch.zeros(1),
        initial_covariance=1e-8 * torch.eye(1),
        transition_matrix=torch.eye(1),
        transition_covariance=1e-8 * torch.eye(1),
        emission_matrix=torch.ones(2, 1),
        emission_covariance=torch.tensor([[1.0, 0.9], [0.9, 1.0]]),
    )
    x = torch.tensor([[[2.0, math.nan]]])
    assert model.impute(x, ~x.isnan())[0, 0, 1].item() == pytest.approx(1.8, abs=1e-6)


# --- the distributions -----------------------------------------------------------------------------------------------


def whitened(draws, mean, covariance):
    """z-scores of the mean and of the covariance of draws `(K, size)` that should be N(mean, covariance)."""
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), (draws - mean).mT, upper=False)
    count = white.shape[-1]
    product = white @ white.mT / count
    spread = torch.where(torch.eye(len(white), dtype=torch.bool), 2.0, 1.0)
    return white.mean(-1) * math.sqrt(count), (product - torch.eye(len(white))) * (count / spread).sqrt()


@every_lead
def test_draws_have_the_moments_of_the_dense_gaussian(lead):
    model, (x, u), K = linear_gaussian(lead=lead), data(), 20_000
    with torch.no_grad():
        p = model.system()
        joint = dense.joint(p, FRAMES, u)
        size = FRAMES * LATENT
        prior = LinearGaussian(p, FRAMES, u)
        found = dense.smoother(p, x, u)
        z, _ = model.generate(SEQUENCES, FRAMES, u)
        assert z.shape == (SEQUENCES, FRAMES, LATENT)
        for draws, mean, covariance in (
            (prior.expand((K, SEQUENCES)).sample(), joint.mean[..., size:], joint.covariance[..., size:, size:]),
            (prior.sample((K,)), joint.mean[..., size:], joint.covariance[..., size:, size:]),
            (model.posterior(x, u).sample((K,)), found.smoothed_means.flatten(-2), found.joint_covariance),
            (
                model.posterior(x, u).expand((K, SEQUENCES)).sample(),
                found.smoothed_means.flatten(-2),
                found.joint_covariance,
            ),
        ):
            for n in range(SEQUENCES):
                for score in whitened(draws[:, n].flatten(-2), mean[n], covariance[n]):
                    assert score.abs().max() < Z_MAX + 1  # thousands of entries
        torch.testing.assert_close(prior.mean.flatten(-2), joint.mean[..., size:])
        variance = joint.covariance[..., size:, size:].diagonal(dim1=-2, dim2=-1)
        torch.testing.assert_close(prior.variance.flatten(-2), variance)


def test_every_entry_of_a_batch_is_a_draw_of_its_own():
    """Whether the batch comes from parameters, controls, data, mask or `expand`."""
    shared, (x, u) = linear_gaussian().system(), data()
    plain = shared._replace(transition_input=None, emission_input=None)
    mask = torch.ones(SEQUENCES, FRAMES, dtype=torch.bool)
    for q in (
        LinearGaussian(plain, FRAMES).expand((SEQUENCES,)),
        LinearGaussian(plain, FRAMES, None, mask),
        LinearGaussian(shared, FRAMES, u[:1]).expand((SEQUENCES,)),
        LinearGaussian(shared, FRAMES, u),
        LinearGaussianPosterior(shared, x[:1], u[:1]).expand((SEQUENCES,)),
        LinearGaussianPosterior(shared, x[:1], u[:1], mask[:1]).expand((SEQUENCES,)),
        LinearGaussianPosterior(plain, x[:1], None).expand((2, SEQUENCES)),
    ):
        assert q.batch_shape[-1] == SEQUENCES
        value = q.rsample((3,))
        assert value.shape == (3, *q.batch_shape, *q.event_shape)
        flat = value.detach().flatten(0, -3)
        assert len(flat[:, 0, 0].unique()) == len(flat)
        assert q.support.check(value).all()
        assert q.log_prob(value).shape == (3, *q.batch_shape)


def test_burn_is_the_density_given_the_first_frames():
    model, mask = linear_gaussian(), masks()["entries"]
    x, u = data(mask)
    p, first = model.system(), torch.arange(FRAMES) < 2
    for seen in (None, mask):
        value = x if seen is not None else torch.nan_to_num(x)
        start = first.expand(SEQUENCES, -1) if seen is None else seen & first.unsqueeze(-1)
        expected = dense.marginal_loglik(p, value, u, seen) - dense.marginal_loglik(p, value, u, start)
        torch.testing.assert_close(LinearGaussian(p, FRAMES, u, seen, burn=2).log_prob(value), expected)
    timed = linear_gaussian(lead=(SEQUENCES, FRAMES)).system()
    found = LinearGaussian(timed, FRAMES, u, mask, burn=2).log_prob(x)
    expected = dense.marginal_loglik(timed, x, u, mask)
    expected = expected - dense.marginal_loglik(timed, x, u, mask & first.unsqueeze(-1))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("missing", ["frames", "entries"])
@pytest.mark.parametrize("burn", [1, 2])
def test_burn_counts_the_observed_frames_of_each_sequence(missing, burn):
    """Given are each sequence's first frames of which anything is observed, wherever they stand."""
    model, mask = linear_gaussian(marginal=True, burn=burn), masks()[missing]
    mask[0, :2], mask[1, 0], mask[:, -2:] = False, False, True
    x, u = data(mask)
    found = model.log_prob(x, u, mask)
    trace = poutine.trace(model).get_trace(x, u, mask)
    trace.compute_log_prob()
    torch.testing.assert_close(trace.nodes["x"]["log_prob"], found)
    entries = mask if mask.ndim == 3 else mask.unsqueeze(-1).expand(x.shape)
    given = torch.zeros_like(entries)
    for n in range(SEQUENCES):
        first = entries[n].any(-1).nonzero().flatten()[:burn]
        given[n, first] = entries[n, first]
    p = model.system()
    expected = dense.marginal_loglik(p, x, u, entries) - dense.marginal_loglik(p, x, u, given)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("variance", [1e8, 1e10, 1e12])
def test_the_nile_with_three_missing_years(variance):
    """The years that are missing say nothing: the other 97 alone have the same value, whatever the diffuse variance."""
    x = load("nile").train.values.double()
    mask = torch.ones(1, 100, dtype=torch.bool)
    mask[:, :3] = False
    fixed = {"level_variance": torch.tensor(1469.1), "observation_variance": torch.tensor(15099.0)}
    model = LGSSM(local_level, burn=1, initial_variance=torch.tensor(variance), **fixed)
    found = model.log_prob(x, mask=mask).item()
    assert found == pytest.approx(-614.04, abs=0.005)
    assert found == pytest.approx(model.log_prob(x[:, 3:]).item(), abs=1e-6)
    steps = UnobservedComponents(x[0, 3:, 0].numpy(), "llevel", use_exact_diffuse=True)
    assert found == pytest.approx(steps.loglike([15099.0, 1469.1]) + 0.5 * math.log(2 * math.pi), abs=0.005)


def test_a_sequence_of_fewer_observations_than_burn_is_refused():
    model = linear_gaussian(marginal=True, burn=2)
    x, u = data()
    mask = torch.ones(SEQUENCES, FRAMES, dtype=torch.bool)
    mask[2, 1:] = False
    words = r"burn: expected at least 2 observed frames, .*; sequence 2 \(counted from 0\) has 1"
    for call in (model, model.log_prob, model.maximum_likelihood):
        with pytest.raises(ValueError, match=words):
            call(x, u, mask)
    p = model.system()
    with pytest.raises(ValueError, match=r"; sequence has 1"):
        LinearGaussian(p, FRAMES, u[2], mask[2], burn=2)
    with pytest.raises(ValueError, match=r"; sequence \(1, 2\) \(counted from 0\) has 1"):
        LinearGaussian(p, FRAMES, u, torch.stack([mask | True, mask]), burn=2)
    mask[2, 1] = True  # as many as are given: nothing is left to score
    assert model.log_prob(x, u, mask)[2].item() == pytest.approx(0.0, abs=1e-12)


@every_mask
@pytest.mark.parametrize("lead", [(), (SEQUENCES, 1)], ids=["shared", "per sequence"])
def test_values_and_masks_broadcast(missing, lead):
    """Particles in front of value, x or mask, in all three distributions: as each of them alone."""
    model, mask, K = linear_gaussian(lead=lead), masks()[missing], 3
    if mask is None:
        mask = torch.ones(SEQUENCES, FRAMES, dtype=torch.bool)
    p, (x, u) = model.system(), data(mask)
    x = torch.nan_to_num(x)
    z, xs = torch.randn(K, SEQUENCES, FRAMES, LATENT), torch.randn(K, SEQUENCES, FRAMES, DATA)
    alone = torch.stack([LinearGaussianPosterior(p, x, u, mask).log_prob(one) for one in z])
    torch.testing.assert_close(LinearGaussianPosterior(p, x, u, mask).log_prob(z), alone)
    each = torch.stack([LinearGaussianPosterior(p, one, u, mask).log_prob(two) for one, two in zip(xs, z, strict=True)])
    q = LinearGaussianPosterior(p, xs, u, mask)  # as many data as particles, one mask
    assert q.batch_shape == (K, SEQUENCES)
    torch.testing.assert_close(q.log_prob(z), each)
    assert q.rsample((2,)).shape == (2, K, SEQUENCES, FRAMES, LATENT)
    means = torch.stack([LinearGaussianPosterior(p, one, u, mask).mean for one in xs])
    torch.testing.assert_close(q.mean, means)
    wide = LinearGaussianPosterior(p, x, u, mask.expand(K, *mask.shape))  # a mask for each particle
    assert wide.batch_shape == (K, SEQUENCES)
    torch.testing.assert_close(wide.log_prob(z), alone)
    assert wide.rsample().shape == z.shape
    summed = LinearGaussian(p, FRAMES, u, mask)
    torch.testing.assert_close(summed.log_prob(xs), torch.stack([summed.log_prob(one) for one in xs]))
    entries = mask if mask.ndim == 3 else mask.unsqueeze(-1).expand(x.shape)
    root = torch.linalg.cholesky(p.emission_covariance)
    frames = GaussianFrames(xs, root.expand(*x.shape, DATA), entries)
    expected = [GaussianFrames(one, root.expand(*x.shape, DATA), entries).log_prob(x) for one in xs]
    torch.testing.assert_close(frames.log_prob(x), torch.stack(expected))
    with pytest.raises(ValueError, match=r"mask: expected shape \(..., 6\) or \(..., 6, 3\), got \(4, 5\)"):
        LinearGaussianPosterior(p, x, u, mask.reshape(SEQUENCES, FRAMES, -1)[:, :-1, 0])


@every_mask
def test_the_elbo_of_many_particles_is_log_p_under_every_mask(missing):
    model, mask = linear_gaussian(), masks()[missing]
    x, u = data(mask)
    value = ELBO(num_particles=5)(model, guides.Exact(model))(x, u, mask)
    torch.testing.assert_close(-value, model.log_prob(x, u, mask).sum(), rtol=1e-10, atol=1e-10)


def test_as_many_sequences_as_frames_as_entries():
    """A mask of frames (N, T) is one though it has the shape (T, data_dim) of one of entries."""
    size = 3
    fields = dict(linear_gaussian(lambda v: v, marginal=True).named_buffers())
    model = LGSSM(Parameters, **fields)
    x, u = torch.randn(size, size, size), torch.randn(size, size, CONTROL)
    mask = torch.tensor([[True, True, False], [True, False, False], [True, True, True]])
    expected = dense.marginal_loglik(model.system(), x, u, mask)
    torch.testing.assert_close(model.log_prob(x, u, mask), expected)
    trace = poutine.trace(model).get_trace(x, u, mask)
    trace.compute_log_prob()
    torch.testing.assert_close(trace.nodes["x"]["log_prob"], expected)
    exact = guides.Exact(LGSSM(Parameters, marginal=False, **fields))
    run = terms(exact.model, exact, x, u, mask, num_particles=2)
    torch.testing.assert_close(run.log_weights, expected.expand(2, -1), rtol=1e-10, atol=1e-10)


def test_missing_entries_are_marginalised_out_of_a_frame():
    loc, covariance, mask = torch.randn(FRAMES, DATA), positive(FRAMES, DATA), torch.rand(FRAMES, DATA) < 0.5
    mask[0], mask[1] = False, True
    x = torch.randn(FRAMES, DATA)
    expected = 0.0
    for t in range(FRAMES):
        i = mask[t].nonzero().flatten()
        if len(i):
            expected += MultivariateNormal(loc[t, i], covariance[t][i][:, i]).log_prob(x[t, i])
    q = GaussianFrames(loc, torch.linalg.cholesky(covariance), mask)
    torch.testing.assert_close(q.log_prob(x.masked_fill(~mask, math.nan)), expected)
    draws = q.sample((20_000,))
    for t in range(FRAMES):  # of all entries
        for score in whitened(draws[:, t], loc[t], covariance[t]):
            assert score.abs().max() < Z_MAX
    assert q.expand((2,)).sample().shape == (2, FRAMES, DATA)


def test_uncondition_draws_from_both_forms():
    """The same model, so the same distribution of x: first and second moments of its mean over time and entries."""
    model, (x, u), K = linear_gaussian(), data(), 2000
    forms = (model, LGSSM(Parameters, **dict(model.named_parameters())))
    joint = dense.joint(model.system(), FRAMES, u)
    weight = torch.zeros(joint.mean.shape[-1])
    weight[FRAMES * LATENT :] = 1 / (FRAMES * DATA)
    mean, variance = joint.mean @ weight, (joint.covariance @ weight) @ weight
    for form in forms:
        with torch.no_grad():
            samples = Predictive(poutine.uncondition(form), num_samples=K, parallel=True)(x, u)["x"]
        found = samples.reshape(K, SEQUENCES, -1).mean(-1)
        assert ((found.mean(0) - mean) / (variance / K).sqrt()).abs().max() < Z_MAX
        assert ((found.var(0) / variance - 1) * math.sqrt(K / 2)).abs().max() < Z_MAX


# --- EM --------------------------------------------------------------------------------------------------------------

FIELDS = Parameters._fields


def with_learned(*learned, lead=()):
    """Some fields learned; the others fixed, with leading axes."""
    values = dict(linear_gaussian(lead=lead).named_parameters())
    shared = dict(linear_gaussian().named_parameters())
    return LGSSM(
        Parameters,
        **{n: nn.Parameter(shared[n].detach()) if n in learned else values[n].detach().clone() for n in FIELDS},
    )


def expected_log_joint(old, new, x, u, mask):
    """E[log p(x, z; new)] over p(z, missing entries | x; old), exact: the integrand is quadratic, so points suffice.

    A frame that is missing altogether is no part of the complete data.
    """
    joint = dense.joint(old, FRAMES, u)
    mean, covariance, _ = dense.condition(joint, *dense.entries(joint, x, mask))
    values, vectors = torch.linalg.eigh((covariance + covariance.mT) / 2)
    root = vectors * (values.clamp(min=0) * values.shape[-1]).sqrt().unsqueeze(-2)
    points = mean + torch.cat([root, -root], -1).movedim(-1, 0)
    z, completed = points.split([FRAMES * LATENT, FRAMES * DATA], -1)
    frames = None if mask is None else mask.any(-1) if mask.ndim == 3 else mask
    z, completed = z.unflatten(-1, (FRAMES, LATENT)), completed.unflatten(-1, (FRAMES, DATA))
    if frames is not None:
        frames = frames.expand(completed.shape[:-1])
    return dense.log_joint(new, z, completed, u, frames).mean(0).sum()


LEARNED = {
    "everything": FIELDS,
    "start": ("initial_mean", "initial_covariance"),
    "mean of the start": ("initial_mean",),
    "A": ("transition_matrix",),
    "B": ("transition_input",),
    "b, Q": ("transition_bias", "transition_covariance"),
    "Q": ("transition_covariance",),
    "A, b, C, D": ("transition_matrix", "transition_bias", "emission_matrix", "emission_input"),
    "d, R": ("emission_bias", "emission_covariance"),
    "R": ("emission_covariance",),
}


@pytest.mark.parametrize(
    "learned",
    [pytest.param(v, marks=[pytest.mark.thorough] * (n % 2), id=k) for n, (k, v) in enumerate(LEARNED.items())],
)
@pytest.mark.parametrize("lead", LEADS.values(), ids=LEADS)
@every_mask
def test_the_m_step_maximises_the_expected_log_likelihood(learned, lead, missing):
    """The gradient of E[log p(x, z)] vanishes at the new values of what is learned, and nothing else has changed."""
    model, mask = with_learned(*learned, lead=lead), masks()[missing]
    if mask is not None:
        mask[:, -1] = True  # what comes after the last observed frame is left out: see the next test
    x, u = data(mask)
    old = model.system()
    old = Parameters(*(v.detach().clone() for v in old))
    statistics, log_p = model.e_step(x, u, mask)
    torch.testing.assert_close(log_p, dense.marginal_loglik(old, x, u, mask))
    model.m_step(statistics)
    new = model.system()
    value = expected_log_joint(old, new, x, u, mask)
    for name, gradient in zip(
        learned, torch.autograd.grad(value, [getattr(new, name) for name in learned]), strict=True
    ):
        if name.endswith("covariance"):
            gradient = gradient + gradient.mT
        assert gradient.abs().max() < 1e-7 * value.abs(), name
    for name in set(FIELDS) - set(learned):
        assert torch.equal(getattr(new, name), getattr(old, name))
    assert (model.log_prob(x, u, mask).sum() > log_p.sum()).item()


def test_em_ignores_padding():
    """The same step from padded sequences as from each at its own length."""
    learned = FIELDS
    lengths = [FRAMES, 3, 4, 2]
    mask = torch.arange(FRAMES) < torch.tensor(lengths).unsqueeze(-1)
    x, u = data(mask)
    model = with_learned(*learned)
    statistics, _ = model.e_step(x, u, mask)
    parts = [model.e_step(x[n : n + 1, :T], u[n : n + 1, :T])[0] for n, T in enumerate(lengths)]
    for name in statistics._fields:
        for field, total in getattr(statistics, name)._asdict().items():
            torch.testing.assert_close(total, sum(getattr(getattr(part, name), field) for part in parts))


@pytest.mark.parametrize("missing", [False, pytest.param(True, marks=pytest.mark.thorough)])
def test_em_climbs_to_the_maximum_of_the_likelihood(missing):
    """Every step climbs, and the end is where L-BFGS ends too."""
    model = with_learned("transition_matrix", "emission_covariance", "emission_bias")
    u = torch.randn(30, 2 * FRAMES, CONTROL)
    with torch.no_grad():
        _, x = model.generate(30, 2 * FRAMES, u)
    mask = torch.rand(x.shape) < 0.7 if missing else None
    with torch.no_grad():
        model.transition_matrix.zero_()
    twin = copy.deepcopy(model)
    done = em(model, x, u=u, mask=mask, tolerance=1e-8, max_iterations=500)
    assert done.converged
    assert all(after >= before - 1e-12 for before, after in zip(done.trajectory, done.trajectory[1:], strict=False))
    assert done.log_likelihood > done.trajectory[0] + 0.1
    twin.maximum_likelihood(x, u, mask)
    gain = (twin.log_prob(x, u, mask) - model.log_prob(x, u, mask)).mean()
    assert -1e-12 <= gain < 1e-5
    for name, value in twin.named_parameters():
        torch.testing.assert_close(getattr(model, name), value, rtol=0.01, atol=0.01)
    gradients = torch.autograd.grad(twin.log_prob(x, u, mask).sum() / x.numel(), list(twin.parameters()))
    assert all(g.abs().max() < 1e-6 for g in gradients)


def test_em_keeps_covariances_under_their_constraint_and_works_in_single_precision():
    torch.set_default_dtype(torch.float32)
    values = {n: v.detach().float() for n, v in linear_gaussian().named_parameters()}
    for name in ("transition_covariance", "emission_covariance"):
        values[name] = PyroParam(values[name], constraints.positive_definite)
    values["transition_matrix"] = nn.Parameter(values["transition_matrix"])
    model = LGSSM(Parameters, **values)
    x, u = torch.randn(20, FRAMES, DATA), torch.randn(20, FRAMES, CONTROL)
    done = em(model, x, u=u, tolerance=1e-4)
    assert done.converged
    assert done.log_likelihood > done.trajectory[0]
    assert model.transition_covariance.dtype == torch.float32
    assert torch.linalg.eigvalsh(model.transition_covariance).min() > 0


def test_what_em_cannot_do_is_named():
    x, u = data()
    for name in ("transition_matrix", "emission_bias", "transition_covariance"):
        fields = dict(linear_gaussian(lambda v: v, lead=(FRAMES,)).named_buffers())
        fields[name] = nn.Parameter(fields[name])
        model = LGSSM(Parameters, **fields)
        with pytest.raises(ValueError, match=f"{name}: the closed form is for one value"):
            model.m_step(model.e_step(x, u)[0])
    fields = dict(linear_gaussian(lambda v: v, lead=(FRAMES,)).named_buffers())
    fields["transition_covariance"] = torch.zeros(FRAMES, LATENT, LATENT)
    fields["transition_matrix"] = nn.Parameter(torch.eye(LATENT))
    model = LGSSM(Parameters, **fields)
    with pytest.raises(ValueError, match=r"transition_covariance: expected positive definite matrices where .* varies"):
        model.m_step(model.e_step(x, u)[0])
    with pytest.raises(ValueError, match=r"e_step: the closed form needs build=kalman.Parameters"):
        LGSSM(local_level, level_variance=torch.tensor(1.0)).e_step(x[..., :1])
    fields = dict(linear_gaussian(lambda v: v).named_buffers())
    fields["emission_bias"] = PyroParam(torch.full((DATA,), 5.0), constraints.greater_than(4.0))
    model = LGSSM(Parameters, **fields)
    with pytest.raises(ValueError, match="emission_bias: no closed form under"):
        model.m_step(model.e_step(x, u)[0])


# --- maximum likelihood, priors --------------------------------------------------------------------------------------


def test_maximum_likelihood_has_no_gradient_left_and_says_what_it_lacks():
    model = linear_gaussian(lambda v: v, marginal=True)
    x, u = data()
    with pytest.raises(ValueError, match="nothing is learned"):
        model.maximum_likelihood(x, u)
    model = with_learned("transition_matrix", "initial_mean")
    assert model.maximum_likelihood(x, u) is model
    assert all(p.grad is None for p in model.parameters())
    gradients = torch.autograd.grad(model.log_prob(x, u).sum(), list(model.parameters()))
    assert all(g.abs().max() < 1e-8 for g in gradients)
    certain = {"level_variance": torch.tensor(1.0), "initial_variance": torch.tensor(0.0)}
    model = LGSSM(local_level, observation_variance=PyroParam(torch.tensor(1.0), constraints.positive), **certain)
    with pytest.raises(RuntimeError, match="observation_variance: no maximum was reached"):
        model.maximum_likelihood(torch.zeros(1, 1, 1))  # the density has no bound
    assert model.log_prob(torch.zeros(1, 1, 1)).item() > 5  # the best that was seen is kept


def test_a_sampler_that_steps_too_far_gets_nan():
    """Pyro's NUTS runs without validation, and takes NaN for a divergence; everyone else gets the reason."""
    scale = torch.tensor(1e200, requires_grad=True)
    prior = LinearGaussian(local_level(scale**2, torch.tensor(1.0)), 5)
    with pytest.raises(ValueError, match="transition_covariance"):
        prior.log_prob(torch.zeros(5, 1))
    with pyro.validation_enabled(False):
        value = prior.log_prob(torch.zeros(5, 1))
    assert value.isnan()
    assert value.requires_grad


def test_priors_are_global_sites():
    prior = dist.LogNormal(0.0, 1.0)
    model = LGSSM(local_level, priors={"level_variance": prior}, observation_variance=torch.tensor(0.5))
    x = torch.randn(SEQUENCES, FRAMES, 1)
    trace = poutine.trace(model).get_trace(x)
    trace.compute_log_prob()
    site = trace.nodes["level_variance"]
    assert site["log_prob"].shape == ()
    value = site["value"]
    expected = LGSSM(local_level, level_variance=value, observation_variance=torch.tensor(0.5))
    torch.testing.assert_close(trace.nodes["x"]["log_prob"], expected.log_prob(x))
    torch.testing.assert_close(model.log_prob(x, level_variance=value), expected.log_prob(x))
    mean = model.posterior(x, level_variance=value).mean
    torch.testing.assert_close(mean, expected.posterior(x).mean)
    forecast = model.forecast(x, 3, level_variance=value).observation_means
    torch.testing.assert_close(forecast, expected.forecast(x, 3).observation_means)
    with pytest.raises(ValueError, match="level_variance: has a prior and no value"):
        model.log_prob(x)
    latent = LGSSM(local_level, marginal=False, priors={"level_variance": prior}, observation_variance=value)
    sites = poutine.trace(latent).get_trace(x).stochastic_nodes
    assert sites == ["level_variance", "data", "z"]
    draws = Predictive(poutine.uncondition(model), num_samples=7, parallel=True)(x)
    assert draws["x"].shape == (7, SEQUENCES, FRAMES, 1)
    assert draws["level_variance"].shape[0] == 7


def test_the_elbo_of_latent_parameters_is_that_of_pyro():
    priors = {"level_variance": dist.LogNormal(-1.0, 1.0), "observation_variance": dist.LogNormal(0.0, 1.0)}
    model, x = LGSSM(local_level, priors=priors), torch.randn(SEQUENCES, FRAMES, 1)
    guide = AutoMultivariateNormal(model)
    guide(x)
    pyro.set_rng_seed(0)
    ours = ELBO().loss(model, guide, x)
    pyro.set_rng_seed(0)
    assert ours == pytest.approx(Trace_ELBO().loss(model, guide, x), rel=1e-4)
    shares = terms(model, guide, x, num_particles=3)
    assert shares.log_weights.shape == (3, SEQUENCES)
    assert [*shares.outside] == [", ".join(priors)]
    record = fit(ELBO(num_data=SEQUENCES)(model, guide), x, steps=2, batch_size=2, progress=False).history[-1]
    assert [*record["kl"]] == [", ".join(priors)]


@pytest.mark.parametrize(
    ("priors", "message"),
    [
        ({"levl_variance": dist.LogNormal(0.0, 1.0)}, "local_level has no argument 'levl_variance' but .*level"),
        ({"level_variance": 1.0}, "level_variance: expected a distribution of pyro.distributions, got float"),
        ({"level_variance": dist.LogNormal(torch.zeros(3), 1.0)}, r"level_variance: .* a batch of shape \(3,\)"),
        ({"level_variance": dist.Poisson(2.0)}, "level_variance: expected a density, got the discrete Poisson"),
        ({"level_variance": dist.Normal(0.0, 1.0)}, "level_variance: .* positive numbers, .* got Normal on Real"),
    ],
)
def test_priors_that_are_none(priors, message):
    with pytest.raises((TypeError, ValueError), match=f"priors: {message}"):
        LGSSM(local_level, priors=priors, observation_variance=torch.tensor(1.0))


@pytest.mark.slow
def test_nuts_samples_a_prior_through_the_marginal_likelihood():
    """One variance of a local level: the draws against the posterior on a grid; R-hat and ESS are checked first."""
    fixed = {"observation_variance": torch.tensor(1.0), "initial_variance": torch.tensor(2.0)}
    model = LGSSM(local_level, priors={"level_variance": dist.LogNormal(-1.0, 1.0)}, **fixed)
    x = torch.randn(3, 15, 1) + torch.randn(3, 15, 1).cumsum(1) * 0.5
    found = nuts_reference(model, x, num_samples=900, warmup=150, chains=4, seed=0)
    draws = site_draws(found)["level_variance"].log()
    grid = torch.linspace(-7.0, 4.0, 201)
    with torch.no_grad():  # a model for each value, all at once
        log_p = model.log_prob(x.expand(201, 3, -1, -1).flatten(0, 1), level_variance=grid.exp().repeat_interleave(3))
    log_p = log_p.reshape(201, 3).sum(1)
    log_p = log_p + dist.Normal(-1.0, 1.0).log_prob(grid)
    weight = (log_p - log_p.logsumexp(0)).exp()
    mean = (weight * grid).sum()
    sd = (weight * (grid - mean) ** 2).sum().sqrt()
    ess = diagnose({"log": draws}).ess_bulk["log"]
    assert abs((draws.mean() - mean) / (sd / ess.sqrt())) < Z_MAX


@pytest.mark.thorough
def test_the_latent_form_under_nuts_agrees_with_the_smoother():
    """20 frames, some missing, of a noisy trend: means and variances of every state, after R-hat, ESS, divergences."""
    T = 20
    mask = torch.ones(1, T, dtype=torch.bool)
    mask[0, 8:11] = False
    model = LGSSM(
        Parameters,
        marginal=False,
        initial_mean=torch.zeros(1),
        initial_covariance=torch.eye(1),
        transition_matrix=torch.tensor([[0.9]]),
        transition_covariance=torch.tensor([[0.5]]),
        emission_matrix=torch.tensor([[1.0]]),
        emission_covariance=torch.tensor([[0.5]]),
    )
    x = torch.randn(1, T, 1)
    found = nuts_reference(model, x, mask=mask, num_samples=375, warmup=150, chains=4, seed=0)
    draws = site_draws(found)["z"].flatten(0, 1)
    exact = exact_reference(model, x, mask=mask)
    ess = diagnose(site_draws(found)).ess_bulk["z"].reshape(1, T)
    score = (draws.mean(0).reshape(1, T) - exact.mean) / (exact.sd / ess.sqrt())
    assert score.abs().max() < Z_MAX
    squares = site_draws(found)["z"].sub(exact.mean.reshape(1, T, 1)).square()
    ess = diagnose({"z": squares}).ess_bulk["z"].reshape(1, T)
    variance = squares.flatten(0, 1).mean(0).reshape(1, T)
    assert ((variance / exact.sd**2 - 1) * (ess / 2).sqrt()).abs().max() < Z_MAX


# --- errors ----------------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_named():
    x, u = data()
    model = linear_gaussian()
    with pytest.raises(ValueError, match="u: missing, LGSSM takes controls of size"):
        model(x)
    with pytest.raises(ValueError, match="u: missing, but the model has transition_input"):
        model.log_prob(x)
    with pytest.raises(ValueError, match=r"x: expected shape \(N, T, 3\)"):
        model.posterior(x[0, 0], u[0])
    with pytest.raises(ValueError, match=r"x: expected torch.float64 like the model's parameters"):
        model(x.float(), u)
    assert torch.equal(model.log_prob(x[0], u[0]), model.log_prob(x[:1], u[:1]))
    assert torch.equal(model.log_prob(x[:1].float().numpy(), u[:1]), model.log_prob(x[:1].float().double(), u[:1]))
    with pytest.raises(ValueError, match="x: NaN or infinite"):
        model.log_prob(x.masked_fill(x > 1, math.nan), u)
    with pytest.raises(ValueError, match="transition_matrix: expected 5 frames"):
        linear_gaussian(lead=(FRAMES,))(x[:, :5], u[:, :5])
    with pytest.raises(ValueError, match="burn: the latent form scores every frame"):
        linear_gaussian(burn=1)
    with pytest.raises(ValueError, match="forward: given twice, or a name"):
        LGSSM(local_level, level_variance=torch.tensor(1.0), forward=torch.tensor(1.0))
    with pytest.raises(TypeError, match=r"level_variance: expected a tensor, nn.Parameter or PyroParam, got float"):
        LGSSM(local_level, level_variance=1.0)
    with pytest.raises(TypeError, match=r"build: expected a function that gives kalman.Parameters, it gave Tensor"):
        LGSSM(lambda a: a, a=torch.tensor(1.0))
    with pytest.raises(ValueError, match=r"num: the parameters and u are those of \(4,\) sequences, got 3"):
        model.generate(3, FRAMES, u)
    with pytest.raises(ValueError, match=r"x: expected shape \(..., 6, 3\), got \(4, 5, 3\)"):
        LinearGaussian(model.system(), FRAMES, u).log_prob(x[:, :5])
    with pytest.raises(ValueError, match=r"batch axes of .* and of x, u, mask of shapes \[\(3, 6, 2\)\] do not broad"):
        LinearGaussian(linear_gaussian(lead=(SEQUENCES, 1)).system(), FRAMES, u[:3])
    with pytest.raises(ValueError, match="burn = 6"):
        LinearGaussian(model.system(), FRAMES, u, burn=FRAMES)
    fields = dict(linear_gaussian(lambda v: v).named_buffers())
    fields["transition_covariance"] = torch.zeros(LATENT, LATENT)
    LGSSM(Parameters, **fields).log_prob(x, u)  # the marginal form takes it
    with pytest.raises(ValueError, match="transition_covariance: expected a positive definite matrix"):
        LGSSM(Parameters, marginal=False, **fields)(x, u)
