"""Keys of Pyro's parameter store that two modules claim: an error, where Pyro shares the tensor without a word."""

from collections.abc import Iterator
from typing import Any

import pyro
from pyro.nn import PyroModule
from pyro.params.param_store import param_with_module_name
from torch import nn
from torch.utils.weak import WeakTensorKeyDictionary

from zoo.parts.store_keys import RootModule

# Parameter in the store -> class of its module, for the error: Pyro's store outlives the modules, and knows tensors
# alone. Parameters are held weakly. Written when a module enters the store, not at later steps.
_OWNER = WeakTensorKeyDictionary()


def refuse_claimed_keys(module: Any) -> None:
    """Refuses a module one of whose parameters has the key of another tensor in Pyro's store.

    Raises:
        ValueError: names the module, the class of the other one and the key.
    """
    # a root of the zoo has keys that no other module has; a user's own PyroModule has those of its name
    if not isinstance(module, PyroModule) or isinstance(module, RootModule):
        return
    held = pyro.get_param_store()._params
    for key, parameter in _keys(module, module._pyro_name):
        if key not in held:
            _OWNER[parameter] = type(module).__name__
        elif held[key] is not parameter:
            other = _OWNER.get(held[key], "another module")
            name = module._pyro_name or "no name"
            raise ValueError(
                f"{type(module).__name__} ({name}): Pyro's parameter store holds a tensor of {other} under {key!r}, "
                "and shares it by name, so that one of the two would not be trained. Give each module a name of its "
                'own, super().__init__("name"), or call pyro.clear_param_store() when the other has done its work'
            )


def _keys(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Parameter]]:
    """Each parameter of a PyroModule with its key in the store."""
    # Pyro keeps a constrained parameter under another name in the module than in the store
    for own, parameter in module._parameters.items():
        if parameter is not None:
            yield _join(name, own.removesuffix("_unconstrained")), parameter
    for own, part in module._modules.items():
        if isinstance(part, PyroModule):
            yield from _keys(part, _join(name, own))
        elif part is not None:
            # a part that is no PyroModule is registered by `pyro.module`, which joins names with $$$
            for inner, parameter in part.named_parameters():
                yield param_with_module_name(_join(name, own), inner), parameter


def _join(name: str, own: str) -> str:
    return f"{name}.{own}" if name else own
