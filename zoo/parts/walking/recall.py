"""Recalls: what an agent's memory of frames says about the frames at other places."""

from typing import Any, NamedTuple, Protocol

from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from zoo.parts.checks import check_counts, check_density, check_module, check_positive
from zoo.parts.distributions import DiagonalNormal, MixtureOfNormalsDensity
from zoo.parts.networks.memory import Retrieved, retrieve
from zoo.parts.recorded import Recorded


class Recall(Protocol):
    """p(x_t | s_t, m) by way of a context c_t and a code z_t: p(z_t | c_t) p(x_t | z_t, c_t), with q(z_t | x_t, c_t).

    Attributes:
        data_dim: size of x_t.
        latent_dim: size of z_t; 0: there is no code, and p(x_t | c_t) stands alone.
    """

    data_dim: int
    latent_dim: int

    def context(self, s: Tensor, x: Tensor, at: Tensor, mask: Tensor | None = None) -> Any:
        """c_t of some states, from the memory m = (s, x); a function of the arguments alone, without a draw.

        Args:
            s: states of the memorised frames, `(..., tau, state_dim)`; `...` are particles and the batch.
            x: the memorised frames, `(N, tau, data_dim)`.
            at: the states asked for, `(..., Q, state_dim)`.
            mask: bool `(N, tau)`, False where a frame of the memory is missing; x is zero there.
        """

    def prior(self, c: Any) -> TorchDistribution:
        """p(z_t | c_t): batch `(..., Q)`, event `(latent_dim,)`."""

    def emission(self, z: Tensor | None, c: Any) -> TorchDistribution:
        """p(x_t | z_t, c_t): batch `(..., Q)`, event `(data_dim,)`."""

    def posterior(self, x: Tensor, c: Any) -> TorchDistribution:
        """q(z_t | x_t, c_t), x `(N, Q, data_dim)`: batch `(..., Q)`, event `(latent_dim,)`."""

    def likeliest(self, c: Any) -> Tensor | None:
        """The z_t that a prediction without draws takes, `(..., Q, latent_dim)`."""


class Neighbours(NamedTuple):
    """The context of `Nearest`: the k entries of the memory nearest to each state, `(..., Q, k)` and a size.

    Attributes:
        found: their places and weights.
        loc, log_scale: of q(z | x) of their frames.
    """

    found: Retrieved
    loc: Tensor
    log_scale: Tensor


class Nearest(Recorded, nn.Module):
    """p(z_t | s_t, m) = sum_j w_j q(z_t | x_j) over the k memorised frames x_j seen nearest to s_t, p(x_t | z_t).

    w_j is proportional to 1 / (|s_t - s_j|^2 + delta). The memory holds the parameters of q(z | x_j), so the codes of
    memorised frames are no latent variables.

    References: Fraccaro et al. 2018.

    Args:
        encoder: module whose call on frames `(..., data_dim)` is q(z | x), a `DiagonalNormal` (`Encoder`).
        emission: module whose call on codes `(..., latent_dim)` is p(x | z), event `(data_dim,)`.
        data_dim: size of x_t.
        latent_dim: size of z_t.
        neighbours: k.
        delta: squared distance below which frames are as good as at one place.

    Raises:
        TypeError: encoder or emission is no module.
        ValueError: a size or k below 1; delta not positive. At each call: the encoder gives another distribution, or
            codes of another size; the emission gives no distribution, or frames of another size.
    """

    def __init__(
        self,
        encoder: nn.Module,
        emission: nn.Module,
        data_dim: int,
        latent_dim: int,
        *,
        neighbours: int = 5,
        delta: float = 1e-4,
    ) -> None:
        super().__init__()
        for name, part in (("encoder", encoder), ("emission", emission)):
            check_module(name, part, "zoo.parts.networks.WithHead(...)")
        check_counts(data_dim=data_dim, latent_dim=latent_dim, neighbours=neighbours)
        check_positive(delta=delta)
        self.encoder, self.emission_of = encoder, emission
        self.data_dim, self.latent_dim, self.neighbours, self.delta = data_dim, latent_dim, neighbours, delta

    def context(self, s: Tensor, x: Tensor, at: Tensor, mask: Tensor | None = None) -> Neighbours:
        found, q = retrieve(s, at, self.neighbours, self.delta, mask), self.encode(x)
        return Neighbours(found, found.of(q.loc), found.of(q.log_scale))

    def prior(self, c: Neighbours) -> MixtureOfNormalsDensity:
        return MixtureOfNormalsDensity(c.found.log_weights, c.loc, log_scale=c.log_scale)

    def emission(self, z: Tensor | None, c: Neighbours) -> TorchDistribution:
        p = self.emission_of(z)
        check_density("emission", p, z.shape[:-1], (self.data_dim,))
        return p

    def posterior(self, x: Tensor, c: Neighbours) -> DiagonalNormal:
        return self.encode(x)

    def likeliest(self, c: Neighbours) -> Tensor:
        # the frame of the greatest weight: a mean of codes of different places is the code of none
        best = c.found.log_weights.argmax(-1)[..., None, None]
        return c.loc.gather(-2, best.expand(*best.shape[:-1], c.loc.shape[-1])).squeeze(-2)

    def encode(self, x: Tensor) -> DiagonalNormal:
        """q(z | x) of frames, `(..., data_dim)`."""
        # a part of the frames lies scattered, and would be multiplied by a slower way
        q = self.encoder(x.contiguous())
        if not isinstance(q, DiagonalNormal) or q.batch_shape + q.event_shape != (*x.shape[:-1], self.latent_dim):
            shape = q.batch_shape + q.event_shape if isinstance(q, TorchDistribution) else getattr(q, "shape", ())
            raise ValueError(f"encoder: expected a DiagonalNormal of shape {(*x.shape[:-1], self.latent_dim)}, got "
                             f"{type(q).__name__} of shape {tuple(shape)}")  # fmt: skip
        return q
