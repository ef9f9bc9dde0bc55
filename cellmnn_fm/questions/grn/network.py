"""Gene regulatory networks: signed weights between all genes, kept as two thin factors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...data.introduced import Introduced
from ...data.outputs import EDGES, require_file, save_table, written_whole
from ...data.transcription_factors import activating_shares, are_factors
from ...model.errors import InputError, listed

if TYPE_CHECKING:
    import networkx

_BLOCK = 512  # targets whose weights are looked at at once, which bounds the memory

Factors = tuple[NDArray[np.float64], NDArray[np.float64]]

_SHOWN_EDGES = 10  # in a notebook
_DRAWN = 1000  # genes, where a sum over all edges would take long
LEAST_ASYMMETRY = 0.05  # below, both directions of an edge are the same


@dataclass(frozen=True)
class SharedEdges:
    """The mean of networks of several data sets, over those that measured both genes.

    And one more, in which nothing goes together: an edge that few data sets have seen is less sure.

    Attributes
    ----------
    loadings : (genes, rank)
        L, of all sets side by side; their sum is L Lᵀ.
    measured : (genes, sets)
        1 where a set measured a gene.
    """

    loadings: NDArray[np.float64]
    measured: NDArray[np.float64]

    def counts(self, rows: NDArray, columns: NDArray) -> NDArray[np.float64]:
        """How many sets measured both, of positions `rows` (n,) and `columns` (m,): (n, m)."""
        return self.measured[rows] @ self.measured[columns].T

    def weights(self, rows: NDArray, columns: NDArray) -> NDArray[np.float64]:
        """Their mean, of positions `rows` (n,) and `columns` (m,): (n, m); 0 without any."""
        total = self.loadings[rows] @ self.loadings[columns].T
        return total / (self.counts(rows, columns) + 1)


@dataclass(frozen=True)
class GeneRegulatoryNetwork(Introduced):
    """Signed influences of genes on genes: weights G = left · right, row = target.

    G is (genes, genes) but never formed: the factors are as thin as the latent space. The influence
    of gene j on gene i is ``G[i, j]``: by how many of its standard deviations per unit of time i is
    made faster when j is one of its standard deviations higher. A gene's influence on itself is not
    an edge. Edges are statistical: they are not shown to be causes.

    Attributes
    ----------
    genes : tuple of str
        Their names, rows and columns of G.
    left, right : (genes, rank) and (rank, genes)
        The factors of G, row = target.
    mean, spread : (genes,)
        Expression of the cells that the network is about, and its standard deviation.
    members : list of (left, right)
        The same from resampled cells; their spread is the confidence in an edge.
    record : dict
        Estimator and its settings.
    by_value : bool
        Whether the strongest edges are those of the largest weights, and not of the largest size.
    symbols : tuple of str
        Human symbols of the genes, by which factors are known; their names if there are none.
    beside : dict of (left, right)
        Networks of the same cells by other estimators, by name; they say how far these agree.
    shared : SharedEdges, optional
        What other data sets say, which is added to G.

    Examples
    --------
    >>> import numpy as np
    >>> left, right = np.array([[0.0], [2.0], [-1.0]]), np.array([[1.0, 0.5, 0.0]])
    >>> network = GeneRegulatoryNetwork(("A", "B", "C"), left, right)
    >>> network.interaction("A", "C")
    -1.0
    >>> network.to_dataframe(top_k=2)
      source target  weight  sign
    0      A      B     2.0     1
    1      A      C    -1.0    -1
    """

    genes: tuple[str, ...]
    left: NDArray[np.float64]
    right: NDArray[np.float64]
    mean: NDArray[np.float64] | None = None
    spread: NDArray[np.float64] | None = None
    members: Sequence[Factors] = ()
    record: dict[str, Any] = field(default_factory=dict)
    by_value: bool = False
    symbols: tuple[str, ...] = ()
    beside: dict[str, Factors] = field(default_factory=dict)
    shared: SharedEdges | None = None

    def __repr__(self) -> str:
        how = f"{self.record.get('estimator', '')}, {self.kind}"
        return (
            f"GeneRegulatoryNetwork of {len(self.genes):,} genes, {how}: {self.in_words(3)}, ...\n"
            "associations, not shown to be causes; to_dataframe(top_k=...)"
        )

    def in_words(self, count: int, **selection: Any) -> str:
        """The strongest edges that :meth:`to_dataframe` selects; without directions a pair once."""
        directed = self.kind == "directed"
        positive, negative = ("->", "-|") if directed else ("+", "-")
        words: dict[Any, str] = {}
        strongest = self.to_dataframe(top_k=2 * count, **selection)
        for edge in strongest.itertuples():
            pair = edge.source, edge.target
            sign = negative if edge.sign < 0 else positive
            key = pair if directed else frozenset(pair)
            words.setdefault(key, f"{edge.source} {sign} {edge.target}")
        return ", ".join(list(words.values())[:count])

    def _table(self) -> pd.DataFrame:
        """Of the strongest edges."""
        return self.to_dataframe(top_k=_SHOWN_EDGES)

    @cached_property
    def factors(self) -> tuple[str, ...]:
        """Genes that are transcription factors, by the list that ships with the package."""
        known = are_factors(self.genes, self.symbols)
        return tuple(gene for gene, is_factor in zip(self.genes, known, strict=True) if is_factor)

    @cached_property
    def asymmetry(self) -> float:
        """Share of Σ G² that is owed to edges that differ from their reverse, 0 to 1.

        ‖(G - Gᵀ)/2‖² / ‖G‖². A network of correlations has 0.
        """
        product = self.right @ self.left
        total = float(((self.left.T @ self.left) * (self.right @ self.right.T)).sum())
        # what other sets say is the same in both directions
        different = 0.5 * (total - float((product * product.T).sum()))
        if self.shared is not None and different > 0:
            count = len(self.genes)
            drawn = np.random.default_rng(0).permutation(count)[:_DRAWN]
            total = float(np.square(self.weights(drawn, drawn)).mean()) * count**2
        # rounding may leave a little less than nothing
        return max(0.0, different / total) if total > 0 else 0.0

    def weights(self, rows: NDArray, columns: NDArray) -> NDArray[np.float64]:
        """G of targets `rows` (n,) and sources `columns` (m,), by position in `genes`: (n, m)."""
        weights = self.left[rows] @ self.right[:, columns]
        return weights if self.shared is None else weights + self.shared.weights(rows, columns)

    @property
    def kind(self) -> str:
        """What its directions are worth, in a word or two."""
        return "directed" if self.asymmetry >= LEAST_ASYMMETRY else "co-expression only"

    def interaction(self, source: str, target: str) -> float:
        """The weight of one edge."""
        (row,), (column,) = self._positions([target], "target"), self._positions([source], "source")
        return float(self.weights(np.array([row]), np.array([column]))[0, 0])

    def to_dataframe(
        self,
        sources: Iterable[str] | Literal["factors"] | None = None,
        targets: Iterable[str] | None = None,
        top_k: int | None = None,
        min_abs: float = 0.0,
        prior: bool = False,
    ) -> pd.DataFrame:
        """Edges, the strongest first.

        Parameters
        ----------
        sources, targets : iterable of str, optional
            All genes by default; "factors" are the transcription factors among them.
        top_k : int, optional
            At most so many.
        min_abs : float
            Of the weight.
        prior : bool
            Add "activating": the share of its known targets that a source activates, see
            :func:`cellmnn_fm.data.transcription_factors.activating_shares`. It does not change
            the weight.

        Returns
        -------
        DataFrame
            "source", "target", "weight" and "sign"; with members also "sign_consistency" (the share
            of them with the sign of their mean) and "z" (that mean over their standard deviation);
            "agreement", the share of other estimators with the same sign, where there are any; and
            "sets", how many data sets are behind an edge, where more than one is.

        Raises
        ------
        InputError
            On a gene that is not in the network, by name.
        """
        if top_k is not None and top_k < 1:
            raise InputError("top_k", "at least 1", top_k, "ask for one or more edges")
        columns = self._positions(sources, "source")
        rows = self._positions(targets, "target")
        strongest = [np.empty((0, 3))]
        floor = -np.inf  # of the strength
        for block in np.array_split(rows, max(1, -(-len(rows) // _BLOCK))):
            weights = self.weights(block, columns)
            strength = weights if self.by_value else np.abs(weights)
            wanted = (strength >= floor) & (block[:, None] != columns)
            if min_abs > 0:
                wanted &= np.abs(weights) >= min_abs
            targets_of, sources_of = np.nonzero(wanted)
            strongest.append(
                np.stack(
                    [block[targets_of], columns[sources_of], weights[targets_of, sources_of]],
                    axis=1,
                )
            )
            if top_k is not None:
                # what is kept so far is a floor for the blocks to come
                kept = self._strongest(np.concatenate(strongest), top_k)
                strongest = [kept]
                if len(kept) == top_k:
                    floor = float(kept[-1, 2] if self.by_value else np.abs(kept[-1, 2]))
        edges = self._strongest(np.concatenate(strongest), top_k)
        targets_of, sources_of = edges[:, 0].astype(int), edges[:, 1].astype(int)
        names = np.array(self.genes)
        table = pd.DataFrame(
            {
                "source": names[sources_of],
                "target": names[targets_of],
                "weight": edges[:, 2],
                "sign": np.sign(edges[:, 2]).astype(int),
            }
        )
        if self.members:
            again = np.stack([_of_edges(f, targets_of, sources_of) for f in self.members])
            mean, spread = again.mean(axis=0), again.std(axis=0, ddof=1)
            table["sign_consistency"] = (np.sign(again) == np.sign(mean)).mean(axis=0)
            table["z"] = mean / np.where(spread > 0, spread, 1.0)
        if self.beside:
            others = [np.sign(_of_edges(f, targets_of, sources_of)) for f in self.beside.values()]
            table["agreement"] = (np.stack(others) == np.sign(edges[:, 2])).mean(axis=0)
        if self.shared is not None:
            measured = self.shared.measured
            counts = np.einsum("es,es->e", measured[targets_of], measured[sources_of])
            table["sets"] = counts.astype(int)
        if prior:
            table["activating"] = activating_shares(self.genes, self.symbols)[sources_of]
        return table

    def regulators_of(self, gene: str, top_k: int | None = 20) -> pd.DataFrame:
        """The strongest edges to a gene."""
        return self.to_dataframe(targets=[gene], top_k=top_k)

    def targets_of(self, gene: str, top_k: int | None = 20) -> pd.DataFrame:
        """The strongest edges from a gene."""
        return self.to_dataframe(sources=[gene], top_k=top_k)

    def influences(self, x: NDArray, target: str, *, centred: bool = True) -> NDArray[np.float64]:
        """What each gene does to a target in single cells.

        Parameters
        ----------
        x : (cells, genes)
            Expression, in the order of `genes`.
        target : str
            The gene whose regulators are asked for.
        centred : bool
            Whether expression counts from its mean; without, as in the paper's w_j→i(x, t).

        Returns
        -------
        (cells, genes)
            ``G[i, j] (x_j - mean_j) / spread_j``; the target's own column is 0.
        """
        if x.ndim != 2 or x.shape[1] != len(self.genes):
            expected = f"(cells, {len(self.genes)}), in the order of the network's genes"
            raise InputError("x", expected, x.shape, "select those genes")
        (target_row,) = self._positions([target], "target")
        every = np.arange(len(self.genes))
        weights = self.weights(np.array([target_row]), every)[0]
        weights[target_row] = 0.0
        if centred and self.mean is not None:
            x = x - self.mean
        return x * (weights if self.spread is None else weights / self.spread)

    def to_networkx(self, **selection: Any) -> networkx.DiGraph:
        """A directed graph of the edges that :meth:`to_dataframe` selects, with their columns."""
        import networkx

        table = self.to_dataframe(**selection)
        attributes = [name for name in table.columns if name not in ("source", "target")]
        return networkx.from_pandas_edgelist(
            table, edge_attr=attributes, create_using=networkx.DiGraph
        )

    def save(self, file: str | Path, **selection: Any) -> None:
        """Write the edges that :meth:`to_dataframe` selects: .tsv, .csv, .parquet or .graphml."""
        require_file(file, EDGES)
        if Path(file).suffix != ".graphml":
            save_table(self.to_dataframe(**selection), file)
            return
        import networkx

        graph = self.to_networkx(**selection)
        # which XML has no place for
        printable = {name: "".join(filter(str.isprintable, str(name))) for name in graph}
        with written_whole(file) as staging:
            networkx.write_graphml(networkx.relabel_nodes(graph, printable), staging)

    def _strongest(self, edges: NDArray, top_k: int | None) -> NDArray:
        """Rows (target, source, weight) by falling strength; equal ones keep their order."""
        strength = -edges[:, 2] if self.by_value else -np.abs(edges[:, 2])
        if top_k is not None and top_k < len(edges):
            kept = strength <= np.partition(strength, top_k - 1)[top_k - 1]
            edges, strength = edges[kept], strength[kept]
        return edges[np.argsort(strength, kind="stable")][:top_k]

    def _positions(self, names: Iterable[str] | None, what: str) -> NDArray[np.int64]:
        """Indices of genes by name; an error names those that are not there."""
        if names is None:
            return np.arange(len(self.genes))
        if isinstance(names, str):
            if names != "factors":
                raise InputError(what, "a list of genes, or factors", names, "give a list")
            if not self.factors:
                shown = listed(self.genes)
                raise InputError(what, "transcription factors", f"none among {shown}", "name some")
            names = self.factors
        wanted = list(dict.fromkeys(names))
        known = {name: index for index, name in enumerate(self.genes)}
        if missing := [name for name in wanted if name not in known]:
            raise InputError(
                what, "genes of the network", listed(missing), "leave them out, or correct them"
            )
        return np.array([known[name] for name in wanted], dtype=np.int64)


def _of_edges(factors: Factors, rows: NDArray, columns: NDArray) -> NDArray[np.float64]:
    """Weights (edges,) of targets `rows` (edges,) and sources `columns` (edges,)."""
    left, right = factors
    return np.einsum("er,re->e", left[rows], right[:, columns])
