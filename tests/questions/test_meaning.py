"""Results that would be wrong without a word: the right value, or a line that says why not."""

import json
import os
import resource
import warnings
from dataclasses import replace

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from typer.testing import CliRunner

from cellmnn_fm import CellMNNPipeline, InputError, TimeCourse, TimeKey
from cellmnn_fm.cli.app import app
from cellmnn_fm.cli.grn import read_decay
from cellmnn_fm.cli.output import print_table
from cellmnn_fm.data.genes import GenePanel, human_symbols
from cellmnn_fm.data.notices import gathered
from cellmnn_fm.data.outputs import save_table
from cellmnn_fm.data.reading import read_source, read_times, same_times
from cellmnn_fm.dynamics.rollout import roll_out
from cellmnn_fm.dynamics.snapshots import Dynamics, interpolate
from cellmnn_fm.dynamics.trust_region import TrustRegion
from cellmnn_fm.questions.grn.network import GeneRegulatoryNetwork
from cellmnn_fm.questions.grn.reference import Reference
from cellmnn_fm.training.configs import preset_configs
from cellmnn_fm.training.one_course import MOST_TIMES, first_of_block, train


@pytest.fixture
def fitted(adata):
    return CellMNNPipeline().fit(adata, time_key="day", steps=2, verdict=False)


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


# ---------------------------------------------------------------------------------------------
# What values are


def counted(depth=1.0, genes=40):
    """Counts of 90 cells at 3 times, of unequal depth."""
    rng = np.random.default_rng(0)
    days = np.repeat([0.0, 1.0, 3.0], 30)
    rates = np.exp(rng.normal(size=genes)) * depth * rng.uniform(1, 4, size=(90, 1))
    obs = pd.DataFrame({"day": days}, index=[f"c{at}" for at in range(90)])
    return anndata.AnnData(rng.poisson(rates).astype(np.float32), obs=obs)


