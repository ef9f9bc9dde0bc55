"""Checkpoints on disk: written whole or not at all, and checked before they are read."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open

MANIFEST_FILE = "manifest.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
SHARED_FILES = ["*.json", "*.safetensors", "*.md", "*.py"]  # nothing that could be a pickle

_FORMAT_VERSION = 1
_READY = ".ready"
_UNLISTED = {MANIFEST_FILE, "README.md"}  # cards are edited on the Hub


def bundled(name_or_path):
    """The folder of a model that comes with the package, if that is meant; else what was given.

    A local folder of that name goes first.
    """
    folder = Path(__file__).parent / "models" / str(name_or_path)
    named = len(Path(name_or_path).parts) == 1 and not Path(name_or_path).exists()
    return folder if named and (folder / "config.json").is_file() else name_or_path


def find(name_or_path: str | Path, **download) -> tuple[Path, str | None]:
    """The folder of a checkpoint, and its commit where it comes from the Hub.

    A local folder, a model of this package, or a repository of the Hub, which is downloaded.

    Parameters
    ----------
    name_or_path : str or Path
    **download
        As for `huggingface_hub.snapshot_download`: revision, token, cache_dir, local_files_only,
        force_download.

    Raises
    ------
    OSError, ValueError
        What the client says of repositories and networks.
    """
    folder = Path(bundled(name_or_path))
    recover(folder)
    if folder.is_dir():
        return folder, None
    downloaded = Path(snapshot_download(str(name_or_path), allow_patterns=SHARED_FILES, **download))
    return downloaded, downloaded.name  # the cache has a folder for each commit


@contextmanager
def whole_or_nothing(folder: str | Path) -> Iterator[Path]:
    """A new folder to write a checkpoint into, which takes the place of `folder` at the end.

    It lies beside `folder`, and gets a manifest of sizes and hashes. A process that is killed at
    any point leaves the old checkpoint or the new one: should it die between the two renames, the
    next save or load puts the old one back (:func:`recover`). A folder that cannot be renamed, a
    mount point or the one that the process is in, gets the files one by one from a folder inside
    of it, and what is missing at the next save or load. Files that no manifest lists stay.
    """
    target = Path(os.path.abspath(folder))
    recover(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    stays = target.exists() and (os.path.ismount(target) or Path.cwd().is_relative_to(target))
    staging = target / ".saving" if stays else target.with_name(f".{target.name}.saving")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    try:
        yield staging
        _write_manifest(staging)
        _sync(staging)
        if stays:
            staging.rename(target / _READY)
        else:
            if target.exists():
                target.rename(_replaced(target))
            staging.rename(target)
            _sync_folder(target.parent)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        recover(target)
        raise
    recover(target)


def recover(folder: str | Path) -> None:
    """Finish what a save that was killed half way has left, if anything."""
    target = Path(os.path.abspath(folder))
    replaced, ready = _replaced(target), target / _READY
    if ready.exists():
        coming = _listed_files(ready)
        for name in set(_listed_files(target)) - set(coming) if coming else ():
            inside(target, name).unlink(missing_ok=True)
        # the manifest last: until then it is known what is to be done
        for path in sorted(ready.iterdir(), key=lambda path: path.name == MANIFEST_FILE):
            os.replace(path, target / path.name)
        ready.rmdir()
    if not replaced.exists():
        return
    if not target.exists():
        replaced.rename(target)
        return
    listed = {*_listed_files(replaced), *_UNLISTED}
    for path in sorted(replaced.iterdir()):
        if path.name not in listed and not (target / path.name).exists():
            path.rename(target / path.name)
    shutil.rmtree(replaced)


def verify(folder: Path) -> None:
    """Compare the files of a checkpoint with its manifest, where it has one.

    Raises
    ------
    ValueError
        On files that are missing, cut short, or of another hash, by name; and on names that lead
        out of the folder.
    """
    for name, expected in _listed_files(folder).items():
        path = inside(folder, name)
        if not path.is_file():
            raise ValueError(_problem(path, "a file of the checkpoint", "nothing"))
        if (size := path.stat().st_size) != expected["size"]:
            raise ValueError(_problem(path, f"{expected['size']} bytes", f"{size}"))
        with path.open("rb") as file:
            found = _hash(file)
        if found != expected["sha256"]:
            raise ValueError(_problem(path, f"sha256 {expected['sha256']}", found))


def require_tensors(folder: Path, expected: Mapping[str, Sequence[int]]) -> None:
    """Refuse weights that do not fit a model, before anything is allocated for them.

    Parameters
    ----------
    folder : Path
    expected : mapping
        Shape of every tensor, by name.

    Raises
    ------
    ValueError
        On tensors that are missing, unexpected or of another shape; it lists them.
    """
    found = tensor_shapes(folder)
    problems = [f"missing {name}" for name in sorted(set(expected) - set(found))]
    problems += [f"unexpected {name}" for name in sorted(set(found) - set(expected))]
    problems += [
        f"{name} of shape {found[name]} in place of {tuple(expected[name])}"
        for name in sorted(set(found) & set(expected))
        if found[name] != tuple(expected[name])
    ]
    if problems:
        raise ValueError(
            f"weights of {folder}: expected the tensors that its configuration describes, "
            f"found {', '.join(problems)}; load the configuration that was saved with them"
        )


def tensor_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor in the weights of a checkpoint, without reading them.

    Raises
    ------
    ValueError
        If there are no weights, or they cannot be read.
    """
    shapes = {}
    for path in weight_files(folder):
        if not path.is_file():
            raise ValueError(_problem(path, "a file of weights", "nothing"))
        try:
            with safe_open(path, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (not a mapping)
                    shapes[name] = tuple(tensors.get_slice(name).get_shape())
        except SafetensorError as error:
            raise ValueError(_problem(path, "safetensors", f"{error}")) from error
    return shapes


def weight_files(folder: Path) -> list[Path]:
    """The file of the weights, or all of them where they are sharded."""
    index = folder / INDEX_FILE
    if not index.is_file():
        return [folder / WEIGHTS_FILE]
    names = sorted(set(_read_json(index)["weight_map"].values()))
    return [inside(folder, name) for name in names]


def inside(folder: Path, name: str) -> Path:
    """The path of a file of a checkpoint.

    Raises
    ------
    ValueError
        If it leads out of the folder, which a checkpoint of somebody else may try.
    """
    relative = Path(name)
    if relative.is_absolute() or ".." in relative.parts or "\\" in name:
        raise ValueError(
            f"{folder}: expected names of files in it, found {name!r}; do not trust this checkpoint"
        )
    return folder / relative


def _listed_files(folder: Path) -> dict[str, dict]:
    manifest = folder / MANIFEST_FILE
    if not manifest.is_file():
        return {}
    content = _read_json(manifest)
    version = content.get("format_version") if isinstance(content, dict) else None
    if not isinstance(version, int) or not isinstance(content.get("files"), dict):
        raise ValueError(_problem(manifest, "a manifest", "something else"))
    if version > _FORMAT_VERSION:
        raise ValueError(
            f"{manifest}: expected format_version at most {_FORMAT_VERSION}, found {version}; "
            "upgrade cellmnn_fm"
        )
    return content["files"]


def _write_manifest(folder: Path) -> None:
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in _UNLISTED:
            with path.open("rb") as file:
                files[name] = {"size": path.stat().st_size, "sha256": _hash(file)}
    content = {"format_version": _FORMAT_VERSION, "files": files}
    (folder / MANIFEST_FILE).write_text(json.dumps(content, indent=1))


def _hash(file) -> str:
    digest = sha256()
    while block := file.read(2**20):
        digest.update(block)
    return digest.hexdigest()


def _read_json(path: Path):
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(_problem(path, "JSON", f"{error}")) from error


def _replaced(target: Path) -> Path:
    return target.with_name(f".{target.name}.replaced")


def _sync(folder: Path) -> None:
    """Have all files on the disk before the renames are."""
    for path in [*folder.rglob("*")]:
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":  # elsewhere folders cannot be opened
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _problem(path: Path, expected: str, found: str) -> str:
    return f"{path}: expected {expected}, found {found}; save or download the checkpoint again"
