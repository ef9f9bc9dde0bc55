"""Figures show what is there: places, colours and curves are those of the cells."""

import anndata
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from cellmnn_fm import CellMNNPipeline, InputError, pl
from cellmnn_fm.data.gene_networks import GeneNetwork
from cellmnn_fm.pl.cells import stream_grid
from cellmnn_fm.pl.placing import Placing
from cellmnn_fm.pl.style import GROUP_COLORS
from cellmnn_fm.questions.grn.network import GeneRegulatoryNetwork


@pytest.fixture(scope="module")
def drawn():
    """A bifurcation, with a UMAP of the file's own, types, and fates."""
    network = GeneNetwork.make("bifurcating", genes=12, seed=0)
    adata = network.to_anndata(cells=100, seed=0)
    x = np.asarray(adata.X)
    adata.obs["type"] = np.where(x[:, 1] > x[:, 2], "one", "two")
    adata.obsm["X_umap"] = np.tanh(x[:, 1:3])
    pipeline = CellMNNPipeline().fit(adata, time_key="time", steps=100, verdict=False)
    cells = pipeline.cells(adata)
    annotated, table = pipeline.annotate(cells), pipeline.fates(cells, 2)
    table.add_to(annotated)
    return pipeline, cells, annotated, table


@pytest.fixture(autouse=True)
def closed():
    """No test leaves a figure open for the next."""
    yield
    plt.close("all")


def dots(axes, number=0):
    return axes.collections[number]


def test_cells_are_where_the_file_has_them(drawn):
    _, _, annotated, _ = drawn
    axes = pl.velocity_stream(annotated, show=False)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("UMAP 1", "UMAP 2")
    shown = np.asarray(dots(axes).get_offsets())
    np.testing.assert_array_equal(np.sort(shown[:, 0]), np.sort(annotated.obsm["X_umap"][:, 0]))
    # each with the colour of its own time
    order = np.argsort(shown[:, 0])
    times = annotated.obs["cellmnn_time"].to_numpy()[np.argsort(annotated.obsm["X_umap"][:, 0])]
    np.testing.assert_array_equal(dots(axes).get_array()[order], times)


def test_components_keep_distances_of_expression(drawn):
    """Without an embedding: two dimensions of what the model has of the expression."""
    _, _, annotated, _ = drawn
    placing = Placing.of(annotated, "components")
    expression = annotated.layers["cellmnn_expression"].astype(float)
    centred = expression - expression.mean(axis=0)
    _, lengths, axes = np.linalg.svd(centred, full_matrices=False)
    expected = centred @ axes[:2].T
    signs = np.sign((expected * placing.placed).sum(axis=0))
    np.testing.assert_allclose(placing.placed * signs, expected, atol=1e-3)
    assert placing.labels[0] == f"component 1 ({lengths[0] ** 2 / (lengths**2).sum():.0%})"
    # other cells and velocities by the same map
    states = annotated.obsm["X_cellmnn"]
    np.testing.assert_allclose(placing.of_states(states), placing.placed, atol=1e-9)
    moved = placing.of_states(states + 0.1 * annotated.obsm["cellmnn_velocity"])
    velocity = placing.of_velocity(annotated.obsm["cellmnn_velocity"])
    np.testing.assert_allclose(moved - placing.placed, 0.1 * velocity, atol=1e-4)


def test_velocities_in_an_embedding(drawn):
    """Near exact where the embedding is linear in states; cells land among their likes."""
    _, _, annotated, _ = drawn
    states = annotated.obsm["X_cellmnn"].astype(float)
    linear = np.random.default_rng(0).normal(size=(states.shape[1], 2))
    placing = Placing(states @ linear, ("a", "b"), states)
    velocity = annotated.obsm["cellmnn_velocity"]
    off = placing.of_velocity(velocity, neighbours=100) - velocity @ linear
    assert np.square(off).sum() < 0.03 * np.square(velocity @ linear).sum()
    placed = placing.of_states(states)
    spread = placing.placed.std()
    assert np.sqrt(np.square(placed - placing.placed).sum(1).mean()) < 0.5 * spread


