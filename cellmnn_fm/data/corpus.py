"""Many time courses in one latent space, on disk: memory-mapped Arrow, one data set each."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from ..model.checkpoint import locked
from ..model.errors import InputError, listed
from ..model.hub import explained_errors
from .arrow_states import arrow_table, in_place, write_states
from .corpus_card import corpus_card
from .corpus_sets import CorpusEntry, CorpusSet, entry_of, padded_states
from .genes import GeneOptions, GenePanel
from .latent_space import LatentSpace, SpaceOptions, own_moments
from .moments import Matrix
from .options import SubspaceMode
from .saved_json import as_type, read_json
from .several_files import read_several, shown
from .shared_subspace import SharedSubspace
from .subspace import Subspace
from .time_course import TimeCourse
from .times import TimeKey

if TYPE_CHECKING:
    from anndata import AnnData
    from datasets import Dataset

_MANIFEST_FILE = "manifest.json"
_SHARED_FOLDER = "shared_subspace"
_STATES_FILE = "states.arrow"
_COMPONENTS = 32  # of a data set by itself, to know those of some of its snapshots
# of a repository of the Hub, beside the states; no pickles, no code
_SHARED_PATTERNS = [
    *(_MANIFEST_FILE, "README.md", "sets/*/gene_panel.json", "sets/*/subspace.safetensors"),
    *(f"{_SHARED_FOLDER}/*.json", f"{_SHARED_FOLDER}/*.safetensors"),
]


class Corpus:
    """Time courses in one latent space, in a folder.

    Data sets are added one by one, each with an Arrow file of its own, and are never rewritten.
    What is needed to bring a new data set into the same space is kept beside them.

    Parameters
    ----------
    folder : path
        As :meth:`create` made it.

    Raises
    ------
    InputError
        If there is no corpus.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from cellmnn_fm.data.corpus import Corpus
    >>> from cellmnn_fm.data.time_course import TimeCourse
    >>> corpus = Corpus.create(tempfile.mkdtemp(), latent_dim=4)
    >>> rng = np.random.default_rng(0)
    >>> course = TimeCourse([rng.normal(size=(50, 3)) + t for t in range(3)], [0.0, 1.0, 2.0])
    >>> corpus.add_course("toy", course)
    >>> corpus["toy"].draw(1, 20, rng).shape  # padded to the dimensions of the corpus
    (20, 4)
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if not (self.folder / _MANIFEST_FILE).is_file():
            raise InputError(
                str(folder), "a corpus", f"no {_MANIFEST_FILE}", "build one there, or correct it"
            )
        manifest = self._manifest()
        self.latent_dim: int = manifest["latent_dim"]
        self.subspace_mode: SubspaceMode = manifest["subspace_mode"]
        self.entries: dict[str, CorpusEntry] = manifest["sets"]
        self._open: dict[str, CorpusSet] = {}

    @classmethod
    def create(
        cls,
        folder: str | Path,
        *,
        latent_dim: int | None = None,
        shared: SharedSubspace | None = None,
        subspace_mode: SubspaceMode = "aligned",
    ) -> Corpus:
        """An empty corpus.

        Parameters
        ----------
        folder : path
            Of the new corpus.
        latent_dim : int, optional
            Dimensions of the latent space; those of the shared subspace by default.
        shared : SharedSubspace, optional
            What AnnData are projected to, or aligned with.
        subspace_mode : {"shared", "aligned"}
            How data sets with genes get their latent states.
        """
        folder = Path(folder)
        if (folder / _MANIFEST_FILE).exists():
            raise InputError(str(folder), "no corpus yet", "one", "open it, or delete it first")
        _require_empty(folder)
        if (latent_dim is None) == (shared is None):
            raise InputError(
                "corpus",
                "latent_dim or a shared subspace",
                "both" if shared else "neither",
                "give one",
            )
        folder.mkdir(parents=True, exist_ok=True)
        if shared is not None:
            shared.save(folder / _SHARED_FOLDER)
            latent_dim = shared.latent_dim
        _write_manifest(folder, {"latent_dim": latent_dim, "subspace_mode": subspace_mode}, [])
        return cls(folder)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, name: str) -> CorpusSet:
        if name not in self._open:
            self._require_known(name)
            table = self._table(name).data
            columns = {column: in_place(table, column) for column in table.column_names}
            self._open[name] = CorpusSet(self.entries[name], *columns.values())
        return self._open[name]

    @cached_property
    def shared(self) -> SharedSubspace:
        """The shared subspace that the states belong to."""
        return SharedSubspace.load(self.folder / _SHARED_FOLDER)

    @property
    def groups(self) -> dict[str, str]:
        """For each data set the group of those that share cells, named after the first of them.

        No split may separate the data sets of a group.
        """
        return group_overlapping({name: entry.overlaps for name, entry in self.entries.items()})

    def subspace(self, name: str) -> tuple[GenePanel, Subspace] | None:
        """Genes of a data set and their map to its states; None for a synthetic one."""
        folder = self._set_folder(name)
        file = folder / "subspace.safetensors"
        if not file.exists():
            return None
        panel, subspace = GenePanel.load(folder / "gene_panel.json"), Subspace(**load_file(file))
        with safe_open(file, framework="numpy") as tensors:
            digest = (tensors.metadata() or {}).get("genes", panel.digest)
        if len(panel) != len(subspace.gene_mean) or panel.digest != digest:
            expected = f"the {len(subspace.gene_mean)} genes that it was fitted to, in order"
            raise InputError(str(folder), expected, "others", "remove the data set, add it again")
        return panel, subspace

    def add_anndata(
        self,
        name: str,
        adata: AnnData | Sequence[AnnData],
        *,
        time_key: str | TimeKey = "time",
        genes: GeneOptions | None = None,
        provenance: Mapping[str, Any] | None = None,
        progress: bool = False,
    ) -> None:
        """Project a data set and add it. The others are left as they are.

        Cells are read twice, in chunks: for the moments of genes, and to be projected (once more in
        the mode "shared"). What stays in memory is 0.6 kB a cell.

        Parameters
        ----------
        name : str
            Of the data set; those that are there are refused.
        adata : AnnData or sequence of AnnData
            In memory or backed; several are files of one time course, with the same genes.
            `uns["overlaps"]` names data sets that share cells with it.
        time_key : str
            Column of `obs` with the time of each cell.
        genes : GeneOptions, optional
            How its genes are read.
        provenance : mapping, optional
            Source, licence and checksum, for the manifest.
        progress : bool
            Whether to show a progress bar.
        """
        self.require_new(name)
        adatas = list(adata) if isinstance(adata, Sequence) else [adata]
        source, cell_times = read_several(adatas, time_key)
        options = SpaceOptions(self.subspace_mode, self.shared, genes or GeneOptions())
        n_dims, moments = None, None

        def read(what: str) -> Iterator[Matrix]:
            return shown(source.chunks(), source.shape[0], f"{name}: {what}", progress)

        if source.is_embedding:
            n_dims = self.latent_dim
        else:
            moments = own_moments(read("moments"), max(_COMPONENTS, self.latent_dim))
        space = LatentSpace.fit(source, cell_times, options, n_dims=n_dims, moments=moments)
        detailed = LatentSpace.fit(source, cell_times, n_dims=_COMPONENTS, moments=moments)
        projections = [fitted.projection(source, genes) for fitted in (space, detailed)]
        parts = [[project(chunk) for project in projections] for chunk in read("states")]
        states, components = (np.concatenate(states) for states in zip(*parts, strict=True))
        components *= np.linalg.norm(detailed.subspace.loadings, axis=0)
        overlaps = {str(other) for part in adatas for other in part.uns.get("overlaps", ())}
        self.add_course(
            name,
            TimeCourse.from_cells(states, cell_times),
            overlaps=sorted(overlaps),
            provenance=provenance,
            space=space,
            components=TimeCourse.from_cells(components, cell_times),
        )

    def add_course(
        self,
        name: str,
        course: TimeCourse,
        *,
        overlaps: Iterable[str] = (),
        synthetic: bool = False,
        provenance: Mapping[str, Any] | None = None,
        space: LatentSpace | None = None,
        components: TimeCourse | None = None,
    ) -> None:
        """Add a time course of latent states, with at most the dimensions of the corpus.

        `components` are the same cells in more dimensions, see :class:`CorpusSet`.
        """
        if course.latent_dim > self.latent_dim:
            raise InputError(
                name, f"at most {self.latent_dim} dimensions", course.latent_dim, "drop some"
            )
        states = {"z": padded_states(course, self.latent_dim)}
        if components is not None:
            states["components"] = np.concatenate(components.snapshots).astype(np.float32)
        folder = self._set_folder(name)
        with self._changing():
            self.require_new(name)
            shutil.rmtree(folder, ignore_errors=True)  # what a killed call left
            write_states(arrow_table(states), folder / _STATES_FILE)
            if space is not None:
                padded = space.subspace.padded(self.latent_dim)
                genes = {"genes": space.panel.digest}
                save_file(dict(vars(padded)), folder / "subspace.safetensors", genes)
                space.panel.save(folder / "gene_panel.json")
            about = {"synthetic": synthetic, "provenance": dict(provenance or {})}
            self.entries[name] = entry_of(name, course, overlaps=list(overlaps), **about)

    def require_new(self, name: str) -> None:
        """Refuse the name of a data set that is there."""
        if name in self.entries:
            raise InputError("data set", "a new name", name, "remove it first, or rename it")

    def _require_known(self, name: str) -> None:
        """Refuse a data set that is not there."""
        if name not in self.entries:
            known = listed(self.entries) or "none"
            raise InputError("data set", f"one of {known}", name, "choose one of those")

    def remove(self, name: str) -> None:
        """Remove a data set."""
        with self._changing():
            self._require_known(name)
            del self.entries[name]
        self._open.pop(name, None)
        shutil.rmtree(self._set_folder(name))

    def to_parquet(self, folder: str | Path) -> None:
        """Write the corpus in the form of a data set repository of the Hub, to an empty folder.

        Parquet files in data/, one for each data set, which is a configuration of that name for
        `datasets.load_dataset`; the manifest, subspaces and gene panels beside them, and a card.
        """
        folder = Path(folder)
        _require_empty(folder)
        (folder / "data").mkdir(parents=True, exist_ok=True)
        for name in self.entries:
            self._table(name).to_parquet(folder / "data" / f"{_file_name(name)}.parquet")
            ignored = shutil.ignore_patterns(_STATES_FILE)
            target = folder / "sets" / _file_name(name)
            shutil.copytree(self._set_folder(name), target, ignore=ignored, dirs_exist_ok=True)
        shutil.copy(self.folder / _MANIFEST_FILE, folder)
        if (self.folder / _SHARED_FOLDER).exists():
            shutil.copytree(
                self.folder / _SHARED_FOLDER, folder / _SHARED_FOLDER, dirs_exist_ok=True
            )
        corpus_card(self.entries.values(), self.latent_dim).save(folder / "README.md")

    @classmethod
    def from_parquet(cls, source: str | Path, folder: str | Path) -> Corpus:
        """Read what :meth:`to_parquet` wrote to `source` into a new corpus in `folder`."""
        from datasets import Dataset

        source, folder = Path(source), Path(folder)
        if not (source / _MANIFEST_FILE).is_file():
            raise InputError(str(source), "a corpus", f"no {_MANIFEST_FILE}", "correct the path")
        names = cls(source).entries
        _require_empty(folder)
        for pattern in _SHARED_PATTERNS:  # nothing else that a stranger's repository may hold
            for file in sorted(source.glob(pattern)):
                target = folder / file.relative_to(source)
                target.parent.mkdir(parents=True, exist_ok=True)
                if file.name != _MANIFEST_FILE or file.parent != source:
                    shutil.copyfile(file, target)
        for name in names:
            table = Dataset.from_parquet(str(source / "data" / f"{_file_name(name)}.parquet"))
            write_states(table.data.table, folder / "sets" / _file_name(name) / _STATES_FILE)
        # the manifest last: without it there is no corpus
        shutil.copyfile(source / _MANIFEST_FILE, folder / _MANIFEST_FILE)
        return cls(folder)

    def push_to_hub(self, repo_id: str, *, private: bool = True, token: str | None = None) -> None:
        """Upload the corpus as parquet to a repository of the Hub; a new one is private."""
        import tempfile

        from huggingface_hub import HfApi

        api = HfApi(token=token)
        with tempfile.TemporaryDirectory() as folder, explained_errors(repo_id, "write"):
            self.to_parquet(folder)
            api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
            api.upload_folder(repo_id=repo_id, folder_path=folder, repo_type="dataset")

    @classmethod
    def from_hub(
        cls,
        repo_id: str,
        folder: str | Path,
        *,
        revision: str | None = None,
        token: str | None = None,
    ) -> Corpus:
        """Download a corpus from a data set repository of the Hub to `folder`."""
        from huggingface_hub import snapshot_download

        with explained_errors(repo_id, "read"):
            wanted = [*_SHARED_PATTERNS, "data/*.parquet"]
            about: dict[str, Any] = {"repo_type": "dataset", "revision": revision, "token": token}
            snapshot = snapshot_download(repo_id, allow_patterns=wanted, **about)
        return cls.from_parquet(snapshot, folder)

    def _manifest(self) -> dict[str, Any]:
        """Settings, and data sets by name, as they are on disk now."""
        place = str(self.folder)
        try:
            content = read_json(self.folder / _MANIFEST_FILE)
            entries = [as_type(CorpusEntry, entry, place) for entry in content["sets"]]
            return {
                "latent_dim": as_type(int, content["latent_dim"], place),
                "subspace_mode": as_type(str, content["subspace_mode"], place),
                "sets": {_file_name(entry.name): entry for entry in entries},
            }
        except (TypeError, KeyError) as error:
            raise InputError(
                place, "the manifest of a corpus", f"another ({error})", "correct the path"
            ) from error

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """A block in which nobody else adds or removes; what others have done is known in it."""
        with locked(self.folder):
            self.entries = self._manifest()["sets"]
            yield
            self._save()

    def _table(self, name: str) -> Dataset:
        """The cells of a data set, memory-mapped."""
        from datasets import Dataset

        return Dataset.from_file(str(self._set_folder(name) / _STATES_FILE))

    def _set_folder(self, name: str) -> Path:
        """Where the files of a data set lie."""
        return self.folder / "sets" / _file_name(name)

    def _save(self) -> None:
        """Write the manifest with another entry."""
        settings = {"latent_dim": self.latent_dim, "subspace_mode": self.subspace_mode}
        _write_manifest(self.folder, settings, list(self.entries.values()))


