"""The one error for input that cannot be used."""

from collections.abc import Iterable


class InputError(ValueError):
    """Input that cannot be used: what was expected, what was found, and how to fix it.

    Parameters
    ----------
    what, expected, found, fix : str
        Parts of the message "<what>: expected <expected>, found <found>; <fix>".

    Examples
    --------
    >>> raise InputError("times", "2 or more", 1, "add snapshots at other times")
    Traceback (most recent call last):
    cellmnn_fm.errors.InputError: times: expected 2 or more, found 1; add snapshots at other times
    """

    def __init__(self, what: str, expected: str, found: object, fix: str):
        message = f"{what}: expected {expected}, found {found}; {fix}"
        super().__init__(" ".join(message.split()))  # what libraries say may run over lines


def listed(items: Iterable[object], most: int = 8) -> str:
    """The first few of them, for a message."""
    names = [f"{item:g}" if isinstance(item, float) else str(item) for item in items]
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
