"""The processes that train together: one, or the ranks of `torch.distributed`, started by torchrun or by Fabric."""

import atexit
import os
from typing import Any, Protocol

import torch
from torch import Tensor, distributed, nn


class Engine(Protocol):
    """The part of `lightning_fabric.Fabric` that a training calls. `Plain` has the same without Lightning."""

    @property
    def device(self) -> torch.device:
        """The device of this process."""

    def setup(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, Any]:
        """The module and the optimiser to train with; gradients are averaged over the processes."""

    def backward(self, tensor: Tensor, *, gradient: Tensor) -> None:
        """Adds the gradient of `gradient * tensor` to that of the parameters."""

    def clip_gradients(self, module: nn.Module, optimizer: Any, *, max_norm: float, error_if_nonfinite: bool) -> Any:
        """Scales the gradients down to a global norm of at most `max_norm`."""


class Plain:
    """A process by itself, or one that torchrun started.

    Args:
        loss: names the device, by its first parameter, where `device` is None.
        device: "cuda" means the process's own device.

    Raises:
        ValueError: there is no CUDA device.
    """

    def __init__(self, loss: nn.Module, device: str | torch.device | None) -> None:
        first = next(iter(loss.parameters()), None)
        self.device = torch.device(device if device is not None else "cpu" if first is None else first.device)
        on_cuda = self.device.type == "cuda"
        if on_cuda and not torch.cuda.is_available():
            raise ValueError(f"device {str(device)!r}: no CUDA device is available here")
        if on_cuda and self.device.index is None:
            self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", torch.cuda.current_device())))
        if distributed.is_available() and distributed.is_torchelastic_launched():
            if on_cuda:
                # Collectives of nccl use the current device, which is device 0 in every process until it is set.
                torch.cuda.set_device(self.device)
            if not distributed.is_initialized():
                distributed.init_process_group("nccl" if on_cuda else "gloo")
                # At the exit and not at the end of `fit`: a second training in the same processes needs the group.
                atexit.register(_leave)

    def setup(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, Any]:
        if _world() == 1:
            return module, optimizer
        devices = [self.device] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(module, device_ids=devices), optimizer

    def backward(self, tensor: Tensor, *, gradient: Tensor) -> None:
        tensor.backward(gradient=gradient)

    def clip_gradients(self, module: nn.Module, optimizer: Any, *, max_norm: float, error_if_nonfinite: bool) -> Any:
        # The optimiser's parameters and not the module's: a frozen part may still hold the gradient of an earlier use.
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        return nn.utils.clip_grad_norm_(parameters, max_norm, error_if_nonfinite=error_if_nonfinite)


class Parallel:
    """The place of this process among those that train together, and the collective operations of `fit`.

    Every rank computes its share of each global batch. The gradients of the shares are averaged, and the weight of
    each share is such that the average is the gradient of a single process. In a single process the methods change
    nothing.

    Args:
        loss, device: as in `Plain`.
        fabric: a launched `lightning_fabric.Fabric`, which then rules devices, precision and wrapping; its strategy
            must replicate the loss. None: `Plain`.

    Raises:
        ValueError: both a device and a fabric, or a CUDA device where there is none.
    """

    def __init__(self, loss: nn.Module, device: str | torch.device | None, fabric: Engine | None) -> None:
        if fabric is not None and device is not None:
            raise ValueError("give a device or a fabric, not both: the fabric has devices of its own")
        self.engine: Engine = Plain(loss, device) if fabric is None else fabric
        self.device = self.engine.device
        # Fabric starts its processes as a group of torch.distributed too, so collectives need no second way.
        self.world = _world()
        self.rank = distributed.get_rank() if self.world > 1 else 0

    def seed(self, seed: int) -> int:
        """A seed for each rank: with a common seed all ranks would draw the same noise for their different rows."""
        return (seed + 1_000_003 * self.rank) % 2**32

    def share(self, index: Tensor) -> Tensor:
        """This rank's rows of a global batch; empty when there are fewer rows than ranks."""
        return index[self.rank :: self.world] if self.world > 1 else index

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


def _world() -> int:
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def _leave() -> None:
    """Leaves the group of processes, unless the caller has left it."""
    if distributed.is_initialized():
        distributed.destroy_process_group()
