"""The exact recursions against the dense joint Gaussian, Pyro's GaussianHMM and statsmodels; samples; bad input."""

import inspect
import math
import random
from functools import cache
from typing import NamedTuple

import dense_gaussian as dense
import numpy as np
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from statsmodels.tsa.statespace.kalman_smoother import KalmanSmoother
from tiers import thorough_but
from torch import Tensor

from zoo.parts import kalman
from zoo.parts.kalman import Parameters
from zoo.parts.kalman.parameters import EVENTS as FIELDS

ENGINES = ["compiled", "pytorch"]


@pytest.fixture(autouse=True, params=ENGINES)
def _engine(request, monkeypatch):
    """Each test with the compiled recursions and with PyTorch's."""
    if request.param == "pytorch":
        monkeypatch.setattr("zoo.parts.recursions.engine.has_numba", lambda: False)


COVARIANCES = [name for name in FIELDS if name.endswith("covariance")]

#: leading axes of the data, and those a parameter may have
BATCHES = {
    "alone": ((), [()]),
    "sequences": ((3,), [(3,), (1,)]),
    "particles": ((2, 3), [(2, 3), (2, 1), (1, 3), (3,)]),
    "outer": ((3,), [(2, 1)]),
}
MASKS = ["full", "frames", "coordinates", "common", "padding"]
SEEDS = range(10)  # of each of the 4 x 5 groups: 200 problems

TOLERANCE = 1e-9  # largest error of a tensor over its largest entry, or over FLOOR where it is (nearly) zero
FLOOR = 1e-3
RATE = 1e-6  # failure rate of a statistical test as a whole


class Problem(NamedTuple):
    parameters: Parameters
    x: Tensor
    u: Tensor | None
    mask: Tensor | None

    @property
    def inputs(self):
        return self.x, self.u, self.mask

    def leaves(self):
        """Everything with a gradient, by name, and the same problem made of it."""
        named = {**self.parameters._asdict(), "x": self.x, "u": self.u}
        named = {name: value.detach().clone().requires_grad_() for name, value in named.items() if value is not None}
        parameters = Parameters(**{name: value for name, value in named.items() if name in FIELDS})
        return named, Problem(parameters, named["x"], named.get("u"), self.mask)


def problem(batch: str, kind: str, seed: int, *, T: int | None = None, singular: bool = True) -> Problem:
    """Sizes, presence of B, D, b, d, sharing of each field, ranks and mask are drawn, each by itself.

    singular: whether Q may be of lower rank.
    """
    choose = random.Random(f"{batch} {kind} {seed}")
    generator = torch.Generator().manual_seed(choose.randrange(2**31))

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    T = T or choose.randint(1, 7)
    sizes = {"n": choose.randint(1, 4), "m": choose.randint(1, 3), "k": choose.randint(1, 2)}
    lead, leads = BATCHES[batch]

    def draw(name):
        event = [sizes[letter] for letter in FIELDS[name]]
        own = choose.choice(leads) if choose.random() < 0.5 else ()
        if not name.startswith("initial"):
            time = choose.choice([(1,), (T,)])
            own = () if own == () and choose.random() < 0.4 else (*own, *time)
        if name in COVARIANCES:
            if name == "transition_covariance" and singular and choose.random() < 0.4:
                root = (2 * randn(*own, event[0], choose.randrange(event[0]))).round() / 4  # exact in float32
                return root @ root.mT
            root = randn(*own, *event)
            return root @ root.mT / event[0] + 0.2 * torch.eye(event[0], dtype=torch.float64)
        value = randn(*own, *event)
        if name != "transition_matrix":
            return value
        # the oracle, not what it judges, loses digits if states grow for long
        return value * 0.8 / (math.sqrt(event[0]) if T < 10 else torch.linalg.matrix_norm(value, 2, keepdim=True))

    optional = [name for name in list(FIELDS)[6:] if choose.random() < 0.5]
    parameters = Parameters(**{name: draw(name) for name in [*list(FIELDS)[:6], *optional]})
    controlled = parameters.transition_input is not None or parameters.emission_input is not None
    u = randn(*choose.choice([(), lead]), T, sizes["k"]) if controlled else None
    own = lead if choose.random() < 0.8 else ()  # the same data under many parameters
    x = 2 * randn(*own, T, sizes["m"])
    mask = draw_mask(kind, x, choose, generator)
    if mask is not None:
        x = x.masked_fill(~full_mask(mask, x), math.nan)
    return Problem(parameters, x, u, mask)


def draw_mask(kind: str, x: Tensor, choose: random.Random, generator: torch.Generator) -> Tensor | None:
    def keep(*shape):
        return torch.rand(*shape, generator=generator) < choose.choice([0.3, 0.7])

    *lead, T, m = x.shape
    if kind == "frames":
        return keep(*lead, T)
    if kind == "coordinates":
        return keep(*x.shape)
    if kind == "common":  # to all sequences
        return choose.choice([keep(T).expand(*lead, T), keep(T, m).expand(x.shape)])
    if kind == "padding":
        lengths = torch.randint(0, T + 1, (*lead, 1), generator=generator)
        lengths[(0,) * lengths.ndim] = 0  # one sequence has no data at all
        return torch.arange(T) < lengths
    return None


def full_mask(mask: Tensor, x: Tensor) -> Tensor:
    return (mask if mask.ndim == x.ndim else mask.unsqueeze(-1)).expand(x.shape)


def error(actual: Tensor, expected: Tensor) -> float:
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    if expected.numel() == 0:
        return 0.0
    worst = (actual - expected).abs().max() / expected.abs().max().clamp(min=FLOOR)
    return worst.item() if worst == worst else math.inf


def assert_same(
    actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = TOLERANCE, seed: object = None
) -> None:
    """The message holds every entry that differs, with its error."""
    errors = {name: error(actual[name], value) for name, value in expected.items()}
    wrong = {name: value for name, value in errors.items() if not value <= tolerance}
    assert not wrong, f"seed {seed}: {wrong}"


