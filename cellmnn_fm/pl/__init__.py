"""What a biologist looks at: figures of AnnData, in scanpy's manner, and a page of them.

    annotated = pipeline.annotate(adata)
    cellmnn_fm.pl.velocity_stream(annotated, color="cell_type")

Functions take `ax`, `show` and `save`, and give back the axes that they drew on.
"""

from .cells import fates, growth, interpolation, trajectories, velocity_stream
from .genes import drivers, gene_trends, network
from .page import write_report
from .quality import known_system, losses, subspaces, verdict

__all__ = [
    "drivers",
    "fates",
    "gene_trends",
    "growth",
    "interpolation",
    "known_system",
    "losses",
    "network",
    "subspaces",
    "trajectories",
    "velocity_stream",
    "verdict",
    "write_report",
]
