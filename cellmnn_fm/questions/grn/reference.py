"""How well a network agrees with known edges: links and their signs."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...model.errors import InputError

_SIGNS = {
    **dict.fromkeys(("+", "activation", "activates", "up", "positive"), 1),
    **dict.fromkeys(("-", "repression", "represses", "inhibition", "down", "negative"), -1),
    **dict.fromkeys(("", "nan", "none", "unknown", "?", "na"), 0),
}

_LEAST_TARGETS = 5  # of a source, to rank its targets

PUBLISHED_FACTORS = ("FOS", "HMGA1", "JUN", "POU5F1", "SOX2", "YBX1")
"""The transcription factors whose edges the paper of the method reports one by one."""


@dataclass(frozen=True)
class Reference:
    """Known edges between the genes of a network.

    Attributes
    ----------
    edges : DataFrame
        "source", "target" and "sign" (+1, -1, or 0 for unknown), each pair once, none of a gene to
        itself.
    genes : tuple of str
        Of the network.
    conflicting : int
        Pairs that were there with both signs: kept as links of unknown sign.
    outside : int
        Pairs with a gene that the network does not have: left out.
    """

    edges: pd.DataFrame
    genes: tuple[str, ...]
    conflicting: int
    outside: int

    @classmethod
    def of(cls, table: pd.DataFrame, genes: Sequence[str]) -> Reference:
        """Those of a table "source", "target" and perhaps "sign"; symbols in any case."""
        for column in ("source", "target"):
            if column not in table:
                actual = ", ".join(map(str, table.columns))
                raise InputError("reference", "columns source and target", actual, "rename them")
        edges = pd.DataFrame(
            {part: table[part].astype(str).str.upper() for part in ("source", "target")}
        )
        edges["sign"] = [_sign(sign) for sign in table["sign"]] if "sign" in table else 0
        edges = edges[edges["source"] != edges["target"]]
        signs = edges[edges["sign"] != 0].groupby(["source", "target"])["sign"].agg(["min", "max"])
        conflicts = signs[signs["min"] != signs["max"]].index
        edges = edges.groupby(["source", "target"], as_index=False)["sign"].agg(
            lambda actual: _one_sign(actual.to_numpy())
        )
        known = {gene.upper(): gene for gene in genes}
        inside = edges["source"].isin(known) & edges["target"].isin(known)
        kept = edges[inside].reset_index(drop=True)
        kept["source"], kept["target"] = kept["source"].map(known), kept["target"].map(known)
        conflicting = sum(a in known and b in known for a, b in conflicts)
        return cls(kept, tuple(genes), conflicting, int((~inside).sum()))

    @classmethod
    def read(cls, file: str | Path, genes: Sequence[str]) -> Reference:
        """Those of a .tsv file (perhaps .gz) with a header; lines from "#" on are comments."""
        if not Path(file).is_file():
            raise InputError("reference", "a .tsv file", f"nothing at {file}", "correct the path")
        return cls.of(read_table(file, "a header, and columns source and target"), genes)

    def pairs(self, *, every: bool = False) -> tuple[NDArray, NDArray, NDArray[np.bool_]]:
        """Targets, sources (positions of genes), and whether there is a link.

        Of all sources with all targets; or of `every` gene with every other.
        """
        position = {gene: index for index, gene in enumerate(self.genes)}
        columns = self.edges["source"].map(position).to_numpy(dtype=int)
        rows = self.edges["target"].map(position).to_numpy(dtype=int)
        linked = np.zeros((len(position),) * 2, dtype=bool)
        linked[rows, columns] = True
        sources, targets = np.unique(columns), np.unique(rows)
        if every:
            sources = targets = np.arange(len(position))
        grid_at, grid_of = (part.ravel() for part in np.meshgrid(targets, sources, indexing="ij"))
        between = grid_at != grid_of
        grid_at, grid_of = grid_at[between], grid_of[between]
        return grid_at, grid_of, linked[grid_at, grid_of]


def read_table(file: str | Path, expected: str, header: int | None = 0) -> pd.DataFrame:
    """A table of text, separated by tabs, commas or blanks; lines from "#" on are comments.

    Raises
    ------
    InputError
        On a file that is none; it says what was expected.
    """
    try:
        separator = "\t" if header == 0 else None
        engine: Any = "c" if header == 0 else "python"
        table = pd.read_csv(
            file, sep=separator, engine=engine, header=header, comment="#", encoding="utf-8-sig"
        )
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(str(file), expected, f"no such table ({error})", "correct it") from error
    if not len(table):
        raise InputError(str(file), expected, "no rows", "correct it")
    return table


def _sign(value: Any) -> int:
    """Of a number, or of a word for it; 0 if it says neither."""
    text = str(value).strip().lower().replace("−", "-")
    if text in _SIGNS:
        return _SIGNS[text]
    try:
        number = float(text)
    except ValueError:
        known = ", ".join(sorted(_SIGNS))
        raise InputError("sign", f"a number, or one of {known}", value, "correct it") from None
    return 0 if math.isnan(number) else (number > 0) - (number < 0)


def _one_sign(signs: NDArray) -> int:
    """The sign of an edge that may be listed several times; 0 where they disagree."""
    signs_there = set(signs[signs != 0].tolist())
    return signs_there.pop() if len(signs_there) == 1 else 0


@dataclass(frozen=True)
class LinkScores:
    """Known links among all pairs of a known source and a target, ranked by strength.

    Attributes
    ----------
    pairs, links : int
        That are compared, and of these the known ones.
    auprc_ratio : float
        Area under precision and recall, over that of chance.
    early_precision_ratio : float
        Precision among as many pairs as there are links, over that of chance.
    auroc : float
        Area under the receiver operating characteristic; 0.5 is chance.
    auroc_within : float or None
        The same within the targets of each source, the mean over those with 5 known links or more:
        that some sources have many links does not help. None where there is no such source.
    precision_100, precision_1000 : float or None
        Share of known links among so many of the strongest pairs; None of fewer pairs.
    """

    pairs: int
    links: int
    auprc_ratio: float
    early_precision_ratio: float
    auroc: float
    auroc_within: float | None
    precision_100: float | None
    precision_1000: float | None


@dataclass(frozen=True)
class SignScores:
    """Signs of the known edges.

    Attributes
    ----------
    pairs, positive : int
        With a known sign, and of these activations.
    accuracy, balanced_accuracy : float
        The latter is the mean of those of activations and repressions: 0.5 is chance.
    mcc : float
        Matthews' correlation coefficient.
    """

    pairs: int
    positive: int
    accuracy: float
    balanced_accuracy: float
    mcc: float


def link_scores(
    weights: NDArray, reference: Reference, *, every_pair: bool = False, by_value: bool = False
) -> LinkScores:
    """Compare the strengths of edges with the known links.

    Parameters
    ----------
    weights : (genes, genes)
        Row = target; only their absolute values matter, unless they are ranked `by_value`.
    reference : Reference
        Pairs are all of its sources with all of its targets, as in BEELINE (Pratapa et al. 2020).
    every_pair : bool
        All genes with all genes, where the reference is known to be complete.
    """
    from sklearn.metrics import roc_auc_score

    rows, columns, known = reference.pairs(every=every_pair)
    if not 0 < known.sum() < len(known):
        raise InputError(
            "reference", "some of the pairs linked", int(known.sum()), "take another reference"
        )
    strength = weights[rows, columns] if by_value else np.abs(weights[rows, columns])
    density = known.mean()
    # ties are broken evenly: equal strengths all count in part
    order = np.argsort(-strength, kind="stable")
    floor = strength[order[known.sum() - 1]]
    sure, tied = strength > floor, strength == floor
    hits = known[sure].sum() + known[tied].mean() * (known.sum() - sure.sum())
    return LinkScores(
        pairs=len(known),
        links=int(known.sum()),
        auprc_ratio=auprc_ratio(known, strength),
        early_precision_ratio=float(hits / known.sum() / density),
        auroc=float(roc_auc_score(known, strength)),
        auroc_within=_auroc_within(known, strength, columns),
        precision_100=_precision(known[order], 100),
        precision_1000=_precision(known[order], 1000),
    )


def _precision(ranked: NDArray[np.bool_], count: int) -> float | None:
    """Share of known links among the first of `ranked` (pairs,)."""
    return float(ranked[:count].mean()) if len(ranked) >= count else None


def _auroc_within(known: NDArray[np.bool_], strength: NDArray, sources: NDArray) -> float | None:
    """Mean over sources of the area under the characteristic among the targets of each.

    Of `known` (pairs,), `strength` (pairs,) and `sources` (pairs,).
    """
    from sklearn.metrics import roc_auc_score

    areas = []
    for source in np.unique(sources):
        mine = sources == source
        if known[mine].sum() >= _LEAST_TARGETS and not known[mine].all():
            areas.append(roc_auc_score(known[mine], strength[mine]))
    return float(np.mean(areas)) if areas else None


def auprc_ratio(linked: NDArray[np.bool_], strength: NDArray) -> float:
    """Area under precision and recall of pairs ranked by strength, over that of chance.

    `linked` (pairs,) and `strength` (pairs,).
    """
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(linked, strength) / linked.mean())


def sign_scores(weights: NDArray, reference: Reference) -> SignScores:
    """Compare the signs of edges with the known ones; a weight of 0 is wrong either way.

    `weights` (genes, genes), row = target.
    """
    estimated, truth = signs_of(weights, reference)
    if not len(truth):
        raise InputError("reference", "edges of known sign", "none", "take another reference")
    return score_signs(estimated, truth)


def signs_of(weights: NDArray, reference: Reference) -> tuple[NDArray, NDArray]:
    """Estimated and known signs of the edges whose sign is known.

    Of `weights` (genes, genes), row = target.
    """
    position = {gene: index for index, gene in enumerate(reference.genes)}
    signed = reference.edges[reference.edges["sign"] != 0]
    rows = signed["target"].map(position).to_numpy(dtype=int)
    columns = signed["source"].map(position).to_numpy(dtype=int)
    return np.sign(weights[rows, columns]), signed["sign"].to_numpy()


def score_signs(found: NDArray, truth: NDArray) -> SignScores:
    """The same, for signs that are already paired, of several data sets for instance.

    `found` (pairs,) and `truth` (pairs,), -1 or 1 each.
    """
    right = found == truth
    rates = [right[truth == sign].mean() for sign in (1, -1) if (truth == sign).any()]
    true = np.array([(right & (truth == sign)).sum() for sign in (1, -1)], dtype=float)
    false = np.array([(~right & (truth == sign)).sum() for sign in (-1, 1)], dtype=float)
    (tp, tn), (fp, fn) = true, false
    scale = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return SignScores(
        pairs=len(truth),
        positive=int((truth > 0).sum()),
        accuracy=float(right.mean()),
        balanced_accuracy=float(np.mean(rates)),
        mcc=float((tp * tn - fp * fn) / scale) if scale else 0.0,
    )


def by_factor(
    weights: NDArray, reference: Reference, factors: Sequence[str] = PUBLISHED_FACTORS
) -> pd.DataFrame:
    """Signs by transcription factor, with F1 and with the tally that was published for it.

    The published F1 counts a repression that is found as one as a false negative, so that calling
    every edge an activation scores 1; "f1" is that of activations.

    Of `weights` (genes, genes), row = target.
    """
    rows = []
    for factor in factors:
        mine = reference.edges[reference.edges["source"].str.upper() == factor]
        part = Reference(mine, reference.genes, 0, 0)
        estimated, truth = signs_of(weights, part)
        if not len(truth):
            continue
        hits, missed = (
            ((estimated == truth) & (truth > 0)).sum(),
            ((estimated != truth) & (truth > 0)).sum(),
        )
        false = ((estimated > 0) & (truth < 0)).sum()
        rejected = ((estimated < 0) & (truth < 0)).sum()
        rows.append(
            {
                "factor": factor,
                "pairs": len(truth),
                "accuracy": (estimated == truth).mean(),
                "f1": 2 * hits / max(1, 2 * hits + missed + false),
                "published_tally": 2 * hits / max(1, 2 * hits + missed + rejected),
            }
        )
    return pd.DataFrame(rows, columns=["factor", "pairs", "accuracy", "f1", "published_tally"])


def evaluate_network(
    weights: NDArray, reference: Reference, *, by_value: bool = False
) -> dict[str, Any]:
    """Link and sign scores, those that the reference allows.

    Of `weights` (genes, genes), row = target; see :func:`link_scores`.
    """
    scores: dict[str, Any] = {}
    links = partial(link_scores, by_value=by_value)
    for kind, score in (("link", links), ("sign", sign_scores)):
        try:
            scored: LinkScores | SignScores = score(weights, reference)
        except InputError:  # no links, or no signs
            continue
        scores |= {f"{kind}_{name}": value for name, value in asdict(scored).items()}
    return scores
