"""Signals that end the process: at once, as an exception, or after what is being done."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_ENDING = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")
    if hasattr(signal, name)  # the latter two are of POSIX
]


class Interrupted(KeyboardInterrupt):
    """By a signal; its number is what shells add to 128 for an exit code."""

    def __init__(self, number: int):
        super().__init__()
        self.number = number


def end_at_once() -> None:
    """From now on they end the process in one line, while there is nothing to put in order."""
    _handle(lambda number, _: _end(number))


@contextmanager
def raised() -> Iterator[None]:
    """In the block the first of them raises :class:`Interrupted`; a second one acts as before.

    While a module is imported the process ends at once: compiled ones call Python from where an
    exception is the end of the process, and what they leave half made crashes it later.
    """
    with _replaced() as (replace, put_back):

        def interrupt(number: int, frame: FrameType | None) -> None:
            put_back()
            if _importing(frame):
                _end(number)
            raise Interrupted(number)

        replace(interrupt)
        yield


@contextmanager
def held_back(active: bool = True) -> Iterator[list[int]]:
    """The first of them is noted in the list, and acts at the end of the block.

    A second one acts at once. Outside the main thread, which alone gets signals, and unless
    `active` nothing is held back.
    """
    noted: list[int] = []
    with _replaced() as (replace, put_back):

        def note(number: int, _: FrameType | None) -> None:
            noted.append(number)
            put_back()

        if active:
            replace(note)
        yield noted
    if noted:
        signal.raise_signal(noted[0])


def _end(number: int) -> None:
    """At once, with the exit code of the signal."""
    os.write(2, b"interrupted\n")
    os._exit(128 + number)


def _importing(frame: FrameType | None) -> bool:
    """Whether what runs is run by an import."""
    while frame is not None and frame.f_globals.get("__name__") != "importlib._bootstrap":
        frame = frame.f_back
    return frame is not None


def _handle(handler: Callable[[int, FrameType | None], None]) -> dict[int, Any]:
    """Handle them so, but for those that are ignored, as under nohup; what was there before."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    before = {number: signal.getsignal(number) for number in _ENDING}
    before = {
        number: handler
        for number, handler in before.items()
        if handler not in (signal.SIG_IGN, None)
    }
    for number in before:
        signal.signal(number, handler)
    return before


@contextmanager
def _replaced() -> Iterator[tuple[Callable[[Callable], None], Callable[[], None]]]:
    """Handlers may be replaced in the block; they are put back at its end."""
    before: dict[int, Any] = {}

    def put_back() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    try:
        yield lambda handler: before.update(_handle(handler)), put_back
    finally:
        put_back()
