"""Guides of sequences: what each conditions on, masks, chunks, families; and how near they come to exact posteriors."""

import math
import re
from functools import partial

import pytest
import torch
from best_guides import Step, best_filter, expected_loss, filter_gap, mean_field_gap
from gaussian_pairs import Z_MAX
from state_spaces import FRAMES, LATENT, SEQUENCES, STATE_SPACES, positive
from torch import nn
from torch.distributions import Independent, Normal

from guides import IAF, Diagonal, Filter, FullRank, MeanField, Planar, PrecisionWeighted, Residual, Smoother
from guides.sequences.sequence_guide import SequenceGuide
from zoo import DMM, LGSSM, VAE
from zoo.infer import ELBO, IWELBO, fit, log_likelihood, nuts_reference, terms
from zoo.infer.reference.reference import as_reference
from zoo.infer.training.step.nonfinite import culprit, refuse_nonfinite_parameters
from zoo.parts import kalman
from zoo.parts.kalman import Parameters
from zoo.parts.trajectory import Trajectory
from zoo.parts.transitions import LinearTransition

GUIDES = {"mean field": MeanField, "filter": Filter, "smoother": Smoother}
FAMILIES = {
    "diagonal": Diagonal,
    "full rank": FullRank,
    "residual": Residual,
    "precision weighted": PrecisionWeighted,
    "iaf": partial(IAF, num_flows=2, hidden=(8,), embedding=4),
}
PARTICLES = 3
HOLES = torch.tensor([[1, 0, 1, 1, 0, 1], [0, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1], [0, 0, 0, 1, 0, 0]]).bool()
LENGTHS = [FRAMES, 2, 4, 1]
PADDING = torch.arange(FRAMES) < torch.tensor(LENGTHS).unsqueeze(-1)

every_model = pytest.mark.parametrize("name", STATE_SPACES)
every_guide = pytest.mark.parametrize("kind", GUIDES)

pytestmark = pytest.mark.usefixtures("double_precision")


def pair(name, kind, **options):
    model, x, u = STATE_SPACES[name].build()
    torch.manual_seed(1)
    return model, GUIDES[kind](model, **{"hidden": (7,), "recurrent": 5} | options), x, u


# --- trajectories that explode ---------------------------------------------------------------------------------------


def exploding(factor, frames=60):
    """z_t grows by that factor at every step of the guide."""
    torch.manual_seed(0)
    model = DMM(3, 2, transition=LinearTransition)
    guide = Smoother(model, hidden=(), recurrent=4)
    loss, x = ELBO()(model, guide), torch.bernoulli(torch.full((8, frames, 3), 0.5))
    assert loss(x).isfinite()  # the pair is checked before it goes astray
    with torch.no_grad():
        guide.of_state.weight.zero_()
        guide.of_state.weight[:2] = factor * torch.eye(2)
        model.step.linear.weight.zero_()
    return loss, x


def named(loss, x):
    torch.manual_seed(0)
    return culprit(loss, (x,), {}, torch.arange(len(x)))


@pytest.mark.parametrize(("factor", "first"), [(1e7, 2), (1e3, 3), (10.0, 7)])
def test_an_exploding_trajectory_is_named_with_its_first_step(factor, first):
    """z_1 is about 1, so |z_t| about factor^(t - 1); that times 10^6 is passed at step `first`, or one beside it."""
    text = named(*exploding(factor, frames=400))
    assert text.startswith("site 'z': the guide samples non-finite values in rows 0, 1, 2, 3, 4 and 3 more. The traj")
    growth = r"The trajectory explodes: \|z\| is \S+ at step 1, .* at step (\d+), not finite from step (\d+) on"
    found = re.search(growth, text)
    assert found is not None, text
    assert abs(int(found[1]) - first) <= 1
    assert abs(int(found[2]) - 1 - 308 / math.log10(factor)) <= 2
    assert "hidden=()" in text


