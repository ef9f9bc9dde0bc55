r"""Pretrain one model on all data sets of a corpus.

    python -m pretraining.pretrain corpus -o model --config pretraining/configs/base.yaml
    accelerate launch --config_file pretraining/accelerate/one_node_8_gpus.yaml \
        -m pretraining.pretrain corpus -o model --config pretraining/configs/base.yaml
    ACCELERATE_USE_CPU=true accelerate launch \
        --config_file pretraining/accelerate/two_cpu_processes.yaml \
        -m pretraining.pretrain corpus -o model --config pretraining/configs/base.yaml

Stopped or killed, the same command goes on from the last saved state, bit for bit on one process.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from accelerate import Accelerator

from cellmnn_fm import CellMNNModel, InputError
from cellmnn_fm.cli.options import start_tracker
from cellmnn_fm.cli.output import plain_errors
from cellmnn_fm.data.corpus import Corpus
from cellmnn_fm.data.outputs import FOLDER, require_outputs
from cellmnn_fm.data.simulated_tasks import SimulationConfig
from cellmnn_fm.data.tasks import SamplingConfig
from cellmnn_fm.fitted.foundation import run_record, save_foundation
from cellmnn_fm.training.configs import TrainingConfig
from cellmnn_fm.training.loop import remove_training_state
from cellmnn_fm.training.pretraining import corpus_config, pretrain


def main(
    corpus: Annotated[Path, typer.Argument(help="Folder of a corpus.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the model.")],
    config: Annotated[Path, typer.Option(help="Model, training and sampling, .yaml.")],
    leave_out: Annotated[
        list[str] | None, typer.Option(help="Group of data sets to leave out; may be repeated.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="In place of those of the config.")] = None,
    mixed_precision: Annotated[
        str | None, typer.Option(help="no, bf16 or fp16; that of accelerate's config if absent.")
    ] = None,
    tracker: Annotated[
        str | None, typer.Option(help="tensorboard, trackio or wandb; none if absent.")
    ] = None,
) -> None:
    """Read the config, train, save."""
    with plain_errors("interrupted: the same command goes on from the last saved state"):
        require_outputs([corpus], {"output": (output, FOLDER)})
        settings: dict[str, Any] = yaml.safe_load(config.read_text())
        if steps is not None:
            settings["training"]["steps"] = steps
        opened = Corpus(corpus)
        accelerator = Accelerator(
            mixed_precision=mixed_precision, log_with=tracker, project_dir=str(output)
        )
        start_tracker(accelerator, tracker, settings)
        try:
            configs = (
                corpus_config(opened, **settings["model"]),
                TrainingConfig(**settings["training"]),
                SamplingConfig(**settings["sampling"]),
            )
            simulation = None
            if "simulation" in settings:
                simulation = SimulationConfig(**settings["simulation"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                str(config),
                "sections model, training, sampling and simulation",
                f"{error}",
                "correct it",
            ) from error
        trained = pretrain(
            opened,
            *configs,
            start=CellMNNModel.from_pretrained(settings["start"]) if "start" in settings else None,
            simulation=simulation,
            leave_out=leave_out or [],
            validation=settings.get("validation", []),
            reserve=settings.get("reserve", []),
            seed=settings.get("seed", 0),
            accelerator=accelerator,
            folder=output,
            progress=True,
        )
        if accelerator.is_main_process:
            record = run_record(settings, trained, accelerator, leave_out=leave_out or [])
            save_foundation(output, trained.model, opened, record)
            remove_training_state(output)
            last = trained.losses[-1] if trained.losses else {}
            print(f"{output}: {len(trained.losses)} steps in {trained.seconds:.0f} s, {last}")
        accelerator.end_training()


if __name__ == "__main__":
    typer.run(main)
