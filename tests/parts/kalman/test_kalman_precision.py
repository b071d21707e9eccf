"""The exact recursions where rounding hurts, in float32 and float64, against the same filter in 80 decimal digits.

All numbers that go in are exact in float32, so that one oracle serves both: float64 inside must then lose nothing but
the rounding of what comes out.
"""

import math
from decimal import Decimal, localcontext
from functools import cache
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from tiers import thorough_but
from torch import Tensor

from zoo.parts import kalman
from zoo.parts.kalman import Parameters

ENGINES = ["compiled", "pytorch"]


@pytest.fixture(autouse=True, params=ENGINES)
def _engine(request, monkeypatch):
    """Each test with the compiled recursions and with PyTorch's."""
    if request.param == "pytorch":
        monkeypatch.setattr("zoo.parts.recursions.engine.has_numba", lambda: False)


FLOOR = 1e-13  # of the bound in float64: what is lost in the last digits over 10,000 steps
ACCURATE = 1e-6  # relative error of smoothed moments and gradients
DTYPES = [torch.float64, torch.float32]


class Case(NamedTuple):
    A: np.ndarray
    Q: np.ndarray
    C: np.ndarray
    R: np.ndarray
    P: np.ndarray
    x: np.ndarray
    seen: np.ndarray  # (T,)
    bound: (
        float  # relative error of the log-likelihood in float64; at most ten times that of a Cholesky-based prototype
    )

    def parameters(self, dtype: torch.dtype) -> Parameters:
        mean = np.zeros(len(self.A))
        return Parameters(*[torch.as_tensor(v).to(dtype) for v in (mean, self.P, self.A, self.Q, self.C, self.R)])

    def data(self, dtype: torch.dtype) -> tuple[Tensor, None, Tensor | None]:
        mask = None if self.seen.all() else torch.as_tensor(self.seen)
        x = torch.as_tensor(self.x).to(dtype)
        return x if mask is None else x.masked_fill(~mask.unsqueeze(-1), math.nan), None, mask

    def blur(self) -> float:
        """What rounding the data alone does: ten units in the last place of x, in standard deviations of the noise."""
        return 10 * np.finfo(np.float64).eps * np.abs(self.x).max() / np.diag(self.R).min() ** 0.5


def exact(value) -> np.ndarray:
    """The nearest float32, as a float64."""
    return np.asarray(value, dtype=np.float32).astype(np.float64)


def make(
    *, A=None, Q=0.1, C=None, R=0.5, P=1.0, radius=0.95, T=200, start=None, gap=(0, 0), rounded=True, bound=FLOOR
) -> Case:
    """Random A of spectral radius `radius`, random C; numbers stand for multiples of the identity. n = 4, m = 2.

    rounded: whether x is exact in float32; it is not worth much when the states are 1e14.
    """
    rng = np.random.default_rng(0)
    n, m = 4, 2
    random = rng.normal(size=(n, n))
    A = exact(random / np.abs(np.linalg.eigvals(random)).max() * radius if A is None else A)
    C = exact(rng.normal(size=(m, n)) if C is None else C)
    Q, R, P = (exact(v * np.eye(d) if np.ndim(v) == 0 else v) for v, d in ((Q, n), (R, m), (P, n)))
    root = np.linalg.svd(Q)
    root = root.U * np.sqrt(root.S)
    z = rng.normal(size=n) if start is None else np.array(start)
    x = []
    for _ in range(T):
        x.append(C @ z + np.sqrt(np.diag(R)) * rng.normal(size=m))
        z = A @ z + root @ rng.normal(size=n)
    seen = np.ones(T, dtype=bool)
    seen[slice(*gap)] = False
    return Case(A, Q, C, R, P, exact(x) if rounded else np.array(x), seen, bound)


STEP = 0.5  # seconds between the frames of a tracker
MOVE = np.kron(np.eye(2), [[1, STEP], [0, 1]])  # constant velocity: two positions, each with its speed
PUSH = np.array([[STEP**2 / 2, STEP] * 2])
JERK = np.kron(np.eye(2), [[STEP**3 / 3, STEP**2 / 2], [STEP**2 / 2, STEP]])
POSITIONS = np.kron(np.eye(2), [[1, 0]])
DRIFT = np.array([[1, 0, 0, 0], [0, 0.5, 0.25, 0], [0, -0.25, 0.5, 0], [0, 0, 0, 0.75]])
HIDDEN = np.array([[0.5, 0.25, 0, 0], [-0.25, 0.5, 0.25, 0], [0, 0, 0.75, 0], [0.5, 0.5, 0.5, 1.1]])
tracker = {"A": MOVE, "Q": JERK, "C": POSITIONS}