def test_a_trajectory_too_large_to_be_scored_is_named_too():
    """z is finite and its square is not."""
    text = named(*exploding(1e4, frames=50))
    assert re.search(
        r"'z' \(latent\): log p is -inf in rows .*The trajectory explodes.* at step 3\. Each step", text
    ), text


def test_a_trajectory_that_explodes_in_training_is_no_masked_out_nan():
    loss, x = exploding(0.1)
    with pytest.raises(FloatingPointError, match=r"site 'z': .*The trajectory explodes: \|z\| is .*hidden=\(\)"):
        fit(loss, x, epochs=9, batch_size=4, optimizer=partial(torch.optim.SGD, lr=30.0), progress=False)
    loss, _ = exploding(0.1)  # where the gradient is lost before z is
    with torch.no_grad():
        loss.guide.of_state.weight[0, 0] = math.nan
    with pytest.raises(
        FloatingPointError, match=r"step 3: parameters .*of_state.* so the trajectory explodes"
    ) as error:
        refuse_nonfinite_parameters(loss, "step 3")
    assert "masked" not in str(error.value)


def test_a_trajectory_lost_at_once_does_not_explode():
    loss, x = exploding(0.1)

    def lost(module, args, output):
        output = output.clone()
        output[:, 30] = math.nan  # of what the guide reads of frame 31
        return output

    loss.guide.of_context.register_forward_hook(lost)
    text = named(loss, x)
    assert "whose trajectories are finite up to step 30" in text
    assert "explodes" not in text


# --- every guide on every model --------------------------------------------------------------------------------------


