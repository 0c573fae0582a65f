"""Signals: the first is kept for the loop, the second ends at once, and the old handlers come back."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from headstart.transfer.interrupt import Stop, listening


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    assert {number: signal.getsignal(number) for number in before} == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_first_signal_is_kept_for_the_loop_and_a_second_ends_at_once(number: int, code: int) -> None:
    reached: list[object] = []

    def loop(stop: Stop) -> None:
        with stop.deferred():
            os.kill(os.getpid(), number)
            reached.append(stop.code)
            os.kill(os.getpid(), number)
            reached.append("too far")

    with listening() as stop, pytest.raises(KeyboardInterrupt):
        loop(stop)
    assert reached == [code]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_outside_of_the_loop_a_signal_ends_at_once_and_its_code_is_known(number: int, code: int) -> None:
    with listening() as stop:
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
        assert stop.code == code


def test_a_signal_that_the_loop_did_not_see_is_raised_when_it_ends() -> None:
    reached: list[str] = []

    def loops(stop: Stop) -> None:
        with stop.deferred():
            with stop.deferred():
                os.kill(os.getpid(), signal.SIGINT)
            reached.append("the inner loop leaves it to the outer one")

    with listening() as stop, pytest.raises(KeyboardInterrupt):
        loops(stop)
    assert len(reached) == 1


def test_an_error_in_the_loop_is_not_hidden_by_a_signal() -> None:
    def loop(stop: Stop) -> None:
        with stop.deferred():
            os.kill(os.getpid(), signal.SIGINT)
            raise ValueError("own")

    with listening() as stop, pytest.raises(ValueError, match="own"):
        loop(stop)


def test_handlers_are_restored_after_an_error_too() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def run() -> None:
        with listening():
            assert signal.getsignal(signal.SIGTERM) != before
            raise RuntimeError

    with pytest.raises(RuntimeError):
        run()
    assert signal.getsignal(signal.SIGTERM) == before


def test_handlers_set_outside_of_python_do_not_break_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    monkeypatch.setattr("signal.signal", lambda number, handler: calls.append(handler))  # answers None
    with listening():
        pass
    assert calls[2:] == [signal.SIG_DFL, signal.SIG_DFL]


def test_in_another_thread_nothing_is_changed() -> None:
    before, seen = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with listening() as stop:
            seen.append((signal.getsignal(signal.SIGINT), stop.code))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(before, None)]


def test_a_new_stop_asks_for_nothing() -> None:
    assert Stop().code is None


def test_a_deadline_holds_inside_its_block_and_an_earlier_one_wins() -> None:
    stop = Stop()
    assert not stop.late
    with stop.until(time.monotonic() + 1000):
        assert not stop.late
        with stop.until(time.monotonic() - 1):
            assert stop.late
            with stop.until(time.monotonic() + 5000):
                assert stop.late
        with stop.until(None):
            assert stop.deadline is not None
        assert not stop.late
    assert stop.deadline is None