def test_streams_are_where_cells_are():
    """A turning wheel: the velocity of each point of the grid, and none beside the cells."""
    rng = np.random.default_rng(0)
    placed = rng.normal(size=(2000, 2))
    x, y, u, v = stream_grid(placed, placed[:, ::-1] * [-1, 1])
    grid = np.stack(np.meshgrid(x, y), -1)
    inside = np.linalg.norm(grid, axis=-1) < 1.5
    np.testing.assert_allclose(u[inside], -grid[inside][:, 1], atol=0.25)
    np.testing.assert_allclose(v[inside], grid[inside][:, 0], atol=0.25)
    assert np.isnan(u[0, 0])
    assert np.isfinite(u[inside]).all()


def test_colours(drawn):
    """Of types, by the file's own colours where it has some; of genes; of nothing that is not."""
    _, _, annotated, _ = drawn
    axes = pl.velocity_stream(annotated, color="type", show=False)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["one", "two"]
    assert to_hex(dots(axes).get_facecolor()[0]) == GROUP_COLORS[0]
    of_file = annotated.copy()
    of_file.uns["type_colors"] = ["#102030", "#405060"]
    axes = pl.velocity_stream(of_file, color="type", show=False)
    assert to_hex(dots(axes, 1).get_facecolor()[0]) == "#405060"
    axes = pl.velocity_stream(annotated, color="G3", show=False)
    assert dots(axes).get_array().max() == annotated[:, "G3"].X.max()
    with pytest.raises(InputError, match=r"color: expected a column of obs .* or a gene"):
        pl.velocity_stream(annotated, color="G99", show=False)


def test_more_types_than_colours(drawn):
    _, _, annotated, _ = drawn
    many = annotated.copy()
    many.obs["kind"] = [f"k{number % 12}" for number in range(many.n_obs)]
    axes = pl.velocity_stream(many, color="kind", show=False)
    colors = {to_hex(dots(axes, number).get_facecolor()[0]) for number in range(12)}
    assert len(colors) == 12


def test_a_predicted_snapshot(drawn):
    pipeline, cells, annotated, _ = drawn
    predicted = pipeline.interpolate(cells, 1.5)
    axes = pl.interpolation(annotated, predicted, "components", show=False)
    kept = ~predicted.obs["stopped"].to_numpy()
    expected = Placing.of(annotated, "components").of_states(predicted.obsm["X_cellmnn"][kept])
    np.testing.assert_allclose(np.asarray(dots(axes, 1).get_offsets()), expected)
    assert axes.get_title() == "predicted at 1.5"


def test_paths_begin_at_their_cells(drawn):
    pipeline, cells, annotated, _ = drawn
    followed = pipeline.trajectory(cells, np.linspace(0, 4, 9).tolist(), cells=20, n_steps=2)
    axes = pl.trajectories(annotated, followed, "components", show=False)
    lines, start = axes.collections[1], axes.collections[2]
    segments = np.array(lines.get_segments())
    assert len(segments) == 8 * 20
    np.testing.assert_allclose(segments[:20, 0], np.asarray(start.get_offsets()))
    assert lines.get_array()[0] == 0.25  # in the middle of a step


def test_fates(drawn):
    """Two in one panel, more in one each, or as corners; cells that were not followed are grey."""
    _, _, annotated, table = drawn
    axes = pl.fates(annotated, show=False)
    first = table.probabilities.columns[0]
    values = np.sort(dots(axes, 1).get_array())
    np.testing.assert_allclose(values, np.sort(table.probabilities[first]))
    three = annotated.copy()
    shares = np.random.default_rng(0).dirichlet([1, 1, 1], annotated.n_obs)
    three.obsm["cellmnn_fates"] = pd.DataFrame(shares, three.obs_names, ["a", "b", "c"])
    assert [axis.get_title() for axis in pl.fates(three, show=False)] == ["a", "b", "c"]
    circle = pl.fates(three, "circle", show=False)
    placed = np.asarray(dots(circle).get_offsets())
    corners = np.array([[0, 1], [-np.sqrt(0.75), -0.5], [np.sqrt(0.75), -0.5]])
    np.testing.assert_allclose(placed, shares @ corners, atol=1e-12)
    with pytest.raises(InputError, match="basis circle: expected three fates or more, found 2"):
        pl.fates(annotated, "circle", show=False)
    with pytest.raises(InputError, match='obsm\\["other"\\]: expected fates'):
        pl.fates(annotated, key="other", show=False)


