"""The solver of the linear heads: many L-BFGS fits side by side, in the principal axes, preconditioned by their power.

Cross-validation asks for the same fit on several parts of the same rows. Here each part is a *fit* of its own (its own
penalty, curvature and step), but all answers of a block of rows come from one matrix product, and the rows are read
once for all fits and for both products of a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from headstart.transfer._heads_common import Array
from headstart.transfer._heads_pool import spread

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LOSSES", "Fits", "Parts", "solve"]

_BLOCK = 1 << 22  # numbers of a block of rows, or of its answers: 16 MB in float32
_MEMORY = 10  # steps that L-BFGS remembers
_STEPS = 300  # steps at most
_HALVINGS = 10  # of one step


def _softmax_loss(F: Tensor, y: Tensor, absent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy of answers F [fits, classes, rows], summed over rows: loss [fits], slope by F, curvature.

    The curvature [fits, classes] is the sum of p (1 - p). Classes that are `absent` [fits, classes] get no
    probability. F is overwritten.
    """
    import torch

    if absent.any():
        F.masked_fill_(absent[:, :, None], -1e30)
    true = y[None, None, :].expand(len(F), 1, -1)
    chances = torch.log_softmax(F, dim=1)
    loss = -chances.gather(1, true)[:, 0].sum(dim=1, dtype=torch.float64)
    chances.exp_()
    curvature = torch.sub(chances, torch.mul(chances, chances, out=F), out=F).sum(dim=2)
    return loss, chances.scatter_add_(1, true, torch.full_like(F[:, :1], -1)), curvature


