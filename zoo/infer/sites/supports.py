"""Supports compared: between model and guide, and between one draw of the latents and the next.

An observed value outside a support that moves with the latents has weight 0 there, which is right; outside a support
that does not move, it is an error of the data or of the model.
"""

from typing import Any

import torch
from pyro import poutine, validation_enabled
from pyro.distributions import constraints
from torch import Tensor

from zoo.infer.sites.programs import Programs
from zoo.infer.sites.values import support_of
from zoo.parts.checks import element


def same_support(a: Any, b: Any) -> bool:
    """Tells whether two supports are one, so that a value in the one lies in the other."""
    a, b = element(a), element(b)
    return a is b or (type(a) is type(b) and not differ(a, b))


def differ(a: Any, b: Any) -> bool:
    """Tells whether two constraints of one kind have different bounds."""
    for name, left in vars(a).items():
        right = vars(b)[name]
        if isinstance(left, constraints.Constraint):
            if type(left) is not type(right) or differ(left, right):
                return True
        elif isinstance(left, Tensor) and isinstance(right, Tensor):
            if not torch.equal(*torch.broadcast_tensors(left, right)):
                return True
        elif isinstance(left, Tensor) or isinstance(right, Tensor) or left != right:
            return True
    return False


def moves_with_latents(name: str, programs: Programs) -> bool:
    """Tells whether the support of an observed site differs between latents of the guide and latents of the prior."""
    with programs.trial(), validation_enabled(False):
        posterior = poutine.trace(programs.guide).get_trace(*programs.args, **programs.kwargs)
        given = poutine.trace(poutine.replay(programs.model, trace=posterior))
        support = support_of(given.get_trace(*programs.args, **programs.model_kwargs).nodes[name]["fn"])
        # ten draws of the prior: a discrete latent may agree with the guide's by chance, hardly ten times
        for _ in range(10):
            prior = poutine.trace(programs.model).get_trace(*programs.args, **programs.model_kwargs)
            if differ(support, support_of(prior.nodes[name]["fn"])):
                return True
    return False


def log_prob_within(fn: Any, value: Tensor) -> Tensor:
    """The log density of a value, -inf outside the support; the entries outside have no gradient."""
    inside = support_of(fn).check(value)
    # Values outside are replaced before scoring, not their scores after it: `torch.where` would give the score a zero
    # gradient, and zero times the infinite derivative of log is NaN.
    with torch.random.fork_rng(devices=[value.device] if value.is_cuda else []):
        anywhere = fn.sample()
    seen = inside.reshape(inside.shape + (1,) * fn.event_dim)
    with validation_enabled(False):
        return torch.where(inside, fn.log_prob(torch.where(seen, value, anywhere)), -torch.inf)
