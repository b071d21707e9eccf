"""Mixed dynamics: log p(a) and its gradient against the dense joint, the past alone in the weights, missing frames."""

import math
from functools import partial

import dense_gaussian as dense
import pyro
import pytest
import torch
from gaussian_pairs import Z_MAX
from state_spaces import CONTROL, linear_gaussian
from torch import nn

from guides import Exact, Smoother
from zoo import LGSSM, MixedDynamics
from zoo.infer import ELBO, IWELBO, RenyiELBO, exact_reference, nuts_reference, terms
from zoo.infer.reference.reference import as_reference
from zoo.parts import kalman
from zoo.parts.kalman import Parameters
from zoo.parts.mixed_dynamics import RandomWalk, Velocity

N, T, DATA, LATENT = 3, 6, 2, 4
TOLERANCE = {"rtol": 1e-9, "atol": 1e-9}
HOLES = torch.tensor([[1, 1, 0, 0, 1, 0], [0, 1, 1, 0, 1, 1], [1, 1, 1, 1, 1, 1]]).bool()

pytestmark = pytest.mark.usefixtures("double_precision")


@pytest.fixture(params=["compiled", "pytorch"])
def _engine(request, monkeypatch):
    if request.param == "pytorch":
        monkeypatch.setattr("zoo.parts.recursions.engine.has_numba", lambda: False)


def mixed(controls=0, **options):
    """Dynamics whose weights move strongly from step to step: a shift that is wrong would show."""
    dynamics = MixedDynamics(DATA, LATENT, controls, **{"recurrent": 5, "start": Velocity(0.3)} | options)
    with torch.no_grad():
        dynamics.alpha.head.weight.mul_(5.0)
        dynamics.a_0.normal_()
    return dynamics


def data(controls=0):
    return torch.randn(N, T, DATA), torch.randn(N, T, controls) if controls else None


def completed_by_hand(dynamics, a, u, mask):
    """a with E[a_t | observed past], frame after frame, each by a condition of the dense joint."""
    for t in range(a.shape[1]):
        joint = dense.joint(dynamics.system(a), a.shape[1], u)
        seen = dense.entries(joint, a, mask & (torch.arange(a.shape[1]) < t))
        mean, _, _ = dense.condition(joint, *seen, given=joint.data, want=joint.observations(t))
        now = torch.arange(a.shape[1]) == t
        a = torch.where((~mask & now).unsqueeze(-1), mean.unsqueeze(1), a)
    return a


