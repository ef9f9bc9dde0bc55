"""Options that commands share, and the decorator that gives them to a command."""

from __future__ import annotations

import csv
import functools
import gc
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from ..data.options import (
    FitReading,
    OnDuplicates,
    QuestionReading,
    ReadingOptions,
    SubspaceMode,
)
from .output import Terminal, plain_errors

if TYPE_CHECKING:
    from accelerate import Accelerator
    from anndata import AnnData

    from ..data.growth_genes import Growth
    from ..data.times import TimeKey
    from ..pipeline import CellMNNPipeline

# heavy modules are imported inside the functions: --help must answer at once

GOES_ON = "interrupted: the same command goes on from the last saved state"

File = Annotated[Path, typer.Argument(metavar="FILE.h5ad", help="AnnData time course.")]
Model = Annotated[str, typer.Argument(metavar="MODEL", help="Folder of a model, or cellmnn-base.")]
Base = Annotated[
    str, typer.Argument(metavar="BASE", help="A pretrained model: cellmnn-base, or a folder.")
]
FileOrDataset = Annotated[
    Path | None, typer.Argument(metavar="[FILE.h5ad]", help="Cells; not needed with --dataset.")
]
Dataset = Annotated[
    str | None,
    typer.Option(help="Which of the data sets that the model knows the cells are of."),
]
Groups = Annotated[
    str,
    typer.Option(help="Column of obs with the groups at the end, or how many clusters of them."),
]
Start = Annotated[
    float | None, typer.Option(help="The time whose cells are followed; the first if absent.")
]
End = Annotated[float | None, typer.Option(help="When the groups count; the last time if absent.")]
Backed = Annotated[
    bool, typer.Option("--backed", help="Leave X on disk and read it in chunks: less memory.")
]
Verdict = Annotated[
    bool,
    typer.Option(
        "--verdict/--no-verdict",
        help="Say at the end whether predictions of left-out times beat OT-Interpolate; one more "
        "fit for each of them.",
    ),
]
Frame = Annotated[bool, typer.Option(help="Work in the Gaussian frame of the snapshots.")]
Layer = Annotated[str | None, typer.Option(help="Layer to use in place of X.")]
Symbols = Annotated[
    str | None,
    typer.Option(
        help="Column of var with human symbols, or a table of names and human symbols "
        "(.tsv or .csv, two columns, no header)."
    ),
]
OnDuplicatesOption = Annotated[
    OnDuplicates | None,
    typer.Option(
        "--on-duplicates",
        help="What becomes of genes with the same human symbol; an error if absent.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Say it as JSON, for machines.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars and no notices.")]

_TIMES = "Column of obs with the time of each cell: numbers, or day3, E8.5, 48h, ..."
_READING: dict[str, Any] = {
    "time_map": Annotated[
        list[str] | None,
        typer.Option("--time-map", help="LABEL=TIME, where labels cannot be read; repeat."),
    ],
    "use_rep": Annotated[
        str | None,
        typer.Option(help='Key of obsm with an embedding to use in place of genes, or "X".'),
    ],
    "layer": Layer,
    "symbols": Symbols,
    "on_duplicates": OnDuplicatesOption,
    "batch_key": Annotated[
        str | None,
        typer.Option(help="Column of obs with batches, whose shifts and scales are taken off."),
    ],
}
_CONDITION: dict[str, Any] = {
    "condition_key": Annotated[
        str | None,
        typer.Option(help="Column of obs with conditions; of cellmnn-conditions."),
    ],
    "condition": Annotated[
        str | None, typer.Option(help="The one that is asked about, beside its control.")
    ],
    "control": Annotated[
        str | None, typer.Option(help="Its control, if there are more than two conditions.")
    ],
}
_FIT: dict[str, Any] = {
    "n_dims": Annotated[
        int | None, typer.Option(help="Latent dimensions, at most; of an evaluation, of W1.")
    ],
    "subspace": Annotated[
        Path | None, typer.Option("--subspace", help="Folder of a shared subspace to work in.")
    ],
    "subspace_mode": Annotated[
        SubspaceMode | None,
        typer.Option(
            "--subspace-mode",
            help="Own components, the shared space, or own components aligned with it; "
            "aligned by default with --subspace.",
        ),
    ],
    "growth": Annotated[
        str | None,
        typer.Option(
            "--growth",
            help='Let cells multiply and die: at "learned" rates, with "genes" that say where, or '
            "at the known net rates (per unit of time) in a column of obs.",
        ),
    ],
    "population": Annotated[
        list[str] | None,
        typer.Option(
            help="With --growth: numbers of cells, as TIME=CELLS, for absolute rates; repeat."
        ),
    ],
    "proliferation": Annotated[
        list[str] | None, typer.Option(help="With --growth genes: one of dividing cells; repeat.")
    ],
    "apoptosis": Annotated[
        list[str] | None, typer.Option(help="With --growth genes: one of dying cells; repeat.")
    ],
}