def test_trends_are_means_of_paths(drawn):
    """One curve for each fate, by the probabilities of the cells at the start of the paths."""
    pipeline, cells, _, table = drawn
    followed = pipeline.trajectory(cells, np.linspace(0, 4, 30).tolist(), n_steps=2)
    axes = pl.gene_trends(followed, ["G1", "G2"], table, show=False)
    assert [axis.get_title() for axis in axes] == ["G1", "G2"]
    assert [len(axis.lines) for axis in axes] == [2, 2]
    alone = pl.gene_trends(followed, "G1", show=False)
    (line,) = alone.lines
    x = np.asarray(followed[:, "G1"].X).reshape(30, -1)
    middle = slice(5, -5)  # the ends are means of one side
    np.testing.assert_allclose(line.get_ydata()[middle], x.mean(axis=1)[middle], atol=0.05)
    # expression that cannot be negative is drawn as none
    assert min(line.get_ydata().min() for axis in axes for line in axis.lines) >= 0
    with pytest.raises(InputError, match="genes: expected genes of the trajectory, found X"):
        pl.gene_trends(followed, ["X"], show=False)


def test_drivers(drawn):
    _, _, _, table = drawn
    axes = pl.drivers(table, 3, show=False)
    names = [label.get_text() for label in axes.get_yticklabels()]
    first = table.drivers.columns[0]
    assert names[:3] == table.drivers[first].sort_values(ascending=False).index[:3].tolist()
    np.testing.assert_allclose(axes.images[0].get_array(), table.drivers.loc[names])
    assert len(pl.drivers(table, ["G1"], show=False).get_yticklabels()) == 1


def test_a_network(drawn):
    pipeline, cells, _, _ = drawn
    network = pipeline.grn(cells)
    axes = pl.network(network, top_k=12, show=False)
    edges = network.to_dataframe(top_k=12)
    assert {text.get_text() for text in axes.texts} == {*edges["source"], *edges["target"]}
    both = {frozenset(edge) for edge in edges[["source", "target"]].to_numpy()}
    assert len(both) <= len(axes.patches) <= len(edges)


def test_undirected_edges_have_no_arrows():
    """Whether or not the reverse is among the edges that are drawn."""
    from matplotlib.patches import ArrowStyle

    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(8, 3)), rng.normal(size=(3, 8))
    for network, arrows in (
        (GeneRegulatoryNetwork(tuple("abcdefgh"), left, left.T), False),
        (GeneRegulatoryNetwork(tuple("abcdefgh"), left, right), True),
    ):
        axes = pl.network(network, top_k=5, show=False)
        styles = {type(patch.get_arrowstyle()) for patch in axes.patches}
        assert (styles != {ArrowStyle.Curve}) == arrows
        plt.close("all")


def test_growth_needs_growth(drawn):
    _, _, annotated, _ = drawn
    with pytest.raises(InputError, match="adata: expected cells with growth, found none"):
        pl.growth(annotated, show=False)
    grown = annotated.copy()
    grown.obs["cellmnn_growth"] = np.linspace(-1, 2, grown.n_obs)
    axes = pl.growth(grown, show=False)
    low, high = dots(axes).get_clim()
    assert -low == high > 1.9


def test_axes_files_and_figures(drawn, tmp_path):
    """Drawn on given axes, saved, closed; nothing is left behind by what cannot be drawn."""
    _, _, annotated, _ = drawn
    _, ax = plt.subplots()
    assert pl.velocity_stream(annotated, ax=ax) is ax
    plt.close("all")
    pl.velocity_stream(annotated, save=tmp_path / "stream.png")
    assert (tmp_path / "stream.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match="save: expected"):
        pl.velocity_stream(annotated, save=tmp_path / "stream.doc")
    with pytest.raises(InputError, match="adata: expected annotated cells"):
        pl.velocity_stream(anndata.AnnData(np.ones((3, 2))), save=tmp_path / "none.png")
    with pytest.raises(InputError, match=r'obsm\["X_tsne"\]: expected an embedding of 2 dim'):
        pl.velocity_stream(annotated, "X_tsne")
    with pytest.raises(InputError, match="color"):
        pl.velocity_stream(annotated, color="nothing", show=False)
    assert not plt.get_fignums()
