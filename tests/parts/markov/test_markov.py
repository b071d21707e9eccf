"""The recursions of hidden Markov chains against all paths one by one, in both engines; gradients; draws; float32."""

import itertools

import pyro.distributions as dist
import pytest
import torch
from scipy.stats import chi2
from tiers import thorough_but

from zoo.parts import markov
from zoo.parts.markov import Chain, StationaryStart
from zoo.parts.markov.distributions import HiddenMarkov, MarkovPaths
from zoo.parts.markov.engines import engine_for, pytorch
from zoo.parts.markov.probabilities import Probabilities

pytestmark = pytest.mark.usefixtures("double_precision")

STATES, FRAMES = 3, 5


ENGINES = ["pytorch", "compiled"]


@pytest.fixture(params=ENGINES)
def engine(request, monkeypatch):
    if request.param == "pytorch":
        without_numba(monkeypatch)
    assert engine_for(torch.device("cpu")).__name__.endswith(request.param)


def without_numba(monkeypatch):
    monkeypatch.setattr("zoo.parts.recursions.engine.has_numba", lambda: False)


def logits(*shape, zeros=()):
    """Rows of log probabilities; the places of `zeros` are impossible."""
    values = torch.randn(*shape)
    for place in zeros:
        values[place] = -torch.inf
    return values.log_softmax(-1)


def a_chain(kind="full", *lead, frames=FRAMES):
    """A chain; "gaps" lacks frames inside and at both ends, "left-to-right" has zeros in start and steps."""
    scores = 2 * torch.randn(*(lead or (2,)), frames, STATES)
    if kind == "gaps":
        scores[0, 2], scores[1, 0], scores[1, -2:] = 0.0, 0.0, 0.0
    zeros = kind == "left-to-right"
    return Chain(
        logits(STATES, zeros=[1, 2] if zeros else ()),
        logits(STATES, STATES, zeros=[(1, 0), (2, 0), (2, 1)] if zeros else ()),
        scores,
    )


def all_paths(chain):
    """log p(z, x) of all K^T paths, `(K^T, N)`, each a sum of single terms; and the paths."""
    T, K = chain.log_emission.shape[-2:]
    paths = torch.tensor(list(itertools.product(range(K), repeat=T)))
    rows = []
    for path in paths.tolist():
        score = chain.log_initial[path[0]]
        for t in range(T):
            score = score + chain.log_emission[..., t, path[t]]
            if t:
                score = score + chain.log_transition[path[t - 1], path[t]]
        rows.append(score)
    return torch.stack(rows), paths


def until(chain, frames):
    return chain._replace(log_emission=chain.log_emission[..., :frames, :])


every_kind = pytest.mark.parametrize("kind", ["full", "gaps", "left-to-right"])


