"""Learning rate over the steps of a run, and the order of its items: pure functions of (seed, epoch, step)."""

from __future__ import annotations

import math

import numpy as np

__all__ = ["epoch_order", "rate_factor", "step_seed"]


def rate_factor(step: int, total: int, *, warmup: float, kind: str = "cosine") -> float:
    """Factor on the base rates at `step` of `total`: linear warm-up, then half a cosine to zero or constant.

    Cosine: Loshchilov & Hutter 2017, SGDR, equation 5 without restarts.
    """
    rising = round(warmup * total)
    if step < rising:
        return (step + 1) / rising
    if kind == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, total - rising)))


def epoch_order(n: int, batch_size: int, *, seed: int, epoch: int) -> list[np.ndarray]:
    """Positions of one epoch in random order, in batches of nearly equal size."""
    order = np.random.default_rng((seed, epoch)).permutation(n)
    return np.array_split(order, math.ceil(n / batch_size)) if n else []


def step_seed(seed: int, epoch: int, step: int, rank: int = 0) -> int:
    """Seed of the random numbers inside one step (dropout, mixup): the same after a resume as without one."""
    return int(np.random.SeedSequence((seed, epoch, step, rank)).generate_state(1, np.uint64)[0] >> 1)
