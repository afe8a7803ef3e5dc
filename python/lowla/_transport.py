"""What the transport solvers return: potentials, and what they determine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from lowla import _backend, _checks
from lowla._results import Array, TransportInfo, _Named

if TYPE_CHECKING:
    from scipy.sparse import csr_array
    from typing_extensions import Self

    from lowla._arrays import Cost, Matrix, Points
    from lowla._backend import Backend


@dataclass(frozen=True)
class Problem:
    """The cost of a transport problem, C or (X, Y) and the metric, and what was found for it."""

    operands: tuple[Matrix, ...]
    metric: str | None
    reg: float
    potentials: tuple[Array, Array]  # in main memory
    value: float
    value_linear: float

    def backend_for(self, function: str) -> tuple[Backend, list[Matrix]]:
        """The backend, and the operands where it computes."""
        name, backend = _backend.select_for(function, self.operands[0].device)
        return backend, [M.for_backend(name) for M in self.operands]


def cost_payload(operands: Sequence[Matrix], metric: str | None) -> Cost:
    """C, or (X, Y, metric)."""
    if metric is None:
        return operands[0].dense
    return operands[0].dense, operands[1].dense, metric


class TransportResult(_Named[TransportInfo]):
    """Entropic optimal transport; unpacks as `f, g = result`.

    The plan is P_ij = exp((f_i + g_j - C_ij) / reg). It, the sparse plan and the gradients are
    computed from f, g and the cost when they are asked for: change C in between, and they change.

    Attributes
    ----------
    f : (m,) float64 array, potentials of the rows; -inf where the weight is 0
    g : (n,) float64 array, potentials of the columns; -inf where the weight is 0
    info : TransportInfo
    """

    _names = __match_args__ = ("f", "g")
    _problem: Problem

    def __new__(cls, values: Sequence[object], info: TransportInfo, problem: Problem) -> Self:
        self = super().__new__(cls, values, info)
        object.__setattr__(self, "_problem", problem)
        return self

    def __getnewargs__(self) -> tuple[Any, ...]:
        return tuple(self), self.info, self._problem

    @property
    def f(self) -> Array:
        """Potentials of the rows, (m,), in units of the cost."""
        return cast(Array, self[0])

    @property
    def g(self) -> Array:
        """Potentials of the columns, (n,), in units of the cost."""
        return cast(Array, self[1])

    @property
    def value(self) -> float:
        """The minimum of <P, C> + reg · Σ P (log P - 1), from the dual objective.

        aᵀf + bᵀg - reg · Σ P is at most the minimum, and differs from it by the square of the
        marginal error, to first order.
        """
        return self._problem.value

    @property
    def value_linear(self) -> float:
        """<P, C>, the transport cost of the plan."""
        return self._problem.value_linear

    @property
    def plan(self) -> Array:
        """P, (m, n), in the dtype of the cost matrix (float64 for points)."""
        backend, operands = self._problem.backend_for("transport_plan")
        cost = cost_payload(operands, self._problem.metric)
        with operands[0].current_device():
            found = backend.transport_plan(cost, *self._problem.potentials, self._problem.reg)
            return operands[0].wrap(found)

    def plan_sparse(self, threshold: float) -> csr_array:
        """The entries of the plan that are at least `threshold`, as a `scipy.sparse.csr_array` (in
        main memory, wherever the costs are).

        Parameters
        ----------
        threshold : float
            Greater than 0. The dropped mass is below m·n·threshold.

        Returns
        -------
        (m, n) csr_array of float64

        Raises
        ------
        ValueError, TypeError
            If the threshold is not a finite number greater than 0.
        """
        from scipy.sparse import csr_array

        number = _checks.positive("threshold", threshold)
        backend, operands = self._problem.backend_for("transport_sparse")
        cost = cost_payload(operands, self._problem.metric)
        potentials, reg = self._problem.potentials, self._problem.reg
        indptr, indices, data = backend.transport_sparse(cost, *potentials, reg, number)
        shape = (len(potentials[0]), len(potentials[1]))
        return csr_array((data, indices, indptr), shape=shape)

    @property
    def grad_a(self) -> Array:
        """The gradient of `value` by a: f, up to a constant (a and b keep equal sums)."""
        return self.f

    @property
    def grad_b(self) -> Array:
        """The gradient of `value` by b: g, up to a constant (a and b keep equal sums)."""
        return self.g

    @property
    def grad_C(self) -> Array:
        """The gradient of `value` by the cost matrix: the plan."""
        return self.plan


class PointsTransportResult(TransportResult):
    """A `TransportResult` between points, with gradients by their coordinates."""

    @property
    def grad_X(self) -> Array:
        """The gradient of `value` by X, (m, d): Σ_j P_ij ∂C_ij/∂x_i."""
        return self._gradients()[0]

    @property
    def grad_Y(self) -> Array:
        """The gradient of `value` by Y, (n, d): Σ_i P_ij ∂C_ij/∂y_j."""
        return self._gradients()[1]

    def _gradients(self) -> tuple[Array, Array]:
        backend, (X, Y) = self._problem.backend_for("transport_gradient")
        cost = cast("Points", cost_payload([X, Y], self._problem.metric))
        with X.current_device():
            by_x, by_y = backend.transport_gradient(
                cost, *self._problem.potentials, self._problem.reg
            )
            return X.wrap(by_x.astype(X.dtype)), Y.wrap(by_y.astype(Y.dtype))


@dataclass(frozen=True, repr=False)
class DivergenceResult:
    """A Sinkhorn divergence.

    Attributes
    ----------
    value : OT(X, Y) - OT(X, X) / 2 - OT(Y, Y) / 2
    xy, xx, yy : the three `PointsTransportResult`
    """

    value: float
    xy: PointsTransportResult
    xx: PointsTransportResult
    yy: PointsTransportResult

    @property
    def converged(self) -> bool:
        """Whether all three transports reached their tolerance."""
        return all(part.info.converged for part in (self.xy, self.xx, self.yy))

    @property
    def grad_X(self) -> Array:
        """The gradient of `value` by X, (m, d)."""
        left, right = self.xx._gradients()
        return cast(Array, self.xy.grad_X - (left + right) / 2)

    @property
    def grad_Y(self) -> Array:
        """The gradient of `value` by Y, (n, d)."""
        left, right = self.yy._gradients()
        return cast(Array, self.xy.grad_Y - (left + right) / 2)

    def __float__(self) -> float:
        return self.value

    def __repr__(self) -> str:
        lines = [f"DivergenceResult: {self.value:.6g}"]
        for name, part in (("XY", self.xy), ("XX", self.xx), ("YY", self.yy)):
            info = part.info
            lines.append(
                f"  {'OT ' + name:<15}{part.value:.6g}, marginal error {info.marginal_error:.3g}, "
                f"{info.sweeps} sweeps, {info.newton_steps} Newton steps"
            )
        return "\n".join(lines)
