"""A loss as one compiled graph."""

from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx


class Compiled(nn.Module):
    """See `compiled`."""

    def __init__(self, loss: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        super().__init__()
        self.loss = loss
        self.names = tuple(kwargs)
        self.shapes = self._shapes(args, kwargs)
        self.elbo = getattr(loss, "elbo", None)
        if not getattr(self.elbo, "capturable", True):
            raise ValueError(
                f"compiled: the gradient of {type(self.elbo).__name__} with `sticking` or `doubly` is shaped outside "
                "the graph; use the plain estimator, or compile=False"
            )
        named = {**dict(loss.named_parameters()), **dict(loss.named_buffers())}
        self.keys = tuple(named)

        def flat(state: list[Tensor], *batch: Tensor) -> Tensor:
            given = dict(zip(self.names, batch[len(args) :], strict=True))
            return functional_call(loss, dict(zip(self.keys, state, strict=True)), batch[: len(args)], given)

        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            loss(*args, **kwargs)  # the check of the pair looks at values, which a capture does not have
        # Captured below Python: handlers, plates and distributions, which Dynamo cannot follow, leave only tensor
        # operations behind. Schedules are advanced outside the graph; their weight is a tensor, so it stays live.
        if hasattr(self.elbo, "captured"):
            self.elbo.captured = True
        try:
            with pyro.validation_enabled(False):  # no values to look at; the call above has looked
                graph = make_fx(flat)(list(named.values()), *args, *kwargs.values())
        finally:
            if hasattr(self.elbo, "captured"):
                del self.elbo.captured
        self.graph = [torch.compile(graph, fullgraph=True)]  # in a list: its constants are no parameters of ours
        self.state = list(named.values())

    @staticmethod
    def _shapes(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple:
        return tuple((t.shape, t.dtype) for t in (*args, *kwargs.values()))

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        if self._shapes(args, kwargs) != self.shapes or not torch.is_grad_enabled():
            return self.loss(*args, **kwargs)
        if hasattr(self.elbo, "advance"):
            self.elbo.advance()
        return self.graph[0](self.state, *args, *kwargs.values())


def compiled(loss: nn.Module, *args: Tensor, **kwargs: Tensor) -> Compiled:
    """`loss` captured on an example batch with `make_fx` and compiled into one graph; it holds the same parameters.

    It helps small networks, whose steps are mostly Python, and latents sampled in a loop; large networks gain a few
    per cent. Compiling takes 2 to 20 seconds for a VAE. A batch of another shape (the last of an epoch) is computed
    without the graph, and so is anything under `torch.no_grad()`. What Python decides is fixed at capture: modes
    (train, eval), branches, numbers. The compiler draws the noise in its own way, so it is not that of the
    uncompiled loss.

    Args:
        loss: `objective(model, guide)` with an objective of `zoo.infer` (Pyro's own call `.item()`: no graph).
        *args, **kwargs: an example batch.
    """
    return Compiled(loss, args, kwargs)
