"""What a fit remembers beside its weights."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..data.corpus_sets import CorpusEntry
from ..data.genes import Coverage, GeneOptions
from ..data.notices import notice
from ..data.options import SubspaceMode
from ..data.reading import read_cell_times
from ..data.saved_json import as_type, read_json, require_sound_times
from ..data.time_course import TimeScale
from ..data.times import TimeKey, in_unit, read_time
from ..model.errors import InputError

if TYPE_CHECKING:
    from anndata import AnnData

Recipe = Literal["zero_shot", "fine_tuned", "scratch", "sliced", "blend"]


@dataclass(frozen=True)
class FitRecord:
    """What a fitted pipeline remembers beside its weights.

    Attributes
    ----------
    time_key : str
        Column of `obs` that times were read from.
    use_rep, layer : str, optional
        Where times and values were read.
    subspace_mode : {"own", "shared", "aligned"}
        Which latent space it was fitted in.
    gene_options : GeneOptions
        How genes were read.
    coverage : Coverage
        Of the data by the genes of the subspace.
    time_scale : TimeScale
        Between the user's time and the model's.
    times : list of float
        Observed times of the training data.
    cells : list of int
        Cells at each of them.
    settings : dict
        Preset, seed and training configuration.
    losses : list of dict
        Parts of the loss at every step.
    seconds : float
        Of the training.
    name : str
        Of the data set.
    base : dict, optional
        Of a fine-tuned model: "name", "revision" on the Hub and "sha256" of the weights that it
        started from.
    time_unit : str, optional
        Of `times`, where their labels had one; labels of other files are turned into it.
    time_map : dict, optional
        From labels to times, where one was given.
    batch_key : str, optional
        Column of `obs` with batches.
    batches : dict, optional
        Column of batches, and what is taken off the states of each.
    about : dict
        What the file says of itself: publication, source, licence, species.
    beside : dict, optional
        "condition" and "control", where the model is of a condition beside its control; times and
        cells are those of both.
    verdict : dict, optional
        How its predictions of left-out snapshots compare; see
        :class:`cellmnn_fm.evaluation.verdict.Verdict`.
    """

    time_key: str
    use_rep: str | None
    layer: str | None
    subspace_mode: SubspaceMode
    gene_options: GeneOptions
    coverage: Coverage
    time_scale: TimeScale
    times: list[float]
    cells: list[int]
    settings: dict
    losses: list[dict[str, float]]
    seconds: float
    name: str = ""
    base: dict[str, str | None] | None = None
    verdict: dict[str, Any] | None = None
    time_unit: str | None = None
    time_map: dict[str, float] | None = None
    batch_key: str | None = None
    batches: dict[str, Any] | None = None
    about: dict[str, str] = field(default_factory=dict)
    beside: dict[str, str] | None = None

    @property
    def recipe(self) -> Recipe | None:
        """How the model came about, where errors of such models are known."""
        if self.beside is not None:
            return None
        if "preset" in self.settings:
            of_preset: dict[str, Recipe] = {"default": "scratch", "sliced": "sliced"}
            return of_preset.get(str(self.settings["preset"]))
        return "fine_tuned" if self.settings.get("steps") else "zero_shot"

    @property
    def named_unit(self) -> dict[str, str]:
        """The unit of times, as results have it; nothing where there is none."""
        return {"time_unit": self.time_unit} if self.time_unit else {}

    @property
    def population(self) -> dict[float, float] | None:
        """How many cells there were, by time, where the fit was told."""
        counts = self.settings.get("population")
        return counts and {float(time): cells for time, cells in counts.items()}

    def time_key_for(self, time_key: str | TimeKey | None) -> TimeKey:
        """How the times of another file are read: in the unit of the fit."""
        if isinstance(time_key, TimeKey):
            return replace(time_key, column=time_key.column or self.time_key)
        return TimeKey(time_key or self.time_key, self.time_map, self.time_unit)

    def time_at(self, at: float | str) -> float:
        """A time in the unit of the fit, of a number or a label such as "day 3".

        Raises
        ------
        InputError
            On a label that means none.
        """
        return read_time(at, self.time_unit, self.time_map) if isinstance(at, str) else at

    def times_of(self, adata: AnnData, time_key: str | TimeKey | None) -> NDArray:
        """The time of every cell of a file, (cells,), in the unit of the fit.

        Raises
        ------
        InputError
            On times that cannot be read, and on those of another origin or unit.

        Warns
        -----
        UserWarning
            If it is not known whether the units are the same.
        """
        key = self.time_key_for(time_key)
        # cells of a single time may be asked about; a time course checks its own
        read = read_cell_times(adata, key, dynamics=False)
        times, unit = read.values, read.unit
        if self.time_unit is None or unit is None:
            if self.time_unit != unit and key.time_map is None:
                of_fit, of_file = (
                    f"{named_unit}s" if named_unit else "no unit"
                    for named_unit in (self.time_unit, unit)
                )
                warnings.warn(
                    f"times of the fit are in {of_fit}, those of the file in {of_file}: "
                    "taken as the same",
                    stacklevel=3,
                )
        elif unit != self.time_unit:
            times = in_unit(times, unit, self.time_unit)
            notice(f"times of the file, in {unit}s, read as {self.time_unit}s")
        self.require_near(f'time column "{key.column}"', times)
        return times

    def require_near(self, what: str, times: Sequence[float] | NDArray) -> None:
        """Refuse times of another unit or origin than that of the fit.

        Of `times` (cells,).
        """
        first, last = self.times[0], self.times[-1]
        farthest = max(np.unique(times), key=lambda at: max(first - at, at - last))
        if max(first - farthest, farthest - last) > (1 + 1e-6) * (last - first):
            unit = f" {self.time_unit}s" if self.time_unit else ""
            raise InputError(
                what,
                f"times near those of the fit, {first:g} to {last:g}{unit}",
                f"{farthest:g}",
                "give them in its unit and from its origin, or a time map",
            )

    def save(self, file: Path) -> None:
        """Write the record to a JSON file."""
        file.write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def load(cls, file: Path) -> FitRecord:
        """Read a record from a JSON file."""
        return cls.from_dict(read_json(file), str(file))

    @classmethod
    def from_dict(cls, content: Any, what: str = "record of a fit") -> FitRecord:
        """The record that `asdict` made a dictionary of.

        Raises
        ------
        InputError
            On fields of other types, and on times that no fit can have had.
        """
        record = as_type(cls, content, what)
        require_sound_times(what, record.times, record.cells)
        scale = record.time_scale
        if not (math.isfinite(scale.origin) and 0 < scale.unit < math.inf):
            raise InputError(what, "a finite time scale", scale, "save or download it again")
        return record

    @classmethod
    def of_entry(cls, entry: CorpusEntry, subspace_mode: SubspaceMode, num_genes: int) -> FitRecord:
        """What is known of a data set of a corpus."""
        return cls(
            time_key="time",
            use_rep=None,
            layer=None,
            subspace_mode=subspace_mode,
            gene_options=GeneOptions(on_duplicates="mean"),
            coverage=Coverage(num_genes, num_genes, num_genes),
            time_scale=TimeScale.of(entry.times),
            times=entry.times,
            cells=entry.cells,
            settings={},
            losses=[],
            seconds=0.0,
            name=entry.name,
        )