@every_kind
def test_everything_equals_the_sum_over_all_paths(engine, kind):
    chain = a_chain(kind)
    log_joint, paths = all_paths(chain)
    evidence = log_joint.logsumexp(0)
    weights = log_joint.softmax(0)
    exactly = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(markov.path_log_joint(chain, paths.unsqueeze(1)), log_joint, **exactly)
    torch.testing.assert_close(markov.log_evidence(chain), evidence, **exactly)

    is_in = torch.stack([paths == k for k in range(STATES)], -1).double()  # (paths, T, K)
    smoothed = torch.einsum("pn,ptk->ntk", weights, is_in)
    pairs = torch.einsum("pn,ptj,ptk->ntjk", weights, is_in[:, :-1], is_in[:, 1:])
    found = markov.smooth_states(chain)
    torch.testing.assert_close(found.smoothed, smoothed, **exactly)
    torch.testing.assert_close(found.pairs, pairs, **exactly)
    torch.testing.assert_close(found.log_evidence, evidence, **exactly)

    filtered = markov.filter_states(chain)
    for t in range(FRAMES):
        joint, before = all_paths(until(chain, t + 1))
        now = torch.stack([joint[before[:, -1] == k].logsumexp(0) for k in range(STATES)], -1).softmax(-1)
        torch.testing.assert_close(filtered.log_filtered[:, t].exp(), now, **exactly)
        torch.testing.assert_close(found.filtered[:, t], now, **exactly)
        torch.testing.assert_close(filtered.log_increments[:, : t + 1].sum(-1), joint.logsumexp(0), **exactly)

    best = markov.viterbi(chain)
    torch.testing.assert_close(best.log_joint, log_joint.amax(0), **exactly)
    assert torch.equal(best.path, paths[log_joint.argmax(0)])

    ends = torch.tensor([FRAMES, 3])
    counted = markov.expected_counts(chain, ends)
    torch.testing.assert_close(counted.initial, smoothed[:, 0].sum(0), **exactly)
    torch.testing.assert_close(counted.transitions, pairs[0].sum(0) + pairs[1, :2].sum(0), **exactly)
    torch.testing.assert_close(counted.smoothed, smoothed, **exactly)
    torch.testing.assert_close(markov.expected_counts(chain).transitions, pairs.sum((0, 1)), **exactly)
    nothing = markov.expected_counts(chain, torch.tensor([0, 0]))
    assert nothing.initial.eq(0).all()
    assert nothing.transitions.eq(0).all()


@every_kind
def test_gradients_equal_autograd_through_all_paths(engine, kind):
    chain = a_chain(kind)
    inputs = [value.clone().requires_grad_() for value in chain]
    weight = torch.tensor([0.3, -2.0])
    found = torch.autograd.grad((weight * markov.log_evidence(Chain(*inputs))).sum(), inputs)
    log_joint, _ = all_paths(Chain(*inputs))
    # impossible paths are left out: autograd of their logsumexp is NaN, the derivative of a zero's term is zero
    kept = log_joint[log_joint[:, 0].isfinite()]
    expected = torch.autograd.grad((weight * kept.logsumexp(0)).sum(), inputs)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_gradients_equal_finite_differences(engine):
    chain = a_chain()
    inputs = [value.clone().requires_grad_() for value in chain]
    assert torch.autograd.gradcheck(lambda *values: markov.log_evidence(Chain(*values)), inputs)


def test_a_second_derivative_is_refused(engine):
    chain = a_chain()
    scores = chain.log_emission.requires_grad_()
    (gradient,) = torch.autograd.grad(markov.log_evidence(chain).sum(), scores, create_graph=True)
    with pytest.raises(RuntimeError, match="a second derivative was asked for"):
        gradient.sum().backward()


def test_a_state_excluded_by_a_thousand_nats_may_be_the_only_way_on(engine):
    """Sums of probabilities lose it by underflow; state 1 cannot be left, and the end wants state 0."""
    A = torch.tensor([[0.5, 0.5], [0.0, 1.0]]).log()
    scores = torch.tensor([[[-1000.0, 0.0], [0.0, 0.0], [0.0, -9000.0]]])
    chain = Chain(torch.tensor([0.5, 0.5]).log(), A, scores)
    log_joint, _ = all_paths(chain)
    torch.testing.assert_close(markov.log_evidence(chain), log_joint.logsumexp(0), rtol=1e-14, atol=0.0)
    torch.testing.assert_close(markov.smooth_states(chain).smoothed[0, :, 0], torch.ones(3))
    torch.testing.assert_close(markov.expected_counts(chain).transitions, torch.tensor([[2.0, 0.0], [0.0, 0.0]]))
    assert torch.equal(markov.viterbi(chain).path, torch.zeros(1, 3, dtype=torch.long))


