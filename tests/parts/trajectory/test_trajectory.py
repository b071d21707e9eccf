"""`StateSpace` and `Trajectory`, over every sequence model of the registry (`tests/state_spaces.py`)."""

import math

import pyro
import pytest
import torch
from gaussian_pairs import Z_MAX
from pyro import poutine
from pyro.infer import NUTS
from state_spaces import DATA, FRAMES, LATENT, SEQUENCES, STATE_SPACES, linear_gaussian, normal
from torch import nn
from torch.distributions import kl_divergence

from guides import Guide
from zoo.infer import ELBO, IWELBO, terms
from zoo.parts import kalman
from zoo.parts.distributions import DiagonalNormal
from zoo.parts.trajectory import Carry, StateSpace, Trajectory, at_steps, side_by_side

PARTICLES = 3

every_model = pytest.mark.parametrize("name", STATE_SPACES)

pytestmark = pytest.mark.usefixtures("double_precision")


class Filter(Guide):
    """q(z_t | s_t, x_t): the smallest guide that is a `Trajectory`; its mean is the prior's, moved."""

    def __init__(self, model):
        super().__init__(model)
        self.net = nn.Linear(model.state_dim + model.data_dim, 2 * model.latent_dim)

    def conditional(self, s, x):
        moved = normal(self.net(side_by_side(self.model.features(s), x)))
        return DiagonalNormal(self.model.transition(s).mean + moved.loc, moved.scale)

    def trajectory(self, x, u=None, mask=None):
        filled = x if mask is None else torch.where(mask.reshape(*mask.shape, *[1] * (3 - mask.ndim)), x, 0.0)
        return Trajectory(self.model, self.conditional, x, u, mask, context=(filled,))

    def forward(self, x, u=None, mask=None):
        with pyro.plate("data", len(x)):
            return pyro.sample("z", self.trajectory(x, u, mask))


def frames_of(distribution, value, t):
    """log density at frame t of a distribution whose last batch axis is time."""
    return distribution.log_prob(value)[..., t]


@every_model
@pytest.mark.parametrize("particles", [(), (PARTICLES,)], ids=["alone", "particles"])
def test_states_equal_folding_advance(name, particles):
    model, x, u = STATE_SPACES[name].build()
    z = torch.randn(*particles, SEQUENCES, FRAMES, LATENT)
    inputs = model.inputs(x, u)
    all_at_once = model.states(z, x, *inputs)
    by_step = at_steps(inputs, FRAMES)
    s = model.start(x, *by_step[0])
    for t in range(FRAMES):
        features = model.features(all_at_once)[..., t, :]
        assert features.shape[-1] == model.state_dim
        torch.testing.assert_close(model.features(s).expand_as(features), features)
        for one, every, value in (
            (model.transition(s), model.transition(all_at_once), z),
            (model.emission(z[..., t, :], s), model.emission(z, all_at_once), x),
        ):
            expected = every.log_prob(value)[..., t]
            torch.testing.assert_close(one.log_prob(value[..., t, :]).expand_as(expected), expected)
        if t + 1 < FRAMES:
            s = model.advance(s, z[..., t, :], x[..., t, :], *by_step[t + 1])


@every_model
@pytest.mark.parametrize("particles", [(), (PARTICLES,)], ids=["alone", "particles"])
def test_chunks_make_up_the_whole(name, particles):
    """Scored in chunks with what `carry_on` carries, or at once; and a chunk's draw is scored as any value."""
    model, x, u = STATE_SPACES[name].build()
    if not model.carries:
        with pytest.raises(ValueError, match="carry: LGSSM takes whole sequences, not chunks"):
            model.check(x, u, None, Carry(x, x, x))
        return
    z = torch.randn(*particles, SEQUENCES, FRAMES, LATENT)
    whole = Trajectory(model, model.transition, x, u)
    log_z, log_x = whole.log_prob(z), model.observation(z, whole.states(z)).log_prob(x)
    carry, found_z, found_x = None, 0.0, 0.0
    for start, end in ((0, 1), (1, 4), (4, FRAMES)):
        part = slice(start, end)
        one = z[..., part, :], x[:, part], None if u is None else u[:, part]
        chunk = Trajectory(model, model.transition, *one[1:], carry=carry)
        found_z = found_z + chunk.log_prob(one[0])
        found_x = found_x + model.observation(one[0], chunk.states(one[0])).log_prob(one[1])
        drawn = chunk.rsample()
        torch.testing.assert_close(chunk.log_prob_of_draw(drawn), chunk.log_prob(drawn))
        if not particles:
            log_joint = poutine.trace(poutine.condition(model, {"z": one[0]})).get_trace(*one[1:], None, carry)
            torch.testing.assert_close(
                log_joint.log_prob_sum(),
                (chunk.log_prob(one[0]) + model.observation(one[0], chunk.states(one[0])).log_prob(one[1])).sum(),
            )
        carry = model.carry_on(*one, None, carry)
        assert not any(v.requires_grad for v in (carry.z, carry.x, model.features(carry.s)))
    torch.testing.assert_close(found_z, log_z.expand_as(found_z))
    torch.testing.assert_close(found_x, log_x)


