"""The processes that train together: one, or the ranks of `torch.distributed` (torchrun or Lightning Fabric)."""

import atexit
import os
from typing import Any

import torch
from torch import Tensor, distributed, nn


def _leave() -> None:
    """Ends the processes' connection, unless the caller has."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


class Parallel:
    """Where this process stands among those that train together, and the few collective operations of `fit`.

    Every rank computes its share of each global batch; gradients are summed, so they equal those of a single
    process. In a single process every method is the obvious one and costs nothing.

    Args:
        device: of the loss and the batches; None: where the loss is. "cuda" means the rank's own device.
        fabric: a `lightning_fabric.Fabric`, launched; it then rules devices, precision and wrapping. Only strategies
            that replicate the loss.
    """

    def __init__(self, loss: nn.Module, device: str | torch.device | None, fabric: Any) -> None:
        if fabric is not None and device is not None:
            raise ValueError("give a device or a fabric, not both: the fabric has devices of its own")
        self.fabric = fabric
        if fabric is not None:
            self.device = fabric.device
        else:
            first = next(iter(loss.parameters()), None)
            self.device = torch.device(device if device is not None else "cpu" if first is None else first.device)
            if self.device.type == "cuda" and not torch.cuda.is_available():
                raise ValueError(f"device {str(device)!r}: no CUDA device is available here")
            if self.device.type == "cuda" and self.device.index is None:
                self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", torch.cuda.current_device())))
            if distributed.is_available() and distributed.is_torchelastic_launched():
                if self.device.type == "cuda":
                    torch.cuda.set_device(self.device)
                if not distributed.is_initialized():
                    distributed.init_process_group("nccl" if self.device.type == "cuda" else "gloo")
                    atexit.register(_leave)
        several = distributed.is_available() and distributed.is_initialized()
        self.rank = distributed.get_rank() if several else 0
        self.world = distributed.get_world_size() if several else 1

    def seed(self, seed: int) -> int:
        """Another seed on every rank: with a common one all ranks would draw the same noise."""
        return (seed + 1_000_003 * self.rank) % 2**32

    def share(self, index: Tensor) -> Tensor:
        """This rank's rows of a global batch; empty when there are fewer rows than ranks."""
        return index[self.rank :: self.world] if self.world > 1 else index

    def wrap(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, Any]:
        """The module and optimiser to train with; gradients are averaged over the ranks."""
        if self.fabric is not None:
            return self.fabric.setup(module, optimizer)
        if self.world > 1:
            devices = [self.device] if self.device.type == "cuda" else None
            return nn.parallel.DistributedDataParallel(module, device_ids=devices), optimizer
        return module, optimizer

    def backward(self, total: Tensor, weight: Tensor) -> None:
        """Gradient of `weight * total`, without the multiplication."""
        if self.fabric is not None:
            self.fabric.backward(total, gradient=weight)
        else:
            total.backward(gradient=weight)

    def clip(self, module: nn.Module, optimizer: Any, parameters: list[nn.Parameter], norm: float) -> None:
        if self.fabric is not None:
            self.fabric.clip_gradients(module, optimizer, max_norm=norm, error_if_nonfinite=False)
        else:
            nn.utils.clip_grad_norm_(parameters, norm)

    def sum(self, *values: float) -> list[float]:
        """Sums over the ranks, the same on every rank."""
        if self.world == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(total)
        return total.tolist()

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, on every rank."""
        if self.world == 1:
            return [value]
        values = [None] * self.world
        distributed.all_gather_object(values, value)
        return values
