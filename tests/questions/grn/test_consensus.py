"""Networks of many data sets: the mean by hand, who counts, what is kept with a base, commands."""

from dataclasses import replace

import anndata
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from cellmnn_fm import CellMNNPipeline, InputError
from cellmnn_fm.cli.app import app
from cellmnn_fm.fitted.foundation import names_of
from cellmnn_fm.questions.grn.association import ridge_of, without_size
from cellmnn_fm.questions.grn.consensus import (
    association_loadings,
    consensus,
    seen_data_sets,
)
from cellmnn_fm.questions.grn.network import GeneRegulatoryNetwork

STEM = ("POU5F1", "SOX2", "NANOG", "GATA6", "SOX17")


@pytest.fixture(scope="module")
def base():
    return CellMNNPipeline.from_pretrained("cellmnn-base")


def by_hand(base, genes, without=()):
    """Sum of L Lᵀ of the sets that measured both, over one more than their number."""
    genes = [gene.upper() for gene in genes]
    total, count = np.zeros((len(genes),) * 2), np.zeros((len(genes),) * 2)
    for name, loadings in base.foundation.networks.items():
        symbols = [part.upper() for part in base.foundation.datasets[name].panel.symbols]
        there = np.array([gene in symbols for gene in genes])
        if name in without:
            continue
        rows = [symbols.index(gene) if gene in symbols else 0 for gene in genes]
        part = loadings[rows].astype(float) * there[:, None]
        there &= np.abs(part).max(axis=1) > 0
        total += part @ part.T
        count += np.outer(there, there)
    return total / (count + 1), count


def test_of_genes_alone(base):
    """In any case; those of mice too; unknown ones are left out; which sets are behind an edge."""
    network = base.grn(genes=[*STEM, "NoSuchGene"])
    assert network.genes == STEM
    expected, count = by_hand(base, STEM)
    rows = np.arange(len(STEM))
    np.testing.assert_allclose(network.weights(rows, rows), expected, atol=1e-9)
    table = network.to_dataframe()
    assert {"sets", "weight"} <= set(table.columns)
    for edge in table.itertuples():
        assert edge.sets == count[STEM.index(edge.target), STEM.index(edge.source)]
    assert network.kind == "co-expression only"
    assert "NANOG + POU5F1" in repr(network)
    mice = base.grn(genes=["Pou5f1", "Sox2", "Nanog"])
    assert mice.interaction("Nanog", "Sox2") == network.interaction("NANOG", "SOX2")
    with pytest.raises(InputError, match="genes: expected 2 or more that a data set measured"):
        base.grn(genes=["SOX2", "NoSuchGene"])
    with pytest.raises(InputError, match="genes: expected none with cells"):
        base.of_dataset("hesc_endoderm").grn(genes=["SOX2"])


def test_all_genes_that_a_base_knows(base):
    """Thin, whatever their number."""
    network = base.grn(consensus=True)
    assert len(network.genes) > 20_000
    assert network.shared.loadings.shape[1] < 1000
    strongest = network.to_dataframe(sources=STEM, top_k=20)
    assert strongest["weight"].is_monotonic_decreasing
    assert set(strongest["source"]) <= set(STEM)


def test_added_to_the_own_network(base):
    """Scaled to the same spread; sets of the same cells do not count."""
    rng = np.random.default_rng(0)
    genes = tuple(base.foundation.datasets["hesc_endoderm"].panel.names)
    left = rng.normal(size=(len(genes), 3))
    own = GeneRegulatoryNetwork(genes, left, left.T)
    left_out = seen_data_sets(base.foundation, {"hesc_endoderm"})
    assert {"hesc_endoderm"} <= left_out < set(base.foundation.datasets)
    found = consensus(base.foundation, own, without=left_out)
    assert not set(found.record["data_sets"]) & left_out
    rows = np.arange(len(genes))
    added = found.weights(rows, rows) - own.weights(rows, rows)
    mean, _ = by_hand(base, genes, left_out)
    off = ~np.eye(len(genes), dtype=bool)
    np.testing.assert_allclose(np.corrcoef(added[off], mean[off])[0, 1], 1, atol=1e-9)
    spreads = [part[off][part[off] != 0].std() for part in (added, own.weights(rows, rows))]
    assert spreads[0] == pytest.approx(spreads[1], rel=1e-6)
    assert found.by_value


