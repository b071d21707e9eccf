"""Models around other models: an inner program's sites as it samples them, and its plates opened a second time."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from pyro import poutine
from pyro.poutine.indep_messenger import IndepMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample


class Seen(Messenger):
    """The values and densities of a program's sites, and the plates that the program opens itself."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, Any] = {}
        self.densities: dict[str, Any] = {}
        self.opened: set[str] = set()
        self.stacks: dict[str, tuple[Any, ...]] = {}
        self._name = ""

    def _pyro_sample(self, msg: Any) -> None:
        # the program's own name: handlers outside, such as those of `guides.PriorBelow`, rename sites that they hide
        self._name = msg["name"]

    def _pyro_post_sample(self, msg: Any) -> None:
        name = self._name
        if site_is_subsample(msg):
            self.opened.add(name)
        else:
            self.values[name], self.densities[name] = msg["value"], msg["fn"]
            self.stacks[name] = msg["cond_indep_stack"]

    def frames(self, sites: Sequence[str]) -> list[Any]:
        """The plates around the sites, but for those opened outside of the program, which are open still."""
        stacks = [{f for f in self.stacks[name] if f.vectorized and f.name in self.opened} for name in sites]
        return sorted(set.intersection(*stacks), key=lambda frame: frame.dim)


@contextmanager
def reopened(frames: Sequence[Any]) -> Iterator[None]:
    """The plates of a program that has ended, open again for further sites."""
    # `broadcast` first, so that it sees the plates: a site of a density that reads nothing has their axes all the same
    with poutine.broadcast(), ExitStack() as plates:
        for frame in frames:
            # A second `pyro.plate` of a name is a second site of that name, which every trace refuses. The plain
            # messenger has the same frame, and no site.
            plates.enter_context(IndepMessenger(frame.name, frame.size, frame.dim))
        yield
