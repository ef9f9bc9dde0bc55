"""Linear ODEs in closed form: eigenvectors P, eigenvalues λ, offset b → operator, flow, velocity.

The operator that is reported, A = P Λ P⁻¹, is the operator that is solved: both scale coordinates
in the same eigenbasis (:meth:`LinearODE._scale`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import pad

_TINY = 1e-12
_SERIES_RADIUS = 1e-3  # below it φ1 is summed: the remainder x⁴/120 is under 1e-14


def exp_and_phi1(x: Tensor) -> tuple[Tensor, Tensor]:
    """eˣ and φ1(x) = (eˣ - 1) / x, exact and differentiable at and near 0; x real or complex.

    Of `x` (...).
    """
    small = x.abs() < _SERIES_RADIUS
    series = 1 + x / 2 * (1 + x / 3 * (1 + x / 4))
    expm1 = torch.expm1(x)
    return expm1 + 1, torch.where(small, series, expm1 / torch.where(small, torch.ones_like(x), x))


def bounded_eigvals(raw: Tensor, max_rate: float, num_static: int = 0) -> Tensor:
    """Eigenvalues within ±`max_rate`, the last `num_static` of them pinned to 0.

    Parameters
    ----------
    raw : (..., latent_dim - num_static)
        Unbounded network output.
    max_rate : float
        Largest rate, per unit of model time. The bound is smooth and holds on both sides, since a
        decay forward in time is a growth backward.
    num_static : int
        Directions without any motion of their own.

    Returns
    -------
    (..., latent_dim)
    """
    bounded = max_rate * torch.tanh(raw / max_rate)
    return pad(bounded, (0, num_static))


class DenseMatrix:
    """A batch of square matrices M, applied to and solved for vectors that lie in rows.

    Parameters
    ----------
    matrix : (..., d, d)
        Invertible.
    """

    def __init__(self, matrix: Tensor):
        self._matrix = _at_least_float32(matrix)

    @cached_property
    def _lu(self) -> tuple[Tensor, Tensor]:
        """Its factorisation, made once."""
        # the checked variant stops on a singular matrix; training must see the penalty instead
        factors, pivots, _ = torch.linalg.lu_factor_ex(self._matrix)
        return factors, pivots

    def apply(self, rows: Tensor) -> Tensor:
        """M v for every row v of `rows` (..., n, d)."""
        return rows @ self._matrix.mT

    def solve(self, rows: Tensor) -> Tensor:
        """M⁻¹ v for every row v of `rows` (..., n, d)."""
        return torch.linalg.lu_solve(*self._lu, rows.mT).mT

    def determinant(self) -> Tensor:
        """Determinant of M, (...,)."""
        factors, pivots = self._lu
        identity = torch.arange(1, pivots.shape[-1] + 1, device=pivots.device)
        swaps = (pivots != identity).sum(-1)
        return factors.diagonal(dim1=-2, dim2=-1).prod(-1) * (1 - 2 * (swaps % 2))

    def dense(self) -> Tensor:
        """M itself, (..., d, d)."""
        return self._matrix


class LowRankMatrix:
    """A batch of matrices M = s I + U Vᵀ, applied and solved at a cost linear in d.

    Inverse by Woodbury, M⁻¹ = (I - U (s I_r + VᵀU)⁻¹ Vᵀ) / s, and det M = s^(d-r) det(s I_r + VᵀU).

    Parameters
    ----------
    u, v : (..., d, r)
        The two factors.
    scale : float or (...,)
        s, not zero where the matrix is to be inverted.
    """

    def __init__(self, u: Tensor, v: Tensor, scale: float | Tensor = 1.0):
        self._u, self._v = _at_least_float32(u), _at_least_float32(v)
        # filled on the device: a number that is copied there makes the host wait
        if not isinstance(scale, Tensor):
            scale = self._u.new_full((), scale)
        self._scale = scale.to(self._u.dtype)

    @cached_property
    def _core(self) -> Tensor:
        """All that has to be inverted, s I + Vᵀ U, (..., r, r)."""
        rank = torch.eye(self._u.shape[-1], dtype=self._u.dtype, device=self._u.device)
        return self._scale[..., None, None] * rank + self._v.mT @ self._u

    @cached_property
    def _core_inverse_v(self) -> Tensor:
        """V (s I + Vᵀ U)⁻ᵀ, (..., d, r), for the inverse by Woodbury."""
        return self._v @ torch.linalg.inv_ex(self._core)[0].mT

    def apply(self, rows: Tensor) -> Tensor:
        """M v for every row v of `rows` (..., n, d)."""
        return self._scale[..., None, None] * rows + (rows @ self._v) @ self._u.mT

    def solve(self, rows: Tensor) -> Tensor:
        """M⁻¹ v for every row v of `rows` (..., n, d)."""
        return (rows - (rows @ self._core_inverse_v) @ self._u.mT) / self._scale[..., None, None]

    def determinant(self) -> Tensor:
        """Determinant of M, (...,)."""
        dim, rank = self._u.shape[-2:]
        return self._scale ** (dim - rank) * torch.linalg.det(self._core)

    def dense(self) -> Tensor:
        """M itself, (..., d, d)."""
        identity = torch.eye(self._u.shape[-2], dtype=self._u.dtype, device=self._u.device)
        return self.apply(identity).mT


class LinearODE:
    """dz/dt = A z + b with A = P Λ P⁻¹, one for each operating point of a batch.

    Solved in closed form (Cell-MNN, ICLR 2026, extended by the offset b):
    ``z(t+Δt) = exp(AΔt) z + Δt φ1(AΔt) b`` with ``φ1(x) = (eˣ - 1)/x``.

    Parameters
    ----------
    eigvecs : DenseMatrix or LowRankMatrix
        P, (..., d, d); its columns are the eigenvectors.
    eigvals : (..., d)
        λ, per unit of time. With `num_complex_pairs` = q the first 2q entries hold q pairs (α, ω),
        each the eigenvalues α ± iω, a rotation by ω that grows by α.
    offset : (..., d), optional
        b.
    num_complex_pairs : int
        How many of the eigenvalues come in conjugate pairs.

    Examples
    --------
    >>> import torch
    >>> from cellmnn_fm.model.linear_flow import DenseMatrix, LinearODE
    >>> decay_and_drift = torch.tensor([-1.0, 0.0]), torch.tensor([0.0, 2.0])
    >>> ode = LinearODE(DenseMatrix(torch.eye(2)), *decay_and_drift)
    >>> ode.operator()
    tensor([[-1.,  0.],
            [ 0.,  0.]])
    >>> ode.flow(torch.ones(2), 1.0)  # e⁻¹ of the first axis is left, the second moved by 2
    tensor([0.3679, 3.0000])
    """

    def __init__(
        self,
        eigvecs: DenseMatrix | LowRankMatrix,
        eigvals: Tensor,
        offset: Tensor | None = None,
        num_complex_pairs: int = 0,
    ):
        self.eigvecs = eigvecs
        self.eigvals = _at_least_float32(eigvals)
        self.offset = None if offset is None else _at_least_float32(offset)
        self._split = 2 * num_complex_pairs

    def flow(self, z: Tensor, delta_t: float | Tensor) -> Tensor:
        """Where the state `z` is after `delta_t`.

        Parameters
        ----------
        z : (..., d)
            States at the operating points.
        delta_t : float or (..., times)
            Time differences, of either sign.

        Returns
        -------
        (..., times, d), or (..., d) for a single `delta_t` without an axis of times.
        """
        return self.flow_and_velocity(z, delta_t)[0]

    def flow_and_velocity(self, z: Tensor, delta_t: float | Tensor) -> tuple[Tensor, Tensor]:
        """Where the state `z` is after `delta_t`, and dz/dt there; see :meth:`flow` for shapes.

        `z` (..., d) after `delta_t` (...).
        """
        z = _at_least_float32(z)
        delta_t = torch.as_tensor(delta_t, dtype=z.dtype, device=z.device)
        single = delta_t.ndim == 0
        span = delta_t.reshape(1, 1) if single else delta_t[..., None]
        with torch.autocast(z.device.type, enabled=False):
            start = self.eigvecs.solve(z[..., None, :])
            if self.offset is None:
                coordinates = self._scale([torch.exp(rate * span) for rate in self._rates], start)
                rates = self._scale(self._rates, coordinates)
            else:
                drift = self.eigvecs.solve(self.offset[..., None, :])
                integrals = [exp_and_phi1(rate * span) for rate in self._rates]
                growth, phi1 = zip(*integrals, strict=True)
                coordinates = self._scale(growth, start) + span * self._scale(phi1, drift)
                rates = self._scale(self._rates, coordinates) + drift
            rows = torch.cat([coordinates, rates], dim=-2)
            states, velocity = self.eigvecs.apply(rows).chunk(2, dim=-2)
        return (states.squeeze(-2), velocity.squeeze(-2)) if single else (states, velocity)

    def velocity(self, z: Tensor) -> Tensor:
        """dz/dt = A z + b at states `z`: (..., d), or (..., n, d) for n states of each operator."""
        rows = _at_least_float32(z)
        if single := rows.ndim == self.eigvals.ndim:
            rows = rows[..., None, :]
        velocity = self._apply_operator(rows)
        if self.offset is not None:
            velocity = velocity + self.offset[..., None, :]
        return velocity.squeeze(-2) if single else velocity

    def operator(self) -> Tensor:
        """A, (..., d, d); row = target, column = source."""
        identity = torch.eye(
            self.eigvals.shape[-1], dtype=self.eigvals.dtype, device=self.eigvals.device
        )
        return self._apply_operator(identity).mT

    def augmented_operator(self) -> Tensor:
        """[[A, b], [0, 0]], (..., d+1, d+1): its matrix exponential carries (z, 1) along."""
        operator = self.operator()
        offset = torch.zeros_like(operator[..., 0]) if self.offset is None else self.offset
        upper = torch.cat([operator, offset.expand_as(operator[..., 0])[..., None]], dim=-1)
        return pad(upper, (0, 0, 0, 1))

    def determinant(self) -> Tensor:
        """Determinant of P, (...,): how far the eigenvectors are from being dependent."""
        return self.eigvecs.determinant()

    @property
    def _rates(self) -> list[Tensor]:
        """λ (..., 1, d): the complex pairs as α + iω where there are any, then the real ones."""
        eigvals = self.eigvals[..., None, :]
        if not self._split:
            return [eigvals]
        return [_as_complex(eigvals[..., : self._split]), eigvals[..., self._split :]]

    def _apply_operator(self, rows: Tensor) -> Tensor:
        """A v = P Λ P⁻¹ v for every row v of `rows` (..., n, d)."""
        with torch.autocast(rows.device.type, enabled=False):
            return self.eigvecs.apply(self._scale(self._rates, self.eigvecs.solve(rows)))

    def _scale(self, factors: Sequence[Tensor], coordinates: Tensor) -> Tensor:
        """Rows of coordinates in the eigenbasis times a function of the eigenvalues."""
        if not self._split:
            return factors[0] * coordinates
        # the block [[α, -ω], [ω, α]] acts on (y₁, y₂) as α + iω acts on y₁ + i y₂
        rotated = factors[0] * _as_complex(coordinates[..., : self._split])
        scaled = factors[1] * coordinates[..., self._split :]
        return torch.cat([torch.view_as_real(rotated).flatten(-2), scaled], dim=-1)


class LowRankODE:
    """dz/dt = A z + b with A = a I + U Vᵀ, in closed form at the cost of its rank.

    Nothing in it depends on the axes: with U, V and b turned, the solution is turned. With
    M = [[VᵀU, Vᵀb], [0, -a]] and w = (Vᵀz, 1),

        z(t + Δt) = exp(a Δt) (z + [U, b] Δt φ1(M Δt) w),

    where φ1 comes from the exponential of a matrix of two more rows than the rank.

    Parameters
    ----------
    left, right : (..., d, r)
        U and V.
    rate : (...)
        a, per unit of time.
    offset : (..., d)
        b.

    Examples
    --------
    >>> import torch
    >>> from cellmnn_fm.model.linear_flow import LowRankODE
    >>> turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    >>> ode = LowRankODE(turn, torch.eye(2), torch.tensor(0.0), torch.zeros(2))
    >>> ode.flow(torch.tensor([1.0, 0.0]), torch.pi / 6)  # a twelfth of a turn
    tensor([0.8660, 0.5000])
    """

    def __init__(self, left: Tensor, right: Tensor, rate: Tensor, offset: Tensor):
        self.left, self.right, self.rate, self.offset = (
            _at_least_float32(part) for part in (left, right, rate, offset)
        )

    def flow(self, z: Tensor, delta_t: float | Tensor) -> Tensor:
        """Where the state `z` is after `delta_t`; as :meth:`LinearODE.flow`.

        `z` (..., d) after `delta_t` (..., times), or a number.
        """
        return self.flow_and_velocity(z, delta_t)[0]

    def flow_and_velocity(self, z: Tensor, delta_t: float | Tensor) -> tuple[Tensor, Tensor]:
        """Where the state `z` is after `delta_t`, and dz/dt there.

        `z` (..., d) after `delta_t` (..., times), or a number.
        """
        z = _at_least_float32(z)
        delta_t = torch.as_tensor(delta_t, dtype=z.dtype, device=z.device)
        single = delta_t.ndim == 0
        span = delta_t.reshape(1) if single else delta_t
        with torch.autocast(z.device.type, enabled=False):
            rank = self.left.shape[-1]
            columns = torch.cat([self.left, self.offset[..., None]], dim=-1)
            upper = self.right.mT @ torch.cat([columns, z[..., None]], dim=-1)
            # [[M, w], [0, 0]]: its exponential has φ1(M) w in the last column
            below = torch.stack([-self.rate, torch.ones_like(self.rate)], dim=-1)
            row = pad(below, (rank, 0)).expand_as(upper[..., 0, :])[..., None, :]
            generator = pad(torch.cat([upper, row], dim=-2), (0, 0, 0, 1))
            exponential = torch.linalg.matrix_exp(
                generator[..., None, :, :] * span[..., None, None]
            )
            shares = exponential[..., : rank + 1, rank + 1]  # (..., times, r + 1)
            growth = torch.exp(self.rate[..., None] * span)[..., None]
            states = growth * (z[..., None, :] + shares @ columns.mT)
            velocity = self._apply_operator(states) + self.offset[..., None, :]
        return (states.squeeze(-2), velocity.squeeze(-2)) if single else (states, velocity)

    def velocity(self, z: Tensor) -> Tensor:
        """dz/dt = A z + b at states `z`: (..., d), or (..., n, d) for n states of each operator."""
        rows = _at_least_float32(z)
        if single := rows.ndim == self.offset.ndim:
            rows = rows[..., None, :]
        velocity = self._apply_operator(rows) + self.offset[..., None, :]
        return velocity.squeeze(-2) if single else velocity

    def operator(self) -> Tensor:
        """A, (..., d, d); row = target, column = source."""
        dims = self.offset.shape[-1]
        identity = torch.eye(dims, dtype=self.offset.dtype, device=self.offset.device)
        return self._apply_operator(identity).mT

    def augmented_operator(self) -> Tensor:
        """[[A, b], [0, 0]], (..., d+1, d+1): its matrix exponential carries (z, 1) along."""
        return pad(torch.cat([self.operator(), self.offset[..., None]], dim=-1), (0, 0, 0, 1))

    def _apply_operator(self, rows: Tensor) -> Tensor:
        """A v for every row v of `rows` (..., n, d)."""
        with torch.autocast(rows.device.type, enabled=False):
            return self.rate[..., None, None] * rows + (rows @ self.right) @ self.left.mT


def bounded_low_rank(
    left: Tensor, right: Tensor, rate: Tensor, max_rate: float
) -> tuple[Tensor, Tensor, Tensor]:
    """U, V and a of a [`LowRankODE`] with ‖U Vᵀ‖ and ±a within `max_rate`, smoothly.

    Parameters
    ----------
    left, right : (..., d, r)
        Unbounded network output.
    rate : (...)
        Likewise.
    max_rate : float
        Largest rate, per unit of model time.
    """
    left, right, rate = (_at_least_float32(part) for part in (left, right, rate))
    # the root of 0 has no slope, and an untrained network has U = 0
    norms = [part.square().sum((-1, -2)).add(_TINY).sqrt() for part in (left, right)]
    shrunk = max_rate / (max_rate + norms[0] * norms[1])
    return left * shrunk[..., None, None], right, max_rate * torch.tanh(rate / max_rate)


def _as_complex(pairs: Tensor) -> Tensor:
    """(..., 2q) → complex (..., q)."""
    return torch.view_as_complex(pairs.unflatten(-1, (-1, 2)).contiguous())


def _at_least_float32(tensor: Tensor) -> Tensor:
    """Half precision is too coarse for an exponential."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
