"""The commands that share models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated

import typer

from ..data.outputs import FOLDER, require_outputs
from .options import command, load_pipeline
from .output import Columns, Terminal

# heavy modules are imported inside the commands: --help must answer at once

Token = Annotated[
    str | None, typer.Option(help="Of the Hub; HF_TOKEN, or that of hf auth login, if absent.")
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit.")]


@command(interrupted="interrupted: nothing was committed, the same command goes on")
def push(
    folder: Annotated[
        str, typer.Argument(metavar="FOLDER", help="Of a model, or of a corpus; or cellmnn-base.")
    ],
    repo: Annotated[str, typer.Argument(metavar="USER/NAME", help="Where to, made if need be.")],
    terminal: Terminal,
    public: Annotated[
        bool, typer.Option("--public", help="Make a public repository; private if absent.")
    ] = False,
    message: Annotated[str | None, typer.Option(help="Of the commit.")] = None,
    token: Token = None,
) -> None:
    """Upload a model to the Hub, with its card, its genes and the modules that AutoModel needs.

    A corpus becomes a data set repository.
    """
    from ..data.corpus import Corpus

    if (Path(folder) / "sets").is_dir():  # which no model has
        Corpus(folder).push_to_hub(repo, private=not public, token=token)
        terminal.say(f"{repo}: {len(Corpus(folder))} data sets", repo=repo)
        return
    url = load_pipeline(folder).push_to_hub(
        repo, private=not public, commit_message=message, token=token
    )
    terminal.say(url, url=url)


@command(interrupted="interrupted: the same command goes on")
def pull(
    repo: Annotated[str, typer.Argument(metavar="USER/NAME", help="On the Hub.")],
    terminal: Terminal,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to copy it to; the cache alone.")
    ] = None,
    corpus: Annotated[
        bool, typer.Option("--corpus", help="It is a corpus, a data set repository.")
    ] = False,
    revision: Revision = None,
    token: Token = None,
    force: Annotated[bool, typer.Option("--force", help="Download anew what is cached.")] = False,
) -> None:
    """Download a model of the Hub and check it, or a corpus."""
    require_outputs([repo], {"output": (output, FOLDER)})
    from ..data.corpus import Corpus
    from ..model.checkpoint import whole_or_nothing
    from ..model.errors import InputError
    from ..model.hub import locate

    if corpus:
        if output is None:
            raise InputError("output", "a folder for the corpus", "none", "give --output")
        corpus_here = Corpus.from_hub(repo, output, revision=revision, token=token)
        terminal.say(f"{output}: {len(corpus_here)} data sets", folder=str(output))
        return
    options = {"revision": revision, "token": token, "force_download": force}
    folder, commit = locate(repo, **options)
    load_pipeline(str(folder))  # as a whole
    if output is not None:
        with whole_or_nothing(output) as staging:
            shutil.copytree(folder, staging, dirs_exist_ok=True)
    terminal.say(
        f"{output or folder}: {repo}" + (f", commit {commit}" if commit else ""),
        folder=str(output or folder),
        commit=commit,
    )


@command
def models(terminal: Terminal) -> None:
    """List the models that are here: those of the package, and those of the Hub in the cache."""
    from ..model.hub import available

    rows = [vars(model) for model in available()]
    columns: Columns = {
        "name": str,
        "where": str,
        "revision": lambda revision: revision[:8] if revision else "",
        "megabytes": "{:.1f}".format,
    }
    terminal.table("models", rows, columns)
    if terminal.as_json:
        typer.echo(json.dumps(rows, indent=1))
