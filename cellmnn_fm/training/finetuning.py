"""Fine-tuning a base on new time courses: predict their own snapshots, one held out at a time."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor, nn

from ..data.corpus_sets import CoursesInMemory
from ..data.options import FineTuningMode, Start
from ..data.tasks import MIN_TARGET_CELLS, SamplingConfig, TaskSampler, held_out_able
from ..data.time_course import TimeCourse
from ..model.errors import listed, require_known, require_number, require_seed
from ..model.modeling_cellmnn import CellMNNModel
from ..model.seeding import seeded
from ..model.torch_defaults import with_torch_defaults
from .adaptation import adapt_jointly
from .collation import TaskBatch, losses_from, task_batches
from .configs import TrainingConfig
from .loop import Optimised, optimise, own_accelerator
from .pretraining import HeldOutStep

if TYPE_CHECKING:
    from accelerate import Accelerator

DEFAULT_STEPS = 25
DEFAULT_ANCHOR = 30.0

_LORA_RANK = 4
_TRAINED = {
    "embedding": ("dataset_embeddings",),
    "full": ("dataset_embeddings", "hypernetwork"),
    "lora": ("dataset_embeddings",),  # and the factors beside the hypernetwork
}


def finetuning_config(steps: int = DEFAULT_STEPS, **changes) -> TrainingConfig:
    """The measured recipe, see `pretraining/LOG.md`."""
    recipe = {"learning_rate": 1e-3, "weight_decay": 0.0}
    return TrainingConfig(steps=steps, **{**recipe, **changes})


@with_torch_defaults
def finetune(
    base: CellMNNModel,
    courses: Mapping[str, TimeCourse],
    *,
    mode: FineTuningMode = "full",
    start: Start | int = "inferred",
    anchor: float = DEFAULT_ANCHOR,
    training: TrainingConfig | None = None,
    sampling: SamplingConfig | None = None,
    seed: int = 0,
    accelerator: Accelerator | None = None,
    folder: Path | None = None,
    progress: bool = False,
) -> Optimised:
    """Train a base on time courses that it has not seen, with the loss of its pretraining.

    One snapshot of a course is held out and predicted from the others, another one in every task;
    so a course with less than three snapshots has nothing to teach.

    Parameters
    ----------
    base : CellMNNModel
        Left as it is.
    courses : mapping of TimeCourse
        By name; those of several are learned together.
    mode : {"embedding", "full", "lora"}
        What changes: the embeddings of the new data sets alone; also the network; or of the network
        a change of low rank (Hu et al. 2022, ICLR) in place of all of it, merged at the end.
    start : {"inferred", "mean"} or int
        Of the embeddings, see :func:`adapt`.
    anchor : float
        Weight of the squared distance of what is trained from where it started, over the number of
        snapshots that can be held out: the more there are, the less the base counts.
    training, sampling : TrainingConfig, SamplingConfig, optional
        How to train and to draw tasks; the measured recipe by default.
    seed : int
        Of the cells and snapshots drawn.
    accelerator : Accelerator, optional
        Of the processes; one of its own by default.
    folder : Path, optional
        Where the state is saved; the same call goes on from there.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    Optimised
        Its model has one row for each of the courses, in their order. Without a snapshot that can
        be held out, or without steps, it is that of :func:`adapt_jointly`.

    Raises
    ------
    InputError
        On an unknown mode, and if `folder` holds the state of another run.

    Warns
    -----
    UserWarning
        Of courses that have nothing to teach.
    """
    require_known("mode", mode, get_args(FineTuningMode))
    require_number("anchor", anchor, 0)
    training = training or finetuning_config()
    sampling = sampling or SamplingConfig(tasks=2, table_share=1.0)
    accelerator = accelerator or own_accelerator()
    require_seed(seed)
    start_model = adapt_jointly(base, [*courses.values()], start)
    start_model.to(accelerator.device)
    held_out = {
        name: len(held_out_able([len(snapshot) for snapshot in course.snapshots]))
        for name, course in courses.items()
    }
    if without := [name for name, times in held_out.items() if not times]:
        warnings.warn(
            f"{listed(without)}: no time between two others has {MIN_TARGET_CELLS} or more cells, "
            "so that there is nothing to learn from; the base's answer is kept",
            stacklevel=2,
        )
    if not training.steps or not any(held_out.values()):
        return Optimised(start_model, [], 0.0, [])
    model = _with_trainable(start_model, mode, seed)
    latent_dim = start_model.config.latent_dim
    sampler = TaskSampler(CoursesInMemory(courses, latent_dim), sampling, seed)
    losses_of = losses_from(accelerator, task_batches(sampler, training, accelerator))
    step = AnchoredStep(model, anchor / sum(held_out.values()))
    digest = sha256()
    for course in courses.values():
        digest.update(course.times.tobytes() + b"".join(map(bytes, course.snapshots)))
    for value in start_model.state_dict().values():
        digest.update(value.cpu().numpy().tobytes())
    run = {
        "mode": mode,
        "anchor": anchor,
        "training": asdict(training),
        "sampling": asdict(sampling),
        "seed": seed,
        "processes": accelerator.num_processes,
        "data_and_start": digest.hexdigest(),
    }
    optimised = optimise(
        accelerator, model, training, losses_of, run, step=step, folder=folder, progress=progress
    )
    tuned: Any = optimised.model
    if mode == "lora":
        tuned = tuned.merge_and_unload()
    return replace(optimised, model=tuned.requires_grad_(True))


class AnchoredStep(HeldOutStep):
    """The losses of a batch of tasks, and how far what is trained has gone from its start.

    Parameters
    ----------
    model : CellMNNModel
        In training mode, with gradients for what is trained.
    anchor : float
        Weight of the squared distance.
    """

    def __init__(self, model: CellMNNModel, anchor: float):
        super().__init__(model)
        self._anchor = anchor
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._start = [(parameter, parameter.detach().clone()) for parameter in trained]

    def forward(self, batch: TaskBatch) -> dict[str, Tensor]:
        """Parts of the loss, each with its weight."""
        distances = [(now - start).square().sum() for now, start in self._start]
        return {**super().forward(batch), "anchor": self._anchor * torch.stack(distances).sum()}


def _with_trainable(model: CellMNNModel, mode: FineTuningMode, seed: int) -> CellMNNModel:
    """The model, in training mode, with gradients for what the mode trains."""
    model.requires_grad_(False)
    wrapped = model
    if mode == "lora":
        from peft import LoraConfig, get_peft_model

        layers = [
            f"hypernetwork.{name}"
            for name, part in model.hypernetwork.named_modules()
            if isinstance(part, nn.Linear)
        ]
        config = LoraConfig(r=_LORA_RANK, lora_alpha=_LORA_RANK, target_modules=layers)
        with seeded(seed):
            wrapped = get_peft_model(model, config)  # type: ignore[assignment]
    for name, parameter in model.named_parameters():
        if name.startswith(_TRAINED[mode]):
            parameter.requires_grad_(True)
    return wrapped.train()
