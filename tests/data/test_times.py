"""Labels of times: what is read, and what is refused as ambiguous."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellmnn_fm import CellMNNPipeline, InputError, TimeKey
from cellmnn_fm.data.notices import gathered
from cellmnn_fm.data.times import read_time

DOCUMENT = Path(__file__).parents[2] / "docs" / "inputs.md"
READ = {
    "numbers": ([0, 1.5, 7], None, [0, 1.5, 7]),
    "numbers as text": (["0", "1.5", "7"], None, [0, 1.5, 7]),
    "day3": (["day0", "day3", "day10"], "day", [0, 3, 10]),
    "D10": (["D0", "D2.5", "D10"], "day", [0, 2.5, 10]),
    "Day 1.5": (["Day 0", "Day 1.5"], "day", [0, 1.5]),
    "day_3 and day-3": (["day_0", "day_3"], "day", [0, 3]),
    "a hyphen in every label": (["day-1", "day-2"], "day", [1, 2]),
    "a minus in some": (["D-2", "D0", "D2"], "day", [-2, 0, 2]),
    "negative": (["-2d", "0d", "3d"], "day", [-2, 0, 3]),
    "E8.5": (["E6.5", "E8.5"], "day", [6.5, 8.5]),
    "P0": (["P0", "P21"], "day", [0, 21]),
    "48h": (["0h", "48h"], "hour", [0, 48]),
    "hours in words": (["24 hours", "48 hr", "72 hpf"], "hour", [24, 48, 72]),
    "2 weeks": (["1 week", "2 weeks", "wk3"], "week", [1, 2, 3]),
    "gestational weeks": (["GW16", "GW20"], "week", [16, 20]),
    "mixed units": (["12h", "36h", "day 2"], "day", [0.5, 1.5, 2]),
    "days and weeks": (["day7", "2 weeks"], "week", [1, 2]),
    "the same time twice": (["48h", "day2", "day3"], "day", [2, 2, 3]),
    "zero without a unit": (["0", "24h"], "hour", [0, 24]),
    "ISO durations": (["P0D", "PT36H", "P3D"], "day", [0, 1.5, 3]),
    "dates": (pd.to_datetime(["2026-01-05", "2026-01-03"]), "day", [2, 0]),
    "dates as text": (["2026-01-05", "2026-01-03"], "day", [2, 0]),
    "dates with hours": (["2026-01-05 12:00", "2026-01-03 00:00"], "day", [2.5, 0]),
    "durations": (pd.to_timedelta(["12h", "3d"]), "day", [0.5, 3]),
}
REFUSED = {
    "some without a unit": (["24", "48h"], "a unit in every label, or in none, found none in 24"),
    "indices": (["T1", "T2"], "found T1, T2; give time_map"),
    "minutes or months": (["30m", "60m"], "found 30m, 60m; give time_map"),
    "before and after birth": (["E18.5", "P0"], "times from one origin, found E18.5; P0"),
    "decimal commas": (["1,5", "2"], "found 1,5; give time_map"),
    "words": (["iPSC", "D15"], "found iPSC; give time_map"),
    "yes and no": ([True, False], "found True, False; give time_map"),
    "missing": ([1, None], "a time for every cell, found 1 of 2 without"),
    "infinite": ([1, np.inf], "finite numbers, found inf"),
    "empty text": (["", "3"], "give time_map"),
}


def read(labels, **options):
    with gathered():
        return TimeKey("when", **options).read(pd.Series(labels))


@pytest.mark.parametrize("case", READ)
@pytest.mark.parametrize("categorical", [False, True])
def test_what_is_read(case, categorical):
    labels, unit, times = READ[case]
    series = pd.Series(labels)
    found = read(series.astype("category") if categorical else series)
    np.testing.assert_allclose(found.values, times)
    assert found.unit == unit


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case):
    labels, message = REFUSED[case]
    with pytest.raises(InputError, match=r'^time column "when": expected ') as caught:
        read(labels)
    assert message in str(caught.value)


def test_the_mapping_is_shown(noted):
    with noted('"when" read as days: day0 → 0, 36h → 1.5'):
        TimeKey("when").read(pd.Series(["day0", "36h"]))
    with gathered() as said:
        TimeKey("when").read(pd.Series(["0", "1.5"]))
    assert said == ([], [])


def test_a_table_of_labels():
    found = read(["early", "late", "early"], time_map={"early": 0, "late": 4.5, "never": 9})
    np.testing.assert_allclose(found.values, [0, 4.5, 0])
    with pytest.raises(InputError, match="expected labels of time_map, early, found late"):
        read(["early", "late"], time_map={"early": 0})
    np.testing.assert_allclose(read([1, 2], time_map={1: 10, 2: 20}).values, [10, 20])


def test_ordered_categories_are_ranks_with_a_warning():
    stages = pd.Categorical(["mid", "early", "late"], ["early", "mid", "late"], ordered=True)
    with pytest.warns(UserWarning, match="early, mid, late are taken as times 0, 1, 2"):
        found = TimeKey("when").read(pd.Series(stages))
    np.testing.assert_allclose(found.values, [1, 0, 2])
    days = pd.Categorical(["d7", "d0"], ["d0", "d7"], ordered=True)  # which say more
    np.testing.assert_allclose(read(pd.Series(days)).values, [7, 0])


def test_units_are_asked_for():
    np.testing.assert_allclose(read(["48h", "3d"], unit="hour").values, [48, 72])
    with pytest.raises(InputError, match="time unit: expected one of second"):
        TimeKey("when", unit="fortnight")


@given(
    st.lists(st.integers(-500, 500), min_size=1, max_size=8, unique=True),
    st.sampled_from(["{}h", "{} hours", "{}d", "{} days", "{}w", "h{}", "day {}", "wk_{}"]),
)
def test_numbers_come_back(numbers, form):
    """Whatever the form, as long as no hyphen could be a separator."""
    numbers = [abs(number) for number in numbers] if not form.startswith("{") else numbers
    found = read([form.format(number) for number in numbers])
    np.testing.assert_allclose(found.values, numbers)


@given(st.lists(st.floats(0, 1e4), min_size=1, max_size=6))
def test_hours_and_days_agree(hours):
    """The same times in hours and in days are the same times."""
    one = read([f"{hour:.4f}h" for hour in hours], unit="day")
    other = read([f"{float(f'{hour:.4f}') / 24:.9f} days" for hour in hours])
    np.testing.assert_allclose(one.values, other.values, atol=1e-6)


def test_a_fit_remembers_its_unit(adata, tmp_path, noted):
    """Labels in hours are asked about in the days of the fit, also after saving."""
    adata.obs["stage"] = adata.obs["day"].map({0.0: "day0", 1.0: "24h", 3.0: "D3"})
    with noted("read as days: day0 → 0, 24h → 1, D3 → 3"):
        fitted = CellMNNPipeline().fit(adata, time_key="stage", steps=2, verdict=False)
    assert (fitted.record.times, fitted.record.time_unit) == ([0.0, 1.0, 3.0], "day")
    fitted.save_pretrained(tmp_path)
    hours = adata.copy()
    hours.obs["stage"] = (24 * hours.obs["day"]).astype(int).astype(str) + "h"
    expected = fitted.interpolate(adata, 2.0)
    found = CellMNNPipeline.from_pretrained(tmp_path).interpolate(hours, 2.0)
    np.testing.assert_array_equal(found.X, expected.X)


def test_a_fit_remembers_its_table(adata, tmp_path):
    adata.obs["stage"] = adata.obs["day"].map({0.0: "early", 1.0: "mid", 3.0: "late"})
    key = TimeKey("stage", {"early": 0, "mid": 1, "late": 3})
    fitted = CellMNNPipeline().fit(adata, time_key=key, steps=2, verdict=False)
    fitted.save_pretrained(tmp_path)
    again = CellMNNPipeline.from_pretrained(tmp_path)
    assert again.record.times == [0.0, 1.0, 3.0]
    assert again.interpolate(adata, 2.0).n_obs == 60


def test_the_document_has_the_cases(table_of):
    read_lines, refused = [], []
    for case, (labels, unit, times) in READ.items():
        shown = ", ".join(f"{time:g}" for time in times) + (f" {unit}s" if unit else "")
        read_lines.append(f"| {case}: {', '.join(map(_shown, labels))} | {shown} |")
    for case, (labels, message) in REFUSED.items():
        refused.append(f"| {case}: {', '.join(map(str, labels))} | {message} |")
    assert table_of(DOCUMENT, "| labels | read as |", read_lines) == read_lines
    assert table_of(DOCUMENT, "| refused | because |", refused) == refused


def _shown(label):
    return str(label).replace(" 00:00:00", "")


def test_a_label_among_times_in_a_unit():
    assert read_time("12h", "day", None) == 0.5
    assert read_time("day 3", "hour", None) == 72.0
    assert read_time("3", "day", None) == 3.0
    assert read_time("CDP", None, {"CDP": 2.0}) == 2.0
    with pytest.raises(InputError, match="time: expected a number, or a label such as day3 or 48h"):
        read_time("noon", "day", None)
