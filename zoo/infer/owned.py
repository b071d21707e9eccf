"""The parameters that the guide owns alone, and those that a value depends on."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn


def own_parameters(model: Any, guide: Any) -> list[nn.Parameter]:
    """The parameters that require a gradient and are those of the guide alone."""
    if not isinstance(guide, nn.Module):
        return []
    shared = {id(p) for p in model.parameters()} if isinstance(model, nn.Module) else set()
    return [p for p in guide.parameters() if p.requires_grad and id(p) not in shared]


def leaves(value: Tensor, beyond: Iterable[Tensor] = ()) -> list[Tensor]:
    """The leaves of a value's graph: the tensors to which its `backward` adds a gradient.

    Args:
        beyond: values at which the walk through the graph ends.
    """
    todo, seen, found = [value.grad_fn], {tensor.grad_fn for tensor in beyond}, []
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)
        todo += [following for following, _ in node.next_functions]
    return found


def refuse_untrained(summed: dict[str, Tensor], draws: Iterable[Tensor], own: list[nn.Parameter]) -> None:
    """Refuses parameters of the guide that would get no gradient, since log q of a summed site cancels in the bound.

    Args:
        summed: log q of each summed site's values.
        draws: the guide's samples, whose own parameters get a gradient through them.
        own: the parameters of the guide alone.
    """
    ids = {id(p) for p in own}
    for name, log_q in summed.items():
        if any(id(leaf) in ids for leaf in leaves(log_q, draws)):
            raise ValueError(
                f"site {name!r}: summed out, and its q cancels in this bound, log (1/K) sum_k sum_{name} p / q(rest), "
                f"so the guide's parameters of q({name} | ...) would get no gradient. Train with ELBO or RenyiELBO, or "
                "with labels (SemiSupervised with alpha > 0); as an evaluation the bound is right"
            )
