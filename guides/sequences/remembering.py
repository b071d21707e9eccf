"""The guide of walks that knows where it is by its actions alone."""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from guides.sequences.recalling import Recalling
from zoo.parts.walking.walk import Walk


class Remembering(Recalling):
    """q(s, z | x, u) = p(s | u) prod_{t > tau} q(z_t | x_t, c_t): the states are the model's own, z by its recall.

    log p - log q of s is exactly 0 (the site is marked `from_model`), and the guide has no parameters of its own.

    References: Fraccaro et al. 2018.

    Args:
        model: a `GTMSM`. A `StoppingStep`, whose draws have no derivative, is trained by `Watching`.

    Sites, in `pyro.plate("data", N)`: `s` (T, state_dim); `z` (T - tau, latent_dim), unless the model has no codes.

    Raises:
        ValueError: the model is no GTMSM. At each call: as `model.check`.

    Example:
        >>> import guides
        >>> from functools import partial
        >>> from zoo import GTMSM, LinearStep
        >>> from zoo.parts.conditionals import Normal
        >>> from zoo.parts.networks import WithHead
        >>> parts = WithHead((12,), 4, partial(Normal, heteroscedastic=True)), WithHead((4,), 12, Normal)
        >>> guide = guides.Remembering(GTMSM(LinearStep(5, 2), *parts, 12, 4, memorise=20))
        >>> list(guide.parameters())
        []
    """

    marks: ClassVar[Mapping[str, Any]] = {"from_model": True}

    def walk(self, x: Tensor, u: Tensor, mask: Tensor | None = None) -> Walk:
        return self.model.walk(u)
