"""Unique keys for a module's parameters in Pyro's parameter store.

The store goes by name. Two PyroModules of one name share their parameters there without a word: under `pyro.infer.SVI`
one of them is never trained, and a parameter under a constraint takes the other's value at the first call.
"""

from itertools import count
from typing import Any

from pyro.nn import PyroModule
from pyro.nn.module import _Context
from pyro.poutine.messenger import Messenger

from zoo.parts.door import open_methods
from zoo.parts.given.gaps import refuse_unmasked
from zoo.parts.recorded import Recorded

# Numbers the roots (outermost modules) of the process. Pyro's store outlives every module in it, so no key may ever be
# given out twice; `id` will not do, as Python gives the id of a dead module to a later one.
_NUMBERS = count(1)


class _SiteNames(Messenger):
    """Removes a root's number from the names of its sites."""

    # a `PyroSample` names its site after the module, and a number there would differ from run to run of a script
    def __init__(self, number: int) -> None:
        super().__init__()
        self.mark = f"#{number}"

    def _pyro_sample(self, msg: Any) -> None:
        msg["name"] = msg["name"].replace(self.mark, "", 1)


class _Numbered(_Context):
    """Pyro's context of a root, shared with its parts during a call, and a number that no other root has."""

    def __init__(self) -> None:
        super().__init__()
        self.number = next(_NUMBERS)
        self.site_names = _SiteNames(self.number)

    def __reduce__(self) -> tuple:
        # copies, pickles and loads all come through here: each gets a number of its own
        return _Numbered, ()

    def __enter__(self) -> None:
        # a root that calls itself by way of a part enters again; the handler is entered once
        if not self.active:
            self.site_names.__enter__()
        super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        if not self.active:
            self.site_names.__exit__(*exception)


class RootModule(Recorded, PyroModule):
    """A PyroModule with store keys of its own, also after a copy, a pickle and a load: `model#3.weight`.

    Methods that are given data, such as `log_prob`, take them in any form (`zoo.parts.door.methods`).

    Site names bear no number: `model.weight`. As part of another PyroModule the module takes its keys and site names
    from the name of the other.

    Args:
        name: first part of keys and site names; without "#".
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        open_methods(cls)

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._pyro_context = _Numbered()
        self._pyro_name = f"{name}#{self._pyro_context.number}"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # the core of `zoo.infer` calls `forward`, and looks at the values itself
        refuse_unmasked(self, args, kwargs)
        return super().__call__(*args, **kwargs)

    def add_module(self, name: str, module: Any) -> None:
        """Adds a part, which takes its keys from this module even where it has run by itself before."""
        adopt(module)
        super().add_module(name, module)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        # The state holds the names under the old number, the context made by `__reduce__` has a new one.
        context, name = self._pyro_context, self._pyro_name
        root, _, rest = name.partition("#")
        # a part of another module has a dot in its name, and that module renames it
        if not isinstance(context, _Numbered) or "." in rest:
            return
        for part in self.modules():
            if isinstance(part, PyroModule) and part._pyro_context is context:
                part._pyro_name = f"{root}#{context.number}{part._pyro_name.removeprefix(name)}"


def adopt(part: Any) -> None:
    """Makes a PyroModule that has run by itself ready to be part of another."""
    # Pyro asserts that a part with parts has never run, since its parameters have keys of their own in the store, which
    # a later module of that name would find. No later one has the name of a root of the zoo.
    if isinstance(part, PyroModule) and part._pyro_context.used:
        fresh = _Context()
        for inner in part.modules():
            if isinstance(inner, PyroModule):
                inner._pyro_context = fresh
