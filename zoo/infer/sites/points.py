"""A guide of points: it proposes given values, at which the log weight is the log joint."""

import math
from contextlib import ExitStack
from typing import Any, ClassVar

import pyro
import torch
from pyro.distributions import Delta, TorchDistribution
from torch import Tensor


class PointGuide:
    """A guide that proposes the given values with certainty: log q = 0, so that the log weight is the log joint.

    Args:
        frames: plates of each site.
        event_dims: of the continuous sites.
        discrete: proposals of the discrete sites, which are marked to be summed out.
    """

    def __init__(
        self, frames: dict[str, list[Any]], event_dims: dict[str, int], discrete: dict[str, "AnyValue"]
    ) -> None:
        self.frames, self.event_dims, self.discrete = frames, event_dims, discrete
        self.values: dict[str, Tensor] = {}

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> None:
        frames = {frame.name: frame for own in self.frames.values() for frame in own}
        plates = {name: pyro.plate(name, frame.size, dim=frame.dim) for name, frame in frames.items()}
        for name, own in self.frames.items():
            with ExitStack() as stack:
                for frame in own:
                    stack.enter_context(plates[frame.name])
                if name in self.discrete:
                    pyro.sample(name, self.discrete[name], infer={"enumerate": "parallel"})
                else:
                    pyro.sample(name, _UnscoredPoint(self.values[name], event_dim=self.event_dims[name]))


class AnyValue(TorchDistribution):
    """The uniform distribution over the values of a discrete one, none of which a posterior may rule out.

    Args:
        fn: can list its values.
    """

    has_enumerate_support = True
    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, fn: Any, batch_shape: torch.Size = torch.Size()) -> None:  # noqa: B008
        self.fn = fn
        self.values = fn.enumerate_support(expand=False).reshape(-1, *fn.event_shape)
        super().__init__(batch_shape, fn.event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        return self.fn.support

    def expand(self, batch_shape: Any, _instance: Any = None) -> "AnyValue":
        return AnyValue(self.fn, torch.Size(batch_shape))

    def enumerate_support(self, expand: bool = True) -> Tensor:
        values = self.values.reshape(-1, *(1,) * len(self.batch_shape), *self.event_shape)
        return values.expand(-1, *self.batch_shape, *self.event_shape) if expand else values

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self.values[torch.randint(len(self.values), (*sample_shape, *self.batch_shape))]

    def log_prob(self, value: Tensor) -> Tensor:
        batch = torch.broadcast_shapes(value.shape[: value.dim() - len(self.event_shape)], self.batch_shape)
        return torch.full(batch, -math.log(len(self.values)), device=value.device)


class _UnscoredPoint(Delta):
    """A point mass that is asked for its log density at its own point alone, where it is 0."""

    def log_prob(self, x: Tensor) -> Tensor:
        # Delta compares x with its point, entry by entry: a pass over z that can have only one answer here.
        return x.new_zeros(self.batch_shape)
