"""The Kalman VAE: its two forms, missing frames, the paper's plug-in and training, and bad input."""

import math
from functools import partial

import dense_gaussian as dense
import pyro
import pyro.distributions as dist
import pytest
import torch
from gaussian_pairs import Z_MAX
from state_spaces import CONTROL
from tiers import thorough_but
from torch import nn
from torch.distributions import MultivariateNormal, constraints

from guides import IAF, BoundedDiagonal, Diagonal, KalmanSmoother, Residual, Smoother
from zoo import DMM, KVAE, LGSSM, MixedDynamics, start_at_components
from zoo.infer import ELBO, IWELBO, Tempered, fit, log_likelihood, terms
from zoo.infer.training.step.compiled import compiled
from zoo.parts import kalman
from zoo.parts.conditionals import Bernoulli, Categorical, Normal
from zoo.parts.kalman import Parameters
from zoo.parts.mixed_dynamics import Velocity
from zoo.parts.networks import mlp

N, T, DATA, CODE, LATENT, PARTICLES = 4, 5, 6, 2, 4, 3
HOLES = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 1, 0, 1], [1, 1, 0, 0, 0], [0, 1, 0, 1, 0]]).bool()
EXACT = {"rtol": 0, "atol": 1e-10}

pytestmark = pytest.mark.usefixtures("double_precision")


def pair(marginal=True, controls=0, seed=0, **options):
    """A KVAE on bits and its guide; equal parameters for equal seeds, whatever the form."""
    torch.manual_seed(seed)
    dynamics = MixedDynamics(CODE, LATENT, controls, recurrent=5, start=Velocity(0.3), **options)
    with torch.no_grad():
        dynamics.alpha.head.weight.mul_(5.0)
    model = KVAE(dynamics, mlp(CODE, (8,), activation=nn.Tanh), Bernoulli(8, DATA), DATA, marginal=marginal)
    return model, KalmanSmoother(model, encoder=mlp(DATA, (8,), activation=nn.Tanh), context=8)


def linear_pair(noise=0.1, **options):
    """A KVAE that is an LGSSM over z, and this LGSSM: one component, the code shown by a matrix with noise."""
    torch.manual_seed(0)
    dynamics = MixedDynamics(CODE, LATENT, CONTROL, num_components=1, recurrent=3, start=Velocity(0.3), **options)
    model = KVAE(dynamics, nn.Identity(), Normal(CODE, DATA, scale=noise), DATA, marginal=False)
    p, show = dynamics.mixed(torch.ones(1)), model.likelihood.loc
    nn.init.orthogonal_(show.weight)
    exact = p._replace(
        emission_matrix=show.weight @ p.emission_matrix,
        emission_covariance=show.weight @ p.emission_covariance @ show.weight.T + noise**2 * torch.eye(DATA),
        emission_bias=show.bias,
    )
    given = {name: value.detach() for name, value in exact._asdict().items() if value is not None}
    guide = KalmanSmoother(model, encoder=nn.Linear(DATA, CODE), context=CODE)
    with torch.no_grad():
        # q(a_t | x_t) is p(x_t | a_t), normalised: the weights are then p(a) up to a constant, and few particles serve
        guide.encoder.weight.copy_(show.weight.T), guide.encoder.bias.copy_(-show.weight.T @ show.bias)
        guide.family.head.weight[:CODE] = torch.eye(CODE)
        guide.family.head.weight[CODE:] = 0.0
        guide.family.head.bias[CODE:] = math.log(noise)
    return model, guide, LGSSM(Parameters, **given)


def bits(frames=T):
    return (torch.rand(N, frames, DATA) < 0.5).double()


def controls_of(size, frames=T):
    return torch.randn(N, frames, size) if size else None


