"""`LGSSM.maximum_likelihood`: at its maximum from wherever it starts, at bounds by what log p(x) says there."""

import copy
import warnings

import pytest
import torch
from pyro.distributions import constraints
from pyro.nn import PyroModule, PyroParam
from state_spaces import linear_gaussian
from statsmodels.tsa.api import UnobservedComponents
from tiers import thorough_but
from torch import nn

from zoo import LGSSM
from zoo.data import load
from zoo.parts.ascent import climb
from zoo.parts.kalman import Parameters
from zoo.parts.stationary import invertible, stationary
from zoo.parts.structural import arima, local_level, local_linear_trend, seasonal
from zoo.parts.surface import Surface

pytestmark = pytest.mark.usefixtures("double_precision")

ENGINES = ["compiled", "pytorch"]

# log p of the same maximum from two starts: gains of less than 1e-4 nats are not followed
SAME = 2e-4


def learned(value, constraint=constraints.positive):
    return PyroParam(torch.as_tensor(value, dtype=torch.get_default_dtype()).clone(), constraint)


def structural(level, trend, season, irregular):
    return local_linear_trend(level, trend, irregular) + seasonal(12)(season)


def passengers():
    return load("air_passengers").train.values.double()


def nile():
    """In units in which neither variance is near 1."""
    return load("nile").train.values.double() / 100


def diffuse(level, irregular):
    return local_level(level, irregular, initial_variance=1e8)


def slopes(model, x):
    """d log p / d value of each learned value, through no constraint's map."""
    values = {name: getattr(model, name).detach().requires_grad_() for name in model._names}
    found = torch.autograd.grad(model.log_prob(x, **values).sum(), list(values.values()))
    return {name: (values[name].detach(), slope) for name, slope in zip(values, found, strict=True)}


def assert_maximum_on_the_half_line(model, x, nats=1e-3):
    """Karush, Kuhn and Tucker, in nats: value times slope vanishes, and no slope inwards earns anything.

    A slope earns at most what it does over the width at which the curvature, by differences, uses it up.
    """
    for name, (value, slope) in slopes(model, x).items():
        assert abs(value * slope) < nats, name
        gains = [model.log_prob(x, **{name: value + 10.0**k}).sum() - model.log_prob(x).sum() for k in range(-14, 9)]
        assert max(gains) < nats, name


