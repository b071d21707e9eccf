"""The state of the random number generators, and evaluations that leave it alone."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyro
import torch
from torch import nn


def torch_state(device: torch.device) -> torch.Tensor:
    """The state of the generator that draws a pair's noise; about a microsecond."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def set_torch_state(state: torch.Tensor, device: torch.device) -> None:
    """Put back what `torch_state` gave."""
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)


def random_state(device: torch.device) -> dict[str, Any]:
    """Every generator that a pair may draw from (torch, numpy, python), in types that `torch.load` reads safely."""
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)  # noqa: NPY002 - as pyro.set_rng_seed
    return {
        "torch": torch.get_rng_state(),
        "device": torch_state(device),
        "numpy": (name, keys.tolist(), position, has_gauss, gauss),
        "python": random.getstate(),
    }


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Put back what `random_state` gave."""
    torch.set_rng_state(state["torch"])
    set_torch_state(state["device"], device)
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, gauss))  # noqa: NPY002
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))


@contextmanager
def streams_kept() -> Iterator[None]:
    """Runs within leave the random generators of torch, numpy and python where they were."""
    cpu = random_state(torch.device("cpu"))
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        yield
    finally:
        set_random_state(cpu, torch.device("cpu"))
        if cuda:
            torch.cuda.set_rng_state_all(cuda)


@contextmanager
def buffers_kept(*modules: Any) -> Iterator[None]:
    """Runs within leave the buffers of the modules as they were: those of a batch norm move at each run in training."""
    buffers = [b for m in modules if isinstance(m, nn.Module) for b in m.buffers()]
    before = [b.clone() for b in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)


@contextmanager
def aside(loss: nn.Module, device: torch.device, seed: int | None = None) -> Iterator[None]:
    """An evaluation beside the training: no gradient, eval mode, and generators and modes as before once it is over."""
    modes = [(module, module.training) for module in loss.modules()]
    state = random_state(device)
    try:
        loss.eval()
        if seed is not None:
            pyro.set_rng_seed(seed)
        with torch.no_grad():
            yield
    finally:
        set_random_state(state, device)
        for module, training in modes:
            module.training = training
