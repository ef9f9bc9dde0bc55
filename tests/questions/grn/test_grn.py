"""Networks: queries against dense algebra, estimators against closed forms and known edges."""

import networkx
import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from cellmnn_fm import CellMNNPipeline, InputError
from cellmnn_fm.cli.app import app
from cellmnn_fm.data.gene_networks import GeneNetwork
from cellmnn_fm.data.subspace import Subspace
from cellmnn_fm.data.time_course import TimeScale
from cellmnn_fm.dynamics.snapshots import Dynamics
from cellmnn_fm.pl.network_figures import (
    plot_edges_over_time,
    plot_heat_map,
    plot_operators,
)
from cellmnn_fm.questions.grn.estimators import (
    DEFAULT_DECAY,
    CellStates,
    cell_operators,
    differences,
    kernel,
    production_network,
)
from cellmnn_fm.questions.grn.network import GeneRegulatoryNetwork
from cellmnn_fm.questions.grn.reference import Reference, link_scores, sign_scores


@pytest.fixture
def random_network():
    rng = np.random.default_rng(0)
    genes = tuple(f"g{at}" for at in range(1200))  # more than a block
    members = [(rng.normal(size=(1200, 3)), rng.normal(size=(3, 1200))) for _ in range(4)]
    left, right = rng.normal(size=(1200, 3)), rng.normal(size=(3, 1200))
    return GeneRegulatoryNetwork(genes, left, right, members=members)


# ---------------------------------------------------------------------------------------------
# Queries


def test_edges_are_those_of_the_dense_matrix(random_network):
    network = random_network
    dense = network.left @ network.right
    np.fill_diagonal(dense, 0.0)
    order = np.argsort(-np.abs(dense), axis=None)[:50]
    at, of = np.unravel_index(order, dense.shape)
    table = network.to_dataframe(top_k=50)
    assert table["source"].tolist() == [network.genes[one] for one in of]
    assert table["target"].tolist() == [network.genes[one] for one in at]
    np.testing.assert_allclose(table["weight"], dense[at, of])
    assert (table["sign"] == np.sign(table["weight"])).all()
    again = np.stack([(left @ right)[at, of] for left, right in network.members])
    consistent = (np.sign(again) == np.sign(again.mean(0))).mean(0)
    np.testing.assert_allclose(table["sign_consistency"], consistent)
    np.testing.assert_allclose(table["z"], again.mean(0) / again.std(0, ddof=1))


def test_selections(random_network):
    network = random_network
    table = network.to_dataframe(sources=["g3", "g1"], targets=["g1", "g2"])
    assert set(zip(table["source"], table["target"], strict=True)) == {
        ("g3", "g1"),
        ("g3", "g2"),
        ("g1", "g2"),
    }
    assert network.interaction("g3", "g2") == pytest.approx(
        float(network.left[2] @ network.right[:, 3])
    )
    assert set(network.regulators_of("g5")["target"]) == {"g5"}
    assert len(network.targets_of("g5", top_k=7)) == 7
    strong = network.to_dataframe(targets=["g5"], min_abs=2.0)
    assert (strong["weight"].abs() >= 2.0).all()
    assert len(network.to_dataframe(targets=["g5"])) == 1199
    with pytest.raises(InputError, match="source: expected genes of the network, found nobody"):
        network.to_dataframe(sources=["nobody"])
    with pytest.raises(InputError, match="top_k: expected at least 1, found 0"):
        network.to_dataframe(top_k=0)


def test_influences_in_single_cells():
    network = GeneRegulatoryNetwork(
        ("A", "B"),
        np.array([[1.0], [2.0]]),
        np.array([[3.0, 5.0]]),
        mean=np.array([1.0, 2.0]),
        spread=np.array([2.0, 4.0]),
    )
    x = np.array([[3.0, 10.0], [1.0, 2.0]])
    np.testing.assert_allclose(network.influences(x, "A"), [[0.0, 5.0 * 8 / 4], [0.0, 0.0]])
    uncentred = network.influences(x, "A", centred=False)
    np.testing.assert_allclose(uncentred, [[0.0, 5.0 * 10 / 4], [0.0, 5.0 * 2 / 4]])
    with pytest.raises(InputError, match=r"x: expected \(cells, 2\), in the order"):
        network.influences(x[:, :1], "A")