def per_ten_thousand(x):
    return np.log1p(1e4 * x / x.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("place", ["counts", "raw"])
def test_scanpy_s_flag_is_about_x_alone(place, noted):
    """Counts beside logged values are counts."""
    adata = counted()
    x = adata.X.copy()
    adata.layers["counts"] = x
    adata.raw = adata.copy()
    adata.X = per_ten_thousand(x)
    adata.uns["log1p"] = {"base": None}
    assert read_source(adata).scale == "log"
    with noted("holds counts: taken per 10,000"):
        source = read_source(adata, layer=place)
    np.testing.assert_allclose(source.matrix(), per_ten_thousand(x), rtol=1e-5)
    fitted = CellMNNPipeline().fit(adata, time_key="day", layer=place, steps=2, verdict=False)
    assert fitted.interpolate(adata, 2.0).X.max() < 1.2 * per_ten_thousand(x).max()


@pytest.mark.parametrize("as_sparse", [False, True])
@pytest.mark.parametrize(
    ("change", "scale", "notice"),
    [
        (lambda x: x * np.median(x.sum(1)) / x.sum(1, keepdims=True), "linear", "the same sum in"),
        (lambda x: x * np.float32(0.97), "counts", "holds counts times 0.97"),
        (lambda x: x + np.float32(0.01), "counts", "holds counts times 0.01"),
        (per_ten_thousand, "log", None),
        (lambda x: per_ten_thousand(x) + np.float32(2e-16) * (x == 0), "log", None),
        (lambda x: per_ten_thousand(x) / np.float32(np.log(2)), "log", None),
        (lambda x: np.sqrt(x + 1).astype(np.float32) * 9, "log", "taken as logarithms"),
    ],
)
def test_scales(change, scale, notice, as_sparse):
    adata = counted()
    x = change(adata.X).astype(np.float32)
    adata.X = sparse.csr_matrix(x) if as_sparse else x
    with gathered() as (said, _):
        assert read_source(adata).scale == scale
    assert any(notice in one for one in said) if notice else not said


def test_real_sets_are_read_as_they_are(data_folder):
    """All that the catalogue has in genes are on a log scale, rounding errors beside 0 included."""
    read = {}
    for entry in json.loads((data_folder / "catalog.json").read_text()):
        if entry.get("space") == "gene":
            adata = anndata.read_h5ad(data_folder / entry["file"], backed="r")
            rows = slice(0, adata.n_obs, max(1, adata.n_obs // 50))
            read[entry["name"]] = read_source(adata[rows].to_memory()).scale
    assert len(read) > 20
    assert set(read.values()) == {"log"}


class OnDisk:
    """As dask has it: slices that are computed."""

    def __init__(self, values):
        self.values, self.shape = values, values.shape

    def __getitem__(self, rows):
        return OnDisk(self.values[rows])

    def compute(self):
        return self.values


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix, sparse.csc_array])
def test_arrays_that_are_computed_later(kind):
    x = per_ten_thousand(counted().X)
    source = replace(read_source(counted_as(x)), values=OnDisk(kind(x)))
    chunks = [one if isinstance(one, np.ndarray) else one.toarray() for one in source.chunks()]
    np.testing.assert_array_equal(np.concatenate(chunks), x)


def test_cells_that_are_read_lazily(adata):
    """Their obs is no table yet."""

    class Lazy:
        obs, uns = object(), {}

    with pytest.raises(InputError, match="adata: expected one whose obs is in memory, found one"):
        read_times(Lazy(), "day")


def counted_as(x):
    adata = counted()
    adata.X = x
    return adata


def test_values_beyond_32_bits_are_refused(adata):
    adata.X[3, 1] = 1e19
    with pytest.raises(InputError, match=r"X: expected values up to 1e\+15, found 1e\+19"):
        CellMNNPipeline().fit(adata, time_key="day", steps=1)


def test_tiny_values_are_refused_or_work(adata):
    adata.X = adata.X * np.float32(1e-30)
    with pytest.raises(InputError, match="expected cells that differ"):
        CellMNNPipeline().fit(adata, time_key="day", steps=1)
    adata.obsm["X_pca"] = adata.X * np.float32(1e30)
    fitted = CellMNNPipeline().fit(adata, time_key="day", use_rep="X_pca", steps=1, verdict=False)
    assert np.isfinite(fitted.interpolate(adata, 2.0).X).all()


# ---------------------------------------------------------------------------------------------
# Which genes


def test_dates_are_no_names_of_genes():
    names = ["40969", "41153", "1-Sep", "Mar-02", "TP53", "12345", "45100"]
    with pytest.warns(UserWarning, match="4 names of genes are dates of a spreadsheet, 40969"):
        symbols = human_symbols(pd.DataFrame(index=names))
    assert symbols == ["", "", "", "", "TP53", "12345", "45100"]


def test_the_base_has_no_dates_in_its_panel():
    panel = CellMNNPipeline.from_pretrained("cellmnn-base").foundation.shared.panel
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert human_symbols(pd.DataFrame(index=list(panel.symbols))) == list(panel.symbols)


def test_versions_of_ensembl_ids_do_not_matter():
    ids = [f"ENSG0000000000{at}" for at in range(5)]
    panel = GenePanel(tuple(f"{one}.3" for one in ids), ("",) * 5)
    columns, coverage = panel.match([f"{one}.12" for one in ids[::-1]], [""] * 5)
    assert columns.tolist() == [4, 3, 2, 1, 0]
    assert coverage.matched == 5


def test_coverage_is_that_of_the_base(adata, tmp_path):
    """Two of eight genes are known to it, which is said in the result, too."""
    del adata.var["human_symbol"]
    adata.var_names = ["SOX2", "NANOG", *(f"nobody{at}" for at in range(6))]
    base = CellMNNPipeline.from_pretrained("cellmnn-base")
    with pytest.warns(UserWarning, match="low coverage: 2 genes matched, of 8"):
        found = base.interpolate(adata, 2.0, time_key="day")
    assert found.uns["cellmnn"]["coverage"]["matched"] == 2


# ---------------------------------------------------------------------------------------------
# Times, units and origins


def test_other_units_and_origins_are_refused_or_mapped(adata, fitted):
    expected = fitted.interpolate(adata, 2.0).X
    for change in (lambda day: day * 24, lambda day: day + 100):
        other = adata.copy()
        other.obs["day"] = change(other.obs["day"])
        with pytest.raises(InputError, match="expected times near those of the fit, 0 to 3, found"):
            fitted.interpolate(other, 2.0)
        table = {change(day): day for day in (0.0, 1.0, 3.0)}
        found = fitted.interpolate(other, 2.0, time_key=TimeKey("day", table)).X
        np.testing.assert_array_equal(found, expected)
    with pytest.raises(InputError, match="at: expected times near those of the fit"):
        fitted.interpolate(adata, 48.0)


def test_the_command_maps_times(adata, fitted, tmp_path):
    fitted.save_pretrained(tmp_path / "model")
    adata.obs["day"] *= 24
    adata.write_h5ad(tmp_path / "hours.h5ad")
    words = ["interpolate", tmp_path / "model", tmp_path / "hours.h5ad", "--at", "2"]
    assert run(*words, "-o", tmp_path / "out.h5ad").exit_code == 2
    table = [word for pair in ("0=0", "24=1", "72=3") for word in ("--time-map", pair)]
    result = run(*words, *table, "-o", tmp_path / "out.h5ad")
    assert result.exit_code == 0, result.output
    assert (anndata.read_h5ad(tmp_path / "out.h5ad").obs["time"] == 2).all()


def test_units_that_files_state_are_compared(adata, noted):
    adata.uns["time_unit"] = "day"
    fitted = CellMNNPipeline().fit(adata, time_key="day", steps=2, verdict=False)
    assert fitted.record.time_unit == "day"
    hours = adata.copy()
    hours.obs["day"] *= 24
    hours.uns["time_unit"] = "h"
    with noted("times of the file, in hours, read as days"):
        found = fitted.interpolate(hours, 2.0)
    np.testing.assert_allclose(found.X, fitted.interpolate(adata, 2.0).X)
    del hours.uns["time_unit"]
    hours.obs["day"] /= 24
    with pytest.warns(UserWarning, match="fit are in days, those of the file in no unit: taken as"):
        fitted.interpolate(hours, 2.0)


def test_times_outside_the_fit_are_said(adata):
    fitted = CellMNNPipeline().fit(
        adata[adata.obs["day"] < 3].copy(), time_key="day", steps=2, verdict=False
    )
    some = adata.copy()
    some.obs["day"] = some.obs["day"].replace(3.0, 2.0)
    with pytest.warns(UserWarning, match="time 1.5 is 0.5 beyond the times of the fit 0 to 1"):
        fitted.interpolate(some, 1.5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_times_are_equal_but_for_rounding(adata, dtype, noted):
    tenths = adata.obs["day"].map({0.0: 0.0, 1.0: 0.1, 3.0: 0.3}).astype(dtype)
    adata.obs["day"] = tenths
    fitted = CellMNNPipeline().fit(adata, time_key="day", steps=2, verdict=False)
    assert fitted.record.times == [0.0, 0.1, 0.3]
    assert fitted.trajectory(adata, start=0.1).obs["time"].min() == 0.1
    assert fitted.interpolate(adata, 0.1 + 0.2).n_obs == 30  # those that were measured then
    split = adata.obs["day"].astype(str).astype(np.float64).to_numpy().copy()
    split[::3][split[::3] > 0.25] = 0.1 + 0.2
    adata.obs["day"] = split
    with noted("0.30000000000000004 taken as the time just before"):
        assert set(read_times(adata, "day")) == {0.0, 0.1, 0.3}


@pytest.mark.parametrize("times", [[-1e308, 1e308], [0, 1e40], [0, 1e-40]])
def test_times_beyond_numbers(times):
    with pytest.raises(InputError, match="when: expected times, and 1 over their range"):
        same_times(np.array(times, dtype=np.float64), "when")


@pytest.mark.parametrize("dates", ["text", "datetime", "category"])
def test_dates_are_days_from_the_first(adata, dates):
    adata.obs["date"] = adata.obs["day"].map(
        {0.0: "2026-01-30", 1.0: "2026-01-31", 3.0: "2026-02-02"}
    )
    if dates == "datetime":
        adata.obs["date"] = pd.to_datetime(adata.obs["date"])
    elif dates == "category":
        adata.obs["date"] = adata.obs["date"].astype("category")
    fitted = CellMNNPipeline().fit(adata, time_key="date", steps=2, verdict=False)
    assert fitted.record.times == [0.0, 1.0, 3.0]
    assert fitted.record.time_unit == "day"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"times": []}, "times: expected one or more, found none"),
        ({"times": ["2"]}, "times: expected a finite number, found '2'"),
        ({"n_steps": 2.5}, "n_steps: expected a whole number"),
        ({"cells": True}, "cells: expected a whole number"),
        ({"seed": 0.5}, "seed: expected a whole number"),
    ],
)
def test_options_from_python(adata, fitted, options, message):
    with pytest.raises(InputError, match=message):
        fitted.trajectory(adata, **options)
    with pytest.raises(InputError, match="at: expected a finite number, found None"):
        fitted.interpolate(adata, None)
    assert set(fitted.trajectory(adata, times=3.0).obs["time"]) == {3.0}


