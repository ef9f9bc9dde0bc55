"""Training on one time course by matching distributions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..data.time_course import TimeCourse, TimeScale
from ..dynamics.rollout import log_descendants
from ..dynamics.snapshots import Dynamics, as_shares
from ..model.configuration_cellmnn import CellMNNConfig
from ..model.errors import InputError, require_seed
from ..model.gaussian_frame import FrameState, fit_frame
from ..model.modeling_cellmnn import CellMNNModel, CellMNNOutput
from ..model.seeding import seeded
from ..model.torch_defaults import with_torch_defaults
from .configs import TrainingConfig
from .loop import Optimised, optimise, own_accelerator, to_device
from .losses import (
    energy_distance,
    invertibility_penalty,
    kinetic_energy,
    mmd2,
    pair_weights,
    sliced_wasserstein,
    unit_directions,
)

MOST_TIMES = 16  # whose pairs are all in a step
_MOST_OF_GRID = 10_000  # steps of the paper's grid in time: memory grows with them


@dataclass(frozen=True)
class TrainedModel(Optimised):
    """What training on one time course returns.

    Attributes
    ----------
    time_scale : TimeScale
        Between the user's time and the model's.
    """

    time_scale: TimeScale

    @property
    def dynamics(self) -> Dynamics:
        """The model, in the user's time."""
        return Dynamics(self.model, self.time_scale)


@with_torch_defaults
def train(
    course: TimeCourse,
    config: CellMNNConfig,
    training: TrainingConfig,
    *,
    seed: int = 0,
    folder: Path | None = None,
    validate: Callable[[Dynamics], float] | None = None,
    progress: bool = False,
) -> TrainedModel:
    """Fit a model to one time course.

    Runs on whatever accelerate finds, and under `accelerate launch` on several processes, each of
    which draws cells of its own.

    Parameters
    ----------
    course : TimeCourse
        The time course to be fitted.
    config, training : CellMNNConfig, TrainingConfig
        With more dimensions than the time course has, `config.dataset_dims` says how many are
        real; the others are padding.
    seed : int
        Of the weights and of the cells drawn. The global random state is left alone.
    folder : Path, optional
        Where the state is saved every `training.save_every` steps. After an interruption the same
        call goes on from the last one, bit for bit.
    validate : callable, optional
        Looked at in place of the training loss to stop early; lower is better.
    progress : bool
        Whether to show a progress bar.

    Raises
    ------
    InputError
        If `folder` holds the state of a run with other settings or data.
    """
    require_seed(seed)
    accelerator = own_accelerator()
    time_scale = TimeScale(0.0, 1.0) if training.raw_times else course.time_scale
    times = torch.as_tensor(time_scale.to_model(course.times), dtype=torch.float32)
    model = _new_model(course, config, seed)
    frame = None
    if config.num_frame_times:
        growing = config.frame and config.growth
        weights = _descendants(course, config, training, seed) if growing else None
        snapshots = [torch.from_numpy(snapshot) for snapshot in course.snapshots]
        frame = fit_frame(snapshots, times, weights, latent_dim=config.latent_dim)
        model.set_frame_state(frame)
    model = model.to(accelerator.device)
    rates = [known * time_scale.unit for known in course.growth] if course.growth else None
    acting = frame if config.frame else None  # else it only bounds where cells are followed to
    step = CourseStep(model, training, course.snapshots, times, rates, course.sizes, acting)
    sizes = [len(snapshot) for snapshot in course.snapshots]

    def losses_of(wrapped: nn.Module, counter: int) -> dict[str, Tensor]:
        # cells are a function of (seed, slot) alone, so that a resumed run draws the same
        slot = counter * accelerator.num_processes + accelerator.process_index
        rng = np.random.default_rng((seed, slot))
        first = first_of_block(len(sizes), rng)
        drawn = [
            draw(sizes, cells, rng, first)
            for cells in (training.source_cells, training.target_cells)
        ]
        with accelerator.autocast():
            return wrapped(*(to_device(rows, accelerator.device) for rows in drawn), first)

    digest = sha256(course.times.tobytes())
    for known in [*course.snapshots, *(course.growth or ()), course.sizes]:
        if known is not None:
            digest.update(known.tobytes())
    run = [config.to_dict(), asdict(training), seed, accelerator.num_processes, digest.hexdigest()]
    optimised = optimise(
        accelerator,
        model,
        training,
        losses_of,
        run,
        step=step,
        folder=folder,
        validate=validate and (lambda model: {"held_out": validate(Dynamics(model, time_scale))}),
        progress=progress,
    )
    return TrainedModel(**vars(optimised), time_scale=time_scale)


