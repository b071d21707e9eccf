"""Observation models of poses: shapes, gaps, and all that must make no difference."""

import copy
import math
from functools import partial

import pytest
import torch

from zoo.parts.networks import Maps
from zoo.parts.once import Once, once
from zoo.parts.walking import Rays, Views

PICTURE = Maps(5, 6, 2)
N, TAU, Q, LATENT = 2, 4, 3, 3

RECALLS = {
    "views": partial(Views, int(PICTURE), LATENT, neighbours=3, width=8),
    "rays": partial(Rays, PICTURE, width=8),
    "rays with z": partial(Rays, PICTURE, LATENT, width=8),
    "rays, some columns": partial(Rays, PICTURE, width=8, columns=2),
}


@pytest.fixture(params=RECALLS.values(), ids=RECALLS.keys())
def recall(request, double_precision):
    return request.param()


def memory(*lead, tau=TAU):
    """Poses of stored frames, the frames, and poses that are asked for."""
    return torch.randn(*lead, tau, 3), torch.rand(lead[-1], tau, PICTURE), torch.randn(*lead, Q, 3)


def predicted(recall, c):
    """The mean of the frames, at the most probable z."""
    return recall.emission(recall.likeliest(c) if recall.latent_dim else None, c).mean


@pytest.mark.parametrize("lead", [(N,), (1,), (5, N), (5, 1)], ids=str)
def test_shapes(recall, lead):
    s, x, at = memory(*lead)
    c = recall.context(s, x, at)
    if recall.latent_dim:
        p, q = recall.prior(c), recall.posterior(torch.rand(lead[-1], Q, PICTURE), c)
        assert (p.batch_shape, p.event_shape) == (q.batch_shape, q.event_shape) == ((*lead, Q), (LATENT,))
        assert recall.likeliest(c).shape == (*lead, Q, LATENT)
    p = recall.emission(p.rsample() if recall.latent_dim else None, c)
    assert (p.batch_shape, p.event_shape) == ((*lead, Q), (int(PICTURE),))
    assert (recall.data_dim, recall.latent_dim in (0, LATENT)) == (int(PICTURE), True)


def test_particles_and_sequences_do_not_meet(recall):
    s, x, at = memory(5, N)
    together = predicted(recall, recall.context(s, x, at))
    for k in range(5):
        alone = torch.cat([predicted(recall, recall.context(s[k, n : n + 1], x[n : n + 1], at[k, n : n + 1]))
                           for n in range(N)])  # fmt: skip
        torch.testing.assert_close(together[k], alone, rtol=0, atol=1e-12)


def test_leading_axes_of_the_memory_and_of_the_poses_broadcast(recall):
    s, x, at = memory(N)
    at = at[0]
    expected = recall.context(s, x, at.expand(N, Q, 3))
    torch.testing.assert_close(recall.context(s, x, at), expected)
    torch.testing.assert_close(recall.context(s, x, at.expand(5, N, Q, 3)), expected.expand(5, *expected.shape))
    torch.testing.assert_close(recall.context(s.expand(5, N, TAU, 3), x, at), expected.expand(5, *expected.shape))


def test_each_pose_is_asked_for_alone(recall):
    s, x, at = memory(N)
    together = predicted(recall, recall.context(s, x, at))
    for t in range(Q):
        alone = predicted(recall, recall.context(s, x, at[:, t : t + 1]))
        torch.testing.assert_close(together[:, t : t + 1], alone, rtol=0, atol=1e-12)


def test_the_order_of_the_memory_makes_no_difference(recall):
    recall.eval()
    s, x, at = memory(N)
    order = torch.tensor([2, 0, 3, 1])
    expected = predicted(recall, recall.context(s, x, at))
    found = predicted(recall, recall.context(s[:, order], x[:, order], at))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_every_stored_frame_counts(recall):
    """Not so of `Views`, for which k are looked at; k is the number of all but one here."""
    s, x, at = (v.requires_grad_() for v in memory(N))
    predicted(recall, recall.context(s, x, at)).square().sum().backward()
    assert bool((s.grad != 0).any(-1).all()) or isinstance(recall, Views)
    assert bool((at.grad != 0).any(-1).all())
    assert bool((x.grad != 0).any(-1).all()) or isinstance(recall, Views)