@dataclass(frozen=True)
class Asked:
    """How the cells are read that a model is asked about.

    Attributes
    ----------
    options : ReadingOptions
        What was given on the command line.
    files : list of path
        Those that say so, a table of symbols for instance.
    """

    options: ReadingOptions
    files: list[str | Path | None]

    @classmethod
    def parameters(cls) -> dict[str, tuple[Any, Any]]:
        """Annotation and default of each option, by name."""
        time_key = Annotated[
            str | None,
            typer.Option(
                "--time-key", help=f"{_TIMES} Where it differs from the fit; cellmnn-base needs it."
            ),
        ]
        return {
            "time_key": (time_key, None),
            **{name: (option, None) for name, option in _READING.items()},
        }

    @classmethod
    def of(cls, given: dict[str, Any]) -> Self:
        """From the values of these options, which are taken out of those that were given."""
        given = {name: given.pop(name) for name in cls.parameters()}
        files = [given["symbols"], given.get("subspace")]
        given["time_key"] = read_time_key(given["time_key"], given.pop("time_map"))
        given["symbols"] = read_symbols(given["symbols"])
        if not issubclass(cls, OfFit):
            kind = QuestionReading if issubclass(cls, OfQuestion) else ReadingOptions
            return cls(kind(**given), files)
        from ..data.population import read_population

        genes = {name: given.pop(name) for name in ("proliferation", "apoptosis")}
        given["growth"] = read_growth_option(given["growth"], **genes)
        given["population"] = given["population"] and read_population(given["population"])
        return cls(FitReading(**given), files)

    @property
    def keywords(self) -> dict[str, Any]:
        """As the pipeline takes them."""
        return self.options.given


class OfQuestion(Asked):
    """How the cells are read that a question is about, which may be those of a condition."""

    @classmethod
    def parameters(cls) -> dict[str, tuple[Any, Any]]:
        """As of :class:`Asked`, and those of a condition and its control."""
        return super().parameters() | {name: (option, None) for name, option in _CONDITION.items()}


class OfCourse(Asked):
    """How a time course is read that no fit says anything of."""

    @classmethod
    def parameters(cls) -> dict[str, tuple[Any, Any]]:
        """As of :class:`Asked`, but the column of times must be named."""
        time_key = Annotated[str, typer.Option("--time-key", help=_TIMES)]
        return super().parameters() | {"time_key": (time_key, inspect.Parameter.empty)}


class OfFit(OfCourse):
    """How a time course is read that a model is fitted to."""

    @classmethod
    def parameters(cls) -> dict[str, tuple[Any, Any]]:
        """As of :class:`OfCourse`, and those of the latent space and of growth."""
        return super().parameters() | {name: (option, None) for name, option in _FIT.items()}


