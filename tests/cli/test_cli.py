"""The commands: what they write, and how they refuse."""

import json
import subprocess
import sys

import anndata
import numpy as np
import pytest
from typer.testing import CliRunner

from cellmnn_fm.cli.app import app
from cellmnn_fm.cli.output import as_flags


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
    figure = tmp_path / "predicted.png"
    result = run("interpolate", model, file, "--at", "1.5", "-o", predicted, "--figure", figure)
    assert figure.stat().st_size > 0
    assert f"{figure}: written" in result.output
    assert result.exit_code == 0, result.output
    assert anndata.read_h5ad(predicted).n_obs == 60
    one_sided = run(
        "interpolate", model, file, "--at", "1.5", "-o", predicted, "--no-two-sided", "-q"
    )
    assert one_sided.output == ""
    assert anndata.read_h5ad(predicted).n_obs == 30
    later = run("interpolate", model, file, "--at", "4", "-o", tmp_path / "new" / "late.h5ad")
    assert later.exit_code == 0
    assert "warning: time 4 is 1 beyond the observed times 0 to 3: an extra" in later.stderr
    assert "note: X has negative values: taken as scaled" in later.stderr
    assert (tmp_path / "new" / "late.h5ad").is_file()


def test_messages_name_flags():
    options = ("time_map", "layer", "n_dims")
    said = as_flags('time column "time_map": give time_map, 3 n_dims or another layer', options)
    assert said == 'time column "time_map": give --time-map, 3 --n-dims or another layer'
    assert as_flags("nothing to say", ()) == "nothing to say"


def test_labels_are_those_of_the_file(adata, tmp_path):
    """In place of the numbers that they were read as."""
    adata.obs["stage"] = adata.obs["day"].map({0.0: "MDP", 1.0: "CDP", 3.0: "PreDC"})
    adata.write_h5ad(tmp_path / "course.h5ad")
    page, labels = tmp_path / "page.html", {"MDP": 0, "CDP": 1, "PreDC": 3}
    maps = [word for label, at in labels.items() for word in ("--time-map", f"{label}={at}")]
    options = ["--time-key", "stage", *maps, "-o", page, "--no-evaluation", "-q"]
    assert run("report", "cellmnn-simulated", tmp_path / "course.h5ad", *options).exit_code == 0
    assert "Predicted half-way between CDP and PreDC" in page.read_text()
    unread = run("report", "cellmnn-simulated", tmp_path / "course.h5ad", *options[:2], "-o", page)
    assert "found MDP, CDP, PreDC; give --time-map, a number for each" in unread.stderr


def test_evaluate_writes_json_and_a_figure(file, tmp_path):
    table, figure = tmp_path / "table.json", tmp_path / "table.png"
    options = ["--n-dims", "2", "--seeds", "1", "-o", table, "--figure", figure, "--frame"]
    result = run("evaluate", file, "--time-key", "day", *options)
    assert result.exit_code == 0, result.output
    assert "frame, untrained" in result.output
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
    monkeypatch.setitem(sys.modules, "peft", None)  # as if it were not installed
    options = ["--time-key", "day", "--mode", "lora", "-o", tmp_path / "out", "-q"]
    result = run("finetune", "cellmnn-base", file, *options)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == (
        "error: peft: expected the package, found none; pip install 'cellmnn-fm[train]'"
    )


