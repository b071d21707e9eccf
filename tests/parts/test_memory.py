"""The differentiable neural dictionary against brute force over all entries."""

import pytest
import torch

from zoo.parts.networks import memory, retrieve

M, Q, SIZE, DELTA = 7, 4, 3, 1e-4

pytestmark = pytest.mark.usefixtures("double_precision")


def brute(keys, queries, k, delta=DELTA):
    """Weights of all entries, `(..., Q, M)`: 1 / (d^2 + delta) of the k nearest, normalised, and 0 of the others."""
    square = (queries.unsqueeze(-2) - keys.unsqueeze(-3)).square().sum(-1)
    kept = square <= square.sort(-1).values[..., k - 1 : k]
    weights = kept / (square + delta)
    return weights / weights.sum(-1, keepdim=True)


def spread(found, size=M):
    """The weights of what was retrieved at their places, `(..., Q, M)`."""
    return torch.zeros(*found.index.shape[:-1], size).scatter(-1, found.index, found.log_weights.exp())


@pytest.mark.parametrize("k", [1, 2, M])
def test_weights_are_those_of_brute_force_and_so_are_their_gradients(k):
    keys, queries = torch.randn(5, M, SIZE, requires_grad=True), torch.randn(5, Q, SIZE, requires_grad=True)
    ours, theirs = spread(retrieve(keys, queries, k)), brute(keys, queries, k)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    test = torch.randn(5, Q, M)
    for one, other in zip(
        *(torch.autograd.grad((w * test).sum(), (keys, queries)) for w in (ours, theirs)), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


def test_weights_of_all_entries_are_a_softmax():
    keys, queries = torch.randn(M, SIZE), torch.randn(Q, SIZE)
    square = torch.cdist(queries, keys).square()
    torch.testing.assert_close(spread(retrieve(keys, queries, M)), (-(square + DELTA).log()).softmax(-1))


def test_entries_in_another_order_change_nothing():
    keys, queries, values, order = torch.randn(M, SIZE), torch.randn(Q, SIZE), torch.randn(M, 2), torch.randperm(M)
    one, other = retrieve(keys, queries, 3), retrieve(keys[order], queries, 3)
    torch.testing.assert_close(one.of(values), other.of(values[order]))
    torch.testing.assert_close(one.log_weights, other.log_weights)


def test_leading_axes_of_keys_queries_and_values_broadcast():
    keys, queries, values = torch.randn(2, 5, M, SIZE), torch.randn(5, Q, SIZE), torch.randn(5, M, 4)
    found = retrieve(keys, queries, 3)
    for k, n in ((0, 0), (1, 4)):
        alone = retrieve(keys[k, n], queries[n], 3)
        torch.testing.assert_close(found.log_weights[k, n], alone.log_weights)
        torch.testing.assert_close(found.of(values)[k, n], alone.of(values[n]))


def test_queries_are_taken_in_pieces(monkeypatch):
    keys, queries = torch.randn(3, M, SIZE), torch.randn(3, 50, SIZE)
    whole = retrieve(keys, queries, 3)
    held = []
    cdist = torch.cdist
    monkeypatch.setattr(memory.torch, "cdist", lambda a, b, **mode: held.append(cdist(a, b, **mode)) or held[-1])
    monkeypatch.setattr(memory, "MAX_BYTES", 3 * M * 8 * 4)
    for one, other in zip(whole, retrieve(keys, queries, 3), strict=True):
        assert torch.equal(one, other)
    assert len(held) == 13
    assert max(distance.shape[-2] for distance in held) == 4


def test_an_empty_entry_has_weight_zero_and_is_the_last_to_be_retrieved():
    keys, queries = torch.randn(2, M, SIZE, requires_grad=True), torch.randn(2, Q, SIZE)
    mask = torch.ones(2, M, dtype=torch.bool)
    mask[0, 2], mask[1, 1:] = False, False
    found = retrieve(keys, queries, 3, mask=mask)
    weights = spread(found)
    assert (weights[0, :, 2] == 0).all()
    assert (found.index[0] != 2).all()
    torch.testing.assert_close(weights[1], torch.eye(M)[0].expand(Q, M))
    (gradient,) = torch.autograd.grad(found.log_weights[0].sum() + weights[1].sum(), keys)
    assert gradient.isfinite().all()
    assert (gradient[~mask] == 0).all()
    with torch.no_grad():
        keys[~mask] = 1e6
    torch.testing.assert_close(spread(retrieve(keys, queries, 3, mask=mask)), weights)


@pytest.mark.parametrize("shift", [1e3, 1e6])
def test_a_shift_of_all_states_changes_only_what_rounding_takes(shift):
    """The default of `torch.cdist` loses the distances altogether there."""
    keys, queries = torch.randn(M, SIZE), torch.randn(Q, SIZE)
    one, other = retrieve(keys, queries, 3), retrieve(keys + shift, queries + shift, 3)
    torch.testing.assert_close(one.log_weights, other.log_weights, rtol=0, atol=1e-7 * shift / 1e3)


@pytest.mark.parametrize("far", [1e15, 1e25, 1e37])
def test_states_far_apart_have_weights_in_single_precision(far):
    keys = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [2.0, 0.0]], dtype=torch.float32) * far
    keys.requires_grad_()
    queries = torch.tensor([[0.0, 0.0], [0.9, 0.0]], dtype=torch.float32) * far
    found = retrieve(keys, queries, 3)
    assert found.log_weights.isfinite().all()
    assert found.index[:, 0].tolist() == [0, 1]
    found.log_weights.sum().backward()
    assert keys.grad.isfinite().all()


