"""Contexts for evaluations beside a training: they put back modes, gradient flags, buffers, random streams, rounding.

Every context does so after an exception too, since the state belongs to the caller.
"""

import random
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import pyro
import torch
from torch import nn


def torch_state(device: torch.device) -> torch.Tensor:
    """The state of torch's generator for this device; takes about a microsecond."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def set_torch_state(state: torch.Tensor, device: torch.device) -> None:
    """Sets torch's generator for this device to a result of `torch_state`."""
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)


def random_state(device: torch.device) -> dict[str, Any]:
    """The state of every generator that a model or guide may draw from (torch, numpy, python).

    It holds tensors, numbers, words and lists alone: `torch.load(weights_only=True)` reads it.
    """
    # numpy's global generator is the one that `pyro.set_rng_seed` seeds
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)  # noqa: NPY002
    return {
        "torch": torch.get_rng_state(),
        "device": torch_state(device),
        "numpy": (name, keys.tolist(), position, has_gauss, gauss),
        "python": random.getstate(),
    }


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Sets all generators to a result of `random_state`."""
    torch.set_rng_state(state["torch"])
    set_torch_state(state["device"], device)
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, gauss))  # noqa: NPY002
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))


@contextmanager
def streams_kept(seed: int | None = None) -> Iterator[None]:
    """Leaves the generators of torch (all devices), numpy and python where they were.

    Args:
        seed: seeds all of them at the entry; None: they go on from the caller's state.
    """
    # not `random_state`: its lists, which a file needs, take ten times as long as the rest of this
    own = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    # asking for the state of a device that nobody has used yet would start CUDA: seconds, and memory on the device
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        if seed is not None:
            # not torch.manual_seed: it also seeds devices that are not there yet, and those are not put back
            for generator in (torch.default_generator, *(torch.cuda.default_generators if cuda else ())):
                generator.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
        yield
    finally:
        torch.set_rng_state(own[0])
        np.random.set_state(own[1])  # noqa: NPY002
        random.setstate(own[2])
        if cuda:
            torch.cuda.set_rng_state_all(cuda)


def seeded(seed: int | None) -> AbstractContextManager[None]:
    """`streams_kept` with a seed; with None the caller's own streams go on."""
    return nullcontext() if seed is None else streams_kept(seed)


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """Counts denormal numbers, below 1e-38 in float32, as 0 within; this thread's rounding is put back."""
    # torch can set the flag and cannot tell it; half of the least normal number is denormal, or 0
    before = sys.float_info.min / 2 == 0.0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


@contextmanager
def built_beside(dtype: torch.dtype) -> Iterator[None]:
    """Modules made within are those of another process: on the CPU, of this default dtype, with an empty store.

    Streams, default dtype, device, gradient mode and Pyro's parameter store are the caller's again afterwards.
    """
    before = torch.get_default_dtype()
    # a module that is made in inference mode could never be trained
    modes = torch.inference_mode(False), torch.enable_grad(), torch.device("cpu"), pyro.get_param_store().scope()
    with streams_kept(), modes[0], modes[1], modes[2], modes[3]:
        try:
            torch.set_default_dtype(dtype)
            yield
        finally:
            torch.set_default_dtype(before)


@contextmanager
def buffers_kept(*modules: Any) -> Iterator[None]:
    """Puts back the buffers of those arguments that are modules: a batch norm in training mode moves its own."""
    # but for those that no operation writes to in place, such as one matrix expanded over all frames
    buffers = [b for m in modules if isinstance(m, nn.Module) for b in m.buffers() if not _expanded(b)]
    before = [b.clone() for b in buffers]
    try:
        yield
    finally:
        # copied in place: optimisers, captured graphs and averages hold the buffers themselves. Those that have not
        # moved are left alone: a gradient still to come may need them, and refuses one that was written to
        moved = [pair for pair in zip(buffers, before, strict=True) if not torch.equal(*pair)]
        with torch.no_grad():
            for buffer, value in moved:
                buffer.copy_(value)


def _expanded(tensor: torch.Tensor) -> bool:
    return any(step == 0 and size > 1 for step, size in zip(tensor.stride(), tensor.shape, strict=True))


@contextmanager
def evaluating(*modules: Any) -> Iterator[None]:
    """Sets those arguments that are modules, and all their parts, to evaluation mode; puts the modes back."""
    # part by part, not by `train(mode)` of the whole: a part may have been put into another mode than its owner
    modes = [(part, part.training) for m in modules if isinstance(m, nn.Module) for part in m.modules()]
    try:
        for part, _ in modes:
            part.training = False
        yield
    finally:
        for part, mode in modes:
            part.training = mode


@contextmanager
def held(*modules: Any) -> Iterator[None]:
    """As `evaluating`, with all parameters frozen; puts modes and `requires_grad` back."""
    flags = [(p, p.requires_grad) for m in modules if isinstance(m, nn.Module) for p in m.parameters()]
    try:
        for p, _ in flags:
            p.requires_grad_(False)
        with evaluating(*modules):
            yield
    finally:
        for p, flag in flags:
            p.requires_grad_(flag)


@contextmanager
def aside(loss: nn.Module, seed: int | None = None) -> Iterator[None]:
    """An evaluation of a loss amid its training: evaluation mode, no gradient, streams kept (and seeded)."""
    with evaluating(loss), streams_kept(seed), torch.no_grad():
        yield


@contextmanager
def trial(*modules: Any) -> Iterator[None]:
    """A run of the modules in their own modes that leaves no trace: no gradient, streams and buffers put back."""
    with streams_kept(), torch.no_grad(), buffers_kept(*modules):
        yield
