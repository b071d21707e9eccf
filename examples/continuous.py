"""The systems of the comparison whose draws are numbers in (0, 1), cut to levels: flows, and the GAN."""

import math
from pathlib import Path
from typing import Any

import torch
from budget import Budget
from gan import GAN, play
from measures import cut
from systems import Levels, Nats
from torch import Tensor
from torch.distributions import TransformedDistribution

from zoo.data import Dequantised, Split, dequantise
from zoo.infer import log_likelihood


class Flow(Levels):
    """A density of dequantised levels, x = (k + u) / L: E_u[log p(x)] - D log L is a bound on log P(k)."""

    def __init__(self, *pair: Any, levels: int, **settings: Any) -> None:
        super().__init__(*pair, **settings)
        self.levels = levels

    @property
    def how(self) -> str:
        return f"bound, {self.num_particles} dequantisations"

    def rows(self, split: Split) -> tuple[Any, Tensor]:
        return Dequantised(split), dequantise(split, seed=123)

    def draw(self, num: int) -> Tensor:
        return cut(super().draw(num), self.levels)

    def nats(self, x: Split, seed: int) -> Nats:
        """log of the mean of p over draws of u, which is tighter than the mean of log p, the looser bound."""
        log_p = torch.stack([
            log_likelihood(self.model, self.guide, dequantise(x, seed=seed + draw), num_particles=1).per_datum
            for draw in range(self.num_particles)
        ]) - x.levels.shape[1] * math.log(self.levels)  # fmt: skip
        tight = log_p.logsumexp(0) - math.log(self.num_particles)
        error = tight.std().item() / math.sqrt(len(tight))
        return {"log_p": tight.mean().item(), "error": error, "how": self.how, "looser": log_p.mean().item()}

    @torch.no_grad()
    def moved(self, x: Tensor, *, back: bool) -> Tensor:
        """The numbers that the flow makes of noise, or with `back` the noise that it makes them of."""
        p, transforms = self.model.likelihood(), []
        while isinstance(p, TransformedDistribution):
            transforms, p = [*p.transforms, *transforms], p.base_dist
        for transform in [t.inv for t in reversed(transforms)] if back else transforms:
            x = transform(x)
        return x

    def represent(self, x: Tensor) -> Tensor:
        return self.moved((x + 0.5) / self.levels, back=True)

    def between(self, ends: Tensor, num: int) -> Tensor:
        first, last = self.represent(ends)
        line = first.lerp(last, torch.linspace(0, 1, num).unsqueeze(-1))
        return cut(self.moved(line, back=False), self.levels)


class Adversary:
    """A GAN, by the same questions: it has no nats, and no representation of a given image."""

    def __init__(self, gan: GAN, *, levels: int) -> None:
        self.gan, self.levels = gan, levels

    @property
    def parameters(self) -> int:
        return sum(p.numel() for part in (self.gan.generator, self.gan.critic) for p in part.parameters())

    def train(self, train: Split, valid: Split, budget: Budget, folder: Path | None, seed: int) -> None:
        """Trains to the end of the budget; there is no likelihood to validate by, so the last step is kept."""
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        play(self.gan, Dequantised(train), budget, seed=seed, file=folder and folder / "gan.pt")

    def images(self, z: Tensor) -> Tensor:
        return cut(self.gan.draw(z), self.levels)

    def draw(self, num: int) -> Tensor:
        return self.images(torch.randn(num, self.gan.latent_dim))

    def nats(self, x: Split, seed: int) -> Nats | None:
        return None

    def represent(self, x: Tensor) -> Tensor | None:
        return None

    def between(self, ends: Tensor, num: int) -> Tensor:
        """Images of a line between two drawn latents, since those of given images are not known."""
        first, last = torch.randn(2, self.gan.latent_dim)
        return self.images(first.lerp(last, torch.linspace(0, 1, num).unsqueeze(-1)))
