"""The particle filter's estimate: unbiased for every state space, exact where it can be, tight on long sequences."""

import itertools
import math
from functools import partial

import pyro
import pytest
import torch
from pyro.nn import PyroModule
from scipy.stats import f as f_distribution
from state_spaces import STATE_SPACES, linear_gaussian
from tiers import thorough_but
from torch import Tensor

import guides
from zoo import DMM, LGSSM, SRNN
from zoo.data import Buckets, load
from zoo.infer import ELBO, fit, sequence_log_likelihood, smc_log_likelihood
from zoo.infer.evaluation.particle_filter import resampling_plan
from zoo.parts import kalman
from zoo.parts.conditionals import Normal
from zoo.parts.distributions import DiagonalNormal
from zoo.parts.trajectory import Trajectory
from zoo.parts.transitions import LinearTransition

RUNS = 200
Z = 5.0  # the tests below make about 100 comparisons: fewer than one run in 10,000 fails by chance


def small(guide, model, **options):
    return guide(model, hidden=(4,), recurrent=4, **options)


def logs_of_runs(model, guide, x: Tensor, u: Tensor | None, mask: Tensor | None, **options) -> Tensor:
    """`(RUNS, N)`: every sequence that many times in one batch, or in that many where parameters are its own."""
    if getattr(model, "sizes", (None,))[0] is not None:
        return torch.stack([smc_log_likelihood(model, guide, x, u, mask, **options) for _ in range(RUNS // 3)])
    many = [None if v is None else v.repeat(RUNS, *[1] * (v.dim() - 1)) for v in (x, u, mask)]
    return smc_log_likelihood(model, guide, *many, batch_size=20_000, **options).reshape(RUNS, -1)


def z_of_mean(logs: Tensor, log_p: Tensor, error: Tensor | float = 0.0) -> Tensor:
    """How many standard errors the mean of the estimates lies from p(x), itself known up to a relative error."""
    ratio = (logs - log_p).exp()
    return (ratio.mean(0) - 1) / (ratio.var(0) / len(ratio) + error**2).sqrt()


SMOOTHER = partial(guides.Smoother, family=guides.Residual)  # near the transition
# of sharp mixtures plain importance sampling knows no p(x) to compare with; their states are those of "dmm" and "vrnn"
PAIRS = [(name, SMOOTHER) for name in STATE_SPACES if "mixture" not in name]
PAIRS += [(name, guides.MeanField) for name in ("dmm", "storn", "vrnn")]
SHORT = {SMOOTHER: "smoother", guides.MeanField: "mean field"}


MASKED = [pytest.param(pair, marks=[pytest.mark.thorough] * (n % 2), id=f"{pair[0]}-{SHORT[pair[1]]}")
          for n, pair in enumerate(PAIRS)]  # fmt: skip


@pytest.fixture(scope="module", params=MASKED)
def masked(request):
    """A pair, sequences with padding and missing frames, log p(x) and the error of log p(x)."""
    name, kind = request.param
    model, x, u = STATE_SPACES[name].build()
    x, guide = model.generate(*x.shape[:2], u)[1].detach(), small(kind, model)
    # wider than p(z | s): the weights of a narrower one have tails that no number of runs would show
    guide.family.head.bias.data[model.latent_dim :] += 0.5
    if not hasattr(model, "log_prob"):  # few frames, so that plain importance sampling knows p(x)
        x, u = x[:, :3], None if u is None else u[:, :3]
    mask = torch.ones(x.shape[:2], dtype=torch.bool)
    mask[0, 2:] = mask[1, 1] = mask[2, 0] = False
    x = x.masked_fill(~mask.unsqueeze(-1), math.nan)
    if hasattr(model, "log_prob"):
        return model, guide, (x, u, mask), model.log_prob(x, u, mask).detach().double(), 0.0
    many = sequence_log_likelihood(model, guide, x, u, mask, data="drawn", num_particles=20_000, seed=2)
    assert many.log_p_error.max() < 0.1, "or its error is not known either"
    return model, guide, (x, u, mask), many.log_p, many.log_p_error


@pytest.mark.parametrize("share", thorough_but([None], [None, 1.0]))
def test_the_estimate_is_unbiased_for_every_model(masked, share):
    """Resampling as planned or at every step, padding and missing frames: the mean of p_hat(x) is p(x)."""
    model, guide, data, log_p, log_p_error = masked
    torch.manual_seed(1)
    logs = logs_of_runs(model, guide, *data, num_particles=100, resample_below=share)
    assert z_of_mean(logs, log_p, log_p_error).abs().max() < Z


@pytest.mark.parametrize("share", thorough_but([None, 0.3], [None, 0.0, 0.3, 1.0]))
@pytest.mark.parametrize("family", [guides.Residual, guides.Planar])
def test_a_first_frame_is_given_and_families_draw_as_they_can(share, family):
    torch.manual_seed(0)
    model = SRNN(3, 2, recurrent=4, hidden=(5,))
    guide = small(guides.Smoother, model, family=family)
    x, first = (torch.rand(3, 5, 3) < 0.5).float(), torch.ones(3, 3)
    exact = sequence_log_likelihood(model, guide, x, data="random", first=first, num_particles=20_000, seed=2)
    logs = logs_of_runs(
        model, guide, x, None, None, first=first.repeat(RUNS, 1), num_particles=20, resample_below=share
    )
    assert z_of_mean(logs, exact.log_p, exact.log_p_error).abs().max() < Z


def test_without_information_every_particle_weighs_the_same():
    """x says nothing of z and q is the prior: the estimate is p(x), whatever is resampled."""
    torch.manual_seed(0)
    model = LGSSM(kalman.Parameters, marginal=False, initial_mean=torch.zeros(1), initial_covariance=torch.eye(1),
                  transition_matrix=torch.eye(1), transition_covariance=torch.eye(1),
                  emission_matrix=torch.zeros(2, 1), emission_covariance=torch.eye(2))  # fmt: skip
    guide = small(guides.Filter, model, family=guides.Residual)
    torch.nn.init.zeros_(guide.family.head.weight)
    torch.nn.init.zeros_(guide.family.head.bias)
    x = torch.randn(4, 7, 2)
    for share in (None, 0.0, 1.0):
        found = smc_log_likelihood(model, guide, x, num_particles=3, resample_below=share)
        assert torch.allclose(found, model.log_prob(x).double(), rtol=0, atol=1e-5)


def test_it_is_tight_where_importance_sampling_is_not():
    """200 frames of a known LGSSM, 100 particles, an untrained guide: both are lower bounds in the mean."""
    torch.manual_seed(0)
    model = linear_gaussian()
    u = torch.randn(8, 200, 2)
    x = model.generate(8, 200, u)[1].detach()
    exact, guide = model.log_prob(x, u).double(), small(guides.Filter, model)
    filtered = exact - smc_log_likelihood(model, guide, x, u, seed=1)
    plain = exact - smc_log_likelihood(model, guide, x, u, resample_below=0.0, seed=1)
    assert (plain > 4 * filtered).all(), (plain, filtered)
    assert plain.min() > 50


# --- when to resample ------------------------------------------------------------------------------------------------


class ExactSmoother(PyroModule):
    """p(z_t | z_{t-1}, x_{t:T}) of a linear chain with one latent, by messages that run backwards; `wider`: its scale
    times that, `ahead`: the share of what later frames say that it believes."""

    def __init__(self, model: DMM, wider: float = 1.0, ahead: float = 1.0) -> None:
        super().__init__("guide")
        self._model, self.wider, self.ahead = (model,), wider, ahead

    def posterior(self, x: Tensor, u: None = None, mask: None = None) -> Trajectory:
        (model,) = self._model
        a, b = model.step.linear.weight[0, 0], model.step.linear.bias[0]
        variance = (2 * model.step.log_scale[0]).exp()
        row, offset = model.likelihood.loc.weight[:, 0], model.likelihood.loc.bias
        noise = (-2 * model.likelihood.log_scale).exp()
        precision, shift = x.new_zeros(len(x)), x.new_zeros(len(x))
        messages = []
        for frame in reversed(x.unbind(1)):  # exp(shift z - precision z^2 / 2) is what x_{t:T} say of z_t
            precision = self.ahead * precision + (row * row * noise).sum()
            shift = self.ahead * shift + ((frame - offset) * row * noise).sum(-1)
            messages.append(torch.stack([precision, shift], -1))
            kept = 1 + variance * precision
            precision, shift = a * a * precision / kept, a * (shift - b * precision) / kept

        def conditional(s: Tensor, message: Tensor) -> DiagonalNormal:
            precision, shift = message.unsqueeze(-2).unbind(-1)
            total = 1 / variance + precision
            return DiagonalNormal(((a * s + b) / variance + shift) / total, self.wider * total.rsqrt())

        return Trajectory(model, conditional, x, context=(torch.stack(messages[::-1], 1),))

    def forward(self, x: Tensor, u: None = None, mask: None = None) -> Tensor:
        with pyro.plate("data", len(x)):
            return pyro.sample("z", self.posterior(x))


def chain() -> DMM:
    """Of long memory and noisy frames: only many of them together tell about z."""
    model = DMM(2, 1, likelihood=partial(Normal, scale=3.0), hidden=(), transition=LinearTransition)
    with torch.no_grad():
        model.step.linear.weight.fill_(0.97)
        model.step.linear.bias.fill_(0.1)
        model.likelihood.loc.weight.copy_(torch.tensor([[1.0], [-0.5]]))
        model.likelihood.loc.bias.fill_(0.3)
    return model


def log_p_of_chain(model: DMM, x: Tensor) -> Tensor:
    """By the dense covariance of all frames."""
    T = x.shape[1]
    step, a = torch.arange(T), model.step.linear.weight[0, 0]
    powers = torch.where(step[:, None] >= step, a ** (step[:, None] - step).clamp(min=0), 0.0)
    mean, spread = powers @ model.step.linear.bias.expand(T), powers * model.step.log_scale.exp()
    row = model.likelihood.loc.weight
    mean = (mean[:, None, None] * row).squeeze(-1) + model.likelihood.loc.bias
    factor = torch.kron(spread, row)
    covariance = factor @ factor.T + (2 * model.likelihood.log_scale).exp().repeat(T).diag()
    return torch.distributions.MultivariateNormal(mean.flatten(), covariance).log_prob(x.flatten(1))


def variances(model, guide, x: Tensor, runs: int = RUNS, **options) -> Tensor:
    """Of the estimates of log p(x), the mean over sequences, for each `resample_below` given."""
    x = x.repeat(runs, 1, 1)
    found = [smc_log_likelihood(model, guide, x, batch_size=4000, resample_below=share, seed=seed, **options)
             for seed, share in enumerate((None, 0.0, 0.5))]  # fmt: skip
    return torch.stack([logs.reshape(runs, -1).var(0).mean() for logs in found])


def no_larger(one: Tensor, other: Tensor, count: int) -> bool:
    """Variances of `count` Gaussian estimates each: where they are equal, refused once in 100,000 runs."""
    return bool(one / other < f_distribution.ppf(1 - 1e-5, count - 1, count - 1))


@pytest.mark.usefixtures("double_precision")
def test_an_exact_smoother_has_no_error_unless_it_is_resampled():
    torch.manual_seed(0)
    model = chain()
    x = model.generate(3, 40)[1].detach()
    exact = log_p_of_chain(model, x)
    for share in (None, 0.0):
        found = smc_log_likelihood(model, ExactSmoother(model), x, num_particles=20, resample_below=share)
        torch.testing.assert_close(found, exact, rtol=0, atol=1e-9)
    noise = variances(model, ExactSmoother(model), x, num_particles=20)[2].sqrt()
    assert noise > 0.1, "or the weights of a smoother do not mislead, and this test shows nothing"


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize(
    ("wider", "ahead"),
    [(1.05, 1.0), *(pytest.param(*p, marks=pytest.mark.thorough) for p in ((1.2, 1.0), (1.0, 0.9), (1.0, 0.5))),
     (3.0, 0.0)],
)  # fmt: skip
def test_the_plan_is_no_noisier_than_either_rule(wider, ahead):
    """From a smoother that is nearly exact to a filter: where plain sampling wins by far, and where it fails."""
    torch.manual_seed(0)
    model = chain()
    x = model.generate(3, 60)[1].detach()
    planned, plain, by_size = variances(model, ExactSmoother(model, wider, ahead), x, num_particles=50)
    assert no_larger(planned, plain, RUNS), (planned, plain)
    assert no_larger(planned, by_size, RUNS), (planned, by_size)


def test_a_plan_has_the_least_noise_of_all_plans():
    """Against every subset of the steps; of weights that are no numbers, or none, a plan comes all the same."""
    torch.manual_seed(0)
    T, particles, N, K = 7, 40, 5, 30
    logs = (torch.randn(T, particles, N, dtype=torch.double) * torch.rand(T, 1, N) * 1.5).cumsum(0)
    logs[:, :, 4] = torch.randn(T, particles, dtype=torch.double)  # what one step says the next one takes back
    plan, worst = resampling_plan(logs, K)
    assert plan.shape == (T, N)
    assert not plan[-1].any()
    for n in range(N):
        padded = torch.nn.functional.pad(logs[:, :, n], (0, 0, 1, 0))

        def noises(steps: tuple[int, ...], padded: Tensor = padded) -> list[float]:
            stretches = (padded[b] - padded[a] for a, b in itertools.pairwise((0, *steps, T)))
            spreads = (2 * (v - v.mean()).clamp(min=0).square().mean().item() for v in stretches)
            return [math.log1p(math.expm1(spread) / K) for spread in spreads]

        every = itertools.chain.from_iterable(itertools.combinations(range(1, T), k) for k in range(T))
        found = noises(tuple((plan[:, n].nonzero() + 1).flatten().tolist()))
        assert sum(found) == pytest.approx(min(sum(noises(steps)) for steps in every), abs=1e-5)
        assert worst[n].item() == pytest.approx(max(found), abs=1e-5)
    assert not plan[:, 4].any()
    assert plan[:, :4].any()
    rare = resampling_plan(torch.randn(2501, 32, 2, dtype=torch.double).cumsum(0), K)[0].nonzero()[:, 0] + 1
    assert len(rare) > 800
    assert ((2501 - rare) % 3 == 0).all(), "of 2501 steps every third is looked at, the last one among them"
    for wrong in (math.nan, -math.inf):
        logs[3:, :4, 0] = wrong
        assert torch.equal(resampling_plan(logs, K)[0][:, 1:], plan[:, 1:])


@pytest.mark.slow
@pytest.mark.parametrize("frames", [12, 40])
def test_a_trained_smoother_of_chorales_is_no_noisier_than_plain_importance_sampling(frames):
    torch.manual_seed(0)
    music = load("jsb")
    model = DMM(88, 8, hidden=(32,), transition_hidden=(32,))
    guide = guides.Smoother(model, hidden=(32,), recurrent=64)
    fit(ELBO(analytic_kl=True)(model, guide), Buckets(music.train.cut(40)), epochs=15, batch_size=20, clip=1000.0,
        seed=0, optimizer=partial(torch.optim.Adam, lr=3e-3), progress=False)  # fmt: skip
    pieces = music.test.cut(frames)
    x = pieces.values[pieces.lengths == frames][:8].float()
    planned, plain, _ = variances(model, guide, x, runs=50, num_particles=100)
    assert no_larger(planned, plain, 50), (planned, plain)


def test_seeds_batches_and_the_callers_stream():
    torch.manual_seed(0)
    model = DMM(3, 2)
    guide = small(guides.Smoother, model)
    x, mask = (torch.rand(5, 6, 3) < 0.5).float(), torch.arange(6) < torch.tensor([[6], [2], [4], [5], [1]])
    state = torch.get_rng_state()
    one, two = (smc_log_likelihood(model, guide, x, None, mask, seed=3, num_particles=9) for _ in range(2))
    assert torch.equal(one, two)
    assert torch.equal(state, torch.get_rng_state())
    assert one.dtype == torch.double
    assert not torch.equal(one, smc_log_likelihood(model, guide, x, None, mask, num_particles=9, seed=4))
    each = smc_log_likelihood(model, guide, x, None, mask, batch_size=2, num_particles=2000, seed=5)
    whole = smc_log_likelihood(model, guide, x, None, mask, num_particles=2000, seed=6)
    assert torch.allclose(each, whole, atol=0.2)
    assert (whole[:, None] - whole).abs().fill_diagonal_(1).min() > 0.4, "or rows could be exchanged unseen"
    assert guide.training
    assert all(p.requires_grad for p in model.parameters())


def other_model():
    return small(guides.Smoother, DMM(3, 2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_particles": 0}, "at least one particle"),
        ({"resample_below": 1.5}, "resample_below: expected a share of the particles, 0 to 1, got 1.5"),
        ({"mask": torch.ones(2, 4, 3, dtype=torch.bool)}, "mask: a particle filter takes whole frames"),
        ({"guide": other_model}, "guide: Smoother is that of another DMM"),
        ({"x": torch.full((2, 4, 3), math.nan)}, "x: NaN or infinite .* sequence 0, frame 0"),
        ({"x": torch.full((2, 4, 3), 2.0)}, "sequence 0|row 0|support"),
    ],
)
def test_bad_input_is_refused(changes, message):
    torch.manual_seed(0)
    model = DMM(3, 2)
    given = {"x": torch.zeros(2, 4, 3), "mask": None, "guide": lambda: small(guides.Smoother, model)} | changes
    guide = given.pop("guide")()
    with pytest.raises(ValueError, match=message):
        smc_log_likelihood(model, guide, given.pop("x"), None, given.pop("mask"), **given)


def test_a_guide_must_draw_step_by_step():
    model = linear_gaussian()
    with pytest.raises(ValueError, match=r"guide: expected one that draws step by step .* got Exact"):
        smc_log_likelihood(model, guides.Exact(model), torch.zeros(2, 4, 3), torch.zeros(2, 4, 2))


@pytest.mark.parametrize("share", [None, 0.0, 0.5])
def test_weights_that_are_no_numbers_are_refused(share):
    """The data are lost after the door."""
    torch.manual_seed(0)
    model = DMM(3, 2)
    guide = small(guides.Smoother, model)
    posterior = guide.posterior

    def lost(*args, **kwargs):
        q = posterior(*args, **kwargs)
        q.x = q.x.clone()
        q.x[1] = math.nan  # after the door
        return q

    guide.posterior = lost
    with pytest.raises(ValueError, match="the log weights of sequences 1 are NaN"):
        smc_log_likelihood(model, guide, torch.zeros(3, 4, 3), num_particles=5, resample_below=share)