@every_model
def test_a_step_knows_the_past_alone(name):
    """p(z_t | s_t) depends on z_1..z_{t-1} and x_1..x_{t-1}; p(x_t | z_t, s_t) on no later x."""
    model, x, u = STATE_SPACES[name].build()
    x = x.requires_grad_()
    z = torch.randn(SEQUENCES, FRAMES, LATENT, requires_grad=True)
    s = model.states(z, x, *model.inputs(x, u))
    for t in range(FRAMES):
        transition, emission = model.transition(s).mean[:, t].sum(), model.emission(z, s).mean[:, t].sum()
        for value, until_x, until_z in ((transition, t, t), (emission, t, t + 1)):
            if not value.requires_grad:
                continue  # STORN's prior knows of nothing
            by_x, by_z = torch.autograd.grad(value, (x, z), retain_graph=True, allow_unused=True)
            assert by_x is None or (by_x[:, until_x:] == 0).all()
            assert by_z is None or (by_z[:, until_z:] == 0).all()


@every_model
def test_forward_is_the_joint_density(name):
    """Both sites' log density, term by term, as the five methods state it."""
    model, x, u = STATE_SPACES[name].build()
    z = torch.randn(SEQUENCES, FRAMES, LATENT)
    trace = poutine.trace(poutine.condition(model, {"z": z})).get_trace(x, u)
    trace.compute_log_prob()
    s = model.states(z, x, *model.inputs(x, u))
    torch.testing.assert_close(trace.nodes["z"]["log_prob"], model.transition(s).log_prob(z).sum(-1))
    torch.testing.assert_close(trace.nodes["x"]["log_prob"], model.emission(z, s).log_prob(x).sum(-1))


@every_model
def test_a_draw_is_scored_as_any_value(name):
    model, x, u = STATE_SPACES[name].build()
    guide = Filter(model)
    for q in (Trajectory(model, model.transition, x, u), guide.trajectory(x, u), guide.trajectory(x, u, PADDING)):
        q = q.expand((PARTICLES, SEQUENCES))
        value = q.rsample()
        assert value.shape == (PARTICLES, SEQUENCES, FRAMES, LATENT)
        drawn, scored = q.log_prob_of_draw(value), q.log_prob(value)
        assert drawn.shape == (PARTICLES, SEQUENCES)
        torch.testing.assert_close(drawn, scored)
        torch.testing.assert_close(q.log_prob_of_draw(value.clone()), scored)
        if not scored.requires_grad:
            continue  # STORN's prior has no parameters
        parameters = [p for p in (*model.parameters(), *guide.parameters()) if p.requires_grad]
        one, other = (
            torch.autograd.grad(total.sum(), parameters, retain_graph=True, allow_unused=True)
            for total in (drawn, scored)
        )
        for a, b, p in zip(one, other, parameters, strict=True):
            a, b = (torch.zeros_like(p) if g is None else g for g in (a, b))
            torch.testing.assert_close(a, b)


