"""Where a saved pipeline is: a folder, in this package, or on the Hub."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from .configuration_cellmnn import bundled
from .errors import InputError

WEIGHTS_FILE = "model.safetensors"


def locate(name_or_path: str | Path) -> tuple[Path, str | None]:
    """The folder of a saved pipeline, and its revision where it comes from the Hub.

    Raises
    ------
    InputError
        If there is no such folder, model of this package or model of the Hub.
    """
    folder = Path(bundled(name_or_path))
    if folder.is_dir():
        return folder, None
    from huggingface_hub import snapshot_download

    try:
        downloaded = Path(snapshot_download(str(name_or_path)))
    except (OSError, ValueError) as error:  # whatever the client says of names and networks
        raise InputError(
            str(name_or_path),
            "a folder, cellmnn-base, or a model of the Hub",
            f"none of them ({error})",
            "correct the name",
        ) from error
    return downloaded, downloaded.name  # the cache has a folder for each commit


def origin(name_or_path: str | Path, folder: Path, revision: str | None) -> dict[str, str | None]:
    """What a fine-tuned model remembers of its base: name, revision, and hash of the weights.

    Of a local folder only the last part is kept.
    """
    local = revision is None
    return {
        "name": Path(name_or_path).name if local else str(name_or_path),
        "revision": revision,
        "sha256": sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest(),
    }
