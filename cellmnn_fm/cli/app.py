"""The command line."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from .ask import annotate, fates, growth, interpolate, trajectory
from .corpus import corpus_app
from .demo import demo
from .evaluate import evaluate, report
from .fit import adapt, finetune, fit
from .grn import grn, grn_evaluate
from .hub import models, pull, push
from .subspace import subspace_app
from .what_if import compare, perturb, screen

app = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Single-cell dynamics from snapshots: fit a time course, predict what was not measured."
    "\n\nStart with: cellmnn report cellmnn-base FILE.h5ad --time-key day. Commands have --help. "
    "Bad input ends in one line and exit code 2, an interruption in 130; what was trained is kept.",
)


def _say_version(wanted: bool) -> None:
    """The version alone."""
    if wanted:
        typer.echo(f"cellmnn {version('cellmnn-fm')}")
        raise typer.Exit


@app.callback()
def _options(
    shown: Annotated[
        bool,
        typer.Option("--version", callback=_say_version, is_eager=True, help="Of the package."),
    ] = False,
) -> None:
    """Options of no command."""


_PANELS = {
    "Models": (fit, finetune, adapt),
    "Questions": (interpolate, trajectory, annotate, fates, growth, perturb, screen, compare, grn),
    "How good is it?": (evaluate, grn_evaluate, report, demo),
    "Sharing": (push, pull, models),
}
for _panel, _commands in _PANELS.items():
    for _command in _commands:
        _name = _command.__name__.replace("_", "-")
        app.command(_name, rich_help_panel=_panel)(_command)
app.add_typer(subspace_app, rich_help_panel="Models")
app.add_typer(corpus_app, rich_help_panel="Models")
