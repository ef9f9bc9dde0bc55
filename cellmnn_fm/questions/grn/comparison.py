"""Networks by all estimators and baselines from the same cells, beside known edges."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...data.options import Decay, Estimator
from ...fitted.fitted_model import Cells
from ...model.errors import InputError
from .baselines import BASELINES
from .question import cell_states, estimated, require_genes
from .reference import Reference, by_factor, evaluate_network

ESTIMATORS: tuple[Estimator, ...] = ("production", "association", "operator", "jacobian")
"""Of these a comparison has a network each."""


@dataclass(frozen=True)
class Comparison:
    """Networks of a fitted model and of baselines from the same cells, beside known edges.

    Attributes
    ----------
    weights : dict of (genes, genes)
        By method; row = target. Of the genes only those in the reference.
    reference : Reference
        Over these genes.
    by_value : frozenset of str
        Methods whose edges are ranked by their weight, and not by its size.
    """

    weights: dict[str, NDArray]
    reference: Reference
    by_value: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls,
        cells: Cells,
        reference: Reference,
        *,
        where: NDArray[np.bool_] | None = None,
        decay: Decay = None,
        most_for_trees: int | None = None,
        seed: int = 0,
    ) -> Comparison:
        """Estimate all networks.

        Parameters
        ----------
        cells : Cells
            Of a fitted model.
        reference : Reference
            Over the genes of the model.
        where : (cells,) mask, optional
            Those that the networks are about.
        decay
            As for :meth:`CellMNNPipeline.grn`.
        most_for_trees : int, optional
            No forests for more genes: they are slow.
        seed : int
            Of the baselines that draw.
        """
        require_genes(cells)
        states = cell_states(cells, where)
        assert states.expression is not None
        networks = {name: estimated(cells, states, name, decay=decay) for name in ESTIMATORS}
        known_genes = networks["production"].genes
        involved = set(reference.edges["source"]) | set(reference.edges["target"])
        genes = [gene for gene in known_genes if gene in involved]
        if len(genes) < 3:
            raise InputError(
                "reference", "3 or more genes of the network", len(genes), "take another"
            )
        rows = np.array([known_genes.index(gene) for gene in genes])
        x = states.expression[:, rows].astype(np.float64)
        weights = {str(name): of.weights(rows, rows) for name, of in networks.items()}
        for name, baseline in BASELINES.items():
            if name != "trees" or most_for_trees is None or len(genes) <= most_for_trees:
                weights[name] = baseline(x, states.times, seed)
        rng = np.random.default_rng(seed)
        weights["always_activation"] = np.ones((len(genes),) * 2)
        weights["shuffled_signs"] = rng.choice([-1.0, 1.0], (len(genes),) * 2)
        by_value = frozenset(name for name, of in networks.items() if of.by_value)
        return cls(weights, replace(reference, genes=tuple(genes)), by_value)

    def to_dict(self) -> dict[str, Any]:
        """Scores by method, numbers of pairs, and signs by factor, ready for JSON."""
        known = self.reference
        return {
            "methods": {
                name: evaluate_network(weights, known, by_value=name in self.by_value)
                for name, weights in self.weights.items()
            },
            "reference": {
                "links": len(known.edges),
                "pairs": len(known.pairs()[0]),
                "signed": int((known.edges["sign"] != 0).sum()),
                "conflicting": known.conflicting,
                "outside": known.outside,
            },
            "factors": by_factor(self.weights["production"], known).to_dict("records"),
        }