def test_export(random_network, tmp_path):
    random_network.save(tmp_path / "edges.tsv", top_k=9)
    table = pd.read_csv(tmp_path / "edges.tsv", sep="\t")
    assert list(table.columns) == [
        *("source", "target", "weight", "sign", "sign_consistency", "z"),
    ]
    random_network.save(tmp_path / "edges.graphml", top_k=9)
    graph = networkx.read_graphml(tmp_path / "edges.graphml")
    assert graph.number_of_edges() == len(table) == 9
    first = table.iloc[0]
    assert graph.edges[first["source"], first["target"]]["weight"] == pytest.approx(first["weight"])
    with pytest.raises(InputError, match=r"expected a file .tsv or .csv .*, found .*edges.txt"):
        random_network.save(tmp_path / "edges.txt")


# ---------------------------------------------------------------------------------------------
# Estimators


def make_cells(genes=6, cells=400, seed=0):
    """Cells with a known linear velocity in gene space, dx/dt = p(x) - k x."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(cells, genes)) @ rng.normal(size=(genes, genes)) + 3
    subspace = Subspace.pca(x.astype(np.float32), genes, 0)
    states = subspace.project(x.astype(np.float32))
    regulation = rng.normal(size=(genes, genes))
    decay = 1.5
    rate = (x - x.mean(0)) @ (regulation - decay * np.eye(genes)).T
    velocity = rate @ np.linalg.pinv(subspace.loadings.astype(np.float64)).T
    names = tuple(f"g{at}" for at in range(genes))
    found = CellStates(states, velocity, np.repeat([0.0, 2.0], cells // 2), x)
    return found, subspace, names, regulation, decay


def test_production_recovers_a_linear_regulation():
    cells, subspace, names, regulation, decay = make_cells()
    network = production_network(
        cells, subspace, names, TimeScale(0.0, 2.0), decay=decay, ridge=1e-9
    )
    spread = cells.expression.std(0)
    expected = regulation * spread / spread[:, None]
    np.testing.assert_allclose(network.left @ network.right, expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(network.mean, cells.expression.mean(0))


def test_production_is_the_formula():
    """(C_vx + k C_xx) (λ + C_xx)⁻¹ with all matrices formed, weights included."""
    cells, subspace, names, *_ = make_cells()
    weights = np.random.default_rng(1).random(len(cells.states))
    network = production_network(
        cells, subspace, names, TimeScale(0.0, 2.0), ridge=0.3, weights=weights
    )
    mass = weights / weights.sum()
    x = cells.expression - mass @ cells.expression
    spread = np.sqrt(mass @ x**2)
    x, v = x / spread, (cells.velocity @ subspace.loadings.T) / spread
    covariance = x.T @ (mass[:, None] * x)
    moving = (v - mass @ v).T @ (mass[:, None] * x)
    decay = DEFAULT_DECAY / 2.0
    inverse = np.linalg.inv(covariance + 0.3 * np.eye(len(names)))
    expected = (moving + decay * covariance) @ inverse
    np.testing.assert_allclose(network.left @ network.right, expected, rtol=1e-5, atol=1e-6)


def test_decay_of_each_gene():
    cells, subspace, names, *_ = make_cells()
    scale = TimeScale(0.0, 2.0)

    def weights(decay):
        network = production_network(cells, subspace, names, scale, decay=decay)
        return network.left @ network.right

    slow, fast = weights(1.0), weights(2.0)
    mixed = weights({"g0": np.log(2) / 2.0, **{name: np.log(2) for name in names[1:]}})
    np.testing.assert_allclose(mixed[0], fast[0])
    np.testing.assert_allclose(mixed[1:], slow[1:])
    np.testing.assert_allclose(weights({"g0": np.log(2)}), slow)  # the others have the median
    assert np.isfinite(weights("data")).all()
    for decay, message in (
        (-1.0, "decay: expected a positive rate, found -1"),
        ("fast", "decay: expected a rate, half-lives, or data, found fast"),
        ({"other": 1.0}, "half-lives: expected positive ones, of some of the genes"),
    ):
        with pytest.raises(InputError, match=message):
            weights(decay)
    with pytest.raises(InputError, match="ridge: expected a positive number, found 0"):
        production_network(cells, subspace, names, scale, ridge=0)


@pytest.fixture(scope="module")
def simulated():
    network = GeneNetwork.make("bifurcating", genes=12, seed=0)
    adata = network.to_anndata(cells=200, seed=0)
    adata.obs["half"] = np.where(np.arange(adata.n_obs) % 2, "odd", "even")
    options = {"time_key": "time", "verdict": False}
    fits = {frame: CellMNNPipeline().fit(adata, frame=frame, **options) for frame in (False, True)}
    return network, adata, fits


def test_known_edges_are_found(simulated):
    """Signs and links; the operator, which relaxation dominates, does much worse."""
    network, adata, fits = simulated
    reference = Reference.of(network.reference(), network.names)

    def scores(estimator):
        found = fits[False].grn(adata, estimator=estimator)
        weights = found.left @ found.right
        links = link_scores(weights, reference, every_pair=True)
        return links.auprc_ratio, sign_scores(weights, reference).accuracy

    production, operator = scores("production"), scores("operator")
    assert production[0] > 4
    assert production[1] > 0.9
    assert operator[0] < production[0] / 2


def test_the_operator_is_projected(simulated):
    """G = D Ā E in standard deviations, Ā the mean over cells of dv/dz where A is constant."""
    _, adata, fits = simulated
    fitted = fits[False]
    cells = fitted.cell_states(adata)
    operators = cell_operators(fitted.fitted.dynamics, cells)
    network = fitted.grn(adata, estimator="operator")
    spread = fitted.subspace.reconstruct(cells.states).std(0)
    loadings, projection = fitted.subspace.loadings, fitted.subspace.projection
    expected = loadings @ operators.mean(0) @ projection.T * spread / spread[:, None]
    np.testing.assert_allclose(network.left @ network.right, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("frame", [False, True])
def test_the_jacobian_is_the_slope_of_the_velocity(simulated, frame):
    """Central differences of what the model says, in all its parts."""
    _, adata, fits = simulated
    fitted = fits[frame]
    cells = fitted.cell_states(adata)[np.arange(300, 304)]  # all of one time
    scale = fitted.record.time_scale
    jacobian = cell_operators(Dynamics(fitted.model, scale), cells, part="all", jacobian=True)
    model = fitted.model.double()
    at = torch.tensor([scale.to_model(float(cells.times[0]))], dtype=torch.float64)
    z = torch.tensor(cells.states[None], dtype=torch.float64)
    step = 1e-5
    for dim in range(z.shape[-1]):
        shift = torch.zeros_like(z)
        shift[..., dim] = step
        with torch.no_grad():
            ahead, behind = (model(z + sign * shift, at, at).velocity[0, 0] for sign in (1, -1))
        slope = ((ahead - behind) / (2 * step) / scale.unit).numpy()
        np.testing.assert_allclose(jacobian[:, :, dim], slope, rtol=2e-2, atol=2e-3)
    model.float()


def test_parts_of_a_framed_operator_add_up(simulated):
    _, adata, fits = simulated
    for estimator in ("operator", "jacobian"):
        parts = {
            part: fits[True].grn(adata, estimator=estimator, part=part)
            for part in ("learned", "frame", "all")
        }
        dense = {part: one.left @ one.right for part, one in parts.items()}
        np.testing.assert_allclose(
            dense["learned"] + dense["frame"], dense["all"], rtol=1e-3, atol=1e-4
        )
    with pytest.raises(InputError, match="part: expected learned or all, found frame"):
        fits[False].grn(adata, estimator="operator", part="frame")


def test_a_network_without_the_data(simulated):
    """From the distributions that the frame knows; close to that of the cells."""
    network, _, fits = simulated
    reference = Reference.of(network.reference(), network.names)
    found = fits[True].grn()
    assert found.record["cells"] == 5 * 200
    assert sign_scores(found.left @ found.right, reference).accuracy > 0.9
    with pytest.raises(InputError, match="adata: expected the data, since the model has no frame"):
        fits[False].grn()


def test_members_agree_on_what_is_sure(simulated):
    network, adata, fits = simulated
    found = fits[False].grn(adata, members=10)
    table = found.to_dataframe()
    assert (table["sign_consistency"].between(0, 1)).all()
    edges = {tuple(row) for row in network.reference()[["source", "target"]].to_numpy()}
    real = [pair in edges for pair in zip(table["source"], table["target"], strict=True)]
    assert table["z"].abs()[real].median() > 2 * table["z"].abs()[np.logical_not(real)].median()
    again = fits[False].grn(adata, members=10).to_dataframe()
    pd.testing.assert_frame_equal(again, table)


def test_around_a_cell(simulated):
    """Nearer cells weigh more; the network is another one."""
    _, adata, fits = simulated
    states = fits[False].cell_states(adata).states
    weights = kernel(states, 7)
    assert weights[7] == weights.max() == 1.0
    order = np.argsort(np.linalg.norm(states - states[7], axis=1))
    assert (np.diff(weights[order]) <= 1e-12).all()
    near = fits[False].grn(adata, around="cell7")
    everywhere = fits[False].grn(adata)
    assert not np.allclose(near.left @ near.right, everywhere.left @ everywhere.right)
    with pytest.raises(InputError, match="around: expected the name of a cell, found cellx"):
        fits[False].grn(adata, around="cellx")
    with pytest.raises(InputError, match=r"estimator: expected .* association with members"):
        fits[False].grn(adata, estimator="operator", members=3)


def test_differences_between_groups(simulated):
    """None between random halves; real ones between an edge that is there and one that is cut."""
    _, adata, fits = simulated
    fitted = fits[False]
    about = (fitted.subspace, fitted.panel.names, fitted.record.time_scale)
    cells = fitted.cell_states(adata)
    odd = (adata.obs["half"] == "odd").to_numpy()
    none = differences(cells, odd, *about, permutations=30, top_k=10)
    assert (none["p_adjusted"] > 0.05).all()
    late = cells.times >= 3
    some = differences(cells, late, *about, permutations=30, top_k=10)
    assert some["p_adjusted"].iloc[0] <= 2 / 31
    np.testing.assert_allclose(some["difference"], some["first"] - some["second"])
    donors = np.random.default_rng(0).integers(4, size=len(odd)).astype(str)
    by_pair = differences(cells, odd, *about, samples=donors, permutations=30, top_k=5)
    assert (by_pair["p"] * 16 % 1 < 1e-9).all()  # of 2⁴ arrangements
    with pytest.raises(InputError, match="samples: expected 3 or more ways to exchange them"):
        differences(cells, odd, *about, samples=np.where(odd, "a", "b"))
    picked = differences(cells, late, *about, sources=["G1"], permutations=5)
    assert set(picked["source"]) == {"G1"}
    with pytest.raises(
        InputError, match="groups: expected 10 or more cells in both, found 2 and 998"
    ):
        differences(cells, np.arange(len(odd)) < 2, *about)
    with pytest.raises(InputError, match="genes: expected genes of the network, found X"):
        differences(cells, late, *about, targets=["X"])


def test_many_genes_are_quick_and_thin():
    """The factors hold no more numbers than genes times rank, whatever the cells."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 2000)).astype(np.float32)
    subspace = Subspace.pca(x, 10, 0)
    states = subspace.project(x)
    cells = CellStates(states, rng.normal(size=states.shape), np.zeros(500), x)
    names = tuple(f"g{at}" for at in range(2000))
    network = production_network(cells, subspace, names, TimeScale(0.0, 1.0))
    assert network.left.shape == (2000, 100)
    table = network.to_dataframe(top_k=10_000)
    assert len(table) == 10_000
    assert table["weight"].abs().is_monotonic_decreasing


