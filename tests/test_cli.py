"""The commands: what they write, and how they refuse."""

import json
import subprocess
import sys

import anndata
import numpy as np
import pytest
from typer.testing import CliRunner

from cellmnn_fm.cli import app


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def file(adata, tmp_path):
    adata.write_h5ad(tmp_path / "course.h5ad")
    return tmp_path / "course.h5ad"


def test_fit_and_interpolate(file, tmp_path):
    model, predicted = tmp_path / "model", tmp_path / "predicted.h5ad"
    result = run("fit", file, "--time-key", "day", "-o", model, "--steps", "10", "--n-dims", "3")
    assert result.exit_code == 0, result.output
    assert "90 cells at 3 times, 8 variables, 3 dimensions, 10 steps" in result.output
    result = run("interpolate", model, file, "--at", "1.5", "-o", predicted)
    assert result.exit_code == 0, result.output
    assert anndata.read_h5ad(predicted).n_obs == 60
    one_sided = run(
        "interpolate", model, file, "--at", "1.5", "-o", predicted, "--no-two-sided", "-q"
    )
    assert one_sided.output == ""
    assert anndata.read_h5ad(predicted).n_obs == 30
    later = run("interpolate", model, file, "--at", "4", "-o", tmp_path / "new" / "late.h5ad")
    assert later.exit_code == 0
    assert later.stderr.startswith(
        "warning: time 4 is 1 beyond the observed times 0 to 3: an extra"
    )
    assert (tmp_path / "new" / "late.h5ad").is_file()


def test_evaluate_writes_json_and_a_figure(file, tmp_path):
    table, figure = tmp_path / "table.json", tmp_path / "table.png"
    options = ["--n-dims", "2", "--seeds", "1", "--json", table, "--figure", figure, "--frame"]
    result = run("evaluate", file, "--time-key", "day", *options)
    assert result.exit_code == 0, result.output
    assert "untrained_two_sided" in result.output
    found = json.loads(table.read_text())
    assert found["frame"] is True
    assert {"w1_mean", "w1_sd", "ratio_to_ot_interpolate", "seconds"} <= set(
        found["summary"]["two_sided"]
    )
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_demo_with_a_file(file, tmp_path):
    result = run("demo", file, "--time-key", "day", "-o", tmp_path / "out", "-q")
    assert result.exit_code == 0, result.output
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        "model",
        "interpolated.h5ad",
        "evaluation.json",
        "interpolation.png",
        "velocity.png",
        "training.png",
        "evaluation.png",
    }


@pytest.mark.parametrize("command", ["fit", "evaluate", "demo"])
@pytest.mark.parametrize("problem", ["column", "nan", "one_time", "lonely", "values", "genes"])
def test_bad_input_ends_in_one_line_and_code_2(adata, tmp_path, command, problem):
    if problem == "nan":
        adata.obs.loc[adata.obs_names[:3], "day"] = np.nan
    elif problem == "one_time":
        adata.obs["day"] = 1.0
    elif problem == "lonely":
        adata.obs.loc[adata.obs_names[0], "day"] = 9.0
    elif problem == "values":
        adata.X[0, 0] = np.inf
    elif problem == "genes":
        adata = adata[:, :0].copy()
    adata.write_h5ad(tmp_path / "bad.h5ad")
    key = "hour" if problem == "column" else "day"
    output = [] if command == "evaluate" else ["-o", tmp_path / "out"]
    result = run(command, tmp_path / "bad.h5ad", "--time-key", key, "-q", *output)
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert ": expected " in line
    assert ", found " in line
    assert "; " in line
    assert not (tmp_path / "out" / "training_state").exists()


@pytest.mark.parametrize("content", [None, b"not hdf5"])
def test_a_file_that_is_none_is_refused(tmp_path, content):
    path = tmp_path / "course.h5ad"
    if content is not None:
        path.write_bytes(content)
    result = run("evaluate", path, "--time-key", "day")
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert "expected an " in result.stderr


def test_a_missing_extra_is_named(file, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ot", None)  # as if POT were not installed
    result = run("evaluate", file, "--time-key", "day", "-q")
    assert result.exit_code == 2
    assert result.stderr == (
        "error: ot: expected the package, found none; pip install 'cellmnn-fm[eval]'\n"
    )


def test_help_names_the_commands_and_imports_nothing_heavy():
    code = (
        "import sys; from cellmnn_fm.cli import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'transformers', 'anndata', 'numpy') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for command in ("fit", "interpolate", "evaluate", "demo"):
        assert command in found.stdout
    assert found.stdout.strip().endswith("[]")
