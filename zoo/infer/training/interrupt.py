"""Ctrl-C between two steps instead of in the middle of one."""

import os
import signal
import threading
from typing import Any


class Interrupt:
    """A context in which the first Ctrl-C only sets `seen`; the second one raises KeyboardInterrupt as usual.

    Outside the main thread, and where the caller has a handler of Ctrl-C, it changes nothing.

    Args:
        shared: several processes train together, and every Ctrl-C only sets `seen`.
    """

    def __init__(self, shared: bool = False) -> None:
        self.seen, self.shared, self.installed = False, shared, False

    def __enter__(self) -> "Interrupt":
        # Python installs signal handlers in the main thread alone.
        main = threading.current_thread() is threading.main_thread()
        self.installed = main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self.installed:
            signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *exception: Any) -> None:
        if self.installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _note(self, number: int, frame: Any) -> None:
        self.seen = True
        if not self.shared:
            # torchrun passes each Ctrl-C on a second time, so there the second one says nothing of the user's wish.
            signal.signal(signal.SIGINT, signal.default_int_handler)
        # Not `print`: the signal may have come amid one, whose buffer is not reentrant.
        os.write(2, b"\nstopping after this step; Ctrl-C again aborts without saving\n")