def _new_model(course: TimeCourse, config: CellMNNConfig, seed: int) -> CellMNNModel:
    """With weights that depend on the seed alone."""
    dims = [config.latent_dim] if config.dataset_dims is None else config.dataset_dims
    if dims != [course.latent_dim]:
        raise InputError(
            "dataset_dims",
            f"[{course.latent_dim}], the dimensions of the time course",
            dims,
            "set them in the configuration; those up to latent_dim are padding",
        )
    with seeded(seed):
        model = CellMNNModel(config)
    if config.num_genes and course.subspace is not None:
        model.set_subspace(**vars(course.subspace.padded(config.latent_dim)))
    return model.train()


class CourseStep(nn.Module):
    """The losses of a step on one time course: all snapshots pushed to all times.

    Of a long course, those of a block of neighbouring times: work and memory grow with the square
    of their number, and far pairs hardly count.

    Everything but the rows that are drawn is on the device from the start, and nothing in a step is
    read back: the host runs ahead of a GPU.

    Parameters
    ----------
    model : CellMNNModel
        On its device.
    training : TrainingConfig
        Weights of the losses, cells drawn.
    snapshots : sequence of (cells, dims)
        At most the model's dimensions; the others are padding.
    times : (times,)
        In model time.
    rates : sequence of (cells,), optional
        What is known of how fast cells multiply, per unit of model time; none is 0.
    population : (times,), optional
        Its sizes, if they are known.
    frame : FrameState, optional
        That of the model, if it has one: how many times it has need not be looked up then.
    """

    def __init__(
        self,
        model: CellMNNModel,
        training: TrainingConfig,
        snapshots: Sequence[NDArray],
        times: Tensor,
        rates: Sequence[NDArray] | None = None,
        population: NDArray | None = None,
        frame: FrameState | None = None,
    ):
        super().__init__()
        self.model, self.training_config = model, training
        self._num_dims = snapshots[0].shape[1]
        padding = model.config.latent_dim - self._num_dims
        # plain tensors: what is a buffer is sent to all processes in every step
        cells = torch.as_tensor(np.concatenate(snapshots), device=model.device)
        self._cells = torch.nn.functional.pad(cells, (0, padding))
        known = np.zeros(len(cells)) if rates is None else np.concatenate(rates)
        self._rates = torch.as_tensor(known, dtype=self._cells.dtype, device=model.device)
        self._log_sizes = None
        if population is not None:
            self._log_sizes = torch.as_tensor(np.log(population)).to(self._cells)
        self._times = times.to(model.device)
        self._decoded_times = _decoded_times(times, training).to(model.device)
        self._frame = None
        if frame is not None:
            self._frame = frame.to(model.device)
        self._block = min(len(times), MOST_TIMES)
        # forward in time only, nothing starts from the last snapshot
        self._sources = self._block if training.both_directions else self._block - 1
        pairs = pair_weights(self._block, training.gamma, both_directions=training.both_directions)
        self._pairs = pairs[: self._sources].to(model.device)
        directions = unit_directions(self._num_dims, model.config.latent_dim)
        self._directions = directions.to(self._cells)
        sizes = [len(snapshot) for snapshot in snapshots]
        self._drawn = (
            once(sizes, training.source_cells).to(self._cells),
            once(sizes, training.target_cells).to(self._cells),
        )

    def forward(
        self, source_rows: Tensor, target_rows: Tensor, first: int = 0
    ) -> dict[str, Tensor]:
        """Parts of the loss, each with its weight.

        Parameters
        ----------
        source_rows, target_rows : (times, cells)
            Of all cells, one snapshot after the other; see :func:`draw`.
        first : int
            Of the times of the block, see :func:`first_of_block`.
        """
        block = slice(first, first + self._block)
        sources = slice(first, first + self._sources)
        source_rows = source_rows[: self._sources]
        source_times, times = self._times[sources], self._times[block]
        decoded = self._decoded_times
        if self._block < len(self._times):
            decoded = _decoded_times(times, self.training_config)
        # every snapshot is pushed to every time at once: one operator a cell leads to all of them
        output = self.model(self._cells[source_rows], source_times, decoded, frame=self._frame)
        target = self._cells[target_rows]
        # distances of close clouds are small differences of large numbers: not in half precision
        with torch.autocast(target.device.type, enabled=False):
            losses = _losses(
                output,
                target,
                self._pairs,
                (self._drawn[0][sources], self._drawn[1][block]),
                self.training_config,
                self._num_dims,
                self._directions,
            )
            if output.log_growth is not None:
                gap = times - source_times[:, None]
                # log growth (sources, times, cells)
                expected = self._rates[source_rows][:, None] * gap[..., None]
                losses["growth"] = _growth_penalty(
                    output, expected, self._pairs, self.training_config
                )
                if self._log_sizes is not None:
                    log_sizes = self._log_sizes[block] - self._log_sizes[sources, None]
                    losses["population"] = self.training_config.population_weight * _size_error(
                        output, log_sizes, self._pairs, self._drawn[0][sources]
                    )
        return losses


