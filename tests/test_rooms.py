"""The order of the rooms: who may import whom, and what an import costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import cellmnn_fm

PACKAGE = Path(cellmnn_fm.__file__).parent

# a module may import those before it
ORDER = [
    *("errors", "seeding", "torch_defaults", "interrupts", "files", "saved_json"),
    *("times", "linear_flow", "losses", "gene_panel"),
    *("gene_moments", "subspace", "checkpoint", "shared_subspace", "outputs", "hub"),
    *("gaussian_frame", "conditioning", "configuration_cellmnn"),
    *("hypernetwork", "pretrained_cellmnn", "modeling_cellmnn"),
    *("batches", "reading", "growth_genes", "latent_space", "members", "time_course", "recipes"),
    *("trust_region", "trajectories", "rollout", "uncertainty", "growth"),
    *("metrics", "evaluation", "verdict", "subspace_report"),
    *("corpus_sets", "corpus", "sampling", "fit_record", "foundation", "model_card"),
    *("optimisation", "training", "joint_training", "adaptation", "finetuning", "candidates"),
    *("fates", "conditions", "grn", "regulation", "grn_baselines", "gene_networks"),
    *("results", "fitting", "queries", "fate_queries", "growth_queries", "grn_queries"),
    "evaluation_queries",
    *("grn_evaluation", "pipeline", "plotting", "grn_plotting", "report", "synthetic"),
    *("console", "subspace_commands", "grn_commands", "fate_commands", "fit_commands"),
    *("hub_commands", "demo", "cli", "__main__"),
]

# these are copied beside a checkpoint, where nothing else of the package is
TRAVELLING = [
    "errors",
    "seeding",
    "checkpoint",
    "linear_flow",
    "losses",
    "gaussian_frame",
    "conditioning",
    "configuration_cellmnn",
    "hypernetwork",
    "pretrained_cellmnn",
    "modeling_cellmnn",
]
TRAVEL_LUGGAGE = {
    "torch",
    "transformers",
    "huggingface_hub",
    "safetensors",
    *sys.stdlib_module_names,
}


def imports(module):
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text())):
        if isinstance(node, ast.ImportFrom):
            yield node.level, node.module, [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield 0, alias.name, []


def test_every_room_has_its_place():
    assert sorted(ORDER) == sorted(
        path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__"
    )


@pytest.mark.parametrize("module", ORDER)
def test_imports_go_down(module):
    below = ORDER[: ORDER.index(module)]
    for level, name, _ in imports(module):
        assert not (level == 0 and name.split(".")[0] == "cellmnn_fm"), "imports are relative"
        if level:
            assert name in below, f"{module} imports {name}"


@pytest.mark.parametrize("module", TRAVELLING)
def test_travelling_modules_need_nothing_else(module):
    for level, name, _ in imports(module):
        if level:
            assert level == 1
            assert name in TRAVELLING
        else:
            assert name.split(".")[0] in TRAVEL_LUGGAGE


def test_no_file_is_long():
    for path in PACKAGE.glob("*.py"):
        assert len(path.read_text().splitlines()) <= 450, path


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import cellmnn_fm", ["anndata", "matplotlib", "torch", "transformers"]),
        ("import cellmnn_fm.cli", ["anndata", "matplotlib", "torch", "transformers"]),
        ("from cellmnn_fm import CellMNNModel, TimeCourse", ["anndata", "matplotlib"]),
        ("from cellmnn_fm import CellMNNPipeline", ["anndata", "matplotlib", "ot"]),
    ],
)
def test_imports_are_lazy(statement, absent):
    code = f"import sys\n{statement}\nprint([name for name in {absent} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_names_at_the_top():
    for name in cellmnn_fm.__all__:
        assert getattr(cellmnn_fm, name).__name__ == name
        assert name in dir(cellmnn_fm)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = cellmnn_fm.nonsense
