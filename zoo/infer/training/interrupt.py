"""Ctrl-C between two steps instead of in the middle of one."""

import os
import signal
import threading
from typing import Any


class Interrupt:
    """Within it the first Ctrl-C only sets `seen`; the second one raises KeyboardInterrupt as usual.

    Under torchrun (`shared`) all are held back: torchrun passes each on a second time, and ends processes that stay.
    Outside the main thread, and where Ctrl-C already does something else, it changes nothing.
    """

    def __init__(self, shared: bool = False) -> None:
        self.seen, self.shared, self.installed = False, shared, False

    def __enter__(self) -> "Interrupt":
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
            signal.signal(signal.SIGINT, signal.default_int_handler)
        os.write(2, b"\nstopping after this step; Ctrl-C again aborts without saving\n")  # print is not safe here
