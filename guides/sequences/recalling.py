"""The guide that all guides of walks derive from."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import pyro
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Size, Tensor

from guides.guide import Guide
from zoo.parts.checks import check_offers
from zoo.parts.distributions.expanded import expanded
from zoo.parts.once import once
from zoo.parts.trajectory.masks import filled
from zoo.parts.walking.walk import Walk


class Recalling(Guide):
    """q(s, z | x, u) = q(s | x, u) prod_{t > tau} q(z_t | x_t, c_t), q(z_t | .) by the model's recall (abstract).

    A subclass states `walk`. Where a frame is missing z_t follows the model's p(z_t | s_t, m), its exact posterior.

    Args:
        model: a `GTMSM`.

    Sites, in `pyro.plate("data", N)`: `s` (T, state_dim); `z` (T - tau, latent_dim), unless the model has no codes.

    Raises:
        ValueError: the model is no GTMSM. At each call: as `model.check`.
    """

    # declared by a subclass: how the objectives take site s
    marks: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        check_offers(type(self).__name__, model, "recall", "memorise", "step", advice="it serves zoo.GTMSM")

    @abstractmethod
    def walk(self, x: Tensor, u: Tensor, mask: Tensor | None = None) -> Walk:
        """q(s | x, u) of the frames that are given, event `(T, state_dim)`."""

    def forward(self, x: Tensor, u: Tensor, mask: Tensor | None = None) -> Tensor | None:
        model = self.model
        once(model.check)(x, u, mask)
        with pyro.plate("data", len(x)):
            s = pyro.sample("s", self.walk(x, u, mask), infer=dict(self.marks))
            if not model.latent_dim:
                return None
            c = once(model.context)(s, x, mask)
            seen = None if mask is None else mask[:, model.memorise :]
            q = model.recall.posterior(filled(x[:, model.memorise :], seen), c)
            q = q if seen is None else Where(seen, q, once(model.prior)(c))
            return pyro.sample("z", q.to_event(1))


class Where(TorchDistribution):
    """The density q where a mask is True, and p elsewhere: batch `(..., T)`, event `(latent_dim,)`.

    Args:
        mask: bool, broadcast with the batch.
        q, p: the densities.
    """

    arg_constraints: dict = {}  # noqa: RUF012
    support = constraints.real_vector

    def __init__(self, mask: Tensor, q: TorchDistribution, p: TorchDistribution) -> None:
        # `mask` is a method of every distribution
        self.chosen, self.q, self.p = mask, q, p
        self.has_rsample = q.has_rsample and p.has_rsample
        batch = torch.broadcast_shapes(mask.shape, q.batch_shape, p.batch_shape)
        super().__init__(batch, q.event_shape, validate_args=False)

    def expand(self, batch_shape: Size, _instance: object = None) -> "Where":
        return expanded(self, batch_shape)

    def rsample(self, sample_shape: Size = Size()) -> Tensor:  # noqa: B008
        shape = Size(sample_shape) + self._batch_shape
        q, p = (density.expand(shape).rsample() for density in (self.q, self.p))
        return torch.where(self.chosen.unsqueeze(-1), q, p)

    def log_prob(self, value: Tensor) -> Tensor:
        score = torch.where(self.chosen, self.q.log_prob(value), self.p.log_prob(value))
        return score.expand(torch.broadcast_shapes(score.shape, self._batch_shape))