def test_a_state_that_is_far_off_is_no_matter_of_other_memories():
    keys, queries = torch.randn(2, M, SIZE, dtype=torch.float32), torch.randn(2, Q, SIZE, dtype=torch.float32)
    alone = retrieve(keys[1], queries[1], 3)
    keys[0, 0] = 1e25
    found = retrieve(keys, queries, 3)
    assert torch.equal(found.index[1], alone.index)
    torch.testing.assert_close(found.log_weights[1], alone.log_weights)


@pytest.mark.parametrize("content", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("kept", [2, M - 2])
def test_what_stands_in_an_empty_entry_cannot_matter(content, kept):
    # at 2 the empty ones are retrieved too
    keys, queries = torch.randn(M, SIZE), torch.randn(Q, SIZE, requires_grad=True)
    mask, found = torch.arange(M) < kept, []
    for value in (0.0, content):
        held = torch.where(mask.unsqueeze(-1), keys, value)
        weights = spread(retrieve(held, queries, 3, mask=mask))
        found.append((weights, *torch.autograd.grad(weights.square().sum(), queries)))
    assert all(torch.equal(one, other) and one.isfinite().all() for one, other in zip(*found, strict=True))


def test_a_query_that_is_far_off_is_no_matter_of_others():
    keys, queries = torch.randn(M, SIZE, dtype=torch.float32), torch.randn(Q, SIZE, dtype=torch.float32)
    far = torch.cat([queries, queries.new_full((1, SIZE), 1e18)])
    alone, found = retrieve(keys, queries, 3), retrieve(keys, far, 3)
    assert torch.equal(found.index[:-1], alone.index)
    torch.testing.assert_close(found.log_weights[:-1], alone.log_weights)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "neighbours: expected a whole number, at least 1, got 0"),
        ({"k": M + 1}, "neighbours: expected at most 7, the entries of the memory, got 8"),
        ({"delta": 0.0}, "delta: expected a finite number > 0, got 0.0"),
        ({"queries": torch.zeros(Q, 2).double()}, "queries: expected the keys' size, 3, got 2"),
        (
            {"queries": torch.zeros(Q, SIZE, dtype=torch.float32)},
            "queries: expected torch.float64 .* got torch.float32",
        ),
        ({"keys": torch.zeros(M, SIZE).long()}, "keys: expected floats of shape .* got torch.int64"),
        ({"keys": torch.zeros(SIZE)}, r"keys: expected .* of shape \(3,\)"),
        ({"mask": torch.ones(M - 1).bool()}, r"mask: expected torch.bool of shape \(..., 7\), got .* \(6,\)"),
        ({"mask": torch.ones(M)}, "mask: expected torch.bool .* got torch.float32"),
        ({"mask": torch.zeros(M, dtype=torch.bool)}, "mask: a memory has no entry, expected at least one"),
    ],
)
def test_arguments_that_do_not_fit_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        retrieve(**{"keys": torch.zeros(M, SIZE), "queries": torch.zeros(Q, SIZE), "k": 2} | change)
