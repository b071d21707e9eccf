"""Eight sequences at a time beside the other two engines: values, gradients, memory, errors, and who gets which."""

import math
import random
from contextlib import contextmanager

import pytest
import torch
from tiers import thorough_but
from torch import Tensor

from zoo.parts.kalman import Parameters
from zoo.parts.kalman.engines import lanes_for
from zoo.parts.kalman.engines.lanes import calls
from zoo.parts.kalman.given import prepare
from zoo.parts.kalman.inference import filter, marginal_loglik, smoother

NAMES = ("initial_mean", "initial_covariance", "transition_matrix", "transition_covariance", "emission_matrix")
NAMES = (*NAMES, "emission_covariance", "transition_bias", "emission_bias")
TOLERANCE = 1e-9  # of the largest entry of a tensor


def problem(
    seed: int, batch: tuple[int, ...], T: int, n: int, m: int, dtype=torch.float64
) -> tuple[Parameters, Tensor]:
    """Each parameter is shared, of each sequence, of each time, or both; A is always both."""
    choose, generator = random.Random(seed), torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def lead(timed: bool = True) -> tuple[int, ...]:
        own = choose.choice([(), batch, tuple(choose.choice([1, size]) for size in batch)])
        return (*own, choose.choice([1, T])) if timed and (own or choose.random() < 0.5) else own

    def covariance(size: int, *, timed: bool = True) -> Tensor:
        root = randn(*lead(timed), size, size)
        return root @ root.mT / size + 0.2 * torch.eye(size, dtype=torch.float64)

    a = 0.8 / math.sqrt(n) * randn(*batch, T, n, n)
    values = [randn(*lead(False), n), covariance(n, timed=False), a, covariance(n), randn(*lead(), m, n), covariance(m)]
    values += [choose.choice([None, randn(*lead(), n)]), choose.choice([None, randn(*lead(), m)])]
    named = {name: None if v is None else v.to(dtype) for name, v in zip(NAMES, values, strict=True)}
    return Parameters(**named), randn(*batch, T, m).to(dtype)


def gaps(seed: int, x: Tensor) -> Tensor | None:
    """No mask, one of frames or one of coordinates."""
    generator = torch.Generator().manual_seed(seed)
    shape = (None, x.shape[:-1], x.shape)[seed % 3]
    return None if shape is None else torch.rand(shape, generator=generator) < 0.7


