"""The model with spatial memory: against brute force over states and codes, its guides, missing frames, futures."""

import math
from functools import partial

import pyro
import pytest
import torch
from gaussian_pairs import Z_MAX
from pyro import poutine
from torch import nn
from torch.distributions import MultivariateNormal, Normal

from guides import Remembering, Watching
from zoo import GTMSM, LGSSM, LinearStep, StoppingStep, load_pair, save_pair
from zoo.infer import ELBO, IWELBO, RenyiELBO, Scheduled, fit, log_likelihood, sequence_log_likelihood, terms
from zoo.parts import conditionals
from zoo.parts.distributions import MixtureOfNormalsDensity
from zoo.parts.kalman import Parameters
from zoo.parts.networks import WithHead, mlp
from zoo.parts.walking import Nearest, Views

N, T, TAU, DATA, LATENT, STATE, ACTIONS = 4, 7, 3, 5, 2, 2, 4

pytestmark = pytest.mark.usefixtures("double_precision")


def build(step=None, *, tau=TAU, neighbours=2, data=DATA, latent=LATENT, linear=False, **options):
    """A model of walks; equal parameters for equal seeds. `linear`: x is linear in z."""
    torch.manual_seed(0)
    encoder = WithHead((data,), latent, partial(conditionals.Normal, heteroscedastic=True, scale=0.8), hidden=(8,))
    emission = conditionals.Normal(latent, data, scale=1.5)
    if not linear:
        emission = WithHead((latent,), data, conditionals.Normal, hidden=(8,))
    step = step or LinearStep(ACTIONS, STATE)
    return GTMSM(step, encoder, emission, data, latent, memorise=tau, neighbours=neighbours,
                 noise=options.pop("noise", 0.3), **options)  # fmt: skip


def walls(**options):
    torch.manual_seed(4)
    return build(StoppingStep(ACTIONS, STATE, hidden=(8,)), **options)


def batch(seed=1):
    torch.manual_seed(seed)
    return torch.randn(N, T, DATA), torch.randn(N, T, ACTIONS)


def holes():
    """A mask with a hole in the memory and one after it."""
    mask = torch.ones(N, T, dtype=torch.bool)
    mask[0, 1], mask[0, TAU + 1], mask[2, 0], mask[3, TAU:-1] = False, False, False, False
    return mask


GUIDES = {
    "remembering": (build, Remembering),
    "watching": (walls, Watching),
    "watching without a gate": (build, Watching),
    "following": (walls, partial(Watching, follow=True)),
    "gated": (walls, partial(Watching, gated=True)),
    "gated, following": (walls, partial(Watching, gated=True, follow=True)),
}
every_guide = pytest.mark.parametrize("name", GUIDES)


def pair(name):
    model, guide = GUIDES[name]
    model = model()
    return model, guide(model)


# --- against brute force ---------------------------------------------------------------------------------------------


def toy(**options):
    """States and actions of one number, two memorised frames and one after them; x is linear in z."""
    step = LinearStep(1, 1)
    model = build(step, tau=2, data=2, latent=1, linear=True, delta=0.5, noise=0.6, **options)
    with torch.no_grad():
        step.move.weight.fill_(1.0)
    torch.manual_seed(5)
    x, u = torch.randn(3, 3, 2), torch.tensor([0.0, 1.0, -0.7]).reshape(1, 3, 1).expand(3, 3, 1)
    return model, x, u


def brute_force(model, x, u, nodes=48):
    """log p(x_3 | x_1, x_2, u): z summed out in closed form, s_1..s_3 by Gauss-Hermite quadrature."""
    import numpy as np

    places, weights = (torch.from_numpy(v) for v in np.polynomial.hermite_e.hermegauss(nodes))
    weights = weights / weights.sum()
    noise = 0.6 * torch.cartesian_prod(places, places, places)
    mass = torch.cartesian_prod(weights, weights, weights).prod(-1)
    moves = torch.tensor([0.0, *(u[0, 1:, 0]).tolist()])
    s = (noise + moves).cumsum(-1)
    near = 1 / ((s[:, 2:] - s[:, :2]).square() + 0.5)
    near = near / near.sum(-1, keepdim=True)
    q, p = model.recall.encode(x[:, :2]), model.recall.emission_of
    W, b, R = p.loc.weight, p.loc.bias, p.log_scale.exp().square().diag()
    covariance = R + W @ (q.scale.square().unsqueeze(-1) * W.mT)
    each = MultivariateNormal(q.loc @ W.T + b, covariance).log_prob(x[:, 2:])
    return torch.stack([((near * one.exp()).sum(-1) * mass).sum().log() for one in each])