CASES = {
    "benign": make(),
    "R = 1e-8": make(R=1e-8),
    "R = 1e-10": make(R=1e-10),
    "R = 1e-12": make(R=1e-12),
    "Q = 0": make(Q=0),
    "Q = 0, A = I": make(Q=0, A=np.eye(4)),
    "Q of rank 1": make(A=MOVE, Q=PUSH.T @ PUSH, C=POSITIONS),
    "P_1 = 1e8": make(P=1e8),
    "P_1 = 1e10": make(P=1e10),
    "P_1 = 1e12": make(P=1e12),
    "tracking, R = 1e-8, P_1 = 1e8": make(**tracker, R=1e-8, P=1e8, bound=1e-11),
    "tracking with a gap": make(**tracker, R=1e-8, P=1e8, gap=(50, 150), bound=1e-11),
    "tracking, first frames missing": make(**tracker, R=1e-8, P=1e8, gap=(0, 20), bound=1e-11),
    "unobserved state, rho = 1.1": make(A=HIDDEN, C=[[1, 0, 0.5, 0], [0, 1, -0.5, 0]]),
    "rho = 1.5, T = 30": make(radius=1.5, T=30, bound=1e-12),
    "rho = 1.2, T = 180": make(radius=1.2, T=180, rounded=False, bound=5e-4),
    "rho = 1.2, T = 180, data of 24 bits": make(radius=1.2, T=180, bound=5e-4),
    "T = 10,000": make(T=10_000),
    "data offset 1e4, P_1 = 1e6": make(A=DRIFT, C=np.ones((2, 4)), P=1e6, start=[1e4, 0, 0, 0], bound=1e-12),
}
SHORT = [name for name in CASES if name != "T = 10,000"]
EACH = [pytest.param(name, marks=[pytest.mark.thorough] * (name not in SHORT)) for name in CASES]
PAIRS = [(name, dtype) for dtype in DTYPES for name in CASES if (name, dtype) != ("rho = 1.2, T = 180", torch.float32)]
PAIRS = thorough_but([(name, torch.float32) for name in SHORT], PAIRS)


@cache
def oracle(name: str) -> SimpleNamespace:
    """Filter and disturbance smoother (Durbin and Koopman 2012, section 4.5), nothing clever, rounded to float64 at the
    end; and the gradient of the log-likelihood that they imply."""
    case = CASES[name]
    decimal = np.frompyfunc(lambda v: Decimal(float(v)), 1, 1)
    with localcontext(prec=80):
        A, Q, C, R, P, x = (decimal(v) for v in case[:6])
        a, zero = decimal(np.zeros(len(A))), Decimal(0)
        loglik, steps = zero, []
        for x_t, seen in zip(x, case.seen, strict=True):
            e, precision, gain = x_t * zero, R * zero, C.T * zero
            if seen:
                e = x_t - C @ a
                S = C @ P @ C.T + R
                determinant = S[0, 0] * S[1, 1] - S[0, 1] * S[1, 0]
                precision = np.array([[S[1, 1], -S[0, 1]], [-S[1, 0], S[0, 0]]]) / determinant
                loglik -= (e @ precision @ e + determinant.ln() + 2 * Decimal(math.log(2 * math.pi))) / 2
                gain = A @ P @ C.T @ precision
            steps.append((a, P, e, precision, gain, A - gain @ C))
            a, P = A @ a + gain @ e, A @ P @ steps[-1][-1].T + Q
        found = SimpleNamespace(loglik=float(loglik), means=[], variances=[], x=[], R=R * zero, Q=Q * zero)
        r, N, C_t = a * zero, P * zero, C
        for t, (a, P, e, precision, gain, L) in reversed(list(enumerate(steps if name in SHORT else []))):
            C_t = C if case.seen[t] else C * zero
            if case.seen[t]:
                weighted = precision @ e - gain.T @ r
                found.R += (np.outer(weighted, weighted) - precision - gain.T @ N @ gain) / 2
            found.x.append(-weighted if case.seen[t] else e)
            found.Q += (np.outer(r, r) - N) / 2 if t + 1 < len(steps) else 0
            r, N = C_t.T @ precision @ e + L.T @ r, C_t.T @ precision @ C_t + L.T @ N @ L
            found.means.append(a + P @ r)
            found.variances.append(np.diag(P - P @ N @ P))
        found.predicted_means = [step[0] for step in steps]
        found.predicted_variances = [np.diag(step[1]) for step in steps]
        found.initial_mean, found.P = r, (np.outer(r, r) - N) / 2
    found.x, found.means, found.variances = (v[::-1] for v in (found.x, found.means, found.variances))
    doubles = {key: np.array(value, dtype=np.float64) for key, value in vars(found).items()}
    return SimpleNamespace(**{key: torch.as_tensor(value) for key, value in doubles.items()})


def bound(name: str, dtype: torch.dtype) -> float:
    """In float32 nothing but the last rounding is added."""
    return CASES[name].bound + (torch.finfo(dtype).eps if dtype == torch.float32 else 0.0)


@pytest.mark.parametrize(("name", "dtype"), PAIRS, ids=str)
def test_marginal_loglik(name, dtype):
    case, expected = CASES[name], oracle(name).loglik
    for function in (kalman.filter, kalman.smoother, kalman.marginal_loglik):
        result = function(case.parameters(dtype), *case.data(dtype))
        value = getattr(result, "marginal_loglik", result)
        assert value.dtype == dtype
        assert ((value - expected) / expected).abs() <= bound(name, dtype), function.__name__