# --- two forms -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("controls", thorough_but([CONTROL], [0, CONTROL]))
def test_the_two_forms_have_equal_log_weights_draw_by_draw(controls):
    x, u = bits(), controls_of(controls)
    for objective in (ELBO(PARTICLES), IWELBO(PARTICLES)):
        found = []
        for marginal in (True, False):
            model, guide = pair(marginal, controls)
            pyro.set_rng_seed(3)
            run = terms(model, guide, x, u, num_particles=PARTICLES)
            pyro.set_rng_seed(3)
            loss = objective(model, guide)
            gradients = torch.autograd.grad(loss(x, u), list(loss.parameters()))
            found.append((run.log_weights, run.latents, gradients))
        (one, a, first), (other, z, second) = found
        torch.testing.assert_close(one, other, **EXACT)
        torch.testing.assert_close(a["a"], z["z"][..., LATENT:], **EXACT)
        for g, h in zip(first, second, strict=True):
            torch.testing.assert_close(g, h, rtol=1e-8, atol=1e-8)


def test_a_state_dict_of_either_form_loads_into_the_other():
    marginal, guide = pair(True)
    joint, other = pair(False, seed=1)
    joint.load_state_dict(marginal.state_dict())
    other.load_state_dict(guide.state_dict())
    x = bits()
    for first, second in ((marginal, joint), (guide, other)):
        assert all(torch.equal(v, second.state_dict()[name]) for name, v in first.state_dict().items())
    pyro.set_rng_seed(0)
    expected = terms(marginal, guide, x).log_weights
    pyro.set_rng_seed(0)
    torch.testing.assert_close(terms(joint, other, x).log_weights, expected, **EXACT)


def test_forecasts_and_imputations_serve_both_forms():
    x, found = bits(), []
    for marginal in (True, False):
        model, guide = pair(marginal, CONTROL)
        torch.manual_seed(1)
        u = torch.randn(N, T + 2, CONTROL)
        ahead = model.sample_forecast(x, 2, 7, guide, u, HOLES)
        filled = model.impute(x, HOLES, u[:, :T], guide=guide, num=7)
        moments = model.forecast(x, 2, u, guide=guide, num=3)
        found.append((ahead.x, ahead.z, filled, moments.observation_means, *model.generate(N, T, u[:, :T])))
        assert ahead.x.shape == (7, N, 2, DATA)
        assert torch.equal(filled[HOLES], x[HOLES])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def independent_marginals(dynamics, a, draws):
    """The estimate of log p(a) of the paper's released code: z_t drawn from p(z_t | a), each t by itself."""
    found = dynamics.posterior(a)
    q = MultivariateNormal(found.mean, found.covariances)
    z = q.sample((draws,))
    return kalman.log_joint(dynamics.system(a), z, a) - q.log_prob(z).sum(-1)


def test_the_released_bound_is_looser():
    """It is log p(a) less KL(prod_t p(z_t | a) || p(z | a)), which is zero for one frame."""
    dynamics = pair()[0].dynamics
    a = dynamics.generate(N, T)[1]
    with torch.no_grad():
        exact = dynamics.log_prob(a)
        estimates = independent_marginals(dynamics, a, 400)
        below = (exact - estimates.mean(0)) / (estimates.std(0) / math.sqrt(400))
        assert (below > Z_MAX).all()
        torch.testing.assert_close(
            independent_marginals(dynamics, a[:, :1], 5), dynamics.log_prob(a[:, :1]).expand(5, N), **EXACT
        )


# --- missing frames --------------------------------------------------------------------------------------------------


def test_a_missing_frame_needs_the_form_with_z():
    model, guide = pair(True)
    x = bits()
    with pytest.raises(ValueError, match=r"mask: a frame is missing, and its q\(a_t .* KVAE with marginal=False"):
        ELBO()(model, guide)(x, None, HOLES)
    assert ELBO()(model, guide)(x, None, torch.ones_like(HOLES)).isfinite()
    trace = pyro.poutine.trace(model).get_trace(x, None, HOLES)  # the program alone takes any mask
    assert trace.nodes["a"]["value"].shape == (N, T, CODE)


@pytest.mark.parametrize("mask", [pytest.param(None, marks=pytest.mark.thorough), HOLES], ids=["observed", "missing"])
def test_importance_weights_are_those_of_the_joint_trajectory(mask):
    """A linear KVAE: their mean is p(x_observed) of the LGSSM that it is, holes and padding included."""
    model, guide, exact = linear_pair()
    u = controls_of(CONTROL)
    with torch.no_grad():
        x = model.generate(N, T, u)[1]
        expected = exact.log_prob(x, u, mask)
    found = log_likelihood(model, guide, x, u, mask, num_particles=1500, seed=0)
    assert ((found.per_datum - expected) / found.per_datum_error).abs().max() < Z_MAX
    assert found.per_datum_error.max() < 0.1


