"""Of 0.1; the names are those of `cellmnn_fm` now. Goes with 0.3."""

from .data.gene_networks import GeneNetwork as GeneNetwork
