"""Genes of any spelling, species and id type become columns of one panel."""

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from cellmnn_fm import InputError
from cellmnn_fm.data.genes import Coverage, GenePanel, human_symbols, merge_duplicates


def var(names, **columns):
    return pd.DataFrame(columns, index=names)


READINGS = {
    "human": (var(["TP53", "C1orf112"]), None, ["TP53", "C1orf112"]),
    "mouse_by_rule": (var(["Trp53", "H2-K1", "Sox2"]), None, ["TRP53", "H2-K1", "SOX2"]),
    "column_of_the_collection": (
        var(["Trp53", "Gm1"], human_symbol=["TP53", ""]),
        None,
        ["TP53", ""],
    ),
    "named_column": (var(["a", "b"], ortholog=["SOX2", np.nan]), "ortholog", ["SOX2", ""]),
    "ensembl": (
        var(["ENSG00000141510.16", "ENSG00000181449"], gene_name=["TP53", "SOX2"]),
        None,
        ["TP53", "SOX2"],
    ),
    "ensembl_mouse": (
        var(["ENSMUSG00000059552.8", "ENSMUSG00000074637"], Gene_Symbol=["Trp53", "Sox2"]),
        None,
        ["TRP53", "SOX2"],
    ),
    "ensembl_where_a_symbol_lacks": (
        var(["ENSG00000141510", "ENSG00000181449"], feature_name=["TP53", "ENSG00000181449"]),
        None,
        ["TP53", ""],
    ),
    "a_few_ids_among_symbols": (
        var(["TP53", "SOX2", "ENSG00000181449"]),
        None,
        ["TP53", "SOX2", ""],
    ),
    "table": (var(["Trp53", "Sox2"]), {"Trp53": "TP53"}, ["TP53", ""]),
    "table_without_versions": (
        var(["ENSG00000141510.16"]),
        {"ENSG00000141510": "TP53"},
        ["TP53"],
    ),
    "table_with_versions": (
        var(["ENSG00000141510"]),
        {"ENSG00000141510.2": "TP53"},
        ["TP53"],
    ),
}


@pytest.mark.parametrize("case", READINGS)
def test_human_symbols(case):
    genes, source, expected = READINGS[case]
    assert human_symbols(genes, source) == expected


def test_symbols_that_are_not_there_are_refused():
    with pytest.raises(InputError, match=r'var\["symbol"\]: expected .* found columns a, b; name'):
        human_symbols(var(["x"], a=[1], b=[2]), "symbol")
    with pytest.raises(InputError, match=r"genes: expected symbols beside Ensembl ids, found ids"):
        human_symbols(var(["ENSG00000141510", "ENSG00000181449"], length=[1, 2]))


def test_duplicates_are_an_error_that_names_them():
    with pytest.raises(
        InputError,
        match=r"human symbols: expected unique names, found A, C repeated; merge them with on_dup",
    ):
        merge_duplicates(["A", "B", "A", "C", "", "", "C"])


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("sum", [5.0, 2.0]), ("mean", [2.5, 2.0]), ("first", [1.0, 2.0])],
)
@pytest.mark.parametrize("kind", [np.array, sparse.csr_array])
def test_duplicates_are_merged(rule, expected, kind):
    unique, selection = merge_duplicates(["A", "B", "A", ""], rule)
    assert unique == ["A", "B"]
    merged = kind(np.array([[1.0, 2.0, 4.0, 9.0]], np.float32)) @ selection
    found = merged.toarray() if sparse.issparse(merged) else merged
    np.testing.assert_array_equal(found, [expected])


def test_genes_are_matched_by_name_then_by_symbol():
    panel = GenePanel(
        ("Sox2", "Trp53", "Gm1", "Oas1a", "Oas1b"), ("SOX2", "TP53", "", *["OAS1"] * 2)
    )
    columns, coverage = panel.match(["TP53", "Sox2", "OAS1"], ["TP53", "SOX2", "OAS1"])
    # a symbol that two genes of the panel share says nothing about which one is meant
    assert columns.tolist() == [1, 0, -1, -1, -1]
    assert coverage == Coverage(matched=2, data_genes=3, panel_genes=5)
    assert coverage.share == pytest.approx(2 / 3)


def test_order_of_columns_does_not_matter():
    names = [f"GENE{i}" for i in range(50)]
    panel = GenePanel.of_symbols(names)
    order = np.random.default_rng(0).permutation(50)
    shuffled = [names[i] for i in order]
    columns, _ = panel.match(shuffled, shuffled)
    assert [shuffled[at] for at in columns] == names


@pytest.mark.parametrize(
    ("names", "cause"),
    [
        (["ENSG00000141510"], "the wrong id type: these are Ensembl ids"),
        (["Sox2", "Gata6"], "the wrong species: these look like mouse symbols"),
        (["FOO", "BAR"], "the wrong species or id type"),
    ],
)
def test_nothing_matched_names_likely_causes(names, cause):
    panel = GenePanel.of_symbols(["SOX2", "NANOG", "GATA6", "T"])
    with pytest.raises(
        InputError,
        match=f"some of the 4 of the panel, such as SOX2, NANOG, GATA6, found none.*{cause}",
    ):
        panel.match(names, [""] * len(names))


def test_low_coverage_is_a_warning():
    panel = GenePanel.of_symbols([f"GENE{i}" for i in range(10)])
    few = [f"GENE{i}" for i in range(4)] + [f"OTHER{i}" for i in range(30)]
    with pytest.warns(UserWarning, match="low coverage: 4 genes matched, of 34 in the data and 10"):
        panel.match(few, few)


def test_a_small_panel_within_a_large_one_is_covered(recwarn):
    panel = GenePanel.of_symbols([f"GENE{i}" for i in range(1000)])
    small = [f"GENE{i}" for i in range(40)]
    _, coverage = panel.match(small, small)
    assert coverage.share == 1
    assert not recwarn.list


def test_panels_survive_a_file(tmp_path):
    panel = GenePanel(("Sox2", "Gm1"), ("SOX2", ""))
    panel.save(tmp_path / "panel.json")
    assert GenePanel.load(tmp_path / "panel.json") == panel


def test_repeated_names_are_refused():
    with pytest.raises(
        InputError, match="genes of a panel: expected unique names, found A repeated"
    ):
        GenePanel.of_symbols(["A", "B", "A"])
    with pytest.raises(
        InputError, match="symbols: expected one for each gene, found 1 for 2 genes"
    ):
        GenePanel(("A", "B"), ("A",))


def test_the_collection_has_symbols(data_folder):
    """Upper case against the orthologs that the files carry."""
    import anndata

    adata = anndata.read_h5ad(data_folder / "mouse_etv2_progenitors.h5ad", backed="r")
    curated = human_symbols(adata.var)
    by_rule = human_symbols(adata.var.drop(columns="human_symbol"))
    agree = [one == other for one, other in zip(curated, by_rule, strict=True) if one]
    assert np.mean(agree) > 0.85
