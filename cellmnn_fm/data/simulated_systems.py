"""Families of random dynamical systems: the velocities of their cells are known, and can be taught.

A system is a function of a seed alone. Families differ in what makes cells move, so that one of
them can be kept from a training and judged on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Family = Literal["smooth", "genes", "wells", "linear", "normal_forms", "landscape"]
FAMILIES: tuple[Family, ...] = get_args(Family)

_SHARES = {
    "smooth": 0.2,
    "genes": 0.25,
    "wells": 0.15,
    "linear": 0.1,
    "normal_forms": 0.15,
    "landscape": 0.15,
}
_GROWING_SHARE = 0.25
_PILOT_CELLS, _PILOT_STEPS = 48, 60
_STEPS = 60  # of an integration, from the first time to the last
_MULTIPLYING = 4  # times as many cells are followed where they multiply, and some of them drawn

Field = Callable[[NDArray], NDArray]


@dataclass(frozen=True)
class SimulatedSystem:
    """A random autonomous ODE with a random initial distribution and horizon.

    Attributes
    ----------
    family : str
        What makes the cells move.
    velocity : callable
        dx/dt (cells, variables) of states (cells, variables).
    draw_initial : callable
        (cells, variables) of (generator, cells).
    horizon : float
        How long it is watched.
    noise : float
        Standard deviation of intrinsic noise per root of the horizon, in spreads.
    counts : float, optional
        Of a gene that is fully on, for systems that are seen through counts.
    growth : callable, optional
        Births less deaths (cells,) per unit of time, of states.

    Examples
    --------
    >>> system = draw_system(seed=3, dims=4)
    >>> cells = system.followed(np.linspace(0, system.horizon, 5), 20, np.random.default_rng(0))
    >>> cells.states.shape[:2]
    (5, 20)
    """

    family: Family
    velocity: Field
    draw_initial: Callable[[np.random.Generator, int], NDArray]
    horizon: float
    noise: float = 0.0
    counts: float | None = None
    growth: Callable[[NDArray], NDArray] | None = None

    def followed(self, times: NDArray, cells: int, rng: np.random.Generator) -> SimulatedCells:
        """Other cells at each of some times.

        Parameters
        ----------
        times : (times,)
            Ascending, from 0.
        cells : int
            At each time.
        rng : Generator
            Of cells and noise.
        """
        drawn = cells if self.growth is None else _MULTIPLYING * cells
        x = self.draw_initial(rng, drawn * len(times))
        x = x.reshape(len(times), drawn, -1)
        log_mass = np.zeros(x.shape[:2])
        spread = x.std(axis=(0, 1)).mean() if self.noise else 0.0
        now, step = 0.0, self.horizon / _STEPS
        for first, time in enumerate(times):
            # those of earlier times have been taken out, and stay where they are
            steps = int(np.ceil((time - now) / step - 1e-9))
            for _ in range(steps):
                delta = (time - now) / steps
                moving = x[first:]
                half = moving + delta / 2 * self.velocity(moving)
                if self.growth is not None:
                    log_mass[first:] += delta * self.growth(half)
                x[first:] = moving + delta * self.velocity(half)
                if self.noise:
                    scale = self.noise * spread * np.sqrt(delta / self.horizon)
                    x[first:] += scale * rng.normal(size=moving.shape)
            now = time
        if self.growth is not None:
            odds = log_mass + rng.gumbel(size=log_mass.shape)  # without replacement, by their mass
            rows = np.argsort(-odds, axis=1)[:, :cells]
            x = np.take_along_axis(x, rows[..., None], axis=1)
        growth = np.zeros(x.shape[:2]) if self.growth is None else self.growth(x)
        return SimulatedCells(x, self.velocity(x), growth)


@dataclass(frozen=True)
class SimulatedCells:
    """Cells with what drives them.

    Attributes
    ----------
    states : (times, cells, variables)
        Without measurement noise.
    velocity : (times, cells, variables)
        Of these.
    growth : (times, cells)
        Births less deaths per unit of time.
    """

    states: NDArray
    velocity: NDArray
    growth: NDArray


def draw_system(
    seed: int, dims: int, families: tuple[Family, ...] = FAMILIES, attempts: int = 20
) -> SimulatedSystem:
    """A system of a random family, watched while its cells move by a few of their spreads.

    Parameters
    ----------
    seed : int
        Of everything that is drawn.
    dims : int
        Dimensions in which it will be seen; it may have more variables.
    families : tuple of str
        To draw from.
    attempts : int
        Systems that run away or stand still are drawn again, so many times.
    """
    rng = np.random.default_rng((seed, 11))
    shares = np.array([_SHARES[family] for family in families])
    for _ in range(attempts):
        family = families[rng.choice(len(families), p=shares / shares.sum())]
        system = _FAMILY[family](rng, dims)
        if (horizon := _horizon(system, rng)) is not None:
            break
    else:
        system, horizon = _linear(rng, dims), 1.0
    system = replace(system, horizon=horizon, noise=float(rng.choice([0.0, 0.0, 0.1, 0.3])))
    if rng.random() < _GROWING_SHARE:
        system = replace(system, growth=_growth(system, rng))
    return system


def perturbed(system: SimulatedSystem, rng: np.random.Generator) -> SimulatedSystem:
    """The same cells under another condition, watched for as long.

    A variable is held (as in a knock-out), the pace changes, or a field is added: a push in one
    direction, one near some place only, a pull to a place, or a random smooth field; anything from
    hardly at all to a few times as strong as what drives the cells. Some start elsewhere, too.

    Parameters
    ----------
    system : SimulatedSystem
        The control.
    rng : Generator
        Of everything that is drawn.
    """
    followed = system.followed(np.array([0.0, 0.5, 1.0]) * system.horizon, 32, rng)
    flat = followed.states.reshape(-1, followed.states.shape[-1])
    mean, spread = flat.mean(axis=0), flat.std(axis=0) + 1e-9
    speed = np.sqrt(np.square(followed.velocity).mean())
    strength = float(np.exp(rng.uniform(np.log(0.03), np.log(3.0)))) * (rng.random() < 0.9)
    size = strength * speed * spread / np.sqrt(np.square(spread).mean())
    variables = flat.shape[-1]
    direction = rng.normal(size=variables)
    place = flat[rng.integers(len(flat))]
    width = rng.uniform(0.5, 1.5) * np.sqrt(variables)
    inner = rng.normal(size=(variables, 8)) / np.sqrt(variables)
    outer, bias = rng.normal(size=(8, variables)) / np.sqrt(8), rng.normal(size=8)
    held = int(rng.integers(variables))
    level = float(rng.choice([0.0, flat[:, held].min(), flat[:, held].max()]))
    rate = float(np.exp(rng.uniform(np.log(1.0), np.log(10.0)))) / system.horizon
    pace = float(np.exp(np.clip(strength, 0, 1) * rng.choice([-1.0, 1.0])))
    kind = rng.choice(["held", "held", "pace", "push", "near", "pull", "field"])
    moved = rng.normal(size=variables) * rng.choice([0.0, 0.0, 0.0, rng.uniform(0, 1)])

    def velocity(x: NDArray) -> NDArray:
        driven = system.velocity(x)
        if kind == "held":
            driven[..., held] = rate * (level - x[..., held])
            return driven
        if kind == "pace":
            return pace * driven
        away = (x - place) / spread
        if kind == "pull":
            return driven - size * np.clip(away, -3, 3)
        if kind == "field":
            return driven + size * (np.tanh((x - mean) / spread @ inner + bias) @ outer)
        near = np.exp(-0.5 * np.square(away / width).sum(-1, keepdims=True))
        return driven + size * direction * (near if kind == "near" else 1.0)

    def draw_initial(generator: np.random.Generator, cells: int) -> NDArray:
        start = system.draw_initial(generator, cells)
        return start + moved * start.std(axis=0)

    return replace(system, velocity=velocity, draw_initial=draw_initial)


def _horizon(system: SimulatedSystem, rng: np.random.Generator) -> float | None:
    """How long to watch, from a few cells that are followed; None if nothing is to be seen."""
    x = system.draw_initial(rng, _PILOT_CELLS)
    start_spread = x.std(axis=0).mean() + 1e-9
    speed = np.sqrt(np.square(system.velocity(x)).mean()) + 1e-9
    # steps that follow the speed: fast systems are watched for a shorter time
    wanted = np.exp(rng.uniform(np.log(0.7), np.log(8.0)))  # root mean square path, in spreads
    time = path = 0.0
    scale = start_spread
    for _ in range(4 * _PILOT_STEPS):
        delta = 0.1 * max(scale, start_spread) / speed
        x = x + delta * system.velocity(x + delta / 2 * system.velocity(x))
        if not np.isfinite(x).all() or np.abs(x).max() > 1e4:
            return None
        speed = np.sqrt(np.square(system.velocity(x)).mean())
        scale = x.std(axis=0).mean()
        path += delta * speed / max(start_spread, 0.5 * scale)
        time += delta
        if path >= wanted:
            return time
        if speed * time < 1e-3 * start_spread:
            break
    return time if path > 0.3 else None


def _growth(system: SimulatedSystem, rng: np.random.Generator) -> Callable[[NDArray], NDArray]:
    """A random rate: by a switch, a bump or a slope along a direction that the cells take."""
    x = system.followed(np.array([0.0, 0.5, 1.0]) * system.horizon, 32, rng).states
    flat = x.reshape(-1, x.shape[-1])
    mean, spread = flat.mean(axis=0), flat.std(axis=0) + 1e-9
    direction = rng.normal(size=flat.shape[-1])
    direction /= np.linalg.norm(direction)
    strength = rng.uniform(0.5, 4.0) / system.horizon
    centre, steepness = rng.normal() * 0.7, rng.uniform(1.0, 4.0)
    shape = rng.choice(["switch", "bump", "slope", "hill"])
    threshold = float(np.median(np.abs(flat))) + 1e-9
    gene = int(rng.integers(flat.shape[-1]))

    def rate(states: NDArray) -> NDArray:
        if shape == "hill":  # of one variable, as division that a gene switches on
            square = np.square(states[..., gene] / threshold)
            return strength * square / (1 + square)
        along = ((states - mean) / spread) @ direction - centre
        if shape == "switch":
            return strength / (1 + np.exp(-np.clip(steepness * along, -50, 50)))
        if shape == "bump":
            return strength * np.exp(-np.square(along))
        return strength * 0.5 * np.tanh(0.5 * along)

    return rate


def _blobs(rng: np.random.Generator, variables: int, scale: float, centre: NDArray | None = None):
    """One to three groups of cells, round, long or bent, that are `scale` apart."""
    groups = rng.choice([1, 1, 2, 3])
    middle = np.zeros(variables) if centre is None else centre
    centres = middle + scale * rng.normal(size=(groups, variables))
    width = scale * np.exp(rng.uniform(np.log(0.1), np.log(0.8)))
    shapes = rng.normal(size=(groups, variables, variables)) / np.sqrt(variables)
    shapes = shapes * np.exp(0.5 * rng.normal(size=(groups, variables, 1)))
    bends = rng.normal(size=(groups, variables)) * rng.choice([0.0, 0.0, 0.6])
    shares = rng.dirichlet(np.full(groups, 3.0))

    def draw(generator: np.random.Generator, cells: int) -> NDArray:
        group = generator.choice(groups, cells, p=shares)
        normal = generator.normal(size=(cells, variables))
        bent = normal + bends[group] * np.square(normal[:, :1])
        return centres[group] + width * np.einsum("cij,cj->ci", shapes[group], bent)

    return draw


def _smooth(rng: np.random.Generator, dims: int) -> SimulatedSystem:
    """A random network of tanh units, with decay."""
    units = int(rng.integers(4, 33))
    inner = rng.normal(size=(dims, units)) / np.sqrt(dims) * rng.uniform(0.5, 2.0)
    bias = rng.normal(size=units)
    outer = rng.normal(size=(units, dims)) / np.sqrt(units) * rng.uniform(1.0, 3.0)
    decay = rng.uniform(0.0, 1.0)

    def velocity(x: NDArray) -> NDArray:
        return np.tanh(x @ inner + bias) @ outer - decay * x

    return SimulatedSystem("smooth", velocity, _blobs(rng, dims, 1.0), 1.0)


def _genes(rng: np.random.Generator, dims: int) -> SimulatedSystem:
    """Genes that activate and repress each other: switches, cycles, and random sparse edges."""
    genes = dims + int(rng.integers(0, 11))
    weights = rng.normal(size=(genes, genes)) * (rng.random((genes, genes)) < 2.5 / genes) * 4
    if genes >= 2 and rng.random() < 0.5:  # two that exclude each other
        one, other = rng.choice(genes, 2, replace=False)
        weights[[one, other], [one, other]] = rng.uniform(3, 7)
        weights[[one, other], [other, one]] = -rng.uniform(5, 9)
    if genes >= 3 and rng.random() < 0.25:  # a ring of repressions
        ring = rng.choice(genes, 3, replace=False)
        weights[np.ix_(ring, ring)] = 0.0
        weights[ring, np.roll(ring, 1)] = -rng.uniform(6, 12)
    bias = -0.5 * weights.sum(axis=1) + rng.normal(size=genes)
    made = np.exp(0.3 * rng.normal(size=genes))
    decay = made * np.exp(0.2 * rng.normal(size=genes))
    off = rng.random(genes) < rng.uniform(0.2, 1.0)  # at the start

    def velocity(x: NDArray) -> NDArray:
        return made / (1 + np.exp(-np.clip(x @ weights.T + bias, -50, 50))) - decay * x

    start = np.where(off, 0.1, 0.5 + 0.3 * rng.normal(size=genes))
    counts = float(np.exp(rng.uniform(np.log(2), np.log(50)))) if rng.random() < 0.3 else None
    cells = _blobs(rng, genes, 0.15, start)
    return SimulatedSystem(
        "genes", velocity, lambda *drawn: np.maximum(cells(*drawn), 0.0), 1.0, counts=counts
    )


def _wells(rng: np.random.Generator, dims: int) -> SimulatedSystem:
    """Gaussian wells that attract, with rotation around the way down."""
    wells = int(rng.integers(1, 6))
    places = rng.normal(size=(wells, dims)) * rng.uniform(1.0, 2.5)
    depth, width = rng.uniform(0.5, 2.0, wells), rng.uniform(0.8, 2.5, wells)
    turn = rng.normal(size=(dims, dims)) * rng.choice([0.0, 0.5, 1.0]) / np.sqrt(dims)
    way = np.eye(dims) + turn - turn.T
    confinement = rng.uniform(0.0, 0.3)

    def velocity(x: NDArray) -> NDArray:
        offset = places - x[..., None, :]
        near = np.exp(-0.5 * np.square(offset).sum(-1) / width**2 / max(1, dims / 3))
        pull = ((depth / width * near)[..., None] * offset).sum(-2)
        return (pull - confinement * x) @ way.T

    return SimulatedSystem("wells", velocity, _blobs(rng, dims, 1.5), 1.0)


def _linear(rng: np.random.Generator, dims: int) -> SimulatedSystem:
    """One operator and one offset for all cells."""
    operator = rng.normal(size=(dims, dims)) / np.sqrt(dims) * rng.uniform(0.3, 1.0)
    turn = rng.normal(size=(dims, dims)) / np.sqrt(dims) * rng.uniform(0.0, 1.0)
    operator = operator + turn - turn.T - rng.uniform(0.0, 1.0) * np.eye(dims)
    offset = rng.normal(size=dims) * rng.uniform(0.0, 2.0)

    def velocity(x: NDArray) -> NDArray:
        return x @ operator.T + offset

    return SimulatedSystem("linear", velocity, _blobs(rng, dims, 1.0), 1.0)


def _normal_forms(rng: np.random.Generator, dims: int) -> SimulatedSystem:
    """A switch, a limit cycle or a curved slow manifold in a random plane; the rest relaxes."""
    basis = np.linalg.qr(rng.normal(size=(dims, dims)))[0]
    decay = rng.uniform(0.1, 1.5, max(dims - 2, 0))
    kind = rng.choice(["switch", "cycle", "manifold"])
    rate, frequency, bend = rng.uniform(0.3, 1.5), rng.uniform(-2, 2), rng.uniform(-1.5, 1.5)
    tilt = rng.normal() * 0.1
    fast = rng.uniform(0.5, 3.0)

    def velocity(x: NDArray) -> NDArray:
        inside = x @ basis
        p, q = inside[..., 0], inside[..., min(1, dims - 1)]
        if kind == "switch":
            p = np.clip(p, -3, 3)  # what starts far out would fall too fast for the steps
            moves = [rate * (p - p**3 + tilt), fast * (bend * p**2 - q)]
        elif kind == "cycle":
            pull = rate * (1 - np.minimum(p**2 + q**2, 9.0))
            moves = [pull * p - frequency * q, pull * q + frequency * p]
        else:
            moves = [rate * (1 - 0.2 * p), fast * (np.sin(2 * bend * p) - q)]
        rest = -decay * inside[..., 2:]
        return np.concatenate([np.stack(moves[:dims], axis=-1), rest], axis=-1) @ basis.T

    scale = rng.uniform(0.15, 0.7)
    centre = basis @ (rng.normal(size=dims) * rng.choice([0.0, 0.3, 0.8]))
    return SimulatedSystem("normal_forms", velocity, _blobs(rng, dims, scale, centre), 1.0)


def _landscape(rng: np.random.Generator, dims: int) -> SimulatedSystem:
    """Cells that go down a valley, which turns and forks on the way; others come later."""
    basis = np.linalg.qr(rng.normal(size=(dims, dims)))[0]
    pace, brake = rng.uniform(0.5, 2.0), rng.uniform(0.0, 0.5)
    fork, steep = rng.uniform(-0.5, 2.0), rng.uniform(1.0, 4.0)
    bend, turn = rng.uniform(0, 1.5), rng.uniform(0.5, 2.0)
    tilt = rng.normal() * 0.2
    decay = rng.uniform(0.3, 2.0, max(dims - 2, 0))
    second = rng.random() < 0.5 and dims > 2  # the valley bends into a third direction
    end = rng.uniform(1.0, 5.0)

    def velocity(x: NDArray) -> NDArray:
        inside = x @ basis
        along, side = inside[..., 0], inside[..., min(1, dims - 1)]
        ahead = pace / (1 + np.exp(np.clip(4 * (along - end), -50, 50)))
        ahead = ahead * np.exp(-brake * np.clip(along, -2, 4))
        open_ = steep * np.tanh(along - fork)
        rest = -decay * inside[..., 2:]
        if second:
            rest[..., 0] += decay[0] * bend * np.sin(turn * along)
        moves = [ahead, open_ * side + tilt - 0.5 * np.clip(side, -4, 4) ** 3]
        return np.concatenate([np.stack(moves[:dims], axis=-1), rest], axis=-1) @ basis.T

    start = basis[:, 0] * -rng.uniform(0, 1)
    spread = rng.uniform(0.15, 0.5)
    blob = _blobs(rng, dims, spread, start)
    late = rng.uniform(0.0, 1.5)  # how unequally far cells have come at the start

    def draw(generator: np.random.Generator, cells: int) -> NDArray:
        return blob(generator, cells) + late * generator.random((cells, 1)) * basis[:, 0]

    return SimulatedSystem("landscape", velocity, draw, 1.0)


_FAMILY: dict[Family, Callable[[np.random.Generator, int], SimulatedSystem]] = {
    "smooth": _smooth,
    "genes": _genes,
    "wells": _wells,
    "linear": _linear,
    "normal_forms": _normal_forms,
    "landscape": _landscape,
}