def test_help_names_the_commands_and_imports_nothing_heavy():
    code = (
        "import sys; from cellmnn_fm.cli.app import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'transformers', 'anndata', 'numpy') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for command in ("fit", "interpolate", "evaluate", "demo"):
        assert command in found.stdout
    assert found.stdout.strip().endswith("[]")


@pytest.fixture
def two_files(adata, tmp_path):
    """Two courses with some genes in common."""
    files = []
    for name, genes in (("one", slice(0, 6)), ("two", slice(2, 8))):
        part = adata[:, genes].copy()
        part.uns["name"] = name
        files.append(tmp_path / f"{name}.h5ad")
        part.write_h5ad(files[-1])
    return files


def test_subspaces_are_fitted_extended_and_reported(two_files, tmp_path):
    folder, table, figure = (tmp_path / name for name in ("sub", "table.json", "table.png"))
    result = run("subspace", "fit", two_files[0], "-o", folder, "--n-dims", "3")
    assert result.exit_code == 0, result.output
    assert "3 dimensions over 6 genes of 1 data sets" in result.output
    result = run("subspace", "add", folder, two_files[1])
    assert result.exit_code == 0, result.output
    assert "3 dimensions over 8 genes of 2 data sets" in result.output
    options = ["--time-key", "day", "-o", table, "--figure", figure]
    result = run("subspace", "report", folder, two_files[0], *options)
    assert result.exit_code == 0, result.output
    found = json.loads(table.read_text())
    assert {"coverage", "variance_shared", "variance_aligned", "variance_own_pca"} <= set(found)
    assert found["coverage"] == 1
    assert found["variance_aligned"] == pytest.approx(found["variance_own_pca"], rel=1e-4)
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert run("subspace", "report", folder, *two_files, *options, "-q").exit_code == 0
    assert set(json.loads(table.read_text())) == {"one", "two"}


def test_a_model_is_fitted_in_a_shared_subspace(two_files, tmp_path):
    folder, model, out = (tmp_path / name for name in ("sub", "model", "cells.h5ad"))
    run("subspace", "fit", *two_files, "-o", folder, "--n-dims", "3")
    common = ["--time-key", "day", "--subspace", folder, "--subspace-mode", "shared"]
    result = run("fit", two_files[0], *common, "-o", model, "--steps", "5", "--backed")
    assert result.exit_code == 0, result.output
    assert "6 variables, 3 dimensions" in result.output
    result = run("annotate", model, two_files[1], "-o", out)
    assert result.exit_code == 0, result.output
    assert anndata.read_h5ad(out).var["cellmnn_inferred"].sum() == 2
    result = run("evaluate", two_files[0], *common, "--seeds", "1", "--n-dims", "2")
    assert result.exit_code == 0, result.output


def test_symbols_come_from_a_column_or_a_table(two_files, tmp_path):
    table = tmp_path / "symbols.tsv"
    table.write_text("".join(f"g{i}\tGENE{i}\n" for i in range(8)))
    result = run("subspace", "fit", *two_files, "-o", tmp_path / "sub", "--symbols", table)
    assert result.exit_code == 2  # 32 dimensions by default
    result = run(
        *("subspace", "fit", *two_files, "-o", tmp_path / "sub"),
        *("--symbols", table, "--n-dims", "2"),
    )
    assert result.exit_code == 0, result.output
    names = json.loads((tmp_path / "sub" / "gene_panel.json").read_text())["names"]
    assert names == [f"GENE{i}" for i in range(8)]
    result = run("subspace", "fit", *two_files, "-o", tmp_path / "sub", "--symbols", "nothing")
    assert result.exit_code == 2
    assert 'error: var["nothing"]: expected a column of human symbols' in result.stderr


def test_files_without_genes_are_left_out_or_refused(adata, two_files, tmp_path):
    adata.uns.update(space="pca", name="coordinates")
    adata.write_h5ad(tmp_path / "pca.h5ad")
    common = ["-o", tmp_path / "sub", "--n-dims", "2"]
    result = run("subspace", "fit", *two_files, tmp_path / "pca.h5ad", *common)
    assert result.exit_code == 0
    assert "coordinates: coordinates only, left out" in result.stderr
    result = run("subspace", "fit", tmp_path / "pca.h5ad", *common)
    assert result.exit_code == 2
    assert "files: expected some with genes, found coordinates only" in result.stderr
    result = run("subspace", "fit", two_files[0], two_files[0], *common)
    assert "files: expected data sets of different names, found one" in result.stderr
    result = run("subspace", "report", tmp_path / "none", two_files[0], "--time-key", "day")
    assert result.exit_code == 2
    assert "expected a saved shared subspace" in result.stderr


def test_machines_get_json(adata, tmp_path):
    """The same as people are told, and nothing else on the output."""
    adata.obs["kind"] = np.resize(["a", "b"], adata.n_obs)
    adata.obs["half"] = np.repeat(["x", "y"], 45)[np.random.default_rng(0).permutation(90)]
    adata.write_h5ad(tmp_path / "cells.h5ad")

    def run(*arguments):
        result = CliRunner().invoke(app, [*map(str, arguments), "--json"])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    file, model, day = tmp_path / "cells.h5ad", tmp_path / "model", ("--time-key", "day")
    fitted = run("fit", file, *day, "-o", model, "--steps", 2, "--growth", "learned")
    assert fitted["fits"][0]["cells"] == [30, 30, 30]
    assert fitted["fits"][0]["verdict"]["times"] == [1.0]
    assert run("interpolate", model, file, "--at", 2, "-o", tmp_path / "a.h5ad")["cells"] == 60
    assert run("grn", model, file, "-o", tmp_path / "edges.tsv")["genes"] == 8
    assert run("annotate", model, file, "-o", tmp_path / "b.h5ad")["cells"] == 90
    followed = run("trajectory", model, file, "-o", tmp_path / "c.h5ad", "--n-steps", 1)
    assert followed["times"] == [0.0, 1.0, 3.0]
    shares = run("fates", model, file, "--groups", "kind", "-o", tmp_path / "f.tsv")["shares"]
    assert sum(shares.values()) == pytest.approx(1)
    assert run("growth", model, file, "--groups", "kind")["groups"][0]["group"] == "a"
    perturbed = run(
        *("perturb", model, file, "--groups", "kind", "--gene", "g1"),
        *("-o", tmp_path / "p.tsv"),
    )
    assert {row["group"] for row in perturbed["fates"]} == {"a", "b"}
    compared = run(
        *("compare", "cellmnn-base", file, *day, "--condition", "half", "--permutations", 2)
    )
    assert compared["conditions"] == ["x", "y"]
    adapted = run("adapt", "cellmnn-base", file, *day, "-o", tmp_path / "adapted")
    assert adapted["times"] == [0.0, 1.0, 3.0]
    tuned = run(
        *("finetune", "cellmnn-base", file, *day, "-o", tmp_path / "t", "--steps", 1),
        "--no-verdict",
    )
    assert tuned["fits"][0]["steps"] == 1