# --- variances, from anywhere ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def best_of_statsmodels():
    """log p of the logarithms of the passengers: the best of two starts."""
    theirs = UnobservedComponents(passengers().log().flatten().numpy(), "lltrend", seasonal=12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        starts = [None, [1e-4, 7e-4, 1e-8, 6e-5]]
        return max(theirs.fit(s, disp=0, method="nm", maxiter=4000, cov_type="none").llf for s in starts)


@pytest.mark.parametrize("start", thorough_but([1e-8], [1.0, 1e-2, 1e8, 1e-8]))
def test_log_passengers(start, best_of_statsmodels):
    """234.336, where statsmodels' best of several starts is; not 229.381, where log(variance of the season) is -33."""
    x = passengers().log()
    model = LGSSM(structural, burn=13, **{n: learned(start) for n in ("level", "trend", "season", "irregular")})
    model.maximum_likelihood(x, restarts=0)
    theirs, best = UnobservedComponents(x.flatten().numpy(), "lltrend", seasonal=12), best_of_statsmodels
    found = [getattr(model, name).item() for name in ("irregular", "level", "trend", "season")]
    assert model.log_prob(x).item() == pytest.approx(theirs.loglike(found), abs=1e-5)
    assert best == pytest.approx(234.336, abs=2e-3)
    assert model.log_prob(x).item() > best - SAME
    assert_maximum_on_the_half_line(model, x)


@pytest.mark.parametrize(
    ("map_", "starts"),
    [
        (torch.square, (1e-8, 1e-6, 0.0)),
        *(
            pytest.param(*case, marks=pytest.mark.thorough)
            for case in ((torch.exp, (-50.0, -30.0, -20.0)), (nn.functional.softplus, (-40.0, -20.0)))
        ),
    ],
)
def test_a_map_of_the_callers_own_that_is_flat_is_left(map_, starts):
    """Where exp, a square or softplus in `build` are flat every derivative vanishes, and it is no maximum."""
    x = torch.randn(1, 60, 1).mul(0.5).cumsum(1) + torch.randn(1, 60, 1)

    def climbed(*values):
        learned_ = dict(zip("ab", (nn.Parameter(torch.tensor(v)) for v in values), strict=True))
        model = LGSSM(lambda a, b: local_level(map_(a), map_(b), initial_variance=100.0), **learned_)
        return model.maximum_likelihood(x, restarts=0).log_prob(x).item()

    known = LGSSM(lambda a, b: local_level(a, b, initial_variance=100.0), a=learned(0.3), b=learned(1.0))
    best = known.maximum_likelihood(x).log_prob(x).item()
    for start in starts:
        assert climbed(start, 1.0) == pytest.approx(best, abs=1e-4)


@pytest.mark.parametrize("burn", [0, 1])
def test_nothing_to_score_has_no_maximum(burn):
    model = LGSSM(local_level, burn=burn, level_variance=learned(1.0), observation_variance=learned(1.0))
    mask = torch.zeros(2, 9, dtype=torch.bool)
    mask[0, 3] = burn == 1
    with pytest.raises(ValueError, match=rf"x: no frame is scored, with burn = {burn} and at most {burn} observed"):
        model.maximum_likelihood(torch.randn(2, 9, 1), mask=mask)


@pytest.mark.thorough
def test_restarts_find_the_higher_of_two_maxima():
    """Passengers themselves: -566.051 with a level that moves, -563.995 with a trend that does."""
    x = passengers()
    starts = {"level": 0.9, "trend": 2e4, "season": 2.5e-7, "irregular": 1.2e-6}
    near = LGSSM(structural, burn=13, **{name: learned(value) for name, value in starts.items()})
    far = copy.deepcopy(near)
    near.maximum_likelihood(x, restarts=0)
    far.maximum_likelihood(x)
    assert near.log_prob(x).item() == pytest.approx(-566.051, abs=2e-3)
    assert far.log_prob(x).item() == pytest.approx(-563.995, abs=2e-3)
    theirs = UnobservedComponents(x.flatten().numpy(), "lltrend", seasonal=12)
    found = [getattr(far, name).item() for name in ("irregular", "level", "trend", "season")]
    assert far.log_prob(x).item() == pytest.approx(theirs.loglike(found), abs=1e-5)
    for model in (near, far):
        assert_maximum_on_the_half_line(model, x)


@pytest.mark.parametrize("start", thorough_but([1e-8], [1.0, 1e-8, 1e8]))
@pytest.mark.parametrize("name", ["white noise", "random walk"])
def test_a_variance_of_zero_is_found_where_it_is_right(name, start):
    """The maximum at the bound has the value of the model without that variance, of which there is one number left."""
    generator = torch.Generator().manual_seed(4)
    e = torch.randn(1, 150, 1, generator=generator)
    x = (e if name == "white noise" else e.cumsum(1)) * 30
    model = LGSSM(diffuse, burn=1, level=learned(start), irregular=learned(start))
    model.maximum_likelihood(x)
    at_zero, other = ("level", "irregular") if name == "white noise" else ("irregular", "level")
    expected = x.diff(dim=1).square().mean() if name == "random walk" else None  # one parameter: in closed form
    if expected is not None:
        assert getattr(model, other).item() == pytest.approx(expected.item(), rel=1e-5)
    zero = {at_zero: torch.tensor(0.0)}
    assert model.log_prob(x).item() == pytest.approx(model.log_prob(x, **zero).item(), abs=SAME)
    value, slope = slopes(model, x)[at_zero]
    assert slope < 0
    assert -value * slope < 1e-3
    assert_maximum_on_the_half_line(model, x)


@pytest.fixture(scope="module")
def best_of_nile():
    """Level's and irregular's variances at the maximum, from a start nearby."""
    start = {name: torch.tensor(value, dtype=torch.double) for name, value in (("level", 0.1), ("irregular", 1.0))}
    model = LGSSM(diffuse, burn=1, **{name: PyroParam(v, constraints.positive) for name, v in start.items()})
    model.maximum_likelihood(nile())
    return {name: getattr(model, name).item() for name in start}


KINDS = {  # constraint -> what makes a variance of its value, and starts, at and near its bounds
    "positive": (constraints.positive, lambda v: v, (1e-12, 1.0, 1e8)),
    "standard deviation": (constraints.positive, lambda v: v**2, (1e-12, 1.0, 1e6)),
    "nonnegative": (constraints.nonnegative, lambda v: v, (1e-12, 1e8)),
    "softplus": (constraints.softplus_positive, lambda v: v, (1e-12, 1.0, 1e8)),
    "greater than": (constraints.greater_than(-3.0), lambda v: v + 3, (-3 + 1e-12, 1e8)),
    "less than": (constraints.less_than(2.0), lambda v: 2 - v, (2 - 1e-12, -1e8)),
    "interval": (constraints.interval(1.0, 9.0), lambda v: v - 1, (1 + 1e-12, 9 - 1e-12)),
    "unit interval": (constraints.unit_interval, lambda v: 9 * v, (1e-12, 1 - 1e-12)),
    "positive definite": (constraints.positive_definite, lambda v: v[0, 0], (1e-12, 1.0, 1e8)),
    "Cholesky": (constraints.lower_cholesky, lambda v: v[0, 0] ** 2, (1e-12, 1.0, 1e6)),
    "real": (constraints.real, lambda v: v**2, (0.1, 3.0)),
}


# maps much like the rest
OTHERS = (
    "positive definite", "standard deviation", "softplus", "greater than", "less than", "unit interval",
)  # fmt: skip


@pytest.mark.parametrize("kind", [pytest.param(k, marks=[pytest.mark.thorough] * (k in OTHERS)) for k in KINDS])
def test_every_kind_of_constraint_is_left_by_its_bounds(kind, best_of_nile):
    constraint, variance, starts = KINDS[kind]
    matrix = kind in ("positive definite", "Cholesky")
    x = nile()
    for start in starts:
        value = start * torch.eye(1) if matrix else torch.tensor(start)
        model = LGSSM(
            lambda level, irregular: diffuse(variance(level), variance(irregular)),
            burn=1,
            level=learned(value, constraint),
            irregular=learned(value, constraint),
        ).maximum_likelihood(x, restarts=0)
        for name in ("level", "irregular"):
            found = variance(getattr(model, name)).item()
            assert found == pytest.approx(best_of_nile[name], rel=1e-5), (start, name)


def test_a_covariance_that_has_lost_a_direction_finds_it_again():
    """Two correlated levels; the start says that they move as one, to 1e-12, where every gradient is zero."""
    generator = torch.Generator().manual_seed(1)
    steps = torch.randn(300, 2, generator=generator) @ torch.tensor([[1.0, 0.4], [0.0, 0.6]])
    x = (steps.cumsum(0) + torch.randn(300, 2, generator=generator))[None]
    eye = torch.eye(2)

    def model(start):
        fixed = {"initial_mean": torch.zeros(2), "initial_covariance": 1e6 * eye, "transition_matrix": eye}
        q = learned(start, constraints.positive_definite)
        return LGSSM(Parameters, burn=1, **fixed, transition_covariance=q, emission_matrix=eye, emission_covariance=eye)

    good = model(eye).maximum_likelihood(x)
    bad = model(torch.ones(2, 2) + 1e-12 * eye).maximum_likelihood(x, restarts=0)
    torch.testing.assert_close(bad.transition_covariance, good.transition_covariance, rtol=1e-5, atol=1e-5)
    assert torch.linalg.eigvalsh(good.transition_covariance).min() > 0.1


@pytest.mark.thorough
def test_coefficients_near_the_edge_of_stationarity_come_back():
    generator = torch.Generator().manual_seed(2)
    e, w = torch.randn(300, generator=generator), torch.zeros(300)
    for t in range(1, 300):
        w[t] = 0.6 * w[t - 1] + e[t] + 0.4 * e[t - 1]
    x = w.reshape(1, -1, 1)

    def fit(ar, ma, **options):
        start = {"ar": learned([ar], stationary), "ma": learned([ma], invertible), "variance": learned(1.0)}
        return LGSSM(arima(1, 0, 1), **start).maximum_likelihood(x, **options)

    good = fit(0.0, 0.0)
    assert good.ar.item() == pytest.approx(0.6, abs=0.2)
    for other in (fit(-1 + 1e-9, 1 - 1e-6), fit(0.5, -1 + 1e-9)):
        assert other.log_prob(x).item() == pytest.approx(good.log_prob(x).item(), abs=SAME)


@pytest.mark.parametrize("start", thorough_but([1.0], [1.0, 1e-8, 1e8]))
def test_single_precision_has_the_maximum_of_double(start, best_of_nile):
    x = nile()
    torch.set_default_dtype(torch.float32)
    model = LGSSM(diffuse, burn=1, level=learned(start), irregular=learned(start)).maximum_likelihood(x.float())
    for name in ("level", "irregular"):
        assert getattr(model, name).dtype == torch.float32
        assert getattr(model, name).item() == pytest.approx(best_of_nile[name], rel=1e-4)


# --- values without a constraint -------------------------------------------------------------------------------------


def regression(seed):
    """30 sequences, and a model of which A, R and d are learned, without constraints; starts are moved a little."""
    torch.manual_seed(0)
    fields = dict(linear_gaussian(lambda v: v, marginal=True).named_buffers())
    names = ("transition_matrix", "emission_covariance", "emission_bias")
    model = LGSSM(Parameters, **{n: nn.Parameter(v) if n in names else v for n, v in fields.items()})
    u = torch.randn(30, 12, 2)
    with torch.no_grad():
        _, x = model.generate(30, 12, u)
        torch.manual_seed(seed)
        x = x * (1 + 1e-12 * torch.randn_like(x))
        model.transition_matrix.copy_(1e-3 * torch.randn(2, 2))
        model.emission_bias.add_(1e-3 * torch.randn(3))
    return model, x, u


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.thorough) for seed in range(1, 5))])
def test_the_end_does_not_hang_on_the_last_bits(seed, engine, monkeypatch):
    """Data moved by 1e-12 and starts by 1e-3: the gradient is zero to rounding each time.

    L-BFGS alone ends, by the last bits, at gradients from 1e-8 to 1e-4. A covariance without constraint has no
    derivative in single entries, so that Newton's steps must keep to the symmetric matrices.
    """
    if engine == "pytorch":
        monkeypatch.setattr("zoo.parts.recursions.engine.has_numba", lambda: False)
    model, x, u = regression(seed)
    model.maximum_likelihood(x, u)
    gradients = torch.autograd.grad(model.log_prob(x, u).sum() / x.numel(), list(model.parameters()))
    assert all(g.abs().max() < 1e-9 for g in gradients)
    assert torch.equal(model.emission_covariance, model.emission_covariance.mT)