def functional(results: list[Tensor]) -> Tensor:
    """A random linear functional of all of them, the same for the same shapes."""
    generator = torch.Generator().manual_seed(0)
    draws = [torch.randn(value.shape, generator=generator).double() for value in results]  # exact in float32
    return sum((value * draw).sum() for value, draw in zip(results, draws, strict=True))


def gradient(results: list[Tensor], leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of a functional of them, by name; by a covariance the symmetric part, all that a symmetric change of it sees."""
    options = {"allow_unused": True, "materialize_grads": True}
    found = torch.autograd.grad(functional(results), list(leaves.values()), **options)
    return {f"by {name}": (g + g.mT) / 2 if name in COVARIANCES else g for name, g in zip(leaves, found, strict=True)}


GROUPS = [(batch, kind) for batch in BATCHES for kind in MASKS]
# half of them, with each layout of batch axes and each kind of mask
groups = pytest.mark.parametrize(("batch", "kind"), thorough_but(GROUPS[::2], GROUPS))

FILTERED = ("marginal_loglik", "loglik_per_step", "predicted_means", "predicted_covariances")
FILTERED = (*FILTERED, "filtered_means", "filtered_covariances")
SMOOTHED = ("marginal_loglik", "filtered_means", "filtered_covariances")
SMOOTHED = (*SMOOTHED, "smoothed_means", "smoothed_covariances", "smoothed_cross_covariances")
FORECAST = ("predicted_means", "predicted_covariances", "observation_means", "observation_covariances")


# What is compared: functions of a module (kalman or its oracle) and a problem, to tensors by name.


def marginal_loglik(module, given: Problem) -> dict[str, Tensor]:
    leaves, given = given.leaves()
    value = module.marginal_loglik(given.parameters, *given.inputs)
    return {"marginal_loglik": value.detach(), **gradient([value], leaves)}


def filter(module, given: Problem) -> dict[str, Tensor]:
    return moments(module.filter, FILTERED, given)


def smoother(module, given: Problem) -> dict[str, Tensor]:
    return moments(module.smoother, SMOOTHED, given)


def forecast(module, given: Problem) -> dict[str, Tensor]:
    k = 3
    T = given.x.shape[-2] - k
    known = given._replace(x=given.x[..., :T, :])
    if given.mask is not None:
        known = known._replace(mask=given.mask.narrow(given.x.ndim - 2, 0, T))
    return moments(lambda p, x, u, mask: module.forecast(p, x, k, u, mask), FORECAST, known)


def moments(function, names, given: Problem) -> dict[str, Tensor]:
    """The results, with derivatives and without (by other code), and the gradient of a functional of them."""
    alone = function(given.parameters, *given.inputs)
    leaves, given = given.leaves()
    found = function(given.parameters, *given.inputs)
    results = {name: getattr(found, name) for name in names}
    values = {name: value.detach() for name, value in results.items()}
    values |= {f"{name} alone": getattr(alone, name) for name in names}
    return {**values, **gradient(list(results.values()), leaves)}


def log_joint(module, given: Problem) -> dict[str, Tensor]:
    leaves, given = given.leaves()
    fields = [(getattr(given.parameters, name), name) for name in FIELDS]
    leads = [v.shape[: max(0, v.ndim - len(FIELDS[f]) - ("initial" not in f))] for v, f in fields if v is not None]
    leads += [v.shape[:-2] for v in (given.x, given.u) if v is not None]
    shape = (*torch.broadcast_shapes(*leads), given.x.shape[-2], given.parameters.state_dim)
    z = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(given.x).requires_grad_()
    value = module.log_joint(given.parameters, z, *given.inputs)
    return {"log_joint": value.detach(), **gradient([value], leaves | {"z": z})}


@cache
def expected(function, batch: str, kind: str, seed: int, options: tuple = ()) -> dict[str, Tensor]:
    """By the oracle, once for all engines."""
    return function(dense, problem(batch, kind, seed, **dict(options)))


def compare(function, batch: str, kind: str, seed: int, **options) -> None:
    actual = function(kalman, problem(batch, kind, seed, **options))
    assert_same(actual, expected(function, batch, kind, seed, tuple(options.items())), seed=seed)


def test_results_have_the_names_of_dynamax_and_statsmodels():
    given = problem("sequences", "frames", 0, T=4)
    assert kalman.filter(given.parameters, *given.inputs)._fields == FILTERED
    assert kalman.smoother(given.parameters, *given.inputs)._fields == SMOOTHED
    given = problem("sequences", "full", 0, T=5)
    assert kalman.forecast(given.parameters, given.x[..., :3, :], 2, given.u)._fields == FORECAST


# --- against the dense joint Gaussian --------------------------------------------------------------------------------


@groups
def test_marginal_loglik_and_its_gradient(batch, kind):
    """By every field, x and u; exactly zero where x is missing."""
    for seed in SEEDS:
        compare(marginal_loglik, batch, kind, seed)
        given = problem(batch, kind, seed)
        if given.mask is not None:
            assert not marginal_loglik(kalman, given)["by x"][~full_mask(given.mask, given.x)].any()


@groups
def test_filter_and_its_gradient(batch, kind):
    for seed in SEEDS:
        compare(filter, batch, kind, seed)


@groups
def test_smoother_and_its_gradient(batch, kind):
    for seed in SEEDS:
        compare(smoother, batch, kind, seed)


@groups
def test_forecast_and_its_gradient(batch, kind):
    for seed in SEEDS:
        compare(forecast, batch, kind, seed, T=4 + seed % 5)


@groups
def test_log_joint_and_its_gradient(batch, kind):
    for seed in SEEDS:
        compare(log_joint, batch, kind, seed, singular=False)


@pytest.mark.parametrize("kind", ["full", "coordinates"])
@pytest.mark.parametrize("T", thorough_but([33], [16, 33]))
def test_longer_sequences(T, kind):
    """Long enough for whatever is done over blocks of time, or once covariances have settled."""
    for batch in BATCHES:
        for function in (marginal_loglik, filter, smoother):
            compare(function, batch, kind, T, T=T)


@pytest.mark.parametrize("rank", thorough_but([1], [0, 1]))
@pytest.mark.parametrize("field", COVARIANCES)
def test_singular_covariances(field, rank):
    """A known start, a noiseless transition and noiseless observations have densities, moments and gradients."""
    tried = 0
    for seed in range(12):
        given = problem("sequences", "full", seed, singular=False, T=4)
        m, n = given.parameters.emission_matrix.shape[-2:]
        size = m if field == "emission_covariance" else n
        if rank < size and (field != "emission_covariance" or m <= n):  # else x would be degenerate
            root = torch.randn(size, rank, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
            given = given._replace(parameters=given.parameters._replace(**{field: root @ root.mT}))
            for function in (marginal_loglik, filter, smoother):
                assert_same(function(kalman, given), function(dense, given), seed=(seed, function.__name__))
            tried += 1
    assert tried >= 4


def test_sequences_with_few_patterns_share_their_covariances():
    """Three lengths of padding, and a gap: the same as each sequence by itself; errors count as the caller does."""
    shared = good_shared()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(16, 7, shared.data_dim, generator=generator, dtype=torch.float64)
    mask = torch.arange(7) < torch.tensor([3, 5, 7])[torch.randint(3, (16,), generator=generator)].unsqueeze(-1)
    mask[:, 1] = False
    x = x.masked_fill(~mask.unsqueeze(-1), math.nan)
    for function in (kalman.smoother, kalman.filter):
        together = function(shared, x, None, mask)
        for i in range(16):
            alone = function(shared, x[i], None, mask[i])
            for a, b in zip(together, alone, strict=True):
                assert error(a[i], b) < TOLERANCE
    x[11, 0] = math.inf
    with pytest.raises(ValueError, match="sequence 11, frame 0"):
        kalman.marginal_loglik(shared, x, None, mask)


def test_contents_under_the_mask_do_not_matter():
    for kind in MASKS[1:]:
        given = problem("sequences", kind, 1, T=5)
        missing = ~full_mask(given.mask, given.x)
        assert missing.any()
        for function in (marginal_loglik, filter, smoother):
            values = []
            for fill in (math.nan, math.inf, 1e6):
                values.append(function(kalman, given._replace(x=given.x.masked_fill(missing, fill))))
            for name, value in values[0].items():
                assert torch.isfinite(value).all(), name
                assert torch.equal(value, values[1][name]), name
                assert torch.equal(value, values[2][name]), name


def test_a_mask_that_hides_nothing_changes_nothing():
    given = problem("sequences", "full", 3)
    for shape in (given.x.shape[:-1], given.x.shape):
        masked = given._replace(mask=torch.ones(shape, dtype=torch.bool))
        for function in (marginal_loglik, filter, smoother):
            assert_same(function(kalman, masked), function(kalman, given), 1e-13)


def test_no_data_is_no_information():
    p = problem("sequences", "full", 0, T=6)
    x = torch.full_like(p.x, math.nan)[..., :4, :]
    g = dense.joint(p.parameters, 6, p.u)
    found = kalman.forecast(p.parameters, x, 2, p.u, torch.zeros_like(x, dtype=torch.bool))
    means = torch.stack([g.mean[..., g.states(t)] for t in (4, 5)], -2).expand_as(found.predicted_means)
    assert error(found.predicted_means, means) < TOLERANCE
    x, mask = torch.full_like(p.x, math.nan), torch.zeros(p.x.shape[:-1], dtype=torch.bool)
    assert not kalman.marginal_loglik(p.parameters, x, p.u, mask).any()


def test_a_second_derivative_raises():
    leaves, given = problem("sequences", "coordinates", 0).leaves()
    value = kalman.marginal_loglik(given.parameters, *given.inputs).sum()
    with pytest.raises(RuntimeError, match=r"(?i)second derivative|differentiate twice"):
        torch.autograd.grad(
            torch.autograd.grad(value, leaves["initial_mean"], create_graph=True)[0].square().sum(), leaves["x"]
        )


def test_sum_of_components():
    """States side by side, observations added: the density of x is that of a sum of independent Gaussians."""
    for seed in range(20):
        given, other = (problem("sequences", "full", seed + s, T=5) for s in (0, 1000))
        m = min(given.x.shape[-1], other.x.shape[-1])  # the same observed coordinates and the same u for both
        u = torch.randn(5, 2, dtype=torch.float64)

        def cut(p, m=m):
            short = {name: getattr(p, name) for name in FIELDS if getattr(p, name) is not None}
            for name, sizes in FIELDS.items():
                if name in short and sizes[0] == "m":
                    short[name] = short[name][..., :m, :m] if sizes == "mm" else short[name].narrow(-len(sizes), 0, m)
                if name in short and sizes[-1] == "k":
                    short[name] = torch.cat([short[name]] * 2, -1)[..., :2]
            return Parameters(**short)

        first, second = cut(given.parameters), cut(other.parameters)
        total = first + second
        assert total.state_dim == first.state_dim + second.state_dim
        assert total.data_dim == m
        assert total.control_dim == max(first.control_dim, second.control_dim)
        x = torch.randn(3, 5, m, dtype=torch.float64)
        a, b = dense.joint(first, 5, u), dense.joint(second, 5, u)
        mean = a.mean[..., 5 * a.n :] + b.mean[..., 5 * b.n :]
        covariance = a.covariance[..., 5 * a.n :, 5 * a.n :] + b.covariance[..., 5 * b.n :, 5 * b.n :]
        expected = torch.distributions.MultivariateNormal(mean, covariance).log_prob(x.flatten(-2))
        actual = kalman.marginal_loglik(total, x, u if total.control_dim else None)
        assert error(actual, expected) < TOLERANCE, seed


def test_sizes():
    p = problem("alone", "full", 0).parameters
    assert (p.state_dim, p.data_dim) == p.emission_matrix.shape[:-3:-1]
    assert p._replace(transition_input=None, emission_input=None).control_dim == 0
    assert p._replace(transition_input=torch.ones(p.state_dim, 5), emission_input=None).control_dim == 5
    assert p._replace(transition_input=None, emission_input=torch.ones(p.data_dim, 5)).control_dim == 5


# --- precision of the input ------------------------------------------------------------------------------------------


def single(given: Problem, dtype: torch.dtype) -> Problem:
    """The problem rounded to float32, in `dtype`."""
    parameters = [value if value is None else value.float().to(dtype) for value in given.parameters]
    u = None if given.u is None else given.u.float().to(dtype)
    return Problem(Parameters(*parameters), given.x.float().to(dtype), u, given.mask)


@pytest.mark.parametrize(
    "batch", [pytest.param(b, marks=[pytest.mark.thorough] * (b in ("alone", "outer"))) for b in BATCHES]
)
def test_float32_is_float64_rounded(batch):
    """Large numbers do not hurt: not even D u + d is rounded to float32 before it is subtracted from x.

    In gradients terms cancel that were passed on in float32.
    """
    eps = torch.finfo(torch.float32).eps
    for seed in range(10):
        for function in (marginal_loglik, filter, smoother, forecast, log_joint):
            given = problem(batch, "coordinates", seed, T=5, singular=function is not log_joint)
            if given.parameters.emission_bias is not None:
                bias = given.parameters.emission_bias + 1e4
                given = given._replace(parameters=given.parameters._replace(emission_bias=bias), x=given.x + 1e4)
            short, long = (function(kalman, single(given, dtype)) for dtype in (torch.float32, torch.float64))
            assert {value.dtype for value in short.values()} == {torch.float32}
            short = {name: value.double() for name, value in short.items()}
            values = {name: value for name, value in long.items() if not name.startswith("by ")}
            assert_same(short, values, 4 * eps, seed=(seed, function.__name__))
            assert_same(short, long, 100 * eps, seed=(seed, function.__name__))


def test_a_singular_covariance_may_be_rounded():
    """To float32, where it is slightly indefinite."""
    root = torch.randn(20, 4, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    noise = root @ root.mT
    assert (torch.linalg.eigvalsh(noise.float().double()) < -1e-9).any()
    p = Parameters(ones(4), torch.eye(4).double(), 0.5 * ones(4, 4), noise, ones(2, 4), torch.eye(2).double())
    for name in COVARIANCES[:2]:
        value = {"transition_covariance": noise, "initial_covariance": noise[0]}[name]
        given = Problem(p._replace(**{name: value}), ones(20, 2), None, None)
        for function in (marginal_loglik, smoother):
            found = function(kalman, single(given, torch.float32))
            assert_same({k: v.double() for k, v in found.items()}, function(kalman, given), 1e-4, seed=name)


def test_draws_are_of_the_dtype_of_the_input():
    given = single(problem("sequences", "frames", 2), torch.float32)
    drawn = kalman.sample(given.parameters, given.x.shape[-2], given.u)
    z = kalman.sample_posterior(given.parameters, *given.inputs)
    assert {value.dtype for value in (*drawn, z)} == {torch.float32}


# --- samples ---------------------------------------------------------------------------------------------------------


def failure(draws: Tensor, mean: Tensor, covariance: Tensor) -> float:
    """Bonferroni's bound on the probability of draws `(S, d)` as odd as these, were they N(mean, covariance).

    Whitened draws have means of N(0, 1/S), and by Bartlett's theorem the Cholesky factor of their scatter has
    independent entries: N(0, 1) below the diagonal, the root of chi-squared with S - i degrees on it. All exact.
    """
    S, d = draws.shape
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), (draws - mean).mT, upper=False)
    factor = torch.linalg.cholesky(white @ white.mT)
    normal = torch.cat([white.mean(-1) * math.sqrt(S), factor[torch.tril_indices(d, d, -1).unbind()]])
    square, degrees = factor.diagonal().square(), S - np.arange(d)
    tails = [2 * scipy.stats.norm.sf(normal.abs())]
    tails += [2 * np.minimum(scipy.stats.chi2.cdf(square, degrees), scipy.stats.chi2.sf(square, degrees))]
    tails = np.concatenate(tails)
    return tails.min() * len(tails)


@groups
def test_posterior_draws_have_the_moments_of_the_posterior(batch, kind):
    """All sequences in one vector: draws of different sequences are independent, too."""
    given = problem(batch, kind, 5, T=4, singular=False)
    expected = dense.smoother(given.parameters, *given.inputs)
    torch.manual_seed(0)
    draws = kalman.sample_posterior(given.parameters, *given.inputs, sample_shape=(40, 50))
    assert draws.shape == (40, 50, *expected.smoothed_means.shape)
    size = draws.shape[-1] * draws.shape[-2]
    covariance = torch.block_diag(*expected.joint_covariance.reshape(-1, size, size))
    assert failure(draws.reshape(2000, -1), expected.smoothed_means.flatten(), covariance) > RATE


@pytest.mark.parametrize("batch", BATCHES)
def test_draws_of_the_model_have_its_moments(batch):
    for seed in (0, 1):
        given = problem(batch, "full", seed, T=3, singular=False)
        g = dense.joint(given.parameters, 3, given.u)
        torch.manual_seed(seed)
        z, x = kalman.sample(given.parameters, 3, given.u, sample_shape=(40, 50))
        assert z.shape == (40, 50, *g.mean.shape[:-1], 3, g.n)
        assert x.shape == (40, 50, *g.mean.shape[:-1], 3, g.m)
        draws = torch.cat([z.flatten(-2), x.flatten(-2)], -1).reshape(2000, -1)
        covariance = torch.block_diag(*g.covariance.reshape(-1, *g.covariance.shape[-2:]))
        assert failure(draws, g.mean.flatten(), covariance) > RATE


def test_a_draw_that_is_off_would_be_noticed():
    draws = torch.randn(2000, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert failure(draws, torch.zeros(12), torch.eye(12, dtype=torch.float64)) > RATE
    assert failure(draws + 0.2, torch.zeros(12), torch.eye(12, dtype=torch.float64)) < RATE
    assert failure(draws * 1.15, torch.zeros(12), torch.eye(12, dtype=torch.float64)) < RATE
    assert failure(draws + 0.2 * draws.roll(1, -1), torch.zeros(12), torch.eye(12, dtype=torch.float64)) < RATE


@groups
def test_a_posterior_draw_is_affine_in_x_with_the_smoothers_gain(batch, kind):
    given = problem(batch, kind, 7, T=4)
    fixed = given.parameters, given.u, given.mask

    def draw(x):
        torch.manual_seed(1)
        return kalman.sample_posterior(fixed[0], x, *fixed[1:], sample_shape=(2,))

    gain = torch.autograd.functional.jacobian(lambda x: dense.smoother(fixed[0], x, *fixed[1:]).smoothed_means, given.x)
    jacobian = torch.autograd.functional.jacobian(draw, given.x)
    assert error(jacobian, gain.expand_as(jacobian)) < TOLERANCE
    step = torch.randn(given.x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    moved = draw(given.x + step) - draw(given.x)
    if given.mask is not None:
        step = step * full_mask(given.mask, given.x)
    assert error(moved, (gain.flatten(-given.x.ndim) @ step.flatten()).expand_as(moved)) < TOLERANCE


def test_a_draw_of_the_model_is_affine_in_mean_biases_and_controls():
    """The same noise under the same seed; what is added to the mean of the joint is added to the draw."""
    for seed in range(20):
        leaves, given = problem("sequences", "full", seed, T=4, singular=False).leaves()
        names = [name for name in ("initial_mean", "transition_bias", "emission_bias", "u") if name in leaves]

        def draw(*values, given=given, names=names):
            new = dict(zip(names, values, strict=True))
            u = new.pop("u", given.u)
            torch.manual_seed(3)
            z, x = kalman.sample(given.parameters._replace(**new), 4, u)
            return torch.cat([z.flatten(-2), x.flatten(-2)], -1)

        def mean(*values, given=given, names=names):
            new = dict(zip(names, values, strict=True))
            u = new.pop("u", given.u)
            return dense.joint(given.parameters._replace(**new), 4, u).mean

        values = tuple(leaves[name].detach() for name in names)
        jacobians = [torch.autograd.functional.jacobian(f, values) for f in (draw, mean)]
        for name, actual, expected in zip(names, *jacobians, strict=True):
            assert error(actual, expected) < TOLERANCE, (seed, name)


def test_gradient_of_posterior_draws_by_the_parameters():
    """d/dh E f(z) along a random direction of all parameters, as a mean over draws, against the dense one."""
    given = problem("sequences", "coordinates", 4, T=4, singular=False)
    size = 4 * given.parameters.emission_matrix.shape[-1]
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(size, size, dtype=torch.float64, generator=generator)
    directions = []
    for name, value in given.parameters._asdict().items():
        direction = value if value is None else torch.randn(value.shape, dtype=torch.float64, generator=generator)
        directions.append(direction + direction.mT if name in COVARIANCES else direction)

    def moved(h):
        pairs = zip(given.parameters, directions, strict=True)
        return Parameters(*[value if value is None else value + h * way for value, way in pairs])

    h = torch.zeros((), dtype=torch.float64, requires_grad=True)
    expected = dense.smoother(moved(h), *given.inputs)
    mean = expected.smoothed_means.flatten(-2)
    second = expected.joint_covariance + mean.unsqueeze(-1) * mean.unsqueeze(-2)
    expected = torch.autograd.grad((second * weight).sum(), h)[0]
    torch.manual_seed(0)
    found = []
    for _ in range(50):
        z = kalman.sample_posterior(moved(h), *given.inputs, sample_shape=(50,)).flatten(-2)
        found.append(torch.autograd.grad(((z @ weight) * z).sum() / 50, h)[0])
    assert scipy.stats.ttest_1samp(torch.stack(found), expected).pvalue > RATE


# --- second opinions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", ["alone", "sequences", "outer"])
def test_marginal_loglik_is_that_of_pyros_gaussian_hmm(batch):
    """It makes a transition before the first observation, z_0 -> z_1: half of P_1 in z_0, half in a first transition
    with A = I. Row vectors: its matrices are transposed."""
    for seed in range(10):
        given = problem(batch, "full", seed, singular=False)
        p, T = given.parameters, given.x.shape[-2]
        lead = torch.broadcast_shapes(dense.joint(p, T, given.u).mean.shape[:-1], given.x.shape[:-2])

        def per_step(name, event, p=p, lead=lead, T=T):
            value = dense.over_time(getattr(p, name), T, event)
            return value.expand(*lead, *value.shape[-event - 1 :]).clone()

        def drive(matrix, bias, size, p=p, lead=lead, T=T, u=given.u):
            value = torch.zeros(*lead, T, size, dtype=torch.float64)
            if getattr(p, matrix) is not None:
                value = value + (per_step(matrix, 2, p, lead, T) @ u.unsqueeze(-1)).squeeze(-1)
            return value if getattr(p, bias) is None else value + per_step(bias, 1, p, lead, T)

        n, m = p.emission_matrix.shape[-1], p.emission_matrix.shape[-2]
        transition, noise = per_step("transition_matrix", 2), per_step("transition_covariance", 2)
        offset = drive("transition_input", "transition_bias", n)
        start = p.initial_covariance / 2
        transition[..., 0, :, :], noise[..., 0, :, :], offset[..., 0, :] = torch.eye(n, dtype=torch.float64), start, 0.0
        hmm = dist.GaussianHMM(
            dist.MultivariateNormal(p.initial_mean.expand(*lead, n), start.expand(*lead, n, n)),
            transition.mT,
            dist.MultivariateNormal(offset, noise),
            per_step("emission_matrix", 2).mT,
            dist.MultivariateNormal(drive("emission_input", "emission_bias", m), per_step("emission_covariance", 2)),
        )
        x = given.x.expand(*lead, T, m)
        assert error(kalman.marginal_loglik(p, x, given.u), hmm.log_prob(x)) < 1e-8, seed  # its own error is 1e-9


@pytest.mark.parametrize("kind", ["full", "frames", "coordinates"])
def test_statsmodels_agrees_with_partly_missing_rows(kind):
    """alpha_{t+1} = T_t alpha_t + c_t + N(0, Q_t), y_t = Z_t alpha_t + d_t + N(0, H_t): entry t of transition and
    state_cov leads OUT of z_t, ours leads into it. Missing entries are NaN. Time is the last axis."""
    for seed in range(10):
        given = problem("alone", kind, seed)
        p, (T, m), n = given.parameters, given.x.shape, given.parameters.emission_matrix.shape[-1]

        def drive(matrix, bias, size, T=T, u=given.u):
            value = torch.zeros(T, size, dtype=torch.float64)
            if matrix is not None:
                value = value + (dense.over_time(matrix, T, 2) @ u.unsqueeze(-1)).squeeze(-1)
            return value if bias is None else value + dense.over_time(bias, T, 1)

        def out_of(values):  # entry t of ours, t = 2..T, is its entry t - 1; its last one leads out of the data
            return values.roll(-1, 0).movedim(0, -1).numpy()

        model = KalmanSmoother(m, n)
        model.bind(given.x.numpy().copy())
        model.initialize_known(p.initial_mean.numpy(), p.initial_covariance.numpy())
        model["transition"] = out_of(dense.over_time(p.transition_matrix, T, 2))
        model["state_cov"] = out_of(dense.over_time(p.transition_covariance, T, 2))
        model["state_intercept"] = out_of(drive(p.transition_input, p.transition_bias, n))
        model["selection"] = np.eye(n)
        model["design"] = dense.over_time(p.emission_matrix, T, 2).movedim(0, -1).numpy()
        model["obs_cov"] = dense.over_time(p.emission_covariance, T, 2).movedim(0, -1).numpy()
        model["obs_intercept"] = drive(p.emission_input, p.emission_bias, m).movedim(0, -1).numpy()
        theirs = model.smooth()
        ours = kalman.smoother(p, *given.inputs)
        steps = kalman.filter(p, *given.inputs)
        pairs = {
            "loglik": (ours.marginal_loglik, torch.as_tensor(theirs.llf)),
            "loglik_per_step": (steps.loglik_per_step, torch.as_tensor(theirs.llf_obs)),
            "predicted_means": (steps.predicted_means, torch.as_tensor(theirs.predicted_state.T[:T])),
            "filtered_means": (ours.filtered_means, torch.as_tensor(theirs.filtered_state.T)),
            "smoothed_means": (ours.smoothed_means, torch.as_tensor(theirs.smoothed_state.T)),
        }
        for name, array in {
            "filtered_covariances": theirs.filtered_state_cov,
            "smoothed_covariances": theirs.smoothed_state_cov,
        }.items():
            pairs[name] = getattr(ours, name), torch.as_tensor(array).movedim(-1, 0)
        for name, (mine, other) in pairs.items():
            assert error(mine, other.double()) < 1e-8, (seed, name)


# --- bad input -------------------------------------------------------------------------------------------------------


def good() -> Problem:
    """n = 3, m = 2, k = 1, T = 5, N = 4, time-varying, everything there."""
    generator = torch.Generator().manual_seed(0)

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def eye(*shape):
        return torch.eye(shape[-1], dtype=torch.float64).repeat(*shape[:-1], 1, 1)

    parameters = Parameters(
        initial_mean=randn(3),
        initial_covariance=eye(3),
        transition_matrix=randn(5, 3, 3),
        transition_covariance=eye(5, 3),
        emission_matrix=randn(2, 3),
        emission_covariance=eye(5, 2),
        transition_input=randn(3, 1),
        transition_bias=randn(3),
        emission_input=randn(2, 1),
        emission_bias=randn(2),
    )
    return Problem(parameters, randn(4, 5, 2), randn(5, 1), torch.ones(4, 5, 2, dtype=torch.bool))


def changed(value: Tensor, where, entry: float) -> Tensor:
    value = value.clone()
    value[where] = entry
    return value


def with_field(**new):
    return lambda g: g._replace(parameters=g.parameters._replace(**new))


def with_entry(field, where, entry):
    return lambda g: with_field(**{field: changed(getattr(g.parameters, field), where, entry)})(g)


ones, eye = (lambda *shape: torch.ones(*shape, dtype=torch.float64)), torch.eye(3, dtype=torch.float64)

#: case -> (what is done to a good problem, words that the message must hold)
BAD = {
    "batch axes of two fields": (
        with_field(initial_mean=ones(4, 3), transition_matrix=ones(3, 1, 3, 3)),
        ["initial_mean", "transition_matrix"],
    ),
    "batch axes of a field and x": (with_field(transition_matrix=ones(3, 1, 3, 3)), ["transition_matrix", "x"]),
    "batch axes of u and x": (lambda g: g._replace(u=ones(3, 5, 1)), ["u", "x"]),
    "batch axes of mask and x": (lambda g: g._replace(mask=ones(3, 5, 2).bool()), ["mask", "x"]),
    "time of a field and x": (with_field(emission_matrix=ones(6, 2, 3)), ["emission_matrix", "x", "6", "5"]),
    "time of u and x": (lambda g: g._replace(u=ones(4, 1)), ["u", "x", "4", "5"]),
    "states": (with_field(initial_mean=ones(2)), ["initial_mean", "emission_matrix|transition_matrix"]),
    "states of A": (with_field(transition_matrix=ones(2, 2)), ["transition_matrix"]),
    "states of P_1": (with_field(initial_covariance=ones(2, 2)), ["initial_covariance"]),
    "coordinates": (lambda g: g._replace(x=ones(4, 5, 3), mask=None), ["x", "2", "3"]),
    "controls": (with_field(emission_input=ones(2, 2)), ["emission_input", "transition_input|u"]),
    "a vector that is a number": (with_field(initial_mean=ones(())), ["initial_mean"]),
    "x without time": (lambda g: g._replace(x=ones(2), mask=None), ["x"]),
    "P_1 indefinite": (with_entry("initial_covariance", (1, 1), -1.0), ["initial_covariance", "semi-?definite"]),
    "Q indefinite": (with_entry("transition_covariance", (2, 0, 0), -1.0), ["transition_covariance", "definite", "2"]),
    "R indefinite": (with_entry("emission_covariance", (3, 1, 1), -0.1), ["emission_covariance", "definite", "3"]),
    "P_1 asymmetric": (with_entry("initial_covariance", (0, 1), 0.1), ["initial_covariance", "symmetric"]),
    "Q asymmetric": (with_entry("transition_covariance", (2, 0, 1), 0.1), ["transition_covariance", "symmetric"]),
    "R asymmetric": (with_entry("emission_covariance", (3, 1, 0), 0.1), ["emission_covariance", "symmetric"]),
    "NaN in a field": (with_entry("transition_matrix", (2, 1, 1), math.nan), ["transition_matrix"]),
    "infinity in a covariance": (with_entry("transition_covariance", (2, 1, 1), math.inf), ["transition_covariance"]),
    "NaN in x": (lambda g: g._replace(x=changed(g.x, (2, 3, 1), math.nan)), ["x", "sequence.*2", "frame.*3"]),
    "NaN without a mask": (
        lambda g: g._replace(x=changed(g.x, (2, 3, 1), math.nan), mask=None),
        ["x", "sequence.*2", "frame.*3", "mask"],
    ),
    "NaN in u": (lambda g: g._replace(u=changed(g.u, (1, 0), math.nan)), ["u"]),
    "a mask of numbers": (lambda g: g._replace(mask=g.mask.double()), ["mask", "bool"]),
    "a mask of another length": (lambda g: g._replace(mask=ones(4, 6).bool()), ["mask"]),
    "a mask without elements": (lambda g: g._replace(mask=ones(0, 5).bool()), ["mask"]),
    "no frames": (lambda g: Problem(good_shared(), ones(4, 0, 2), None, None), ["x", "frame|T|time"]),
    "no u": (lambda g: g._replace(u=None), ["u", "transition_input|emission_input"]),
    "u and nothing that takes it": (
        with_field(transition_input=None, emission_input=None), ["u", "transition_input|emission_input"]
    ),
    "dtypes": (with_field(initial_mean=torch.ones(3)), ["initial_mean", "float32", "float64"]),
    "dtype of x": (lambda g: g._replace(x=g.x.float()), ["x", "float32", "float64"]),
    "dtype of u": (lambda g: g._replace(u=g.u.float()), ["u", "float32", "float64"]),
    "whole numbers": (lambda g: g._replace(x=g.x.long()), ["x", "int64"]),
    "devices": (with_field(initial_mean=torch.ones(3, dtype=torch.float64, device="meta")), ["initial_mean", "meta"]),
    "device of x": (lambda g: g._replace(x=g.x.to("meta")), ["x", "meta"]),
    "device of mask": (lambda g: g._replace(mask=g.mask.to("meta")), ["mask", "meta"]),
}  # fmt: skip


def good_shared() -> Parameters:
    return Parameters(ones(3), eye, eye, eye, ones(2, 3), eye[:2, :2])


def assert_complains(call, words):
    with pytest.raises(ValueError) as caught:  # noqa: PT011  (the message is checked below)
        call()
    for word in words:
        caught.match(rf"(?<![A-Za-z_])(?:{word})(?![A-Za-z_])")


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    spoil, words = BAD[case]
    kalman.smoother(good().parameters, *good().inputs)
    given = spoil(good())
    for function in (kalman.marginal_loglik, kalman.filter, kalman.smoother, kalman.sample_posterior):
        assert_complains(lambda f=function: f(given.parameters, *given.inputs), words)


def test_bad_types():
    given = good()
    for spoilt, words in (
        (given._replace(x=[1.0]), "x: expected a torch.Tensor, got list"),
        (given._replace(u=[1.0]), "u: expected a torch.Tensor, got list"),
        (with_field(transition_matrix=1.0)(given), "transition_matrix: expected a torch.Tensor, got float"),
        (with_field(transition_input=1.0)(given), "transition_input: expected a torch.Tensor, got float"),
    ):
        with pytest.raises(TypeError, match=words):
            kalman.marginal_loglik(spoilt.parameters, *spoilt.inputs)
    with pytest.raises(ValueError, match=r"emission_matrix: expected a tensor \(..., m, n\), got float"):
        kalman.marginal_loglik(given.parameters._replace(emission_matrix=1.0), given.x, given.u)
    whole = Parameters(*(None if value is None else value.long() for value in good_shared()))
    with pytest.raises(ValueError, match=r"x: expected a floating-point tensor, got torch.int64"):
        kalman.marginal_loglik(whole, ones(4, 5, 2).long())
    with pytest.raises(ValueError, match=r"x: expected at least one sequence, got batch axes \(0,\)"):
        kalman.marginal_loglik(good_shared(), ones(0, 5, 2))
    with pytest.raises(ValueError, match=r"u: expected shape \(..., T, 1\), got \(5, 2\)"):
        kalman.marginal_loglik(given.parameters, given.x, ones(5, 2))


def scalar(**fields: Tensor) -> Parameters:
    """A random walk seen through noise, with fields in place of its own."""
    one = torch.eye(1, dtype=torch.float64)
    return Parameters(torch.zeros(1, dtype=torch.float64), one, one, one, one, one)._replace(**fields)


LATE = {  # leading axes of x, of what is wrong, where the latter is wrong, the sequence's words, mask as well
    "alone": ((), (), (), ""),
    "shared": ((3,), (), (), " of sequence 0"),
    "sequences": ((3,), (3,), (1,), " of sequence 1"),
    "particles, group in front": ((2, 3), (2, 1), (1, 0), r" of sequence \(1, 0\)"),
    "particles, group behind": ((2, 3), (3,), (2,), r" of sequence \(0, 2\)"),
    "particles, both": ((2, 3), (2, 3), (1, 1), r" of sequence \(1, 1\)"),
}
FUNCTIONS = [kalman.marginal_loglik, kalman.filter, kalman.smoother]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("layout", LATE)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_what_is_certain_given_the_past_is_refused(function, layout, masked):
    """Noise is missing from frame 4 of one group, whose level is known: C P C' + R = 0."""
    lead, axes, at, words = LATE[layout]
    zero, T = torch.zeros(1, 1, dtype=torch.float64), 6
    r = torch.ones(*axes, T, 1, 1, dtype=torch.float64)
    r[(*at, 4)] = 0.0
    p = scalar(initial_covariance=zero, transition_covariance=zero, emission_covariance=r)
    x, mask = torch.zeros(*lead, T, 1, dtype=torch.float64), None
    if masked:
        mask = torch.ones(*lead, T, dtype=torch.bool)
        mask[..., 2] = False
    with pytest.raises(ValueError, match=rf"^emission_covariance: frame 4{words} \(counted from 0\) of x is certain"):
        function(p, x, None, mask)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_overflow_is_refused_where_it_is(function, lead, masked):
    """One value whose square is none; with a mask that differs between sequences each of these is a group."""
    x, mask, at = torch.zeros(*lead, 6, 1, dtype=torch.float64), None, tuple(n - 1 for n in lead)
    x[(*at, 3)] = 1e200
    if masked:
        mask = torch.ones(*lead, 6, dtype=torch.bool)
        mask[(*at, 1)] = False
    words = f" of sequence {at[0] if len(at) == 1 else at}" if at else ""
    words = words.replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(ValueError, match=rf"^x: the log-likelihood of frame 3{words} \(counted from 0\) is not finite"):
        function(scalar(), x, None, mask)


def test_late_errors_count_sequences_as_the_caller_does():
    """Twelve sequences of two patterns are run one pattern after the other."""
    x = torch.zeros(12, 6, 1, dtype=torch.float64)
    mask = torch.ones(12, 6, dtype=torch.bool)
    mask[::2, 2] = False
    x[7, 3] = 1e200
    with pytest.raises(ValueError, match=r"frame 3 of sequence 7 \(counted from 0\) is not finite"):
        kalman.marginal_loglik(scalar(), x, None, mask)
    zero = torch.zeros(1, 1, dtype=torch.float64)
    certain = scalar(initial_covariance=zero, transition_covariance=zero, emission_covariance=zero)
    mask[::2, 0] = False
    with pytest.raises(ValueError, match=r"frame 0 of sequence 1 \(counted from 0\) of x is certain"):
        kalman.filter(certain, torch.zeros_like(x), None, mask)
    q = torch.ones(2, 3, 6, 1, 1, dtype=torch.float64)
    q[1, 2, 4] = -1
    with pytest.raises(ValueError, match=r"^transition_covariance: .* at t = 4 of sequence \(1, 2\) \(counted"):
        kalman.marginal_loglik(scalar(transition_covariance=q), x[:6].view(2, 3, 6, 1))


def test_bad_forecasts():
    given = good()
    for k in (0, -1):
        assert_complains(lambda k=k: kalman.forecast(good_shared(), given.x, k), ["k"])
    assert_complains(lambda: kalman.forecast(given.parameters, given.x, 2, ones(7, 1)), ["transition_matrix", "7"])
    shared = good_shared()._replace(transition_input=ones(3, 1))
    assert_complains(lambda: kalman.forecast(shared, given.x, 2, given.u), ["u", "5", "7"])
    assert_complains(lambda: kalman.forecast(shared, given.x, 2), ["u", "transition_input"])
    assert kalman.forecast(shared, given.x, 2, ones(7, 1)).predicted_means.shape == (4, 2, 3)


def test_bad_samples():
    assert_complains(lambda: kalman.sample(good_shared(), 0), ["T"])
    assert_complains(lambda: kalman.sample(good().parameters, 4, ones(4, 1)), ["transition_matrix"])
    assert_complains(lambda: kalman.sample(good().parameters, 5), ["u", "transition_input|emission_input"])
    assert_complains(lambda: kalman.sample(good().parameters, 5, ones(4, 1)), ["u"])


def test_bad_states():
    given = good()
    for z in (ones(4, 5, 2), ones(4, 6, 3), ones(3, 5, 3), ones(4, 5, 3).float()):
        assert_complains(lambda z=z: kalman.log_joint(given.parameters, z, *given.inputs), ["z"])


def test_bad_sums():
    other = good_shared()._replace(emission_matrix=ones(1, 3), emission_covariance=ones(1, 1))
    assert_complains(lambda: good_shared() + other, ["emission_matrix|data_dim"])


def test_signatures():
    """What others call, by position and by name."""
    for name, arguments in {
        "marginal_loglik": ["parameters", "x", "u", "mask"],
        "filter": ["parameters", "x", "u", "mask"],
        "smoother": ["parameters", "x", "u", "mask"],
        "sample_posterior": ["parameters", "x", "u", "mask", "sample_shape"],
        "forecast": ["parameters", "x", "k", "u", "mask"],
        "sample": ["parameters", "steps", "u", "sample_shape"],
        "log_joint": ["parameters", "z", "x", "u", "mask"],
    }.items():
        assert list(inspect.signature(getattr(kalman, name)).parameters) == arguments