def group_overlapping(overlaps: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """For each data set the first one that it shares cells with, directly or through others.

    Examples
    --------
    >>> group_overlapping({"a": [], "b": ["c"], "c": [], "d": ["c"]})
    {'a': 'a', 'b': 'b', 'c': 'b', 'd': 'b'}
    """
    group = {name: name for name in overlaps}
    for name, others in overlaps.items():
        for other in others:
            if other in group:
                merged = {group[name], group[other]}
                first = next(name for name in overlaps if group[name] in merged)
                group = {
                    name: group[first] if its_group in merged else its_group
                    for name, its_group in group.items()
                }
    return group


def _file_name(name: str) -> str:
    """A name of a data set that is a name of a folder too."""
    plain = isinstance(name, str) and name.strip(".") != ""  # "." and ".." are folders
    if not plain or any(not (letter.isalnum() or letter in "._-") for letter in name):
        raise InputError(
            "data set name", "letters, digits, '.', '_' and '-'", repr(name), "rename it"
        )
    return name


def _require_empty(folder: Path) -> None:
    """Refuse a folder in which anything but the beginning of a corpus would be overwritten."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(str(folder), "a folder, or nothing yet", "a file", "name another one")
    others = sorted({path.name for path in folder.iterdir()} - {_SHARED_FOLDER, "sets"})
    if others:
        actual = f"other files, such as {others[0]}"
        raise InputError(str(folder), "an empty folder", actual, "name another one")


def _write_manifest(folder: Path, settings: dict[str, Any], entries: list[CorpusEntry]) -> None:
    """Whole or not at all."""
    content = {**settings, "sets": [asdict(entry) for entry in entries]}
    partial = folder / f"{_MANIFEST_FILE}.partial"
    partial.write_text(json.dumps(content, indent=1))
    os.replace(partial, folder / _MANIFEST_FILE)
