"""The path derivative: a guide scored under parameters held constant, so that gradients come by way of its samples.

Constant are the parameters that the guide owns alone. Of those that it shares with the model the score is part of the
gradient: of an exact posterior, which owns none, log p - log q is constant, and so is every estimate of its gradient.
"""

from collections.abc import Callable, Iterable
from typing import Any

import pyro
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd as _Dropout

from zoo.infer.pair import Layout, program
from zoo.parts.aside import streams_kept


class _DetachParams(Messenger):
    """Makes what `pyro.param` gives a constant, but for the names that the model states too."""

    def __init__(self, shared: Iterable[str]) -> None:
        super().__init__()
        self.shared = frozenset(shared)

    def _pyro_post_param(self, msg: Any) -> None:
        if msg["name"] not in self.shared:
            msg["value"] = msg["value"].detach()


class Frozen:
    """Within it parameters of a guide are constants; graphs made before are not touched.

    Args:
        owned: what `own_parameters` gives.
        shared: names of `pyro.param` statements that stay as they are.
    """

    def __init__(self, owned: list[nn.Parameter], shared: Iterable[str] = ()) -> None:
        self.parameters, self.store = owned, _DetachParams(shared)

    def __enter__(self) -> None:
        for p in self.parameters:
            p.requires_grad_(False)
        self.store.__enter__()

    def __exit__(self, *exception: Any) -> None:
        self.store.__exit__(*exception)
        for p in self.parameters:
            p.requires_grad_(True)


def own_parameters(model: Any, guide: Any) -> list[nn.Parameter]:
    """The parameters that require a gradient and are those of the guide alone."""
    if not isinstance(guide, nn.Module):
        return []
    shared = {id(p) for p in model.parameters()} if isinstance(model, nn.Module) else set()
    return [p for p in guide.parameters() if p.requires_grad and id(p) not in shared]


def has_own(model: Any, guide: Any, args: tuple, kwargs: dict, layout: Layout) -> bool:
    """Whether the guide has anything to learn of its own; of a function that can be told by its statements alone."""
    if own_parameters(model, guide) or not isinstance(guide, nn.Module):
        return True
    if "statements" not in layout.found:
        with streams_kept(), torch.no_grad():
            trace = pyro.poutine.trace(program(guide)).get_trace(*args, **kwargs)
        names = {name for name, site in trace.nodes.items() if site["type"] == "param"}
        layout.found["statements"] = names - layout.statements
    return bool(layout.found["statements"])


def leaves(value: Tensor) -> list[Tensor]:
    """The tensors that a value has a gradient for: the leaves of its graph."""
    todo, seen, found = [value.grad_fn], set(), []
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)
        todo += [following for following, _ in node.next_functions]
    return found


def refuse_no_path(
    model: Any, guide: Any, args: tuple, kwargs: dict, layout: Layout, log_q: Callable[[Any], tuple[dict, dict]]
) -> None:
    """Refuses guides that cannot be scored under frozen parameters; once, before the first path derivative.

    A guide that is no Module has parameters that are not found here, so its score would leak into the gradient. One
    that is random beyond its sites (dropout) is another density when it is run again, and log p - log q no bound.

    Args:
        log_q: runs the guide with given values, None: with its own, and gives them and the log densities there.
    """
    modules = guide.named_modules() if isinstance(guide, nn.Module) else ()
    for name, module in modules:  # by name, as it may change hardly anything before training and much after it
        if isinstance(module, _Dropout) and module.training and module.p > 0:
            raise ValueError(
                f"guide: {name} drops entries at random, so it is another density when it is run again, and `sticking` "
                "and `doubly` give no bound. Use eval mode or the plain estimator"
            )
    if layout.batch_dim != -layout.nesting:
        raise ValueError(f"plate {layout.batch_plate!r}: `sticking` and `doubly` need it outside all other plates")
    with streams_kept():
        with torch.no_grad():
            values, drawn = log_q(None)
        with torch.enable_grad(), Frozen(own_parameters(model, guide), layout.statements):
            _, frozen = log_q({name: value.clone() for name, value in values.items()})
    store = pyro.get_param_store()
    shared = {id(p) for p in model.parameters()} if isinstance(model, nn.Module) else set()
    shared |= {id(store._params[name]) for name in layout.statements if name in store}
    shared |= {id(value) for value in (*args, *kwargs.values()) if isinstance(value, Tensor)}
    for name, log_prob in frozen.items():
        if any(id(leaf) not in shared for leaf in leaves(log_prob)):
            raise ValueError(
                f"site {name!r}: the guide's parameters cannot be held constant for `sticking` or `doubly`: it is a "
                "function, not a Module that holds them. Make it a PyroModule"
            )
        if not torch.allclose(log_prob, drawn[name], rtol=1e-2, atol=1e-2):
            raise ValueError(
                f"site {name!r}: the guide is another density when it is run again (dropout?), so `sticking` and "
                "`doubly` give no bound. Use eval mode or the plain estimator"
            )
