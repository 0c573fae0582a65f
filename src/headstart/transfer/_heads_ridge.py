"""Ridge in closed form, for all folds and strengths from the same sums over the rows.

Least squares with a penalty needs of the rows only their sums of products. Those of each section are taken once; a fit
adds up the sections that it sees and solves one symmetric system (Hoerl & Kennard 1970, with a free bias).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from headstart.transfer._heads_common import Array
from headstart.transfer._heads_pool import spread

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["MOST", "Sums", "solve_square", "sums_of"]

MOST = 1 << 25
"""Numbers of products that are kept, 256 MB: with more, the fits go step by step."""
_ROWS = 1024


@dataclass(frozen=True)
class Sums:
    """Of each section, in float64: `rows` [s], sums of `z` [s, r] and one-hot `y` [s, k], of `zz` [s, r, r], `zy`."""

    rows: Tensor
    z: Tensor
    y: Tensor
    zz: Tensor
    zy: Tensor


def sums_of(Z: Array, y: Array, *, classes: int, bounds: Sequence[int] | Array) -> Sums:
    """The sums of rows Z [n, r] with class numbers y [n], in sections that end at `bounds`."""
    import torch

    sections, r = len(bounds) - 1, Z.shape[1]
    found = Sums(*(torch.zeros(sections, *shape, dtype=torch.float64) for shape in _shapes(r, classes)))
    todo = [
        (section, slice(begin, min(begin + _ROWS, int(bounds[section + 1]))))
        for section in range(sections)
        for begin in range(int(bounds[section]), int(bounds[section + 1]), _ROWS)
    ]

    def products(block: tuple[int, slice]) -> tuple[int, tuple[Tensor, ...]]:
        section, rows = block
        z = torch.from_numpy(Z[rows]).double()
        goals = torch.nn.functional.one_hot(torch.from_numpy(y[rows]), classes).double()
        return section, (torch.tensor(float(len(z))), z.sum(0), goals.sum(0), z.T @ z, z.T @ goals)

    for section, parts in spread(products, todo):
        for total, part in zip((found.rows, found.z, found.y, found.zz, found.zy), parts, strict=True):
            total[section] += part
    return found


def _shapes(r: int, k: int) -> tuple[tuple[int, ...], ...]:
    return (), (r,), (k,), (r, r), (r, k)


def solve_square(sums: Sums, sees: Array, strength: float) -> Array:
    """Weights and bias [fits, k, r + 1] with the least Σ |z W + b − y|² + strength |W|² over the sections seen.

    `sees` [fits, sections] bool; `strength` above 0. A class that a fit does not see gets zeros.
    """
    import torch

    def fit(seen: Array) -> Array:
        chosen = torch.from_numpy(np.flatnonzero(seen))
        n = sums.rows[chosen].sum()
        z, y = sums.z[chosen].sum(0) / n, sums.y[chosen].sum(0) / n
        system = sums.zz[chosen].sum(0).addmm_(z[:, None], z[None, :] * -n)
        system.diagonal().add_(strength)
        weights = torch.cholesky_solve(sums.zy[chosen].sum(0) - n * torch.outer(z, y), torch.linalg.cholesky(system))
        return torch.cat([weights, (y - z @ weights)[None]]).T.contiguous().numpy()

    return np.stack(list(spread(fit, list(sees))))
