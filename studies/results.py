"""What studies found: a line of JSON for each piece, a table and a figure beside it."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

RESULTS = Path(__file__).parents[1] / "results"

Key = tuple[str, ...]


class Results:
    """The results of a study, by key: of a data set, a method, a size.

    They lie in NAME.jsonl. Lines are added as pieces are done, by any number of processes; one that
    was cut short by a kill is not read, so that its piece is run again.

    Parameters
    ----------
    name : str
        Of the study, without spaces.
    folder : path, optional
        In place of results/.

    Examples
    --------
    >>> import tempfile
    >>> results = Results("example", Path(tempfile.mkdtemp()))
    >>> results.keep({"w1": 0.5}, "emt_a549", "default")
    >>> results.read()
    {('emt_a549', 'default'): {'w1': 0.5}}
    """

    def __init__(self, name: str, folder: Path | None = None):
        self.name, self._folder = name, folder or RESULTS

    def path(self, suffix: str) -> Path:
        """NAME with a suffix, such as ".png"."""
        return self._folder / f"{self.name}{suffix}"

    def read(self) -> dict[Key, Any]:
        """All that is there; of lines with the same key the last one."""
        results: dict[Key, Any] = {}
        file = self.path(".jsonl")
        for line in file.read_text().splitlines() if file.exists() else ():
            try:
                content = json.loads(line)
                results[tuple(content["key"])] = content["result"]
            except (json.JSONDecodeError, KeyError):  # cut short
                continue
        return results

    def keep(self, result: Any, *key: object) -> None:
        """Add the result of a piece."""
        file = self.path(".jsonl")
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("ab+") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            stream.seek(0)
            cut_short = (content := stream.read()) and not content.endswith(b"\n")
            line = json.dumps({"key": list(map(str, key)), "result": result}) + "\n"
            stream.write((b"\n" if cut_short else b"") + line.encode())

    def replace(self, results: Mapping[Any, Any]) -> None:
        """In place of all that was there; keys are strings, numbers or tuples of these."""
        self.path(".jsonl").unlink(missing_ok=True)
        for key, result in results.items():
            self.keep(result, *(key if isinstance(key, tuple) else (key,)))

    def show(self, text: str) -> None:
        """Print a table, and keep it as Markdown."""
        print(text)
        self.path(".md").parent.mkdir(parents=True, exist_ok=True)
        self.path(".md").write_text(text.rstrip("\n") + "\n")

    def draw(self, figure: Figure) -> None:
        """Keep a figure."""
        figure.savefig(self.path(".png"), dpi=120)