def test_several_times_and_labels(fitted, adata, tmp_path):
    """All rows in one, as if each had been asked for by itself; labels in the unit of the fit."""
    one, two = (fitted.interpolate(adata, time) for time in (0.5, 2.0))
    both = fitted.interpolate(adata, [0.5, "2"])
    assert both.obs["time"].unique().tolist() == [0.5, 2.0]
    np.testing.assert_array_equal(both.X, np.concatenate([one.X, two.X]))
    np.testing.assert_allclose(both.obs.groupby("time")["weight"].sum(), 1)
    np.testing.assert_array_equal(both.varm["cellmnn_margin"]["2"], two.var["cellmnn_margin"])
    assert both.uns["cellmnn"]["at"].tolist() == [0.5, 2.0]
    with pytest.warns(UserWarning, match="beyond"):  # where no region is known
        mixed = fitted.interpolate(adata, [-0.5, 2.0, 2.0])
    assert np.isnan(mixed.uns["cellmnn"]["mean_radius"]).tolist() == [True, False, False]
    assert mixed.obs_names.is_unique
    mixed.write_h5ad(tmp_path / "mixed.h5ad")
    with pytest.raises(InputError, match="at: expected one or more times, found none"):
        fitted.interpolate(adata, [])
    with pytest.raises(InputError, match='time: expected a number, found "day 2"'):
        fitted.interpolate(adata, "day 2")  # of a fit without a unit


