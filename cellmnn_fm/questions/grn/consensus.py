"""What networks of many data sets have in common: kept with a base, added to a network, or asked.

Each data set is its association without velocities, R (1 + R/λ)⁻¹ ≈ L Lᵀ, of which a base keeps L:
32 numbers a gene.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ...fitted.foundation import Foundation
from ...model.errors import InputError, listed
from .association import ridge_of, without_size
from .estimators import leading_components
from .network import GeneRegulatoryNetwork, SharedEdges

RANK = 32
_DRAWN = 1000  # genes, to tell how widely weights spread


def association_loadings(x: NDArray, times: NDArray, rank: int = RANK) -> NDArray[np.float16]:
    """L of a data set, (genes, rank), of expression `x` (cells, genes) at `times` (cells,)."""
    ranks = without_size(x, times)
    _, s, vt = leading_components(ranks / np.sqrt(len(x)), rank, 0)
    ridge, variances = ridge_of(x.shape[1]), s**2
    loadings = vt.T * np.sqrt(variances * ridge / (ridge + variances))
    padded = np.zeros((x.shape[1], rank), dtype=np.float16)
    padded[:, : loadings.shape[1]] = loadings
    return padded


def seen_data_sets(base: Foundation, names: Iterable[str]) -> set[str]:
    """Those of a base that are among `names`, or share cells or a process with one of them."""
    wanted = set(names)
    return {
        name
        for name, known in base.datasets.items()
        if name in wanted or wanted & set(known.entry.overlaps)
    }


def consensus(
    base: Foundation,
    own: GeneRegulatoryNetwork | None = None,
    genes: Sequence[str] | None = None,
    without: Iterable[str] = (),
) -> GeneRegulatoryNetwork:
    """A network together with those of the data sets of a base, or these alone.

    The mean of the networks that measured both genes of an edge is added to the own one, scaled to
    spread as widely. It is the same in both directions.

    Parameters
    ----------
    base : Foundation
        With the networks of its data sets, see `pretraining/collect_networks.py`.
    own : GeneRegulatoryNetwork, optional
        Of some cells.
    genes : sequence of str, optional
        Without an own network: which, as human symbols or those of mice; all by default.
    without : iterable of str
        Names of data sets that do not count, such as those of the cells themselves.

    Raises
    ------
    InputError
        If the base has no networks, or none of these genes.
    """
    left_out = set(without)
    loadings = {name: part for name, part in base.networks.items() if name not in left_out}
    if not loadings:
        actual = "none" if not base.networks else "none but of these cells"
        fix = "ask cellmnn-base, or collect them (pretraining/collect_networks.py)"
        raise InputError("consensus", "a base with networks of data sets", actual, fix)
    symbols = {name: _symbols(base, name) for name in loadings}
    if own is not None:
        names, by_symbol = own.genes, own.symbols or own.genes
    else:
        known = dict.fromkeys(symbol for part in symbols.values() for symbol in part if symbol)
        names = tuple(known if genes is None else dict.fromkeys(genes))
        by_symbol = names
    shared = _side_by_side(loadings, symbols, [symbol.upper() for symbol in by_symbol])
    there = shared.measured.max(axis=1) > 0
    if own is None:
        if there.sum() < 2:
            actual = f"{there.sum()} of {listed(names)}"
            raise InputError("genes", "2 or more that a data set measured", actual, "name others")
        names = tuple(np.array(names)[there].tolist())
        shared = SharedEdges(shared.loadings[there], shared.measured[there])
        record = {"estimator": "consensus", "cells": 0, "data_sets": sorted(loadings)}
        nothing = np.zeros((len(names), 1)), np.zeros((1, len(names)))
        return GeneRegulatoryNetwork(names, *nothing, record=record, by_value=True, shared=shared)
    scale = _spread(own, len(names)) / max(_spread(shared, len(names)), 1e-300)
    shared = SharedEdges(shared.loadings * np.sqrt(scale), shared.measured)
    record = {**own.record, "data_sets": sorted(loadings)}
    return replace(own, shared=shared, by_value=True, record=record)


def _symbols(base: Foundation, name: str) -> tuple[str, ...]:
    """Human symbols of the genes of a data set."""
    panel = base.datasets[name].panel
    assert panel is not None
    return panel.symbols


def _side_by_side(
    loadings: Mapping[str, NDArray], symbols: Mapping[str, Sequence[str]], genes: Sequence[str]
) -> SharedEdges:
    """All loadings by gene, with zeros where a data set did not measure it."""
    measured = np.zeros((len(genes), len(loadings)))
    parts = []
    for column, (name, part) in enumerate(loadings.items()):
        row_of: dict[str, int] = {}
        for row, symbol in enumerate(symbols[name]):  # of orthologs of one gene the first
            row_of.setdefault(symbol.upper(), row)
        rows = np.array([row_of.get(gene, -1) if gene else -1 for gene in genes])
        # a gene that never changes has nothing to say
        measured[:, column] = (rows >= 0) & (np.abs(part[rows]).max(axis=1) > 0)
        parts.append(part[rows].astype(np.float64) * measured[:, column, None])
    return SharedEdges(np.concatenate(parts, axis=1), measured)


def _spread(edges: GeneRegulatoryNetwork | SharedEdges, genes: int) -> float:
    """Standard deviation of the weights that are not 0, between some of so many genes."""
    drawn = np.random.default_rng(0).permutation(genes)[:_DRAWN]
    weights = edges.weights(drawn, drawn)
    np.fill_diagonal(weights, 0.0)
    there = weights[weights != 0]
    return float(there.std()) if len(there) else 0.0