def test_a_sequence_without_a_path_is_minus_infinity_and_leaves_the_others_alone(engine):
    chain = a_chain()
    lost = chain._replace(log_emission=chain.log_emission.clone())
    lost.log_emission[0, 2] = -torch.inf
    inputs = [value.clone().requires_grad_() for value in lost]
    value = markov.log_evidence(Chain(*inputs))
    assert value[0] == -torch.inf
    found = torch.autograd.grad(value.sum(), inputs)
    alone = [value.clone().requires_grad_() for value in chain._replace(log_emission=chain.log_emission[1:])]
    expected = torch.autograd.grad(markov.log_evidence(Chain(*alone)).sum(), alone)
    torch.testing.assert_close(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1])
    torch.testing.assert_close(found[2][1:], expected[2])
    assert found[2][0].eq(0).all()
    for compute in (markov.smooth_states, markov.expected_counts, markov.sample_paths):
        with pytest.raises(ValueError, match=r"x: sequences 0 have probability 0"):
            compute(lost)


@pytest.mark.parametrize("place", [(0, 1), (1, (0, 1)), (1, slice(None)), (2, (0, 2, 1)), (2, (0, 2))])
def test_nan_is_no_probability_of_zero(engine, place):
    """One entry, or all entries of a row: a maximum that skips NaN would make it minus infinity, or pass it by."""
    which, entry = place
    chain = Chain(*(value.clone() for value in a_chain()))
    chain[which][entry] = torch.nan
    assert markov.log_evidence(chain)[0].isnan()
    assert markov.viterbi(chain).log_joint[0].isnan()


def test_one_frame_and_further_leading_axes(engine):
    one = a_chain(frames=1)
    torch.testing.assert_close(markov.log_evidence(one), (one.log_initial + one.log_emission[:, 0]).logsumexp(-1))
    assert markov.smooth_states(one).pairs.shape == (2, 0, STATES, STATES)
    assert markov.expected_counts(one).transitions.eq(0).all()
    assert torch.equal(markov.viterbi(one).path, (one.log_initial + one.log_emission).argmax(-1))
    many = a_chain("full", 4, 2)
    each = [many._replace(log_emission=scores) for scores in many.log_emission]
    torch.testing.assert_close(markov.log_evidence(many), torch.stack([markov.log_evidence(c) for c in each]))
    assert torch.equal(markov.viterbi(many).path, torch.stack([markov.viterbi(c).path for c in each]))
    torch.testing.assert_close(
        markov.smooth_states(many).pairs, torch.stack([markov.smooth_states(c).pairs for c in each])
    )


def test_the_smoother_makes_pairs_when_they_are_read():
    """They are K times the numbers of all else: of a thousand sequences of a thousand frames gigabytes."""
    scores = torch.randn(4, 50, 40)
    chain = Chain(logits(40), logits(40, 40).requires_grad_(), scores)
    with torch.profiler.profile(profile_memory=True) as run:
        found = markov.smooth_states(chain)
    largest = max((event.cpu_memory_usage for event in run.events()), default=0)
    assert 0 < largest <= 4 * scores.numel() * scores.element_size()
    assert found.pairs.shape == (4, 49, 40, 40)
    assert not found.pairs.requires_grad
    torch.testing.assert_close(found.pairs.sum(-1), found.smoothed[:, :-1])


def test_draws_in_float32_are_those_in_float64():
    """Noise in float32 ends at 1 - 6e-8: a chain that is left with probability 1e-7 would jump a third too rarely."""
    chain = a_chain(frames=50)
    paths = []
    for each in (chain, Chain(*(value.float() for value in chain))):
        torch.manual_seed(1)
        paths.append(markov.sample_paths(each, torch.Size((20,))))
    # 2,000 draws; the rounding of a logarithm, 2e-7, decides one of them with probability below 1e-6
    assert torch.equal(*paths)


