"""Tasks: functions of (seed, slot), and blind for what is to be predicted."""

from dataclasses import replace

import numpy as np
import pytest

from cellmnn_fm import InputError, TimeCourse
from cellmnn_fm.data.corpus import Corpus
from cellmnn_fm.data.tasks import SamplingConfig, TaskSampler

PLAIN = SamplingConfig(table_share=0.0, reverse=0.0, gamma=0.0, thin=0.0, fewest_dims=8)


def make_corpus(folder, shift=0.0):
    """Two real sets and a synthetic one; `shift` moves the third snapshot of the first."""
    rng = np.random.default_rng(0)
    corpus = Corpus.create(folder, latent_dim=4)
    for name, cells, dims in (("small", 40, 3), ("large", 400, 4), ("made", 100, 4)):
        snapshots = [rng.normal(size=(cells, dims)) + at for at in range(5)]
        if name == "small":
            snapshots[2] = snapshots[2] + shift
        course = TimeCourse(snapshots, np.array([0.0, 1.0, 3.0, 4.0, 8.0]))
        corpus.add_course(name, course, synthetic=name == "made")
    return corpus


@pytest.fixture
def corpus(tmp_path):
    return make_corpus(tmp_path / "corpus")


def same(one, other):
    arrays = [
        np.array_equal(a, b)
        for a, b in zip(
            [*one.snapshots, *one.sources, one.target, one.times],
            [*other.snapshots, *other.sources, other.target, other.times],
            strict=True,
        )
    ]
    return all(arrays) and (one.dataset_id, one.left) == (other.dataset_id, other.left)


def test_a_task_is_a_function_of_seed_and_slot(corpus):
    sampler, again = (TaskSampler(corpus, SamplingConfig(), seed=3) for _ in range(2))
    later = [sampler.draw(slot) for slot in range(20)]
    for slot in reversed(range(20)):
        assert same(again.draw(slot), later[slot])
    other = TaskSampler(corpus, SamplingConfig(), seed=4)
    assert not all(
        one.dataset_id == task.dataset_id and np.array_equal(one.target, task.target)
        for one, task in ((other.draw(slot), later[slot]) for slot in range(20))
    )


def test_the_target_is_between_its_neighbours_and_not_among_the_observed(corpus):
    # all cells are observed, of which sources are some
    sampling = replace(SamplingConfig(), gamma=0.5, frame_cells=10_000, thin=0.0)
    sampler = TaskSampler(corpus, sampling, seed=0)
    skipped = 0
    for slot in range(60):
        task = sampler.draw(slot)
        assert task.times[task.left] < task.target_time < task.times[task.left + 1]
        np.testing.assert_allclose(task.times[[0, -1]], [0, len(task.times) - 1], atol=1e-9)
        assert len(task.snapshots) == len(task.times) <= 4
        skipped += len(task.times) < 4
        for side, snapshot in zip(task.sources, task.snapshots[task.left :], strict=False):
            rows = {row.tobytes() for row in np.round(snapshot, 4)}
            assert all(row.tobytes() in rows for row in np.round(side, 4))
    assert 0 < skipped < 60


def test_nothing_but_the_target_depends_on_the_held_out_snapshot(tmp_path):
    samplers = [
        TaskSampler(make_corpus(tmp_path / str(shift), shift), PLAIN, 0, ["small"])
        for shift in (0.0, 100.0)
    ]
    looked_at = 0
    for slot in range(30):
        one, other = (sampler.draw(slot) for sampler in samplers)
        if one.target_time != pytest.approx(3 * 3 / 8):
            continue  # another snapshot was held out
        looked_at += 1
        for a, b in zip(
            [*one.snapshots, *one.sources], [*other.snapshots, *other.sources], strict=True
        ):
            np.testing.assert_array_equal(a, b)
    assert looked_at > 3


def test_states_are_z_scored_by_what_is_observed(corpus):
    sampler = TaskSampler(corpus, SamplingConfig(), seed=0)
    for slot in range(20):
        task = sampler.draw(slot)
        seen = np.concatenate(task.snapshots)[:, : task.num_dims]
        np.testing.assert_allclose(seen.mean(0), 0, atol=1e-4)
        np.testing.assert_allclose(seen.std(0), 1, atol=1e-4)
        padding = np.concatenate([*task.snapshots, *task.sources, task.target])[:, task.num_dims :]
        assert not padding.any()