def test_mixed_dynamics_with_holes_have_the_weights_of_the_joint_trajectory():
    """Where the plug-in and the joint trajectory differ: p(x_observed) is the latter's, by draws of the prior."""
    model, guide = pair(False, initial_variance=0.3, transition_variance=0.2, emission_variance=0.2)
    with torch.no_grad():
        # wider than p(a), or the weights would have heavy tails
        guide.family.head.bias[CODE:] = 0.5
    x, mask = bits(3), HOLES[:, :3]
    found = log_likelihood(model, guide, x, None, mask, num_particles=3000, seed=0)
    with torch.no_grad():
        a = model.dynamics.marginal(3).sample((20_000, 1))
        p = model.decode(a).log_prob(x).masked_fill(~mask, 0.0).sum(-1).exp()
    error = (p.var(0) / len(p) / p.mean(0) ** 2 + found.per_datum_error**2).sqrt()
    assert error.max() < 0.1
    assert ((p.mean(0).log() - found.per_datum) / error).abs().max() < Z_MAX


def test_what_is_masked_may_be_anything_and_padding_adds_nothing():
    model, guide = pair(False, CONTROL)
    x, u = bits(), controls_of(CONTROL)
    values = []
    for fill in (0.0, 1.0, math.nan):
        pyro.set_rng_seed(1)
        hidden = x.masked_fill(~HOLES.unsqueeze(-1), fill)
        values.append(terms(model, guide, hidden, u, HOLES, num_particles=PARTICLES).log_weights)
    assert torch.equal(values[0], values[1])
    assert torch.equal(values[0], values[2])
    q = guide.posterior(x, u, HOLES).expand((PARTICLES, N))
    z = q.rsample()
    other = z.clone()
    padding = torch.arange(T) >= torch.tensor([T, T, 2, 4]).unsqueeze(-1)
    other[:, padding] += torch.randn(PARTICLES, int(padding.sum()), LATENT + CODE)
    ratios = [q.prior.log_prob(v) - q.log_prob(v) for v in (z, other)]
    assert (q.log_prob(z) - q.log_prob(other)).abs()[:, 2].min() > 1.0
    torch.testing.assert_close(ratios[0], ratios[1])


@pytest.mark.thorough
def test_the_guides_density_is_that_of_its_draws():
    """One component and a Gaussian family: log q is that of the Gaussian with the draws' moments, holes included."""
    _, guide, _ = linear_pair()
    x, u = torch.randn(N, T, DATA), controls_of(CONTROL)
    with torch.no_grad():
        q = guide.posterior(x, u, HOLES)
        z = q.rsample((4000,)).flatten(2)
        gaussian = MultivariateNormal(z.mean(0), torch.stack([v.T.cov() for v in z.unbind(1)]))
        tried = z[:50]
        difference = q.log_prob(tried.unflatten(-1, (T, -1))) - gaussian.log_prob(tried)
    # the moments of the draws put about dim / sqrt(draws) of noise on log q
    assert difference.abs().max() < 10 * T * (LATENT + CODE) / math.sqrt(4000)