def first_of_block(num_times: int, rng: np.random.Generator) -> int:
    """Where the block of times of a step begins: 0, unless there are more than `MOST_TIMES`.

    Every time is in about as many blocks, the first and the last ones included.
    """
    if num_times <= MOST_TIMES:
        return 0
    middle = int(rng.integers(num_times)) - MOST_TIMES // 2
    return min(max(middle, 0), num_times - MOST_TIMES)


def draw(
    sizes: Sequence[int], wanted: int, rng: np.random.Generator, first_time: int = 0
) -> NDArray[np.int64]:
    """Rows (snapshots, `wanted`) of all cells, one snapshot after the other.

    None is drawn twice; a snapshot of fewer cells is filled up with copies, see :func:`once`. Of
    more than `MOST_TIMES` snapshots only the block that begins at `first_time`.
    """
    starts = np.concatenate([[0], np.cumsum(sizes)])
    block = range(first_time, min(first_time + MOST_TIMES, len(sizes)))
    rows = np.empty((len(block), wanted), dtype=np.int64)
    for number, time in enumerate(block):
        drawn = rng.choice(sizes[time], min(wanted, sizes[time]), replace=False, shuffle=False)
        rows[number] = starts[time] + np.resize(drawn, wanted)
    return rows


def once(sizes: Sequence[int], wanted: int) -> Tensor:
    """Weight 1 for cells that were drawn, 0 for copies that fill up a snapshot of fewer cells.

    Copies that counted would be pairs at distance 0, and shrink the spread that is matched.
    """
    return (torch.arange(wanted) < torch.tensor(sizes)[:, None]).float()


def _decoded_times(times: Tensor, training: TrainingConfig) -> Tensor:
    """The observed times, followed by the grid for the kinetic energy where there is one."""
    if training.kinetic_grid is None:
        return times
    span = float(times[-1] - times[0])
    if span > _MOST_OF_GRID * training.kinetic_grid:
        raise InputError(
            "times",
            f"a range of at most {_MOST_OF_GRID * training.kinetic_grid:g} with the paper's preset",
            f"{span:g}",
            "give them in a longer unit, or take another preset",
        )
    return torch.cat(
        [times, torch.arange(float(times[0]), float(times[-1]), training.kinetic_grid).to(times)]
    )


