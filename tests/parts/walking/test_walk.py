"""Walks: their density step by step, their draws, and the steps with and without walls."""

import pytest
import torch
from gaussian_pairs import Z_MAX
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal

from zoo import LinearStep, StoppingStep
from zoo.parts.distributions import DiagonalNormal
from zoo.parts.walking import Walk
from zoo.parts.walking.linear import Moves

N, T, ACTIONS, STATE, SCALE = 3, 5, 4, 2, 0.3

pytestmark = pytest.mark.usefixtures("double_precision")


class Turning(nn.Module):
    """A user's step: s rotates, whatever the action."""

    control_dim, state_dim = ACTIONS, STATE

    def forward(self, s, u):
        return torch.stack([s[..., 1] + u[..., 0], -s[..., 0]], -1)


def stopping():
    """A step whose gate has opinions."""
    step = StoppingStep(ACTIONS, STATE, hidden=(8,), open=0.2)
    nn.init.normal_(step.net[0].weight)
    return step


STEPS = {
    "linear": lambda: LinearStep(ACTIONS, STATE),
    "stopping": stopping,
    "own": Turning,
    "moves": lambda: Moves(ACTIONS),
}


def walk(name, goes_on=False):
    step = STEPS[name]()
    return Walk(step, torch.randn(N, step.state_dim), torch.randn(N, T, ACTIONS), SCALE, goes_on=goes_on)


def one_step(step, s, u):
    """p(s_t | s_{t-1}, u_t) of a single step."""
    if hasattr(step, "transition"):
        return step.transition(s, u, SCALE)
    loc = step(s, u)
    return DiagonalNormal(loc, torch.full_like(loc, SCALE))


@pytest.mark.parametrize("goes_on", [False, True])
@pytest.mark.parametrize("name", STEPS)
def test_density_is_that_of_the_steps_one_after_another(name, goes_on):
    p = walk(name, goes_on)
    s = p.sample((2,))
    assert s.shape == (2, N, T, p.step.state_dim)
    start = (
        one_step(p.step, p.first, p.u[:, 0]) if goes_on else DiagonalNormal(p.first, torch.full_like(p.first, SCALE))
    )
    total = start.log_prob(s[..., 0, :])
    for t in range(1, T):
        total = total + one_step(p.step, s[..., t - 1, :], p.u[:, t]).log_prob(s[..., t, :])
    torch.testing.assert_close(p.log_prob(s), total)
    torch.testing.assert_close(p.expand((2, N)).log_prob(s), total)


@pytest.mark.parametrize("goes_on", [False, True])
@pytest.mark.parametrize("name", ["linear", "moves"])
def test_all_steps_at_once_are_the_steps_in_a_loop(name, goes_on):
    p = walk(name, goes_on)
    torch.manual_seed(3)
    drawn = p.rsample()
    torch.manual_seed(3)
    noise = SCALE * torch.randn(N, T, p.step.state_dim)
    s, states = p.first, []
    for t in range(T):
        s = (p.step(s, p.u[:, t]) if t or goes_on else s) + noise[:, t]
        states.append(s)
    torch.testing.assert_close(drawn, torch.stack(states, -2))


def test_a_linear_walk_is_a_gaussian():
    """Moments of the trajectory from the cumulative sum by hand."""
    p = walk("linear")
    moves = p.step.move(p.u)
    mean = p.first.unsqueeze(-2) + (moves.cumsum(-2) - moves[:, :1])
    each = torch.arange(1, T + 1)
    covariance = SCALE**2 * torch.kron(torch.minimum(each[:, None], each).double(), torch.eye(STATE))
    s = p.sample()
    dense = MultivariateNormal(mean.flatten(1), covariance)
    torch.testing.assert_close(p.log_prob(s), dense.log_prob(s.flatten(1)))
    torch.testing.assert_close(p.likeliest, mean)


def test_a_stopping_step_is_a_density_and_its_draws_follow_it():
    step = StoppingStep(1, 1, hidden=(4,))
    with torch.no_grad():
        step.move.weight.fill_(1.5)
    s, u = torch.tensor([0.4]), torch.tensor([1.0])
    grid = torch.linspace(-6, 8, 20_001).unsqueeze(-1)
    assert abs(torch.trapezoid(step.transition(s, u, SCALE).log_prob(grid).exp(), grid[:, 0]).item() - 1) < 1e-10
    p = Walk(step, s, u.expand(1, 1), SCALE, goes_on=True)
    made = (p.sample((20_000,))[:, 0, 0] > 0.4 + 0.75).double()
    expected = step.gate(s + 1.5, u).sigmoid().item()
    # a draw lies beyond the middle of 1.5 = 5 standard deviations with probability 0.006 of the wrong mode
    assert abs(made.mean() - expected) < Z_MAX * (expected * (1 - expected) / 20_000) ** 0.5 + 0.0063
    torch.testing.assert_close(step(s, u), s + 1.5 * expected)