def test_shares_of_the_sources(corpus):
    def shares(**options):
        sampler = TaskSampler(corpus, SamplingConfig(**options), seed=0)
        drawn = [sampler.draw(slot).dataset_id for slot in range(400)]
        return np.bincount(drawn, minlength=3) / 400

    np.testing.assert_allclose(
        shares(temperature=0.0, synthetic_share=0.5), [0.25, 0.25, 0.5], atol=0.07
    )
    by_cells = shares(temperature=1.0, synthetic_share=0.0)
    np.testing.assert_allclose(by_cells, [1 / 11, 10 / 11, 0], atol=0.05)


def test_reversed_time_mirrors_the_times(corpus):
    forward = TaskSampler(corpus, PLAIN, 0)
    reversed_ = TaskSampler(corpus, replace(PLAIN, reverse=1.0), 0)
    for slot in range(10):
        one, other = forward.draw(slot), reversed_.draw(slot)
        last = len(one.times) - 1
        np.testing.assert_allclose(other.times, last - one.times[::-1])
        assert other.target_time == pytest.approx(last - one.target_time)
        np.testing.assert_allclose(other.target, one.target, atol=1e-5)
        np.testing.assert_allclose(other.sources[0], one.sources[1], atol=1e-5)


def test_components_are_those_of_the_observed_cells(tmp_path):
    """A component in which the held-out snapshot alone differs is none that a task has."""
    rng = np.random.default_rng(0)
    snapshots = [rng.normal(size=(40, 6)) * [5, 4, 3, 2, 1, 0.1] for _ in range(3)]
    snapshots[1][:, 5] += 100.0
    turn = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    course = TimeCourse([(cells @ turn).astype(np.float32) for cells in snapshots], [0.0, 1.0, 2.0])
    corpus = Corpus.create(tmp_path / "corpus", latent_dim=3)
    first = TimeCourse([cells[:, :3] for cells in course.snapshots], course.times)
    corpus.add_course("one", first, components=course)
    for slot in range(5):
        task = TaskSampler(corpus, PLAIN, 0).draw(slot)
        seen = np.concatenate(task.snapshots)
        np.testing.assert_allclose(np.cov(seen.T, ddof=0), np.eye(3), atol=1e-4)
        assert np.abs(task.target).max() < 10
    dims = {
        TaskSampler(corpus, replace(PLAIN, fewest_dims=1), 0).draw(slot).num_dims
        for slot in range(20)
    }
    assert dims == {1, 2, 3}


def test_what_cannot_be_drawn_is_refused(corpus, tmp_path):
    with pytest.raises(InputError, match="gamma: expected 0 to 1, found 2"):
        SamplingConfig(gamma=2)
    with pytest.raises(InputError, match="cells: expected at least 2, found 1"):
        SamplingConfig(cells=1)
    short = Corpus.create(tmp_path / "short", latent_dim=2)
    short.add_course("two", TimeCourse([np.zeros((9, 2)), np.ones((9, 2))], [0.0, 1.0]))
    with pytest.raises(InputError, match="corpus: expected data sets with an interior snapshot"):
        TaskSampler(short, SamplingConfig(), 0)


def test_reserved_times_are_shown_by_no_task(corpus):
    reserved = {"small": 2, "large": 3}
    names = list(reserved)
    training = TaskSampler(corpus, PLAIN, 0, names, reserved)
    validation = TaskSampler(corpus, PLAIN, 0, names, reserved, reserved_only=True)
    times = np.array([0.0, 1.0, 3.0, 4.0, 8.0])
    for slot in range(40):
        for sampler in (training, validation):
            task = sampler.draw(slot)
            name = list(corpus.entries)[task.dataset_id]
            kept = np.delete(times, reserved[name])
            if sampler is validation:
                assert len(task.times) == 4
                np.testing.assert_allclose(task.times / 3, kept / 8)
                assert task.target_time / 3 == pytest.approx(times[reserved[name]] / 8)
            else:
                assert len(task.times) == 3
                assert set(np.round(task.times / 2 * 8, 6)) <= set(kept)