def test_importance_weights_estimate_brute_force_over_states_and_codes():
    model, x, u = toy()
    exact = brute_force(model, x, u)
    torch.testing.assert_close(exact, brute_force(model, x, u, nodes=30), rtol=0, atol=1e-6)
    found = log_likelihood(model, Remembering(model), x, u, num_particles=20_000, seed=0)
    assert ((found.per_datum - exact).abs() < Z_MAX * found.per_datum_error).all()
    assert (found.per_datum_error < 0.05).all()


def test_bounds_rise_to_brute_force():
    model, x, u = toy()
    exact, guide = brute_force(model, x, u), Remembering(model)
    torch.manual_seed(0)
    values = []
    with torch.no_grad():
        weights = terms(model, guide, x, u, num_particles=16 * 1000).log_weights
    for K in (1, 4, 16):
        runs = weights.reshape(-1, K, 3).logsumexp(1) - math.log(K)
        values.append((runs.mean(0), runs.std(0) / len(runs) ** 0.5))
    for (low, low_error), (high, high_error) in zip(values, [*values[1:], (exact, torch.zeros(3))], strict=True):
        assert (low < high + Z_MAX * (low_error**2 + high_error**2).sqrt()).all()
    assert (values[0][0] < exact - 0.1).all()
    assert (values[2][0] - exact).abs().max() < (values[0][0] - exact).abs().min()


def test_a_memory_of_one_entry_is_a_vae_with_that_prior():
    model, x, u = build(tau=1, neighbours=1), *batch()
    run = terms(model, Remembering(model), x, u, num_particles=3)
    z, prior, q = run.latents["z"], model.recall.encode(x[:, :1]), model.recall.encode(x[:, 1:])
    assert z.shape == (3, N, T - 1, LATENT)
    torch.testing.assert_close(run.log_ratios["z"], (prior.log_prob(z) - q.log_prob(z)).sum(-1))
    torch.testing.assert_close(run.log_likelihood, model.recall.emission_of(z).log_prob(x[:, 1:]).sum(-1))


def test_the_prior_of_a_code_integrates_to_one():
    model = build(latent=1)
    x, u = batch()
    c = model.context(model.walk(u).sample(), x)
    grid = torch.linspace(-12, 12, 4001)
    density = model.prior(c).log_prob(grid.reshape(-1, 1, 1, 1)).exp()
    torch.testing.assert_close(torch.trapezoid(density, grid, dim=0), torch.ones(N, T - TAU), rtol=0, atol=1e-9)


def test_memorised_frames_in_another_order_change_nothing():
    model = build()
    x, s, at, order = torch.randn(N, 6, DATA), torch.randn(N, 6, STATE), torch.randn(N, 4, STATE), torch.randperm(6)
    one, other = model.recall.context(s, x, at), model.recall.context(s[:, order], x[:, order], at)
    torch.testing.assert_close(one.loc, other.loc)
    torch.testing.assert_close(one.found.log_weights, other.found.log_weights)


def test_the_mixture_is_that_of_the_nearest_frames_by_hand():
    model, x, u = build(neighbours=3), *batch()
    s = model.walk(u).sample()
    found = model.prior(model.context(s, x))
    q = model.recall.encode(x[:, :TAU])
    weights = 1 / ((s[:, TAU:, None] - s[:, None, :TAU]).square().sum(-1) + 1e-4)
    by_hand = MixtureOfNormalsDensity(weights.log(), q.loc.unsqueeze(1), q.scale.unsqueeze(1))
    z = torch.randn(N, T - TAU, LATENT)
    torch.testing.assert_close(found.log_prob(z), by_hand.log_prob(z))


# --- guides ----------------------------------------------------------------------------------------------------------


def test_remembered_states_have_a_ratio_of_exactly_zero():
    model, x, u = build(), *batch()
    run = terms(model, Remembering(model), x, u, num_particles=5)
    assert (run.log_ratios["s"] == 0).all()
    assert not list(Remembering(model).parameters())


