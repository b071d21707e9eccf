"""The kinds of systems that are compared, with the same questions: draws, nats, a representation, images between two.

Images are levels as floats, `(N, D)` in 0 .. L-1, and nats are those of the levels, whatever the density is of: one
scale for all. A system without an answer says None.
"""

from functools import partial
from pathlib import Path
from typing import Any

import pyro
import torch
from budget import Budget
from torch import Tensor

from zoo.data import Split
from zoo.infer import fit, log_likelihood

ADAM = partial(torch.optim.Adam, lr=1e-3, fused=True)
Nats = dict[str, Any]


class Levels:
    """A pair whose x are the levels themselves, and which has no latent: log P(x) is exact."""

    how = "exact"

    def __init__(self, bound: Any, model: Any, guide: Any, *, num_particles: int = 1, batch_size: int = 100) -> None:
        self.loss, self.model, self.guide = bound(model, guide), model, guide
        self.num_particles, self.batch_size = num_particles, batch_size

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.loss.parameters())

    def rows(self, split: Split) -> tuple[Any, Tensor]:
        """The data to train on, and the same once for all, to validate by."""
        return split.levels.float(), split.levels.float()

    def train(self, train: Split, valid: Split, budget: Budget, folder: Path | None, seed: int) -> None:
        """Trains to the end of the budget, in a folder from where it was stopped; the best by validation is kept."""
        fit(self.loss, self.rows(train)[0], epochs=10**6, batch_size=self.batch_size, optimizer=ADAM,
            schedule=budget.schedule, validation=self.rows(valid)[1], callbacks=[budget], seed=seed, out=folder,
            resume=folder is not None, progress=False)  # fmt: skip

    def draw(self, num: int) -> Tensor:
        return self.model.generate(num)[1]

    def nats(self, x: Split, seed: int) -> Nats:
        """log P(x): the mean, its standard error over the images, how it was found, and a looser bound of the same."""
        found = log_likelihood(self.model, self.guide, x.levels.float(), num_particles=self.num_particles, seed=seed)
        return {"log_p": found.mean, "error": found.standard_error, "how": self.how, "looser": found.elbo.mean().item()}

    def represent(self, x: Tensor) -> Tensor | None:
        return None

    def between(self, ends: Tensor, num: int) -> Tensor | None:
        return None


class Latent(Levels):
    """A pair with latents: log P(x) by importance sampling, a bound in expectation, and the guide's means."""

    @property
    def how(self) -> str:
        return f"L_{self.num_particles}"

    @torch.no_grad()
    def sites(self, x: Tensor) -> dict[str, Tensor]:
        """The mean of each latent site given x; of a level below others, given their draws."""
        nodes = pyro.poutine.trace(self.guide.eval()).get_trace(x).nodes
        return {name: node["fn"].mean for name, node in nodes.items() if name.startswith("z")}

    def represent(self, x: Tensor) -> Tensor:
        return torch.cat([*self.sites(x).values()], -1)

    @torch.no_grad()
    def between(self, ends: Tensor, num: int) -> Tensor:
        """Draws, or expected levels of pixels that are independent given the latents on a line between two images'."""
        weight = torch.linspace(0, 1, num).unsqueeze(-1)
        latents = {name: z[0].lerp(z[1], weight) for name, z in self.sites(ends).items()}
        program = pyro.poutine.condition(pyro.poutine.uncondition(self.model.eval()), latents)
        x = pyro.poutine.trace(program).get_trace(ends[:1].expand(num, -1)).nodes["x"]
        pixel = getattr(x["fn"], "base_dist", None)
        return x["value"] if pixel is None else pixel.probs @ torch.arange(float(pixel.probs.shape[-1]))
