"""Boolean models of development as stochastic gene networks: edges that somebody else drew."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..model.errors import InputError, listed

if TYPE_CHECKING:
    from anndata import AnnData

_TRANSCRIPTION, _MRNA_DECAY = 20.0, 10.0  # a gene that is on ends at 2
_TRANSLATION, _PROTEIN_DECAY = 10.0, 1.0  # and its protein at 20
_THRESHOLD, _HILL = 10.0, 10
_NOISE = 0.1  # of a step, times the root of the level
_STEP = 0.01
_OFF = 0.01  # level of a gene that is not on at the start
_SILENT = 0.2  # cells all of whose genes are below this have left the model


@dataclass(frozen=True)
class BooleanNetwork:
    """Genes with a Boolean rule each, simulated as mRNA and protein with noise.

        dx_i = (20 f_i(p) - 10 x_i) dt + noise
        dp_i = (10 x_i - p_i) dt + noise

    Regulator j is bound with probability (p_j / 10)¹⁰ / (1 + (p_j / 10)¹⁰), and f_i is the mean of
    the rule over what is bound. Rules, rates, noise and starting points are those of BoolODE
    (Pratapa et al. 2020, Nat Methods 17:147); what is measured is x.

    Attributes
    ----------
    rules : mapping
        From each gene to an expression of genes with "and", "or" and "not".
    duration : float
        Until when cells are followed.
    start : mapping
        Levels x of the genes that are on at the beginning; empty where all of them are at 1.
    may_fall_silent : bool
        Whether cells none of whose genes is on are cells all the same.

    Examples
    --------
    >>> network = BooleanNetwork.named("mCAD")
    >>> network.names
    ('Fgf8', 'Emx2', 'Pax6', 'Coup', 'Sp8')
    >>> network.to_anndata(times=3, cells=20, seed=0).shape
    (60, 5)
    >>> network.reference().query("target == 'Coup'")[["source", "sign"]].values.tolist()
    [['Fgf8', -1], ['Sp8', -1]]
    """

    rules: Mapping[str, str]
    duration: float
    start: Mapping[str, float] = field(default_factory=dict)
    may_fall_silent: bool = False

    @classmethod
    def named(cls, name: str) -> BooleanNetwork:
        """One of the ten that BEELINE has.

        Raises
        ------
        InputError
            On another name.
        """
        if name not in BOOLEAN_NETWORKS:
            raise InputError("network", f"one of {listed(BOOLEAN_NETWORKS)}", name, "name one")
        return BOOLEAN_NETWORKS[name]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the genes."""
        return tuple(self.rules)

    def without(self, gene: str) -> BooleanNetwork:
        """The same with a gene knocked out, from the beginning."""
        if gene not in self.rules:
            raise InputError("gene", f"one of {listed(self.rules)}", gene, "name one")
        start = self.start or dict.fromkeys(self.rules, 1.0)
        return replace(
            self,
            rules={**self.rules, gene: f"{gene} and not {gene}"},
            start={name: level for name, level in start.items() if name != gene},
            may_fall_silent=True,
        )

    def reference(self) -> pd.DataFrame:
        """Every regulator of every gene: "source", "target" and "sign"."""
        edges = [
            (source, target, sign)
            for target, rule in self.rules.items()
            for source, sign in sorted(_signs(_parsed(rule), 1).items())
        ]
        return pd.DataFrame(edges, columns=["source", "target", "sign"])

    def activity(self, protein: NDArray) -> NDArray[np.float64]:
        """How far each gene is on, from 0 to 1, (cells, genes), of `protein` (cells, genes)."""
        odds = (protein / _THRESHOLD) ** _HILL
        bound = odds / (1 + odds)
        activity = np.zeros_like(bound)
        for number, (regulators, on) in enumerate(self._tables):
            for state in on:  # each a way in which the rule is true
                chance = np.ones(len(bound))
                for regulator, is_bound in zip(regulators, state, strict=True):
                    of_one = bound[:, regulator]
                    chance *= of_one if is_bound else 1 - of_one
                activity[:, number] += chance
        return activity

    def simulate(self, times: NDArray, cells: int, seed: int) -> NDArray[np.float64]:
        """Levels x (times, cells, genes) at `times` (times,): every cell is one of its own."""
        rng = np.random.default_rng(seed)
        levels = np.empty((len(times), cells, len(self.names)))
        missing = np.ones(levels.shape[:2], dtype=bool)
        while missing.any():  # as BoolODE, simulations that fall silent are made again
            snapshot, cell = np.nonzero(missing)
            drawn, sound = self._simulated(times[snapshot], rng)
            levels[snapshot[sound], cell[sound]] = drawn[sound]
            missing[snapshot[sound], cell[sound]] = False
        return levels

    def _simulated(
        self, times: NDArray, rng: np.random.Generator
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Levels (cells, genes) at the time of each (cells,); which never fell silent."""
        first = [self.start.get(name, _OFF if self.start else 1.0) for name in self.names]
        x = np.tile(first, (len(times), 1))
        p = x * _TRANSLATION / _PROTEIN_DECAY
        levels, sound = x.copy(), np.ones(len(times), dtype=bool)
        stops = np.round(times / _STEP).astype(int)
        for step in range(1, stops.max() + 1):
            drift = (
                _TRANSCRIPTION * self.activity(p) - _MRNA_DECAY * x,
                _TRANSLATION * x - _PROTEIN_DECAY * p,
            )
            x, p = (_stepped(level, rate, rng) for level, rate in zip((x, p), drift, strict=True))
            levels[stops == step] = x[stops == step]
            if not self.may_fall_silent:
                sound &= (x.max(axis=1) >= _SILENT) | (step > stops)
        return levels, sound

    def to_anndata(self, times: int = 8, cells: int = 250, seed: int = 0) -> AnnData:
        """Snapshots at evenly spaced times, the middles of so many parts of the duration."""
        import anndata

        at = (np.arange(times) + 0.5) * self.duration / times
        levels = self.simulate(at, cells, seed)
        obs = pd.DataFrame({"time": np.repeat(at, cells)})
        obs.index = obs.index.map("cell{}".format)
        return anndata.AnnData(
            levels.reshape(-1, len(self.names)).astype(np.float32),
            obs=obs,
            var=pd.DataFrame(index=list(self.names)),
        )

    @cached_property  # asked for in every step of a simulation
    def _tables(self) -> list[tuple[list[int], list[tuple[bool, ...]]]]:
        """For each gene its regulators, and the states of them in which its rule is true."""
        tables = []
        for rule in self.rules.values():
            parsed = _parsed(rule)
            regulators = sorted(_signs(parsed, 1))
            states = [tuple(map(bool, state)) for state in np.ndindex(*(2,) * len(regulators))]
            on = [
                state
                for state in states
                if _true(parsed, dict(zip(regulators, state, strict=True)))
            ]
            tables.append(([self.names.index(name) for name in regulators], on))
        return tables


def with_dropout(x: NDArray, share: float, seed: int) -> NDArray[np.float32]:
    """Expression `x` (cells, genes) where low values are lost, as BEELINE loses them.

    Of each gene the values below its quantile `share` become 0 with probability `share`.
    """
    low = x < np.quantile(x, share, axis=0)
    lost = low & (np.random.default_rng(seed).random(x.shape) < share)
    return np.where(lost, 0, x).astype(np.float32)


def _stepped(level: NDArray, rate: NDArray, rng: np.random.Generator) -> NDArray[np.float64]:
    """Levels (cells, genes) after a step at `rate` (cells, genes); none becomes negative."""
    moved = level + rate * _STEP + _NOISE * np.sqrt(level) * rng.normal(size=level.shape)
    return np.where(moved < 0, level, moved)


def _parsed(rule: str) -> ast.expr:
    """A rule as a tree of "and", "or", "not" and genes."""
    return ast.parse(rule.strip(), mode="eval").body


def _signs(node: ast.expr, sign: int) -> dict[str, int]:
    """Of the genes in a rule: -1 under "not", 0 where a gene is in it with both signs."""
    if isinstance(node, ast.Name):
        return {node.id: sign}
    if isinstance(node, ast.UnaryOp):
        return _signs(node.operand, -sign)
    assert isinstance(node, ast.BoolOp)
    signs: dict[str, int] = {}
    for part in node.values:
        for name, of_part in _signs(part, sign).items():
            signs[name] = of_part if signs.get(name, of_part) == of_part else 0
    return signs


def _true(node: ast.expr, state: Mapping[str, bool]) -> bool:
    """Whether a rule is true in a state."""
    if isinstance(node, ast.Name):
        return state[node.id]
    if isinstance(node, ast.UnaryOp):
        return not _true(node.operand, state)
    assert isinstance(node, ast.BoolOp)
    holds = all if isinstance(node.op, ast.And) else any
    return holds(_true(part, state) for part in node.values)


def _chain(genes: int, first: str, last: str) -> dict[str, str]:
    """Rules of genes that switch each other on, one after the other."""
    middle = {f"g{number}": f"g{number - 1}" for number in range(2, genes)}
    return {"g1": first, **middle, f"g{genes}": last}


BOOLEAN_NETWORKS: dict[str, BooleanNetwork] = {
    "LI": BooleanNetwork(_chain(7, "not g7", "g6 or g7"), 5, {"g1": 1}),
    "LL": BooleanNetwork(_chain(18, "not g18", "g17 or g18"), 15, {"g1": 1}),
    "CY": BooleanNetwork(
        {"g1": "not g5", "g2": "not g1", "g3": "not g2", "g4": "g3", "g5": "g4", "g6": "g1"},
        8,
        {"g1": 1, "g2": 1, "g3": 1},
    ),
    "BF": BooleanNetwork(
        {
            "g1": "not (g4 or g6)",
            "g2": "g1",
            "g3": "g2",
            "g4": "(g3 or g4) and not g6",
            "g6": "(g6 or g3) and not g4",
            "g7": "g4",
            "g8": "not g4",
        },
        8,
        {"g1": 1},
    ),
    "BFC": BooleanNetwork(
        {
            "g1": "not g9",
            "g2": "g1",
            "g3": "g2",
            "g4": "(g3 or g4) and not (g5 or g8)",
            "g5": "(g3 or g5) and not (g4 or g8)",
            "g6": "g4",
            "g7": "g5",
            "g8": "g7 or g6 or g8",
            "g9": "g8",
            "g10": "g9",
        },
        8,
        {"g1": 1},
    ),
    "TF": BooleanNetwork(
        {
            "g1": "not (g4 or g5 or g6)",
            "g2": "g1",
            "g3": "g2",
            "g4": "(g3 or g4) and not (g5 or g6)",
            "g5": "(g5 or g3) and not (g4 or g6)",
            "g6": "(g3 or g6 or g7) and not (g5 or g4)",
            "g7": "g6",
            "g8": "not g4",
        },
        8,
        {"g1": 1},
    ),
    "mCAD": BooleanNetwork(
        {
            "Fgf8": "Fgf8 and Sp8 and not Emx2",
            "Emx2": "Coup and not (Fgf8 or Pax6 or Sp8)",
            "Pax6": "Sp8 and not (Emx2 or Coup)",
            "Coup": "not (Fgf8 or Sp8)",
            "Sp8": "Fgf8 and not Emx2",
        },
        5,
        {"Fgf8": 2},
    ),
    "VSC": BooleanNetwork(
        {
            "Nkx61": "not Dbx2",
            "Nkx62": "not (Nkx61 or Dbx1)",
            "Nkx22": "not (Pax6 or Dbx2)",
            "Pax6": "not Nkx22",
            "Dbx1": "not (Nkx62 or Nkx61)",
            "Dbx2": "not (Nkx61 or Olig2 or Nkx22)",
            "Olig2": "not (Irx3 or Nkx22)",
            "Irx3": "not (Olig2 or Nkx22)",
        },
        5,
    ),
    "HSC": BooleanNetwork(
        {
            "Gata2": "Gata2 and not (Pu1 or (Gata1 and Fog1))",
            "Gata1": "(Gata1 or Gata2 or Fli1) and not Pu1",
            "Fog1": "Gata1",
            "Eklf": "Gata1 and not Fli1",
            "Fli1": "Gata1 and not Eklf",
            "Scl": "Gata1 and not Pu1",
            "Cebpa": "Cebpa and not (Scl or (Fog1 and Gata1))",
            "Pu1": "(Cebpa or Pu1) and not (Gata1 or Gata2)",
            "cJun": "Pu1 and not Gfi1",
            "EgrNab": "Pu1 and cJun and not Gfi1",
            "Gfi1": "Cebpa and not EgrNab",
        },
        8,
        {"Cebpa": 1, "Pu1": 1, "Gata2": 1},
    ),
    "GSD": BooleanNetwork(
        {
            "UGR": "UGR and not (NR5A1 or WNT4)",
            "CBX2": "UGR and not (NR0B1 and WNT4 and CTNNB1)",
            "GATA4": "UGR or WNT4 or NR5A1 or SRY",
            "WT1mKTS": "UGR or GATA4",
            "WT1pKTS": "(UGR or GATA4) and not (WNT4 and CTNNB1)",
            "NR5A1": "(UGR or CBX2 or WT1mKTS or GATA4) and not (NR0B1 and WNT4)",
            "NR0B1": "(WT1mKTS or (WNT4 and CTNNB1)) and not (NR5A1 and SOX9)",
            "SRY": "((NR5A1 and WT1mKTS and CBX2) or (GATA4 and WT1pKTS and CBX2 and NR5A1)"
            " or SOX9 or SRY) and not CTNNB1",
            "SOX9": "((SOX9 and FGF9) or SRY or PGD2 or (SRY and CBX2)"
            " or (GATA4 and NR5A1 and SRY)) and not (WNT4 or CTNNB1 or FOXL2)",
            "FGF9": "SOX9 and not WNT4",
            "PGD2": "SOX9",
            "DMRT1": "(SRY or SOX9) and not FOXL2",
            "DHH": "SOX9",
            "DKK1": "SRY or SOX9",
            "AMH": "((SOX9 and GATA4 and NR5A1) or (SOX9 and NR5A1 and GATA4 and WT1mKTS))"
            " and not (NR0B1 and CTNNB1)",
            "WNT4": "(GATA4 or CTNNB1 or RSPO1 or NR0B1) and not (FGF9 or DKK1)",
            "RSPO1": "(WNT4 or CTNNB1) and not DKK1",
            "FOXL2": "(WNT4 and CTNNB1) and not (DMRT1 or SOX9)",
            "CTNNB1": "(WNT4 or RSPO1) and not (SRY or (SOX9 and AMH))",
        },
        8,
        {"UGR": 2},
    ),
}
"""Six synthetic and four published models, by the names that BEELINE gives them."""
