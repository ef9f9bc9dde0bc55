"""Where saved pipelines are: folders, this package, the Hub; and how they get there."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import (
    CacheNotFound,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from .checkpoint import SHARED_FILES, find, weights_hash
from .errors import InputError

# of the HTTP library, which differs between versions of the client
_HTTPError: Any = HfHubHTTPError.__bases__[0]
_CLIENT_ERRORS: tuple[Any, ...] = (
    *(OSError, ValueError, RuntimeError),  # the latter is what a broken upload ends in
    *(EntryNotFoundError, _HTTPError),
)


@dataclass(frozen=True)
class AvailableModel:
    """A model that can be loaded without a network.

    Attributes
    ----------
    name : str
        For `from_pretrained`.
    where : {"package", "cache"}
        Whether it comes along, or was downloaded.
    revision : str, optional
        Commit on the Hub.
    megabytes : float
        On disk.
    """

    name: str
    where: str
    revision: str | None
    megabytes: float


def locate(name_or_path: str | Path, **download) -> tuple[Path, str | None]:
    """The folder of a saved pipeline, and its commit where it comes from the Hub.

    Parameters
    ----------
    name_or_path : str or Path
        Of a folder, of the package, or on the Hub.
    **download
        See :func:`cellmnn_fm.model.checkpoint.find`.

    Raises
    ------
    InputError
        If there is no such folder, model of this package or model of the Hub, or it cannot be
        reached; says which.
    """
    if Path(name_or_path).is_file():
        actual = f"a file, {name_or_path}"
        raise InputError(
            "model", "a folder, or a name", actual, "give the model first, then a file"
        )
    with explained_errors(str(name_or_path), "read"):
        try:
            return find(name_or_path, **download)
        except _HTTPError as error:
            if isinstance(error, HfHubHTTPError) or download.get("force_download"):
                raise
            try:  # the connection broke, which the client does not take for a missing one
                return find(name_or_path, **{**download, "local_files_only": True})
            except LocalEntryNotFoundError:
                raise error from None


def upload(
    save: Callable[[Path], None],
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str | None = None,
    revision: str | None = None,
) -> str:
    """Upload a checkpoint as one commit, which is there as a whole or not at all.

    Parameters
    ----------
    save : callable
        Writes the checkpoint to a folder.
    repo_id : str
        "user/name"; made if it is not there. Files of an earlier checkpoint that this one does not
        have are removed.
    private : bool, optional
        Of a repository that is made now: private, unless this is False.
    token, commit_message, revision
        As for `huggingface_hub.upload_folder`.

    Returns
    -------
    str
        Address of the commit.

    Raises
    ------
    InputError
        Without a token that may write there, and if the Hub cannot be reached.
    """
    api = huggingface_hub.HfApi(token=token)
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "checkpoint"
        save(folder)
        with explained_errors(repo_id, "write"):
            api.create_repo(repo_id, private=private is not False, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                commit_message=commit_message or "Upload a Cell-MNN checkpoint",
                revision=revision,
                allow_patterns=SHARED_FILES,
                delete_patterns=SHARED_FILES,
            )
    return commit.commit_url


def available() -> list[AvailableModel]:
    """Models that come with the package, and those of the Hub that are in the cache."""
    package = Path(__file__).parent / "pretrained"
    models = [
        AvailableModel(config.parent.name, "package", None, _megabytes(config.parent))
        for config in sorted(package.glob("*/config.json"))
    ]
    cache = Path(constants.HF_HUB_CACHE)
    if cache.is_dir():
        try:
            repos = huggingface_hub.scan_cache_dir(cache).repos
        except (OSError, ValueError, CacheNotFound):
            warnings.warn(f"the cache at {cache} cannot be read, and is left out", stacklevel=2)
            return models
        for repo in sorted(repos, key=lambda repo: repo.repo_id):
            for revision in sorted(repo.revisions, key=lambda one: -one.last_modified):
                if repo.repo_type == "model" and _is_ours(revision.snapshot_path):
                    size = revision.size_on_disk / 1e6
                    commit = revision.commit_hash
                    models.append(AvailableModel(repo.repo_id, "cache", commit, round(size, 1)))
    return models


def origin(name_or_path: str | Path, folder: Path, revision: str | None) -> dict[str, str | None]:
    """What a fine-tuned model remembers of its base: name, revision, and hash of the weights.

    Of a local folder only the last part is kept.
    """
    local = revision is None
    return {
        "name": Path(name_or_path).name if local else str(name_or_path),
        "revision": revision,
        "sha256": weights_hash(folder),
    }


@contextmanager
def explained_errors(name: str, what: Literal["read", "write"]) -> Iterator[None]:
    """What the client raises about a repository becomes an InputError that says what to do."""
    try:
        yield
    except InputError:
        raise
    except _CLIENT_ERRORS as error:
        raise _explained(error, name, what) from error


def _is_ours(folder: Path) -> bool:
    """Whether a folder holds a model of this kind."""
    try:
        return json.loads((folder / "config.json").read_text()).get("model_type") == "cellmnn"
    except (OSError, ValueError):
        return False


def _megabytes(folder: Path) -> float:
    """Of the files in a folder."""
    return round(sum(path.stat().st_size for path in folder.iterdir()) / 1e6, 1)


def _explained(error: Exception, name: str, what: str) -> InputError:
    """What the client says of names, tokens and networks, in one line."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled) or (
        constants.HF_HUB_OFFLINE and isinstance(error, ConnectionError)
    ):
        why = "offline" if constants.HF_HUB_OFFLINE else "out of reach of the Hub"
        return InputError(
            name, "a folder, cellmnn-base, or a model in the cache", why, "connect and try again"
        )
    if isinstance(error, RevisionNotFoundError):
        return InputError(f"{name}", "a revision of the model", "none of that name", "correct it")
    denied = isinstance(error, GatedRepoError | LocalTokenNotFoundError) or status in (401, 403)
    if denied and (what == "write" or not isinstance(error, RepositoryNotFoundError)):
        actual = "none, or one that may not" if status else "none"
        return InputError(
            f"token for {name}", f"one that may {what} there", actual, "hf auth login, or token="
        )
    if isinstance(error, RepositoryNotFoundError | HFValidationError | EntryNotFoundError):
        return InputError(
            name,
            "a folder, cellmnn-base, or a model of the Hub",
            "none of them, or a private one without a token that may read it",
            "correct the name, or hf auth login",
        )
    said = str(error).strip().splitlines()
    reason = f"{type(error).__name__}: {said[0] if said else ''}"
    if isinstance(error, (_HTTPError, ConnectionError, TimeoutError, RuntimeError)):
        return InputError(f"Hub, {name}", "an answer", reason, "try again: what is there is kept")
    return InputError(name, "a checkpoint", reason, "correct it, or download it again")