@every_model
@every_guide
@pytest.mark.parametrize("hidden", [pytest.param((), marks=pytest.mark.thorough), (6, 7)], ids=["affine", "deep"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_guide_serves_every_model(name, kind, family, hidden):
    if kind == "mean field" and getattr(FAMILIES[family], "uses_prior", False):
        return  # refused, below
    model, guide, x, u = pair(name, kind, family=FAMILIES[family], hidden=hidden)
    loss = ELBO(PARTICLES)(model, guide)
    value = loss(x, u)
    assert value.isfinite()
    gradients = torch.autograd.grad(value, list(guide.parameters()))
    assert all(g.isfinite().all() and g.any() for g in gradients)
    q = guide.posterior(x, u, HOLES).expand((PARTICLES, SEQUENCES))
    z = q.rsample()
    assert z.shape == (PARTICLES, SEQUENCES, FRAMES, LATENT)
    torch.testing.assert_close(q.log_prob_of_draw(z), q.log_prob(z.clone()))


@every_model
@every_guide
def test_what_is_masked_may_be_anything_and_padding_adds_nothing(name, kind):
    model, guide, x, u = pair(name, kind)
    values = []
    for fill in (0.0, math.nan, 7.0):
        torch.manual_seed(3)
        run = terms(model, guide, torch.where(PADDING.unsqueeze(-1), x, fill), u, PADDING, num_particles=PARTICLES)
        values.append(run.log_weights)
    assert values[0].isfinite().all()
    assert torch.equal(values[0], values[1])
    assert torch.equal(values[0], values[2])
    if name.startswith("lgssm-"):
        return  # a shorter sequence would need a shorter model
    for n, length in enumerate(LENGTHS):
        part = x[n : n + 1, :length], None if u is None else u[n : n + 1, :length]
        z = run.latents["z"][:, n : n + 1, :length]
        p = Trajectory(model, model.transition, *part)
        log_ratio = p.log_prob(z) - guide.posterior(*part).log_prob(z)
        torch.testing.assert_close(run.log_ratios["z"][:, n], log_ratio[:, 0])


@every_guide
def test_after_its_end_a_sequence_follows_the_transition(kind):
    """Of a transition with hardly any noise, so that each frame of padding is known from the one before it."""
    model = DMM(2, LATENT, transition=partial(LinearTransition, scale=1e-9))
    guide = GUIDES[kind](model, hidden=(7,), recurrent=5)
    z = guide.posterior(torch.randn(SEQUENCES, FRAMES, 2), None, PADDING).expand((PARTICLES, SEQUENCES)).rsample()
    ahead = model.step(z[..., :-1, :]).mean
    beyond = ~PADDING[:, 1:].expand(PARTICLES, -1, -1)
    torch.testing.assert_close(z[..., 1:, :][beyond], ahead[beyond], rtol=0, atol=1e-7)
    assert ((z[..., 1:, :] - ahead)[~beyond].abs() > 1e-3).all(), "before its end the guide decides"


@every_guide
def test_a_missing_frame_is_told_from_a_silent_one(kind):
    _, guide, x, _ = pair("dmm", kind)
    mask = torch.ones(SEQUENCES, FRAMES, dtype=torch.bool)
    mask[:, 2] = False
    x[:, 2] = 0.0
    z = torch.randn(SEQUENCES, FRAMES, LATENT)
    silent, missing = (guide.posterior(x, None, m).log_prob(z) for m in (None, mask))
    assert (silent != missing).all()
    assert torch.equal(silent, guide.posterior(x, None, torch.ones_like(mask)).log_prob(z))


def test_masks_of_single_entries():
    """Of LGSSM, whose emission marginalises them; a frame without any entry is a missing frame."""
    model, x, u = STATE_SPACES["lgssm"].build()
    mask = torch.rand(x.shape) < 0.6
    mask[:, 0], mask[:, -1] = True, False
    guide = Smoother(model, hidden=(7,), recurrent=5, entry_masks=True)
    loss = IWELBO(PARTICLES)(model, guide)
    torch.manual_seed(2)
    value = loss(torch.where(mask, x, math.nan), u, mask)
    torch.manual_seed(2)
    assert torch.equal(value, loss(torch.where(mask, x, 5.0), u, mask))
    with pytest.raises(ValueError, match=r"Smoother was built for whole frames, \(N, T\); entry_masks=True"):
        Smoother(model, hidden=(7,), recurrent=5)(x, u, mask)


@every_guide
def test_what_a_guide_conditions_on(kind):
    """Which x_t' the density of z_t depends on, given z_{t-1}, and whether it depends on z_{t-1}."""
    _, guide, x, _ = pair("dmm", kind)
    x = x.requires_grad_()
    z = torch.randn(SEQUENCES, FRAMES, LATENT, requires_grad=True)
    q = guide.posterior(x)
    each = q.conditional(q.states(z), *q.context).log_prob(z)
    for t in range(FRAMES):
        by_x, by_z = torch.autograd.grad(each[:, t].sum(), (x, z), retain_graph=True)
        seen = by_x.abs().sum((0, 2)) > 0
        expected = {"mean field": [True] * FRAMES, "filter": [i <= t for i in range(FRAMES)]}
        assert seen.tolist() == expected.get(kind, [i >= t for i in range(FRAMES)])
        follows = [i == t or (i == t - 1 and kind != "mean field") for i in range(FRAMES)]
        assert (by_z.abs().sum((0, 2)) > 0).tolist() == follows


@pytest.mark.parametrize("mask", [None, PADDING], ids=["whole", "padded"])
@every_guide
def test_what_does_not_depend_on_the_state_is_drawn_in_one_call(kind, mask):
    _, guide, x, _ = pair("srnn", kind)
    q, calls = guide.posterior(x, None, mask), []
    q.conditional = lambda *arguments: calls.append(1) or guide.conditional(*arguments)
    z = q.rsample()
    assert len(calls) == (1 if kind == "mean field" else FRAMES)
    torch.testing.assert_close(q.log_prob_of_draw(z), q.log_prob(z.clone()))
    gradient = torch.autograd.grad(z.sum(), guide.of_context.bias)[0]
    assert gradient.isfinite().all()
    assert gradient.any()


@pytest.mark.parametrize("kind", ["mean field", "filter"])
def test_without_a_network_over_time_the_context_is_the_frame(kind):
    _, guide, x, _ = pair("vrnn", kind, recurrent=0)
    x = x.requires_grad_()
    q = guide.posterior(x)
    by_x = torch.autograd.grad(q.context[0][:, 2].sum(), x)[0].abs().sum((0, 2)) > 0
    assert by_x.tolist() == [t == 2 for t in range(FRAMES)]


@every_guide
def test_a_chunk_starts_from_what_is_carried(kind):
    model, guide, x, _ = pair("srnn", kind, **({} if kind == "smoother" else {"recurrent": 0}))
    z = torch.randn(SEQUENCES, FRAMES, LATENT)
    carry = model.carry_on(z[:, :2], x[:, :2])
    loss = ELBO(PARTICLES)(model, guide)
    assert loss(x[:, 2:], carry=carry).isfinite()
    if kind != "filter":
        return
    chunks = guide.posterior(x[:, :2]).log_prob(z[:, :2])
    chunks = chunks + guide.posterior(x[:, 2:], carry=carry).log_prob(z[:, 2:])
    torch.testing.assert_close(chunks, guide.posterior(x).log_prob(z))


def test_controls_are_read_where_the_model_has_them():
    _, guide, x, u = pair("lgssm", "smoother")
    u = u.requires_grad_()
    by_u = torch.autograd.grad(guide.posterior(x, u).context[0][:, 2].sum(), u)[0].abs().sum((0, 2)) > 0
    assert by_u.tolist() == [t >= 2 for t in range(FRAMES)]


def test_a_flow_without_inverse_is_trained_and_evaluated():
    model, guide, x, _ = pair("dmm", "filter", family=partial(Planar, num_flows=2))
    ELBO(PARTICLES)(model, guide)(x).backward()
    assert all(p.grad is not None for p in guide.parameters())
    assert log_likelihood(model, guide, x, num_particles=20).per_datum.isfinite().all()
    before = [p.clone() for p in guide.parameters()]
    fit(ELBO()(model, guide), x, steps=2, batch_size=len(x), progress=False)
    assert all((p != b).any() for p, b in zip(guide.parameters(), before, strict=True))
    q = guide.posterior(x)
    z = q.rsample()
    torch.testing.assert_close(q.log_prob(z), q.log_prob_of_draw(z))
    with pytest.raises(ValueError, match="Planar has no inverse"):
        q.log_prob(z.clone())


def test_model_forecasts_and_imputes_with_every_guide():
    for guide in GUIDES.values():
        model, x, _ = STATE_SPACES["srnn"].build()
        built = guide(model, hidden=(7,), recurrent=5)
        assert model.sample_forecast(x, 3, 4, built).x.shape == (4, SEQUENCES, 3, x.shape[-1])
        filled = model.sample_imputation(x, HOLES, built, 4).x
        assert torch.equal(filled[0][HOLES], x[HOLES])


@pytest.mark.parametrize("kind", GUIDES)
def test_an_affine_guide_starts_as_a_head_does(kind):
    """Locations follow the frames in full; all else, and all that is made of z and fed back, starts at a tenth."""
    guide = GUIDES[kind](DMM(3, 4), hidden=(), recurrent=400)
    largest = guide.of_context.weight.abs().amax(1) * guide.of_context.in_features**0.5
    assert (largest[:4] > 0.9).all()
    assert (largest[4:] < 0.1001).all()
    small = [guide.of_context.bias] + ([] if kind == "mean field" else [guide.of_state.weight * 2 / 400**0.5])
    assert all(v.abs().max() * 400**0.5 < 0.1001 for v in small)


# --- families --------------------------------------------------------------------------------------------------------


def normals(seed=0, shape=(5,)):
    torch.manual_seed(seed)
    return Independent(Normal(torch.randn(*shape, LATENT), 0.5 + torch.rand(*shape, LATENT)), 1)


def test_residual_moves_the_mean_of_the_prior():
    prior, parameters = normals(), torch.randn(PARTICLES, 5, 2 * LATENT)
    change, log_scale = parameters.chunk(2, -1)
    q = Residual(LATENT, 0)(prior, parameters)
    z = torch.randn(PARTICLES, 5, LATENT)
    expected = Independent(Normal(prior.mean + change, log_scale.exp()), 1)
    torch.testing.assert_close(q.log_prob(z), expected.log_prob(z))
    torch.testing.assert_close(Residual(LATENT, 0)(prior, torch.zeros(5, 2 * LATENT)).mean, prior.mean)


def test_precision_weighted_is_the_product_with_a_likelihood():
    """Log density of prior times likelihood, up to a constant; a likelihood that says nothing gives the prior."""
    prior, parameters = normals(), torch.randn(PARTICLES, 5, 2 * LATENT)
    loc, log_scale = parameters.chunk(2, -1)
    q = PrecisionWeighted(LATENT, 0)(prior, parameters)
    z = torch.randn(20, PARTICLES, 5, LATENT)
    constant = q.log_prob(z) - prior.log_prob(z) - Normal(loc, log_scale.exp()).log_prob(z).sum(-1)
    torch.testing.assert_close(constant, constant[:1].expand_as(constant))
    vague = PrecisionWeighted(LATENT, 0)(prior, torch.cat([loc, 0 * log_scale + 20.0], -1))
    torch.testing.assert_close(vague.log_prob(z), prior.log_prob(z).expand_as(q.log_prob(z)))
    sharp = PrecisionWeighted(LATENT, 0)(prior, torch.cat([loc, 0 * log_scale - 20.0], -1))
    torch.testing.assert_close(sharp.mean, loc)


# --- exactness -------------------------------------------------------------------------------------------------------

T = 8


def random_system(seed):
    torch.manual_seed(seed)
    rest = positive(2), torch.randn(3, 2), positive(3)
    return Parameters(torch.zeros(2), positive(2), 0.6 * torch.randn(2, 2), *rest)


@pytest.mark.parametrize("seed", range(4))
def test_the_best_filter(seed):
    """Its loss by the recursion backwards is that by moments forwards, where no coefficient has a derivative left."""
    p = random_system(seed)
    found, steps = best_filter(p, T)
    steps = [Step(*(part.clone().requires_grad_() for part in step)) for step in steps]
    loss = expected_loss(p, steps)
    torch.testing.assert_close(loss, found, rtol=0, atol=1e-9)
    assert max(g.abs().max() for g in torch.autograd.grad(loss, [part for step in steps for part in step])) < 1e-9
    assert filter_gap(p, T) > 1e-3
    assert abs(filter_gap(p, 1)) < 1e-9, "of one frame the filter is the smoother"


def test_the_best_mean_field():
    """Its gap is the mean of log p(z | x) - log q(z), by draws."""
    p = random_system(0)
    gap, covariances = mean_field_gap(p, T)
    model = LGSSM(Parameters, marginal=False, **{k: v for k, v in p._asdict().items() if v is not None})
    _, x = kalman.sample(p, T, None, torch.Size((1,)))
    posterior = model.posterior(x)
    root = torch.linalg.cholesky(covariances)
    noise = torch.randn(20_000, 1, T, 2)
    z = posterior.mean + (root @ noise.unsqueeze(-1)).squeeze(-1)
    log_q = Normal(0.0, 1.0).log_prob(noise).sum((-1, -2)) - root.diagonal(dim1=-2, dim2=-1).log().sum()
    loss = (log_q - posterior.log_prob(z)).squeeze(-1)
    assert abs(loss.mean() - gap) < Z_MAX * loss.std() / len(loss) ** 0.5


def known():
    """z_t = 0.95 z_{t-1} + noise seen through as much noise: later frames tell much of z_t."""
    one = torch.eye(1)
    values = {"transition_matrix": 0.95 * one, "transition_covariance": 0.5 * one, "emission_matrix": one}
    values |= {"initial_mean": torch.zeros(1), "initial_covariance": one, "emission_covariance": one}
    return LGSSM(Parameters, marginal=False, **values)


def plane():
    """z turns by half a radian a step, under correlated noise, seen three ways: posteriors with correlated axes."""
    turn = 0.95 * torch.tensor([[math.cos(0.5), -math.sin(0.5)], [math.sin(0.5), math.cos(0.5)]])
    values = {"transition_matrix": turn, "transition_covariance": torch.tensor([[0.5, 0.3], [0.3, 0.4]])}
    values |= {"emission_matrix": torch.tensor([[1.0, 0.5], [0.0, 1.0], [1.0, -1.0]])}
    values |= {"emission_covariance": torch.tensor([1.0, 2.0, 1.5]).diag()}
    return LGSSM(Parameters, marginal=False, initial_mean=torch.zeros(2), initial_covariance=torch.eye(2), **values)


def trained(kind, steps, model=known, family=PrecisionWeighted, rate=0.02, **objective):
    """A guide of a model that is known, trained on new data at every step."""
    torch.manual_seed(0)
    model = model()
    guide = GUIDES[kind](model, family=Diagonal if kind == "mean field" else family, hidden=(), recurrent=16)
    loss = ELBO(**objective)(model, guide)
    optimizer = torch.optim.Adam(guide.parameters(), lr=rate, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        _, x = model.generate(256, T)
        optimizer.zero_grad()
        loss(x).backward()
        optimizer.step()
        schedule.step()
    return model, guide


@torch.no_grad()
def gap_of(model, guide, num=2000, num_particles=20):
    """Mean and standard error of log p(x) - ELBO on new data, nats for a frame."""
    torch.manual_seed(1)
    _, x = model.generate(num, T)
    gap = (model.log_prob(x) - terms(model, guide, x, num_particles=num_particles).log_weights.mean(0)) / T
    return gap.mean().item(), gap.std().item() / num**0.5


@pytest.mark.thorough
def test_smoother_reaches_the_evidence():
    gap, error = gap_of(*trained("smoother", 300, sticking=True))
    assert -Z_MAX * error < gap < 0.01


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["filter", "mean field"])
def test_other_guides_stay_behind_by_what_is_computed(kind):
    """No nearer to the evidence than the best of their kind, and within 0.01 nats for a frame of that."""
    p = known().system()
    best = (filter_gap(p, T) if kind == "filter" else mean_field_gap(p, T)[0]) / T
    assert best > 0.1, "the bounds below would say nothing"
    gap, error = gap_of(*trained(kind, 300, analytic_kl=True))
    assert best - Z_MAX * error < gap < best + 0.01 + Z_MAX * error


@torch.no_grad()
def draws_of(guide, x, num):
    torch.manual_seed(3)
    return guide.posterior(x).expand((num, len(x))).sample()


@pytest.mark.slow
def test_smoother_reaches_the_evidence_in_two_dimensions():
    """With `FullRank`; not much nearer, as its coefficient of z_{t-1} cannot change in time without a hidden layer."""
    gap, error = gap_of(*trained("smoother", 2000, plane, FullRank, rate=0.03, sticking=True))
    assert filter_gap(plane().system(), T) / T > 0.1, "the bound below would say nothing"
    assert -Z_MAX * error < gap < 0.01


@pytest.mark.slow
def test_smoother_reaches_the_exact_posterior():
    """Means within 2 % of the posterior sd (root mean square), sds within 2 % at every frame."""
    model, guide = trained("smoother", 1000, sticking=True)
    gap, error = gap_of(model, guide)
    assert -Z_MAX * error < gap < 1e-3
    _, x = model.generate(256, T)
    exact, num = model.posterior(x), 2000
    sd, z = exact.variance.sqrt(), draws_of(guide, x, num)
    off = ((z.mean(0) - exact.mean) / sd).square().mean() - 1 / num  # less the noise of the draws
    assert off.clamp(min=0).sqrt() < 0.02
    assert (z.std(0) / sd - 1).mean(0).abs().max() < 0.02


@pytest.mark.slow
def test_nuts_agrees_with_the_recursions_and_with_the_guide():
    """The sampler's means within its own standard errors of the exact ones; the guide's within 0.1 sd more."""
    model, guide = trained("smoother", 300, sticking=True)
    _, x = model.generate(1, T)
    reference = as_reference(nuts_reference(model, x, num_samples=400, warmup=200, chains=4, seed=0))
    exact = model.posterior(x)
    mean, sd = exact.mean.flatten(1), exact.variance.sqrt().flatten(1)
    assert ((reference.mean - mean) / reference.mean_error).abs().max() < Z_MAX
    assert (reference.sd / sd - 1).abs().max() < 0.15
    z = draws_of(guide, x, 4000)
    assert ((reference.mean - z.mean(0).flatten(1)).abs() < Z_MAX * reference.mean_error + 0.1 * sd).all()
    assert (z.std(0).flatten(1) / reference.sd - 1).abs().max() < 0.15


# --- what does not fit -----------------------------------------------------------------------------------------------


@every_guide
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda x: (x[..., :2],), r"x: expected shape \(N, T, 3\), got \(4, 6, 2\)"),
        (lambda x: (x[:, :0],), "at least one sequence and one frame"),
        (
            lambda x: (x, None, x[..., 0]),
            "mask: expected torch.bool of shape .* got torch.float64",
        ),
        (lambda x: (x, None, PADDING[:, :5]), r"got torch.bool of shape \(4, 5\)"),
        (lambda x: (x, None, PADDING & False), r"no frame of sequence 0 is observed \(4 such\)"),
        (lambda x: (torch.where(PADDING.unsqueeze(-1), math.nan, x),), "sequence 0"),
    ],
)
def test_arguments_that_do_not_fit_are_named(kind, arguments, message):
    _, guide, x, _ = pair("dmm", kind)
    with pytest.raises(ValueError, match=message):
        guide(*arguments(x))