@pytest.mark.parametrize("frames", thorough_but((131,), [128, 131, 400]))
@every_kind
def test_long_sequences_in_blocks_equal_those_frame_by_frame(kind, frames):
    chain = a_chain(kind, frames=frames)
    arguments = chain.log_initial, chain.log_transition, chain.log_emission
    assert pytorch._block_length(chain.log_emission) < frames
    for ours, plain in zip(pytorch.forward(*arguments), pytorch._filter(*arguments), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-11, atol=1e-11)
    expected = pytorch._messages(torch.zeros(2, STATES), *arguments[1:])
    torch.testing.assert_close(pytorch.backward(*arguments[1:]), expected, rtol=1e-11, atol=1e-11)
    lost = chain.log_emission.clone()
    lost[0, 70] = -torch.inf
    filtered, increments = pytorch.forward(*arguments[:2], lost)
    assert (filtered[0, 70:] == -torch.inf).all()
    assert increments[0].sum() == -torch.inf
    assert not pytorch.backward(chain.log_transition, lost).isnan().any()


@pytest.mark.parametrize("posterior", [True, False])
def test_draws_have_the_frequencies_of_the_paths(posterior):
    """Chi-square over all 27 paths; this test fails by chance once in a million runs for correct draws."""
    chain = a_chain("full", 1, frames=3)
    if not posterior:
        chain = chain._replace(log_emission=torch.zeros(3, STATES))
    log_joint, paths = all_paths(chain)
    num = 50_000
    drawn = MarkovPaths(chain).sample((num,)).reshape(num, 3)
    code = torch.tensor([9, 3, 1])
    counts = torch.bincount((drawn * code).sum(-1), minlength=27).double()
    expected = num * log_joint.reshape(-1).softmax(0)
    assert torch.equal((paths * code).sum(-1), torch.arange(27))
    few = expected < 5  # together one cell, as the test's distribution is that of many counts
    statistic = ((counts[~few] - expected[~few]) ** 2 / expected[~few]).sum()
    cells = int((~few).sum())
    if few.any():
        statistic += (counts[few].sum() - expected[few].sum()) ** 2 / expected[few].sum()
        cells += 1
    assert statistic < chi2.ppf(1 - 1e-6, cells - 1)


@pytest.mark.parametrize("name", ["compiled", pytest.param("pytorch", marks=pytest.mark.thorough)])
def test_float32_stays_right_over_ten_thousand_frames(name, monkeypatch):
    if name == "pytorch":
        without_numba(monkeypatch)
    exact = a_chain("full", 1, frames=10_000)
    # rounded before both: the question is the recursion's error, not that of its inputs
    rounded = Chain(*(value.float() for value in exact))
    exact, single = Chain(*(value.double() for value in rounded)), rounded
    inputs = [[value.clone().requires_grad_() for value in chain] for chain in (exact, single)]
    values = [markov.log_evidence(Chain(*chain)) for chain in inputs]
    assert values[1].dtype == torch.float32
    torch.testing.assert_close(values[1].double(), values[0], rtol=2e-6, atol=0.0)
    grads = [torch.autograd.grad(v.sum(), i) for v, i in zip(values, inputs, strict=True)]
    torch.testing.assert_close(grads[1][2].double(), grads[0][2], rtol=0.0, atol=2e-5)
    torch.testing.assert_close(grads[1][1].double(), grads[0][1], rtol=1e-4, atol=0.0)
    scores = [markov.path_log_joint(exact, markov.viterbi(chain).path) for chain in (exact, single)]
    torch.testing.assert_close(scores[1], scores[0], rtol=1e-7, atol=0.0)
    torch.testing.assert_close(markov.smooth_states(single).smoothed.double(), markov.smooth_states(exact).smoothed,
                               rtol=0.0, atol=2e-5)  # fmt: skip


