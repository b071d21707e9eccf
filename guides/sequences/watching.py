"""The guide of walks that watches how frames change."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from guides.sequences.gated import Gated
from guides.sequences.recalling import Recalling
from zoo.parts.checks import check_offers, check_positive
from zoo.parts.networks import mlp
from zoo.parts.recorded.recorded import recorded_with
from zoo.parts.trajectory.masks import filled
from zoo.parts.walking.linear import Moves
from zoo.parts.walking.walk import Walk

# changes of frames, from none to all, over which the largest share of a step is looked for
CHANGES = torch.logspace(-3, 0, 31).unsqueeze(-1)


class Watching(Recalling):
    """q(s, z | x, u) = prod_t N(s_t; s_{t-1} + h_t M u_t, r_q^2 I) prod_{t > tau} q(z_t | x_t, c_t).

    h_t, the share of a step that was made, is a function of how much the frame changed, mean |x_t - x_{t-1}|: a frame
    that did not change tells of a wall. Its largest value is 1, since h and the model's M share a scale.
    With `gated` the model's gate g helps, h_t = sigmoid(logit g(s_{t-1} + M u_t, u_t) + f(change)): where frames are
    noisy a change tells little. The states are then drawn in a loop.

    `follow`: a plain bound does not find walls: a step into a wall that the model takes for made puts all later states
    off, and the gradient opens the gate everywhere. With `follow` log p(s) - log q(s) keeps its value, but is
    differentiated in the gate alone: the transition learns from the guide's walks, and not the other way. Train with it
    until the gate has learned the walls, and then without.

    References: the switch and the mixture are not in Fraccaro et al. 2018.

    Args:
        model: a `GTMSM` whose step has an M, `move`: `StoppingStep`, or `LinearStep`.
        hidden: widths of the network of the change.
        noise: r_q.
        gated: the model's gate helps; its step is a `StoppingStep`.
        follow: the attribute may be changed between trainings. It is one for all guides of a model, which scores by it.

    Sites, in `pyro.plate("data", N)`: `s` (T, state_dim); `z` (T - tau, latent_dim), unless the model has no codes.

    A change that a missing frame hides counts as a step that was made, or with `gated` as none that tells anything.

    Raises:
        ValueError: the model is no GTMSM; its step has no `move`, or, where `gated` or `follow` need it, no `gate`;
            noise not positive. At each call: as `model.check`.

    Example:
        >>> import guides
        >>> from functools import partial
        >>> from zoo import GTMSM, StoppingStep
        >>> from zoo.parts.conditionals import Normal
        >>> from zoo.parts.networks import WithHead
        >>> parts = WithHead((12,), 4, partial(Normal, heteroscedastic=True)), WithHead((4,), 12, Normal)
        >>> guide = guides.Watching(GTMSM(StoppingStep(5, 2), *parts, 12, 4, memorise=20), follow=True)
        >>> guide.follow = False
    """

    def __init__(self, model: Any, *, hidden: Sequence[int] = (8,), noise: float = 1e-3, gated: bool = False,
                 follow: bool = False) -> None:  # fmt: skip
        super().__init__(model)
        check_offers("Watching", model.step, "move", advice="it watches steps of a StoppingStep or LinearStep")
        check_positive(noise=noise)
        if gated or follow:
            self._check_gate()
        self.noise, self.gated, self.follow = noise, gated, follow
        self.seen = mlp(1, hidden, 1, nn.Tanh)

    @property
    def follow(self) -> bool:
        """The gate learns from the guide's walks, and nothing from the gate."""
        return getattr(self.model.step, "led", False)

    @follow.setter
    def follow(self, follow: bool) -> None:
        # The model scores the walk. A guide that takes the gradient of states and moves away again, and leaves the step
        # alone, runs the gate a second time: a quarter of a training step.
        if self.follow != follow:
            self._check_gate("led")
            self.model.step.led = follow
        # a saved guide is built again with the switch as it stands, whichever guide of the model has set it
        recorded_with(self, follow=follow)

    def _check_gate(self, *others: str) -> None:
        check_offers("Watching", self.model.step, "gate", *others, advice="gated and follow are for a StoppingStep")

    def evidence(self, change: Tensor) -> Tensor:
        """f(change), `(...)`, of mean absolute changes `(..., 1)`."""
        return self.seen((change + 1e-3).log()).squeeze(-1)

    def made(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """h_t of frames 2 to T, `(N, T - 1)`, without the gate."""
        log_share = nn.functional.logsigmoid(self.evidence(_changes(x)))
        largest = nn.functional.logsigmoid(self.evidence(CHANGES.to(x))).max()
        share = (log_share - largest).clamp(max=0.0).exp()
        return share if mask is None else torch.where(_both(mask), share, 1.0)

    def walk(self, x: Tensor, u: Tensor, mask: Tensor | None = None) -> Walk:
        model, x = self.model, filled(x, mask)
        still = torch.zeros_like(u[:, :1, :1])
        if self.gated:
            told = self.evidence(_changes(x))
            told = told if mask is None else torch.where(_both(mask), told, 0.0)
            given = torch.cat([u, torch.cat([still, told.unsqueeze(-1)], -2)], -1)
            return Walk(Gated(model.step, held=self.follow), model.first, given, self.noise)
        share = torch.cat([still, self.made(x, mask).unsqueeze(-1)], -2)
        return Walk(Moves(model.state_dim), model.first, model.step.move(u) * share, self.noise)


def _changes(x: Tensor) -> Tensor:
    return (x[..., 1:, :] - x[..., :-1, :]).abs().mean(-1, keepdim=True)


def _both(mask: Tensor) -> Tensor:
    return mask[..., 1:] & mask[..., :-1]