def test_a_guide_of_another_model_is_refused():
    x = torch.zeros(SEQUENCES, FRAMES, 3)
    other = DMM(4, LATENT, hidden=(5,), transition_hidden=(5,))
    with pytest.raises(ValueError, match=r"guide: Smoother was built for a DMM of data_dim = 4; this DMM has 3"):
        ELBO()(DMM(3, LATENT), Smoother(other, recurrent=5))(x)
    wider = DMM(3, 5, hidden=(5,), transition_hidden=(5,))
    with pytest.raises(ValueError, match=r"guide: Smoother was built for a DMM of latent_dim = 5; this DMM has 2"):
        ELBO()(DMM(3, LATENT), Smoother(wider, recurrent=5))(x)


def test_constructors_refuse_what_cannot_work():
    model, *_ = STATE_SPACES["dmm"].build()
    with pytest.raises(ValueError, match="Filter: VAE has no state_dim; sequence guides need a StateSpace"):
        Filter(VAE(3, 2))
    with pytest.raises(ValueError, match=r"MeanField: Residual looks at p\(z_t \| s_t\)"):
        MeanField(model, family=Residual)
    with pytest.raises(ValueError, match="Smoother: recurrent=0 leaves nothing to read later frames with"):
        Smoother(model, recurrent=0)
    with pytest.raises(TypeError, match="SequenceGuide: abstract; Half does not state read"):
        type("Half", (SequenceGuide,), {})(model)


def test_another_network_over_time():
    model, guide, x, _ = pair("dmm", "smoother", recurrence=partial(nn.RNN, nonlinearity="relu"))
    assert type(guide.recurrences[0]) is nn.RNN
    assert ELBO()(model, guide)(x).isfinite()
