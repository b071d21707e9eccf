"""p(x_{>tau}, z, s | x_{<=tau}, u): the generative temporal model with spatial memory."""

from typing import Any

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from zoo.parts.checks import (
    check_built_for,
    check_controls,
    check_counts,
    check_frames,
    check_module,
    check_offers,
    check_positive,
    check_sequences,
    refuse_entries,
    refuse_unobserved,
)
from zoo.parts.once import once
from zoo.parts.recorded.recorded import recorded_with
from zoo.parts.store_keys import RootModule
from zoo.parts.trajectory.masks import filled
from zoo.parts.walking.futures import Futures, drawn, likeliest
from zoo.parts.walking.recall import Nearest
from zoo.parts.walking.walk import Walk


class GTMSM(RootModule):
    """p(x_{>tau}, z, s | x_{<=tau}, u) = p(s | u) prod_{t > tau} p(z_t | s_t, m) p(x_t | z_t), with a spatial memory
    m = {(s_t, x_t)}_{t <= tau}.

    An agent walks: s_t is where it is, moved by known actions, p(s | u) = prod_t N(s_t; f(s_{t-1}, u_t), r^2 I). The
    first tau frames are memorised with their places and given, not scored: the bound is over t > tau. A frame after
    them is predicted from the memorised ones by a *recall*. The paper's is a mixture over the k nearest places,
    p(z_t | s_t, m) = sum_j w_j q(z_t | x_j) with w_j proportional to 1 / (|s_t - s_j|^2 + delta) (`Nearest`); others
    are `Views` and `Rays` of `zoo.parts.walking`, which combine views of one scene, and with which p(x_t | z_t, c_t)
    reads the memory too.

    Where the agent is, it knows from the actions alone (`guides.Remembering`), or from changes of the frames besides
    (`guides.Watching`), which tell a step into a wall from one that is made.

    Missing frames: those of the memory have weight 0, those after it are not scored; x may hold anything there.

    References: Fraccaro, Rezende, Zwols, Pritzel, Eslami and Viola 2018. Image walks: crops of 8 x 8, state_dim 2,
    latent_dim 16, tau 256.

    Args:
        step: f, a `zoo.parts.walking.WalkStep`: `LinearStep`, `StoppingStep` (walls), `HeadingStep` (place and
            heading).
        encoder: module whose call on frames is q(z | x), a `DiagonalNormal`.
        emission: module whose call on codes is p(x | z), event `(data_dim,)`.
        data_dim: size of x_t.
        latent_dim: size of z_t.
        memorise: tau, the number of frames that are memorised; the attribute may be changed at any time.
        neighbours, delta: k and delta of `Nearest`.
        noise: r, the standard deviation of a step; the buffer `noise`, which `zoo.infer.Scheduled` can move.
        recall: a `zoo.parts.walking.Recall` in place of encoder, emission and the sizes.

    Sites, in `pyro.plate("data", N)`: `s` (T, state_dim); `z` (T - tau, latent_dim), unless the recall has no codes;
    `x` (T - tau, data_dim), observed.

    Raises:
        TypeError: step, encoder or emission is no module.
        ValueError: a step or recall without the attributes of its protocol, or of states of different sizes; a step
            that gives states of another size; a recall besides the arguments of `Nearest`; memorise below 1 or below
            neighbours; a size or number out of range. At each call: shapes that do not fit, frames that are not finite,
            T not above tau, a sequence without an observed frame in the memory or after it.

    Example:
        >>> import torch
        >>> from functools import partial
        >>> from zoo import GTMSM, LinearStep
        >>> from zoo.parts.conditionals import Normal
        >>> from zoo.parts.networks import WithHead
        >>> encoder = WithHead((192,), 16, partial(Normal, heteroscedastic=True), hidden=(128,))
        >>> emission = WithHead((16,), 192, partial(Normal, scale=0.25, floor=0.02), hidden=(128,))
        >>> model = GTMSM(LinearStep(5, 2), encoder, emission, 192, 16, memorise=128)
        >>> model.generate(torch.zeros(3, 128, 192), torch.zeros(3, 160, 5), num=2).x.shape
        torch.Size([2, 3, 32, 192])
    """

    # read by `zoo.parts.door`: x is (N, T, data_dim), and (T, data_dim) is one series
    of_sequences = True

    def __init__(
        self,
        step: Any,
        encoder: nn.Module | None = None,
        emission: nn.Module | None = None,
        data_dim: int | None = None,
        latent_dim: int | None = None,
        *,
        memorise: int,
        neighbours: int = 5,
        delta: float = 1e-4,
        noise: float = 1e-3,
        recall: Any = None,
    ) -> None:
        super().__init__("model")
        check_module("step", step, "LinearStep(control_dim, state_dim)")
        check_offers("GTMSM", step, "control_dim", "state_dim", advice="a step states the sizes of u_t and s_t")
        check_counts(memorise=memorise, control_dim=step.control_dim, state_dim=step.state_dim)  # type: ignore[arg-type]
        check_positive(noise=noise)
        own = (encoder, emission, data_dim, latent_dim)
        if recall is None:
            recall = Nearest(*own, neighbours=neighbours, delta=delta)  # type: ignore[arg-type]
        elif any(v is not None for v in own) or (neighbours, delta) != (5, 1e-4):
            raise ValueError("recall: given besides encoder, emission, data_dim, latent_dim, neighbours or delta, "
                             "which are arguments of the recall Nearest alone")  # fmt: skip
        needed = ("data_dim", "latent_dim", "context", "prior", "emission", "posterior", "likeliest")
        check_offers("GTMSM", recall, *needed, advice="see zoo.parts.walking.Recall")
        # a recall may read all frames, or some
        if (k := getattr(recall, "neighbours", 1)) > memorise:
            raise ValueError(f"neighbours: expected at most memorise = {memorise}, got {k}")
        # a recall of poses states their size
        if getattr(recall, "state_dim", step.state_dim) != step.state_dim:
            raise ValueError(f"recall: {type(recall).__name__} reads states of size {recall.state_dim}, "
                             f"{type(step).__name__} has {step.state_dim}")  # fmt: skip
        self.step, self.recall, self._memorise = step, recall, memorise
        self.data_dim: int = recall.data_dim
        self.latent_dim: int = recall.latent_dim
        self.state_dim: int = step.state_dim  # type: ignore[assignment]
        self.control_dim: int = step.control_dim  # type: ignore[assignment]
        self._check_step(step)
        self.first: Tensor
        self.register_buffer("first", torch.zeros(self.state_dim))
        self.noise: Tensor
        self.register_buffer("noise", torch.tensor(float(noise)))

    def _check_step(self, step: nn.Module) -> None:
        like = next(step.parameters(), torch.zeros(()))
        # two states, or the two of a path
        s, u = like.new_zeros(2, self.state_dim), like.new_zeros(2, self.control_dim)
        if hasattr(step, "transition"):
            check_offers("step", step, "likeliest", advice="a transition states its most probable value for scale 0")
        for name, arguments in (("forward", (s, u)), ("path", (s[0], u, s)), ("likeliest", (s, u)),
                                ("transition", (s, u, 1.0))):  # fmt: skip
            if not hasattr(step, name):
                continue
            with torch.no_grad():
                found = getattr(step, name)(*arguments)
            # a density has its states as draws
            shape = getattr(found, "shape", None)
            shape = shape() if callable(shape) else shape
            if shape != s.shape:
                became = f"{type(found).__name__} of {None if shape is None else tuple(shape)}"
                raise ValueError(f"step: expected {type(step).__name__}.{name} to map states (..., {self.state_dim}) "
                                 f"to states, {tuple(s.shape)} became {became}")  # fmt: skip

    @property
    def memorise(self) -> int:
        """tau; it may be changed at any time."""
        return self._memorise

    @memorise.setter
    def memorise(self, memorise: int) -> None:
        check_counts(memorise=memorise)
        self._memorise = memorise
        # a saved model is built again with the memory that it has
        recorded_with(self, memorise=memorise)

    def walk(self, u: Tensor, after: Tensor | None = None) -> Walk:
        """p(s | u), event `(T, state_dim)`; `after` `(..., state_dim)`: the walk goes on from a state."""
        if after is None:
            return Walk(self.step, self.first, u, self.noise)
        return Walk(self.step, after, u, self.noise, goes_on=True)

    def context(self, s: Tensor, x: Tensor, mask: Tensor | None = None) -> Any:
        """c_t for t > tau, by which the frames x_{<=tau} enter; arguments as in `forward`."""
        tau = self.memorise
        memory = None if mask is None else mask[..., :tau]
        return self.recall.context(s[..., :tau, :], filled(x[..., :tau, :], memory), s[..., tau:, :], memory)

    def prior(self, c: Any) -> TorchDistribution:
        """p(z_t | s_t, m) for t > tau, event `(latent_dim,)`, from the `context`."""
        return self.recall.prior(c)

    def emission(self, z: Tensor | None, c: Any) -> TorchDistribution:
        """p(x_t | z_t, c_t) for t > tau, event `(data_dim,)`."""
        return self.recall.emission(z, c)

    def forward(self, x: Tensor, u: Tensor, mask: Tensor | None = None) -> Tensor:
        """Runs the generative program: samples s, z and x_{>tau}; returns x_{>tau}.

        Args:
            x: frames, `(N, T, data_dim)`.
            u: actions, `(N, T, control_dim)`; action u_t leads to frame t, and u_1 is not used.
            mask: bool `(N, T)`, True where a frame is observed; None: everywhere.
        """
        once(self.check)(x, u, mask)
        later, seen = x[:, self.memorise :], None if mask is None else mask[:, self.memorise :]
        with pyro.plate("data", len(x)):
            s = pyro.sample("s", self.walk(u))
            c = once(self.context)(s, x, mask)
            z = pyro.sample("z", once(self.prior)(c).to_event(1)) if self.latent_dim else None
            p = self.emission(z, c)
            return pyro.sample("x", (p if seen is None else p.mask(seen)).to_event(1), obs=filled(later, seen))

    def generate(self, x: Tensor, u: Tensor, num: int, *, guide: Any = None, mask: Tensor | None = None) -> Futures:
        """`num` drawn futures of each memory for given actions.

        Args:
            x: memorised frames, `(N, tau, data_dim)`; tau may be another than `memorise`.
            u: actions, `(N, T, control_dim)`, T above tau.
            num: number of draws.
            guide: draws the states of the memorised frames: `guides.Watching`; None: they go by the actions alone.
            mask: bool `(N, tau)`, True where a frame is observed.

        Raises:
            ValueError: as `forward`; T not above tau; num below 1; a guide without `walk`, or of other sizes.
        """
        check_counts(num=num)
        return drawn(self, x, u, num, guide, mask)

    def predict(self, x: Tensor, u: Tensor, *, guide: Any = None, mask: Tensor | None = None) -> Futures:
        """The most probable future of each memory, step by step and without noise; arguments as in `generate`."""
        return likeliest(self, x, u, guide, mask)

    def scored(self, mask: Tensor) -> Tensor:
        """The frames of a mask `(N, T)` that the model scores: the observed ones after the memorised."""
        return mask & (torch.arange(mask.shape[1], device=mask.device) >= self.memorise)

    def check(self, x: Tensor, u: Tensor | None, mask: Tensor | None = None) -> None:
        """Refuses arguments that do not fit, and frames that are not finite where they are observed."""
        tau = self.memorise
        self.check_frames(x, u, mask)
        if x.shape[1] <= tau:
            raise ValueError(f"x: expected more frames than the {tau} that are memorised, got {x.shape[1]}")
        if mask is not None:
            refuse_unobserved(mask[:, :tau], f" among the {tau} that are memorised")
            refuse_unobserved(mask[:, tau:], f" after the {tau} that are memorised")

    def check_frames(self, x: Tensor, u: Tensor | None, mask: Tensor | None = None) -> None:
        """As `check`, for any number of frames."""
        check_sequences(x, self.data_dim, self.first, u, mask)
        check_controls(u, self.control_dim, type(self).__name__)
        refuse_entries(mask, type(self).__name__)
        check_frames(x, mask)

    def check_guide(self, guide: Any) -> None:
        """Refuses a guide that was built for a model of walks of other sizes."""
        other = getattr(guide, "model", None)
        if isinstance(other, GTMSM):
            check_built_for(guide, other, self, "data_dim", "latent_dim", "state_dim", "control_dim")