@pytest.mark.parametrize("dtype", thorough_but([torch.float32], DTYPES), ids=str)
@pytest.mark.parametrize("name", EACH)
def test_no_nan_and_no_negative_variance(name, dtype):
    case = CASES[name]
    filtered = kalman.filter(case.parameters(dtype), *case.data(dtype))
    smoothed = kalman.smoother(case.parameters(dtype), *case.data(dtype))
    for result in (filtered, smoothed):
        for field, value in result._asdict().items():
            assert torch.isfinite(value).all(), field
            if field.endswith("covariances") and "cross" not in field:
                assert (value.diagonal(dim1=-2, dim2=-1) >= 0).all(), field
                roots = torch.linalg.eigvalsh(value.double())
                rounding = 10 * torch.finfo(dtype).eps * roots[..., -1]
                assert ((value - value.mT).abs().amax((-1, -2)) <= rounding).all(), field
                assert (roots[..., 0] >= -rounding).all(), field


@pytest.mark.parametrize("dtype", thorough_but([torch.float32], DTYPES), ids=str)
@pytest.mark.parametrize("name", EACH)
def test_gradients_are_finite(name, dtype):
    """Of the likelihood by everything, and of a functional of the smoother's moments."""
    case = CASES[name]
    parameters = Parameters(*[v if v is None else v.requires_grad_() for v in case.parameters(dtype)])
    x, _, mask = case.data(dtype)
    leaves = [*parameters[:6], x.requires_grad_()]
    smoothed = kalman.smoother(parameters, x, None, mask)
    functional = smoothed.smoothed_means.sum() + smoothed.smoothed_covariances.sum()
    for value in (kalman.marginal_loglik(parameters, x, None, mask), functional):
        for found in torch.autograd.grad(value, leaves):
            assert torch.isfinite(found).all()


@pytest.mark.parametrize("name", SHORT)
def test_predicted_and_smoothed_moments(name):
    """Means to a fraction of their own standard deviation, variances to a fraction of themselves."""
    case, expected = CASES[name], oracle(name)
    given = case.parameters(torch.float64), *case.data(torch.float64)
    smoothed, filtered = kalman.smoother(*given), kalman.filter(*given)
    for means, covariances, exact_means, variances in (
        (
            filtered.predicted_means,
            filtered.predicted_covariances,
            expected.predicted_means,
            expected.predicted_variances,
        ),
        (smoothed.smoothed_means, smoothed.smoothed_covariances, expected.means, expected.variances),
    ):
        wrong = (means - exact_means).abs() / variances.sqrt()
        assert wrong.max() < ACCURATE + case.blur()
        assert (covariances.diagonal(dim1=-2, dim2=-1) / variances - 1).abs().max() < ACCURATE


@pytest.mark.parametrize("name", SHORT)
def test_gradient_of_marginal_loglik(name):
    case, expected = CASES[name], oracle(name)
    parameters = Parameters(*[v if v is None else v.requires_grad_() for v in case.parameters(torch.float64)])
    x, _, mask = case.data(torch.float64)
    value = kalman.marginal_loglik(parameters, x.requires_grad_(), None, mask)
    leaves = {
        "initial_mean": parameters.initial_mean,
        "P": parameters.initial_covariance,
        "Q": parameters.transition_covariance,
        "R": parameters.emission_covariance,
        "x": x,
    }
    for field, found in zip(leaves, torch.autograd.grad(value, list(leaves.values())), strict=True):
        found = (found + found.mT) / 2 if field in "PQR" else found
        wanted = getattr(expected, field)
        wrong = (found - wanted).abs().max()
        # what a step of one standard deviation of z_1 changes, in nats: all that is left of the gradient if P_1 is vast
        nats = wrong * {"initial_mean": case.P.max() ** 0.5, "P": case.P.max()}.get(field, math.inf)
        assert wrong <= (ACCURATE + case.blur()) * wanted.abs().max() or nats < 1e-4, field


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_bad_sequence_does_not_spoil_the_others(dtype):
    """All cases of one length in one batch, each with parameters of its own."""
    names = [name for name, case in CASES.items() if len(case.x) == 200]
    rows = [CASES[name].parameters(dtype) for name in names]
    stacked = [torch.stack(values) for values in list(zip(*rows, strict=True))[:6]]
    parameters = Parameters(*stacked[:2], *[value.unsqueeze(1) for value in stacked[2:]])
    x = torch.stack([CASES[name].data(dtype)[0] for name in names])
    mask = torch.as_tensor(np.stack([CASES[name].seen for name in names]))
    smoothed = kalman.smoother(parameters, x, None, mask)
    for loglik in (smoothed.marginal_loglik, kalman.marginal_loglik(parameters, x, None, mask)):
        for name, value in zip(names, loglik, strict=True):
            assert ((value - oracle(name).loglik) / oracle(name).loglik).abs() <= bound(name, dtype), name
    for value in smoothed:
        assert torch.isfinite(value).all()
    worst = smoothed.smoothed_covariances.diagonal(dim1=-2, dim2=-1).amin((-2, -1))
    assert (worst >= 0).all()
