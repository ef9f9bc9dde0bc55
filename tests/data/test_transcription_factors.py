"""The list of factors: known ones of both species, and the shares of activations by hand."""

import numpy as np
import pytest

from cellmnn_fm.data.transcription_factors import (
    activating_shares,
    are_factors,
    transcription_factors,
)


def test_known_factors_of_both_species():
    genes = ("POU5F1", "Pou5f1", "Trp53", "TBXT", "GAPDH", "Actb", "EZH2")
    np.testing.assert_array_equal(are_factors(genes), [True] * 4 + [False] * 3)
    assert are_factors(("ENSG00000181449",), ("SOX2",)).all()
    assert 1300 < len(transcription_factors()) < 1800
    assert transcription_factors()["human"].is_unique


def test_shares_are_shrunk():
    table = transcription_factors().set_index("human")
    known = table[["activates", "represses"]].sum(axis=1)
    overall = table["activates"].sum() / known.sum()
    rest = table.loc["REST"]
    expected = (rest["activates"] + 5 * overall) / (rest["activates"] + rest["represses"] + 5)
    shares = activating_shares(("REST", "GAPDH", known.index[known == 0][0]))
    assert shares[0] == pytest.approx(expected)
    assert shares[0] < 0.4  # a repressor
    assert np.isnan(shares[1])
    assert shares[2] == pytest.approx(overall)
