"""Checkpoints on disk: written whole or not at all, and checked before they are read."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download
from safetensors import SafetensorError, safe_open

from .errors import InputError, listed

try:
    import fcntl
except ModuleNotFoundError:  # pragma: no cover (only POSIX has it)
    fcntl: Any = None  # type: ignore[no-redef]

MANIFEST_FILE = "manifest.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
SHARED_SUBSPACE_FILE = "shared_subspace.json"
SHARED_FILES = ["*.json", "*.safetensors", "*.md", "*.py"]  # nothing that could be a pickle

_FORMAT_VERSION = 1
_READY = ".ready"
_STATE_FOLDER = "training_state"  # see `training.loop`
_LOG_FOLDER = "cellmnn_fm"  # of trackers
_PATIENCE = 60  # seconds that one save waits for another
_MOST_HEADER = 2**23  # bytes of names and shapes in a file of weights; ours take kilobytes
_MOST_PROBLEMS = 20  # that a message names
_UNLISTED = {MANIFEST_FILE, "README.md"}  # cards are edited on the Hub


def bundled(name_or_path):
    """The folder of a model that comes with the package, if that is meant; else what was given.

    A local folder of that name goes first.
    """
    folder = Path(__file__).parent / "pretrained" / str(name_or_path)
    named = len(Path(name_or_path).parts) == 1 and not Path(name_or_path).exists()
    return folder if named and (folder / "config.json").is_file() else name_or_path


def find(name_or_path: str | Path, **download) -> tuple[Path, str | None]:
    """The folder of a checkpoint, and its commit where it comes from the Hub.

    A local folder, a model of this package, or a repository of the Hub, which is downloaded.

    Parameters
    ----------
    name_or_path : str or Path
        Of a folder, of the package, or on the Hub.
    **download
        As for `huggingface_hub.snapshot_download`: revision, token, cache_dir, local_files_only,
        force_download.

    Raises
    ------
    OSError, ValueError
        What the client says of repositories and networks.
    """
    folder = find_saved(bundled(name_or_path))
    if folder.is_dir():
        return folder, None
    if download.get("force_download"):
        # else what is in the cache would pass for new where the Hub does not answer
        api, revision = HfApi(token=download.get("token")), download.get("revision")
        api.model_info(str(name_or_path), revision=revision)
    downloaded = Path(snapshot_download(str(name_or_path), allow_patterns=SHARED_FILES, **download))
    return downloaded, downloaded.name  # the cache has a folder for each commit


@contextmanager
def whole_or_nothing(folder: str | Path) -> Iterator[Path]:
    """A new folder to write a checkpoint into, which takes the place of `folder` at the end.

    It lies beside `folder`, and gets a manifest of sizes and hashes. A process that is killed at
    any point leaves the old checkpoint or the new one: should it die between the two renames, the
    old one is read where it lies (:func:`find`), and put back by the next save (:func:`recover`). A
    folder that cannot be renamed, a mount point or the one that the process is in, gets the files
    one by one from a folder inside of it, and what is missing at the next save. Files that no
    manifest lists stay. Of several that save to the same place at once, one waits for the other;
    where `folder` is a link, it is written through.

    Raises
    ------
    InputError
        If something lies there that is no checkpoint, see :func:`require_replaceable`; it is left
        as it is. If another save does not come to its end.
    """
    target = Path(os.path.realpath(folder))
    require_replaceable(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target.parent):
        recover(target)
        require_replaceable(target)  # again: it may have come while another one saved
        stays = target.exists() and (os.path.ismount(target) or Path.cwd().is_relative_to(target))
        beside = target / ".saving" if stays else target.with_name(f".{target.name}.saving")
        shutil.rmtree(beside, ignore_errors=True)
        # one deeper: what is saved into it in turn locks a folder of its own
        staging = beside / target.name
        staging.mkdir(parents=True)
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
            beside.rmdir()
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            recover(target)
            raise
        recover(target)


def require_replaceable(folder: str | Path) -> None:
    """Refuse a place where something lies that no save of ours has left.

    Raises
    ------
    InputError
        Unless there is nothing, an empty folder, or one with a manifest of ours or the state of a
        training.
    """
    target = Path(folder)
    if not os.path.lexists(target):
        return
    if not target.is_dir():
        raise InputError(str(folder), "a folder, or nothing yet", "a file", "name another one")
    try:
        names = sorted(path.name for path in target.iterdir())
        if not names or is_saved(target) or _is_begun(target):
            return
        if names != sorted(path.name for path in target.iterdir()):
            return  # another save is at work: who writes looks again when it has the lock
    except FileNotFoundError:  # it is between its two renames
        return
    raise InputError(
        str(folder),
        "an empty folder, or one of a saved model",
        f"other files, such as {names[0]}",
        "name another one: those are left as they are",
    )


def is_saved(folder: Path) -> bool:
    """Whether it has a manifest of ours, or a file from before there were manifests."""
    try:
        if _listed_files(folder) or (folder / SHARED_SUBSPACE_FILE).is_file():
            return True
        config = _read_json(folder / "config.json")
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("model_type") == "cellmnn"


def _is_begun(target: Path) -> bool:
    """Whether a training, or a save that was killed half way, has left all that is there."""
    ready = target / _READY
    coming = set(_listed_files(ready)) if _is_plain_folder(ready) else set()
    begun = {_STATE_FOLDER, _LOG_FOLDER, ".saving", _READY, *coming}
    return {path.name for path in target.iterdir()} <= begun


@contextmanager
def locked(folder: Path, *, shared: bool = False, patience: float = _PATIENCE) -> Iterator[None]:
    """The folder locked, for one that writes or several that read; gone with the process.

    Raises
    ------
    InputError
        If another one has it for longer than `patience`, in seconds.
    """
    try:
        descriptor = None if fcntl is None else os.open(folder, os.O_RDONLY)
    except OSError:
        descriptor = None
    if descriptor is None:
        yield
        return
    try:
        _wait_for_lock(descriptor, folder, shared, patience)
        yield
    finally:
        os.close(descriptor)


def _wait_for_lock(descriptor: int, folder: Path, shared: bool, patience: float) -> None:
    """Try until the lock is free, or patience is over."""
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise InputError(
                    str(folder),
                    "that nobody else writes there now",
                    "another process or thread that does",
                    "wait for it, or name another folder",
                ) from None
            time.sleep(0.02)
        except OSError:  # a file system without locks
            return


def recover(folder: str | Path) -> None:
    """Finish what a save that was killed half way has left, if anything; for those that save."""
    target = Path(os.path.realpath(folder))
    replaced, ready = _replaced(target), target / _READY
    if _is_plain_folder(ready):
        coming = _listed_files(ready)
        for name in set(_listed_files(target)) - set(coming) if coming else ():
            inside(target, name).unlink(missing_ok=True)
        # the manifest last: until then it is known what is to be done
        for path in sorted(ready.iterdir(), key=lambda path: path.name == MANIFEST_FILE):
            os.replace(path, target / path.name)
        ready.rmdir()
    if not _is_plain_folder(replaced):
        return
    if not target.exists():
        replaced.rename(target)
        return
    listed = {*_listed_files(replaced), *_UNLISTED}
    for path in sorted(replaced.iterdir()):
        if path.name not in listed and not (target / path.name).exists():
            path.rename(target / path.name)
    shutil.rmtree(replaced)


def find_saved(folder: str | Path) -> Path:
    """Where the files of a folder are: there, unless a save was killed half way.

    Nothing is changed: it may be somebody else's, and the next save puts it in order.
    """
    folder = Path(folder)
    target = Path(os.path.realpath(folder))
    replaced, ready = _replaced(target), target / _READY
    if not target.exists() and _is_plain_folder(replaced) and is_saved(replaced):
        return replaced
    if not _is_plain_folder(ready) or not (coming := _listed_files(ready)):
        return folder
    # some of its files are in their place, the others not yet
    together = Path(tempfile.mkdtemp(prefix="cellmnn-"))
    atexit.register(shutil.rmtree, together, ignore_errors=True)
    for name in [*coming, *_UNLISTED]:
        for place in (inside(ready, name), inside(target, name)):
            if place.is_file() and not place.is_symlink():
                shutil.copy(place, together / name)
                break
    return together


def _is_plain_folder(path: Path) -> bool:
    """Whether it is a folder and no link to one."""
    return path.is_dir() and not path.is_symlink()


def verify(folder: Path) -> None:
    """Compare the files of a checkpoint with its manifest, where it has one.

    Raises
    ------
    InputError
        On files that are missing, cut short, or of another hash, by name; and on names and links
        that lead out of the folder.
    """
    for name, expected in _listed_files(folder).items():
        path = inside(folder, name)
        if not path.is_file():
            raise _problem(path, "a file of the checkpoint", "nothing")
        if (size := path.stat().st_size) != expected["size"]:
            raise _problem(path, f"{expected['size']} bytes", f"{size}")
        with path.open("rb") as file:
            actual = _hash(file)
        if actual != expected["sha256"]:
            raise _problem(path, f"sha256 {expected['sha256']}", actual)
    for pattern in SHARED_FILES:  # those that no manifest lists are read too
        for path in folder.glob(pattern):
            inside(folder, path.name)


def weights_hash(folder: Path) -> str:
    """The sha256 of the weights; as the manifest has it, which loading compares with the file."""
    files = weight_files(folder)
    if len(files) == 1 and (listed := _listed_files(folder).get(files[0].name)):
        return listed["sha256"]
    digest = sha256()
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def require_tensors(folder: Path, expected: Mapping[str, Sequence[int]]) -> None:
    """Refuse weights that do not fit a model, before anything is allocated for them.

    Parameters
    ----------
    folder : Path
        With the weights.
    expected : mapping
        Shape of every tensor, by name.

    Raises
    ------
    InputError
        On tensors that are missing, unexpected or of another shape; it lists them.
    """
    shapes = tensor_shapes(folder)
    problems = [f"missing {name}" for name in sorted(set(expected) - set(shapes))]
    problems += [f"unexpected {name}" for name in sorted(set(shapes) - set(expected))]
    problems += [
        f"{name} of shape {shapes[name]} in place of {tuple(expected[name])}"
        for name in sorted(set(shapes) & set(expected))
        if shapes[name] != tuple(expected[name])
    ]
    if problems:
        raise InputError(
            f"weights of {folder}",
            "the tensors that its configuration describes",
            listed(problems, _MOST_PROBLEMS),
            "load the configuration that was saved with them",
        )


def tensor_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor in the weights of a checkpoint, without reading them.

    Raises
    ------
    InputError
        If there are no weights, or they cannot be read.
    """
    shapes = {}
    for path in weight_files(folder):
        if not path.is_file():
            raise _problem(path, "a file of weights", "nothing")
        with path.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
        if header > _MOST_HEADER:
            raise _problem(path, "safetensors", f"a header of {header} bytes")
        try:
            with safe_open(path, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (not a mapping)
                    shapes[name] = tuple(tensors.get_slice(name).get_shape())
        except SafetensorError as error:
            raise _problem(path, "safetensors", f"{error}") from error
    return shapes


def weight_files(folder: Path) -> list[Path]:
    """The file of the weights, or all of them where they are sharded."""
    index = folder / INDEX_FILE
    if not index.is_file():
        return [folder / WEIGHTS_FILE]
    content = _read_json(index)
    names = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise _problem(index, "the files of the weights", "something else")
    return [inside(folder, name) for name in sorted(set(names.values()))]


def inside(folder: Path, name: str) -> Path:
    """The path of a file of a checkpoint.

    Raises
    ------
    InputError
        If it leads out of the folder, which a checkpoint of somebody else may try, by its name or
        as a link. Files of the Hub's cache are links to those beside their folder.
    """
    fix = "do not trust this checkpoint"
    if name in ("", ".", "..") or "/" in name or "\\" in name:
        raise InputError(str(folder), "names of files in it", repr(name), fix)
    path, home = folder / name, Path(os.path.realpath(folder))
    if path.is_symlink():
        place = Path(os.path.realpath(path)).parent
        cached = home.parents[1] / "blobs" if home.parent.name == "snapshots" else home
        if place not in (home, cached):
            raise InputError(str(folder), "files in it", f"{name}, a link to {place}", fix)
    return path


def _listed_files(folder: Path) -> dict[str, dict]:
    """Size and hash of each file of the manifest; none without a manifest."""
    manifest = folder / MANIFEST_FILE
    if not manifest.is_file():
        return {}
    content = _read_json(manifest)
    version = content.get("format_version") if isinstance(content, dict) else None
    files = content.get("files") if isinstance(content, dict) else None
    well_formed = isinstance(files, dict) and all(
        isinstance(file, dict) and {"size", "sha256"} <= set(file) for file in files.values()
    )
    if not isinstance(version, int) or not well_formed:
        raise _problem(manifest, "a manifest", "something else")
    if version > _FORMAT_VERSION:
        raise InputError(
            str(manifest),
            f"format_version at most {_FORMAT_VERSION}",
            version,
            "upgrade cellmnn_fm",
        )
    return content["files"]


def _write_manifest(folder: Path) -> None:
    """Size and hash of every file that is read back."""
    files = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name not in _UNLISTED:
            with path.open("rb") as file:
                files[path.name] = {"size": path.stat().st_size, "sha256": _hash(file)}
    content = {"format_version": _FORMAT_VERSION, "files": files}
    (folder / MANIFEST_FILE).write_text(json.dumps(content, indent=1))


def _hash(file) -> str:
    """The sha256 of an open file."""
    digest = sha256()
    while block := file.read(2**20):
        digest.update(block)
    return digest.hexdigest()


def _read_json(path: Path):
    """JSON of a file; an error that names it."""
    try:
        return json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise _problem(path, "JSON", f"{error}") from error


def _replaced(target: Path) -> Path:
    """Where what is replaced waits until the new one is there."""
    return target.with_name(f".{target.name}.replaced")


def _sync(folder: Path) -> None:
    """Have all files on the disk before the renames are, and readable for those who may."""
    mode = (folder / MANIFEST_FILE).stat().st_mode
    for path in [*folder.rglob("*")]:
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
            path.chmod(mode)  # as other files are: safetensors leaves weights for their owner alone
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder last."""
    if os.name == "posix":  # elsewhere folders cannot be opened
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _problem(path: Path, expected: str, found: str) -> InputError:
    """An error about a file of a checkpoint."""
    return InputError(str(path), expected, found, "save or download the checkpoint again")
