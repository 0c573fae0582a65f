"""The solver of the linear heads: L-BFGS in the principal axes of the features, preconditioned by their power."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from headstart.transfer._heads_common import Array

__all__ = ["LOSSES", "Linear", "solve"]


@dataclass(frozen=True)
class Linear:
    """Weights `W` [r, k] and bias `b` [k] on rotated features, and the mean curvature of the loss there."""

    W: Array
    b: Array
    curvature: float

    def __call__(self, Z: Array) -> Array:
        """Answers [n, k] for rotated features [n, r]."""
        answers: Array = Z @ self.W + self.b
        return answers


Loss = Callable[[Array, Array], tuple[float, Array, float]]


def _softmax_loss(F: Array, Y: Array) -> tuple[float, Array, float]:
    """Cross-entropy summed over items, its slope by F [n, k], and the mean of p (1 - p)."""
    F -= F.max(axis=1, keepdims=True)
    P = np.exp(F)
    total = P.sum(axis=1, keepdims=True)
    loss = float(np.log(total).sum(dtype=np.float64) - (F * Y).sum(dtype=np.float64))
    P /= total
    curvature = float((P * (1 - P)).mean())
    P -= Y
    return loss, P, curvature


def _hinge_loss(F: Array, Y: Array) -> tuple[float, Array, float]:
    """Squared hinge of one class against the rest, summed over items and classes."""
    signs = 2 * Y - 1
    slack = np.maximum(1 - signs * F, 0)
    return float(np.square(slack).sum(dtype=np.float64)), -2 * signs * slack, 2 * float((slack > 0).mean())


def _square_loss(F: Array, Y: Array) -> tuple[float, Array, float]:
    """Squared distance to the one-hot labels, summed over items and classes."""
    F -= Y
    return float(np.square(F).sum(dtype=np.float64)), 2 * F, 2.0


LOSSES: dict[str, Loss] = {"softmax": _softmax_loss, "hinge": _hinge_loss, "square": _square_loss}


def solve(
    Z: Array,
    Y: Array,
    *,
    loss: str,
    penalty: float,
    power: Array,
    start: Linear | None = None,
    exact: bool = True,
) -> Linear:
    """Minimise mean loss + penalty / 2 · |W|² over W [r, k] and a free bias.

    `Z` [n, r] float32, `Y` [n, k] one-hot float32, `power` [r] the sum of squares of each column of Z. In the
    principal axes the Hessian is near diagonal, so dividing each coordinate by the root of its expected curvature
    leaves a round problem: a dozen steps instead of hundreds. Not `exact` stops earlier, near enough to compare
    strengths.
    """
    from scipy.optimize import minimize

    (n, r), k = Z.shape, Y.shape[1]
    measure = LOSSES[loss]
    curvature = max(start.curvature if start is not None else measure(np.zeros_like(Y), Y)[2], 1e-3 / k)
    scale = np.sqrt(np.append(curvature * power / n + penalty, curvature))[:, None]
    state = {"curvature": curvature}

    def objective(flat: Array) -> tuple[float, Array]:
        A = flat.reshape(r + 1, k) / scale
        W = A[:-1].astype(np.float32)
        value, slope, state["curvature"] = measure(Z @ W + A[-1].astype(np.float32), Y)
        gradient = np.empty_like(A)
        gradient[:-1] = (Z.T @ slope) / n + penalty * A[:-1]
        gradient[-1] = slope.sum(axis=0, dtype=np.float64) / n
        return value / n + 0.5 * penalty * float(np.square(A[:-1]).sum()), (gradient / scale).ravel()

    first = np.zeros((r + 1, k)) if start is None else np.vstack([start.W, start.b]) * scale
    options: dict[str, Any] = {"maxiter": 500, "maxcor": 10}
    options |= {"gtol": 1e-7, "ftol": 1e-13} if exact else {"gtol": 1e-4, "ftol": 1e-7}
    found = minimize(objective, first.ravel(), jac=True, method="L-BFGS-B", options=options)
    A = found.x.reshape(r + 1, k) / scale
    return Linear(A[:-1].astype(np.float32), A[-1].astype(np.float32), state["curvature"])
