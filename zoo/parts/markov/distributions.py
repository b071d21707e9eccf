"""The hidden Markov model as distributions: over the paths of its states, and over the observations."""

from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Size, Tensor

from zoo.parts.distributions.expanded import expanded
from zoo.parts.markov.chain import Chain, path_log_joint
from zoo.parts.markov.forward_backward import SmoothedStates, log_evidence, sample_paths, smooth_states
from zoo.parts.markov.viterbi import viterbi


class MarkovPaths(TorchDistribution):
    """p(z_1..z_T | x) of a hidden Markov chain, or p(z) where nothing is observed: event `(T,)`, whole paths.

    Args:
        chain: a `zoo.parts.markov.Chain`; the leading axes of its scores are the batch shape. Scores of zero, as of
            frames that are missing, leave the prior p(z).

    Raises:
        ValueError: by draws and by `smoothed`, where no path explains x.
    """

    arg_constraints: dict = {}  # noqa: RUF012
    has_rsample = False
    has_enumerate_support = False  # K^T paths: `terms` refuses to sum them, and log p(x) has them summed already

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        # the smoother's result, shared with the distributions that `expand` makes: filtered and smoothed would run the
        # recursions once each. It belongs to this value of x and of the parameters and ends with them
        self._moments: list[SmoothedStates] = []
        scores = chain.log_emission
        super().__init__(scores.shape[:-2], scores.shape[-2:-1], validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.integer_interval(0, self.chain.log_initial.shape[-1] - 1), 1)

    def expand(self, batch_shape: Size, _instance: object = None) -> "MarkovPaths":
        return expanded(self, batch_shape)

    def sample(self, sample_shape: Size = Size()) -> Tensor:  # noqa: B008
        own = self.chain.log_emission.shape[:-2]
        added = len(self._batch_shape) - len(own)
        lead, inner = self._batch_shape[:added], self._batch_shape[added:]
        scores = self.chain.log_emission.expand(*inner, *self.chain.log_emission.shape[-2:])
        return sample_paths(self.chain._replace(log_emission=scores), Size(sample_shape) + lead)

    def log_prob(self, value: Tensor) -> Tensor:
        if value.shape[-1:] != self._event_shape:
            raise ValueError(f"z: expected shape (..., {self._event_shape[0]}), got {tuple(value.shape)}")
        score = path_log_joint(self.chain, value) - log_evidence(self.chain)
        return score.expand(torch.broadcast_shapes(score.shape, self._batch_shape))

    @property
    def moments(self) -> SmoothedStates:
        """The result of `zoo.parts.markov.smooth_states`: probabilities of states and of neighbouring pairs."""
        if not self._moments:
            self._moments.append(smooth_states(self.chain))
        return self._moments[0]

    @property
    def filtered(self) -> Tensor:
        """p(z_t = k | x_{1:t}), `(..., T, K)`."""
        return self.moments.filtered

    @property
    def smoothed(self) -> Tensor:
        """p(z_t = k | x), `(..., T, K)`."""
        return self.moments.smoothed

    @property
    def mode(self) -> Tensor:
        """The most probable path, `(..., T)`, as Viterbi finds it."""
        return viterbi(self.chain).path


class HiddenMarkov(TorchDistribution):
    """p(x_1..x_T) of the hidden Markov model, the states summed out: event `(T, data_dim)`.

    Pyro's `DiscreteHMM` is this density for complete data, with a transition before the first frame. It has neither
    smoother nor Viterbi's path nor draws of paths given x, and no mask of frames. To save steps in time it multiplies
    K x K matrices, K times the work, and autograd keeps each of them (benchmarks/hidden_markov.py).

    Args:
        log_initial, log_transition: as in `zoo.parts.markov.Chain`.
        emission: `emission(z)` gives p(x_t | z_t = z), batch shape that of z, event shape `(data_dim,)`.
        T: number of frames.
        mask: True where observed, `(..., T)`: its leading axes are the batch shape. `log_prob` is then that of the
            observed frames; of the others the value must be one that the emission can score. Draws fill all frames.
    """

    arg_constraints: dict = {}  # noqa: RUF012
    has_rsample = False

    def __init__(
        self,
        log_initial: Tensor,
        log_transition: Tensor,
        emission: Callable[[Tensor], Any],
        T: int,
        mask: Tensor | None = None,
    ) -> None:
        self.log_initial, self.log_transition, self.emission = log_initial, log_transition, emission
        # `mask_`, since every TorchDistribution has a method `mask`
        self.mask_ = mask
        self.of_states = emission(torch.arange(len(log_initial), device=log_initial.device))
        batch = Size() if mask is None else mask.shape[:-1]
        super().__init__(batch, Size((T, *self.of_states.event_shape)), validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(self.of_states.support, 1)

    def expand(self, batch_shape: Size, _instance: object = None) -> "HiddenMarkov":
        return expanded(self, batch_shape)

    def chain(self, value: Tensor) -> Chain:
        """The chain of an x `(..., T, data_dim)`, as the recursions read it."""
        if value.shape[-2:] != self._event_shape:
            raise ValueError(f"x: expected shape (..., {', '.join(map(str, self._event_shape))}), "
                             f"got {tuple(value.shape)}")  # fmt: skip
        scores = self.of_states.log_prob(value.unsqueeze(-2))
        if self.mask_ is not None:
            scores = torch.where(self.mask_.unsqueeze(-1), scores, 0.0)
        return Chain(self.log_initial, self.log_transition, scores)

    def log_prob(self, value: Tensor) -> Tensor:
        score = log_evidence(self.chain(value))
        return score.expand(torch.broadcast_shapes(score.shape, self._batch_shape))

    def sample(self, sample_shape: Size = Size()) -> Tensor:  # noqa: B008
        with torch.no_grad():
            return self.emission(self.paths(Size(sample_shape) + self._batch_shape)).sample()

    def paths(self, shape: Size) -> Tensor:
        """Draws of z from its prior, `(*shape, T)`."""
        none = self.log_initial.new_zeros(self._event_shape[0], len(self.log_initial))
        return sample_paths(Chain(self.log_initial, self.log_transition, none), shape)
