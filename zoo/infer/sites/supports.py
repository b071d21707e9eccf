"""Supports that depend on the latents: an observed value outside has the weight 0, which is no error."""

from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine, validation_enabled
from torch import Tensor

from zoo.infer.sites.values import differ, support_of


def depends_on_latents(
    name: str, model: Callable, guide: Callable, args: tuple, kwargs: dict, model_takes_index: bool
) -> bool:
    """Whether the support of an observed site is another one under latents of the prior than under the guide's.

    Discrete latents may agree by chance, so the prior is asked several times.
    """
    model_kwargs = {n: v for n, v in kwargs.items() if n != "index" or model_takes_index}
    with validation_enabled(False):
        posterior = poutine.trace(guide).get_trace(*args, **kwargs)
        given = poutine.trace(poutine.replay(model, trace=posterior)).get_trace(*args, **model_kwargs)
        support = support_of(given.nodes[name]["fn"])
        for _ in range(10):
            prior = poutine.trace(model).get_trace(*args, **model_kwargs)
            if differ(support, support_of(prior.nodes[name]["fn"])):
                return True
    return False


def log_prob_within(fn: Any, value: Tensor) -> Tensor:
    """log density, -inf outside the support; where it is that, nothing has a gradient."""
    inside = support_of(fn).check(value)
    with torch.random.fork_rng(devices=[value.device] if value.is_cuda else []):
        anywhere = fn.sample()  # a value within, so that no NaN is made and then hidden
    seen = inside.reshape(inside.shape + (1,) * fn.event_dim)
    with validation_enabled(False):
        return torch.where(inside, fn.log_prob(torch.where(seen, value, anywhere)), -torch.inf)
