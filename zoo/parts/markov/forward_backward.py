"""Evidence, filter, smoother and draws of a hidden Markov chain by the forward and the backward recursion.

References: Baum et al. 1970; Rabiner 1989. The gradient of log p(x) is made of the smoother's probabilities (Fisher's
identity), so no loop over time is recorded for autograd.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Size, Tensor
from torch.autograd import Function

from zoo.parts.checks import listed
from zoo.parts.markov.chain import Chain
from zoo.parts.markov.engines import engine_for
from zoo.parts.markov.engines.pytorch import pair_probabilities
from zoo.parts.recursions.first_derivative import differentiable_once


class FilteredStates(NamedTuple):
    """The result of `filter_states`.

    Attributes:
        log_filtered: log p(z_t = k | x_{1:t}), `(..., T, K)`.
        log_increments: log p(x_t | x_{1:t-1}), `(..., T)`; their sum is log p(x).
    """

    log_filtered: Tensor
    log_increments: Tensor


@dataclass(frozen=True)
class SmoothedStates:
    """The result of `smooth_states`.

    Attributes:
        filtered: p(z_t = k | x_{1:t}), `(..., T, K)`.
        smoothed: p(z_t = k | x), `(..., T, K)`.
        log_evidence: log p(x), `(...)`.
    """

    filtered: Tensor
    smoothed: Tensor
    log_evidence: Tensor
    _chain: Chain
    _engine: tuple[Tensor, Tensor]

    @property
    @torch.no_grad()
    def pairs(self) -> Tensor:
        """p(z_t = j, z_{t+1} = k | x), `(..., T - 1, K, K)`."""
        # made when read: these are K times the numbers of the others, and most callers read those alone
        shape, scores, (filtered, messages) = self.smoothed.shape, _flat(self._chain.log_emission), self._engine
        found = pair_probabilities(filtered, self._chain.log_transition, scores, messages)
        return found.to(scores.dtype).reshape(*shape[:-2], shape[-2] - 1, shape[-1], shape[-1])


def log_evidence(chain: Chain) -> Tensor:
    """log p(x), nats, `(...)`; -inf where no path explains x.

    Differentiable once.

    Raises:
        RuntimeError: a second derivative was asked for; or a graph of the loss is being captured (`fit(compile=True)`).
    """
    # here, since it takes a while to import
    from torch.fx.experimental.proxy_tensor import get_proxy_mode

    if get_proxy_mode() is not None:
        # numba's loops write to memory: the capture would take their result for a constant, without a gradient
        raise RuntimeError("the recursion runs outside of torch")
    inputs = (chain.log_initial, chain.log_transition, _flat(chain.log_emission))
    return _Evidence.apply(*map(differentiable_once, inputs)).reshape(chain.log_emission.shape[:-2])


@torch.no_grad()
def filter_states(chain: Chain) -> FilteredStates:
    """Runs the forward recursion; without gradients."""
    shape, flat = chain.log_emission.shape, _flat(chain.log_emission)
    found = engine_for(flat.device).forward(chain.log_initial, chain.log_transition, flat)
    log_filtered, increments = (value.to(flat.dtype) for value in found)
    return FilteredStates(log_filtered.reshape(shape), increments.reshape(shape[:-1]))


@torch.no_grad()
def smooth_states(chain: Chain) -> SmoothedStates:
    """Runs both recursions; without gradients.

    Raises:
        ValueError: no path explains a sequence, which then has no posterior; names the sequence.
    """
    shape, flat = chain.log_emission.shape, _flat(chain.log_emission)
    filtered, increments, messages = both_ways(chain)
    return SmoothedStates(
        filtered.exp().to(flat.dtype).reshape(shape),
        (filtered + messages).softmax(-1).to(flat.dtype).reshape(shape),
        increments.sum(-1).to(flat.dtype).reshape(shape[:-2]),
        chain,
        (filtered, messages),
    )


def both_ways(chain: Chain) -> tuple[Tensor, Tensor, Tensor]:
    """The engine's filter, increments and messages, with one batch axis.

    Raises:
        ValueError: as `smooth_states`.
    """
    flat = _flat(chain.log_emission)
    engine = engine_for(flat.device)
    filtered, increments = engine.forward(chain.log_initial, chain.log_transition, flat)
    refuse_impossible(filtered)
    return filtered, increments, engine.backward(chain.log_transition, flat)


def refuse_impossible(filtered: Tensor) -> None:
    """Refuses sequences that no path explains.

    Raises:
        ValueError: names them.
    """
    lost = ~filtered[..., -1, :].isfinite().any(-1).flatten()
    if lost.any():
        raise ValueError(f"x: sequences {listed(lost.nonzero().flatten().tolist())} have probability 0, or log p(x_t | "
                         "z_t) is NaN: no path of states explains them, so they have no posterior")  # fmt: skip


@torch.no_grad()
def sample_paths(chain: Chain, sample_shape: Size = Size()) -> Tensor:  # noqa: B008
    """Draws of whole paths from p(z | x), `(*sample_shape, ..., T)`: filtering forward, sampling backward.

    Raises:
        ValueError: as `smooth_states`.
    """
    filtered = filter_states(chain).log_filtered
    refuse_impossible(filtered)
    # the largest of log p + Gumbel noise is a draw: all the noise of a path is drawn in one call; in float64, since
    # float32 has no number between 1 - 6e-8 and 1, and a chain that stays would jump too rarely
    uniform = torch.rand(Size(sample_shape) + filtered.shape, dtype=torch.float64, device=filtered.device)
    scores = filtered - (-uniform.clamp(min=torch.finfo(uniform.dtype).tiny).log()).log()
    z = scores[..., -1, :].argmax(-1)
    path, towards = [z], chain.log_transition.T.contiguous()
    for t in range(filtered.shape[-2] - 2, -1, -1):
        z = (scores[..., t, :] + towards[z]).argmax(-1)
        path.append(z)
    return torch.stack(path[::-1], -1)


class _Evidence(Function):
    """log p(x), `(N,)`, with the gradient by the backward recursion."""

    @staticmethod
    def forward(ctx: Any, initial: Tensor, transition: Tensor, scores: Tensor) -> Tensor:
        filtered, increments = engine_for(scores.device).forward(initial, transition, scores)
        ctx.save_for_backward(transition, scores, filtered)
        return increments.sum(-1).to(scores.dtype)

    @staticmethod
    @torch.no_grad()
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        transition, scores, filtered = ctx.saved_tensors
        engine = engine_for(scores.device)
        messages = engine.backward(transition, scores)
        # a sequence that no path explains has no posterior; its -inf is flat, and must not make the others' sums NaN
        weight = torch.where(filtered[:, -1].isfinite().any(-1), grad, 0.0).to(filtered.dtype)[:, None, None]
        smoothed = torch.where(weight == 0, 0.0, weight * (filtered + messages).softmax(-1))
        edges = weight[..., 0].expand(-1, scores.shape[1] - 1)
        counts = engine.pairs(filtered, transition, scores, messages, edges)
        return smoothed[:, 0].sum(0).to(scores.dtype), counts.to(scores.dtype), smoothed.to(scores.dtype)


def _flat(scores: Tensor) -> Tensor:
    """The scores with one batch axis."""
    return scores.reshape(-1, *scores.shape[-2:])