# ---------------------------------------------------------------------------------------------
# Cells that run away


class Explosive(torch.nn.Module):
    """A model of a course whose cells run away from the origin, ever faster."""

    def __init__(self, model):
        super().__init__()
        self.model, self.config, self.device = model, model.config, model.device
        self.dtype, self.frame_state = model.dtype, model.frame_state

    def forward(self, z, times, target_times, **_):
        output = self.model(z, times, target_times)
        gap = (target_times.expand(*times.shape, -1) - times[..., None]).abs()
        speed = 50 * z.norm(dim=-1)[:, None, :, None]
        output.states = z[:, None] * torch.exp(speed * gap[..., None, None])
        output.velocity = speed * z[:, None]
        return output


@pytest.fixture
def explosive():
    rng = np.random.default_rng(0)
    course = TimeCourse([rng.normal(size=(40, 3)) + t for t in range(3)], np.arange(3.0))
    config, training = preset_configs("default", course)
    found = train(course, config, replace(training, steps=1))
    return course, Explosive(found.model), found.time_scale


@pytest.mark.parametrize("options", [{}, {"n_steps": 1}, {"n_steps": 8}])
@pytest.mark.parametrize("start", [0, 2])
def test_cells_are_stopped_where_the_snapshots_end(explosive, options, start):
    course, model, scale = explosive
    with pytest.warns(UserWarning, match="40 cells would leave what the snapshots show"):
        found = roll_out(
            Dynamics(model, scale), course.snapshots[start], start, course.times, **options
        )
    assert np.isfinite(found.states).all()
    assert np.isfinite(found.velocity).all()
    assert found.stopped[2 - start].all()
    assert not found.stopped[start].any()
    np.testing.assert_array_equal(found.states[start], course.snapshots[start])
    assert np.abs(found.states).max() < 40
    if not options:
        assert np.isfinite(found.error).all()
    between = interpolate(Dynamics(model, scale), course, 0.5, n_steps=3)
    assert between.weights.sum() == pytest.approx(1)
    assert np.isfinite(between.states).all()
    some = between.stopped.any() and not between.stopped.all()
    assert not some or (between.weights[between.stopped] == 0).all()


