"""Reporters: nothing, lines or bars; the same calls, and no name that steers a terminal."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart import progress
from headstart.progress import Plain, Reporter, RichConsole, Silent, duration, epoch_line, reporter_for, safe


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def rich_console(stream: io.StringIO) -> Any:
    from rich.console import Console

    return Console(file=stream, force_terminal=True, width=160, color_system=None)


def use(reporter: Reporter, clock: Clock, name: str = "reading") -> None:
    """Call everything that long work calls."""
    reporter.say(f"say {name}")
    reporter.note(f"note {name}")
    with reporter.stage(name), reporter.progress(name, 100) as work:
        for _ in range(100):
            clock.now += 0.25
            work.advance()
    reporter.epoch({"epoch": 3, "epochs": 10, "val_accuracy": 0.5, "train_loss": 1.23456, "curve": [1, 2], "lr": None})


def test_silent_shows_nothing(capsys: Any) -> None:
    use(Silent(), Clock())
    assert capsys.readouterr() == ("", "")


def test_plain_writes_a_line_every_five_seconds_and_one_at_the_end() -> None:
    clock, stream = Clock(), io.StringIO()
    use(Plain(stream, clock=clock), clock)
    assert stream.getvalue().splitlines() == [
        "say reading",
        "note: note reading",
        "reading",
        "reading: 20/100 images, 4.0 images/s, 20 s left",
        "reading: 40/100 images, 4.0 images/s, 15 s left",
        "reading: 60/100 images, 4.0 images/s, 10 s left",
        "reading: 80/100 images, 4.0 images/s, 5.0 s left",
        "reading: 100 images in 25 s, 4.0 images/s",
        "reading: done in 25 s",
        "epoch 3/10  val accuracy 50.0%  train loss 1.235",
    ]


@pytest.mark.parametrize("make", [lambda s, c: Plain(s, clock=c), lambda s, c: RichConsole(rich_console(s), clock=c)])
def test_a_training_loop_shows_its_loss_and_is_ended_by_its_epoch_line(make: Any) -> None:
    clock, stream = Clock(), io.StringIO()
    reporter = make(stream, clock)
    with reporter.progress("Epoch 1/2", 40) as work:
        clock.now += 6
        work.update(loss=0.12345)
        work.advance(20)
        if isinstance(reporter, RichConsole):
            reporter._bars.refresh()
        work.advance(20)
    assert "loss 0.1235" in stream.getvalue()
    assert "40 images in" not in stream.getvalue()


def test_plain_shows_an_epoch_every_five_seconds_and_the_last_one() -> None:
    clock, stream = Clock(), io.StringIO()
    reporter = Plain(stream, clock=clock)
    for epoch in range(1, 13):
        reporter.epoch({"epoch": epoch, "epochs": 12})
        clock.now += 1
    assert [line.split()[1] for line in stream.getvalue().splitlines()] == ["1/12", "6/12", "11/12", "12/12"]


def test_plain_writes_no_end_line_for_work_that_failed() -> None:
    stream = io.StringIO()
    with pytest.raises(ValueError, match="cut"), Plain(stream).progress("reading", 5):
        raise ValueError("cut")
    assert stream.getvalue() == ""


def test_work_of_unknown_length_counts_without_time_left() -> None:
    clock, stream = Clock(), io.StringIO()
    with Plain(stream, every=1.0, clock=clock).progress("looking", None, unit="files") as work:
        clock.now = 2.0
        work.advance(40)
    assert stream.getvalue().splitlines()[0] == "looking: 40 files, 20 files/s"


def test_bars_show_throughput_and_leave_one_line() -> None:
    clock, stream = Clock(), io.StringIO()
    console = rich_console(stream)
    use(RichConsole(console, clock=clock), clock)
    shown = stream.getvalue()
    assert "reading: 100 images in 25 s, 4.0 images/s" in shown
    assert "epoch 3/10  val accuracy 50.0%" in shown


def test_bars_end_when_the_work_fails() -> None:
    stream = io.StringIO()
    reporter = RichConsole(rich_console(stream))
    with pytest.raises(ValueError, match="cut"), reporter.stage("outer"), reporter.progress("inner", 5):
        raise ValueError("cut")
    with reporter.progress("again", 1) as work:  # a second set of bars can start: the first one has stopped
        work.advance()
    assert "again: 1 images" in stream.getvalue()


@pytest.mark.parametrize("name", ["[red]x[/red]", "[/]", ":smile:", "na\udcffme", "a\nb", "\x1b[31m"], ids=ascii)
def test_bars_and_lines_show_hostile_names_as_they_are(name: str) -> None:
    for make in (lambda s: Plain(s), lambda s: RichConsole(rich_console(s))):
        stream = io.StringIO()
        use(make(stream), Clock(), name)
        assert f"say {safe(name)}\n" in stream.getvalue()
        assert "\x1b[31m" not in stream.getvalue()


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_safe_text_is_one_printable_line_and_plain_text_stays(text: str) -> None:
    shown = safe(text)
    assert len(shown.splitlines()) <= 1 or any(c in shown for c in "\u2028\u2029")
    shown.encode("utf-8")
    assert safe(shown) == shown


def test_safe_keeps_letters_of_all_languages() -> None:
    assert safe("Äpfel 苹果 😀 [b]") == "Äpfel 苹果 😀 [b]"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (9.94, "9.9 s"), (12, "12 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")]
)
def test_durations_read_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_an_epoch_without_a_number_is_a_list_of_measures() -> None:
    assert epoch_line({"seconds": 1.0, "note": "a\nb"}) == "1.0 s  note a\\nb"


def test_the_reporter_fits_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    assert isinstance(reporter_for(stream), Plain)
    assert isinstance(reporter_for(stream, quiet=True), Silent)
    monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(reporter_for(stream), RichConsole)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(reporter_for(stream), Plain)
    assert progress.__all__ == sorted(progress.__all__)
