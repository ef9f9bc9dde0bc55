"""The order of the rooms: who may import whom, and what an import costs."""

import ast
import inspect
import subprocess
import sys
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import cellmnn_fm
from cellmnn_fm import CellMNNPipeline
from cellmnn_fm.data.introduced import Introduced
from cellmnn_fm.dynamics.snapshots import interpolate

PACKAGE = Path(cellmnn_fm.__file__).parent

# a folder may import those before it
ORDER = [
    *("model", "data", "dynamics", "training", "evaluation", "fitted", "questions"),
    *("pipeline", "pl", "cli"),
]
# where tutorials of 0.1 found names; one import each, gone with 0.3
OLD_PATHS = {
    "__main__": "cli.__main__",
    "foundation": "fitted.foundation",
    "gene_networks": "data.gene_networks",
    "joint_training": "training.pretraining",
    "recipes": "training.configs",
    "sampling": "data.tasks",
    "synthetic": "data.synthetic",
}
# these are copied beside a checkpoint, where nothing else of the package is
TRAVELLING = [
    *("errors", "seeding", "checkpoint", "linear_flow", "gaussian_frame", "layers"),
    *("in_context", "token_layers", "dataset_table"),
    *("configuration_cellmnn", "pretrained_cellmnn", "modeling_cellmnn"),
]
TRAVEL_LUGGAGE = {
    "torch",
    "transformers",
    "huggingface_hub",
    "safetensors",
    *sys.stdlib_module_names,
}
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name != "__init__.py" and not (path.parent == PACKAGE and path.stem in OLD_PATHS)
}


def is_for_types(node):
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports(module, *, for_types=True):
    """Names of what a module imports, those of the package relative to it, and their level."""
    tree = ast.parse(MODULES[module].read_text())
    if not for_types:
        tree.body = [node for node in tree.body if not is_for_types(node)]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = module.split(".")[: -node.level]
            yield node.level, ".".join([*base, *([node.module] if node.module else [])])
        elif isinstance(node, ast.ImportFrom):
            yield 0, node.module
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield 0, alias.name


def test_few_rooms():
    entries = {path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    entries -= {f"{name}.py" for name in OLD_PATHS}
    assert len(entries) <= 12
    assert entries == {
        *("__init__.py", "py.typed", "pipeline.py"),
        *(name for name in ORDER if name != "pipeline"),
    }


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module):
    room = ORDER.index(module.split(".")[0])
    for level, name in imports(module):
        assert level or name.split(".")[0] != "cellmnn_fm", "imports are relative"
        if level:
            assert ORDER.index(name.split(".")[0]) <= room, f"{module} imports {name}"
            assert name in MODULES, f"{module} imports {name}"


def test_no_circles():
    graph = {
        module: {name for level, name in imports(module, for_types=False) if level}
        for module in MODULES
    }
    in_order = TopologicalSorter(graph).static_order()  # a circle is an error
    assert set(in_order) == set(MODULES)


@pytest.mark.parametrize("module", TRAVELLING)
def test_travelling_modules_need_nothing_else(module):
    for level, name in imports(f"model.{module}"):
        if level:
            assert level == 1
            assert name.removeprefix("model.") in TRAVELLING
        else:
            assert name.split(".")[0] in TRAVEL_LUGGAGE


def test_no_file_is_long():
    """Of the pipeline, whose docstrings are the manual, the code."""
    for module, path in MODULES.items():
        lines = len(path.read_text().splitlines())
        if module == "pipeline":
            tree = ast.parse(path.read_text())
            documented = [
                tree,
                *(node for node in ast.walk(tree) if hasattr(node, "decorator_list")),
            ]
            lines -= sum(len((ast.get_docstring(node) or "").splitlines()) for node in documented)
        assert lines <= 500, path


@pytest.mark.parametrize("name", sorted(OLD_PATHS.keys() - {"__main__"}))
def test_old_paths_are_one_import(name):
    docstring, *statements = ast.parse((PACKAGE / f"{name}.py").read_text()).body
    assert "Goes with" in docstring.value.value
    new, old = import_module(f"cellmnn_fm.{OLD_PATHS[name]}"), import_module(f"cellmnn_fm.{name}")
    for statement in statements:
        assert isinstance(statement, ast.ImportFrom)
        assert statement.module == OLD_PATHS[name]
        for alias in statement.names:
            assert getattr(old, alias.name) is getattr(new, alias.name)
            assert getattr(cellmnn_fm, alias.name) is getattr(new, alias.name)


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import cellmnn_fm", ["anndata", "matplotlib", "torch", "transformers"]),
        ("import cellmnn_fm.cli.app", ["anndata", "matplotlib", "torch", "transformers"]),
        (
            "from cellmnn_fm import CellMNNModel, CellMNNPipeline, TimeCourse",
            ["anndata", "matplotlib", "ot"],
        ),
    ],
)
def test_imports_are_lazy(statement, absent):
    code = f"import sys\n{statement}\nprint([name for name in {absent} if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_names_at_the_top():
    for name in cellmnn_fm.__all__:
        assert getattr(cellmnn_fm, name).__name__ == name
        assert name in dir(cellmnn_fm)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = cellmnn_fm.nonsense


# ---------------------------------------------------------------------------------------------
# The façade, and how far a call goes


@pytest.mark.parametrize(
    "method", [name for name in vars(CellMNNPipeline) if not name.startswith("_")]
)
def test_signatures_of_the_pipeline_are_short(method):
    function = getattr(CellMNNPipeline, method)
    if not callable(function):
        return  # a property
    parameters = inspect.signature(function).parameters.values()
    flat = [one for one in parameters if one.kind != one.VAR_KEYWORD and one.name != "self"]
    assert len(flat) <= 12


def test_the_pipeline_is_one_class():
    assert CellMNNPipeline.__mro__ == (CellMNNPipeline, Introduced, object)


def rooms_of(call):
    """Folders of the package whose functions run in a call."""
    rooms = set()

    def note(frame, event, argument):
        file = frame.f_code.co_filename
        if event == "call" and file.startswith(str(PACKAGE)):
            rooms.add(Path(file).relative_to(PACKAGE).parts[0].removesuffix(".py"))

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    return rooms


def test_calls_go_through_few_rooms(adata):
    adata.obs["kind"] = np.tile(["a", "b"], adata.n_obs // 2)
    fitted = CellMNNPipeline().fit(adata, time_key="day", steps=2, verdict=False)
    course, dynamics = fitted.time_course(adata), fitted.fitted.dynamics
    calls = {
        "fit": lambda: CellMNNPipeline().fit(adata, time_key="day", steps=2),
        "interpolate": lambda: interpolate(dynamics, course, 0.5),
        "fates": lambda: fitted.fates(adata, "kind"),
        "grn": lambda: fitted.grn(adata),
    }
    rooms = {name: rooms_of(call) for name, call in calls.items()}
    assert rooms["interpolate"] == {"model", "data", "dynamics"}
    most = {"fit": 7, "interpolate": 3, "fates": 6, "grn": 6}
    assert {
        name: len(through) for name, through in rooms.items() if len(through) > most[name]
    } == {}