class Swaying(Turning):
    """A user's transition, whose noise is not r."""

    def transition(self, s, u, scale):
        return Independent(Normal(self(s, u), 3 * torch.as_tensor(scale)), 1)


@pytest.mark.parametrize("goes_on", [False, True])
def test_draws_of_a_transition_have_its_own_noise(goes_on):
    torch.manual_seed(0)
    step, count = Swaying(), 4_000
    p = Walk(step, torch.randn(STATE), torch.randn(T, ACTIONS), torch.tensor(SCALE), goes_on=goes_on)
    s = p.sample((count,))
    before = torch.cat([p.first.expand(count, 1, -1), s[:, :-1]], 1)
    noise = s - (step(before, p.u) if goes_on else torch.cat([before[:, :1], step(before, p.u)[:, 1:]], 1))
    expected = SCALE * torch.tensor([3.0 if goes_on else 1.0] + [3.0] * (T - 1)).unsqueeze(-1)
    # the standard error of a variance of M normal numbers is sqrt(2 / M) of it
    assert ((noise.var(0) / expected.square() - 1).abs() < Z_MAX * (2 / count) ** 0.5).all()


@pytest.mark.parametrize("name", STEPS)
def test_a_score_has_the_axes_of_the_batch_that_a_value_lacks(name):
    """In a sum over particles the score of a walk that is given would else count once for all of them."""
    p = walk(name)
    s = p.sample()
    torch.testing.assert_close(p.expand((6, N)).log_prob(s), p.log_prob(s).expand(6, N))


def test_the_likeliest_walk_takes_or_leaves_each_step():
    p = walk("stopping")
    s = p.first
    states = [s]
    for t in range(1, T):
        moved = p.step.move(p.u[:, t])
        s = s + moved * (p.step.gate(s + moved, p.u[:, t]) > 0).unsqueeze(-1)
        states.append(s)
    torch.testing.assert_close(p.likeliest, torch.stack(states, -2))
    assert not p.has_rsample


def test_a_gate_that_is_held_has_no_gradient_and_the_same_value():
    step = stopping()
    s, u = torch.randn(N, STATE, requires_grad=True), torch.randn(N, ACTIONS)
    torch.testing.assert_close(step.gate(s, u, held=True), step.gate(s, u))
    step.gate(s, u, held=True).sum().backward()
    assert all(p.grad is None for p in step.net.parameters())
    assert (s.grad != 0).any()


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e3])
def test_a_gate_serves_actions_that_all_move_along_a_line(size):
    torch.manual_seed(0)
    for control_dim, state_dim in [(1, 2), (1, 3), (2, 3), (4, 2)] * 10:
        step = StoppingStep(control_dim, state_dim, hidden=()).float()
        along, by = torch.randn(state_dim, 1), size * torch.randn(1, control_dim)
        with torch.no_grad():
            step.move.weight.copy_(along * by)
        s, u = torch.randn(N, state_dim, dtype=torch.float32), torch.randn(N, control_dim, dtype=torch.float32)
        assert step.gate(s, u).isfinite().all()


def test_a_value_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"s: expected shape \(..., 5, 2\), got \(3, 4, 2\)"):
        walk("linear").log_prob(torch.zeros(N, T - 1, STATE))


@pytest.mark.parametrize("step", [LinearStep, StoppingStep])
def test_sizes_of_a_step_are_checked(step):
    with pytest.raises(ValueError, match="control_dim: expected a whole number, at least 1, got 0"):
        step(0, STATE)
    with pytest.raises(ValueError, match=r"state_dim: expected a whole number, at least 1, got 1\.5"):
        step(ACTIONS, 1.5)
    for open in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"open: expected a finite number, got {open}"):
            StoppingStep(ACTIONS, STATE, open=open)


@pytest.mark.parametrize("name", [name for name in STEPS if name != "stopping"])
def test_the_score_of_a_draw_from_its_noise_is_its_density(name):
    """Value and total gradient, that of r too; any other value goes to the density."""
    p = walk(name)
    p.scale = torch.tensor(SCALE, requires_grad=True)
    inputs = [p.scale, *p.step.parameters()]
    s = p.rsample()
    found = [torch.autograd.grad(score(s).sum(), inputs, retain_graph=True, allow_unused=True, materialize_grads=True)
             for score in (p.log_prob_of_draw, p.log_prob)]  # fmt: skip
    torch.testing.assert_close(p.log_prob_of_draw(s), p.log_prob(s))
    torch.testing.assert_close(*found)
    other = s.detach() + 1
    assert torch.equal(p.log_prob_of_draw(other), p.log_prob(other))
    with torch.no_grad():
        s += 1
    assert torch.equal(p.log_prob_of_draw(s), p.log_prob(s))