def test_coordinates_have_no_network(adata):
    adata.obsm["X_emb"] = adata.X[:, :3]
    options = {"time_key": "day", "steps": 1, "verdict": False}
    fitted = CellMNNPipeline().fit(adata, use_rep="X_emb", **options)
    with pytest.raises(InputError, match="grn: expected a fit to genes, found one to obsm"):
        fitted.grn(adata)
    with pytest.raises(InputError, match="estimator: expected production or association"):
        CellMNNPipeline().fit(adata, **options).grn(adata, estimator="magic")


def test_figures(simulated):
    _, adata, fits = simulated
    fitted = fits[False]
    network = fitted.grn(adata)
    by_time = {
        time: fitted.grn(adata[adata.obs["time"] == time].copy()) for time in (1.0, 2.0, 3.0)
    }
    cells = fitted.cell_states(adata)[::10]
    operators = cell_operators(fitted.fitted.dynamics, cells)
    figures = [
        plot_heat_map(network),
        plot_edges_over_time(by_time, [("G1", "G2"), ("G0", "G1")]),
        plot_operators(operators, cells.times, labels=["x"] * len(operators)),
    ]
    assert [len(figure.axes) for figure in figures] == [2, 1, 4]
    with pytest.raises(InputError, match="method: expected pca or umap, found tsne"):
        plot_operators(operators, cells.times, method="tsne")


