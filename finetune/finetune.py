r"""Fine-tune a pretrained model with all settings of a config, on as many processes as there are.

    python -m finetune.finetune cellmnn-base course.h5ad -o model --time-key day
    accelerate launch --config_file pretraining/accelerate/one_node_8_gpus.yaml \
        -m finetune.finetune base one.h5ad another.h5ad -o model --time-key day \
        --config finetune/configs/lora.yaml

`cellmnn finetune` does the same with the measured settings. Several files are learned jointly, for
a model that knows them beside the data sets of the base. Stopped or killed, the same command goes
on from the last saved state.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from accelerate import Accelerator

from cellmnn_fm import CellMNNPipeline, InputError
from cellmnn_fm.cli.options import read_symbols, start_tracker
from cellmnn_fm.cli.output import plain_errors
from cellmnn_fm.data.files import read_named
from cellmnn_fm.data.options import ReadingOptions
from cellmnn_fm.data.outputs import FOLDER, require_outputs
from cellmnn_fm.data.tasks import SamplingConfig
from cellmnn_fm.fitted.fitting import Run, finetune_base
from cellmnn_fm.training.finetuning import DEFAULT_ANCHOR, finetuning_config

HERE = Path(__file__).parent


def main(
    base: Annotated[str, typer.Argument(help="cellmnn-base, a folder, or a name on the Hub.")],
    files: Annotated[list[Path], typer.Argument(metavar="FILE.h5ad...", help="Time courses.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the new model.")],
    time_key: Annotated[str, typer.Option(help="Column of obs with the time of each cell.")],
    config: Annotated[Path, typer.Option(help="Mode, training and sampling, .yaml.")] = HERE
    / "configs"
    / "full.yaml",
    name: Annotated[list[str] | None, typer.Option(help="Of each data set, in order.")] = None,
    use_rep: Annotated[str | None, typer.Option(help="Embedding in obsm, or X.")] = None,
    layer: Annotated[str | None, typer.Option(help="Layer in place of X.")] = None,
    symbols: Annotated[str | None, typer.Option(help="Column or table of human symbols.")] = None,
    on_duplicates: Annotated[str, typer.Option(help="error, sum, mean or first.")] = "error",
    verdict: Annotated[bool, typer.Option(help="Compare with OT-Interpolate at the end.")] = True,
    mixed_precision: Annotated[str | None, typer.Option(help="no, bf16 or fp16.")] = None,
    tracker: Annotated[str | None, typer.Option(help="tensorboard, trackio or wandb.")] = None,
) -> None:
    """Read config and files, train, save."""
    with plain_errors("interrupted: the same command goes on from the last saved state"):
        require_outputs([base, *files, symbols], {"output": (output, FOLDER)})
        settings: dict[str, Any] = yaml.safe_load(config.read_text())
        accelerator = Accelerator(
            mixed_precision=mixed_precision, log_with=tracker, project_dir=str(output)
        )
        start_tracker(accelerator, tracker, settings)
        try:
            training = finetuning_config(**settings["training"])
            sampling = SamplingConfig(**settings["sampling"], table_share=1.0)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                str(config), "sections training and sampling", f"{error}", "correct it"
            ) from error
        adatas = read_named(files, name)
        pipeline = CellMNNPipeline.from_pretrained(base)
        reading = ReadingOptions(
            time_key=time_key,
            use_rep=use_rep,
            layer=layer,
            symbols=read_symbols(symbols),
            on_duplicates=on_duplicates,  # type: ignore[arg-type]
        )
        known = finetune_base(
            pipeline.foundation,
            adatas,
            reading,
            Run(settings.get("seed", 0), verdict, output, progress=True),
            mode=settings["mode"],
            start=settings.get("start", "inferred"),
            anchor=settings.get("anchor", DEFAULT_ANCHOR),
            training=training,
            sampling=sampling,
            origin=pipeline.origin,
            accelerator=accelerator,
        )
        tuned = CellMNNPipeline(known)
        if len(adatas) == 1:
            tuned = tuned.of_dataset(next(iter(adatas)))
        if accelerator.is_main_process:
            tuned.save_pretrained(output)
            for name in adatas:
                record = known.dataset(name).record
                print(f"{output}: {name}, {len(record.losses)} steps in {record.seconds:.1f} s")
                if record.verdict is not None:
                    print(record.verdict["sentence"])
        accelerator.end_training()


if __name__ == "__main__":
    typer.run(main)