# --- exactness -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_engine")
@pytest.mark.parametrize("mask", [None, HOLES], ids=["observed", "missing"])
@pytest.mark.parametrize("controls", [0, CONTROL])
def test_value_and_gradient_are_those_of_the_dense_joint(controls, mask):
    dynamics, (a, u) = mixed(controls), data(controls)
    inputs = [a.requires_grad_(), *([] if u is None else [u.requires_grad_()]), *dynamics.parameters()]
    full = a if mask is None else completed_by_hand(dynamics, a, u, mask)
    expected = dense.marginal_loglik(dynamics.system(full), full, u, mask)
    found = dynamics.log_prob(a, u, mask)
    torch.testing.assert_close(found, expected, **TOLERANCE)
    weights = torch.tensor([1.0, -2.0, 0.5])
    ours, theirs = (torch.autograd.grad(value @ weights, inputs, retain_graph=True) for value in (found, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9 * (1 + other.abs().max().item()))


@pytest.mark.parametrize("controls", [0, CONTROL])
def test_missing_frames_are_filled_in_as_by_hand(controls):
    dynamics, (a, u) = mixed(controls), data(controls)
    torch.testing.assert_close(dynamics.completed(a, u, HOLES), completed_by_hand(dynamics, a, u, HOLES), **TOLERANCE)
    hidden = a.masked_fill(~HOLES.unsqueeze(-1), math.nan)
    assert torch.equal(dynamics.completed(hidden, u, HOLES), dynamics.completed(a, u, HOLES))
    particles = dynamics.completed(a.expand(2, -1, -1, -1), u, HOLES)
    torch.testing.assert_close(particles[1], dynamics.completed(a, u, HOLES))


def test_posterior_is_that_of_the_dense_joint():
    dynamics, (a, u) = mixed(CONTROL), data(CONTROL)
    full = completed_by_hand(dynamics, a, u, HOLES)
    expected, found = dense.smoother(dynamics.system(full), full, u, HOLES), dynamics.posterior(a, u, HOLES)
    torch.testing.assert_close(found.mean, expected.smoothed_means, **TOLERANCE)
    torch.testing.assert_close(found.covariances, expected.smoothed_covariances, **TOLERANCE)


def test_the_density_integrates_to_one():
    """Two frames of one entry, on a grid: weights that read a_t itself would give no density."""
    torch.manual_seed(1)
    dynamics = MixedDynamics(1, 2, recurrent=3, start=Velocity(0.3), emission_variance=0.5, initial_variance=1.0)
    with torch.no_grad():
        dynamics.alpha.head.weight.mul_(10.0)
    grid = torch.linspace(-30.0, 30.0, 601)
    with torch.no_grad():
        log_p = dynamics.log_prob(torch.cartesian_prod(grid, grid).unsqueeze(-1))
    assert abs(log_p.exp().sum() * (grid[1] - grid[0]) ** 2 - 1) < 1e-6


def test_weights_know_the_past_alone():
    dynamics, (a, _) = mixed(), data()
    alpha, _ = dynamics.weights(a.requires_grad_())
    torch.testing.assert_close(alpha.sum(-1), torch.ones(N, T))
    for t in range(T):
        (by_a,) = torch.autograd.grad(alpha[:, t, 0].sum(), a, retain_graph=True, allow_unused=True)
        assert (by_a[:, t:] == 0).all()
        assert t == 0 or (by_a[:, :t] != 0).any(-1).all()


def as_lgssm(dynamics, alpha):
    """The `LGSSM` with the matrices that these weights, the same at every step, make."""
    values = {name: v for name, v in dynamics.mixed(alpha)._asdict().items() if v is not None}
    return LGSSM(Parameters, **{name: nn.Parameter(v.detach()) for name, v in values.items()})


@pytest.mark.parametrize("mask", [None, HOLES], ids=["observed", "missing"])
@pytest.mark.parametrize("case", ["one component", "equal components", "no head"])
def test_linear_cases_are_an_lgssm(case, mask):
    dynamics, (a, u) = mixed(CONTROL, num_components=1 if case == "one component" else 3), data(CONTROL)
    with torch.no_grad():
        if case == "equal components":
            for name in ("transition_matrices", "emission_matrices", "input_matrices"):
                matrices = getattr(dynamics, name)
                matrices.copy_(matrices[:1].expand_as(matrices))
        if case == "no head":
            dynamics.alpha.head.weight.zero_()
    model = as_lgssm(dynamics, dynamics.alpha(dynamics.h_0))
    close = {"rtol": 1e-12, "atol": 1e-11}
    torch.testing.assert_close(dynamics.log_prob(a, u, mask), model.log_prob(a, u, mask), **close)
    found, expected = dynamics.posterior(a, u, mask), model.posterior(a, u, mask)
    torch.testing.assert_close(found.mean, expected.mean, **close)
    torch.testing.assert_close(found.variance, expected.variance, **close)


def test_components_have_no_order():
    dynamics, (a, u) = mixed(CONTROL), data(CONTROL)
    before = dynamics.log_prob(a, u)
    with torch.no_grad():
        every = (dynamics.transition_matrices, dynamics.emission_matrices, dynamics.input_matrices)
        for values in (*every, *dynamics.alpha.head.parameters()):
            values.copy_(values[[2, 0, 1]])
    torch.testing.assert_close(dynamics.log_prob(a, u), before, **TOLERANCE)


@pytest.mark.parametrize("mask", [None, HOLES], ids=["observed", "missing"])
@pytest.mark.parametrize("objective", [ELBO(), ELBO(3, sticking=True), IWELBO(7), RenyiELBO(0.5, 3)])
def test_every_bound_with_the_exact_guide_is_log_p(objective, mask):
    """forward, log_prob and posterior must fill missing frames alike, or the weights would spread."""
    dynamics, (a, u) = mixed(CONTROL), data(CONTROL)
    loss = objective(dynamics, Exact(dynamics))
    for seed in range(3):
        pyro.set_rng_seed(seed)
        torch.testing.assert_close(-loss(a, u, mask), dynamics.log_prob(a, u, mask).sum(), rtol=0, atol=1e-10)
    run = terms(dynamics, Exact(dynamics), a, u, mask, num_particles=5)
    torch.testing.assert_close(run.log_weights, dynamics.log_prob(a, u, mask).expand(5, N), rtol=0, atol=1e-10)


def test_another_guide_is_below_log_p():
    dynamics, (a, _) = mixed(), data()
    guide = Smoother(dynamics, recurrent=4, hidden=(4,))
    with torch.no_grad():
        assert -IWELBO(200)(dynamics, guide)(a) < dynamics.log_prob(a).sum()


@pytest.mark.slow
def test_nuts_agrees_with_the_exact_posterior():
    dynamics = mixed(emission_variance=0.3, initial_variance=1.0, transition_variance=0.3)
    a = dynamics.generate(1, 3)[1]
    found = as_reference(nuts_reference(dynamics, a, num_samples=250, warmup=150, chains=4, seed=0))
    exact = exact_reference(dynamics, a)
    assert ((found.mean - exact.mean) / found.mean_error).abs().max() < Z_MAX
    # R-hat and the effective sizes are checked by the reference itself
    assert (found.sd / exact.sd - 1).abs().max() < 0.15


# --- the distribution ------------------------------------------------------------------------------------------------


def test_the_marginal_scores_particles_and_masks():
    dynamics, (a, u) = mixed(CONTROL), data(CONTROL)
    expected = dynamics.log_prob(a, u, HOLES)
    p = dynamics.marginal(T, u, HOLES)
    assert p.batch_shape == (N,)
    torch.testing.assert_close(p.log_prob(a), expected)
    torch.testing.assert_close(p.expand((2, N)).log_prob(a), expected.expand(2, N))
    torch.testing.assert_close(p.log_prob(a.expand(4, N, T, DATA)), expected.expand(4, N))
    assert mixed().marginal(T).batch_shape == ()
    # one value for all masks, and all values for several masks
    torch.testing.assert_close(p.log_prob(a[0]), dynamics.log_prob(a[:1].expand(N, T, DATA), u, HOLES))
    several = dynamics.marginal(T, u, torch.stack([HOLES, ~HOLES])).log_prob(a)
    torch.testing.assert_close(several, torch.stack([expected, dynamics.log_prob(a, u, ~HOLES)]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "T: expected a whole number, at least 1, got 0"),
        ((T,), "u: missing, MixedDynamics takes controls of size 2"),
        ((T, torch.zeros(N, T, 3)), r"u: expected shape \(N, T, 2\), the controls of MixedDynamics, got \(3, 6, 3\)"),
        ((T, torch.zeros(N, 4, 2)), r"u: expected the controls of 6 frames, \(..., 6, 2\), got \(3, 4, 2\)"),
        ((T, [1.0]), "u: expected a torch.Tensor, got list"),
        ((T, torch.zeros(2)), r"u: expected the controls of 6 frames, \(..., 6, 2\), got \(2,\)"),
        ((T, torch.zeros(N, T, 2), [True] * T), "mask: expected a torch.Tensor, got list"),
        ((T, torch.zeros(N, T, 2), HOLES.double()), r"mask: expected torch.bool of shape \(..., 6\), .* torch.float64"),
        ((T, torch.zeros(N, T, 2), HOLES[:, 1:]), r"mask: expected torch.bool of shape \(..., 6\), .* \(3, 5\)"),
    ],
)
def test_arguments_of_the_marginal_that_do_not_fit_are_named(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        mixed(CONTROL).marginal(*arguments)


def test_a_value_of_another_length_is_no_value_of_the_marginal():
    dynamics, (a, _) = mixed(), data()
    for wrong in (a[:, 1:], a[..., :1]):
        with pytest.raises(ValueError, match=r"a: expected shape \(..., 6, 2\), got"):
            dynamics.marginal(T).log_prob(wrong)


def test_draws_of_the_marginal_follow_its_density():
    """P(a_1 < c, a_2 < d) by draws, and by the density on a grid."""
    dynamics = MixedDynamics(1, 2, recurrent=3, start=Velocity(0.5), emission_variance=0.5, initial_variance=1.0)
    grid = torch.linspace(-20.0, 20.0, 401)
    with torch.no_grad():
        dynamics.alpha.head.weight.mul_(10.0)
        density = dynamics.log_prob(torch.cartesian_prod(grid, grid).unsqueeze(-1)).exp().view(401, 401)
        draws = dynamics.marginal(2).rsample((20_000,))
    density = density / density.sum()
    # in the middle between two points of the grid: the sum over cells is then right to second order
    for first, second in ((0.05, 0.05), (1.05, -0.45), (-0.45, 1.05)):
        share = (grid < first).double() @ density @ (grid < second).double()
        found = (draws[:, 0, 0] < first) & (draws[:, 1, 0] < second)
        assert abs(found.double().mean() - share) < Z_MAX * (share * (1 - share) / len(draws)).sqrt() + 1e-3


def test_draws_of_the_marginal_carry_gradients():
    dynamics, (_, u) = mixed(CONTROL), data(CONTROL)
    value = dynamics.marginal(T, u).rsample((2,))
    assert value.shape == (2, N, T, DATA)
    gradients = torch.autograd.grad(value.square().sum(), list(dynamics.parameters()))
    assert all(g.isfinite().all() and g.any() for g in gradients)


def test_a_value_that_is_lost_scores_nan_without_validation():
    """NUTS counts it as a divergence."""
    dynamics, (a, _) = mixed(), data()
    a[0, 2, 0] = math.nan
    with pyro.validation_enabled(False):
        assert dynamics.marginal(T).log_prob(a)[0].isnan()
    with pytest.raises(ValueError, match="NaN or infinite"):
        dynamics.marginal(T).log_prob(a)


@pytest.mark.parametrize("model", [mixed, partial(mixed, num_components=1)], ids=["mixed", "linear"])
def test_forecasts_are_draws_of_the_exact_guide(model):
    """One component: against the moments of an `LGSSM`."""
    dynamics, (a, u) = model(CONTROL), data(CONTROL)
    ahead = torch.cat([u, torch.randn(N, 2, CONTROL)], 1)
    with pytest.raises(ValueError, match="guide: missing"):
        dynamics.forecast(a, 2, ahead)
    found = dynamics.forecast(a, 2, ahead, guide=Exact(dynamics), num=2000)
    assert found.observation_means.shape == (N, 2, DATA)
    if len(dynamics.transition_matrices) > 1:
        return
    expected = as_lgssm(dynamics, dynamics.alpha(dynamics.h_0)).forecast(a, 2, ahead)
    error = (expected.observation_covariances.diagonal(dim1=-2, dim2=-1) / 2000).sqrt()
    assert ((found.observation_means - expected.observation_means) / error).abs().max() < Z_MAX


# --- starts, bad input -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("latent_dim", [1, 2, 3, 4, 6])
def test_at_constant_velocity_the_position_moves_on(latent_dim):
    """C A^t z = position + t * velocity, of as many entries as z holds."""
    A, B, C = (matrices[0] for matrices in Velocity(0.0)(2, 2, latent_dim, 3))
    z = torch.randn(latent_dim)
    position, velocity = torch.zeros(2), torch.zeros(2)
    position[: min(2, latent_dim)] = z[:2]
    velocity[: max(0, min(2, latent_dim - 2))] = z[2:4]
    for t in range(3):
        torch.testing.assert_close(C @ torch.linalg.matrix_power(A, t) @ z, position + t * velocity)
    assert not B.any()


def test_the_papers_start_is_a_random_walk():
    A, B, C = RandomWalk()(400, 2, 4, 3)
    assert torch.equal(A, torch.eye(4).expand(400, 4, 4))
    for matrices in (B, C):
        count = matrices.numel()
        assert abs(matrices.std() / 0.05 - 1) < Z_MAX / math.sqrt(2 * count)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_components": 0}, "num_components: expected a whole number, at least 1, got 0"),
        ({"control_dim": -1}, "control_dim: expected a whole number, at least 0, got -1"),
        ({"recurrent": 0}, "recurrent: expected a whole number"),
        ({"transition_variance": 0.0}, "transition_variance: expected a finite number > 0, got 0"),
        ({"emission_variance": -1.0}, "emission_variance: expected a finite number > 0"),
        ({"initial_variance": math.inf}, "initial_variance: expected a finite number > 0"),
        ({"start": lambda *sizes: Velocity()(2, *sizes[1:])}, r"start: expected A\^k of shape \(3, 4, 4\), got \(2, 4"),
        ({"start": lambda *sizes: Velocity()(3, 1, 4, 0)}, r"start: expected C\^k of shape \(3, 2, 4\), got \(3, 1, 4"),
        (
            {"start": lambda *sizes: tuple(m.long() for m in Velocity()(*sizes))},
            r"start: expected A\^k of finite floats",
        ),
        ({"start": lambda *sizes: tuple(m / 0 for m in Velocity()(*sizes))}, r"A\^k of finite floats"),
        ({"transition_variance": torch.ones(2)}, "transition_variance: expected a finite number > 0, got tensor"),
        ({"recurrence": nn.GRU}, "recurrence: GRU has no step; it is called as zoo.parts.networks.GRU is"),
    ],
)
def test_settings_that_make_no_sense_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        MixedDynamics(**{"data_dim": DATA, "latent_dim": LATENT} | options)


