"""What a fit remembers beside its weights."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from .gene_panel import Coverage
from .latent_space import GeneOptions, SubspaceMode
from .time_course import TimeScale


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

    def save(self, file: Path) -> None:
        """Write the record to a JSON file."""
        file.write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def load(cls, file: Path) -> FitRecord:
        """Read a record from a JSON file."""
        content = json.loads(file.read_text())
        content["gene_options"] = GeneOptions(**content["gene_options"])
        content["coverage"] = Coverage(**content["coverage"])
        content["time_scale"] = TimeScale(**content["time_scale"])
        return cls(**content)
