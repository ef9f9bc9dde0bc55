"""What is said of how a file was read: as information, each once, through logging."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

LOGGER = logging.getLogger("cellmnn_fm")


class _Console(logging.Handler):
    """Each notice once, to the error output; or to the list of the block that gathers them.

    A program that logs by itself gets them by its own handlers.
    """

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Say it, if it is new."""
        text = record.getMessage()
        if (gathering := _GATHERED.get()) is not None:
            gathering.append(text)
        elif text not in self._said and not logging.getLogger().handlers:
            self._said.add(text)
            print(f"cellmnn_fm: {text}", file=sys.stderr)


# of this thread alone
_GATHERED: ContextVar[list[str] | None] = ContextVar("gathered", default=None)

if not LOGGER.handlers:
    LOGGER.addHandler(_Console())
    LOGGER.setLevel(logging.INFO)


def notice(text: str) -> None:
    """Say how something was read, that nobody need act on; what may be wrong is a warning."""
    LOGGER.info(text)


def set_verbosity(level: str | int) -> None:
    """From which level on the logger "cellmnn_fm" says something.

    Parameters
    ----------
    level : str or int
        As for `logging.Logger.setLevel`: "INFO", the default, says how files are read; "WARNING"
        does not.

    Examples
    --------
    >>> import cellmnn_fm
    >>> cellmnn_fm.set_verbosity("WARNING")
    >>> cellmnn_fm.set_verbosity("INFO")
    """
    LOGGER.setLevel(level)


@contextmanager
def gathered() -> Iterator[tuple[list[str], list[str]]]:
    """A block whose notices and warnings go to two lists, each once, in place of the console."""
    notices: list[str] = []
    alarms: list[str] = []
    token = _GATHERED.set(notices)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            yield notices, alarms
    finally:
        _GATHERED.reset(token)
        # those of a kind of its own are other packages'
        alarms += [str(alarm.message) for alarm in caught if alarm.category is UserWarning]
        for texts in (notices, alarms):
            texts[:] = dict.fromkeys(texts)
