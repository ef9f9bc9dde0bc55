"""The one error for input that cannot be used."""

import math
from collections.abc import Iterable
from numbers import Integral, Real


class InputError(ValueError):
    """Input that cannot be used: what was expected, what was found, and how to fix it.

    Parameters
    ----------
    what, expected, found, fix : str
        Parts of the message "<what>: expected <expected>, found <found>; <fix>".

    Examples
    --------
    >>> raise InputError("times", "2 or more", 1, "add others")
    Traceback (most recent call last):
    cellmnn_fm.model.errors.InputError: times: expected 2 or more, found 1; add others
    """

    def __init__(self, what: str, expected: str, found: object, fix: str):
        message = f"{what}: expected {expected}, found {found}; {fix}"
        super().__init__(" ".join(message.split()))  # what libraries say may run over lines


def require_count(what: str, value: object, least: int = 1, most: float = math.inf) -> None:
    """Refuse what is no whole number, or one below or above what makes sense."""
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or not least <= value <= most:  # type: ignore[operator]
        bound = f"{least} or more" if most == math.inf else f"{least} to {most:g}"
        raise InputError(what, f"a whole number, {bound}", repr(value), "give one")


def require_number(what: str, value: object, least: float = -math.inf) -> float:
    """The number; refuses what is none, or not finite, or too small."""
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < least:  # type: ignore[arg-type,operator]
        bound = "" if least == -math.inf else f", {least:g} or more"
        raise InputError(what, f"a finite number{bound}", repr(value), "give one")
    return float(value)  # type: ignore[arg-type]


def require_seed(seed: object) -> None:
    """Refuse what is no seed of all the generators that there are."""
    require_count("seed", seed, 0, 2**32 - 1)


def listed(items: Iterable[object], most: int = 8) -> str:
    """The first few of them, for a message."""
    names = [f"{item:g}" if isinstance(item, float) else str(item) for item in items]
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def require_known(what: str, value: str, known: tuple[str, ...]) -> None:
    """Refuse a value that is none of those that are known."""
    if value not in known:
        raise InputError(what, " or ".join(known), value, "choose one of those")