@every_model
@pytest.mark.parametrize("padded", [False, True])
def test_values_and_batches_broadcast(name, padded):
    """Values that nobody drew, with more and with fewer axes than the batch, against one sequence's worth at a time."""
    model, x, u = STATE_SPACES[name].build()
    guide, mask = Filter(model), PADDING if padded else None
    z = torch.randn(PARTICLES, SEQUENCES, FRAMES, LATENT)

    def each(values):
        return torch.stack([guide.trajectory(x, u, mask).log_prob(v.expand(SEQUENCES, -1, -1)) for v in values])

    q = guide.trajectory(x, u, mask)
    wide = q.expand((PARTICLES, SEQUENCES))
    one = each(z[:1, :1])
    for found, expected in (
        (q.log_prob(z), each(z)),
        (wide.log_prob(z), each(z)),
        (wide.log_prob(z[0]), each(z[:1]).expand(PARTICLES, SEQUENCES)),
        (q.log_prob(z[0, :1]), one[0]),
        (q.log_prob(z[0, 0]), one[0]),
        (wide.log_prob(z[0, 0]), one.expand(PARTICLES, SEQUENCES)),
        (q.log_prob(z[:, :1]), each(z[:, :1])),
    ):
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected)


@every_model
def test_a_draw_that_was_written_to_is_scored_anew(name):
    """By the guide, and by the model along the same states."""
    model, x, u = STATE_SPACES[name].build()
    guide = Filter(model)
    q = guide.trajectory(x, u)
    z = q.rsample()
    q.log_prob_of_draw(z)
    q.states(z)
    with torch.no_grad():
        z += 1.0
        expected = guide.trajectory(x, u).log_prob(z.clone())
        for score in (q.log_prob_of_draw, q.log_prob):
            torch.testing.assert_close(score(z), expected)
        torch.testing.assert_close(q.along(z).log_prob(z).sum(-1), expected)
        torch.testing.assert_close(model_score(model, z, x, u), model_score(model, z.clone(), x.clone(), u))


@every_model
def test_what_has_changed_since_is_computed_again(name):
    """A model's trajectory takes what the guide's has computed only if model and data are as they were."""
    model, x, u = STATE_SPACES[name].build()
    guide = Filter(model)
    q = guide.trajectory(x, u)
    z = q.rsample().detach()  # with a graph, or the model would not take over what was computed
    x.copy_(1.0 - x)  # bits stay bits
    scores = [model_score(model, z, x, u) for _ in range(2)]
    assert torch.equal(*scores)


@pytest.mark.parametrize("change", [lambda model: model.emission_bias.add_(5.0), lambda model: model.eval()])
def test_buffers_and_the_mode_are_looked_at_too(change):
    """Fixed values of an LGSSM are buffers."""
    torch.manual_seed(0)
    model = linear_gaussian(learn=lambda v: v)
    x, u = torch.randn(SEQUENCES, FRAMES, DATA), torch.randn(SEQUENCES, FRAMES, 2)
    q = Filter(model).trajectory(x, u)
    z = q.rsample().detach()
    offered = q.inputs
    change(model)
    assert Trajectory(model, model.transition, x, u).inputs is not offered
    assert torch.equal(model_score(model, z, x, u), model_score(model, z, x, u))


@every_model
def test_scoring_has_no_loop_over_time(name, monkeypatch):
    model, x, u = STATE_SPACES[name].build()
    q, p, calls = Filter(model).trajectory(x, u), Trajectory(model, model.transition, x, u), []
    z = torch.randn(SEQUENCES, FRAMES, LATENT)
    for part in ("advance", "transition", "emission"):
        own = getattr(type(model), part)
        monkeypatch.setattr(type(model), part, lambda *args, own=own, part=part: (calls.append(part), own(*args))[1])
    q.log_prob(z), p.log_prob(z), model.observation(z, p.states(z)).log_prob(x)
    assert calls.count("advance") == 0
    assert calls.count("transition") <= 2
    assert calls.count("emission") == 1


def model_score(model, z, x, u):
    return poutine.trace(poutine.condition(model, {"z": z})).get_trace(x, u).log_prob_sum()