@every_guide
@pytest.mark.parametrize("mask", [None, holes()], ids=["whole", "holes"])
def test_log_weights_are_those_of_pyros_traces(name, mask):
    model, guide = pair(name)
    x, u = batch()
    run = terms(model, guide, x, u, mask, num_particles=3)
    for k in range(3):
        values = {site: value[k] for site, value in run.latents.items()}
        p, q = (poutine.trace(poutine.condition(part, values)).get_trace(x, u, mask) for part in (model, guide))
        p.compute_log_prob(), q.compute_log_prob()
        for site in ("s", "z"):
            torch.testing.assert_close(run.log_ratios[site][k], p.nodes[site]["log_prob"] - q.nodes[site]["log_prob"])
        torch.testing.assert_close(run.log_likelihood[k], p.nodes["x"]["log_prob"])


def test_watched_states_are_gaussian_steps_of_the_share_that_was_made():
    model = walls()
    guide, (x, u) = Watching(model, noise=0.2), batch()
    s = guide.walk(x, u).sample()
    change = (x[:, 1:] - x[:, :-1]).abs().mean(-1, keepdim=True)

    def told(c):
        return guide.seen((c + 1e-3).log()).sigmoid().squeeze(-1)

    share = (told(change) / told(torch.logspace(-3, 0, 31).unsqueeze(-1)).max()).clamp(max=1.0)
    torch.testing.assert_close(guide.made(x), share)
    loc = torch.cat([torch.zeros(N, 1, STATE), s[:, :-1] + model.step.move(u[:, 1:]) * share.unsqueeze(-1)], 1)
    torch.testing.assert_close(guide.walk(x, u).log_prob(s), Normal(loc, 0.2).log_prob(s).sum((-1, -2)))


def test_the_gate_helps_a_guide_whose_frames_tell_little():
    model = walls()
    guide, (x, u) = Watching(model, gated=True), batch()
    with torch.no_grad():
        guide.seen[-1].weight.zero_(), guide.seen[-1].bias.zero_()
    s = torch.randn(N, T, STATE)
    q, loc = guide.walk(x, u), model.step(s[:, :-1], u[:, 1:])
    scores = Normal(torch.cat([torch.zeros(N, 1, STATE), loc], 1), 1e-3).log_prob(s).sum((-1, -2))
    torch.testing.assert_close(q.log_prob(s), scores)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("objective", [partial(ELBO, 2), partial(IWELBO, 2), partial(RenyiELBO, 0.5, 2)])
