"""Every context puts back what it touches, also when an exception passes through it, and nothing else."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from zoo.parts.aside import (
    aside,
    buffers_kept,
    denormals_flushed,
    evaluating,
    held,
    random_state,
    seeded,
    set_random_state,
    streams_kept,
    trial,
)

CPU = torch.device("cpu")


def module():
    """A batch norm that moves, a dropout that is off in a training whole, a weight that is frozen."""
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.5))
    net[0].bias.requires_grad_(False)
    net[2].eval()
    return net


def state(net):
    """All that a context could have changed, in comparable form."""
    streams = random_state(CPU)
    return {
        "modes": [part.training for part in net.modules()],
        "flags": [p.requires_grad for p in net.parameters()],
        "buffers": [b.tolist() for b in net.buffers()],
        "parameters": [p.tolist() for p in net.parameters()],
        "gradients": torch.is_grad_enabled(),
        "streams": [streams["torch"].tolist(), streams["numpy"], streams["python"]],
    }


def use(net):
    """Draws from every stream and moves the buffers of a training batch norm."""
    net(torch.randn(4, 2))
    return torch.rand(()).item(), np.random.rand(), random.random()  # noqa: NPY002


CONTEXTS = {  # name -> context, and the parts of the state that it keeps
    "streams_kept": (lambda net: streams_kept(), {"streams"}),
    "seeded": (lambda net: seeded(3), {"streams"}),
    "buffers_kept": (buffers_kept, {"buffers"}),
    "evaluating": (evaluating, {"modes", "buffers"}),
    "held": (held, {"modes", "flags", "buffers"}),
    "aside": (aside, {"modes", "gradients", "buffers", "streams"}),
    "trial": (trial, {"gradients", "buffers", "streams"}),
}


def flushes():
    """Tells whether arithmetic of this thread counts denormal numbers as 0."""
    return (torch.tensor(1e-38) * 0.1).item() == 0.0


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("before", [False, True])
def test_denormal_numbers_are_counted_as_0_within_and_as_the_caller_does_after(before, fails):
    torch.set_flush_denormal(before)
    try:
        try:
            with denormals_flushed():
                assert flushes()
                with denormals_flushed():
                    pass
                assert flushes()
                if fails:
                    raise KeyError
        except KeyError:
            assert fails
        assert flushes() == before
    finally:
        torch.set_flush_denormal(False)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("name", CONTEXTS)
def test_a_context_puts_back_all_that_it_touches(name, fails):
    context, kept = CONTEXTS[name]
    net = module()
    before = state(net)
    try:
        with context(net):
            use(net)
            if fails:
                raise KeyError
    except KeyError:
        assert fails
    after = state(net)
    # the run moved streams and buffers, so that a context which keeps them has something to put back
    moved = {"streams", "buffers"} - kept
    assert {key for key in before if before[key] != after[key]} == moved


def test_within_its_context_a_module_is_in_evaluation_mode_frozen_and_without_gradients():
    net = module()
    with evaluating(net, None, print):  # not only modules come as pairs
        assert not any(part.training for part in net.modules())
        assert [p.requires_grad for p in net.parameters()] == [True, False, True, True]
    with held(net):
        assert not any(part.training for part in net.modules())
        assert not any(p.requires_grad for p in net.parameters())
    with aside(net):
        assert not net.training
        assert not torch.is_grad_enabled()
    with trial(net):
        assert net.training
        assert not torch.is_grad_enabled()


def test_a_buffer_is_put_back_in_place():
    net = module()
    buffers = [*net.buffers()]
    with buffers_kept(net):
        use(net)
    assert all(a is b for a, b in zip(net.buffers(), buffers, strict=True))


def test_a_buffer_that_nothing_can_write_to_stands_for_itself():
    """One matrix for all frames, as the fixed parameters of a Kalman model may be given."""
    net = module()
    net.register_buffer("frames", torch.eye(2).expand(3, 2, 2))
    before = state(net)
    with buffers_kept(net):
        use(net)
    assert state(net)["buffers"] == before["buffers"]


def test_a_buffer_that_has_not_moved_may_be_in_a_graph():
    net = nn.Module()
    net.register_buffer("places", torch.tensor([2, 0]))
    w = torch.tensor([1.0, 2.0, 4.0], requires_grad=True)
    value = (w[net.places] ** 2).sum()
    with buffers_kept(net):
        pass
    value.backward()
    assert w.grad.tolist() == [2.0, 0.0, 8.0]


def test_a_seed_starts_every_stream_and_none_goes_on():
    net = module()
    found = []
    for _ in range(2):
        with streams_kept(7):
            found.append(use(net))
        use(net)
    assert found[0] == found[1]
    torch.manual_seed(0)
    with seeded(None):
        first = torch.rand(())
    second = torch.rand(())
    torch.manual_seed(0)
    assert [first, second] == [torch.rand(()), torch.rand(())]


def test_a_random_state_survives_a_file(tmp_path):
    net = module()
    before = random_state(CPU)
    torch.save(before, tmp_path / "state.pt")
    first = use(net)
    set_random_state(torch.load(tmp_path / "state.pt", weights_only=True), CPU)
    assert use(net) == first
