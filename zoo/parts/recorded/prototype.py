"""The first call of Pyro's autoguides, in which they make their parameters: its form is saved, and not its data."""

from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuide
from torch import Tensor, nn

from zoo.parts.aside import buffers_kept

_INPUT = "_INPUT"


def form_of(guide: Any) -> dict[str, Any] | None:
    """The arguments of an autoguide's first call: shape and dtype, and the site that observed each of them.

    Raises:
        ValueError: an argument is neither a tensor nor a plain value, or the guide does not keep its first call.
    """
    trace = guide.prototype_trace if isinstance(guide, AutoGuide) else None
    if trace is None:
        return None
    observed = {id(site["value"]): name for name, site in trace.nodes.items() if site.get("is_observed")}
    given = trace.nodes[_INPUT]
    if "args" not in given:
        # AutoStructured drops them
        raise ValueError(f"guide: {type(guide).__name__} does not keep its first call, in which it made its parameters")
    return {
        "args": [_form(value, observed, f"argument {i + 1}") for i, value in enumerate(given["args"])],
        "kwargs": {name: _form(value, observed, name) for name, value in given["kwargs"].items()},
    }


def _form(value: Any, observed: dict[int, str], name: str) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if not isinstance(value, Tensor):
        raise ValueError(f"guide: its parameters were made at a call with {name} = {type(value).__name__}, no tensor")
    form = {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
    return form | ({"site": observed[id(value)]} if id(value) in observed else {})


def run_once(guide: AutoGuide, model: nn.Module, form: dict[str, Any]) -> None:
    """Calls a guide once, on data of the saved form that the model has drawn, so that it makes its parameters."""
    # a model of the caller's may be anywhere; its buffers stay as they are
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    args = [_like(value, device) for value in form["args"]]
    kwargs = {name: _like(value, device) for name, value in form["kwargs"].items()}
    # drawn by the model, since other values may lie outside the support of an observed site
    with buffers_kept(model), torch.no_grad(), poutine.block():
        nodes = poutine.trace(poutine.uncondition(model)).get_trace(*args, **kwargs).nodes
    args = [_drawn(value, given, nodes) for value, given in zip(form["args"], args, strict=True)]
    kwargs = {name: _drawn(form["kwargs"][name], given, nodes) for name, given in kwargs.items()}
    with buffers_kept(model), poutine.block(), pyro.validation_enabled(False):
        guide(*args, **kwargs)


def _like(value: Any, device: torch.device) -> Any:
    if not isinstance(value, dict):
        return value
    # ones: a mask in which everything is observed
    return torch.ones(value["shape"], dtype=getattr(torch, value["dtype"]), device=device)


def _drawn(value: Any, given: Any, nodes: Any) -> Any:
    drawn = nodes[value["site"]]["value"] if isinstance(value, dict) and value.get("site") in nodes else None
    return given if drawn is None or drawn.shape != given.shape else drawn.to(given.dtype)