def test_directions_that_nothing_depends_on_do_no_harm():
    """All of A, C, Q, P_1 learned: log p(x) is the same in every basis of the states."""
    torch.manual_seed(3)
    fields = dict(linear_gaussian(lambda v: v, marginal=True).named_buffers())
    names = ("transition_matrix", "emission_matrix", "initial_mean")
    covariances = ("transition_covariance", "initial_covariance", "emission_covariance")
    values = {n: nn.Parameter(v) if n in names else v for n, v in fields.items()}
    values |= {n: PyroParam(values[n], constraints.positive_definite) for n in covariances}
    model = LGSSM(Parameters, **values)
    u = torch.randn(40, 8, 2)
    with torch.no_grad():
        _, x = model.generate(40, 8, u)
    model.maximum_likelihood(x, u, restarts=0)
    gradients = torch.autograd.grad(model.log_prob(x, u).sum() / x.numel(), list(model.parameters()))
    assert all(g.abs().max() < 1e-6 for g in gradients)


def test_a_saddle_is_left():
    """C = 0: no state shows, so every gradient by A, Q and C is zero, and log p(x) is no maximum."""
    generator = torch.Generator().manual_seed(5)
    x = torch.zeros(20, 30, 2)
    z = torch.zeros(20)
    for t in range(30):
        z = 0.9 * z + torch.randn(20, generator=generator)
        x[:, t] = z.unsqueeze(-1) * torch.tensor([1.0, -0.5]) + 0.5 * torch.randn(20, 2, generator=generator)
    one = torch.eye(1)

    def model(loading):
        return LGSSM(
            Parameters,
            initial_mean=torch.zeros(1),
            initial_covariance=one,
            transition_matrix=nn.Parameter(0.5 * one),
            transition_covariance=one,
            emission_matrix=nn.Parameter(loading * torch.ones(2, 1)),
            emission_covariance=PyroParam(torch.eye(2), constraints.positive_definite),
        ).maximum_likelihood(x, restarts=0)

    assert model(0.0).log_prob(x).sum().item() == pytest.approx(model(1.0).log_prob(x).sum().item(), abs=SAME)


