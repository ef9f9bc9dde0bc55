"""A model of many data sets: its shared subspace, and each data set by name."""

from __future__ import annotations

import json
import os
import warnings
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from ..data.corpus import Corpus
from ..data.corpus_sets import CorpusEntry
from ..data.genes import GenePanel
from ..data.options import FitReading, ReadingOptions, SubspaceMode
from ..data.saved_json import as_type, read_json, require_sound_times
from ..data.shared_subspace import SharedSubspace
from ..data.subspace import Subspace
from ..data.time_course import TimeScale
from ..model.checkpoint import whole_or_nothing
from ..model.errors import InputError, listed, require_count, require_known
from ..model.modeling_cellmnn import CellMNNModel
from .record import FitRecord

if TYPE_CHECKING:
    from accelerate import Accelerator
    from anndata import AnnData

    from ..training.loop import Optimised

FOUNDATION_FILE = "foundation.json"
GENES_FILE = "gene_panel.json"
_SUBSPACES_FILE = "datasets.safetensors"
_NETWORKS_FILE = "networks.safetensors"


@dataclass(frozen=True)
class KnownDataset:
    """A data set that a model was trained on, without its cells.

    Attributes
    ----------
    row : int
        In the tables of the model.
    entry : CorpusEntry
        Its times and numbers of cells.
    panel : GenePanel, optional
        Its genes.
    subspace : Subspace, optional
        Its genes and their map to latent states; None for coordinates without genes.
    record : FitRecord, optional
        Of a data set that the model was fine-tuned on.
    """

    row: int
    entry: CorpusEntry
    panel: GenePanel | None
    subspace: Subspace | None
    record: FitRecord | None = None

    @property
    def time_scale(self) -> TimeScale:
        """Between the data set's time and the model's."""
        return TimeScale.of(self.entry.times)


