r"""Pretrain a network that reads snapshots, on simulated systems alone: no real cell is seen.

    python -m pretraining.pretrain_simulated -o model
    ACCELERATE_USE_CPU=true accelerate launch \
        --config_file pretraining/accelerate/two_cpu_processes.yaml \
        -m pretraining.pretrain_simulated -o model

Stopped or killed, the same command goes on from the last saved state, bit for bit on one process.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from accelerate import Accelerator

from cellmnn_fm import CellMNNConfig, CellMNNModel, InputError
from cellmnn_fm.cli.options import start_tracker
from cellmnn_fm.cli.output import plain_errors
from cellmnn_fm.data.outputs import FOLDER, require_outputs
from cellmnn_fm.data.simulated_tasks import SimulationConfig
from cellmnn_fm.fitted.foundation import Foundation, run_record
from cellmnn_fm.model.checkpoint import whole_or_nothing
from cellmnn_fm.training.adaptation import network_digest
from cellmnn_fm.training.configs import TrainingConfig
from cellmnn_fm.training.loop import remove_training_state
from cellmnn_fm.training.simulated import pretrain_simulated


def main(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the model.")],
    config: Annotated[Path, typer.Option(help="Model, training and simulation, .yaml.")] = Path(
        "pretraining/configs/simulated.yaml"
    ),
    start: Annotated[
        str | None, typer.Option(help="Model whose network to start from, a name or a folder.")
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
        require_outputs([config], {"output": (output, FOLDER)})
        settings: dict[str, Any] = yaml.safe_load(config.read_text())
        if steps is not None:
            settings["training"]["steps"] = steps
        begun = CellMNNModel.from_pretrained(start) if start else None
        if begun is not None:
            settings["start"] = network_digest(begun)
        accelerator = Accelerator(
            mixed_precision=mixed_precision, log_with=tracker, project_dir=str(output)
        )
        start_tracker(accelerator, tracker, settings)
        try:
            configs = (
                CellMNNConfig(**settings["model"]),
                TrainingConfig(**settings["training"]),
                SimulationConfig(**settings["simulation"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                str(config), "sections model, training and simulation", f"{error}", "correct it"
            ) from error
        trained = pretrain_simulated(
            *configs,
            start=begun,
            seed=settings.get("seed", 0),
            accelerator=accelerator,
            folder=output,
            progress=True,
        )
        if accelerator.is_main_process:
            record = run_record(settings, trained, accelerator)
            with whole_or_nothing(output) as staging:
                Foundation(trained.model, "own", None, {}, record).save(staging)
            remove_training_state(output)
            print(f"{output}: {len(trained.losses)} steps in {trained.seconds:.0f} s")
            for step, scores in trained.checks:
                print(f"step {step}: median velocity error {scores['velocity']:.3f}")
        accelerator.end_training()


if __name__ == "__main__":
    typer.run(main)
