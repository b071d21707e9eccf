"""The GAN's losses and penalty against their formulas, and its loop: budgets, and going on from a file."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import logsigmoid, softplus

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import gan as gans
from budget import Budget

from zoo.data import Dequantised

GAMMA = 0.7


@pytest.fixture
def gan():
    torch.manual_seed(0)
    return gans.GAN(5, 3, (6, 4)).double()


def gradient(loss, module):
    found = torch.autograd.grad(loss, list(module.parameters()))
    return torch.cat([part.flatten() for part in found])


def by_differences(loss, module, step=1e-6):
    """The gradient of a function of a module's parameters, entry by entry."""
    entries = []
    for parameter in module.parameters():
        flat = parameter.data.view(-1)
        for place in range(len(flat)):
            before = flat[place].item()
            values = []
            for moved in (before + step, before - step):
                flat[place] = moved
                values.append(loss().item())
            flat[place] = before
            entries.append((values[0] - values[1]) / (2 * step))
    return torch.tensor(entries, dtype=torch.double)


def test_losses_are_the_non_saturating_ones(gan):
    """-E log sigmoid(D(real)) - E log(1 - sigmoid(D(drawn))), and -E log sigmoid(D(G(z))): not log(1 - sigmoid)."""
    real, z = torch.rand(7, 5).double(), torch.randn(7, 3).double()
    drawn = gan.generator(z)
    expected = -logsigmoid(gan.critic(real)).mean() - (1 - gan.critic(drawn).sigmoid()).log().mean()
    torch.testing.assert_close(gan.critic_loss(real, drawn, 0.0), expected)
    torch.testing.assert_close(gan.generator_loss(z), -gan.critic(drawn).sigmoid().log().mean())


def test_the_penalty_is_the_squared_slope_of_the_critic_at_real_images(gan):
    """Of a linear critic it is gamma / 2 |w|^2; its gradient, of a second derivative, is gamma w."""
    real, drawn = torch.rand(7, 5).double(), torch.rand(7, 5).double()
    gan.critic = nn.Linear(5, 1).double()
    penalty = gan.critic_loss(real, drawn, GAMMA) - gan.critic_loss(real, drawn, 0.0)
    torch.testing.assert_close(penalty, GAMMA / 2 * gan.critic.weight.square().sum())
    (found,) = torch.autograd.grad(penalty, [gan.critic.weight])
    torch.testing.assert_close(found, GAMMA * gan.critic.weight)


def test_gradients_are_those_of_differences(gan):
    real, z = torch.rand(7, 5).double(), torch.randn(7, 3).double()
    drawn = gan.generator(z).detach()
    # a smooth critic: where a slope changes, at a kink, it has no derivative
    gan.critic = nn.Sequential(nn.Linear(5, 4), nn.Softplus(), nn.Linear(4, 1)).double()
    expected = by_differences(lambda: gan.critic_loss(real, drawn, GAMMA), gan.critic)
    torch.testing.assert_close(
        gradient(gan.critic_loss(real, drawn, GAMMA), gan.critic), expected, rtol=1e-5, atol=1e-8
    )
    expected = by_differences(lambda: softplus(-gan.critic(gan.generator(z))).mean(), gan.generator)
    torch.testing.assert_close(gradient(gan.generator_loss(z), gan.generator), expected, rtol=1e-5, atol=1e-8)


def test_a_step_moves_one_player(gan):
    optimizer = torch.optim.SGD(gan.critic.parameters(), lr=0.1)
    before = [p.clone() for p in gan.generator.parameters()]
    loss = gan.critic_loss(torch.rand(7, 5).double(), gan.generator(torch.randn(7, 3).double()), GAMMA)
    gans.move(loss, optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer))
    assert all(p.grad is None for p in gan.generator.parameters())
    assert all(map(torch.equal, before, gan.generator.parameters()))
    assert all(p.grad is not None for p in gan.critic.parameters())


class Steps(Budget):
    """A budget of steps: as many as it has seconds, so that two trainings end alike."""

    def stepped(self, now=None):
        self.seconds, self.steps = self.seconds + 1.0, self.steps + 1
        return self.share >= 1


def played(steps, file=None, every=5000):
    torch.manual_seed(0)
    made = gans.GAN(4, 3, (8,))
    data = Dequantised(torch.randint(4, (40, 4), generator=torch.Generator().manual_seed(1)), num_levels=4)
    budget = Steps(steps / 60)
    gans.play(made, data, budget, batch_size=8, file=file, every=every)
    return made, budget


def test_a_training_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    whole, _ = played(12)
    first = tmp_path / "gan.pt"
    stopped = []

    def stop(path, function):
        gans_write(path, function)
        stopped.append(path)
        raise KeyboardInterrupt

    gans_write = gans.write
    monkeypatch.setattr(gans, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        played(12, first, every=5)
    monkeypatch.setattr(gans, "write", gans_write)
    resumed, budget = played(12, first)
    assert (stopped, budget.steps) == ([first], 12)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, rtol=0.0, atol=0.0, msg=name)
    # one that is done takes no further step
    again, budget = played(12, first)
    assert budget.steps == 12
    torch.testing.assert_close(again.generator.state_dict(), resumed.generator.state_dict(), rtol=0.0, atol=0.0)


def test_the_rate_falls_and_the_weight_rises_with_the_budget():
    budget = Budget(1.0)
    assert (budget.fall(0), budget.rise(0)) == (1.0, 0.01)
    budget.load_state_dict({"seconds": 30.0, "steps": 3})
    assert budget.fall(0) == pytest.approx(0.505)
    assert budget.rise(0) == 1.0
    assert budget.started() is False
    budget.load_state_dict({"seconds": 61.0, "steps": 9})
    assert (budget.share, budget.started()) == (1.0, True)
    assert budget.fall(0) == pytest.approx(0.01)
