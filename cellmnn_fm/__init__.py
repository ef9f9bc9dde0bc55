"""A foundation model for single-cell dynamics: trajectories and gene regulation from snapshots.

Names are loaded when first used, so that the command line starts at once. `AutoConfig` and
`AutoModel` know the model type "cellmnn" from then on.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .data.corpus import Corpus
    from .data.gene_networks import GeneNetwork
    from .data.genes import GeneOptions, GenePanel
    from .data.growth_genes import GrowthGenes
    from .data.notices import set_verbosity
    from .data.shared_subspace import SharedSubspace, fit_shared_subspace
    from .data.synthetic import branching_course
    from .data.tasks import SamplingConfig
    from .data.time_course import TimeCourse
    from .data.times import TimeKey
    from .fitted.foundation import save_foundation
    from .model.configuration_cellmnn import CellMNNConfig
    from .model.errors import InputError
    from .model.modeling_cellmnn import CellMNNModel
    from .pipeline import CellMNNPipeline
    from .pl.page import write_report
    from .training.configs import TrainingConfig
    from .training.pretraining import corpus_config, pretrain

__version__ = version("cellmnn-fm")
__all__ = [
    "CellMNNConfig",
    "CellMNNModel",
    "CellMNNPipeline",
    "Corpus",
    "GeneNetwork",
    "GeneOptions",
    "GenePanel",
    "GrowthGenes",
    "InputError",
    "SamplingConfig",
    "SharedSubspace",
    "TimeCourse",
    "TimeKey",
    "TrainingConfig",
    "branching_course",
    "corpus_config",
    "fit_shared_subspace",
    "pretrain",
    "save_foundation",
    "set_verbosity",
    "write_report",
]

_HOMES = {
    "CellMNNConfig": "model.configuration_cellmnn",
    "CellMNNModel": "model.modeling_cellmnn",
    "CellMNNPipeline": "pipeline",
    "Corpus": "data.corpus",
    "GeneNetwork": "data.gene_networks",
    "GeneOptions": "data.genes",
    "GenePanel": "data.genes",
    "GrowthGenes": "data.growth_genes",
    "InputError": "model.errors",
    "SamplingConfig": "data.tasks",
    "SharedSubspace": "data.shared_subspace",
    "TimeCourse": "data.time_course",
    "TimeKey": "data.times",
    "TrainingConfig": "training.configs",
    "branching_course": "data.synthetic",
    "corpus_config": "training.pretraining",
    "fit_shared_subspace": "data.shared_subspace",
    "pretrain": "training.pretraining",
    "save_foundation": "fitted.foundation",
    "set_verbosity": "data.notices",
    "write_report": "pl.page",
}


def __getattr__(name: str):
    """A public name, imported from where it lives when it is first used."""
    if name == "pl":
        return import_module(".pl", __name__)
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    """Public names, imported or not."""
    return sorted({*globals(), *_HOMES, "pl"})
