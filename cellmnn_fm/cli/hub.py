"""The commands that share models."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from ..data.outputs import FOLDER, require_outputs
from .console import AsJson, Quiet, load_pipeline, plain_errors, print_table, say

# heavy modules are imported inside the commands: --help must answer at once

Token = Annotated[
    str | None, typer.Option(help="Of the Hub; HF_TOKEN, or that of hf auth login, if absent.")
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit.")]


def push(
    folder: Annotated[
        str, typer.Argument(metavar="FOLDER", help="Of a model, or of a corpus; or cellmnn-base.")
    ],
    repo: Annotated[str, typer.Argument(metavar="USER/NAME", help="Where to, made if need be.")],
    public: Annotated[
        bool, typer.Option("--public", help="Make a public repository; private if absent.")
    ] = False,
    message: Annotated[str | None, typer.Option(help="Of the commit.")] = None,
    token: Token = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Upload a model to the Hub, with its card, its genes and the modules that AutoModel needs.

    A corpus becomes a data set repository.
    """
    with plain_errors("interrupted: nothing was committed, the same command goes on", quiet=quiet):
        from ..data.corpus import Corpus

        if (Path(folder) / "sets").is_dir():  # which no model has
            Corpus(folder).push_to_hub(repo, private=not public, token=token)
            if not quiet:
                typer.echo(f"{repo}: {len(Corpus(folder))} data sets")
            return
        url = load_pipeline(folder).push_to_hub(
            repo, private=not public, commit_message=message, token=token
        )
        say(url, quiet=quiet, as_json=as_json, url=url)


def pull(
    repo: Annotated[str, typer.Argument(metavar="USER/NAME", help="On the Hub.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to copy it to; the cache alone.")
    ] = None,
    corpus: Annotated[
        bool, typer.Option("--corpus", help="It is a corpus, a data set repository.")
    ] = False,
    revision: Revision = None,
    token: Token = None,
    force: Annotated[bool, typer.Option("--force", help="Download anew what is cached.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Download a model of the Hub and check it, or a corpus."""
    with plain_errors("interrupted: the same command goes on", quiet=quiet):
        require_outputs([repo], {"output": (output, FOLDER)})
        from ..data.corpus import Corpus
        from ..model.checkpoint import whole_or_nothing
        from ..model.errors import InputError
        from ..model.hub import locate

        if corpus:
            if output is None:
                raise InputError("output", "a folder for the corpus", "none", "give --output")
            found = Corpus.from_hub(repo, output, revision=revision, token=token)
            if not quiet:
                typer.echo(f"{output}: {len(found)} data sets")
            return
        options = {"revision": revision, "token": token, "force_download": force}
        folder, commit = locate(repo, **options)
        load_pipeline(str(folder))  # as a whole
        if output is not None:
            with whole_or_nothing(output) as staging:
                shutil.copytree(folder, staging, dirs_exist_ok=True)
        say(
            f"{output or folder}: {repo}" + (f", commit {commit}" if commit else ""),
            quiet=quiet,
            as_json=as_json,
            folder=str(output or folder),
            commit=commit,
        )


def models(
    as_json: AsJson = False,
) -> None:
    """List the models that are here: those of the package, and those of the Hub in the cache."""
    with plain_errors():
        from ..model.hub import available

        found = [vars(one) for one in available()]
        if as_json:
            typer.echo(json.dumps(found, indent=1))
            return
        columns: dict[str, Callable[[Any], str]] = {
            "name": str,
            "where": str,
            "revision": lambda revision: revision[:8] if revision else "",
            "megabytes": "{:.1f}".format,
        }
        print_table("models", found, columns)