def test_the_region_touches_nobody_inside(explosive):
    """Steps that stay in it are those of the model, to the bit; others end on its border."""
    course, model, _ = explosive
    z, time = torch.from_numpy(course.snapshots[0]), torch.tensor([0.0])
    region, walk = TrustRegion.around(model, z, time)
    assert not walk.stopped.any()
    later = torch.tensor([1.0])
    near = region.step(walk, z + 0.5, later)
    assert torch.equal(near.z, z + 0.5)
    assert not near.stopped.any()
    far = region.step(near, z + 1e6 * torch.sign(z), later)
    assert far.stopped.all()
    y = region.frame.to_frame(far.z[None], later)[0]
    torch.testing.assert_close(y.norm(dim=-1), region.radius, rtol=1e-3, atol=1e-3)
    nothing = region.step(near, torch.full_like(z, torch.nan), later)
    assert nothing.stopped.all()
    torch.testing.assert_close(nothing.z, near.z, rtol=1e-4, atol=1e-4)
    # once stopped they move along with the snapshots, whatever the model says
    moved = region.step(far, z, torch.tensor([2.0]))
    assert moved.stopped.all()
    torch.testing.assert_close(moved.y, far.y)


def test_models_without_a_stored_frame_return_no_nan(explosive):
    """As early versions saved them."""
    course, _, scale = explosive
    config, training = preset_configs("default", course)
    plain = train(course, config.replaced(num_frame_times=0), replace(training, steps=1))
    assert not plain.model.config.num_frame_times
    wild = Explosive(plain.model)
    with pytest.warns(UserWarning, match="would leave what the snapshots show"):
        found = roll_out(Dynamics(wild, scale), course.snapshots[0], 0.0, course.times, n_steps=4)
    assert np.isfinite(found.states).all()


@pytest.mark.slow
def test_real_trajectories_are_finite(data_folder):
    """Forward and backward, by tolerance and by steps; `benchmarks/runaway.py` does all sets."""
    adata = anndata.read_h5ad(data_folder / "ipsc_cardiomyocyte.h5ad")
    fitted = CellMNNPipeline().fit(adata, time_key="time", verdict=False)
    times = fitted.record.times
    for options in ({}, {"n_steps": 1}, {"n_steps": 8}):
        for start in (times[0], times[-1]):
            found = fitted.trajectory(adata, times, start=start, cells=100, **options)
            assert np.isfinite(found.X).all()
            assert np.abs(found.obsm["X_cellmnn"]).max() < 40
    found = fitted.interpolate(adata, sum(times[:2]) / 2, n_steps=8)
    assert np.abs(found.obsm["X_cellmnn"]).max() < 40


# ---------------------------------------------------------------------------------------------
# Many times


def test_many_times_are_trained_in_blocks():
    """200 times of 3 cells: as much work a step as 16."""
    rng = np.random.default_rng(0)
    course = TimeCourse([rng.normal(size=(3, 2)) + 0.1 * t for t in range(200)], np.arange(200.0))
    config, training = preset_configs("default", course)
    found = train(course, config, replace(training, steps=3))
    assert len(found.losses) == 3
    assert np.isfinite(list(found.losses[-1].values())).all()


def test_all_times_are_in_blocks():
    rng = np.random.default_rng(0)
    assert first_of_block(MOST_TIMES, rng) == 0
    starts = [first_of_block(100, rng) for _ in range(4000)]
    counts = np.zeros(100)
    for start in starts:
        counts[start : start + MOST_TIMES] += 1
    assert counts.min() > 0.3 * counts.mean()
    assert counts.max() < 4 * counts.mean()


def test_the_paper_s_grid_is_bounded():
    rng = np.random.default_rng(0)
    course = TimeCourse([rng.normal(size=(9, 2)) for _ in range(3)], np.array([0, 1e5, 3e6]))
    with pytest.raises(InputError, match="times: expected a range of at most 1000 with the paper"):
        train(course, *preset_configs("paper", course))


# ---------------------------------------------------------------------------------------------
# Tables and pages


