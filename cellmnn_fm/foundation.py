"""What a model of many data sets has beside it: the shared subspace, and each data set by name."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from .corpus import Corpus, CorpusEntry
from .errors import InputError
from .gene_panel import GenePanel
from .latent_space import SubspaceMode
from .modeling_cellmnn import CellMNNModel
from .shared_subspace import SharedSubspace
from .subspace import Subspace
from .time_course import TimeScale

FOUNDATION_FILE = "foundation.json"
_GENES_FILE = "gene_panel.json"
_SUBSPACES_FILE = "datasets.safetensors"


@dataclass(frozen=True)
class KnownDataset:
    """A data set that a model was pretrained on, without its cells.

    Attributes
    ----------
    row : int
        In the tables of the model.
    entry : CorpusEntry
    panel : GenePanel, optional
    subspace : Subspace, optional
        Its genes and their map to latent states; None for coordinates without genes.
    """

    row: int
    entry: CorpusEntry
    panel: GenePanel | None
    subspace: Subspace | None

    @property
    def time_scale(self) -> TimeScale:
        """Between the data set's time and the model's."""
        return TimeScale.of(self.entry.times)


@dataclass(frozen=True)
class Foundation:
    """The shared subspace of a pretrained model, and its data sets.

    Attributes
    ----------
    subspace_mode : {"shared", "aligned"}
        How a new data set gets its latent states.
    shared : SharedSubspace
        Without moments of the data sets.
    datasets : dict of KnownDataset
    record : dict
        How the model was trained.
    """

    subspace_mode: SubspaceMode
    shared: SharedSubspace
    datasets: dict[str, KnownDataset]
    record: dict[str, Any]

    def dataset(self, name: str) -> KnownDataset:
        """A data set by name.

        Raises
        ------
        InputError
            If there is none; names those that are.
        """
        if name not in self.datasets:
            known = ", ".join(self.datasets)
            raise InputError("data set", f"one of {known}", name, "choose one of those")
        return self.datasets[name]


def save_foundation(
    folder: Path, model: CellMNNModel, corpus: Corpus, record: dict[str, Any]
) -> None:
    """Save a model that was trained on a corpus, with all that a query needs.

    Parameters
    ----------
    folder : Path
    model : CellMNNModel
    corpus : Corpus
        Data sets that the run left out are not named, nor is anything of them saved.
    record : dict
        How it was trained; "leave_out" lists groups.
    """
    shared = corpus.shared
    saved = CellMNNModel(model.config.replaced(num_genes=len(shared.panel)))
    saved.load_state_dict(model.state_dict(), strict=False)
    saved.set_subspace(
        loadings=shared.loadings,
        noise_variance=np.full(len(shared.panel), shared.noise_variance),
    )
    saved.save_pretrained(folder)
    shared.panel.save(folder / _GENES_FILE)
    left_out, groups = set(record.get("leave_out", [])), corpus.groups
    arrays, entries, panels = {}, [], []
    for row, (name, entry) in enumerate(corpus.entries.items()):
        if groups[name] in left_out or entry.synthetic:
            continue
        entries.append({"row": row, **asdict(entry)})
        known = corpus.subspace(name)
        panels.append(None if known is None else asdict(known[0]))
        if known is not None:
            for part, values in vars(known[1]).items():
                arrays[f"{row}.{part}"] = values
    save_file(arrays, folder / _SUBSPACES_FILE)
    content = {
        "subspace_mode": corpus.subspace_mode,
        "datasets": entries,
        "panels": panels,
        "record": record,
    }
    (folder / FOUNDATION_FILE).write_text(json.dumps(content))


def load_foundation(folder: Path, model: CellMNNModel) -> Foundation:
    """What :func:`save_foundation` saved beside the model."""
    content = json.loads((folder / FOUNDATION_FILE).read_text())
    arrays = load_file(folder / _SUBSPACES_FILE)
    datasets = {}
    for one, panel in zip(content["datasets"], content["panels"], strict=True):
        row, genes, subspace = one.pop("row"), None, None
        if panel is not None:
            genes = GenePanel(tuple(panel["names"]), tuple(panel["symbols"]))
            parts = [arrays[f"{row}.{name}"] for name in Subspace.__dataclass_fields__]
            subspace = Subspace(*parts)
        datasets[one["name"]] = KnownDataset(row, CorpusEntry(**one), genes, subspace)
    shared = SharedSubspace(
        GenePanel.load(folder / _GENES_FILE),
        model.get_buffer("loadings").cpu().numpy(),
        float(model.get_buffer("noise_variance")[0]),
        {},
    )
    return Foundation(content["subspace_mode"], shared, datasets, content["record"])
