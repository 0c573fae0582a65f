"""The clock of a run: what is left, what fits, and when a part is over."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart.transfer.budget import Clock


class Hand:
    """A clock's hand that the test moves."""

    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


def test_what_is_used_and_left_adds_up_to_the_budget_less_the_reserve() -> None:
    hand = Hand()
    clock = Clock(100.0, reserve=10.0, now=hand)
    hand.at += 25
    assert (clock.used, clock.left) == (25.0, 65.0)
    hand.at += 500
    assert clock.left == 0.0


def test_time_that_went_before_the_clock_counts() -> None:
    assert Clock(100.0, used=30.0, now=Hand()).left == 70.0


def test_without_a_limit_everything_fits_and_no_deadline_comes() -> None:
    clock = Clock(None, now=Hand())
    assert clock.left == math.inf
    assert clock.fits(1e9)
    assert clock.deadline() is None
    assert clock.deadline(most=5) == 1005.0


def test_a_deadline_is_a_share_of_what_is_left_on_the_clocks_own_scale() -> None:
    hand = Hand()
    clock = Clock(100.0, reserve=20.0, now=hand)
    assert clock.deadline(share=0.5) == 1040.0
    assert clock.deadline(share=0.5, most=3.0) == 1003.0


def test_what_is_kept_for_later_is_not_left_inside_the_block_alone() -> None:
    clock = Clock(100.0, now=Hand())
    with clock.keeping(30.0):
        assert clock.left == 70.0
        with pytest.raises(ZeroDivisionError), clock.keeping(10.0):
            raise ZeroDivisionError
        assert clock.left == 70.0
    assert clock.left == 100.0


@given(st.floats(1, 1e6), st.floats(0, 1e6), st.floats(0.01, 1))
def test_work_fits_just_when_it_ends_before_the_deadline(budget: float, seconds: float, share: float) -> None:
    clock = Clock(budget, now=lambda: 0.0)
    deadline = clock.deadline(share=share)
    assert deadline is not None
    assert clock.fits(seconds, share=share) == (seconds <= deadline)


def test_processor_time_is_that_of_the_work_and_of_ended_children_not_of_the_clock() -> None:
    hand = Hand()
    clock = Clock(None, now=hand)
    hand.at += 1e6
    assert clock.processor < 1e5
    before = clock.processor
    while clock.processor == before:  # a busy core, for as long as the system's own clock needs to see it
        sum(range(10_000))
    before = clock.processor
    subprocess.run([sys.executable, "-c", "x = sum(range(5_000_000))"], check=True)
    assert clock.processor > before