def test_more_than_a_hundred_entries():
    """A mean for each frame: the maximum is the mean of the data, in closed form."""
    x = torch.randn(7, 150, 1) + 100 * torch.randn(150, 1)
    model = LGSSM(
        lambda bias: local_level(torch.tensor(0.0), torch.tensor(1.0), initial_variance=1e-12)._replace(
            emission_bias=bias
        ),
        bias=nn.Parameter(torch.zeros(150, 1)),
    ).maximum_likelihood(x)
    torch.testing.assert_close(model.bias.detach(), x.mean(0), rtol=1e-6, atol=1e-6)


# --- what is refused -------------------------------------------------------------------------------------------------


def test_where_there_is_no_maximum_the_value_and_its_slope_are_named():
    fixed = {"level": torch.tensor(1.0), "initial_variance": torch.tensor(0.0)}
    model = LGSSM(
        lambda level, irregular, initial_variance: local_level(level, irregular, None, initial_variance),
        irregular=learned(1.0),
        **fixed,
    )
    with pytest.raises(RuntimeError, match=r"^irregular: no maximum was reached, its value is \S+, the derivative by "
                                           r"it -\S+ nats$"):  # fmt: skip
        model.maximum_likelihood(torch.zeros(1, 1, 1))
    assert model.log_prob(torch.zeros(1, 1, 1)).item() > 5  # the best that was seen is kept


