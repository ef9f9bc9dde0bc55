"""Time courses by name, to draw cells of: what is known of each, and where its states lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .time_course import TimeCourse


@dataclass(frozen=True)
class CorpusEntry:
    """What the manifest says of a data set.

    Attributes
    ----------
    name : str
        Of the data set.
    times : list of float
        Observed times, ascending.
    cells : list of int
        At each of them; the cells lie in this order.
    num_dims : int
        How many latent dimensions are real, the others being padding.
    overlaps : list of str
        Names of data sets that share cells with it.
    synthetic : bool
        Whether it was simulated, and has no genes.
    provenance : dict
        Source, licence, checksum and whatever else is known.
    """

    name: str
    times: list[float]
    cells: list[int]
    num_dims: int
    overlaps: list[str] = field(default_factory=list)
    synthetic: bool = False
    provenance: dict[str, Any] = field(default_factory=dict)


def origin_of(uns: Mapping[str, Any]) -> dict[str, str]:
    """What a file says of where its cells are from."""
    keys = ("publication", "source", "licence", "species")
    return {key: str(uns[key]) for key in keys if key in uns}


class CorpusSet:
    """The snapshots of one data set.

    Parameters
    ----------
    entry : CorpusEntry
        What is known of the data set.
    states : (cells, latent_dim)
        All cells, ordered by time; may be a view of a file that is not in memory until it is read.
    components : (cells, n), optional
        Likewise, more of its own components, none of them scaled: enough to tell which ones some of
        the snapshots have.
    """

    def __init__(
        self,
        entry: CorpusEntry,
        states: NDArray[np.float32],
        components: NDArray[np.float32] | None = None,
    ):
        self.entry, self.states, self.components = entry, states, components
        self._starts = np.concatenate([[0], np.cumsum(entry.cells)])

    def draw(self, index: int, most: int, rng: np.random.Generator) -> NDArray[np.float32]:
        """At most `most` cells of a snapshot, drawn without replacement, (cells, latent_dim)."""
        return self.states[self._rows(index, most, rng)]

    def draw_components(
        self, index: int, most: int, rng: np.random.Generator
    ) -> NDArray[np.float32]:
        """The same with all components that there are, (cells, n); else its real dimensions."""
        rows = self._rows(index, most, rng)
        if self.components is None:
            return self.states[rows, : self.entry.num_dims]
        return self.components[rows]

    def _rows(self, index: int, most: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Of some cells of a snapshot, ascending."""
        cells = self.entry.cells[index]
        chosen = rng.choice(cells, min(cells, most), replace=False, shuffle=False)
        return np.sort(chosen) + self._starts[index]

    def course(self) -> TimeCourse:
        """All of it, in memory, in its real dimensions."""
        everything = self.states[:, : self.entry.num_dims]
        snapshots = np.split(everything, self._starts[1:-1])
        return TimeCourse(snapshots, np.array(self.entry.times))


class CoursesInMemory:
    """A few time courses in one latent space, to draw tasks from, without a file.

    Parameters
    ----------
    courses : mapping of TimeCourse
        By name, each with at most `latent_dim` dimensions.
    latent_dim : int
        Of the model; time courses of fewer are padded.
    """

    def __init__(self, courses: Mapping[str, TimeCourse], latent_dim: int):
        self.latent_dim = latent_dim
        self.entries = {name: entry_of(name, course) for name, course in courses.items()}
        self._sets = {
            name: CorpusSet(self.entries[name], padded_states(course, latent_dim))
            for name, course in courses.items()
        }

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, name: str) -> CorpusSet:
        return self._sets[name]


def entry_of(name: str, course: TimeCourse, **others: Any) -> CorpusEntry:
    """What the manifest says of a time course."""
    cells = [len(snapshot) for snapshot in course.snapshots]
    return CorpusEntry(name, course.times.tolist(), cells, course.latent_dim, **others)


def padded_states(course: TimeCourse, latent_dim: int) -> NDArray[np.float32]:
    """All cells, ordered by time, (cells, latent_dim)."""
    padding = latent_dim - course.latent_dim
    return np.pad(np.concatenate(course.snapshots), ((0, 0), (0, padding)))