# ---------------------------------------------------------------------------------------------
# Commands


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_commands(simulated, tmp_path):
    network, adata, fits = simulated
    adata.write_h5ad(tmp_path / "cells.h5ad")
    fits[True].save_pretrained(tmp_path / "model")
    (tmp_path / "tfs.txt").write_text("\ufeffg1\nG2\nunknown\n", encoding="utf-8")
    (tmp_path / "half_lives.tsv").write_text("G1\t0.5\nG2\t0.7\n")
    edges = tmp_path / "out" / "edges.tsv"
    result = run(
        *("grn", tmp_path / "model", tmp_path / "cells.h5ad", "-o", edges, "--top", 5),
        *("--sources", tmp_path / "tfs.txt", "--members", 4, "--where", "half=odd"),
        *("--decay", tmp_path / "half_lives.tsv", "--figures", tmp_path / "figures"),
    )
    assert result.exit_code == 0, result.output
    assert "12 genes, 500 cells" in result.output
    table = pd.read_csv(edges, sep="\t")
    assert set(table["source"]) <= {"G1", "G2"}
    assert len(table) == 5
    assert {"sign_consistency", "z"} <= set(table)
    assert {file.name for file in (tmp_path / "figures").iterdir()} == {
        "network.png",
        "heat_map.png",
        "operators.png",
        "edges_over_time.png",
    }
    assert "tfs.txt: 1 of 3 are not in the network: unknown" in result.stderr
    result = run("grn", tmp_path / "model", "--dataset", "x", "-o", edges)
    assert "data set: expected a model of many, found a model of one" in result.stderr
    named = adata.copy()
    genes = "EOMES FOS GATA6 JUN KLF4 NANOG POU5F1 SOX2 TAL1 MYC GATA4 STAT3"
    named.var["human_symbol"] = genes.split()
    named.write_h5ad(tmp_path / "named.h5ad")
    result = run(
        *("grn", "cellmnn-base", tmp_path / "named.h5ad", "--time-key", "time", "-o", edges),
        *("--where", "time=2.0"),
    )
    assert result.exit_code == 0, result.output  # adapted to all times, of which one is meant
    assert "12 genes, 200 cells" in result.output
    network.reference().to_csv(tmp_path / "truth.tsv", sep="\t", index=False)
    result = run(
        *("grn-evaluate", tmp_path / "model", tmp_path / "cells.h5ad"),
        *("--reference", tmp_path / "truth.tsv", "-o", tmp_path / "scores.json"),
    )
    assert result.exit_code == 0, result.output
    for method in ("production", "operator", "trees", "scode", "always_activation"):
        assert method in result.output
    for options, message in (
        (("--decay", "soon"), "decay: expected a rate, a file of half-lives, or data, found soon"),
        (("--where", "half=none"), "where: expected a column of obs and a value of it"),
        (("--sources", tmp_path / "nothing"), "genes: expected a file with one a line"),
    ):
        result = run("grn", tmp_path / "model", tmp_path / "cells.h5ad", "-o", edges, *options)
        assert result.exit_code == 2
        assert message in result.stderr