@pytest.mark.parametrize(
    ("sign", "expected"),
    [("+", 1), ("-", -1), ("-0.3", -1), ("2", 1), ("0", 0), ("", 0), ("Activation", 1), ("?", 0)],
)
def test_signs_of_known_edges(tmp_path, sign, expected):
    (tmp_path / "edges.tsv").write_text(f"\ufeffsource\ttarget\tsign\na\tb\t{sign}\nc\ta\t1\n")
    found = Reference.read(tmp_path / "edges.tsv", ["a", "b", "c"]).edges
    assert found.set_index("source").loc["a", "sign"] == expected


@pytest.mark.parametrize("content", ["", "source\ttarget\n", "source\ttarget\tsign\na\tb\tmaybe\n"])
def test_tables_that_say_nothing(tmp_path, content):
    (tmp_path / "edges.tsv").write_text(content)
    with pytest.raises(InputError, match="expected"):
        Reference.read(tmp_path / "edges.tsv", ["a", "b"])


def test_half_lives_may_have_a_header(tmp_path):
    for text in ("gene\thalf_life\na\t2\nb\t3\n", "\ufeffa\t2\nb\t3\n"):
        (tmp_path / "decay.tsv").write_text(text, encoding="utf-8")
        assert read_decay(str(tmp_path / "decay.tsv")) == {"a": 2.0, "b": 3.0}
    for text in ("", "a\tx\nb\ty\n", "a\t1\nb\ty\n"):
        (tmp_path / "decay.tsv").write_text(text)
        with pytest.raises(InputError, match="expected"):
            read_decay(str(tmp_path / "decay.tsv"))


def test_brackets_and_escapes_of_labels(capsys):
    """Shown as they are, and none reaches the terminal as a command."""
    labels = ["B cell [naive]", "B cell [memory]", "T [/DN]", "\x1b[31mred", ":smile:"]
    print_table("a [b] c", [{"group": label} for label in labels], {"group": str})
    shown = capsys.readouterr().out
    for label in labels[:3]:
        assert label in shown
    assert ":smile:" in shown
    assert "\x1b" not in shown
    assert "\\x1b[31mred" in shown


def test_names_are_no_formulas(tmp_path):
    names = ["=1+1", "+a", "-b", "@c", "plain", "HLA-A"]
    table = pd.DataFrame({"p": [0.5] * 6, "sign": [-1] * 6}, index=names)
    save_table(table, tmp_path / "out.tsv", index_label="cell")
    found = pd.read_csv(tmp_path / "out.tsv", sep="\t")
    assert found["cell"].tolist() == ["'=1+1", "'+a", "'-b", "'@c", "plain", "HLA-A"]
    assert (found["sign"] == -1).all()
    save_table(table, tmp_path / "out.parquet", index_label="cell")
    assert pd.read_parquet(tmp_path / "out.parquet")["cell"].tolist() == names


def test_graphml_without_control_characters(tmp_path):
    import networkx

    left = np.array([[0.0, 1.0], [2.0, 0.0]])
    network = GeneRegulatoryNetwork(("a\x00b\x1f", "c"), left, np.eye(2))
    network.save(tmp_path / "out.graphml")
    assert set(networkx.read_graphml(tmp_path / "out.graphml")) == {"ab", "c"}


def test_names_are_no_headings_of_cards(adata, tmp_path):
    adata.uns["name"] = "mine\n# Licence: MIT | <script>"
    CellMNNPipeline().fit(adata, time_key="day", steps=1, verdict=False).save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "\n# Licence" not in card
    assert "<script>" not in card.split("---")[-1]