def test_following_keeps_the_value_and_teaches_the_gate_alone(gated, objective):
    """Against the definition: log p(s) with the walk and M held constant, log q(s) held constant."""
    model = walls()
    guide, (x, u) = Watching(model, gated=gated, noise=0.2), batch()
    losses = {}
    for follow in (False, True):
        guide.follow = follow
        torch.manual_seed(3)
        losses[follow] = objective()(model, guide)(x, u)
    torch.testing.assert_close(losses[True], losses[False])
    losses[True].backward()
    found = {n: p.grad.clone() for part in (model, guide) for n, p in part.named_parameters() if p.grad is not None}
    model.zero_grad(), guide.zero_grad()
    torch.manual_seed(3)
    run = terms(model, guide, x, u, num_particles=2)
    s = run.latents["s"].detach()
    held = {name: p.detach() for name, p in model.named_parameters() if "move" in name}
    p_of_s = torch.func.functional_call(_Score(model), {f"model.{n}": v for n, v in held.items()}, (s, u))
    log_q = run.log_ratios["s"].detach() - p_of_s.detach()
    rest = run.log_likelihood + run.log_ratios["z"]
    weights = rest + p_of_s + log_q
    bound = {
        ELBO: lambda w: w.mean(0),
        IWELBO: lambda w: w.logsumexp(0),
        RenyiELBO: lambda w: (0.5 * w).logsumexp(0) / 0.5,
    }
    # the gate's own path through a gated walk is held too
    if gated:
        for parameter in model.step.net.parameters():
            parameter.requires_grad_(False)
        torch.manual_seed(3)
        again = terms(model, guide, x, u, num_particles=2)
        for parameter in model.step.net.parameters():
            parameter.requires_grad_(True)
        weights = again.log_likelihood + again.log_ratios["z"] + p_of_s + log_q
    (-bound[objective.func](weights).sum()).backward()
    expected = {n: p.grad for part in (model, guide) for n, p in part.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys()
    for parameter, gradient in found.items():
        torch.testing.assert_close(gradient, expected[parameter], rtol=1e-8, atol=1e-10, msg=parameter)


class _Score(nn.Module):
    """log p(s | u) of a model, as a module for `functional_call`."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, s, u):
        return self.model.walk(u).log_prob(s)


def test_a_step_of_several_modes_is_not_trained_by_draws_from_the_model():
    model, (x, u) = walls(), batch()
    with pytest.raises(ValueError, match="site 's': Walk has no reparameterised sample"):
        ELBO()(model, Remembering(model))(x, u)
    assert log_likelihood(model, Remembering(model), x, u, num_particles=3).per_datum.isfinite().all()


# --- missing frames --------------------------------------------------------------------------------------------------


@every_guide
def test_contents_of_missing_frames_do_not_matter(name):
    model, guide = pair(name)
    (x, u), mask = batch(), holes()
    results = []
    for content in (0.0, 1e4, math.nan):
        given = torch.where(mask.unsqueeze(-1), x, content)
        torch.manual_seed(2)
        loss = ELBO(2)(model, guide)
        loss.zero_grad()
        value = loss(given, u, mask)
        value.backward()
        results.append((value.detach(), [p.grad.clone() for p in loss.parameters()]))
    for value, gradients in results[1:]:
        torch.testing.assert_close(value, results[0][0])
        torch.testing.assert_close(gradients, results[0][1])


def test_missing_frames_are_neither_scored_nor_retrieved():
    model, x, u = build(neighbours=2), *batch()
    mask = holes()
    run = terms(model, Remembering(model), x, u, mask, num_particles=3)
    s, z = run.latents["s"], run.latents["z"]
    scores = model.recall.emission_of(z).log_prob(x[:, TAU:])
    torch.testing.assert_close(run.log_likelihood, torch.where(mask[:, TAU:], scores, 0.0).sum(-1))
    # sequence 2 has lost its first frame, so that its mixture is of the other two
    q = model.recall.encode(x[2, 1:TAU])
    weights = 1 / ((s[:, 2, TAU:, None] - s[:, 2, None, 1:TAU]).square().sum(-1) + 1e-4)
    prior = MixtureOfNormalsDensity(weights.log(), q.loc, q.scale)
    posterior = model.recall.encode(x[2, TAU:])
    expected = (prior.log_prob(z[:, 2]) - posterior.log_prob(z[:, 2])).sum(-1)
    torch.testing.assert_close(run.log_ratios["z"][:, 2], expected)


def test_a_missing_code_follows_the_prior():
    """log p - log q of its frame is 0, and the draws are the prior's: not those of an encoder that read zeros."""
    model, x, u = build(), *batch()
    mask = torch.ones(N, T, dtype=torch.bool)
    mask[:, -2] = False
    sites = poutine.trace(Remembering(model)).get_trace(x, u, mask).nodes
    q, z = sites["z"]["fn"].base_dist, sites["z"]["value"]
    prior, encoded = model.prior(model.context(sites["s"]["value"], x, mask)), model.recall.encode(x[:, TAU:])
    torch.testing.assert_close(q.log_prob(z)[:, -2], prior.log_prob(z)[:, -2])
    seen = [0, 1, 3]
    torch.testing.assert_close(q.log_prob(z)[:, seen], encoded.log_prob(z)[:, seen])
    many = q.expand((4000, N, T - TAU)).rsample()[:, :, -2]
    error = (prior.variance[:, -2] / 4000).sqrt()
    assert ((many.mean(0) - prior.mean[:, -2]).abs() < Z_MAX * error).all()


# --- futures ---------------------------------------------------------------------------------------------------------


@every_guide
def test_futures_have_an_axis_of_draws_and_leave_the_caller_alone(name):
    model, guide = pair(name)
    (x, u), mask = batch(), holes()[:, :TAU]
    guide.train(), model.train()
    drawn = model.generate(x[:, :TAU], u, 5, guide=guide, mask=mask)
    assert [tuple(v.shape) for v in drawn] == [
        (5, N, T - TAU, STATE), (5, N, T - TAU, LATENT), (5, N, T - TAU, DATA), (5, N, T - TAU, DATA),
        (5, N, TAU, STATE),
    ]  # fmt: skip
    assert not any(v.requires_grad for v in drawn)
    assert guide.training
    assert model.training
    told = model.predict(x[:, :TAU], u, guide=guide, mask=mask)
    assert [tuple(v.shape) for v in told] == [tuple(v.shape[1:]) for v in drawn]
    state = torch.get_rng_state()
    torch.testing.assert_close(model.predict(x[:, :TAU], u, guide=guide, mask=mask), told)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_walk_that_comes_back_sees_the_frame_again():
    step = LinearStep(ACTIONS, STATE)
    model = build(step, tau=3, neighbours=1, noise=1e-6)
    with torch.no_grad():
        step.move.weight.copy_(torch.tensor([[1.0, -1, 0, 0], [0, 0, 1, -1]]))
    actions = torch.eye(ACTIONS)[torch.tensor([[0, 0, 2, 3, 1, 2, 3, 0]])]
    x = torch.randn(1, 3, DATA)
    told = model.predict(x, actions)
    # right, up; then down, left, up, down, right
    assert told.s[0].round().tolist() == [[1, 0], [0, 0], [0, 1], [0, 0], [1, 0]]
    mean = model.recall.emission_of(model.recall.encode(x).loc).mean[0]
    for t, place in ((0, 1), (1, 0), (3, 0), (4, 1)):
        torch.testing.assert_close(told.mean[0, t], mean[place])
    drawn = model.generate(x, actions, 200)
    assert (drawn.s - told.s).abs().max() < 1e-4
    assert (drawn.x.mean(0) - drawn.mean.mean(0)).abs().max() < Z_MAX * drawn.x.std() / 200**0.5


def test_a_longer_memory_than_the_trained_one_is_taken():
    model, x, u = build(), *batch()
    assert model.predict(x[:, : T - 1], u).mean.shape == (N, 1, DATA)
    assert model.generate(x[:, :2], u, 2).s.shape == (2, N, T - 2, STATE)


# --- conventions and training ----------------------------------------------------------------------------------------


def test_averages_per_frame_divide_by_the_frames_that_the_model_scores():
    model, x, u = build(), *batch()
    mask = holes()
    found = sequence_log_likelihood(model, Remembering(model), x, u, mask, data="toy", num_particles=2, seed=0)
    assert found.frames.tolist() == mask[:, TAU:].sum(1).tolist()
    assert f"{int(mask[:, :TAU].sum())} observed frames given and not scored" in str(found)
    short = torch.ones(N, T, dtype=torch.bool)
    short[1, TAU:] = False
    with pytest.raises(ValueError, match="x: GTMSM scores no frame of sequences 1, it is given all of them"):
        sequence_log_likelihood(model, Remembering(model), x, u, short, data="toy")


def test_streams_of_walks_are_refused():
    model, x, u = build(), *batch()
    with pytest.raises(ValueError, match="streams: GTMSM has no carry_on; each of its sequences starts anew"):
        sequence_log_likelihood(model, Remembering(model), x, u, data="noise", streams=2)


def test_an_lgssm_scores_the_observed_frames_after_burn():
    torch.manual_seed(0)
    p = {"initial_mean": torch.zeros(1), "initial_covariance": torch.eye(1), "transition_matrix": torch.eye(1),
         "transition_covariance": torch.eye(1), "emission_matrix": torch.eye(1),
         "emission_covariance": torch.eye(1)}  # fmt: skip
    model = LGSSM(Parameters, burn=2, **p)
    mask = torch.tensor([[1, 1, 1, 1, 0], [0, 1, 0, 1, 1]]).bool()
    assert model.scored(mask).tolist() == [[False, False, True, True, False], [False, False, False, False, True]]
    from guides import Empty

    x = torch.randn(2, 5, 1)
    found = sequence_log_likelihood(model, Empty(model), x, None, mask, data="toy", num_particles=1)
    assert found.frames.tolist() == [2, 1]
    assert found.a == pytest.approx(-(model.log_prob(x, None, mask).sum() / 3).item())


def test_training_moves_every_part_and_resumes_bit_by_bit(tmp_path):
    def loss(steps, resume=False):
        model = walls()
        guide = Watching(model, follow=True)
        narrowing = Scheduled(ELBO(), model.noise, lambda step: 0.3 * 0.9**step)
        made = narrowing(model, guide)
        x, u = batch()
        fit(made, (x, u), steps=steps, batch_size=2, out=tmp_path if resume is not None else None, resume=resume,
            progress=False)  # fmt: skip
        return made

    whole = loss(8, None)
    loss(4)
    resumed = loss(8, True)
    start = walls()
    for (name, value), other in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(value, other), name
    for name, value in start.named_parameters():
        assert (value != dict(whole.model.named_parameters())[name]).any(), name
    assert whole.model.noise.item() == pytest.approx(0.3 * 0.9**7)


@pytest.mark.parametrize("follow", [False, True])
def test_a_pair_is_saved_as_it_stands_after_its_switches_were_changed(tmp_path, follow):
    model = walls()
    guide = Watching(model, follow=not follow)
    guide.follow, model.memorise = follow, TAU + 1
    save_pair(tmp_path / "pair", model, guide)
    twin, again = load_pair(tmp_path / "pair")
    assert (again.follow, twin.step.led, twin.memorise) == (follow, follow, TAU + 1)
    x, u = batch()
    torch.testing.assert_close(again.walk(x, u).likeliest, guide.walk(x, u).likeliest)
    with pytest.raises(ValueError, match="memorise: expected a whole number, at least 1, got 0"):
        model.memorise = 0


def test_the_model_generates_and_its_latents_can_be_seen_by_pyro():
    model, x, u = build(), *batch()
    sites = poutine.trace(poutine.uncondition(model)).get_trace(x, u).nodes
    assert sites["s"]["value"].shape == (N, T, STATE)
    assert sites["z"]["value"].shape == (N, T - TAU, LATENT)
    assert sites["x"]["value"].shape == (N, T - TAU, DATA)
    drawn = pyro.infer.Predictive(model, guide=Remembering(model), num_samples=3)(x, u)
    assert drawn["z"].shape == (3, N, T - TAU, LATENT)


# --- bad input -------------------------------------------------------------------------------------------------------


class Flat(nn.Module):
    """A step that returns a state of another size."""

    control_dim, state_dim = ACTIONS, STATE

    def forward(self, s, u):
        return s[..., :1]


class Still(Flat):
    """A step without actions."""

    control_dim = 0


class Short(LinearStep):
    """A step that loses a state of a path."""

    def path(self, first, u, noise):
        return super().path(first, u, noise)[..., 1:, :]


class Likely(LinearStep):
    def likeliest(self, s, u):
        return self(s, u)[..., :1]


class Alone(LinearStep):
    def transition(self, s, u, scale):
        return pyro.distributions.Normal(self(s, u), scale).to_event(1)


class Bare(Alone):
    def transition(self, s, u, scale):
        return [s]

    def likeliest(self, s, u):
        return s


class Thin(Bare):
    def transition(self, s, u, scale):
        return pyro.distributions.Normal(s[..., :1], scale).to_event(1)


BUILT = {
    "memorise 0": ({"tau": 0}, ValueError, "memorise: expected a whole number, at least 1, got 0"),
    "too many neighbours": ({"neighbours": 4}, ValueError, "neighbours: expected at most memorise = 3, got 4"),
    "no noise": ({"noise": 0.0}, ValueError, "noise: expected a finite number > 0, got 0.0"),
    "a constructor": ({"step": LinearStep}, TypeError, "step: expected a module such as LinearStep"),
    "no sizes": ({"step": nn.Linear(2, 2)}, ValueError, "GTMSM: Linear has no control_dim"),
    "no actions": ({"step": Still()}, ValueError, "control_dim: expected a whole number, at least 1, got 0"),
    "another size": ({"step": Flat()}, ValueError, r"Flat.forward to map states .* became Tensor of \(2, 1\)"),
    "a path of another length": (
        {"step": Short(ACTIONS, STATE)},
        ValueError,
        r"Short.path .* became Tensor of \(1, 2\)",
    ),
    "a most probable value of another size": (
        {"step": Likely(ACTIONS, STATE)},
        ValueError,
        r"Likely.likeliest .*\(2, 1\)",
    ),
    "no density": ({"step": Bare(ACTIONS, STATE)}, ValueError, "Bare.transition .* became list of None"),
    "a density of another size": ({"step": Thin(ACTIONS, STATE)}, ValueError, r"Thin.transition .* of \(2, 1\)"),
    "a density alone": ({"step": Alone(ACTIONS, STATE)}, ValueError, "step: Alone has no likeliest"),
    "delta": ({"delta": -1.0}, ValueError, "delta: expected a finite number > 0, got -1.0"),
    "a recall besides": ({"recall": nn.Identity()}, ValueError, "recall: given besides encoder, emission"),
}


@pytest.mark.parametrize("case", BUILT)
def test_arguments_of_the_model_are_checked(case):
    options, error, message = BUILT[case]
    with pytest.raises(error, match=message):
        build(**options)


@pytest.mark.parametrize("memorise", [0, -2, 2.0, True])
def test_another_number_of_memorised_frames_is_checked(memorise):
    model = build()
    with pytest.raises(ValueError, match=f"memorise: expected a whole number, at least 1, got {memorise}"):
        model.memorise = memorise
    assert model.memorise == TAU


def test_a_guide_is_saved_with_the_switch_that_another_has_set(tmp_path):
    model = walls()
    guide = Watching(model, follow=True)
    Watching(model).follow = False
    guide.follow = False
    save_pair(tmp_path / "pair", model, guide)
    assert not load_pair(tmp_path / "pair")[1].follow


def test_parts_of_the_recall_are_checked():
    with pytest.raises(TypeError, match=r"encoder: expected a module such as .*, got None"):
        GTMSM(LinearStep(ACTIONS, STATE), memorise=2)
    with pytest.raises(ValueError, match=r"GTMSM: Identity has no data_dim; see zoo\.parts\.walking\.Recall"):
        GTMSM(LinearStep(ACTIONS, STATE), memorise=2, recall=nn.Identity())
    with pytest.raises(ValueError, match="recall: Views reads states of size 3, LinearStep has 2"):
        GTMSM(LinearStep(ACTIONS, STATE), memorise=8, recall=Views(DATA))
    with pytest.raises(ValueError, match="neighbours: expected at most memorise = 7, got 8"):
        GTMSM(LinearStep(ACTIONS, 3), memorise=7, recall=Views(DATA))
    for emission in (mlp(LATENT, (8,), DATA), WithHead((LATENT,), 1, conditionals.Normal)):
        recall = Nearest(WithHead((DATA,), LATENT, conditionals.Normal), emission, DATA, LATENT, neighbours=1)
        with pytest.raises(
            ValueError, match=r"emission: expected a Pyro distribution of batch .* event shape \(5,\), got"
        ):
            GTMSM(LinearStep(ACTIONS, STATE), memorise=TAU, recall=recall).predict(batch()[0][:, :TAU], batch()[1])
    # an encoder that gives codes of another size, or no density
    for encoder in (mlp(DATA, (8,), LATENT), WithHead((DATA,), LATENT + 1, conditionals.Normal)):
        recall = Nearest(encoder, WithHead((LATENT,), DATA, conditionals.Normal), DATA, LATENT)
        with pytest.raises(ValueError, match=r"encoder: expected a DiagonalNormal of shape \(4, 7, 2\)"):
            recall.encode(batch()[0])


def wrong(name):
    x, u = batch()
    mask = torch.ones(N, T, dtype=torch.bool)
    nan, lost, nothing = x.clone(), mask.clone(), mask.clone()
    nan[1, 2, 0], lost[2, :TAU], nothing[3, TAU:] = math.nan, False, False
    return {
        "no actions": ((x, None), "u: missing, GTMSM takes controls of size 4"),
        "actions of another length": ((x, u[:, :-1]), r"u: expected shape \(4, 7, control_dim\), got \(4, 6, 4\)"),
        "actions of another size": ((x, u[..., :-1]), r"u: expected shape \(N, T, 4\)"),
        "too few frames": ((x[:, :TAU], u[:, :TAU]), "x: expected more frames than the 3 that are memorised, got 3"),
        "pictures": ((x.unsqueeze(-1), u), r"x: expected shape \(N, T, 5\), got \(4, 7, 5, 1\)"),
        "bytes": ((x.byte(), u), "x: expected torch.float64 like the model's parameters, got torch.uint8"),
        "NaN": ((nan, u), "x: NaN or infinite in 1 observed frames, the first of them sequence 1, frame 2"),
        "a mask of entries": (
            (x, u, mask.unsqueeze(-1).expand_as(x)),
            r"mask: GTMSM takes whole frames, shape \(N, T\)",
        ),
        "no memory": ((x, u, lost), "mask: no frame of sequence 2 is observed .* among the 3 that are memorised"),
        "nothing scored": (
            (x, u, nothing),
            "mask: no frame of sequence 3 is observed .* after the 3 that are memorised",
        ),
    }[name]


WRONG = ("no actions", "actions of another length", "actions of another size", "too few frames", "pictures", "bytes",
         "NaN", "a mask of entries", "no memory", "nothing scored")  # fmt: skip


@pytest.mark.parametrize("guide", [Remembering, Watching])
@pytest.mark.parametrize("case", WRONG)
def test_arguments_of_a_call_are_checked_before_any_network_runs(case, guide):
    args, message = wrong(case)
    model = build()
    guide = guide(model)
    model.recall.encode = None
    for program in (guide, model, ELBO()(model, guide)):
        with pytest.raises(ValueError, match=message):
            program(*args)


def test_arguments_of_futures_are_checked():
    model, x, u = build(), *batch()
    lost = u.clone()
    # after the memorised frames
    lost[1, 5, 0] = math.nan
    cases = [
        ((x[:, :TAU], u[:, :TAU], 2), {}, r"u: expected shape \(4, T, 4\) with T above the 3 memorised frames"),
        ((x[:, :TAU], u[:2], 2), {}, r"u: expected shape \(4, T, 4\)"),
        ((x[:, :TAU], u, 0), {}, "num: expected a whole number, at least 1, got 0"),
        ((x[0, 0], u[0, 0], 2), {}, r"x: expected shape \(N, T, 5\), got \(5,\)"),
        ((x[:, :TAU, :2], u, 2), {}, r"x: expected shape \(N, T, 5\)"),
        ((x[:, :TAU], u[..., :2], 2), {}, r"u: expected shape \(N, T, 4\)"),
        (
            (x[:, :TAU], u, 2),
            {"mask": torch.zeros(N, TAU, dtype=torch.bool)},
            "mask: no frame of sequence 0 .* no memory",
        ),
        (
            (x[:, :TAU], u, 2),
            {"mask": torch.ones(N, T, dtype=torch.bool)},
            r"mask: expected torch.bool of shape \(4, 3\)",
        ),
        ((x[:, :TAU], u, 2), {"guide": nn.Identity()}, "guide: Identity has no walk; such as guides.Watching"),
        ((x[:, :TAU], lost, 2), {}, "u: NaN or infinite in 1 frames, the first of them sequence 1, frame 5"),
        ((x[:, :TAU] * math.nan, u, 2), {}, "x: NaN or infinite in 12 observed frames"),
        ((x[:, :1], u, 2), {}, "neighbours: expected at most 1, the entries of the memory, got 2"),
    ]
    for args, options, message in cases:
        with pytest.raises(ValueError, match=message):
            model.generate(*args, **options)
    with pytest.raises(TypeError, match=r"u: expected a torch\.Tensor, got NoneType"):
        model.predict(x, None)


def test_guides_are_checked():
    with pytest.raises(ValueError, match=r"Remembering: Identity has no recall; it serves zoo\.GTMSM"):
        Remembering(nn.Identity())
    other = build(data=DATA + 1)
    with pytest.raises(ValueError, match="guide: Remembering was built for a GTMSM of data_dim = 6; this GTMSM has 5"):
        ELBO()(build(), Remembering(other))(*batch())
    with pytest.raises(ValueError, match="Watching: LinearStep has no gate; gated and follow are for a StoppingStep"):
        Watching(build(), follow=True)
    with pytest.raises(ValueError, match="noise: expected a finite number > 0, got 0"):
        Watching(build(), noise=0)

    class Turning(nn.Module):
        control_dim, state_dim = ACTIONS, STATE

        def forward(self, s, u):
            return s.flip(-1)

    with pytest.raises(ValueError, match="Watching: Turning has no move"):
        Watching(build(Turning()))
    assert ELBO()(build(Turning()), Remembering(build(Turning())))(*batch()).isfinite()


def test_a_batch_of_one_and_actions_that_training_never_saw():
    model, x, u = build(), *batch()
    assert ELBO()(model, Remembering(model))(x[:1], u[:1]).isfinite()
    assert ELBO()(model, Remembering(model))(x, 1e3 * u).isfinite()
