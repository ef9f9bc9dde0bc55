"""What commands say: a line, a table or JSON; errors in one line."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from ..evaluation.evaluation import Evaluation

# heavy modules are imported inside the functions: --help must answer at once

# packages of optional dependencies
_EXTRAS = {"matplotlib": "plot", "datasets": "train", "peft": "train", "umap": "umap"}
_EXTRAS |= {"aiohttp": "remote"}

Columns = dict[str, Callable[[Any], str]]


@dataclass(frozen=True)
class Terminal:
    """Where a command says what it has to say.

    Attributes
    ----------
    as_json : bool
        All of it as JSON, for machines.
    quiet : bool
        Nothing but that, no progress bars and no notices.
    """

    as_json: bool = False
    quiet: bool = False

    @property
    def progress(self) -> bool:
        """Whether to show progress bars."""
        return not self.quiet

    @property
    def speaks(self) -> bool:
        """Whether words and tables are printed."""
        return not (self.as_json or self.quiet)

    def say(self, text: str, **content: Any) -> None:
        """A line for people, or `content` for machines."""
        if self.as_json:
            import json

            typer.echo(json.dumps(content, default=float))
        elif self.speaks:
            typer.echo(shown(text))

    def wrote(self, *files: Path | None) -> None:
        """Tell people which of these files there are now; None is one that nobody asked for."""
        if self.speaks:
            for file in files:
                if file is not None:
                    typer.echo(shown(f"{file}: written"))

    def table(self, title: str, rows: list[dict[str, Any]], columns: Columns) -> None:
        """Print rows for people, each column rendered by its function."""
        if self.speaks:
            print_table(title, rows, columns)


@contextmanager
def plain_errors(
    interrupted: str = "interrupted", *, quiet: bool = False, options: Iterable[str] = ()
) -> Iterator[None]:
    """Bad input ends in one line and exit code 2, a signal n in 128 + n; notices at the end.

    Names of `options` that Python has are said as the flags that they are here.
    """
    from ..data.notices import gathered
    from ..model.errors import InputError
    from ..training.interrupts import Interrupted, raised

    try:
        with raised(), gathered() as (notices, alarms):
            yield
        if not quiet:
            for kind, texts in {"note": notices, "warning": alarms}.items():
                for text in texts:
                    _complain(f"{kind}: {as_flags(text, options)}")
    except InputError as error:
        _complain(f"error: {as_flags(str(error), options)}")
        raise typer.Exit(2) from None
    except ImportError as error:
        if error.name not in _EXTRAS:
            raise
        fix = f"pip install 'cellmnn-fm[{_EXTRAS[error.name]}]'"
        _complain(f"error: {error.name}: expected the package, found none; {fix}")
        raise typer.Exit(2) from None
    except (OSError, MemoryError) as error:
        # what the system will not do: a full disk, a folder that went away, no memory
        reason = str(error) or "no memory left"
        _complain(f"error: system: expected to go on, found {reason}; make room, and try again")
        raise typer.Exit(2) from None
    except KeyboardInterrupt as error:
        typer.echo(interrupted, err=True)
        number = error.number if isinstance(error, Interrupted) else 2
        raise typer.Exit(128 + number) from None


def as_flags(text: str, options: Iterable[str]) -> str:
    """A message with `time_map` as --time-map; names of one word may mean something else."""
    names = [name for name in options if "_" in name]
    if not names:
        return text
    pattern = rf"(?<![\w\"'-])({'|'.join(names)})(?![\w\"'])"
    return re.sub(pattern, lambda match: f"--{match[1].replace('_', '-')}", text)


def shown(text: object) -> str:
    """For a terminal: control characters, which names of others may hold, as their codes."""
    return "".join(
        sign if sign.isprintable() or sign == "\n" else sign.encode("unicode_escape").decode()
        for sign in str(text)
    )


def _complain(text: str) -> None:
    """One line on the error output."""
    typer.echo(shown(" ".join(text.split())), err=True)


def print_table(title: str, rows: list[dict[str, Any]], columns: Columns) -> None:
    """Print rows, each column rendered by its function."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=shown(title), title_justify="left")
    for name, render in columns.items():
        is_text = render is str
        label = shown(name.replace("_", " "))
        table.add_column(label, justify="left" if is_text else "right", no_wrap=is_text)
    for row in rows:
        table.add_row(*(shown(render(row[name])) for name, render in columns.items()))
    Console(markup=False, emoji=False, highlight=False).print(table)  # "[naive]" is a label


def print_evaluation(name: str, evaluation: Evaluation) -> None:
    """Print the table of an evaluation, and what it says."""
    settings, several = evaluation.settings, len({score.seed for score in evaluation.scores}) > 1
    title = f"{name}: held-out W1, {settings['n_dims']} dimensions, {settings['protocol']}"
    rows = evaluation.table.reset_index().to_dict("records")
    columns: Columns = {"method": str, "W1": "{:.3f}".format}
    columns |= {"sd": "{:.3f}".format} if several else {}
    columns |= dict.fromkeys(("/ OT", "energy / OT"), "{:.3f}".format) | {"s": "{:.2f}".format}
    print_table(title, rows, columns)
    typer.echo(shown(evaluation.sentence))