@pytest.mark.parametrize("start", [Velocity, RandomWalk])
@pytest.mark.parametrize("scale", [-1.0, math.nan, "a"])
def test_the_scale_of_a_start_is_checked(start, scale):
    with pytest.raises(ValueError, match="scale: expected a number, at least 0"):
        start(scale)


def test_the_first_frame_of_a_model_with_controls_may_be_given():
    model, (x, u) = mixed(CONTROL), (torch.randn(N, T, DATA), torch.randn(N, T, CONTROL))
    carry = model.given(x[:, 0], u[:, 0])
    # s_1 is the start's: h_1 reads a_0 alone, and no action has moved z_1
    torch.testing.assert_close(carry.s.h[0], model.first().h)
    torch.testing.assert_close(model.given(x[:, 0]).s.mean, carry.s.mean)
    assert model.log_prob(x[:, 1:], u[:, 1:], None, carry).isfinite().all()
    with pytest.raises(ValueError, match="controls of MixedDynamics"):
        model.given(x[:, 0], u[:, 0, :1])


def test_what_is_missing_without_a_guide_is_the_forecast_and_not_the_posterior():
    with pytest.raises(
        ValueError, match=r"MixedDynamics has no forecast in closed form; give .* guides.Exact\(model\)"
    ):
        mixed().forecast(torch.zeros(N, T, DATA), 2)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (Velocity, r"start: expected an object such as Velocity\(\), got the class"),
        (lambda *sizes: Velocity()(*sizes)[:2], r"start: expected a tuple of three .* got \['Tensor', 'Tensor'\]"),
        (lambda *sizes: (*Velocity()(*sizes)[:2], None), "start: expected a tuple of three .*, 'NoneType'"),
        (lambda *sizes: torch.zeros(3), "start: expected a tuple of three tensors, .* got Tensor"),
    ],
)
def test_a_start_that_gives_no_matrices_is_named(start, message):
    with pytest.raises(TypeError, match=message):
        MixedDynamics(DATA, LATENT, start=start)


