"""Keys of their own in Pyro's parameter store.

The store goes by name. Two PyroModules of one name share their parameters there without a word: under `pyro.infer.SVI`
one of them is never trained, and a parameter under a constraint takes the other's value at the first call.
"""

from itertools import count
from typing import Any

from pyro.nn import PyroModule
from pyro.nn.module import _Context
from pyro.poutine.messenger import Messenger

_NUMBERS = count(1)


class _SiteNames(Messenger):
    """Takes the number out of the names of sites (`PyroSample` makes them of the module's name)."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.mark = f"#{number}"

    def _pyro_sample(self, msg: Any) -> None:
        msg["name"] = msg["name"].replace(self.mark, "", 1)


class _Numbered(_Context):
    """What a root shares with its parts during a call, and a number that no other root of the process has."""

    def __init__(self) -> None:
        super().__init__()
        self.number = next(_NUMBERS)
        self.site_names = _SiteNames(self.number)

    def __reduce__(self) -> tuple:
        return _Numbered, ()  # a copy, and what is loaded, has a number of its own

    def __enter__(self) -> None:
        if not self.active:
            self.site_names.__enter__()
        super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        if not self.active:
            self.site_names.__exit__(*exception)


class RootModule(PyroModule):
    """A PyroModule with store keys of its own, also after a copy, a pickle and a load: `model#3.weight`.

    Site names bear no number: `model.weight`. As a part of another PyroModule it goes by that one's name.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._pyro_context = _Numbered()
        self._pyro_name = f"{name}#{self._pyro_context.number}"

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        context, name = self._pyro_context, self._pyro_name
        root, _, rest = name.partition("#")
        if not isinstance(context, _Numbered) or "." in rest:
            return  # a part of another module
        for part in self.modules():
            if isinstance(part, PyroModule) and part._pyro_context is context:
                part._pyro_name = f"{root}#{context.number}{part._pyro_name.removeprefix(name)}"