def test_distributions_expand_and_refuse_other_shapes():
    chain = a_chain()
    paths = MarkovPaths(chain)
    assert paths.expand((7, 2)).sample().shape == (7, 2, FRAMES)
    draws = paths.sample((7,))
    assert paths.support.check(draws).all()
    assert not paths.support.check(draws + STATES).any()
    expected = markov.path_log_joint(chain, draws) - markov.log_evidence(chain)
    torch.testing.assert_close(paths.expand((7, 2)).log_prob(draws), expected)
    torch.testing.assert_close(paths.expand((7, 2)).smoothed, paths.smoothed)
    assert paths.expand((2,)) is paths
    with pytest.raises(ValueError, match=r"z: expected shape \(..., 5\), got \(2, 4\)"):
        paths.log_prob(draws[0, :, :4])
    # one chain, stretched by `expand`: the draws differ
    single = MarkovPaths(a_chain("full", 1)).expand((500,)).sample()
    assert (single != single[0]).any()

    def emission(z):
        return dist.Normal(z[..., None].double().expand(*z.shape, 2), 1.0).to_event(1)

    density = HiddenMarkov(chain.log_initial, chain.log_transition, emission, FRAMES)
    x = density.sample((4,))
    assert x.shape == (4, FRAMES, 2)
    assert density.support.check(x).all()
    assert density.expand((3, 4)).log_prob(x).shape == (3, 4)
    with pytest.raises(ValueError, match=r"x: expected shape \(..., 5, 2\), got \(4, 3, 2\)"):
        density.log_prob(x[:, :3])


def test_probabilities_keep_their_zeros_and_their_finite_gradients():
    start = torch.tensor([[0.2, 0.8, 0.0], [0.0, 0.5, 0.5], [0.0, 0.0, 1.0]])
    rows = Probabilities(start)
    torch.testing.assert_close(rows().exp(), start)
    rows().masked_fill(~rows.possible, 0.0).sum().backward()
    assert rows.logits.grad.isfinite().all()
    assert rows.logits.isfinite().all()
    rows.maximise(torch.tensor([[3.0, 1.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 0.0]]))
    found = rows().exp()
    torch.testing.assert_close(found, torch.tensor([[0.75, 0.25, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))
    assert rows.logits.isfinite().all()
    rows.initialise()
    torch.testing.assert_close(rows().exp().sum(-1), torch.ones(3))
    assert torch.equal(rows().exp() > 0, start > 0)


def test_the_stationary_start_is_left_as_it_is_by_a_step():
    log_A = logits(4, 4)
    pi = StationaryStart()(log_A).exp()
    torch.testing.assert_close(pi @ log_A.exp(), pi)
    torch.testing.assert_close(pi.sum(), torch.tensor(1.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("leaves", [1e-3, 1e-7, 1e-12])
def test_the_stationary_start_of_a_chain_that_stays_keeps_its_digits(dtype, leaves):
    """I - A would lose them: the rows differ from the identity by less than rounding."""
    A = torch.tensor([[1 - leaves, leaves], [3 * leaves, 1 - 3 * leaves]]).to(dtype)
    pi = StationaryStart()(A.log()).exp()
    torch.testing.assert_close(pi, torch.tensor([0.75, 0.25], dtype=dtype), rtol=1e-6, atol=0.0)


def test_blocks_that_prefer_other_states_keep_the_digits_of_float32():
    """Each block loses a state's message by 10,000 nats to the next: a sum over blocks would round them away."""
    T = 40_000
    block = torch.arange(T) // pytorch._block_length(torch.zeros(1, T, 2)) % 2
    scores = torch.stack([-50.0 * block, 50.0 * (block - 1.0)], -1)[None] + 0.01 * torch.randn(1, T, 2)
    scores, transition = scores.float(), torch.tensor([[0.0, -3e5], [-3e5, 0.0]]).log_softmax(-1).float()
    single, exact = pytorch.backward(transition, scores), pytorch.backward(transition.double(), scores.double())
    error = (single.double() - exact).abs().max() / exact.abs().max()
    # a hundred roundings of the largest message; of a sum over the blocks there would be over three hundred
    assert error < 100 * torch.finfo(torch.float32).eps