@every_model
def test_shapes_of_draws_and_scores(name):
    model, x, u = STATE_SPACES[name].build()
    p = Trajectory(model, model.transition, x, u)
    assert p.batch_shape == (SEQUENCES,)
    assert p.event_shape == (FRAMES, LATENT)
    assert p.expand((SEQUENCES,)) is p
    wide = p.expand((PARTICLES, SEQUENCES))
    assert wide.batch_shape == (PARTICLES, SEQUENCES)
    value = wide.sample((2,))
    assert value.shape == (2, PARTICLES, SEQUENCES, FRAMES, LATENT)
    assert not value.requires_grad
    assert wide.log_prob(value).shape == (2, PARTICLES, SEQUENCES)
    torch.testing.assert_close(wide.log_prob(value)[0, 1], p.log_prob(value[0, 1]))
    assert wide.log_prob(torch.zeros(FRAMES, LATENT)).shape == (PARTICLES, SEQUENCES)
    assert p.support.check(value).all()
    draws = wide.rsample()
    assert (draws[0] != draws[1]).all(), "particles share their draw"
    assert (draws[:, 0] != draws[:, 1]).all(), "sequences share their draw"


def test_networks_run_once_in_a_score_and_an_emission():
    """`states` is computed once for each value, and the guide's own draw is scored without a network."""
    model, x, _ = STATE_SPACES["driven"].build()
    guide, calls = Filter(model), []
    model.gru.register_forward_hook(lambda *_: calls.append("gru"))
    guide.net.register_forward_hook(lambda *_: calls.append("net"))
    loss = ELBO(2)(model, guide)
    loss(x)
    calls.clear()
    loss(x)
    assert calls.count("gru") == 1, "the model takes what the guide has computed"
    assert calls.count("net") == FRAMES


def test_the_prior_draws_what_the_recursions_say():
    """Mean and covariance of a million numbers against those of the filter that has seen nothing."""
    model, x, u = STATE_SPACES["lgssm-both"].build()
    draws = Trajectory(model, model.transition, x, u).sample((20_000,))
    nothing = torch.zeros(SEQUENCES, FRAMES, dtype=torch.bool)
    found = kalman.filter(model.system(), x, u, nothing)
    variance = found.predicted_covariances.diagonal(dim1=-2, dim2=-1)
    score = (draws.mean(0) - found.predicted_means) / (variance / len(draws)).sqrt()
    assert score.abs().max() < Z_MAX
    score = (draws.var(0) / variance - 1) * math.sqrt(len(draws) / 2)
    assert score.abs().max() < Z_MAX


# --- masks -----------------------------------------------------------------------------------------------------------

LENGTHS = torch.tensor([[FRAMES], [2], [4], [1]])
PADDING = torch.arange(FRAMES) < LENGTHS
HOLES = torch.tensor([[1, 0, 1, 1, 0, 1], [0, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1], [0, 0, 0, 1, 0, 0]]).bool()


@every_model
@pytest.mark.parametrize("mask", [PADDING, HOLES], ids=["padding", "holes"])
def test_what_is_masked_may_be_anything(name, mask):
    model, x, u = STATE_SPACES[name].build()
    losses, gradients = [], []
    guide = Filter(model)
    for fill in (0.0, math.nan, 7.0):
        torch.manual_seed(3)
        loss = IWELBO(PARTICLES)(model, guide)
        value = loss(torch.where(mask.unsqueeze(-1), x, fill), u, mask)
        losses.append(value.detach())
        gradients.append(torch.autograd.grad(value, list(loss.parameters())))
    assert losses[0].isfinite()
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(losses[0], losses[2])
    for a, b, c in zip(*gradients, strict=True):
        assert a.isfinite().all()
        assert torch.equal(a, b)
        assert torch.equal(a, c)


@every_model
def test_padding_adds_nothing(name):
    """After the last observed frame log p - log q is zero, so padded sequences score as short ones do."""
    if name in ("lgssm-in-time", "lgssm-both"):
        return  # a shorter sequence would need a shorter model
    model, x, u = STATE_SPACES[name].build()
    guide = Filter(model)
    run = terms(model, guide, x, u, PADDING, num_particles=PARTICLES)
    for n, length in enumerate(LENGTHS.flatten().tolist()):
        one = model
        if name == "lgssm-per-sequence":
            one = linear_gaussian(lead=(1, 1))
            with torch.no_grad():
                for key, value in one.named_parameters():
                    value.copy_(getattr(model, key)[n : n + 1])
        part = x[n : n + 1, :length], None if u is None else u[n : n + 1, :length]
        z = run.latents["z"][:, n : n + 1, :length]
        p = Trajectory(one, one.transition, *part)
        short = Filter(one)
        short.load_state_dict(guide.state_dict())
        q = short.trajectory(*part)
        torch.testing.assert_close(run.log_ratios["z"][:, n], (p.log_prob(z) - q.log_prob(z))[:, 0])
        log_x = one.observation(z, p.states(z)).log_prob(part[0])
        torch.testing.assert_close(run.log_likelihood[:, n], log_x[:, 0])


