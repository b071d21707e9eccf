"""The step of an agent that turns and strides."""

import copy
import math

import pytest
import torch

from zoo import HeadingStep

# ahead, back, left, right, stay
TURN, STRIDE = (0.0, 0.0, 0.3, -0.3, 0.0), (0.2, -0.2, 0.0, 0.0, 0.0)
# an action that does both
BOTH = ((0.0, 0.5, -0.2), (0.4, 0.3, -0.1))


def walked(*lead, T=9, actions=5):
    """A start, actions and noise; the noise is large, so that an order of turn, stride and noise shows."""
    index = torch.randint(actions, (*lead, T))
    return torch.randn(3), torch.nn.functional.one_hot(index, actions).double(), 0.3 * torch.randn(*lead, T, 3)


def folded(step, first, u, noise):
    s = [first + noise[..., 0, :]]
    for t in range(1, u.shape[-2]):
        s.append(step(s[-1], u[..., t, :]) + noise[..., t, :])
    return torch.stack(s, -2)


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize(("turn", "stride"), [(TURN, STRIDE), BOTH])
def test_path_is_the_folded_step(turn, stride, free, double_precision):
    step = HeadingStep(turn, stride, free=free)
    with torch.no_grad():
        for gain in step.parameters():
            gain += 0.2 * torch.randn_like(gain)
    first, u, noise = walked(4, 2, actions=len(turn))
    torch.testing.assert_close(step.path(first, u, noise), folded(step, first, u, noise), rtol=0, atol=1e-13)
    # starts of their own, and actions that particles share
    starts, shared = torch.randn(4, 2, 3), u[0]
    expected = folded(step, starts, shared.expand_as(u), noise)
    torch.testing.assert_close(step.path(starts, shared, noise), expected, rtol=0, atol=1e-13)


def test_actions_turn_and_stride_as_they_are_named(double_precision):
    step = HeadingStep((0, 0, math.pi / 2, -math.pi / 2, 0), (1, -1, 0, 0, 0))
    ahead, back, left, right, stay = torch.eye(5)
    u = torch.stack([stay, ahead, left, ahead, ahead, right, back, stay])
    expected = torch.tensor([[0, 0, 0], [1, 0, 0], [1, 0, 1], [1, 1, 1], [1, 2, 1], [1, 2, 0], [0, 2, 0], [0, 2, 0.0]])
    expected[:, 2] *= math.pi / 2
    torch.testing.assert_close(step.path(torch.zeros(3), u, torch.zeros(8, 3)), expected)
    # the first action is not used
    assert torch.equal(step.path(torch.zeros(3), u.roll(0), torch.zeros(8, 3))[0], torch.zeros(3))
    u[0] = ahead
    torch.testing.assert_close(step.path(torch.zeros(3), u, torch.zeros(8, 3)), expected)


def test_a_full_turn_changes_no_place(double_precision):
    step = HeadingStep(*BOTH)
    first, u, noise = walked(4, actions=3)
    turned = first + torch.tensor([0, 0, 2 * math.pi])
    difference = step.path(turned, u, noise) - step.path(first, u, noise)
    torch.testing.assert_close(difference, (turned - first).expand_as(difference), rtol=0, atol=1e-12)


def test_a_start_that_is_turned_and_shifted_turns_and_shifts_the_walk(double_precision):
    step = HeadingStep(*BOTH)
    first, u, noise = walked(4, actions=3)
    noise[..., :2] = 0  # which does not turn with the map
    angle, shift = 0.7, torch.tensor([3.0, -2.0])
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    moved = torch.cat([turn @ first[:2] + shift, first[2:] + angle])
    path, other = step.path(first, u, noise), step.path(moved, u, noise)
    torch.testing.assert_close(other[..., :2], path[..., :2] @ turn.T + shift, rtol=0, atol=1e-12)
    torch.testing.assert_close(other[..., 2], path[..., 2] + angle, rtol=0, atol=1e-12)


@pytest.mark.parametrize("free", [False, True])
def test_gradients_are_those_of_finite_differences(free, double_precision):
    step = HeadingStep(*BOTH, free=free)
    first, u, noise = walked(2, T=5, actions=3)
    first, noise = first.requires_grad_(), noise.requires_grad_()
    names = [name for name, _ in step.named_parameters()]
    assert names == (["turns", "strides"] if free else ["turn_gain", "stride_gain"])

    def path(first, noise, *values):
        call = torch.func.functional_call
        return call(_Path(step), {f"step.{n}": v for n, v in zip(names, values, strict=True)}, (first, u, noise))

    values = [p.detach().clone().requires_grad_() for p in step.parameters()]
    assert torch.autograd.gradcheck(path, (first, noise, *values))
    step.path(first, u, noise).square().sum().backward()
    assert all(p.grad is not None and bool((p.grad != 0).all()) for p in step.parameters())


class _Path(torch.nn.Module):
    def __init__(self, step):
        super().__init__()
        self.step = step

    def forward(self, *given):
        return self.step.path(*given)


def test_gains_may_be_fixed():
    step = HeadingStep(TURN, STRIDE)
    step.stride_gain.requires_grad_(False)
    first, u, noise = walked(2)
    step.path(first, u.float(), noise).sum().backward()
    assert step.turn_gain.grad is not None
    assert step.stride_gain.grad is None


def test_a_copy_of_a_tensor_is_kept(double_precision):
    turn = torch.tensor(TURN)
    step = HeadingStep(turn, torch.tensor(STRIDE), free=True)
    turn.fill_(9.0)
    assert step.turns.tolist() == list(TURN)
    assert copy.deepcopy(step)(torch.zeros(3), torch.eye(5)).dtype == torch.float64


@pytest.mark.parametrize(
    ("turn", "stride", "message"),
    [
        ((), STRIDE, r"turn: expected a finite number for each action, got \(\)"),
        (0.3, STRIDE, "turn: expected a finite number for each action, got 0.3"),
        (TURN, ((1.0,),), "stride: expected a finite number for each action"),
        ((math.nan,), (1.0,), "turn: expected a finite number"),
        ((1.0,), (math.inf,), "stride: expected a finite number"),
        (TURN, (1.0, 0.0), "stride: expected as many entries as turn has, 5, got 2"),
    ],
)
def test_rows_that_do_not_fit_are_named(turn, stride, message):
    with pytest.raises(ValueError, match=message):
        HeadingStep(turn, stride)
