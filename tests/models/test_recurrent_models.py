"""STORN, VRNN and SRNN against the same log joint written out by hand, frame by frame, as the papers' formulas read."""

import math

import pytest
import torch
from gaussian_pairs import Z_MAX
from pyro import poutine
from torch import nn
from torch.distributions import Bernoulli, Normal
from torch.nn import functional as F

from guides import Filter, Residual, Smoother
from zoo import SRNN, STORN, VRNN
from zoo.infer import ELBO, IWELBO, log_likelihood
from zoo.parts import conditionals
from zoo.parts.transitions import FLOOR

N, T, DATA, LATENT, RECURRENT = 3, 6, 4, 2, 5

pytestmark = pytest.mark.usefixtures("double_precision")


def cell(gru):
    """torch's own cell with the weights of the model's network."""
    found = nn.GRUCell(gru.fused.input_size, gru.hidden)
    found.load_state_dict({name.removesuffix("_l0"): value for name, value in gru.fused.state_dict().items()})
    return found


def prior(transition, *parts):
    loc, scale = transition.network(torch.cat(parts, -1)).chunk(2, -1)
    return Normal(loc, F.softplus(scale) + FLOOR)


def bits(model, x, *parts):
    logits = model.likelihood.logits(model.decoder(torch.cat(parts, -1)))
    return Bernoulli(logits=logits).log_prob(x).sum(-1)


def storn(model, z, x):
    step, h, before = cell(model.gru), model.h_0.expand(N, -1), torch.zeros(N, DATA)
    for t in range(T):
        h = step(torch.cat([model.feature(before), z[:, t]], -1), h)
        yield Normal(0.0, 1.0).log_prob(z[:, t]).sum(-1), bits(model, x[:, t], h)
        before = x[:, t]


def vrnn(model, z, x):
    step, h = cell(model.gru), model.h_0.expand(N, -1)
    for t in range(T):
        seen = model.latent_feature(z[:, t])
        yield prior(model.prior, h).log_prob(z[:, t]).sum(-1), bits(model, x[:, t], seen, h)
        h = step(torch.cat([model.feature(x[:, t]), seen], -1), h)


def srnn(model, z, x):
    step, d, above, before = cell(model.gru), model.d_0.expand(N, -1), model.z_0.expand(N, -1), torch.zeros(N, DATA)
    for t in range(T):
        d = step(model.feature(before), d)
        yield prior(model.prior, above, d).log_prob(z[:, t]).sum(-1), bits(model, x[:, t], z[:, t], d)
        above, before = z[:, t], x[:, t]


BY_HAND = {STORN: storn, VRNN: vrnn, SRNN: srnn}
every_model = pytest.mark.parametrize("model", BY_HAND)


def build(model, **options):
    built = model(DATA, LATENT, RECURRENT, (7,), **options)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return built


@every_model
def test_the_log_joint_is_the_papers(model):
    built, by_hand = build(model), BY_HAND[model]
    x, z = (torch.rand(N, T, DATA) < 0.5).double(), torch.randn(N, T, LATENT)
    log_z, log_x = (torch.stack(part).sum(0) for part in zip(*by_hand(built, z, x), strict=True))
    trace = poutine.trace(poutine.condition(built, {"z": z})).get_trace(x)
    trace.compute_log_prob()
    torch.testing.assert_close(trace.nodes["z"]["log_prob"], log_z)
    torch.testing.assert_close(trace.nodes["x"]["log_prob"], log_x)


@every_model
@pytest.mark.parametrize("likelihood", ["Bernoulli", "Normal", "MixtureOfNormals"])
def test_every_likelihood_serves_every_model(model, likelihood):
    built = build(model, likelihood=getattr(conditionals, likelihood))
    _, x = built.generate(N, T)
    assert x.isfinite().all()
    assert (set(x.unique().tolist()) <= {0.0, 1.0}) == (likelihood == "Bernoulli")
    loss = ELBO(analytic_kl=True)(built, Smoother(built, recurrent=4, hidden=(5,)))
    gradients = torch.autograd.grad(loss(x), list(loss.parameters()))
    assert all(g.isfinite().all() for g in gradients)