@pytest.mark.thorough
@pytest.mark.parametrize("constraint", [constraints.positive_definite, constraints.lower_cholesky])
def test_the_slope_by_a_matrix_is_named(constraint):
    """x = 0 for certain, as far as the data say: the density has no bound as R goes to 0."""
    zero, one = torch.zeros(1, 1), torch.eye(1)
    model = LGSSM(
        lambda r: Parameters(torch.zeros(1), zero, one, zero, torch.zeros(2, 1), r),
        r=learned(torch.eye(2), constraint),
    )
    with pytest.raises(RuntimeError, match=r"^r: no maximum was reached, its value is \S+ \(entry [03] of 4\), the"):
        model.maximum_likelihood(torch.zeros(1, 5, 2), restarts=1)


def test_a_start_that_is_no_model_is_refused():
    model = LGSSM(local_level, level_variance=nn.Parameter(torch.tensor(-1.0)))
    with pytest.raises(ValueError, match="transition_covariance: expected a symmetric positive semi-definite matrix"):
        model.maximum_likelihood(torch.randn(1, 5, 1))
    model = LGSSM(local_level, level_variance=learned(0.0))
    with pytest.raises(ValueError, match=r"level_variance: expected a start that is finite and within its .*, got 0.0"):
        model.maximum_likelihood(torch.randn(1, 5, 1))
    for restarts in (-1, 1.5, True):
        with pytest.raises(ValueError, match=f"restarts: expected a whole number, at least 0, got {restarts}"):
            model.maximum_likelihood(torch.randn(1, 5, 1), restarts=restarts)
    with pytest.raises(ValueError, match="nothing is learned: expected values that are"):
        Surface(nn.Linear(1, 1).requires_grad_(False), lambda: torch.tensor(0.0))


def test_a_scale_that_no_value_has_is_a_place_without_a_model():
    model = LGSSM(lambda q: local_level(q[0, 0]), q=learned(torch.eye(1), constraints.positive_definite))
    surface = Surface(model, lambda: model.log_prob(torch.randn(1, 5, 1)).sum())
    place = surface.rescaled(surface.at, {0: -1.0})
    assert surface.loss(place) == torch.inf
    assert surface.gradient(place)[0] == torch.inf
    torch.testing.assert_close(surface.rescaled(surface.at, {0: 100.0}), surface.at + 0.5 * torch.tensor(100.0).log())


def test_climb_takes_any_module_and_leaves_its_gradients_alone():
    """A parameter of a part, under its constraint; one that the value does not use; what is frozen stays."""

    class Part(PyroModule):
        def __init__(self):
            super().__init__()
            self.scale = learned(1e-30)

    class Whole(PyroModule):
        def __init__(self):
            super().__init__()
            self.part, self.loc, self.unused = Part(), nn.Parameter(torch.tensor(0.0)), nn.Parameter(torch.ones(2))
            self.frozen = nn.Parameter(torch.tensor(2.0), requires_grad=False)

    x, whole = 3.0 + 2 * torch.randn(500), Whole()
    density = torch.distributions.Normal
    climb(whole, lambda: density(whole.loc, whole.part.scale).log_prob(x).mean(), count=500)
    assert whole.loc.item() == pytest.approx(x.mean().item(), abs=1e-8)
    assert whole.part.scale.item() == pytest.approx(x.std(correction=0).item(), rel=1e-8)
    assert torch.equal(whole.unused, torch.ones(2))
    assert whole.frozen == 2.0
    assert all(p.grad is None for p in whole.parameters())