def _losses(
    output: CellMNNOutput,
    target: Tensor,
    pairs: Tensor,
    drawn: tuple[Tensor, Tensor],
    training: TrainingConfig,
    num_dims: int,
    directions: Tensor,
) -> dict[str, Tensor]:
    """Parts of the loss, each with its weight, for source snapshots pushed to all times.

    Of the dimensions `num_dims` are real, the others padding. Directions are for slices.
    """
    num_times = len(target)
    assert output.states is not None
    assert output.learned_velocity is not None
    assert output.determinant is not None
    known: dict[str, Callable[..., Tensor]] = {
        "energy": energy_distance,
        "mmd": partial(mmd2, num_dims=num_dims),
        "sliced": partial(sliced_wasserstein, directions=directions),
    }
    distance = known[training.distance]
    source_drawn, target_drawn = drawn[0][:, None], drawn[1]
    growth = None if output.log_growth is None else output.log_growth[:, :num_times]
    source_weights = source_drawn if growth is None else source_drawn * growth.exp()
    distances = distance(output.states[:, :num_times], target, source_weights, target_drawn)
    # in a frame only what is learned is penalised: else training works against the frame
    velocity = output.learned_velocity
    if training.kinetic_grid is not None:
        velocity = velocity[:, num_times:]
    kinetic = kinetic_energy(velocity, source_drawn, num_dims=num_dims)
    return {
        "distance": (pairs * distances).sum(),
        "kinetic": training.kinetic_weight * kinetic,
        "invertibility": training.invertibility_weight * invertibility_penalty(output.determinant),
    }


def _growth_penalty(
    output: CellMNNOutput, expected: Tensor, pairs: Tensor, training: TrainingConfig
) -> Tensor:
    """On log growth, as far as it is not what is known of it.

    That is `expected` (sources, times, cells); with the weights of `pairs` (sources, times).
    """
    assert output.log_growth is not None
    learned = output.log_growth[:, : expected.shape[1]]
    if training.growth_prior == "scores":
        # scores say in which direction; how steep it is, their regression does
        slope = (learned * expected).sum() / expected.square().sum().clamp_min(1e-12)
        expected = slope.detach().clamp_min(0) * expected
    error = (learned - expected).square().mean(dim=-1)
    return training.growth_weight * (pairs * error).sum() / pairs.sum()


def _size_error(output: CellMNNOutput, log_sizes: Tensor, pairs: Tensor, drawn: Tensor) -> Tensor:
    """Squared error of the log growth of the whole population, which is `log_sizes`.

    Those and the weights `pairs` are (sources, times), `drawn` (sources, cells) 0 for copies.
    """
    assert output.log_growth is not None
    log_growth = output.log_growth[:, : log_sizes.shape[1]]
    grown = (drawn[:, None] * log_growth.exp()).sum(dim=-1) / drawn.sum(dim=-1)[:, None]
    return (pairs * (grown.log() - log_sizes).square()).sum() / pairs.sum()


def _descendants(
    course: TimeCourse, config: CellMNNConfig, training: TrainingConfig, seed: int
) -> list[Tensor]:
    """How many descendants each cell has at the last time, (cells,) for each snapshot.

    Weighted by them, snapshots are those of a process that neither makes nor loses cells, which is
    what a frame describes. From a first fit without a frame.
    """
    frameless = config.replaced(frame=False)
    first_fit = train(course, frameless, training, seed=seed)
    log_growth = log_descendants(first_fit.dynamics, course)
    return [
        torch.as_tensor(as_shares(log_growth_then), dtype=torch.float32)
        for log_growth_then in log_growth
    ]