def _hinge_loss(F: Tensor, y: Tensor, absent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Squared hinge of one class against the rest, summed over rows and classes; as _softmax_loss."""
    import torch

    signs = torch.ones_like(F).scatter_(1, y[None, None, :].expand(len(F), 1, -1), -1)
    slack = F.mul_(signs).add_(1).clamp_(min=0).masked_fill_(absent[:, :, None], 0)
    loss = slack.square().sum(dim=2).sum(dim=1, dtype=torch.float64)
    curvature = 2.0 * (slack > 0).sum(dim=2)
    return loss, signs.mul_(slack).mul_(2), curvature


def _square_loss(F: Tensor, y: Tensor, absent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Squared distance to the one-hot labels, summed over rows and classes; as _softmax_loss."""
    import torch

    true = y[None, None, :].expand(len(F), 1, -1)
    F.scatter_add_(1, true, torch.full_like(F[:, :1], -1)).masked_fill_(absent[:, :, None], 0)
    loss = F.square().sum(dim=2).sum(dim=1, dtype=torch.float64)
    return loss, F.mul_(2), F.new_full(F.shape[:2], 2.0 * F.shape[2])


Loss = Callable[["Tensor", "Tensor", "Tensor"], "tuple[Tensor, Tensor, Tensor]"]
LOSSES: dict[str, Loss] = {"softmax": _softmax_loss, "hinge": _hinge_loss, "square": _square_loss}


@dataclass(frozen=True)
class Parts:
    """What is fitted on what: rows `Z` [n, r] in sections, and the sections that each fit sees.

    `y` [n] are class numbers below `classes`, `bounds` [sections + 1] where sections begin and end, `sees`
    [fits, sections], `power` [r] the sum of squares of each column of Z.
    """

    Z: Array
    y: Array
    classes: int
    bounds: Array
    sees: Array
    power: Array

    @property
    def counts(self) -> Array:
        """Rows [fits] that each fit sees."""
        total: Array = self.sees @ np.diff(self.bounds)
        return total

    def absent(self) -> Array:
        """Classes [fits, classes] that a fit never sees."""
        ends = zip(self.bounds[:-1], self.bounds[1:], strict=True)
        held = np.stack([np.bincount(self.y[a:b], minlength=self.classes) for a, b in ends])
        nothing: Array = (self.sees.astype(np.int64) @ held) == 0
        return nothing

    def wide(self) -> Parts:
        """The same in float64."""
        import torch

        return replace(self, Z=torch.from_numpy(self.Z).double().numpy())

    def only(self, fits: Array | slice) -> Parts:
        """The same for some of the fits."""
        return replace(self, sees=self.sees[fits])


@dataclass(frozen=True)
class Fits:
    """Weights and bias `A` [fits, classes, r + 1] of several fits, the bias last."""

    A: Array

    def answers(self, Z: Array, fit: int) -> Array:
        """Answers [n, classes] of one fit for rows [n, r], float32."""
        weights = self.A[fit].astype(np.float32)
        found: Array = Z @ weights[:, :-1].T + weights[:, -1]
        return found


def _measure(parts: Parts, A: Array, *, loss: str, penalty: Array, absent: Array) -> tuple[Array, Array, Array]:
    """Mean loss + penalty / 2 · |W|² of each fit [fits], its slope by A, and the mean curvature [fits, classes]."""
    import torch

    (fits, k, _), r = A.shape, parts.Z.shape[1]
    Z, y, gone = torch.from_numpy(parts.Z), torch.from_numpy(parts.y), torch.from_numpy(absent)
    weights = torch.from_numpy(A).to(Z.dtype)
    value, curvature = torch.zeros(fits, dtype=torch.float64), torch.zeros(fits, k, dtype=torch.float64)
    slope = torch.zeros(A.shape, dtype=torch.float64)
    active = [torch.from_numpy(np.flatnonzero(seen)) for seen in parts.sees.T]
    W = [weights[seen, :, :-1].reshape(len(seen) * k, r) for seen in active]
    b = [weights[seen, :, -1:] for seen in active]

    def work(block: tuple[int, slice]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        (section, rows), z = block, Z[block[1]]
        seen, flat = active[section], (len(W[section]), len(z))
        F = torch.mm(z, W[section].T).T.contiguous().view(len(seen), k, len(z)).add_(b[section])
        lost, F, curved = LOSSES[loss](F, y[rows], gone[seen])
        return seen, lost, curved, F.sum(dim=2), torch.mm(F.view(flat), z).view(len(seen), k, r)

    for seen, lost, curved, shift, pull in spread(work, _blocks(parts, fits * k)):
        value[seen] += lost
        curvature[seen] += curved
        slope[seen, :, -1] += shift
        slope[seen, :, :-1] += pull
    n, squares = parts.counts, np.square(A[:, :, :-1]).sum(axis=(1, 2))
    found = slope.numpy() / n[:, None, None]
    found[:, :, :-1] += penalty[:, None, None] * A[:, :, :-1]
    return value.numpy() / n + 0.5 * penalty * squares, found, curvature.numpy() / n[:, None]


def _blocks(parts: Parts, columns: int) -> Iterator[tuple[int, slice]]:
    """Sections that some fit sees, and rows in them: near to equal blocks, small enough to share."""
    height = max(64, min(1024, _BLOCK // max(parts.Z.shape[1], columns)))
    for section in np.flatnonzero(parts.sees.any(axis=0)):
        begin, end = int(parts.bounds[section]), int(parts.bounds[section + 1])
        edges = np.linspace(begin, end, -(-(end - begin) // height) + 1).round().astype(int)
        yield from ((int(section), slice(int(a), int(b))) for a, b in pairwise(edges))


def _dot(a: Array, b: Array) -> Array:
    product: Array = np.einsum("fi,fi->f", a.reshape(len(a), -1), b.reshape(len(b), -1))
    return product


_Step = tuple[Array, Array, Array]  # move, change of slope, 1 / their product


def _direction(slope: Array, inverse: Array, steps: list[_Step]) -> Array:
    """The two-loop recursion (Nocedal & Wright 2006, algorithm 7.4) of every fit, from an inverse diagonal Hessian."""
    q = slope.copy()
    factors = []
    for move, change, rho in reversed(steps):
        factor = rho * _dot(move, q)
        q -= factor[:, None, None] * change
        factors.append(factor)
    if steps:
        change, rho = steps[-1][1:]
        size = rho * _dot(change, inverse * change)
        q *= np.where(size > 0, 1 / np.where(size > 0, size, 1), 1)[:, None, None]
    q *= inverse
    for (move, change, rho), factor in zip(steps, reversed(factors), strict=True):
        q += (factor - rho * _dot(change, q))[:, None, None] * move
    return q


@dataclass(frozen=True)
class _Aim:
    """What is minimised, fit by fit."""

    parts: Parts
    loss: str
    penalty: Array
    absent: Array

    def only(self, fits: Array) -> _Aim:
        return _Aim(self.parts.only(fits), self.loss, self.penalty[fits], self.absent[fits])

    def __call__(self, A: Array) -> _Point:
        return _Point(A, *_measure(self.parts, A, loss=self.loss, penalty=self.penalty, absent=self.absent))


@dataclass(frozen=True)
class _Point:
    """Where the fits stand: their weights, and loss, slope and curvature there."""

    A: Array
    value: Array
    slope: Array
    curvature: Array

    def only(self, fits: Array) -> _Point:
        return _Point(self.A[fits], self.value[fits], self.slope[fits], self.curvature[fits])

    def put(self, fits: Array, other: _Point) -> None:
        """Set some of the fits to another point, in place."""
        for name in ("A", "value", "slope", "curvature"):
            getattr(self, name)[fits] = getattr(other, name)


def _moved(aim: _Aim, here: _Point, way: Array, gain: Array) -> tuple[_Point, Array]:
    """The fits after a step against `way` [fits, classes, r + 1], halved until it helps; and which ones it helped.

    `gain` is the slope along the way; a step helps when the loss falls by 1e-4 of what the slope foretells (Armijo).
    """
    size = np.ones(len(gain))
    there = aim(here.A - way)
    for _ in range(_HALVINGS):
        short = np.flatnonzero(~(there.value <= here.value - 1e-4 * size * gain))
        if not len(short):
            break
        size[short] *= 0.5
        there.put(short, aim.only(short)(here.A[short] - size[short, None, None] * way[short]))
    return there, there.value <= here.value - 1e-4 * size * gain


def solve(parts: Parts, *, loss: str, penalty: Array, start: Array | None = None, tolerance: float = 1e-9) -> Fits:
    """Minimise mean loss + `penalty` / 2 · |W|² of each fit [fits] over W and a free bias, all fits side by side.

    `start` [fits, classes, r + 1] are weights to begin at. In the principal axes the Hessian is near diagonal, so
    dividing each coordinate by its expected curvature leaves a round problem: a few dozen steps instead of hundreds.
    A fit stops where a Newton step would gain less than half of `tolerance` nats, or no step gains anything in the
    arithmetic of Z.
    """
    aim = _Aim(parts, loss, penalty, parts.absent())
    power = np.append(parts.power / len(parts.Z), 1.0)
    shape = (len(penalty), parts.classes, len(power))
    here = aim(np.zeros(shape) if start is None else start.astype(np.float64))
    found = Fits(here.A.copy())
    live, steps = np.arange(len(penalty)), list[_Step]()
    for _ in range(_STEPS):
        curvature = np.maximum(here.curvature, 1e-3 / parts.classes)
        inverse = curvature[:, :, None] * power
        inverse[:, :, :-1] += aim.penalty[:, None, None]
        way = _direction(here.slope, 1 / inverse, steps)
        gain = _dot(here.slope, way)
        there, better = _moved(aim, here, way, gain) if (gain > tolerance).any() else (here, gain > tolerance)
        found.A[live[better]] = there.A[better]
        steps = [*steps, _step(here, there)][-_MEMORY:]
        going = better & (gain > tolerance)
        if not going.all():
            aim, there, live = aim.only(going), there.only(going), live[going]
            steps = [(move[going], change[going], rho[going]) for move, change, rho in steps]
        if not len(live):
            break
        here = there
    return found


def _step(here: _Point, there: _Point) -> _Step:
    move, change = there.A - here.A, there.slope - here.slope
    product = _dot(move, change)
    return move, change, np.where(product > 0, 1 / np.where(product > 0, product, 1), 0.0)
