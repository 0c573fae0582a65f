"""What a client sends is counted and taken apart with care."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.ship.serve.limits import (
    Claim,
    Gone,
    Held,
    Limits,
    Refused,
    body_of,
    foreign_origin,
    known_host,
    unless_gone,
    uploads_of,
)
from serving import BOUNDARY, form

LIMITS = Limits(body=1_000, pictures=3, held=1_500, body_seconds=0.2)


# --- hosts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:8000", "localhost:1", "[::1]:8000", "192.168.1.5", "LOCALHOST"]
)
def test_addresses_and_localhost_are_known(host: str) -> None:
    assert known_host(host, ())


@pytest.mark.parametrize("host", ["", "attacker.example", "localhost.attacker.example", "127.0.0.1.attacker.example",
                                  "[::1", "::1]:8000", "localhost:80:80", "127.0.0.1/", "0x7f.1@x"])  # fmt: skip
def test_names_that_nobody_allowed_are_not(host: str) -> None:
    assert not known_host(host, {"model.example"})


def test_a_name_that_was_allowed_is_known() -> None:
    assert known_host("Model.Example:443", {"model.example"})


def test_another_sites_page_is_told_by_its_origin() -> None:
    assert not foreign_origin(None, "127.0.0.1:8000")
    assert not foreign_origin("http://127.0.0.1:8000", "127.0.0.1:8000")
    assert foreign_origin("http://127.0.0.1:9000", "127.0.0.1:8000")
    assert foreign_origin("null", "127.0.0.1:8000")


# --- bodies -------------------------------------------------------------------------------------------------------


def received(chunks: Iterable[bytes], *, end: bool = True) -> Any:
    waiting = list(chunks)

    async def receive() -> dict[str, Any]:
        if waiting:
            chunk = waiting.pop(0)
            return {"type": "http.request", "body": chunk, "more_body": bool(waiting) or not end}
        await asyncio.sleep(30)
        return {"type": "http.disconnect"}

    return receive


def read(chunks: Iterable[bytes], *, end: bool = True, held: Held | None = None, **headers: str) -> bytes:
    async def work() -> bytes:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        with Claim(held or Held(LIMITS.held)) as claim:
            return await body_of(received(chunks, end=end), named, limits=LIMITS, claim=claim)

    return asyncio.run(work())


def test_a_body_comes_whole() -> None:
    assert read([b"ab", b"", b"c"]) == b"abc"
    assert read([b"x" * 1_000]) == b"x" * 1_000


@pytest.mark.parametrize("said", ["5", "", "99999", "abc", "-1"])
def test_a_body_is_counted_whatever_its_header_says(said: str) -> None:
    with pytest.raises(Refused) as error:
        read([b"x" * 400] * 3, content_length=said)
    assert (error.value.status, error.value.reason) == (413, "too_large")


def test_an_endless_body_ends_at_the_limit() -> None:
    asked = 0

    async def receive() -> dict[str, Any]:
        nonlocal asked
        asked += 1
        return {"type": "http.request", "body": b"x" * 100, "more_body": True}

    async def work() -> bytes:
        with Claim(Held(10**9)) as claim:
            return await body_of(receive, {}, limits=LIMITS, claim=claim)

    with pytest.raises(Refused, match="at most"):
        asyncio.run(work())
    assert asked <= 60


def test_a_body_that_comes_too_slowly_is_refused() -> None:
    with pytest.raises(Refused) as error:
        read([b"x"], end=False)
    assert error.value.status == 408


def test_a_client_that_hangs_up_is_gone() -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def work() -> bytes:
        with Claim(Held(10)) as claim:
            return await body_of(receive, {}, limits=LIMITS, claim=claim)

    with pytest.raises(Gone):
        asyncio.run(work())


def test_all_requests_together_hold_so_much_and_give_it_back() -> None:
    held = Held(1_500)
    with Claim(held) as one:
        one.add(1_000)
        with pytest.raises(Refused) as error, Claim(held) as two:
            two.add(501)
        assert error.value.status == 503
        assert error.value.headers == {"Retry-After": "1"}
        assert held.total == 1_000
    assert held.total == 0
    with pytest.raises(Refused):
        read([b"x" * 2_000], held=held)
    assert held.total == 0


def test_work_is_dropped_when_its_time_is_over_or_nobody_waits() -> None:
    dropped = []

    async def work() -> None:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            dropped.append(True)
            raise

    async def hung_up() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    with pytest.raises(Refused, match="no answer within"):
        asyncio.run(unless_gone(received([]), work(), seconds=0.05))
    with pytest.raises(Gone):
        asyncio.run(unless_gone(hung_up, work(), seconds=30))
    assert len(dropped) == 2


# --- forms --------------------------------------------------------------------------------------------------------

MORE = Limits()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.from_regex(r"[a-z ]{0,9}", fullmatch=True), st.binary(max_size=80)), min_size=1, max_size=6)
)
def test_a_form_gives_back_what_was_put_in(pictures: list[tuple[str, bytes]]) -> None:
    found = uploads_of(*form(pictures), limits=MORE)
    assert [(one.name, one.data) for one in found] == pictures


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=1, max_size=200))
def test_content_that_looks_like_a_border_stays_content(tail: bytes) -> None:
    data = f"\r\n--{BOUNDARY}x".encode() + tail + b"\r\n--"
    assert uploads_of(*form([("a", data)]), limits=MORE)[0].data == data


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_bytes_are_a_form_or_refused(data: st.DataObject) -> None:
    border = f"--{BOUNDARY}".encode()
    pieces = [
        border,
        b"\r\n",
        b"--",
        b"\n",
        b'Content-Disposition: form-data; name="f"; filename="x"',
        b"\r\n\r\n",
        b"\0",
        b'"',
    ]
    body = b"".join(data.draw(st.lists(st.sampled_from(pieces) | st.binary(max_size=5), max_size=14)))
    with suppress(Refused):  # and nothing else
        found = uploads_of(body, f"multipart/form-data; boundary={BOUNDARY}", limits=MORE)
        assert all(isinstance(one.data, bytes) and len(one.name) <= 200 for one in found)


def refused(body: bytes, kind: str, limits: Limits = MORE) -> tuple[int, str]:
    with pytest.raises(Refused) as error:
        uploads_of(body, kind, limits=limits)
    return error.value.status, error.value.reason


def test_what_is_no_form_is_refused_with_its_reason() -> None:
    whole, kind = form({"a": b"x"})
    assert refused(b"", kind) == (400, "empty")
    assert refused(whole, "multipart/form-data") == (400, "form")
    assert refused(whole, "application/json") == (415, "kind")
    assert refused(whole, f"multipart/form-data; boundary={'x' * 101}") == (400, "form")
    assert refused(whole[:-10], kind) == (400, "form")
    assert refused(whole.replace(b"\r\n\r\n", b"\r\n"), kind) == (400, "form")
    assert refused(form([])[0], kind) == (400, "empty")
    assert refused(*form([("a", b"x")] * 4), LIMITS) == (413, "too_many")
    assert refused(*form([("n" * 9_000, b"x")])) == (400, "form")


def test_a_field_that_is_no_file_is_refused_by_name() -> None:
    body = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="url"\r\n\r\nfile:///x\r\n--{BOUNDARY}--'.encode()
    with pytest.raises(Refused, match="'url' is no file; addresses and paths are not followed"):
        uploads_of(body, f"multipart/form-data; boundary={BOUNDARY}", limits=MORE)


def test_one_picture_may_be_the_whole_body() -> None:
    assert uploads_of(b"abc", "image/jpeg", limits=MORE)[0].data == b"abc"
    assert uploads_of(b"abc", "application/octet-stream", limits=MORE)[0].data == b"abc"
