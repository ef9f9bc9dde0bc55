"""Stochastic gene networks with known edges: what estimators of regulation are judged against."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ..model.errors import InputError

if TYPE_CHECKING:
    from anndata import AnnData

Topology = Literal["linear", "cyclic", "bifurcating", "trifurcating"]

DECAY = 1.2
"""Rate at which the simulated genes decay, per unit of time."""

_HILL, _THRESHOLD = 4, 0.5
_BASAL = 0.03  # of the full production, without any activator
_BURST = 0.02  # noise of production and decay: the variance of an event's size
_STEP = 0.02
_ACTIVATING = 0.75  # share of the edges along chains, and to targets
_CORE = 20  # factors of a large network that are as in a small one
_MOST_REGULATORS = 3  # of a gene of a large network
_MOST_GENES = 10_000


@dataclass(frozen=True)
class GeneNetwork:
    """Genes that activate and repress each other, in cells that do not interact.

        dx_i = (k (β + (1 - β) Π_i(x)) s - k x_i) dt + noise

    A gene is on when any of its activators is above its threshold and none of its repressors (Hill
    functions); s differs between cells. Production and decay come in bursts, so that the noise
    grows with their rates (chemical Langevin equation, as in Pratapa et al. 2020, Nat Methods
    17:147).

    Attributes
    ----------
    names : tuple of str
        Of the genes.
    edges : (genes, genes)
        +1 or -1 where the column regulates the row; a gene may regulate itself.
    topology : str
        That it was drawn from.
    silent : tuple of int
        Genes that are knocked out.

    Examples
    --------
    >>> network = GeneNetwork.make("bifurcating", genes=10, seed=0)
    >>> network.to_anndata(times=(0.0, 1.0, 2.0), cells=50, seed=0).shape
    (150, 10)
    """

    names: tuple[str, ...]
    edges: NDArray[np.int64]
    topology: Topology
    silent: tuple[int, ...] = ()

    @classmethod
    def make(
        cls, topology: Topology, genes: int = 20, seed: int = 0, factors: int | None = None
    ) -> GeneNetwork:
        """A network of a kind: a core that says how cells move, and chains downstream of it.

        Parameters
        ----------
        topology : {"linear", "cyclic", "bifurcating", "trifurcating"}
            A chain; a ring with one repression; two or three fates that exclude each other.
        genes : int
            10 to 100, or up to 10,000 with `factors`.
        seed : int
            Of the signs along the chains.
        factors : int, optional
            Only the first so many genes, 20 or more, drive others: 20 are a network as without,
            and each other gene is driven by one to three factors that come before it.
        """
        if factors is not None:
            if not _CORE <= factors <= genes <= _MOST_GENES:
                expected = f"{_CORE} or more, and of {_MOST_GENES:,} genes at most"
                raise InputError("factors", expected, f"{factors} of {genes}", "choose others")
            return cls._of_factors(topology, genes, seed, factors)
        if topology not in get_args(Topology):
            raise InputError(
                "topology", ", ".join(get_args(Topology)), topology, "choose one of those"
            )
        if not 10 <= genes <= 100:
            raise InputError("genes", "10 to 100", genes, "choose another number")
        rng = np.random.default_rng((seed, get_args(Topology).index(topology)))
        edges = np.zeros((genes, genes), dtype=np.int64)

        def chain(start: int, members: list[int]) -> None:
            for source, target in zip([start, *members], members, strict=False):
                edges[target, source] = 1 if rng.random() < _ACTIVATING else -1

        if topology == "linear":
            chain(0, list(range(1, genes)))
        elif topology == "cyclic":
            ring = 6
            for gene in range(ring):
                edges[gene, gene - 1 if gene else ring - 1] = 1 if gene else -1
            for branch in range(3):
                chain(2 * branch, list(range(ring + branch, genes, 3)))
        else:
            fates = range(1, 3 if topology == "bifurcating" else 4)
            for fate in fates:
                edges[fate, 0] = edges[fate, fate] = 1
                edges[fate, [other for other in fates if other != fate]] = -1
                chain(fate, list(range(fate + len(fates), genes, len(fates))))
        return cls(tuple(f"G{gene}" for gene in range(genes)), edges, topology)

    @classmethod
    def _of_factors(cls, topology: Topology, genes: int, seed: int, factors: int) -> GeneNetwork:
        """A small network, and genes that hang on it, or on each other if they are factors."""
        rng = np.random.default_rng((seed, get_args(Topology).index(topology), factors))
        edges = np.zeros((genes, genes), dtype=np.int64)
        edges[:_CORE, :_CORE] = cls.make(topology, _CORE, seed).edges
        for gene in range(_CORE, genes):
            count = rng.integers(1, _MOST_REGULATORS + 1)
            regulators = rng.choice(min(gene, factors), count, replace=False)
            edges[gene, regulators] = np.where(rng.random(count) < _ACTIVATING, 1, -1)
        return cls(tuple(f"G{gene}" for gene in range(genes)), edges, topology)

    def without(self, gene: str) -> GeneNetwork:
        """The same with a gene knocked out, from the beginning."""
        if gene not in self.names:
            raise InputError("gene", f"one of {', '.join(self.names)}", gene, "name one")
        return replace(self, silent=(*self.silent, self.names.index(gene)))

    def production(self, x: NDArray) -> NDArray:
        """How far each gene is on, from 0 to 1, (cells, genes).

        Of expression `x` (cells, genes).
        """
        drives = self.edges.any(axis=0)
        edges, of_factors = self.edges[:, drives], x[:, drives]
        # of what is free of each factor, products over factors are sums of logarithms
        free = -np.log1p((of_factors / _THRESHOLD) ** _HILL)
        activated = (edges > 0).any(axis=1)
        inactive = np.exp(free @ (edges > 0).T.astype(x.dtype))
        repressed = np.exp(free @ (edges < 0).T.astype(x.dtype))
        return np.where(activated, 1 - inactive, 1.0) * repressed

    def simulate(self, times: tuple[float, ...], cells: int, seed: int) -> NDArray[np.float64]:
        """Expression (times, cells, genes): other cells at each time, all from the same start."""
        rng = np.random.default_rng((seed, 1))
        genes = len(self.names)
        x = _BASAL * np.exp(0.3 * rng.normal(size=(len(times), cells, genes)))
        x[..., 0] = np.exp(0.1 * rng.normal(size=x.shape[:2]))
        size = np.exp(0.15 * rng.normal(size=(len(times), cells, 1)))
        x[..., list(self.silent)] = 0.0
        made_at_all = np.ones(genes)
        made_at_all[list(self.silent)] = 0.0
        for snapshot, time in enumerate(times):
            y = x[snapshot]
            for _ in range(round((time - times[0]) / _STEP)):
                made = DECAY * (_BASAL + (1 - _BASAL) * self.production(y)) * size[snapshot]
                made *= made_at_all
                noise = np.sqrt(_BURST * (made + DECAY * y) * _STEP) * rng.normal(size=y.shape)
                y = np.maximum(y + (made - DECAY * y) * _STEP + noise, 0.0)
            x[snapshot] = y
        return x

    def to_anndata(
        self,
        times: tuple[float, ...] = (0.0, 1.0, 2.0, 3.0, 4.0),
        cells: int = 300,
        seed: int = 0,
        counts: float | None = None,
        depth: float = 0.0,
    ) -> AnnData:
        """Snapshots as AnnData.

        Parameters
        ----------
        times : tuple of float
            When snapshots are taken.
        cells : int
            At each time.
        seed : int
            Of the cells that are drawn.
        counts : float, optional
            Counts of a gene that is fully on; `X` is then the logarithm of Poisson counts (plus 1),
            which are in `layers["counts"]`.
        depth : float
            Standard deviation of the logarithm of how much is counted of a cell. If not 0, `X` is
            the logarithm of counts that were scaled to the median cell, as is usual.
        """
        import anndata
        import pandas as pd

        x = self.simulate(times, cells, seed).reshape(-1, len(self.names))
        obs = pd.DataFrame({"time": np.repeat(times, cells)})
        obs.index = [f"cell{cell}" for cell in range(len(obs))]
        var = pd.DataFrame(index=list(self.names))
        if counts is None:
            return anndata.AnnData(x.astype(np.float32), obs=obs, var=var)
        rng = np.random.default_rng((seed, 2))
        if not depth:
            drawn = rng.poisson(counts * x)
            shown = np.log1p(drawn)
        else:
            drawn = rng.poisson(counts * x * np.exp(depth * rng.normal(size=(len(x), 1))))
            sizes = drawn.sum(axis=1, keepdims=True)
            shown = np.log1p(drawn * (np.median(sizes) / np.maximum(sizes, 1)))
        return anndata.AnnData(shown.astype(np.float32), obs=obs, var=var, layers={"counts": drawn})

    def reference(self):
        """The edges between different genes, as a table "source", "target", "sign"."""
        import pandas as pd

        targets, sources = np.nonzero(self.edges)
        between = targets != sources
        names = np.array(self.names)
        return pd.DataFrame(
            {
                "source": names[sources[between]],
                "target": names[targets[between]],
                "sign": self.edges[targets[between], sources[between]],
            }
        )
