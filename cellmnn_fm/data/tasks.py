"""Tasks for joint training: one snapshot of one data set is held out and to be predicted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from ..model.errors import InputError
from .corpus import Corpus
from .corpus_sets import CoursesInMemory
from .time_course import TimeScale

MIN_TARGET_CELLS = 8
_FEW_CELLS = 12


@dataclass(frozen=True)
class SamplingConfig:
    """How tasks are drawn from a corpus.

    Parameters
    ----------
    tasks : int
        In a step, over all processes.
    cells : int
        Drawn of each snapshot that is pushed, and of the one that is predicted.
    frame_cells : int
        At most so many of each observed snapshot make frame and embedding.
    most_times : int
        At most so many snapshots are shown: the neighbours, and some of the others.
    temperature : float
        A data set is drawn in proportion to its cells to this power: 1 counts cells, 0 data sets.
    synthetic_share : float
        Share of the tasks that are from synthetic data sets, where there are any.
    simulated_share : float
        Of systems that are simulated on the way, in the loss.
    gamma : float
        Odds of each further snapshot between a neighbour and the one that is held out.
    table_share : float
        Share of the tasks that use a data set's own embedding, beside what its cells say.
    thin : float
        Share of the steps that show fewer cells of a snapshot, down to a dozen.
    reverse : float
        Share of the tasks without the data set's own embedding in which time runs backward.
    fewest_dims : int
        A task has so many dimensions at least, and those of the corpus at most.

    Raises
    ------
    InputError
        On numbers out of range.
    """

    tasks: int = 12
    cells: int = 64
    frame_cells: int = 256
    most_times: int = 8
    temperature: float = 0.3
    synthetic_share: float = 0.3
    simulated_share: float = 0.5
    gamma: float = 0.2
    table_share: float = 0.3
    thin: float = 0.5
    reverse: float = 0.3
    fewest_dims: int = 2

    def __post_init__(self) -> None:
        shares = ("synthetic_share", "simulated_share", "table_share", "thin", "gamma", "reverse")
        for name in shares:
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(name, "0 to 1", getattr(self, name), "give a share")
        numbers = {"tasks": 1, "cells": 2, "frame_cells": 2, "most_times": 2, "fewest_dims": 1}
        for name, least in numbers.items():
            if getattr(self, name) < least:
                raise InputError(name, f"at least {least}", getattr(self, name), "give more")


@dataclass(frozen=True)
class Task:
    """Predict a snapshot from its neighbours, knowing other snapshots of the data set.

    States are components of the observed cells, z-scored by them, and times are model times of the
    observed snapshots: nothing here but the target depends on the held-out snapshot.

    Attributes
    ----------
    dataset_id : int
        Position of the data set in the corpus.
    uses_table : bool
        Whether the data set's own embedding is used.
    num_dims : int
        Real dimensions.
    snapshots : list of (cells, latent_dim)
        Observed.
    times : (snapshots,)
        When the snapshots were taken, in model time.
    left : int
        Index of the observed snapshot before the target; the one after it is the next.
    target_time : float
        When the held-out snapshot was taken, in model time.
    sources : two of (cells, latent_dim)
        Cells of the neighbours.
    target : (cells, latent_dim)
        Cells of the held-out snapshot.
    """

    dataset_id: int
    uses_table: bool
    num_dims: int
    snapshots: list[NDArray[np.float32]]
    times: NDArray[np.float64]
    left: int
    target_time: float
    sources: tuple[NDArray[np.float32], NDArray[np.float32]]
    target: NDArray[np.float32]


def held_out_able(cells: Sequence[int]) -> list[int]:
    """Indices of the interior times, of those with so many cells, that can be predicted."""
    return [time for time in range(1, len(cells) - 1) if cells[time] >= MIN_TARGET_CELLS]


class TaskSampler:
    """Tasks as a function of (seed, slot) alone.

    A slot is the number of a task in the whole run, so that one process and many see the same
    tasks, and a resumed run those of an uninterrupted one.

    Parameters
    ----------
    corpus : Corpus or CoursesInMemory
        Where data sets are drawn from.
    config : SamplingConfig
        How tasks are drawn.
    seed : int
        Of all draws, so that any of them can be drawn again.
    names : sequence of str, optional
        The data sets that are drawn from; all by default. Those without a snapshot to hold out are
        left aside.
    reserved : mapping of int, optional
        For data sets by name the index of a time that is kept for validation: no task shows it.
    reserved_only : bool
        Draw the validation tasks instead, in which those times are the ones to predict.

    Raises
    ------
    InputError
        If there is nothing to draw from.
    """

    def __init__(
        self,
        corpus: Corpus | CoursesInMemory,
        config: SamplingConfig,
        seed: int,
        names: Sequence[str] | None = None,
        reserved: Mapping[str, int] | None = None,
        *,
        reserved_only: bool = False,
    ):
        self.corpus, self.config, self.seed = corpus, config, seed
        self._reserved, self._reserved_only = dict(reserved or {}), reserved_only
        self._ids = {name: number for number, name in enumerate(corpus.entries)}
        self.names = [name for name in (names or corpus.entries) if len(self._held_out_able(name))]
        if not self.names:
            raise InputError(
                "corpus",
                f"data sets with an interior snapshot of {MIN_TARGET_CELLS} or more cells",
                "none",
                "add some",
            )

    def _held_out_able(self, name: str) -> list[int]:
        """Indices of the times of a data set that may be held out in training."""
        reserved = self._reserved.get(name)
        if self._reserved_only:
            return [] if reserved is None else [reserved]
        inner = held_out_able(self.corpus.entries[name].cells)
        # without the reserved one, three times must be left
        few = len(self.corpus.entries[name].cells) < 4
        return [] if reserved is not None and few else [time for time in inner if time != reserved]

    @cached_property
    def _shares(self) -> NDArray[np.float64]:
        """Probability of each data set."""
        entries = [self.corpus.entries[name] for name in self.names]
        weights = np.array([sum(entry.cells) for entry in entries]) ** self.config.temperature
        synthetic = np.array([entry.synthetic for entry in entries])
        if synthetic.any() and not synthetic.all():
            share = self.config.synthetic_share
            weights[synthetic] *= share / weights[synthetic].sum()
            weights[~synthetic] *= (1 - share) / weights[~synthetic].sum()
        return weights / weights.sum()

    def draw(self, slot: int) -> Task:
        """The task of a slot."""
        config, rng = self.config, np.random.default_rng((self.seed, slot))
        name = self.names[rng.choice(len(self.names), p=self._shares)]
        data_set, entry = self.corpus[name], self.corpus.entries[name]
        held_out = int(rng.choice(self._held_out_able(name)))
        shown = [time for time in range(len(entry.cells)) if time != self._reserved.get(name)]
        earlier = [time for time in shown if time < held_out]
        later = [time for time in shown if time > held_out]
        before = earlier[-self._steps(len(earlier), rng)]
        after = later[self._steps(len(later), rng) - 1]
        others = [time for time in shown if time < before or time > after]
        others = rng.permutation(others)[: config.most_times - 2].tolist()
        observed = sorted([before, after, *others])
        # in random order: a network reads the first ones
        most = self._most_cells(slot // config.tasks)
        draw = partial(data_set.draw_components, rng=rng)
        snapshots = [rng.permutation(draw(time, most)) for time in observed]
        left = observed.index(before)
        sources = [draw(time, config.cells) for time in (before, after)]
        target = draw(held_out, config.cells)
        times = np.array(entry.times)[observed]
        target_time = entry.times[held_out]
        uses_table = bool(rng.random() < config.table_share)
        if not uses_table and rng.random() < config.reverse:
            times, target_time = -times[::-1], -target_time
            snapshots, sources = snapshots[::-1], sources[::-1]
            left = len(observed) - 2 - left
        # components and their spreads are those of what is observed, as of a new data set
        seen = np.concatenate(snapshots)
        centre, latent_dim = seen.mean(axis=0), self.corpus.latent_dim
        axes = np.eye(seen.shape[1])
        if data_set.components is not None:
            axes = np.linalg.eigh(np.cov(seen.T))[1][:, ::-1]
        most_dims = min(seen.shape[1], latent_dim)
        dims = int(rng.integers(min(config.fewest_dims, most_dims), most_dims + 1))
        axes = axes[:, :dims] / np.maximum((seen @ axes[:, :dims]).std(axis=0), 1e-6)

        def normalised(z: NDArray) -> NDArray[np.float32]:
            return np.pad((z - centre) @ axes, ((0, 0), (0, latent_dim - dims))).astype(np.float32)

        scale = TimeScale.of(times)
        return Task(
            dataset_id=self._ids[name],
            uses_table=uses_table,
            num_dims=dims,
            snapshots=[normalised(snapshot) for snapshot in snapshots],
            times=scale.to_model(times),
            left=left,
            target_time=float(scale.to_model(target_time)),
            sources=(normalised(sources[0]), normalised(sources[1])),
            target=normalised(target),
        )

    def _most_cells(self, step: int) -> int:
        """Of a snapshot that is shown: the same for all tasks of a step, which are padded alike."""
        rng, most = np.random.default_rng((self.seed, step, 1)), self.config.frame_cells
        if rng.random() >= self.config.thin:
            return most
        return int(np.exp(rng.uniform(np.log(min(_FEW_CELLS, most)), np.log(most))))

    def _steps(self, most: int, rng: np.random.Generator) -> int:
        """How far the neighbour is, at most so many snapshots away."""
        weights = self.config.gamma ** np.arange(most, dtype=float)
        return 1 + int(rng.choice(most, p=weights / weights.sum()))