@every_model
def test_a_mask_speaks_of_x_alone(name):
    """z_t of a missing frame is a latent variable like any other: its prior density does not know of the mask."""
    model, x, u = STATE_SPACES[name].build()
    x = model.completed(x, u, HOLES)  # models that feed x back see a missing frame as zero, or as its expectation
    z = torch.randn(SEQUENCES, FRAMES, LATENT)
    masked = Trajectory(model, model.transition, x, u, HOLES)
    torch.testing.assert_close(masked.log_prob(z), Trajectory(model, model.transition, x, u).log_prob(z))
    s = masked.states(z)
    each = model.emission(z, s).log_prob(x)
    expected = torch.where(HOLES, each, 0.0).sum(-1)
    torch.testing.assert_close(model.observation(z, s, HOLES).log_prob(x), expected)


def test_before_the_last_observed_frame_a_guide_decides():
    model, x, _ = STATE_SPACES["driven"].build()
    q = Filter(model).trajectory(x, None, HOLES)
    last = [5, 2, 5, 3]
    assert q.followed.tolist() == [[t <= end for t in range(FRAMES)] for end in last]
    assert Filter(model).trajectory(x, None, torch.ones_like(HOLES)).followed is None


# --- KL, generation --------------------------------------------------------------------------------------------------


def test_kl_along_draws_is_the_kl_on_average():
    """Two linear-Gaussian priors; KL from their dense joint Gaussians."""
    q_model, x, u = STATE_SPACES["lgssm"].build(0)
    p_model, _, _ = STATE_SPACES["lgssm"].build(1)
    q, p = (Trajectory(m, m.transition, x, u) for m in (q_model, p_model))
    with torch.no_grad():
        wide = q.expand((4000, SEQUENCES))
        wide.sample()
        found = kl_divergence(wide, p)
        exact = kl_divergence(*(dense(m, u) for m in (q_model, p_model)))
    score = (found.mean(0) - exact) / (found.std(0) / math.sqrt(len(found)))
    assert score.abs().max() < Z_MAX
    assert (found.std(0) > 0).all()
    plain = wide.log_prob(wide._latest.value) - p.log_prob(wide._latest.value)
    assert (found.std(0) < plain.std(0)).all(), "what is known in closed form has no noise"


def dense(model, u):
    """The prior over all of z, from the affine map that `Trajectory` makes of noise."""
    N, size = len(u), FRAMES * LATENT

    def mean_path(first):  # the map z -> predicted mean is affine, so z = M z + c + L e
        s = model.states(first.unflatten(-1, (FRAMES, LATENT)), u, *model.inputs(u, u))
        return model.transition(s).mean.flatten(-2)

    c = mean_path(torch.zeros(N, size))
    matrix = torch.stack([mean_path(row.expand(N, size)) - c for row in torch.eye(size)], -1)
    s = model.states(torch.zeros(N, FRAMES, LATENT), u, *model.inputs(u, u))
    blocks = [torch.block_diag(*step) for step in model.transition(s).scale_tril.expand(N, FRAMES, LATENT, LATENT)]
    inverse = torch.linalg.inv(torch.eye(size) - matrix)
    root = inverse @ torch.stack(blocks)
    return torch.distributions.MultivariateNormal((inverse @ c.unsqueeze(-1)).squeeze(-1), root @ root.mT)


@every_model
def test_analytic_kl_has_the_gradient_of_each_step(name):
    """Value: the bound with each step's KL in closed form, at the same draws; z finite, gradient everywhere."""
    if name.startswith("lgssm"):
        return  # a diagonal guide against a dense transition: covered by torch's own KL above
    model, x, u = STATE_SPACES[name].build()
    guide = Filter(model)
    loss = ELBO(PARTICLES, analytic_kl=True)(model, guide)
    torch.manual_seed(1)
    value = loss(x, u)
    torch.manual_seed(1)
    run = terms(model, guide, x, u, num_particles=PARTICLES)
    z = run.latents["z"]
    s = model.states(z, x, *model.inputs(x, u))
    steps = kl_divergence(guide.conditional(s, x), model.transition(s)).sum(-1)
    torch.testing.assert_close(-value, (run.log_likelihood - steps).mean(0).sum())
    gradients = torch.autograd.grad(value, list(loss.parameters()))
    assert all(g.isfinite().all() for g in gradients)