def everything(p: Parameters, x: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
    """The results of the three functions, and the gradient of a functional of the log-likelihoods."""
    found = {f"filter {k}": v for k, v in filter(p, x, None, mask)._asdict().items()}
    found |= {f"smoother {k}": v for k, v in smoother(p, x, None, mask)._asdict().items()}
    leaves = {name: v.clone().requires_grad_() for name, v in p._asdict().items() if v is not None}
    data = x.clone().requires_grad_()
    value = marginal_loglik(Parameters(**leaves), data, None, mask)
    weights = torch.linspace(0.5, 1.5, value.numel(), dtype=value.dtype).reshape(value.shape)
    grads = torch.autograd.grad((weights * value).sum(), [*leaves.values(), data])
    return found | {"loglik": value.detach()} | dict(zip([*leaves, "x"], grads, strict=True))


def assert_same(actual: dict[str, Tensor], wanted: dict[str, Tensor], tolerance: float, which: object) -> None:
    for name, value in wanted.items():
        assert actual[name].shape == value.shape
        assert actual[name].dtype == value.dtype
        if value.numel():
            worst = (actual[name] - value).abs().max() / value.abs().max().clamp(min=1e-3)
            assert worst <= tolerance, (which, name, worst)


@contextmanager
def choosing(choice):
    """The module of lanes for all problems, or None for none."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("moments", "derivatives"):
            patch.setattr(f"zoo.parts.kalman.{module}.lanes_for", lambda problem: choice)
        yield


def with_engine(choice, p: Parameters, x: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
    """Everything, with lanes or without."""
    with choosing(choice):
        return everything(p, x, mask)


def compare(p: Parameters, x: Tensor, mask: Tensor | None, which: object, tolerance: float = TOLERANCE) -> None:
    """Lanes beside the compiled engine, and beside PyTorch's, whose gradients of moments are autograd's."""
    ours = with_engine(calls, p, x, mask)
    assert_same(ours, with_engine(None, p, x, mask), tolerance, ("compiled", which))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zoo.parts.recursions.engine.has_numba", lambda: False)
        assert_same(ours, with_engine(None, p, x, mask), tolerance, ("PyTorch", which))


BATCHES = [(1,), (2,), (7,), (8,), (9,), (33,), (3, 1), (2, 5), (1, 4)]
SIZES = [(1, 1), (2, 1), (4, 2), (3, 4), (8, 4)]
LENGTHS = [1, 2, 7, 8, 9, 20]


def layout(seed: int) -> tuple[tuple[int, ...], int, int, int]:
    choose = random.Random(seed)
    return choose.choice(BATCHES), choose.choice(LENGTHS), *choose.choice(SIZES)


@pytest.mark.parametrize("seeds", thorough_but([range(8)], [range(8), range(8, 100)]))
def test_random_layouts(seeds):
    for seed in seeds:
        p, x = problem(seed, *layout(seed))
        compare(p, x, gaps(seed, x), seed)


@pytest.mark.parametrize("n", [1, 3])
def test_one_frame(n):
    """No transition is used, so the gradients of A, Q, b and B u are zero, not memory that nobody has written."""
    for seed in range(4):
        p, x = problem(seed, (9,), 1, n, 2)
        p = p._replace(transition_bias=torch.ones(9, 1, n).double())
        compare(p, x, gaps(seed, x), seed)
        assert not with_engine(calls, p, x, None)["transition_bias"].any()


def test_float32_goes_in_and_comes_out():
    for seed in range(4):
        p, x = problem(seed, (9,), 12, 2, 1, torch.float32)
        compare(p, x, gaps(seed, x), seed, 2e-6)


HARD = {
    "diffuse": {"initial_covariance": 1e6},
    "exact": {"emission_covariance": 1e-12},
    "certain": {"transition_covariance": 0.0},
    "both": {"initial_covariance": 1e8, "emission_covariance": 1e-8},
}


@pytest.mark.parametrize("name", HARD)
def test_a_lane_that_loses_digits_leaves_its_neighbours_alone(name):
    """Sequences that go the second way, among others: those are as exact as alone, these do not change by a bit."""
    p, x = problem(3, (11,), 10, 4, 2)
    hard = torch.arange(11) % 3 == 1
    changed = {}
    for field, value in HARD[name].items():
        old = getattr(p, field)
        timed = not field.startswith("initial")
        shape = (11, *((10,) if timed else ()), *old.shape[-2:])
        old = (old if old.ndim > 2 or not timed else old[None]).expand(shape)
        own = hard.reshape(-1, *[1] * (len(shape) - 1))
        changed[field] = torch.where(own, value * torch.eye(old.shape[-1]).double(), old).contiguous()
    # an engine that computes in another order agrees up to the digits that the problem leaves
    compare(p._replace(**changed), x, None, name, 1e-5)
    mixed, benign = (with_engine(calls, q, x, None) for q in (p._replace(**changed), p))
    for field in ("smoother smoothed_means", "smoother smoothed_covariances", "filter filtered_means", "loglik"):
        assert torch.equal(mixed[field][~hard], benign[field][~hard]), field
        assert torch.isfinite(mixed[field]).all()
    variances = mixed["smoother smoothed_covariances"].diagonal(dim1=-2, dim2=-1)
    assert (variances >= 0).all()


def test_a_history_in_segments_is_the_same_history(monkeypatch):
    p, x = problem(5, (9,), 41, 3, 2)
    whole = with_engine(calls, p, x, None)
    monkeypatch.setattr(calls.Call, "history", 0)  # the shortest segments there are
    for name, value in with_engine(calls, p, x, None).items():
        assert torch.equal(value, whole[name]), name


@pytest.mark.parametrize("T", [200, 100_000])
def test_scratch_memory_does_not_grow_with_time(T, monkeypatch):
    taken = []
    empty = torch.empty
    p, x = problem(0, (2,), T, 8, 4)
    call = calls.Call(prepare(p, x, None, None))
    monkeypatch.setattr(torch, "empty", lambda *a, **k: taken.append(empty(*a, **k)) or taken[-1])
    assert call.run(lambda *a: True, [])
    # the history of one segment, where every segment begins, and matrices of a step: all of the history is 940 MB
    assert sum(a.nbytes for a in taken) < 2 * call.history + T / 400 * 64 * 12 * 13 + 10**6


@pytest.mark.parametrize("where", ["value", "matrix", "covariance", "start", "noise", "certain"])
def test_errors_are_those_of_the_other_engine(where):
    p, x = problem(1, (5,), 9, 2, 1)
    p = p._replace(
        transition_covariance=torch.eye(2).double().expand(5, 9, 2, 2).clone(),
        emission_covariance=torch.ones(5, 9, 1, 1).double(),
        initial_covariance=torch.eye(2).double().expand(5, 2, 2).clone(),
    )
    if where == "value":
        x[3, 4, 0] = math.nan
    elif where == "matrix":
        p.transition_matrix[2, 5, 0, 1] = math.inf
    elif where == "covariance":
        p.transition_covariance[4, 3] = torch.tensor([[1.0, 2.0], [2.0, 1.0]])
    elif where == "start":
        p.initial_covariance[1, 0, 1] = 0.3
    elif where == "noise":
        p.emission_covariance[0, 8] = -1.0
    else:
        p.emission_covariance[2, 6] = 0.0
        p = p._replace(emission_matrix=torch.zeros(1, 2).double())
    words = []
    for choice in (calls, None):
        for function in (filter, smoother, marginal_loglik):
            with choosing(choice), pytest.raises(ValueError, match=r"sequence|matrix") as raised:
                function(p, x)
            words.append(str(raised.value))
    assert len(set(words)) == 1, words


def test_lanes_are_for_sequences_with_covariances_of_their_own_that_change():
    """One large sequence and settled covariances are faster elsewhere; shared covariances are computed once there."""
    p, x = problem(0, (4,), 6, 2, 1)
    one = Parameters(*(None if v is None else v.reshape(-1, *v.shape[-2:])[-1] for v in p[:6]))._replace(
        initial_mean=torch.zeros(2).double()
    )
    assert lanes_for(prepare(p, x, None, None)) is calls
    assert lanes_for(prepare(one, x, None, None)) is None
    own = one._replace(transition_matrix=one.transition_matrix.expand(4, 1, 2, 2))
    assert lanes_for(prepare(own, x, None, None)) is None
    timed = one._replace(transition_matrix=one.transition_matrix.expand(6, 2, 2))
    assert lanes_for(prepare(timed, x, None, None)) is None
    assert lanes_for(prepare(timed, x[:1], None, None)) is calls
    for sequences, states in ((1, 2), (2, 5), (3, 10)):
        for n, wanted in ((states, calls), (states + 1, None)):
            own, data = problem(0, (sequences,), 6, n, 1)
            assert lanes_for(prepare(own, data, None, None)) is wanted, (sequences, n)
    mask = torch.arange(6) < torch.arange(3, 7).unsqueeze(-1)
    assert lanes_for(prepare(one, x, None, mask)) is calls
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zoo.parts.recursions.engine.has_numba", lambda: False)
        assert lanes_for(prepare(p, x, None, None)) is None
