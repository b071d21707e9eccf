"""The exponential moving average of a loss's parameters over the steps of a training."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Average:
    """a_n = d_n a_{n-1} + (1 - d_n) w_n over the weights w_n after step n, with d_n = min(decay, (1 + n) / (10 + n)).

    a_0 are the weights before the first step; the ramp, which is that of TensorFlow and of diffusion models, forgets
    them: with a constant decay of 0.999 they would make up a third of the average after 1,000 steps.

    Averaged are the parameters that are trained, those that model and guide share once, and buffers of real numbers, so
    that a batch norm's statistics are those of about the same steps. Buffers of integers, and those that hold an
    infinity, stay the latest. Half-precision weights are averaged in single precision, in which a thousandth of a
    change is no rounding error.

    torch's own `AveragedModel` holds a copy of the whole module, with a constant decay: the pair that the caller holds,
    and the graph that is compiled from it, would not be the averaged one. Its update is used here.

    Args:
        loss: the module, with all its parameters made.
        decay: of the average.
    """

    def __init__(self, loss: nn.Module, decay: float) -> None:
        self.decay, self.num = decay, 0
        # Buffers by their owner, since modules may replace theirs; parameters are those that the optimiser holds.
        self.parameters = {name: p for name, p in loss.named_parameters() if p.requires_grad}
        self.places = {
            f"{path}.{name}".lstrip("."): (owner, name)
            for path, owner in loss.named_modules()
            for name, value in owner.named_buffers(recurse=False)
            if value.is_floating_point()
        }
        self.buffers = {name: at for name, at in self.places.items() if at[0].get_buffer(at[1]).isfinite().all()}
        self.averages = {name: _wide(t.detach()).clone() for name, t in self._latest().items()}

    def _latest(self) -> dict[str, Tensor]:
        buffers = {name: owner.get_buffer(place) for name, (owner, place) in self.buffers.items()}
        return {**self.parameters, **buffers}

    def update(self) -> None:
        """Takes in the weights after a step."""
        self.num += 1
        decay = min(self.decay, (1 + self.num) / (10 + self.num))
        latest = [_wide(t.detach()) for t in self._latest().values()]
        get_ema_multi_avg_fn(decay)(list(self.averages.values()), latest, self.num)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """A context in which the loss has the averages; its own weights are put back afterwards."""
        own = {name: t.detach().clone() for name, t in self._latest().items()}
        self.take()
        try:
            yield
        finally:
            self._put(own)

    def take(self) -> None:
        """Gives the loss the averages."""
        self._put(self.averages)

    def _put(self, values: dict[str, Tensor]) -> None:
        # In place: optimiser, compiled graph and wrapper of several processes hold the tensors themselves.
        with torch.no_grad():
            for name, t in self._latest().items():
                t.copy_(values[name])

    def state_dict(self) -> dict[str, Any]:
        """The averages, and the number of steps that they are of."""
        return {"num": self.num, "averages": self.averages}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a result of `state_dict`."""
        self.num = state["num"]
        # A buffer that was infinite before the training may have come down since: as it began, it goes on.
        self.buffers = {name: at for name, at in self.places.items() if name in state["averages"]}
        self.averages = {
            name: state["averages"][name].to(_wide(t.detach()), copy=True) for name, t in self._latest().items()
        }


def _wide(t: Tensor) -> Tensor:
    return t.float() if t.dtype in (torch.float16, torch.bfloat16) else t