@every_model
def test_analytic_kl_of_padding_is_nothing(name):
    """Value: the KL of the steps up to the last observed frame; padding has none, a hole has its own."""
    if name.startswith("lgssm"):
        return
    model, x, u = STATE_SPACES[name].build()
    guide, mask = Filter(model), torch.arange(FRAMES) < torch.tensor([[6], [2], [4], [1]])
    mask[2, 1] = False
    torch.manual_seed(1)
    value = ELBO(PARTICLES, analytic_kl=True)(model, guide)(x, u, mask)
    torch.manual_seed(1)
    run = terms(model, guide, x, u, mask, num_particles=PARTICLES)
    z, filled = run.latents["z"], x.masked_fill(~mask.unsqueeze(-1), 0.0)
    read = model.completed(x, u, mask)
    s = model.states(z, read, *model.inputs(read, u))
    steps = kl_divergence(guide.conditional(s, filled), model.transition(s))
    kl = torch.stack([steps[:, n, :T].sum(-1) for n, T in enumerate((6, 2, 4, 1))], -1)
    torch.testing.assert_close(-value, (run.log_likelihood - kl).mean(0).sum())
    assert (steps[:, 1, 2:] > 1e-3).any(), "or padding could not be seen"


@every_model
def test_generate_feeds_the_drawn_x_back(name):
    model, _, u = STATE_SPACES[name].build()
    z, x = model.generate(SEQUENCES, FRAMES, u)
    assert z.shape == (SEQUENCES, FRAMES, LATENT)
    assert x.shape == (SEQUENCES, FRAMES, DATA)
    assert (z[0] != z[1]).all()
    torch.manual_seed(5)
    nothing = torch.zeros(SEQUENCES, 0, LATENT), torch.zeros(SEQUENCES, 0, DATA)
    z, x = model.extend(*nothing, FRAMES, u)
    torch.manual_seed(5)
    with torch.no_grad():  # the same by hand, with everything known of x from the outset
        by_step = at_steps(model.inputs(x, u), FRAMES)
        s = model.start(x, *by_step[0])
        for t in range(FRAMES):
            torch.testing.assert_close(model.transition(s).expand((SEQUENCES,)).sample(), z[:, t])
            torch.testing.assert_close(model.emission(z[:, t], s).sample(), x[:, t])
            if t + 1 < FRAMES:
                s = model.advance(s, z[:, t], x[:, t], *by_step[t + 1])


def test_extending_posterior_draws_is_the_forecast():
    """z from p(z | x), then k frames step by step: moments against the recursions' own forecast."""
    model, x, u = STATE_SPACES["lgssm"].build()
    x, past = x[:1, : FRAMES - 2], u[:1, : FRAMES - 2]
    draws = model.posterior(x, past).sample((20_000,))[:, 0]
    z, more = model.extend(draws, x.expand(len(draws), -1, -1), 2, u[:1].expand(len(draws), -1, -1))
    found = kalman.forecast(model.system(), x, 2, u[:1])
    for values, mean, covariance in (
        (z, found.predicted_means, found.predicted_covariances),
        (more, found.observation_means, found.observation_covariances),
    ):
        variance = covariance[0].diagonal(dim1=-2, dim2=-1)
        assert ((values.mean(0) - mean[0]) / (variance / len(draws)).sqrt()).abs().max() < Z_MAX
        assert ((values.var(0) / variance - 1) * math.sqrt(len(draws) / 2)).abs().max() < Z_MAX


# --- Pyro's own algorithms, errors -----------------------------------------------------------------------------------