@pytest.mark.parametrize("lead", [(N,), (5, N)], ids=str)
def test_missing_frames_have_no_part(recall, lead):
    s, x, at = memory(*lead)
    mask = torch.tensor([[True, False, True, True], [False, True, True, True]])
    other = torch.where(mask.unsqueeze(-1), x, 1e3 * torch.randn_like(x))
    results = []
    for frames in (x, other):
        given = [v.detach().clone().requires_grad_() for v in (s, frames, at)]
        for p in recall.parameters():
            p.grad = None
        found = predicted(recall, recall.context(*given, mask))
        found.square().sum().backward()
        assert not bool(given[1].grad[~mask].any())
        results.append([found.detach(), *(v.grad for v in given), *(p.grad for p in recall.parameters())])
    for one, two in zip(*results, strict=True):
        assert (one is None and two is None) or torch.equal(one, two)
    # a memory without those frames: in training mode `columns` goes by the place in the memory
    recall.eval()
    with torch.no_grad():
        kept = [
            (s[..., n, m, :].unsqueeze(-3), x[n, m].unsqueeze(-3), at[..., n : n + 1, :, :]) for n, m in enumerate(mask)
        ]
        expected = torch.cat([predicted(recall, recall.context(*given)) for given in kept], -3)
        torch.testing.assert_close(predicted(recall, recall.context(s, x, at, mask)), expected, rtol=0, atol=1e-12)


def test_a_heading_is_an_angle(recall):
    s, x, at = memory(N)
    turns = 2 * math.pi * torch.randint(-3, 4, (N, TAU, 1))
    expected = predicted(recall, recall.context(s, x, at))
    found = recall.context(torch.cat([s[..., :2], s[..., 2:] + turns], -1), x, at - torch.tensor([0, 0, 2 * math.pi]))
    torch.testing.assert_close(predicted(recall, found), expected, rtol=0, atol=1e-10)


def test_a_context_is_computed_once_and_twice_the_same(recall):
    """It draws nothing, not in training mode, and leaves the random numbers where they were."""
    given, state = memory(N), torch.get_rng_state()
    one, two = recall.context(*given), recall.context(*given)
    assert torch.equal(one, two)
    assert torch.equal(torch.get_rng_state(), state)
    with Once():
        assert once(recall.context)(*given) is once(recall.context)(*given)


def test_states_far_apart_and_single_precision(recall):
    recall = copy.deepcopy(recall).float()
    s, x, at = (v.float() for v in memory(N))
    s[:, 0, :2] += 1e7
    at[:, 0, :2] -= 1e7
    s[:, 1] = s[:, 2]
    at[:, 1] = s[:, 2]
    s, at = s.requires_grad_(), at.requires_grad_()
    found = predicted(recall, recall.context(s, x, at, torch.tensor([[True, True, True, False]] * N)))
    found.square().sum().backward()
    assert found.dtype == torch.float32
    gradients = [p.grad for p in recall.parameters() if p.grad is not None]
    assert gradients
    assert all(v.isfinite().all() for v in (found, s.grad, at.grad, *gradients))


def test_a_memory_of_one_frame(recall):
    if isinstance(recall, Views):
        recall = Views(int(PICTURE), LATENT, neighbours=1, width=8)
    s, x, at = memory(N, tau=1)
    assert predicted(recall, recall.context(s, x, at)).isfinite().all()


@pytest.mark.parametrize("which", ["s", "at"])
def test_states_that_are_no_poses_are_named(recall, which):
    s, x, at = memory(N)
    given = {"s": s, "at": at}
    given[which] = given[which][..., :2]
    with pytest.raises(ValueError, match=rf"{which}: expected poses \(x, y, heading\), shape \(\.\.\., 3\), got \(2, "):
        recall.context(x=x, **given)