def test_from_the_pipeline(base):
    """Of measured cells, with names of sets that share them; a fit asks cellmnn-base."""
    rng = np.random.default_rng(0)
    adata = anndata.AnnData(rng.poisson(2.0, (120, 60)).astype(np.float32))
    known = base.foundation.datasets["hesc_endoderm"].panel.names[:60]
    adata.var_names = list(known)
    adata.obs["time"] = np.repeat([0.0, 1.0, 2.0], 40)
    adata.uns |= {"name": "mine", "overlaps": ["hesc_endoderm"]}
    assert names_of(adata) == {"mine", "hesc_endoderm"}
    fitted = CellMNNPipeline().fit(adata, time_key="time", steps=2, verdict=False)
    plain, joint = fitted.grn(adata), fitted.grn(adata, consensus=True, members=2)
    assert "hesc_endoderm" not in joint.record["data_sets"]
    np.testing.assert_array_equal(joint.left, plain.left)
    table = joint.to_dataframe(sources="factors", top_k=5, prior=True)
    columns = ["weight", "sign", "sign_consistency", "z", "agreement", "sets", "activating"]
    assert list(table.columns[2:]) == columns
    assert table["agreement"].isin([0.0, 1.0]).all()
    of_base = base.grn(adata, time_key="time", consensus=True)
    assert of_base.record["data_sets"] == joint.record["data_sets"]


def test_a_base_without_networks_says_so(base):
    bare = CellMNNPipeline(replace(base.foundation, networks={}))
    with pytest.raises(InputError, match="consensus: expected a base with networks of data sets"):
        bare.grn(consensus=True)


def test_loadings_are_the_association():
    """Without velocities: R (1 + R/λ)⁻¹."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 4)) @ rng.normal(size=(4, 30)) + rng.normal(size=(200, 30))
    loadings = association_loadings(x, np.zeros(200)).astype(float)
    assert loadings.shape == (30, 32)
    ranks = without_size(x, np.zeros(200)).astype(float)
    r = ranks.T @ ranks / 200
    expected = r @ np.linalg.inv(np.eye(30) + r / ridge_of(30))
    np.testing.assert_allclose(loadings @ loadings.T, expected, atol=5e-3)


def test_networks_are_saved(base, tmp_path):
    """Bit for bit; one of a set that the base does not know is refused."""
    base.save_pretrained(tmp_path / "base")
    again = CellMNNPipeline.from_pretrained(tmp_path / "base").foundation.networks
    assert set(again) == set(base.foundation.networks)
    for name, loadings in base.foundation.networks.items():
        np.testing.assert_array_equal(again[name], loadings)
    wrong = replace(base.foundation, networks={"hesc_endoderm": np.zeros((3, 32), np.float16)})
    CellMNNPipeline(wrong).save_pretrained(tmp_path / "wrong")
    with pytest.raises(InputError, match="network of hesc_endoderm: expected 100 genes, found 3"):
        CellMNNPipeline.from_pretrained(tmp_path / "wrong")


def test_commands(tmp_path):
    """Genes of a list without a file; the sources are factors unless all are asked for."""
    listed, edges = tmp_path / "genes.txt", tmp_path / "edges.tsv"
    listed.write_text("POU5F1\nSOX2\nGAPDH\nNANOG\n")
    run = CliRunner().invoke
    arguments = ["grn", "cellmnn-base", "--genes", str(listed), "-o", str(edges)]
    result = run(app, [*arguments, "--prior", "--figure", str(tmp_path / "edges.png")])
    assert result.exit_code == 0, result.output
    table = pd.read_csv(edges, sep="\t")
    assert set(table["source"]) <= {"POU5F1", "SOX2", "NANOG"}
    assert {"sets", "activating"} <= set(table.columns)
    assert "sources: factors" in result.output
    assert (tmp_path / "edges.png").stat().st_size > 5000
    assert run(app, [*arguments, "--sources", "all"]).exit_code == 0
    assert "GAPDH" in set(pd.read_csv(edges, sep="\t")["source"])
