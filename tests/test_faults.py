"""Nothing that a user types, or that others made, costs a file or ends in a traceback.

The table of cases is docs/faults.md.
"""

import os
import shutil
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from on_disk import everything
from typer.testing import CliRunner

from cellmnn_fm import CellMNNPipeline, fit_shared_subspace
from cellmnn_fm.cli.app import app

DOCUMENT = Path(__file__).parents[1] / "docs" / "faults.md"

# of each command what it reads, and how it is told where to write: an option, and an extension
COMMANDS = {
    "fit": ("fit {file} --time-key day --steps 2 --no-verdict", "-o", ""),
    "finetune": (
        "finetune cellmnn-base {file} --time-key day --steps 1 --no-verdict",
        "-o",
        "",
    ),
    "adapt": ("adapt cellmnn-base {file} --time-key day", "-o", ""),
    "interpolate": ("interpolate {model} {file} --at 2", "-o", ".h5ad"),
    "trajectory": ("trajectory {model} {file}", "-o", ".h5ad"),
    "trajectory, figure": ("trajectory {model} {file}", "--figure", ".png"),
    "annotate": ("annotate {model} {file}", "-o", ".zarr"),
    "fates": ("fates {model} {file} --groups kind", "-o", ".tsv"),
    "fates, drivers": ("fates {model} {file} --groups kind", "--drivers", ".csv"),
    "growth": ("growth {model} {file}", "-o", ".tsv"),
    "perturb": ("perturb {model} {file} --groups kind --gene g1", "-o", ".tsv"),
    "compare": ("compare cellmnn-base {file} --time-key day --condition half", "-o", ".tsv"),
    "grn": ("grn {model} {file}", "-o", ".graphml"),
    "grn-evaluate": ("grn-evaluate {model} {file} --reference {edges}", "-o", ".json"),
    "evaluate": ("evaluate {file} --time-key day", "-o", ".json"),
    "report": ("report {model} {file}", "-o", ".html"),
    "subspace fit": ("subspace fit {file} --n-dims 2", "-o", ""),
    "subspace report": ("subspace report {subspace} {file} --time-key day", "-o", ".json"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A file, a model, a subspace and known edges, by name."""
    folder = tmp_path_factory.mktemp("made")
    rng = np.random.default_rng(0)
    days = np.repeat([0.0, 1.0, 3.0], 30)
    x = rng.normal(size=(90, 8)) + 3 + days[:, None] * np.linspace(-1, 1, 8)
    obs = pd.DataFrame({"day": days, "kind": np.tile(["a", "b"], 45)})
    obs["half"] = np.repeat(["x", "y"], 45)[rng.permutation(90)]
    obs.index = [f"c{i}" for i in range(90)]
    symbols = ["EOMES", "FOS", "GATA6", "JUN", "KLF4", "NANOG", "POU5F1", "SOX2"]
    var = pd.DataFrame({"human_symbol": symbols}, index=[f"g{i}" for i in range(8)])
    adata = anndata.AnnData(np.maximum(x, 0).astype(np.float32), obs=obs, var=var)
    adata.write_h5ad(folder / "cells.h5ad")
    fitted = CellMNNPipeline().fit(adata, time_key="day", growth=True, steps=2, verdict=False)
    fitted.save_pretrained(folder / "model")
    fit_shared_subspace({"one": adata}, n_dims=2).save(folder / "subspace")
    (folder / "edges.tsv").write_text("source\ttarget\tsign\ng0\tg1\t1\ng2\tg3\t-1\n")
    return {
        "file": folder / "cells.h5ad",
        "model": folder / "model",
        "subspace": folder / "subspace",
        "edges": folder / "edges.tsv",
    }


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def told(command, made, **others):
    """The words of a command, without where it writes to."""
    return COMMANDS[command][0].format(**{**made, **others}).split()


def refused(result, expected=""):
    """One line and exit code 2; the line."""
    assert result.exit_code == 2, (result.output, result.exception)
    assert result.stdout == ""
    (line,) = [one for one in result.stderr.strip().splitlines() if one.startswith("error: ")]
    assert expected in line, line
    assert ": expected " in line
    assert ", found " in line
    return line


# ---------------------------------------------------------------------------------------------
# Where results go


def to_the_input(folder, extension, made):
    shutil.copy(made["file"], folder / "mine.h5ad")
    return folder / "mine.h5ad", {"file": folder / "mine.h5ad"}


def into_the_input(folder, extension, made):
    anndata.read_h5ad(made["file"]).write_zarr(folder / "mine.zarr")
    return folder / "mine.zarr" / f"out{extension}", {"file": folder / "mine.zarr"}


def below_a_file(folder, extension, made):
    (folder / "notes.txt").write_text("mine")
    return folder / "notes.txt" / f"out{extension}", {}


def nowhere(folder, extension, made):
    return Path(f"/proc/nowhere/out{extension}"), {}


def on_another_thing(folder, extension, made):
    """A file where a folder is meant, and the other way round."""
    place = folder / f"mine{extension}"
    if not extension:
        place.write_text("mine")
    else:
        place.mkdir()
        (place / "notes.txt").write_text("mine")
    return place, {}


def in_a_project(folder, extension, made):
    if extension:
        pytest.skip("files lie where one likes")
    (folder / "project").mkdir()
    (folder / "project" / "README.md").write_text("mine")
    (folder / "project" / "manifest.json").write_text('{"name": "an app"}')
    return folder / "project", {}


def of_endless_name(folder, extension, made):
    return folder / f"{'x' * 300}{extension}", {}


def of_another_form(folder, extension, made):
    return folder / "out.docx", {}


def on_a_device(folder, extension, made):
    (folder / f"null{extension}").symlink_to("/dev/null")
    return folder / f"null{extension}", {}


PLACES = {
    "the input itself": (to_the_input, "found {place}, which is an input"),
    "in the input, a zarr store": (into_the_input, "expected a path beside the inputs"),
    "below a file, notes.txt": (below_a_file, "notes.txt is a file"),
    "a folder that cannot be made": (nowhere, "expected a path that can be written"),
    "a file for a folder, a folder for a file": (
        on_another_thing,
        "expected a folder, or nothing yet, found a file / expected a file, found a folder",
    ),
    "the folder of a project": (in_a_project, "found other files, such as README.md"),
    "a name of 300 letters": (of_endless_name, "expected a path, found"),
    "another extension": (of_another_form, "the format follows the extension"),
    "a device": (
        on_a_device,
        "expected a folder, or nothing yet, found a file / expected a plain file, found",
    ),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("command", COMMANDS)
def test_places(made, tmp_path, command, place):
    """Refused before anything is read, and all that was there is as it was."""
    _, option, extension = COMMANDS[command]
    if place == "another extension" and not extension:
        pytest.skip("folders have none")
    at, others = PLACES[place][0](tmp_path, extension, made)
    before = everything(tmp_path)
    # said of folders, and of files, where that is not the same
    said = PLACES[place][1].split(" / ")[-1 if extension else 0]
    refused(run(*told(command, made, **others), option, at), said.format(place=at))
    assert everything(tmp_path) == before


def test_two_outputs_have_two_places(made, tmp_path):
    places = ["-o", tmp_path / "same.tsv", "--drivers", tmp_path / "same.tsv"]
    assert "drivers: expected a path of its own" in refused(run(*told("fates", made), *places))


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_work_where_nothing_is_wrong(made, tmp_path, command):
    """Else the cases above would say nothing."""
    _, option, extension = COMMANDS[command]
    if command in ("evaluate", "report"):
        pytest.skip("takes long, and has tests of its own")
    at = tmp_path / "new" / f"out{extension}"
    elsewhere = [] if option == "-o" else ["-o", tmp_path / "other.tsv"]
    if command == "trajectory, figure":
        elsewhere = ["-o", tmp_path / "other.h5ad"]
    more = ["--permutations", "2"] if command == "compare" else []
    result = run(*told(command, made), option, at, *elsewhere, *more, "-q")
    assert result.exit_code == 0, (result.output, result.exception)
    assert at.exists()
    assert [path.name for path in at.parent.iterdir()] == [at.name]


# ---------------------------------------------------------------------------------------------
# What is read


def absent(folder):
    return folder / "cells.h5ad"


def text(folder):
    (folder / "cells.h5ad").write_text("hello")
    return folder / "cells.h5ad"


def plain_hdf5(folder):
    with h5py.File(folder / "cells.h5", "w") as file:
        file["counts"] = np.ones((3, 4))
    return folder / "cells.h5"


def of_10x(folder):
    with h5py.File(folder / "cells.h5", "w") as file:
        file.create_group("matrix")["data"] = np.ones(3)
    return folder / "cells.h5"


def endless(folder):
    with h5py.File(folder / "cells.h5ad", "w") as file:
        file.create_group("obs")
        file.create_dataset("obsm/X", (10_000_000, 1_000_000), "f4", chunks=(1024, 1024))
    return folder / "cells.h5ad"


def a_model(folder):
    shutil.copytree(
        Path(__file__).parents[1] / "cellmnn_fm/model/pretrained/cellmnn-base", folder / "model"
    )
    return folder / "model"


def a_pipe(folder):
    os.mkfifo(folder / "cells.h5ad")
    return folder / "cells.h5ad"


FILES = {
    "nothing there": (absent, "expected an .h5ad or .zarr file, found nothing at"),
    "a text": (text, "expected an AnnData file, .h5ad or .zarr, found something else"),
    "HDF5 that is no AnnData": (plain_hdf5, "found HDF5 with counts"),
    "an .h5 file of 10x": (of_10x, "found an .h5 file of 10x; read it with scanpy.read_10x_h5"),
    "40,000 GB, by what it declares": (endless, "expected a file that fits in memory"),
    "a model, where the file is meant": (a_model, "found the folder of a model; give the model"),
    "a pipe": (a_pipe, "found a device or pipe"),
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("command", COMMANDS)
def test_files(made, tmp_path, command, kind):
    _, option, extension = COMMANDS[command]
    (tmp_path / "in").mkdir()
    file = FILES[kind][0](tmp_path / "in")
    places = [option, tmp_path / "out" / f"out{extension}"]
    refused(run(*told(command, made, file=file), *places, "-q"), FILES[kind][1])
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------------------------------
# Numbers of options

NUMBERS = {
    "interpolate --at nan": "time: expected a number",
    "interpolate --at 1e9": "at: expected times near those of the fit, 0 to 3, found 1e+09",
    "interpolate --at 2 --level nan": "level: expected above 0 and at most",
    "interpolate --at 2 --n-steps 0": "--n-steps: expected a whole number, 1 or more, found 0",
    "trajectory --n-steps -1": "--n-steps: expected a whole number, 1 or more, found -1",
    "trajectory --cells 0": "cells: expected a whole number, 1 or more, found 0",
    "trajectory --seed -1": "seed: expected a whole number, 0 to 4.29497e+09, found -1",
    "trajectory --seed 4294967296": "seed: expected a whole number",
    "trajectory --rtol nan": "rtol: expected a finite number",
    "trajectory --atol -1": "atol: expected a finite number, 0 or more, found -1",
    "trajectory --start nan": "start: expected a finite number",
    "trajectory --start 0.5": "start: expected one of 0, 1, 3, found 0.5",
    "trajectory --time inf": "times: expected a finite number",
    "fates --groups kind --end 2": "end: expected one of 0, 1, 3, found 2",
    "fates --groups 0": "groups: expected 2 to",
    "perturb --groups kind --gene g1=nan": "value of g1: expected a finite number, found nan",
    "perturb --groups kind --gene g1 --seed -1": "seed: expected a whole number",
    "grn --decay nan": "decay: expected a finite number",
    "grn --decay inf": "decay: expected a finite number",
    "grn --ridge nan": "ridge: expected a finite number",
    "grn --members -1": "members: expected a whole number, 0 or more",
    "grn --top 0": "top_k: expected at least 1, found 0",
}


@pytest.mark.parametrize("words", NUMBERS)
def test_numbers(made, tmp_path, words):
    name, *options = words.split()
    extension = ".tsv" if name in ("fates", "perturb", "grn") else ".h5ad"
    model = [made["model"], made["file"]]
    refused(run(name, *model, *options, "-o", tmp_path / f"out{extension}", "-q"), NUMBERS[words])
    assert not list(tmp_path.iterdir())


FITTED_NUMBERS = {
    "fit --seed -1": "seed: expected a whole number",
    "fit --steps -1": "steps: expected a whole number, 0 or more, found -1",
    "fit --n-dims 0": "--n-dims: expected at least 1, found 0",
    "finetune --anchor nan": "anchor: expected a finite number",
    "finetune --seed 5000000000": "seed: expected a whole number",
    "evaluate --seeds 0": "seeds: expected a whole number, 1 or more, found 0",
    "evaluate --n-dims 0": "--n-dims: expected a whole number, 1 or more, found 0",
    "compare --condition half --permutations 0": "permutations: expected a whole number, 1 or",
}


@pytest.mark.parametrize("words", FITTED_NUMBERS)
def test_numbers_of_fits(made, tmp_path, words):
    name, *options = words.split()
    base = ["cellmnn-base"] if name in ("finetune", "compare") else []
    output = ["-o", tmp_path / "out"] if name in ("fit", "finetune") else []
    day = ["--time-key", "day", "-q"]
    refused(run(name, *base, made["file"], *options, *day, *output), FITTED_NUMBERS[words])
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------------
# The document


def test_the_document_has_the_cases(table_of):
    places = [f"| {place} | {_told(outcome)} |" for place, (_, outcome) in PLACES.items()]
    files = [f"| {kind} | {_told(outcome)} |" for kind, (_, outcome) in FILES.items()]
    numbers = [f"| {words} | {outcome} |" for words, outcome in (NUMBERS | FITTED_NUMBERS).items()]
    assert table_of(DOCUMENT, "| where a result would go | what is said |", places) == places
    assert table_of(DOCUMENT, "| what is given to read | what is said |", files) == files
    assert table_of(DOCUMENT, "| command | what is said |", numbers) == numbers


def _told(outcome):
    return outcome.format(place="in.h5ad")
