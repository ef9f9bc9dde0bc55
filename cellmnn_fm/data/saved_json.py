"""What saved JSON should be: checked by its types when read, since others may have written it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from ..model.errors import InputError

T = TypeVar("T")

_FIX = "save or download it again"


def read_json(file: Path) -> Any:
    """The content of a file.

    Raises
    ------
    InputError
        On a file that is none, or no JSON.
    """
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(str(file), "JSON", f"something else ({error})", _FIX) from error


def as_type(kind: type[T], content: Any, what: str) -> T:
    """The content as a dataclass, a list, ... of that type.

    Raises
    ------
    InputError
        On fields that are missing or of another type; it names the first.
    """
    try:
        return _adapter(kind).validate_python(content)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "all of it"
        actual = f"{place}: {first['msg'].lower()}"
        raise InputError(what, f"fields of a {kind.__name__}", actual, _FIX) from error


def require_sound_times(what: str, times: Sequence[float], cells: Sequence[int]) -> None:
    """Refuse observed times that no data set can have had."""
    finite = all(math.isfinite(time) and abs(time) <= 1e30 for time in times)
    ascending = all(earlier < other for earlier, other in pairwise(times))
    if len(times) < 2 or len(times) != len(cells) or not finite or not ascending or min(cells) < 1:
        actual = f"{list(times)[:8]} with {list(cells)[:8]} cells"
        raise InputError(what, "2 or more ascending times, and cells at each", actual, _FIX)


@cache
def _adapter(kind: Any) -> TypeAdapter:
    """What checks a value against a type; made once."""
    return TypeAdapter(kind)