@dataclass(frozen=True)
class Foundation:
    """A pretrained model, with all that it needs to adapt itself to other data sets.

    Attributes
    ----------
    model : CellMNNModel
        A row of its tables for each data set.
    subspace_mode : {"own", "shared", "aligned"}
        How a new data set gets its latent states.
    shared : SharedSubspace, optional
        Without moments of the data sets; None for a model that knows no genes, to which every data
        set comes in components of its own.
    datasets : dict of KnownDataset
        Those that it was trained on, by name.
    record : dict
        How the model was trained.
    networks : dict of (genes, rank)
        Gene networks of data sets, by name, as loadings over the genes of their panels; see
        :mod:`cellmnn_fm.questions.grn.consensus`.
    """

    model: CellMNNModel
    subspace_mode: SubspaceMode
    shared: SharedSubspace | None
    datasets: dict[str, KnownDataset]
    record: dict[str, Any]
    networks: dict[str, NDArray] = field(default_factory=dict)

    def __repr__(self) -> str:
        known = f"pretrained on {len(self.datasets)} data sets" if self.datasets else "pretrained"
        beside = ", condition_key=..., condition=..." if self.model.config.reads_control else ""
        return (
            f"{known}, up to {self.model.config.latent_dim} latent dimensions\n"
            "adapts itself to the AnnData that it is asked about: "
            f"base.interpolate(adata, at=...{beside})"
        )

    def dataset(self, name: str) -> KnownDataset:
        """A data set by name.

        Raises
        ------
        InputError
            If there is none; names those that are.
        """
        if name not in self.datasets:
            known = listed(self.datasets, len(self.datasets))
            raise InputError("data set", f"one of {known}", name, "choose one of those")
        return self.datasets[name]

    def warn_if_seen(self, adata: AnnData) -> None:
        """Warn of cells that the model was trained on."""
        if seen := sorted(names_of(adata) & set(self.datasets)):
            warnings.warn(
                f"the model was pretrained on {', '.join(seen)}, held-out times included: "
                "what it predicts here is no test of it",
                stacklevel=4,
            )

    def reading(self, options: ReadingOptions) -> FitReading:
        """How the cells of a new data set are read: in the shared subspace, if there is one."""
        given: dict[str, Any] = {
            option.name: getattr(options, option.name) for option in fields(ReadingOptions)
        }
        if self.shared is None:
            return FitReading(**given, n_dims=self.model.config.latent_dim)
        return FitReading(**given, subspace=self.shared, subspace_mode=self.subspace_mode)

    @classmethod
    def of_corpus(cls, model: CellMNNModel, corpus: Corpus, record: dict[str, Any]) -> Foundation:
        """A model that was trained on a corpus.

        Data sets that the run left out, by the groups in `record["leave_out"]`, are not named, nor
        is anything of them kept; synthetic ones neither.
        """
        left_out, groups = set(record.get("leave_out", [])), corpus.groups
        datasets = {}
        for row, (name, entry) in enumerate(corpus.entries.items()):
            if groups[name] not in left_out and not entry.synthetic:
                panel, subspace = corpus.subspace(name) or (None, None)
                datasets[name] = KnownDataset(row, entry, panel, subspace)
        return cls(model, corpus.subspace_mode, corpus.shared, datasets, record)

    def save(self, folder: Path, *, with_code: bool = False) -> None:
        """Save the model with all that a question needs."""
        self.model.save_pretrained(folder, with_code=with_code)
        if self.shared is not None:
            self.shared.panel.save(folder / GENES_FILE)
        arrays, entries, panels, records = {}, [], [], {}
        for name, known in self.datasets.items():
            entries.append({"row": known.row, **asdict(known.entry)})
            panels.append(None if known.panel is None else asdict(known.panel))
            if known.subspace is not None:
                for part, values in vars(known.subspace).items():
                    arrays[f"{known.row}.{part}"] = values
            if known.record is not None:
                records[name] = asdict(known.record)
        save_file(arrays, folder / _SUBSPACES_FILE)
        if self.networks:
            save_file(self.networks, folder / _NETWORKS_FILE)
        content = {
            "subspace_mode": self.subspace_mode,
            "datasets": entries,
            "panels": panels,
            "record": self.record,
        }
        if records:
            content["fine_tuned"] = records
        (folder / FOUNDATION_FILE).write_text(json.dumps(content))

    @classmethod
    def load(cls, folder: Path) -> Foundation:
        """What :meth:`save` wrote.

        Raises
        ------
        InputError
            On files that are not of one model.
        """
        model = CellMNNModel.from_pretrained(folder)
        file = str(folder / FOUNDATION_FILE)
        content = read_json(folder / FOUNDATION_FILE)
        arrays = load_file(folder / _SUBSPACES_FILE)
        records = content.get("fine_tuned", {})
        datasets = {}
        for saved, panel in zip(content["datasets"], content["panels"], strict=True):
            entry, row = as_type(CorpusEntry, saved, file), as_type(int, saved["row"], file)
            require_sound_times(file, entry.times, entry.cells)
            require_count(f"row of {entry.name}", row, 0, model.config.num_datasets - 1)
            name, genes, subspace = entry.name, None, None
            if panel is not None:
                genes = as_type(GenePanel, panel, file)
                parts = [arrays[f"{row}.{part}"] for part in Subspace.__dataclass_fields__]
                subspace = Subspace(*parts)
            record = FitRecord.from_dict(records[name]) if name in records else None
            datasets[name] = KnownDataset(row, entry, genes, subspace, record)
        mode, about = content["subspace_mode"], as_type(dict, content["record"], file)
        require_known("subspace mode", mode, get_args(SubspaceMode))
        panel = None if mode == "own" else GenePanel.load(folder / GENES_FILE)
        for name, known in [("shared subspace", None), *datasets.items()]:
            genes_of_set = panel if known is None else known.panel
            count = model.config.num_genes
            if known is not None:
                count = 0 if known.subspace is None else len(known.subspace.gene_mean)
            if genes_of_set is not None and len(genes_of_set) != count:
                raise InputError(
                    name, f"loadings of {len(genes_of_set)} genes", count, "save it again"
                )
        shared = None
        if panel is not None:
            loadings = model.get_buffer("loadings").cpu().numpy()
            noise_variance = float(model.get_buffer("noise_variance")[0])
            shared = SharedSubspace(panel, loadings, noise_variance, {})
        networks = {}
        if (folder / _NETWORKS_FILE).is_file():
            networks = load_file(folder / _NETWORKS_FILE)
        for name, loadings in networks.items():
            known = datasets.get(name)
            genes_of_set = None if known is None else known.panel
            expected = "none" if genes_of_set is None else f"{len(genes_of_set)} genes"
            if genes_of_set is None or len(genes_of_set) != len(loadings):
                what, actual = f"network of {name}", f"{len(loadings)} genes"
                raise InputError(what, expected, actual, "save it again")
        return cls(model, mode, shared, datasets, about, networks)


def names_of(adata: AnnData) -> set[str]:
    """By which a file may be known to a base: its own, and of data sets that share its cells."""
    return {str(adata.uns.get("name", "")), *map(str, adata.uns.get("overlaps", ()))}


def run_record(
    settings: dict[str, Any], trained: Optimised, accelerator: Accelerator, **others: Any
) -> dict[str, Any]:
    """How a base was trained, for :attr:`Foundation.record`."""
    return {
        "settings": settings,
        **others,
        "steps": len(trained.losses),
        "seconds": round(trained.seconds, 1),
        "validation": trained.checks,
        "processes": accelerator.num_processes,
        "device": str(accelerator.device.type),
        "threads": os.environ.get("OMP_NUM_THREADS"),
    }


def save_foundation(
    folder: Path, model: CellMNNModel, corpus: Corpus, record: dict[str, Any]
) -> None:
    """Save a model that was trained on a corpus, with all that a question needs.

    Parameters
    ----------
    folder : Path
        Where to.
    model : CellMNNModel
        With a row for each data set of the corpus.
    corpus : Corpus
        That it was trained on.
    record : dict
        How it was trained, see :meth:`Foundation.of_corpus`.
    """
    shared = corpus.shared
    saved = CellMNNModel(model.config.replaced(num_genes=len(shared.panel)))
    saved.load_state_dict(model.state_dict(), strict=False)
    saved.set_subspace(
        loadings=shared.loadings,
        noise_variance=np.full(len(shared.panel), shared.noise_variance),
    )
    with whole_or_nothing(folder) as staging:
        Foundation.of_corpus(saved, corpus, record).save(staging)
