"""Rates, orders and seeds are pure functions of (seed, epoch, step); heads of a network begin from their seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.transfer.net import fresh_head, head_of
from headstart.transfer.schedule import epoch_order, rate_factor, step_seed


def test_the_rate_rises_to_the_base_and_falls_by_half_a_cosine() -> None:
    factors = [rate_factor(step, 100, warmup=0.1) for step in range(100)]
    assert factors[:10] == pytest.approx([0.1 * n for n in range(1, 11)])
    assert factors[10] == 1.0
    assert factors[55] == pytest.approx(0.5)
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert 0 < factors[-1] < 1e-3
    assert {rate_factor(step, 100, warmup=0.1, kind="constant") for step in range(10, 100)} == {1.0}


@settings(max_examples=60, deadline=None)
@given(step=st.integers(0, 50), more=st.integers(1, 50), warmup=st.floats(0, 1))
def test_a_factor_is_never_negative_nor_above_one(step: int, more: int, warmup: float) -> None:
    assert 0 <= rate_factor(step, step + more, warmup=warmup) <= 1


@settings(max_examples=60, deadline=None)
@given(n=st.integers(0, 200), batch=st.integers(1, 40), seed=st.integers(0, 9), epoch=st.integers(0, 9))
def test_an_epoch_visits_every_item_once_in_batches_of_nearly_one_size(
    n: int, batch: int, seed: int, epoch: int
) -> None:
    order = epoch_order(n, batch, seed=seed, epoch=epoch)
    sizes = [len(positions) for positions in order]
    assert sorted(np.concatenate([*order, np.empty(0, int)]).tolist()) == list(range(n))
    assert all(size <= batch for size in sizes)
    assert max(sizes, default=0) - min(sizes, default=0) <= 1
    again = epoch_order(n, batch, seed=seed, epoch=epoch)
    assert all(np.array_equal(a, b) for a, b in zip(order, again, strict=True))


def test_orders_and_seeds_differ_between_epochs_steps_ranks_and_seeds() -> None:
    orders = [np.concatenate(epoch_order(50, 8, seed=s, epoch=e)).tolist() for s in (0, 1) for e in (1, 2)]
    assert len({tuple(order) for order in orders}) == 4
    seeds = {step_seed(s, e, t, r) for s in (0, 1) for e in (1, 2) for t in (0, 1) for r in (0, 1)}
    assert len(seeds) == 16
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_a_fresh_head_depends_on_its_seed_alone_and_keeps_its_answers_as_arrays(kind: str) -> None:
    torch.manual_seed(1)
    head = fresh_head(kind, 8, 3, seed=2).eval()
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(1))
    again, other = fresh_head(kind, 8, 3, seed=2).eval(), fresh_head(kind, 8, 3, seed=3).eval()
    rows = torch.randn(5, 8)
    assert torch.equal(head(rows), again(rows))
    assert not torch.equal(head(rows), other(rows))
    arrays = head_of(kind, head)
    assert np.abs(arrays.logits(rows.numpy()) - head(rows).detach().numpy()).max() < 1e-5
