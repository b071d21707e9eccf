"""A GAN on real digits: a generator and a critic that play against each other, with no likelihood anywhere.

The contrast to all else here. It has no density, so no log p(x) and no bound on it; it has no encoder, so no
representation of an image; it is no Pyro pair, so no objective, guide or check takes it. Its loop is its own, by the
non-saturating loss (Goodfellow et al. 2014) with an R1 penalty (Mescheder et al. 2018).

    python examples/gan.py --minutes 0.5
"""

from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
import tyro
from budget import Budget
from measures import cut, nearest
from report import save
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from zoo.data import Dequantised, load
from zoo.infer import plot_reconstructions
from zoo.parts.recorded.files import write


def network(sizes: tuple[int, ...]) -> nn.Sequential:
    """A perceptron of these widths, without a nonlinearity at its end."""
    layers = [part for pair in pairwise(sizes) for part in (nn.Linear(*pair), nn.LeakyReLU(0.2))]
    return nn.Sequential(*layers[:-1])


class GAN(nn.Module):
    """x = G(z), z ~ N(0, I), x in (0, 1)^data_dim: draws without a density, and a critic D(x) of real against drawn."""

    def __init__(self, data_dim: int, latent_dim: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.generator = nn.Sequential(network((latent_dim, *hidden, data_dim)), nn.Sigmoid())
        self.critic = network((data_dim, *hidden[::-1], 1))
        # The two players move around a balance; the mean of the generator's way lies nearer to it than its end.
        self.average = AveragedModel(self.generator, multi_avg_fn=get_ema_multi_avg_fn(0.99))

    def critic_loss(self, real: Tensor, drawn: Tensor, gamma: float) -> Tensor:
        """E_drawn[softplus(D)] + E_real[softplus(-D)] + gamma / 2 E_real[|dD/dx|^2]."""
        real = real.detach().requires_grad_()
        score = self.critic(real)
        # the graph of the gradient is kept, since the penalty's own gradient moves the critic
        (slope,) = torch.autograd.grad(score.sum(), real, create_graph=True)
        penalty = 0.5 * gamma * slope.square().sum(-1).mean()
        return softplus(self.critic(drawn.detach())).mean() + softplus(-score).mean() + penalty

    def generator_loss(self, z: Tensor) -> Tensor:
        """E_z[softplus(-D(G(z)))], whose gradient stays large where the critic sees through the draws."""
        return softplus(-self.critic(self.generator(z))).mean()

    @torch.no_grad()
    def draw(self, z: Tensor) -> Tensor:
        return self.average(z)


def move(loss: Tensor, optimizer: torch.optim.Optimizer, schedule: LRScheduler) -> None:
    """A step of one player, whose parameters alone get a gradient."""
    optimizer.zero_grad()
    loss.backward(inputs=optimizer.param_groups[0]["params"])
    optimizer.step()
    schedule.step()


def play(gan: GAN, data: Dequantised, budget: Budget, *, batch_size: int = 64, rate: float = 1e-3, gamma: float = 1.0,
         seed: int = 0, file: Path | None = None, every: int = 5000) -> None:  # fmt: skip
    """Trains to the end of the budget; `file`, written every so many steps and at the end, is where it goes on."""
    random = torch.Generator().manual_seed(seed)
    adam = partial(torch.optim.Adam, lr=rate, betas=(0.0, 0.99), fused=True)
    critic, generator = adam(gan.critic.parameters()), adam(gan.generator.parameters())
    falls = budget.schedule(critic), budget.schedule(generator)
    kept = {"gan": gan, "critic": critic, "generator": generator, "budget": budget}
    if file is not None and file.exists():
        saved = torch.load(file)
        random.set_state(saved["random"])
        for name, part in kept.items():
            part.load_state_dict(saved[name])
    done = budget.started()
    while not done:
        (real,) = data.batch(torch.randint(len(data), (batch_size,), generator=random), random)
        z = torch.randn(2, batch_size, gan.latent_dim, generator=random)
        drawn = torch.no_grad()(gan.generator)(z[0])
        move(gan.critic_loss(real, drawn, gamma), critic, falls[0])
        move(gan.generator_loss(z[1]), generator, falls[1])
        gan.average.update_parameters(gan.generator)
        done = budget.stepped()
        if file is not None and (done or budget.steps % every == 0):
            state = {name: part.state_dict() for name, part in kept.items()}
            write(file, partial(torch.save, state | {"random": random.get_state()}))
            budget.started()


def main(*, minutes: float = 0.5, gamma: float = 1.0, seed: int = 0, out: Path = Path("runs/gan")) -> None:
    """Trains for some CPU minutes, and shows draws, the training image nearest to each, and a line between latents."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    digits = load("digits")
    train, test, levels = digits.train.images, digits.test.images, digits.num_levels
    gan, budget = GAN(digits.data_dim, 16, (256, 256)), Budget(minutes)
    play(gan, Dequantised(digits.train), budget, gamma=gamma, seed=seed)
    drawn = cut(gan.draw(torch.randn(len(test), gan.latent_dim)), levels) / (levels - 1)
    (distances, rows), (usual, _) = nearest(drawn, train), nearest(test, train)
    print(f"{budget.steps:,} steps. log p(x): none. Representation of an image: none. Median distance to the nearest "
          f"training image: {distances.median():.2f} of draws, {usual.median():.2f} of test images")  # fmt: skip
    first, last = torch.randn(2, gan.latent_dim)
    line = cut(gan.draw(first.lerp(last, torch.linspace(0, 1, 12).unsqueeze(-1))), levels) / (levels - 1)
    shown = {"digits": test[:12], "draws": drawn[:12], "nearest": train[rows[:12]], "between": line}
    save(plot_reconstructions(shown, digits.shape), out / "gan.png")


if __name__ == "__main__":
    tyro.cli(main)
