"""Labels of times as numbers: what people write, in one unit, or refused where it is ambiguous."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..model.errors import InputError, listed
from .notices import notice

# days
_UNITS = {
    "second": 1 / 86400,
    "minute": 1 / 1440,
    "hour": 1 / 24,
    "day": 1.0,
    "week": 7.0,
    "month": 365.25 / 12,
    "year": 365.25,
}
_WRITTEN = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), "second"),
    **dict.fromkeys(("min", "mins", "minute", "minutes"), "minute"),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours", "hpf", "hpi", "hpt"), "hour"),
    **dict.fromkeys(("d", "day", "days", "dpf", "dpi", "dpt", "dpc", "dps"), "day"),
    **dict.fromkeys(("w", "wk", "wks", "week", "weeks", "wpf", "wpc", "pcw", "gw"), "week"),
    **dict.fromkeys(("mo", "mon", "month", "months", "mpf"), "month"),
    **dict.fromkeys(("y", "yr", "yrs", "year", "years"), "year"),
}
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?"
_PLAIN = re.compile(_NUMBER)
_BEFORE = re.compile(rf"(?P<unit>[a-z]+)(?P<gap>[\s_:.-]*?)(?P<number>{_NUMBER})")
_AFTER = re.compile(rf"(?P<number>{_NUMBER})[\s_-]*(?P<unit>[a-z]+)")
_ISO = re.compile(r"P(?:(?P<day>[\d.]+)D)?(?:T(?:(?P<hour>[\d.]+)H)?(?:(?P<minute>[\d.]+)M)?)?")
_DATE = r"\d{4}-\d{2}-\d{2}(?:[ T]\d{2}:\d{2}(?::\d{2}(?:\.\d+)?)?)?"
_AGES = {"e": "embryonic", "p": "postnatal"}  # of days, from different origins


@dataclass(frozen=True)
class TimeKey:
    """Where the times of cells are, and how their labels are read.

    Parameters
    ----------
    column : str
        Of `obs`.
    time_map : mapping, optional
        From labels to times, in place of reading them.
    unit : str, optional
        second, minute, hour, day, week, month or year: what labels that have a unit are turned
        into; by default the longest of theirs.

    Examples
    --------
    >>> import pandas as pd
    >>> TimeKey("stage").read(pd.Series(["0h", "36h", "3 days"])).values  # in days
    array([0. , 1.5, 3. ])
    >>> TimeKey("stage", {"early": 0, "late": 5}).read(pd.Series(["late", "early"])).values
    array([5., 0.])
    """

    column: str
    time_map: Mapping[str, float] | None = None
    unit: str | None = None

    def __post_init__(self) -> None:
        if self.unit is not None and self.unit not in _UNITS:
            raise InputError("time unit", f"one of {listed(_UNITS)}", self.unit, "choose one")

    def read(self, labels: pd.Series) -> ReadTimes:
        """The times of cells from their labels.

        Numbers stay as they are. "day3", "D10", "Day 1.5", "E8.5", "P0", "48h", "2 weeks", "P3D"
        are read with their unit; several units become one. Durations and dates become days, dates
        from the first. Ordered categories that are none of these count 0, 1, 2, ..., with a
        warning.

        Raises
        ------
        InputError
            On cells without a label, and on labels that are no times or may be several; names them.

        Warns
        -----
        UserWarning
            What labels that are no numbers were read as.
        """
        name = f'time column "{self.column}"'
        if missing := int(labels.isna().sum()):
            raise InputError(
                name, "a time for every cell", f"{missing} of {len(labels)} without", "remove those"
            )
        ordered = labels.cat.categories if _is_ordered(labels) else None
        if isinstance(labels.dtype, pd.CategoricalDtype):
            labels = labels.astype(labels.cat.categories.dtype)
        if self.time_map is None and _is_number(labels):
            # the shortest number that is the same in 32 bits: 0.1 and not 0.10000000149
            narrow = labels.dtype in (np.float16, np.float32)
            values = (labels.astype(str) if narrow else labels).to_numpy(np.float64)
            if not np.isfinite(values).all():
                bad = listed(pd.unique(labels[~np.isfinite(values)]))
                raise InputError(name, "finite numbers", bad, "remove those cells")
            return ReadTimes(values, None, {})
        if pd.api.types.is_datetime64_any_dtype(labels):
            labels = labels - labels.min()
        if pd.api.types.is_timedelta64_dtype(labels):
            into = self.unit or "day"
            values = (labels.dt.total_seconds() / 86400 / _UNITS[into]).to_numpy(np.float64)
            return ReadTimes(values, into, {})
        texts = labels.map("{:g}".format) if _is_number(labels) else labels.astype(str)
        if self.time_map is None and texts.str.fullmatch(_DATE).all():
            dates = pd.to_datetime(texts, errors="coerce")
            if not dates.isna().any():
                days = (dates - dates.min()).dt.total_seconds().to_numpy(np.float64) / 86400
                into = self.unit or "day"
                return ReadTimes(days / _UNITS[into], into, {})
        mapping, unit = self._mapping(pd.unique(texts).tolist(), ordered, name)
        return ReadTimes(texts.map(mapping).to_numpy(np.float64), unit, mapping)

    def _mapping(
        self, labels: list[str], ordered: pd.Index | None, name: str
    ) -> tuple[dict[str, float], str | None]:
        """Times of the distinct labels, and their unit."""
        if self.time_map is not None:
            known = {_written(label): float(time) for label, time in self.time_map.items()}
            known |= {label: known[_written(label)] for label in labels if _written(label) in known}
            if unknown := [label for label in labels if label not in known]:
                raise InputError(
                    name, f"labels of time_map, {listed(known)}", listed(unknown), "add them to it"
                )
            return {label: known[label] for label in labels}, self.unit
        parsed = {label: _parsed(label, labels) for label in labels}
        unread = [label for label, time in parsed.items() if time is None]
        if unread and ordered is not None:
            warnings.warn(
                f"{name}: ordered categories {listed(ordered, 20)} are taken as times 0, 1, 2, ...;"
                " give time_map for their real distance",
                stacklevel=4,
            )
            kept = [str(label) for label in ordered if str(label) in labels]
            return {label: float(order) for order, label in enumerate(kept)}, None
        if unread:
            raise InputError(
                name,
                "numbers, or labels such as day3, D10, E8.5, 48h, 2 weeks",
                listed(unread),
                "give time_map, a number for each label, or a column of numbers",
            )
        read = {label: time for label, time in parsed.items() if time is not None}
        mapping, unit = _in_one_unit(read, self.unit, name)
        shown = ", ".join(f"{label} → {time:g}" for label, time in mapping.items())
        if any(label != f"{time:g}" for label, time in mapping.items()):
            plural = "times" if unit is None else f"{unit}s"
            notice(f"{name} read as {plural}: {shown}")
        return mapping, unit


@dataclass(frozen=True)
class ReadTimes:
    """Times of cells.

    Attributes
    ----------
    values : (cells,)
        In `unit`, where there is one.
    unit : str, optional
        Where labels had one.
    mapping : dict
        From labels to times, where they were no numbers.
    """

    values: NDArray[np.float64]
    unit: str | None
    mapping: dict[str, float]


@dataclass(frozen=True)
class _Parsed:
    number: float
    unit: str | None
    age: str | None = None


def _parsed(label: str, others: list[str]) -> _Parsed | None:
    """What a label says; nothing if it is no time, or may be several."""
    text = label.strip()
    if (iso := _ISO.fullmatch(text)) and any(iso.groups()):
        total = sum(float(value) * _UNITS[unit] for unit, value in iso.groupdict().items() if value)
        return _Parsed(total, "day")
    text = text.lower().replace("−", "-")
    if _PLAIN.fullmatch(text):
        return _Parsed(float(text), None)
    if match := _AFTER.fullmatch(text):
        unit = _WRITTEN.get(match["unit"])
        return None if unit is None else _Parsed(float(match["number"]), unit)
    if match := _BEFORE.fullmatch(text):
        number, word = float(match["number"]), match["unit"]
        if word in _AGES:
            return _Parsed(number, "day", _AGES[word])
        if number < 0 and all("-" in other for other in others):
            number = -number  # a hyphen in every label separates
        unit = _WRITTEN.get(word)
        return None if unit is None else _Parsed(number, unit)
    return None


def _in_one_unit(
    parsed: dict[str, _Parsed], unit: str | None, name: str
) -> tuple[dict[str, float], str | None]:
    """Times of labels with units of their own, in the largest of these or a given one."""
    by_age: dict[str | None, list[str]] = {}
    for label, time in parsed.items():
        by_age.setdefault(time.age, []).append(label)
    if len(by_age) > 1:
        shown = "; ".join(listed(labels) for labels in by_age.values())
        raise InputError(
            name, "times from one origin", shown, "give time_map: birth is at no known distance"
        )
    units = {time.unit for time in parsed.values() if time.unit is not None}
    # zero is the same in any unit
    bare = [label for label, time in parsed.items() if time.unit is None and time.number != 0]
    if not units:
        return {label: time.number for label, time in parsed.items()}, None
    if bare:
        raise InputError(
            name, "a unit in every label, or in none", f"none in {listed(bare)}", "add it"
        )
    into = unit or max(units, key=_UNITS.__getitem__)
    times = {}
    for label, time in parsed.items():
        factor = 1.0 if time.unit in (None, into) else _UNITS[time.unit or into] / _UNITS[into]
        times[label] = round(time.number * factor, 9)
    return times, into


def read_time(label: str, unit: str | None, time_map: Mapping[str, float] | None) -> float:
    """The time that a label means, "day 3" for instance, among times in a unit.

    Parameters
    ----------
    label : str
        As in a file, or a number.
    unit : str, optional
        Of the times, where they have one.
    time_map : mapping, optional
        From labels to times.

    Raises
    ------
    InputError
        On a label that means none.
    """
    if time_map is not None and label in time_map:
        return time_map[label]
    time = _parsed(label, [label])
    if time is None or (time.unit is not None and unit is None):
        expected = "a number" if unit is None else "a number, or a label such as day3 or 48h"
        raise InputError("time", expected, f'"{label}"', "correct it")
    return time.number if time.unit is None else _in_one_unit({label: time}, unit, "time")[0][label]


def in_unit(values: NDArray[np.float64], unit: str, into: str) -> NDArray[np.float64]:
    """Times in another unit, both as :class:`TimeKey` names them.

    Of `values` (cells,).
    """
    return values * (_UNITS[unit] / _UNITS[into])


def unit_named(text: object) -> str | None:
    """The unit that a word means, such as h, hours or dpf; None if it means none."""
    word = str(text).strip().lower()
    return word if word in _UNITS else _WRITTEN.get(word)


def _written(label: object) -> str:
    """A label of a table as it is looked up: 24 for 24.0."""
    text = str(label).strip()
    try:
        return f"{float(text):g}" if _PLAIN.fullmatch(text) else str(label)
    except ValueError:
        return str(label)


def _is_number(labels: pd.Series) -> bool:
    """Whether labels are numbers; truth values are not."""
    numeric: Any = pd.api.types.is_numeric_dtype(labels)
    return bool(numeric) and not pd.api.types.is_bool_dtype(labels)


def _is_ordered(labels: pd.Series) -> bool:
    """Whether labels are categories with an order."""
    return isinstance(labels.dtype, pd.CategoricalDtype) and bool(labels.cat.ordered)