def test_nuts_takes_the_program_as_it_is():
    model, x, u = STATE_SPACES["markov"].build()
    kernel = NUTS(model)
    kernel.setup(5, x, u, PADDING)
    value = kernel.sample(kernel.initial_params)["z"]
    assert value.shape == (SEQUENCES, FRAMES, LATENT)
    assert torch.isfinite(kernel.potential_fn({"z": value}))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda x: (x[0],), r"x: expected shape \(N, T, 3\), got \(6, 3\)"),
        (lambda x: (x[..., :2],), r"x: expected shape \(N, T, 3\), got \(4, 6, 2\)"),
        (lambda x: (x[:, :0],), "at least one sequence and one frame"),
        (lambda x: (x.float(),), "x: expected torch.float64 like the model's parameters, got torch.float32"),
        (lambda x: (x, x[0]), r"u: expected shape \(4, 6, control_dim\), got \(6, 3\)"),
        (lambda x: (x, None, x > 0), r"mask: Driven takes whole frames, shape \(N, T\), got \(4, 6, 3\)"),
        (lambda x: (x, None, x[..., 0]), r"mask: expected torch.bool of shape \(4, 6\) or \(4, 6, 3\)"),
        (lambda x: (x, None, PADDING[:2]), r"got torch.bool of shape \(2, 6\)"),
    ],
)
def test_what_does_not_fit_is_named(arguments, message):
    model, x, _ = STATE_SPACES["driven"].build()
    with pytest.raises(ValueError, match=message):
        model(*arguments(x))


def test_values_and_horizons_that_do_not_fit_are_named():
    model, x, _ = STATE_SPACES["driven"].build()
    with pytest.raises(ValueError, match=r"z: expected shape \(..., 6, 2\), got \(4, 5, 2\)"):
        Trajectory(model, model.transition, x).log_prob(torch.zeros(4, 5, 2))
    with pytest.raises(ValueError, match="k: expected a whole number, at least 1, got 0"):
        model.extend(torch.zeros(4, 6, 2), x, 0)
    for frames in (5, 7):
        with pytest.raises(ValueError, match=rf"z: expected shape \(4, 6, 2\) as x has it, got \(4, {frames}, 2\)"):
            model.extend(torch.zeros(4, frames, 2), x, 1)
    for num, T, wrong in ((0, 3, "num"), (3, 0, "T"), (-1, 3, "num")):
        with pytest.raises(ValueError, match=f"{wrong}: expected a whole number, at least 1, got {min(num, T)}"):
            model.generate(num, T)
    with pytest.raises(TypeError, match=r"mask: expected a torch.Tensor, got list"):
        model(x, None, [True])
    with pytest.raises(TypeError, match=r"x: expected a torch.Tensor, got list"):
        model([[1.0]])
    with pytest.raises(TypeError, match="StateSpace: abstract; Half states neither advance nor emission nor start"):
        type("Half", (StateSpace,), {"transition": id, "states": id})()


def test_a_carry_that_is_lost_or_of_another_kind_is_named():
    model, x, _ = STATE_SPACES["srnn"].build()
    carry = model.given(x[:, 0])
    lost = carry._replace(z=carry.z.masked_fill(torch.arange(SEQUENCES)[:, None] == 2, math.nan))
    for wrong, error, message in (
        (tuple(carry), TypeError, "carry: expected a Carry, from carry_on or given, got tuple"),
        (lost, ValueError, "carry.z: NaN or infinite, first for sequence 2, counted from 0"),
        (carry._replace(s="s_0"), ValueError, "carry.s: str is no state of a SRNN"),
        (carry._replace(x=carry.x[:, :1]), ValueError, r"carry.x: expected shape .* for 4 sequences, got \(4, 1\)"),
    ):
        with pytest.raises(error, match=message):
            model(x, carry=wrong)
    model, x, u = STATE_SPACES["lgssm-both"].build()
    with pytest.raises(ValueError, match=r"u: expected the controls of .* sequences and 6 \+ 2 frames, got"):
        model.extend(torch.zeros(*x.shape[:-1], LATENT), x, 2, u[:, :3].repeat(1, 3, 1))


def test_a_divergence_draws_where_nothing_was_drawn():
    model, x, u = STATE_SPACES["dmm"].build()
    q = Filter(model).trajectory(x, u)
    kl = kl_divergence(q, Trajectory(model, model.transition, x, u))
    assert kl.shape == (SEQUENCES,)
    assert (kl > 0).all()
    assert q._latest is not None