def test_a_start_keeps_its_own_tensors():
    """Views would tie the components, and training would write into the tensors of their owner, and beyond."""
    A, B, C = torch.eye(LATENT).float(), torch.zeros(LATENT, 0), torch.eye(DATA, LATENT)
    dynamics = MixedDynamics(DATA, LATENT, start=lambda K, *sizes: tuple(m.expand(K, *m.shape) for m in (A, B, C)))
    matrices = dynamics.transition_matrices, dynamics.emission_matrices
    for matrix, own in zip(matrices, (A, C), strict=True):
        assert matrix.dtype == torch.float64
        assert matrix.is_contiguous()
        with torch.no_grad():
            matrix[0] += 1.0
        assert torch.equal(matrix[1], own.double())
    assert torch.equal(A, torch.eye(LATENT).float())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda a, u: (a,), "u: missing, MixedDynamics takes controls of size 2"),
        (lambda a, u: (a, u[..., :1]), r"u: expected shape \(N, T, 2\), the controls of MixedDynamics, got \(3, 6"),
        (lambda a, u: (a, u, a > 0), r"mask: MixedDynamics takes whole frames, shape \(N, T\), got \(3, 6, 2\)"),
        (lambda a, u: (a * math.nan, u), "x: NaN or infinite in 18 observed frames"),
        (lambda a, u: (a[0, 0], u), r"x: expected shape \(N, T, 2\), got \(2,\)"),
    ],
)
@pytest.mark.parametrize("method", ["forward", "log_prob", "posterior"])
def test_arguments_that_do_not_fit_are_named(method, arguments, message):
    dynamics, (a, u) = mixed(CONTROL), data(CONTROL)
    with pytest.raises(ValueError, match=message):
        getattr(dynamics, method)(*arguments(a, u))


def test_an_lgssm_names_its_controls_too():
    model, (a, u) = linear_gaussian(), (torch.randn(2, 5, 3), torch.randn(2, 5, CONTROL))
    with pytest.raises(ValueError, match="u: missing, LGSSM takes controls of size 2"):
        model(a)
    with pytest.raises(ValueError, match=r"u: expected shape \(N, T, 2\), the controls of LGSSM, got \(2, 5, 1\)"):
        model(a, u[..., :1])
    with pytest.raises(ValueError, match="u: MixedDynamics takes no controls"):
        mixed()(torch.randn(2, 5, DATA), u)


def test_single_precision_keeps_its_digits():
    torch.set_default_dtype(torch.float32)
    dynamics, (a, _) = mixed(), data()
    found = dynamics.log_prob(a)
    assert found.dtype == torch.float32
    exact = dynamics.double().log_prob(a.double())
    torch.testing.assert_close(found.double(), exact, rtol=1e-3, atol=1e-3)
    assert kalman.smoother(dynamics.system(a.double()), a.double()).smoothed_means.dtype == torch.float64