def test_the_base_answers_without_the_file(tmp_path):
    edges = tmp_path / "edges.tsv"
    result = run("grn", "cellmnn-base", "--dataset", "hesc_endoderm", "-o", edges, "--top", 100)
    assert result.exit_code == 0, result.output
    assert len(pd.read_csv(edges, sep="\t")) == 100
    result = run("grn", "cellmnn-base", "--dataset", "nothing", "-o", edges)
    assert "data set: expected one of " in result.stderr
    result = run("grn", "cellmnn-base", "-o", edges)
    assert result.exit_code == 2
    assert "pipeline: expected a fitted one" in result.stderr


def test_factors_as_sources():
    """By name or human symbol; a network without any says so."""
    left = np.random.default_rng(0).normal(size=(4, 2))
    genes, symbols = ("Sox2", "Gapdh", "Trp53", "g4"), ("SOX2", "GAPDH", "TP53", "")
    network = GeneRegulatoryNetwork(genes, left, left.T, symbols=symbols)
    assert network.factors == ("Sox2", "Trp53")
    table = network.to_dataframe(sources="factors", prior=True)
    assert set(table["source"]) == {"Sox2", "Trp53"}
    assert table["activating"].between(0, 1).all()
    none = GeneRegulatoryNetwork(("A", "B"), left[:2], left[:2].T)
    with pytest.raises(InputError, match="source: expected transcription factors"):
        none.to_dataframe(sources="factors")
    with pytest.raises(InputError, match="source: expected a list of genes, or factors"):
        network.to_dataframe(sources="Sox2")
