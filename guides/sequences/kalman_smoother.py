"""The guide of a Kalman VAE: a by an encoder, frame by frame, and z exactly given a."""

from collections.abc import Callable

import pyro
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from guides.families import Diagonal, Family
from guides.guide import Guide
from guides.sequences.encoded import Encoded
from zoo.parts.checks import check_features, check_offers, check_own, refuse_unobserved
from zoo.parts.once import once
from zoo.parts.trajectory import Carry, StateSpace
from zoo.parts.trajectory.density import Trajectory
from zoo.parts.trajectory.masks import filled


class KalmanSmoother(Guide):
    """q(a, z | x) = prod_t q(a_t | x_t) p(z | a), p(z | a) being the model's own, by Kalman's smoother.

    It serves both forms of a `zoo.KVAE`. In the marginal one z is summed out and a alone is sampled; the log weights of
    the two forms are equal, draw by draw.

    Missing frames need the form with z (`marginal=False`): a_t is drawn from N(C_t z_t, R) there, after z from
    p(z | the observed a), in which the matrices after a missing frame read the expectation of its a
    (`MixedDynamics.completed`); after the last observed frame (z_t, a_t) follows the model's transition. This q is no
    exact conditional, but a density like any other: bounds hold, and importance-weighted ones become tight.

    References: Fraccaro, Kamronn, Paquet and Winther 2017; the paper's family is `BoundedDiagonal`.

    Args:
        model: a `KVAE`, or a model with its `dynamics`, `parts` and `code_dim`.
        encoder: network x_t -> features; it maps the last axis and broadcasts the others.
        context: number of features.
        family: constructor `(features, context) -> Family` of q(a_t | x_t); it may not read a prior.

    Sites, in `pyro.plate("data", N)`: `a` (T, code_dim), or, if the model is not marginal, `z` (T, latent_dim).

    Raises:
        ValueError: the model is no KVAE; the family reads a prior, or is over codes of another size. At each call: as
            `model.check`; a sequence without an observed frame; missing frames in the marginal form; features of
            another size.

    Example:
        >>> import torch, guides
        >>> from zoo import KVAE, MixedDynamics
        >>> from zoo.parts.conditionals import Bernoulli
        >>> from zoo.parts.networks import mlp
        >>> model = KVAE(MixedDynamics(2, 4), mlp(2, (8,)), Bernoulli(8, 16), 16)
        >>> guide = guides.KalmanSmoother(model, encoder=mlp(16, (8,)), context=8)
        >>> guide.posterior(torch.zeros(3, 10, 16)).sample().shape
        torch.Size([3, 10, 2])
    """

    def __init__(
        self,
        model: StateSpace,
        *,
        encoder: nn.Module,
        context: int,
        family: Callable[[int, int], Family] = Diagonal,
    ) -> None:
        super().__init__(model)
        check_offers("KalmanSmoother", model, "dynamics", "parts", "code_dim", "marginal", advice="it serves zoo.KVAE")
        check_own("KalmanSmoother", encoder=encoder, context=context)
        self.encoder, self.context = encoder, context
        self.family = Family.built(family, model.code_dim, context)
        if self.family.features != model.code_dim:
            raise ValueError(f"family: expected one over {model.code_dim} features, got {self.family.features}")
        if self.family.uses_prior:
            raise ValueError(f"KalmanSmoother: {type(self.family).__name__} looks at p(a_t | ...), which q(a_t | x_t) "
                             "does not know: use Diagonal, BoundedDiagonal, FullRank, ...")  # fmt: skip

    def codes(self, x: Tensor, u: Tensor | None = None, mask: Tensor | None = None) -> TorchDistribution:
        """q(a_t | x_t) of every frame: batch `(N, T)`, event `(code_dim,)`. A missing frame is read as zeros."""
        self.model.check(x, u, mask)
        return self._codes(x, mask)

    def _codes(self, x: Tensor, mask: Tensor | None) -> TorchDistribution:
        if mask is not None:
            refuse_unobserved(mask, ", so there is nothing to infer z from: leave it out")
        features = self.encoder(filled(x, mask))
        check_features("encoder", self.encoder, features, (*x.shape[:2], self.context))
        return self.family(None, features)

    def trajectories(
        self, x: Tensor, u: Tensor | None = None, mask: Tensor | None = None, carry: Carry | None = None
    ) -> Tensor:
        """The program of site `z`, whole trajectories of (z_t, a_t), in both forms of the model."""
        with pyro.plate("data", len(x)):
            return pyro.sample("z", self._joint(x, u, mask, carry))

    def _joint(self, x: Tensor, u: Tensor | None, mask: Tensor | None, carry: Carry | None) -> Encoded:
        # before the encoder, which would fail with torch's words; `once`, as the program checks the same
        once(self.model.check)(x, u, mask, carry)
        prior = Trajectory(self.model, self.model.transition, x, u, mask, carry=carry)
        return Encoded(self._codes(x, mask), prior, u, mask)

    def posterior(
        self, x: Tensor, u: Tensor | None = None, mask: Tensor | None = None, carry: Carry | None = None
    ) -> TorchDistribution:
        """q of the guide's site: batch `(N,)`, event `(T, code_dim)` or `(T, latent_dim)`."""
        if not self.model.marginal:
            return self._joint(x, u, mask, carry)
        once(self.model.check)(x, u, mask, carry)
        if mask is not None and not bool(mask.all()):
            raise ValueError("mask: a frame is missing, and its q(a_t | ...) has no density once z is summed out; a "
                             "KVAE with marginal=False, which has the same parameters, takes it")  # fmt: skip
        return self._codes(x, None).to_event(1)

    def forward(
        self, x: Tensor, u: Tensor | None = None, mask: Tensor | None = None, carry: Carry | None = None
    ) -> Tensor:
        if not self.model.marginal:
            return self.trajectories(x, u, mask, carry)
        with pyro.plate("data", len(x)):
            return pyro.sample("a", self.posterior(x, u, mask, carry))