@pytest.mark.parametrize("controls", [0, CONTROL])
def test_reconstructions_are_the_plug_in(controls):
    """By the dense joint, frame by frame; a filtered frame does not know of later ones."""
    torch.manual_seed(0)
    dynamics = MixedDynamics(CODE, LATENT, controls, recurrent=5, start=Velocity(0.3))
    model = KVAE(dynamics, nn.Identity(), Normal(CODE, DATA), DATA)
    guide = KalmanSmoother(model, encoder=mlp(DATA, (8,)), context=8)
    x, u = torch.randn(N, T, DATA), controls_of(controls)
    with torch.no_grad():
        frames = model.reconstruct(x, guide, u, HOLES)
        a = dynamics.completed(guide.codes(x, u, HOLES).mean, u, HOLES)
        p = dynamics.system(a, u)
        smoothed, filtered = dense.smoother(p, a, u, HOLES), dense.filter(p, a, u, HOLES)
        show = lambda z: model.decode((p.emission_matrix @ z.unsqueeze(-1)).squeeze(-1)).mean  # noqa: E731
        torch.testing.assert_close(frames.smoothed, show(smoothed.smoothed_means))
        torch.testing.assert_close(frames.filtered, show(filtered.filtered_means))
        torch.testing.assert_close(frames.encoded, model.decode(guide.codes(x, u, HOLES).mean).mean)
        changed = x.clone()
        changed[:, 3:] += 1.0
        other = model.reconstruct(changed, guide, u, HOLES)
        torch.testing.assert_close(other.filtered[:, :3], frames.filtered[:, :3])
        assert (other.smoothed[0, :3] != frames.smoothed[0, :3]).any()


def test_a_reconstruction_leaves_modes_and_streams_alone():
    model, guide = pair()
    guide.train(), model.eval()
    x, state = bits(), torch.get_rng_state()
    frames = model.reconstruct(x, guide)
    assert torch.equal(torch.get_rng_state(), state)
    assert guide.training
    assert not model.training
    assert not frames.smoothed.requires_grad
    assert frames.smoothed.shape == (N, T, DATA)


# --- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("marginal", thorough_but([True], [True, False]))
def test_sticking_is_no_noisier(marginal):
    """What guide and model share keeps its score: the dynamics' gradient is the plain one, draw by draw.

    Of the guide's own parameters the squared deviations are compared, seed by seed: one-sided, failure rate 3e-6.
    """
    x, found = bits(), {}
    model, guide = pair(marginal)
    for objective in (ELBO(), ELBO(sticking=True)):
        loss, draws = objective(model, guide), []
        for seed in range(100):
            pyro.set_rng_seed(seed)
            value = loss(x)
            gradients = torch.autograd.grad(value, list(loss.parameters()))
            draws.append([g.flatten() for g in gradients])
        shared = sum(1 for _ in model.parameters())
        found[objective.sticking] = [
            torch.stack([torch.cat(draw[part]) for draw in draws])
            for part in (slice(shared), slice(shared, None))
        ]  # fmt: skip
    torch.testing.assert_close(found[True][0], found[False][0], rtol=1e-9, atol=1e-9)
    # both estimate the same mean
    mean = 0.5 * (found[True][1].mean(0) + found[False][1].mean(0))
    plain, sticking = ((g - mean).square().sum(-1) for g in (found[False][1], found[True][1]))
    difference = sticking - plain
    assert difference.mean() < Z_MAX * difference.std() / math.sqrt(len(difference))


def test_the_papers_training_in_two_stages():
    """alpha frozen first, reconstruction weight 0.3; then all."""
    model, guide = pair()
    loss = Tempered(ELBO(), kl_weight=1 / 0.3)(model, guide)
    moved = []
    for frozen in (True, False):
        model.dynamics.alpha.requires_grad_(not frozen)
        before = {name: p.clone() for name, p in loss.named_parameters()}
        fit(loss, bits(), steps=2, batch_size=N, progress=False)
        moved.append({name: (p - before[name]).abs().max().item() for name, p in loss.named_parameters()})
    alpha = [name for name in moved[0] if ".alpha." in name]
    assert len(alpha) == 6
    assert all(moved[0][name] == 0.0 for name in alpha)
    assert all(moved[0][name] > 0.0 for name in moved[0] if name not in alpha)
    assert all(change > 0.0 for change in moved[1].values())