@every_model
def test_missing_frames_are_fed_as_zeros(model):
    built, x, z = build(model), (torch.rand(N, T, DATA) < 0.5).double(), torch.randn(N, T, LATENT)
    mask = torch.rand(N, T) < 0.6
    filled = x.masked_fill(~mask.unsqueeze(-1), 0.0)
    log_z, log_x = (torch.stack(part, -1) for part in zip(*BY_HAND[model](built, z, filled), strict=True))
    hidden = x.masked_fill(~mask.unsqueeze(-1), math.nan)
    trace = poutine.trace(poutine.condition(built, {"z": z})).get_trace(hidden, None, mask)
    trace.compute_log_prob()
    torch.testing.assert_close(trace.nodes["z"]["log_prob"], log_z.sum(-1))
    torch.testing.assert_close(trace.nodes["x"]["log_prob"], (log_x * mask).sum(-1))


def test_srnn_runs_its_network_over_x_once():
    """The guide, its prior and the model share d: one fused call in a step of training, none over z."""
    model, calls = build(SRNN), []
    model.gru.fused.register_forward_hook(lambda *_: calls.append(1))
    loss = IWELBO(4)(model, Smoother(model, family=Residual, recurrent=4, hidden=(5,)))
    x = (torch.rand(N, T, DATA) < 0.5).double()
    loss(x)
    calls.clear()
    loss(x).backward()
    assert len(calls) == 1


def test_srnns_first_frame_may_be_given():
    """The paper's convention: x_1 enters, is not scored, and z begins at the second frame."""
    model = build(SRNN)
    x, z = (torch.rand(N, T, DATA) < 0.5).double(), torch.randn(N, T - 1, LATENT)
    step = cell(model.gru)
    d, above, total = step(model.feature(torch.zeros(N, DATA)), model.d_0.expand(N, -1)), model.z_0.expand(N, -1), 0.0
    for t in range(1, T):
        d = step(model.feature(x[:, t - 1]), d)
        before, above = above, z[:, t - 1]
        total = total + prior(model.prior, before, d).log_prob(above).sum(-1) + bits(model, x[:, t], above, d)
    carry = model.given(x[:, 0])
    trace = poutine.trace(poutine.condition(model, {"z": z})).get_trace(x[:, 1:], None, None, carry)
    torch.testing.assert_close(trace.log_prob_sum(), total.sum())


@every_model
def test_truncated_back_propagation_stops_at_the_chunk(model):
    built = build(model)
    x, z = (torch.rand(N, T, DATA) < 0.5).double(), torch.randn(N, T, LATENT, requires_grad=True)
    carry = built.carry_on(z[:, :3], x[:, :3])
    assert carry.z.grad_fn is None
    chunk = poutine.trace(poutine.condition(built, {"z": z[:, 3:]})).get_trace(x[:, 3:], None, None, carry)
    (gradient,) = torch.autograd.grad(chunk.log_prob_sum(), z)
    assert (gradient[:, :3] == 0).all()
    assert (gradient[:, 3:] != 0).any()


@pytest.mark.slow
def test_the_evidence_by_a_guide_is_that_by_plain_importance_sampling():
    """log p(x) of a short sequence by two importance samplers: an untrained guide, and a wide Gaussian."""
    torch.manual_seed(0)
    for model in BY_HAND:
        built = build(model)
        x = (torch.rand(2, 3, DATA) < 0.5).double()
        guide = Filter(built, recurrent=4, hidden=(5,))
        found = log_likelihood(built, guide, x, num_particles=20_000)
        with torch.no_grad():
            for n, row in enumerate(x):
                z = 2 * torch.randn(200_000, 3, LATENT)
                many = row.expand(len(z), -1, -1)
                s = built.states(z, many, *built.inputs(many))
                weights = built.transition(s).log_prob(z) - Normal(0, 2).log_prob(z).sum(-1)
                log_w = weights.sum(-1) + built.emission(z, s).log_prob(many).sum(-1)
                log_p = log_w.logsumexp(0) - math.log(len(z))
                error = (log_w - log_p).exp().std() / math.sqrt(len(z))
                assert error < 0.1, "or this one knows nothing either"
                assert abs(found.per_datum[n] - log_p) < Z_MAX * (found.per_datum_error[n] ** 2 + error**2).sqrt()
