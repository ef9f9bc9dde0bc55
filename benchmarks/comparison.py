"""Tables and the figure of interpolation.py, from its results."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from cellmnn_fm.evaluation.metrics import with_interval
from studies.data_sets import DEVELOPMENT
from studies.results import Results
from studies.tables import markdown, new_axes, save

from .peers import PACKAGES

OURS = ("untrained", "zero_shot", "joint", "fine_tuned", "in_frame", "default", "sliced", "blend")
LABELS = {
    "previous": "previous snapshot",
    "next": "next snapshot",
    "ot_interpolate": "OT-Interpolate",
    "floor": "half-split floor",
    "untrained": "ours: Gaussian frame, untrained",
    "default": "ours: fit of the one data set",
    "sliced": "ours: the same, by sliced W1",
    "in_frame": "ours: fit in the frame",
    "joint": "ours: one model of all data sets",
    "zero_shot": "ours: base, data set unseen",
    "fine_tuned": "ours: base, fine-tuned",
    "blend": "ours: half-way between base and fit",
    "paper": "Cell-MNN as published",
    "ot_cfm": "OT-CFM",
    "i_cfm": "I-CFM",
    "sb_cfm": "SB-CFM",
    "ot_cfm_notebook": "OT-CFM, 256 cells, rate 1e-4",
    "mioflow": "MIOFlow",
    "scdiffeq": "scDiffEq",
}

Table = dict[tuple[str, str], dict[str, float]]


def report(results: Results) -> None:
    """Tables by method and by data set, and the figure of W1 against seconds."""
    w1, seconds = tabulated([outcome for outcome in results.read().values() if "scores" in outcome])
    sets = sorted(w1[("ot_interpolate", "forward")])
    kinds = ("forward", "two_sided", "as_many_cells")
    rows = []
    for method, label in LABELS.items():
        if not any((method, kind) in w1 for kind in (*kinds, "")):
            continue
        cells = [ratio_cell(w1, (method, kind)) for kind in kinds]
        if method == "paper":
            cells[1:] = ["", ""]  # as it is published
        if method == "floor":
            cells = [ratio_cell(w1, (method, "")), "", ""]
        times = list(seconds.get(method, {}).values())
        took = f"{np.median(times):.2g}" if any(times) else ""
        covered = str(len(w1.get((method, "forward"), w1.get((method, ""), {}))))
        rows.append([label, covered, *cells, took])
    header = ["method", "sets", "forward", "two-sided", "as many cells", "s a fit"]
    parts = [
        f"W1 over that of OT-Interpolate, mean over data sets with 95 % bootstrap intervals "
        f"({results.name.removeprefix('interpolation_').replace('_', ', ')}; one core).",
        "",
        markdown(header, rows),
        "",
        *paired(w1, seconds),
        "",
        "Two-sided where a method can (scDiffEq cannot, Cell-MNN as published does not):",
        "",
        by_set(w1, sets),
    ]
    results.show("\n".join(parts))
    figure(w1, seconds, sets, results.path(".png"))


def tabulated(found: list[dict[str, Any]]) -> tuple[Table, dict[str, dict[str, float]]]:
    """Mean W1 by (method, kind) and data set; seconds of a fit by method and data set."""
    w1: Table = {}
    seconds: dict[str, dict[str, float]] = {}
    for outcome in found:
        scores = outcome["scores"]
        for method, kind in {(score["method"], score["kind"]) for score in scores}:
            of_method = [s for s in scores if (s["method"], s["kind"]) == (method, kind)]
            w1.setdefault((method, kind), {})[outcome["dataset"]] = mean_of(of_method, "w1")
            seconds.setdefault(method, {})[outcome["dataset"]] = mean_of(of_method, "seconds")
    return w1, seconds


def mean_of(scores: list[dict[str, Any]], key: str) -> float:
    """Over held-out times and seeds."""
    return float(np.mean([score[key] for score in scores]))


def ratios(
    w1: Table, one: tuple[str, str], other: tuple[str, str], names: Collection[str] | None = None
) -> list[float]:
    """By data set that both have, of the named ones."""
    in_common = w1.get(one, {}).keys() & w1.get(other, {}).keys()
    wanted = sorted(in_common if names is None else in_common & set(names))
    return [w1[one][name] / w1[other][name] for name in wanted]


def ratio_cell(w1: Table, method: tuple[str, str]) -> str:
    """Mean ratio to OT-Interpolate."""
    if method == ("ot_interpolate", "forward"):
        return "1"
    by_set_ratios = ratios(w1, method, ("ot_interpolate", "forward"))
    if len(by_set_ratios) < 2:
        return ", ".join(f"{ratio:.3f}" for ratio in by_set_ratios)
    return with_interval(by_set_ratios)


def kind_of(w1: Table, method: str) -> str:
    """The kind of prediction a method is judged by: two-sided where it can and is used so."""
    return "two_sided" if (method, "two_sided") in w1 and method != "paper" else "forward"


def paired(w1: Table, seconds: dict[str, dict[str, float]]) -> list[str]:
    """Our closest over each method of others by data set, and our fastest that is as close."""
    ours, lines = ("blend", "two_sided"), []
    for method in ("ot_interpolate", "paper", *PACKAGES):
        theirs = (method, kind_of(w1, method))
        over_theirs = ratios(w1, ours, theirs)
        if len(over_theirs) < 2:
            continue
        wins = sum(ratio < 1 for ratio in over_theirs)
        line = (
            f"- half-way, two-sided, over {LABELS[method]}, {theirs[1].replace('_', '-')}: "
            f"{with_interval(over_theirs)}, closer on {wins} of {len(over_theirs)}"
        )
        as_close = [
            ours_too
            for ours_too in OURS
            if (over := ratios(w1, (ours_too, "two_sided"), theirs)) and np.mean(over) <= 1
        ]
        if as_close and method != "ot_interpolate":
            fastest = min(as_close, key=lambda one: np.median(list(seconds[one].values())))
            in_common = seconds[fastest].keys() & seconds[method].keys()
            times = np.median(
                [seconds[method][name] / seconds[fastest][name] for name in in_common]
            )
            line += (
                f"; the fastest of ours that is as close on the mean, {LABELS[fastest][6:]}, "
                f"takes {times:,.0f} times less (median over sets)"
            )
        lines.append(line)
    others = sorted({name for by_name in w1.values() for name in by_name} - set(DEVELOPMENT))
    for method in ("sliced", "blend"):
        over_straight = ratios(w1, (method, "two_sided"), ("ot_interpolate", "forward"), others)
        if len(over_straight) > 1:
            plain = ratios(w1, (method, "two_sided"), ("default", "two_sided"), others)
            lines.append(
                f"- {LABELS[method]}, on {len(over_straight)} data sets on which no setting was "
                f"chosen: {with_interval(over_straight)}; over the default fit "
                f"{with_interval(plain)}"
            )
    return lines


def by_set(w1: Table, sets: list[str]) -> str:
    """W1 of OT-Interpolate, and ratios to it."""
    columns = [
        (method, kind_of(w1, method)) for method in LABELS if (method, kind_of(w1, method)) in w1
    ]
    rows = []
    for name in sets:
        baseline = w1[("ot_interpolate", "forward")][name]
        values = [w1[column].get(name) for column in columns]
        cells = ["" if value is None else f"{value / baseline:.3f}" for value in values]
        rows.append([name, f"{baseline:.3f}", *cells])
    header = ["data set", "OT-Interpolate W1", *(LABELS[method] for method, _ in columns)]
    return markdown(header, rows)


def figure(w1: Table, seconds: dict[str, dict[str, float]], sets: list[str], file: Path) -> None:
    """Mean ratio against seconds of a fit; down and to the left is better."""
    ax = new_axes(6, 4)
    for method in LABELS:
        over_straight = ratios(w1, (method, kind_of(w1, method)), ("ot_interpolate", "forward"))
        if (
            not over_straight
            or len(over_straight) < len(sets) / 2
            or method in ("previous", "next")
        ):
            continue
        took = max(float(np.median(list(seconds[method].values()))), 1e-3)
        ours = LABELS[method].startswith("ours")
        ax.plot(took, np.mean(over_straight), "o" if ours else "s", color="C0" if ours else "C1")
        ax.annotate(
            LABELS[method].removeprefix("ours: "),
            (took, float(np.mean(over_straight))),
            xytext=(4, 4),
            textcoords="offset points",
            fontsize=7,
        )
    ax.axhline(1, color="black", lw=0.5)
    ax.set(xscale="log", xlabel="seconds a fit, one core", ylabel="W1 over OT-Interpolate")
    save(ax, file)