@pytest.mark.parametrize("controls", [0, CONTROL])
def test_a_graph_holds_the_networks_and_leaves_the_recursion_out(controls, monkeypatch):
    """The captured graph as torch would compile it: value and gradient to the last bits, on other data too."""
    monkeypatch.setattr(torch, "compile", lambda graph, **options: graph)
    model, guide = pair(True, controls)
    loss, x, u = ELBO(PARTICLES)(model, guide), bits(), controls_of(controls)
    args = (x,) if u is None else (x, u)
    graph = compiled(loss, *args)
    nodes = [str(node.target) for node in graph.graph[0].graph.nodes]
    assert sum("zoo.marginal_loglik" in name for name in nodes) == 1
    for data in (args, (1.0 - x, *args[1:])):
        results = []
        for one in (loss, graph):
            pyro.set_rng_seed(0)
            value = one(*data)
            results.append((value, *torch.autograd.grad(value, list(loss.parameters()))))
        for found, expected in zip(*results, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # torch's compiler uses it itself
def test_a_compiled_training_goes_on():
    """Two steps by torch's own compiler, which takes a minute."""
    torch.set_default_dtype(torch.float32)
    model, guide = pair()
    before = [p.clone() for p in model.parameters()]
    fit(ELBO()(model, guide), bits().float(), steps=2, batch_size=N, progress=False, compile=True)
    assert all((p != old).any() for p, old in zip(model.parameters(), before, strict=True))


def test_a_graph_of_a_smoother_is_refused_with_the_reason():
    model, guide = pair(False)
    with pytest.raises(ValueError, match=r"cannot be captured, since Python .* Masks do so, and Kalman recursions"):
        compiled(ELBO()(model, guide), bits())


def test_bounded_variances_stay_below_the_bound():
    torch.manual_seed(0)
    family = BoundedDiagonal(2, 3, bound=0.03)
    q = family(None, 1e3 * torch.randn(50, 3))
    assert (q.variance <= 0.03 + 1e-12).all()
    assert q.log_prob(q.rsample()).isfinite().all()
    start = family(None, torch.zeros(3))
    torch.testing.assert_close(start.variance, torch.full((2,), 0.015))
    with pytest.raises(ValueError, match="bound: expected a finite number > 0, got 0"):
        BoundedDiagonal(2, 3, bound=0.0)


# --- bad input -------------------------------------------------------------------------------------------------------


def silent(*networks):
    """Makes networks fail when they are called."""
    for network in networks:
        network.register_forward_pre_hook(lambda module, args: pytest.fail("a network ran"))


BAD = {
    "bytes": (lambda x: (x.to(torch.uint8),), "x: expected torch.float64 like the model's parameters, got torch.uint8"),
    "precision": (lambda x: (x.float(),), "x: expected torch.float64 like the model's parameters, got torch.float32"),
    "pictures": (lambda x: (x.unflatten(-1, (2, 3)),), r"x: expected shape \(N, T, 6\), .*; x.flatten\(2\) makes vec"),
    "one video": (lambda x: (x[0],), r"x: expected shape \(N, T, 6\), got \(5, 6\)"),
    "no tensor": (lambda x: (x.tolist(),), "x: expected a torch.Tensor, got list"),
    "pixels": (lambda x: (x[..., :5],), r"x: expected shape \(N, T, 6\), got \(4, 5, 5\)"),
    "mask": (lambda x: (x, None, HOLES[:, 1:]), r"mask: expected torch.bool of shape \(4, 5\)"),
    "mask of numbers": (lambda x: (x, None, HOLES.double()), "mask: expected torch.bool"),
    "mask of pixels": (lambda x: (x, None, x > 0), r"mask: KVAE takes whole frames, shape \(N, T\), got \(4, 5, 6\)"),
    "controls": (lambda x: (x, torch.zeros(N, T, 1)), "u: KVAE takes no controls"),
    "grey": (lambda x: (x * 0.5,), "x: expected 0 or 1, the support .*, got 0.5 in sequence"),
    "above": (lambda x: (x * 255.0,), "x: expected 0 or 1, the support .*, got 255 in sequence"),
    "below": (lambda x: (x - 1.0,), "x: expected 0 or 1, the support .*, got -1 in sequence"),
    "lost": (lambda x: (x * math.nan,), "x: NaN or infinite in 20 observed frames, the first of them sequence 0"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("marginal", [True, False])
def test_bad_input_is_named_before_a_network_runs(marginal, name):
    arguments, message = BAD[name]
    model, guide = pair(marginal)
    silent(guide.encoder, model.decoder, model.likelihood, model.dynamics.alpha, model.dynamics.alpha.recurrence)
    x = bits()
    x[:, 0, 0], x[:, 0, 1] = 1.0, 0.0
    calls = (model, guide.codes, guide, guide.posterior, ELBO()(model, guide), partial(reconstruct, model, guide))
    # a guide's posterior and a model's methods bring data to the form of the others
    for call in calls[:2] if name in ("bytes", "precision", "one video", "no tensor") else calls:
        with pytest.raises((ValueError, TypeError), match=message):
            call(*arguments(x))


def reconstruct(model, guide, x, u=None, mask=None):
    return model.reconstruct(x, guide, u, mask)


def test_controls_that_are_missing_are_named():
    model, guide = pair(True, CONTROL)
    silent(guide.encoder, model.decoder)
    for call in (model, guide, ELBO()(model, guide)):
        with pytest.raises(ValueError, match="u: missing, KVAE takes controls of size 2"):
            call(bits())
        with pytest.raises(ValueError, match=r"u: expected shape \(N, T, 2\), the controls of KVAE, got \(4, 5, 3\)"):
            call(bits(), controls_of(3))
        with pytest.raises(ValueError, match=r"u: NaN or infinite in 1 frames, the first .* sequence 2, frame 3, bo"):
            call(bits(), controls_of(CONTROL).index_put((torch.tensor(2), torch.tensor(3)), torch.tensor(math.nan)))


@pytest.mark.parametrize("controls", [0, CONTROL])
def test_controls_are_named_where_there_are_no_frames_yet(controls):
    """New sequences and carries do not take lacking controls for zeros, nor leave some out without a word."""
    model, guide = pair(False, controls)
    x, right = bits(), controls_of(controls)
    z = guide(x, right)
    for wrong in (controls_of(0 if controls else 1), controls_of(3)):
        for call in (partial(model.generate, N, T), partial(model.carry_on, z, x), partial(model.dynamics.marginal, T)):
            with pytest.raises(ValueError, match="u: "):
                call(u=wrong)
    assert model.generate(N, T, right)[1].shape == (N, T, DATA)


def test_a_reconstruction_names_a_guide_that_does_not_serve():
    model, _ = pair()
    with pytest.raises(ValueError, match=r"guide: Smoother has no codes; reconstruct takes a guides.KalmanSmoother"):
        model.reconstruct(bits(), Smoother(pair(False)[0]))
    for dynamics, size in ((MixedDynamics(CODE, 5, recurrent=5), "latent_dim"), (pair(controls=1)[0].dynamics, "cont")):
        other = KVAE(dynamics, mlp(CODE, (8,)), Bernoulli(8, DATA), DATA)
        guide = KalmanSmoother(other, encoder=mlp(DATA, (8,)), context=8)
        silent(guide.encoder)
        with pytest.raises(ValueError, match=f"guide: KalmanSmoother was built for a KVAE of {size}"):
            model.reconstruct(bits(), guide)


@pytest.mark.parametrize("marginal", [True, False])
def test_a_video_without_an_observed_frame_is_named(marginal):
    model, guide = pair(marginal)
    silent(guide.encoder, model.decoder)
    mask = HOLES.clone()
    mask[2] = False
    with pytest.raises(ValueError, match="mask: no frame of sequence 2 is observed" if not marginal else "mask: a fra"):
        ELBO()(model, guide)(bits(), None, mask)
    with pytest.raises(ValueError, match="mask: no frame of sequence 2 is observed"):
        model.reconstruct(bits(), guide, None, mask)


def test_a_guide_of_another_model_is_named():
    model, other = pair(False)
    assert ELBO()(model, other)(bits()).isfinite()
    for latent_dim, data_dim, size in ((5, DATA, "latent_dim"), (LATENT, 7, "data_dim")):
        dynamics = MixedDynamics(CODE, latent_dim, recurrent=5)
        wrong = KVAE(dynamics, mlp(CODE, (8,)), Bernoulli(8, data_dim), data_dim, marginal=False)
        guide = KalmanSmoother(wrong, encoder=mlp(data_dim, (8,)), context=8)
        silent(guide.encoder, model.decoder)
        with pytest.raises(ValueError, match=f"guide: KalmanSmoother was built for a KVAE of {size}"):
            ELBO()(model, guide)(bits())


@pytest.mark.parametrize(("marginal", "site"), [(True, "z"), (False, "a")])
def test_a_guide_of_the_other_form_is_told_of_both(marginal, site):
    said = rf"site '{site}': .* this is KVAE\(marginal={marginal}\), and marginal={not marginal} has other sites"
    with pytest.raises(ValueError, match=said):
        ELBO()(pair(marginal)[0], pair(not marginal)[1])(bits())


class Mixing(nn.Module):
    """A decoder that makes one row of features of all frames."""

    def forward(self, a):
        return a.new_zeros(*a.shape[:-2], 8)


class Bare(nn.Module):
    def forward(self, features):
        return features


@pytest.mark.parametrize(
    ("decoder", "likelihood", "got"),
    [
        (Mixing(), Bernoulli(8, DATA), r"of \(4,\) and \(6,\)"),
        (mlp(CODE, (8,)), Bernoulli(8, 1), r"of \(4, 5\) and \(1,\)"),
        (mlp(CODE, (8,)), Bernoulli(8, DATA + 1), r"of \(4, 5\) and \(7,\)"),
        (mlp(CODE, (8,)), Bare(), "Tensor"),
    ],
)
@pytest.mark.parametrize("marginal", [True, False])
def test_what_a_decoder_and_a_likelihood_return_is_checked_and_never_broadcast(decoder, likelihood, got, marginal):
    model = KVAE(MixedDynamics(CODE, LATENT, recurrent=5), decoder, likelihood, DATA, marginal=marginal).double()
    guide = KalmanSmoother(model, encoder=mlp(DATA, (8,)), context=8)
    said = rf"decoder, likelihood: expected a Pyro .* batch shape \(4, 5\) and event shape \(6,\), got.*{got}"
    for call in (lambda: ELBO()(model, guide)(bits()), lambda: model.reconstruct(bits(), guide)):
        with pytest.raises(ValueError, match=said):
            call()
    with pytest.raises(ValueError, match="decoder, likelihood: expected"):
        model.generate(2, 3)


def test_a_family_without_a_mean_is_named_where_a_mean_is_needed():
    model, _ = pair()
    guide = KalmanSmoother(model, encoder=mlp(DATA, (8,)), context=8, family=IAF)
    assert ELBO()(model, guide)(bits()).isfinite()
    with pytest.raises(ValueError, match=r"guide: .* has no mean in closed form, .* FullRank and Mixture have one"):
        model.reconstruct(bits(), guide)
    with pytest.raises(ValueError, match=r"guide: .* has no mean in closed form"):
        start_at_components(model, guide, bits(), blur=1, steps=1)


def test_errors_of_a_guides_draws_are_said_as_they_are():
    model, guide = pair()
    with pytest.raises(ValueError, match=r"leave it out$"):
        model.impute(bits(), torch.zeros(N, T).bool(), guide=guide)


def test_one_frame_is_a_video():
    for marginal in (True, False):
        model, guide = pair(marginal, CONTROL)
        pyro.set_rng_seed(0)
        assert ELBO()(model, guide)(bits(1), controls_of(CONTROL, 1)).isfinite()


def test_chunks_need_the_form_with_z():
    model, guide = pair(False)
    x = bits()
    carry = model.carry_on(guide(x), x)
    assert ELBO()(model, guide)(x, carry=carry).isfinite()
    marginal, other = pair(True)
    with pytest.raises(ValueError, match="carry: KVAE takes whole sequences, not chunks"):
        ELBO()(marginal, other)(x, carry=carry)


def test_parts_that_do_not_fit_are_named():
    model, _ = pair()
    with pytest.raises(TypeError, match=r"likelihood: expected a module such as Bernoulli\(features, .* got <class"):
        KVAE(model.dynamics, model.decoder, Bernoulli, DATA)
    with pytest.raises(TypeError, match=r"decoder: expected a module such as mlp\(2, \(128,\)\), got <class"):
        KVAE(model.dynamics, nn.Linear, model.likelihood, DATA)
    with pytest.raises(ValueError, match=r"data_dim: expected a whole number, at least 1, got \(2, 3\)"):
        KVAE(model.dynamics, model.decoder, model.likelihood, (2, 3))
    with pytest.raises(TypeError, match="dynamics: expected a MixedDynamics, got DMM"):
        KVAE(DMM(CODE, LATENT), model.decoder, model.likelihood, DATA)
    with pytest.raises(ValueError, match=r"KalmanSmoother: DMM has no dynamics; it serves zoo.KVAE"):
        KalmanSmoother(DMM(DATA, 2), encoder=mlp(DATA, (8,)), context=8)
    with pytest.raises(ValueError, match=r"KalmanSmoother: Residual looks at p\(a_t \| ...\)"):
        KalmanSmoother(model, encoder=mlp(DATA, (8,)), context=8, family=Residual)
    with pytest.raises(ValueError, match="family: expected one over 2 features, got 3"):
        KalmanSmoother(model, encoder=mlp(DATA, (8,)), context=8, family=lambda features, context: Diagonal(3, context))
    with pytest.raises(TypeError, match="encoder: expected a module such as"):
        KalmanSmoother(model, encoder=lambda x: x, context=DATA)
    with pytest.raises(ValueError, match="context: expected a whole number, at least 1, got 0"):
        KalmanSmoother(model, encoder=mlp(DATA, (8,)), context=0)
    with pytest.raises(TypeError, match="family: expected a constructor such as"):
        KalmanSmoother(model, encoder=mlp(DATA, (8,)), context=8, family=Diagonal(CODE, 8))
    with pytest.raises(ValueError, match=r"encoder: expected features of shape \(4, 5, 8\) from GRU, got tuple"):
        KalmanSmoother(model, encoder=nn.GRU(DATA, 8, batch_first=True), context=8)(bits())
    guide = KalmanSmoother(model, encoder=mlp(DATA, (8,)), context=7, family=Diagonal)
    with pytest.raises(
        ValueError, match=r"encoder: expected features of shape \(4, 5, 7\) from Sequential, got \(4, 5, 8\)"
    ):
        guide(bits())


def test_levels_are_checked_too():
    model, guide = pair()
    model = KVAE(model.dynamics, model.decoder, Categorical(8, DATA, levels=3), DATA)
    guide = KalmanSmoother(model, encoder=guide.encoder, context=8)
    assert ELBO()(model, guide)(2 * bits()).isfinite()
    with pytest.raises(ValueError, match=r"x: expected whole numbers from 0 to 2, .* got 3 in sequence"):
        ELBO()(model, guide)(3 * bits())
    # nothing is observed, so there is no least and no largest level
    model.check(math.nan * bits(), None, torch.zeros(N, T, dtype=torch.bool))
    real = KVAE(model.dynamics, model.decoder, Normal(8, DATA), DATA)
    assert ELBO()(real, KalmanSmoother(real, encoder=guide.encoder, context=8))(3.5 * bits()).isfinite()


class Stated(nn.Module):
    """A caller's own likelihood that states a support."""

    def __init__(self, support):
        super().__init__()
        self.mean, self.support = nn.Linear(8, DATA), support

    def forward(self, features):
        return dist.Normal(self.mean(features), 1.0, validate_args=False).to_event(1)


@pytest.mark.parametrize("mask", [None, HOLES], ids=["observed", "missing"])
def test_a_likelihood_may_state_any_support(mask):
    """Real frames are finite; of a simplex all entries of a frame are judged at once."""
    model, _ = pair(False)
    x = torch.rand(N, T, DATA).softmax(-1)
    for support, wrong, message in (
        (constraints.real, math.inf, "x: NaN or infinite in 1 observed frames, the first of them sequence 0, frame 4"),
        (constraints.nonnegative, -1.0, r"x: expected .*, got -1 in sequence 0, frame 4, .* \(1 such values\)"),
        (constraints.simplex, 2.0, r"x: expected Simplex\(\), .*, got a vector outside in sequence 0, frame 4, "),
    ):
        stated = KVAE(model.dynamics, model.decoder, Stated(support), DATA, marginal=False)
        stated.check(x, None, mask)
        bad = x.clone()
        bad[0, 4, 1] = wrong
        with pytest.raises(ValueError, match=message):
            stated.check(bad, None, mask)