def test_json_to_the_standard_output(adata, fitted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fitted.save_pretrained(tmp_path / "model")
    adata.write_h5ad(tmp_path / "cells.h5ad")
    (tmp_path / "edges.tsv").write_text("source\ttarget\ng0\tg1\ng2\tg3\n")
    words = ["grn-evaluate", "model", "cells.h5ad", "--reference", "edges.tsv", "--json"]
    result = run(*words, "--no-trees", "-q")
    assert result.exit_code == 0, result.output
    assert "methods" in json.loads(result.stdout)
    assert not (tmp_path / "-").exists()


def test_a_model_and_a_file_in_the_wrong_order(adata, fitted, tmp_path):
    fitted.save_pretrained(tmp_path / "model")
    adata.write_h5ad(tmp_path / "cells.h5ad")
    words = [tmp_path / "cells.h5ad", tmp_path / "model", "-o", tmp_path / "out.h5ad"]
    assert "give the model first" in run("annotate", *words).stderr


def test_a_broken_cache_hides_no_models(tmp_path, monkeypatch):
    from huggingface_hub import constants

    (tmp_path / "hub").write_text("no folder")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert "cellmnn-base" in run("models").stdout


@pytest.mark.parametrize("extension", ["h5ad", "zarr"])
def test_a_full_disk_leaves_the_old_file(adata, fitted, tmp_path, extension):
    """`ulimit -f`: writing stops in the middle."""
    fitted.annotate(adata, file=tmp_path / f"out.{extension}")
    old = getattr(anndata, f"read_{extension}")(tmp_path / f"out.{extension}")
    big = anndata.concat([adata] * 300, index_unique="-", merge="same")
    child = os.fork()
    if child == 0:  # pragma: no cover
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        code = 3
        try:
            fitted.annotate(big, file=tmp_path / f"out.{extension}")
        except InputError as error:
            code = 0 if "expected room to write it, found file too large" in str(error) else 4
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert {path.name for path in tmp_path.iterdir()} == {f"out.{extension}"}
    again = getattr(anndata, f"read_{extension}")(tmp_path / f"out.{extension}")
    assert again.n_obs == old.n_obs
    np.testing.assert_array_equal(again.layers["cellmnn_velocity"], old.layers["cellmnn_velocity"])


@pytest.mark.parametrize("extension", ["h5ad", "zarr"])
@pytest.mark.parametrize("backed", [False, True])
def test_what_is_written_in_chunks_is_what_is_returned(adata, fitted, tmp_path, extension, backed):
    adata.write_h5ad(tmp_path / "cells.h5ad")
    cells = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r" if backed else None)
    file = tmp_path / f"out.{extension}"
    for question, options in (("annotate", {}), ("interpolate", {"at": 2.0}), ("trajectory", {})):
        expected = getattr(fitted, question)(adata, **options)
        returned = getattr(fitted, question)(cells, **options, file=file)
        assert not returned.layers
        found = getattr(anndata, f"read_{extension}")(file)
        np.testing.assert_allclose(found.X, expected.X, rtol=1e-6, atol=1e-6)
        assert set(found.layers) == set(expected.layers)
        for name, values in expected.layers.items():
            np.testing.assert_allclose(found.layers[name], values, rtol=1e-5, atol=1e-5)
        for part in ("obs", "var"):
            assert list(getattr(found, part).index) == list(getattr(expected, part).index)
            assert set(getattr(found, part)) == set(getattr(expected, part))
        assert set(found.obsm) == set(expected.obsm)
        assert set(found.varm) == set(expected.varm)
        assert set(found.uns["cellmnn"]) == set(expected.uns["cellmnn"])


def test_a_quarter_of_the_movement_is_believed_beyond_the_last_time(adata):
    """Of every cell, in a straight line; inside of the observed times nothing is damped."""
    fitted = CellMNNPipeline().fit(adata, time_key="day", verdict=False, steps=20)
    observed = fitted.annotate(adata).obsm["X_cellmnn"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        none, some, whole = (
            fitted.interpolate(adata, 4.0, damping=share) for share in (0.0, 0.25, 1.0)
        )
        default = fitted.interpolate(adata, 4.0)
    np.testing.assert_array_equal(default.X, some.X)
    rows = adata.obs_names.get_indexer(none.obs["source_cell"])
    np.testing.assert_allclose(none.obsm["X_cellmnn"], observed[rows], atol=1e-6)
    moved, in_full = (one.obsm["X_cellmnn"] - observed[rows] for one in (some, whole))
    np.testing.assert_allclose(moved, in_full / 4, atol=1e-5)
    inside = [fitted.interpolate(adata, 0.5, damping=share).X for share in (0.0, 1.0)]
    np.testing.assert_array_equal(*inside)
    with pytest.raises(InputError, match="damping: expected a share from 0 to 1, found 2"):
        fitted.interpolate(adata, 4.0, damping=2)
