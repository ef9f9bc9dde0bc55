"""A foundation model for single-cell dynamics: trajectories and gene regulation from snapshots.

Names are loaded when first used, so that the command line starts at once. `AutoConfig` and
`AutoModel` know the model type "cellmnn" from then on.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .configuration_cellmnn import CellMNNConfig
    from .errors import InputError
    from .gene_panel import GenePanel
    from .latent_space import GeneOptions
    from .members import fit_shared_subspace
    from .modeling_cellmnn import CellMNNModel
    from .pipeline import CellMNNPipeline
    from .shared_subspace import SharedSubspace
    from .time_course import TimeCourse

__version__ = version("cellmnn-fm")
__all__ = [
    "CellMNNConfig",
    "CellMNNModel",
    "CellMNNPipeline",
    "Corpus",
    "GeneOptions",
    "GenePanel",
    "GrowthGenes",
    "InputError",
    "SharedSubspace",
    "TimeCourse",
    "TimeKey",
    "fit_shared_subspace",
]

_HOMES = {
    "CellMNNConfig": "configuration_cellmnn",
    "CellMNNModel": "modeling_cellmnn",
    "CellMNNPipeline": "pipeline",
    "Corpus": "corpus",
    "GeneOptions": "latent_space",
    "GenePanel": "gene_panel",
    "GrowthGenes": "growth_genes",
    "InputError": "errors",
    "SharedSubspace": "shared_subspace",
    "TimeCourse": "time_course",
    "TimeKey": "times",
    "fit_shared_subspace": "members",
}


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
