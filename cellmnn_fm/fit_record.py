"""What a fit remembers beside its weights."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .corpus import CorpusEntry
from .gene_panel import Coverage
from .latent_space import GeneOptions, SubspaceMode
from .time_course import TimeScale
from .times import TimeKey
from .uncertainty import Recipe


@dataclass(frozen=True)
class FitRecord:
    """What a fitted pipeline remembers beside its weights.

    Attributes
    ----------
    time_key : str
    use_rep, layer : str, optional
        Where times and values were read.
    subspace_mode : {"own", "shared", "aligned"}
    gene_options : GeneOptions
        How genes were read.
    coverage : Coverage
        Of the data by the genes of the subspace.
    time_scale : TimeScale
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
    batches : dict, optional
        Column of batches, and what is taken off the states of each.
    about : dict
        What the file says of itself: publication, source, licence, species.
    verdict : dict, optional
        How its predictions of left-out snapshots compare; see :class:`cellmnn_fm.verdict.Verdict`.
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

    @property
    def recipe(self) -> Recipe | None:
        """How the model came about, where errors of such models are known."""
        if "preset" in self.settings:
            of_preset: dict[str, Recipe] = {"default": "scratch", "sliced": "sliced"}
            return of_preset.get(self.settings["preset"])
        return "fine_tuned" if self.settings.get("steps") else "zero_shot"

    def time_key_for(self, time_key: str | TimeKey | None) -> TimeKey:
        """How the times of another file are read: in the unit of the fit."""
        if isinstance(time_key, TimeKey):
            return time_key
        return TimeKey(time_key or self.time_key, self.time_map, self.time_unit)

    def save(self, file: Path) -> None:
        """Write the record to a JSON file."""
        file.write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def load(cls, file: Path) -> FitRecord:
        """Read a record from a JSON file."""
        return cls.from_dict(json.loads(file.read_text()))

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> FitRecord:
        """The record that `asdict` made a dictionary of."""
        content = dict(content)
        content["gene_options"] = GeneOptions(**content["gene_options"])
        content["coverage"] = Coverage(**content["coverage"])
        content["time_scale"] = TimeScale(**content["time_scale"])
        return cls(**content)

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