def command(
    function: Callable[..., None] | None = None, *, interrupted: str = "interrupted"
) -> Any:
    """A command of what is written as a function of a terminal and of how cells are read.

    A parameter ``terminal: Terminal`` becomes --json and --quiet, one of type :class:`Asked` (or
    OfCourse, OfFit) the options of reading; and whatever goes wrong ends in one line.

    Parameters
    ----------
    function : callable
        Its signature is that of the command; its docstring the help.
    interrupted : str
        What is said when the command is interrupted.
    """
    if function is None:
        return functools.partial(command, interrupted=interrupted)
    signature = inspect.signature(function, eval_str=True)
    of_command: dict[str, tuple[Any, Any]] = {}
    of_reading: dict[str, tuple[Any, Any]] = {}
    readings: dict[str, type[Asked]] = {}
    for name, parameter in signature.parameters.items():
        kind = parameter.annotation
        if isinstance(kind, type) and issubclass(kind, Asked):
            readings[name] = kind
            of_reading |= kind.parameters()
        elif kind is not Terminal:
            of_command[name] = kind, parameter.default
    shared = {"as_json": (AsJson, False), "quiet": (Quiet, False)}
    options = [
        # by keyword alone, so that those without a default may come after others
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=default)
        for name, (kind, default) in (of_command | of_reading | shared).items()
    ]

    @functools.wraps(function)
    def run(**given: Any) -> None:
        terminal = Terminal(given.pop("as_json"), given.pop("quiet"))
        with plain_errors(interrupted, quiet=terminal.quiet, options=of_command | of_reading):
            read = {name: kind.of(given) for name, kind in readings.items()}
            function(**given, **read, terminal=terminal)

    run.__signature__ = signature.replace(parameters=options)  # type: ignore[attr-defined]
    run.__annotations__ = {option.name: option.annotation for option in options}
    return run


def read_symbols(symbols: str | None) -> str | dict[str, str] | None:
    """The name of a column as it is, and the table in a file."""
    if symbols is None or not Path(symbols).is_file():
        return symbols
    import pandas as pd

    from ..model.errors import InputError

    try:
        table = pd.read_csv(
            symbols, sep=None, engine="python", header=None, dtype=str, encoding="utf-8-sig"
        ).dropna()
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(symbols, "a table", f"another file ({error})", "correct it") from error
    if table.shape[1] != 2:
        columns = f"{table.shape[1]} columns"
        raise InputError(symbols, "two columns", columns, "give a name and a human symbol each row")
    return dict(zip(table[0], table[1], strict=True))


def read_time_key(column: str | None, time_map: list[str] | None) -> str | TimeKey | None:
    """The column of times, with a table of labels where one is given."""
    if not time_map:
        return column
    from ..data.times import TimeKey
    from ..model.errors import InputError

    try:
        pairs = [pair.rsplit("=", 1) for pair in time_map]
        # without a column it is that of the fit
        return TimeKey(column or "", {label: float(time) for label, time in pairs})
    except ValueError:
        raise InputError("time map", "LABEL=TIME", ", ".join(time_map), "give pairs") from None


def read_growth_option(
    growth: str | None, proliferation: list[str] | None, apoptosis: list[str] | None
) -> Growth:
    """Whether cells multiply, and what is known of it, as a fit takes it."""
    from ..data.growth_genes import GrowthGenes

    if growth == "genes":
        named = {"proliferation": proliferation, "apoptosis": apoptosis}
        if not any(named.values()):
            return GrowthGenes()
        return GrowthGenes(**{name: tuple(genes or ()) for name, genes in named.items()})
    if proliferation or apoptosis:
        from ..model.errors import InputError

        raise InputError("growth", "genes, to name some", growth or "nothing", "add --growth genes")
    return True if growth == "learned" else growth or False


def column_or_count(groups: str, adata: AnnData) -> str | int:
    """A column of obs, or a number of clusters where there is no column of that name."""
    return int(groups) if groups.isdigit() and groups not in adata.obs else groups


def start_tracker(accelerator: Accelerator, tracker: str | None, settings: dict[str, Any]) -> None:
    """Start the experiment tracker that was asked for, with settings by section and name.

    Raises
    ------
    InputError
        If it is not installed, which accelerate passes over.
    """
    if tracker is None:
        return
    if not accelerator.log_with:
        from ..model.errors import InputError

        raise InputError(
            "tracker", f"{tracker} installed", "no such package", f"pip install {tracker}"
        )
    flat = {}
    for section, values in settings.items():
        for name, value in (values if isinstance(values, dict) else {"": values}).items():
            flat[f"{section}.{name}".rstrip(".")] = str(value)
    accelerator.init_trackers("cellmnn_fm", config=flat)


def load_pipeline(model: str | None, dataset: str | None = None) -> CellMNNPipeline:
    """The pipeline that a command is about, or one to be fitted."""
    from ..pipeline import CellMNNPipeline

    if model is None:
        pipeline = CellMNNPipeline()
    else:
        pipeline = CellMNNPipeline.from_pretrained(model, dataset)
    gc.freeze()  # what is imported stays
    gc.enable()
    return pipeline
