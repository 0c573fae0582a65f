"""G: the prediction server under requests that no well-meaning client sends."""

from __future__ import annotations

import asyncio
import io
import re
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from figures import record
from PIL import Image

import hostile
from headstart.ship.serve.limits import Limits
from serving import Address, asked, sent, served, started
from toydata import picture

pytest.importorskip("fastapi", reason="FastAPI is not installed")
LIMITS = Limits(body=400_000, pixels=4_000_000, head_seconds=0.5, body_seconds=0.5)
BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
MOST_GROWTH = 50 << 20  # bytes: the catalogue's


def memory(address: Address) -> int:
    text = asked(address.port, "/metrics")[1].decode()
    found = re.search(r"^process_resident_memory_bytes (\d+)$", text, re.MULTILINE)
    return int(found[1]) if found else 0


def endured(run: Path, n: int, *, seed: int, warm: int) -> dict[str, object]:
    """Send `n` hostile requests from four clients; what came back, and how memory grew after the first `warm`."""
    codes: Counter[str] = Counter()
    with served(run, limits=LIMITS) as address:
        good = io.BytesIO()
        picture("disc", 1).save(good, "PNG")
        wanted = asked(address.port, "/predict", good.getvalue(), Content_Type="image/png")[:2]
        waiting = iter([*enumerate(hostile.requests(n, seed))])
        lock, grown = threading.Lock(), [0, 0]

        def client() -> None:
            while True:
                with lock:
                    number, request = next(waiting, (-1, b""))
                if number < 0:
                    return
                code = sent(address.port, request)
                with lock:
                    codes[str(code)] += 1
                    if code is not None and code >= 500 and code != 503:
                        raise AssertionError(f"{code} for {request[:300]!r}")
                if number == warm:
                    grown[0] = memory(address)

        threads = [threading.Thread(target=client) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        grown[1] = memory(address)
        assert asked(address.port, "/predict", good.getvalue(), Content_Type="image/png")[:2] == wanted
        text = asked(address.port, "/metrics")[1].decode()
        assert not re.search(r'code="5(?!03)\d\d"', text), text
        assert "headstart_held_bytes 0" in text
    return {"requests": sum(codes.values()), "codes": dict(sorted(codes.items())), "grown": grown[1] - grown[0]}


def test_g1_g2_g3_hostile_requests_are_refused_and_never_break_the_server(frozen_run: Path) -> None:
    found = endured(frozen_run, 300, seed=1, warm=150)
    codes = found["codes"]
    assert found["requests"] == 300
    assert isinstance(codes, dict)
    assert {"200", "400", "404", "405", "413", "415", "422"} <= {*codes}
    assert isinstance(found["grown"], int)
    assert found["grown"] < MOST_GROWTH


@pytest.mark.long
def test_g1_ten_thousand_hostile_requests_and_steady_memory(frozen_run: Path) -> None:
    started = time.perf_counter()
    found = endured(frozen_run, 10_000, seed=2, warm=1_000)
    record("server, hostile requests", seconds=round(time.perf_counter() - started), **found)
    assert found["requests"] == 10_000
    assert isinstance(found["grown"], int)
    assert found["grown"] < MOST_GROWTH


def crowd(run: Path, n: int, seconds: float) -> dict[str, float]:
    """`n` clients that send a byte now and then; how long a normal client waits meanwhile, and how many hold on."""
    with served(run) as address:
        data = io.BytesIO()
        Image.new("RGB", (64, 64), "red").save(data, "PNG")
        slow = []
        for number in range(n):
            one = socket.create_connection(("127.0.0.1", address.port), timeout=30)
            start = (
                b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999\r\nContent-Type: image/png\r\n\r\n"
            )
            one.sendall(start if number % 2 else b"G")
            slow.append(one)
        end, waits = time.perf_counter() + seconds, []
        while time.perf_counter() < end or len(waits) < 3:
            for one in slow:
                try:
                    one.send(b"E")
                except OSError:
                    continue
            begun = time.perf_counter()
            assert asked(address.port, "/predict", data.getvalue(), Content_Type="image/png")[0] == 200
            waits.append(time.perf_counter() - begun)
        for one in slow:
            one.close()
    return {"clients": n, "answered": len(waits), "longest": round(max(waits), 3)}


def test_g4_slow_clients_do_not_keep_others_from_their_answers(frozen_run: Path) -> None:
    assert crowd(frozen_run, 60, 0.0)["answered"] >= 3


@pytest.mark.long
def test_g4_a_thousand_slow_clients(frozen_run: Path) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4_096)), hard))  # both ends are in this process
    record("server, slow clients", **crowd(frozen_run, 1_000, 20.0))


def overload(run: Path, clients: int, seconds: float) -> dict[str, object]:
    """Many clients that ask again at once; what they got, and how long accepted requests took."""
    stream = io.BytesIO()
    picture("disc", 1).resize((900, 900)).save(stream, "JPEG")
    data = stream.getvalue()
    with served(run, limits=Limits(queue=4)) as address:

        def one() -> tuple[int, object, str, float]:
            begun = time.perf_counter()
            status, content, headers = asked(address.port, "/predict", data, Content_Type="image/jpeg")
            return status, content, headers.get("retry-after", ""), time.perf_counter() - begun

        calm = sorted(one()[3] for _ in range(20))
        wanted = one()[1]
        end = time.perf_counter() + seconds
        found: list[tuple[int, object, str, float]] = []

        def client() -> None:
            while True:
                found.append(one())
                if time.perf_counter() > end:
                    return

        threads = [threading.Thread(target=client) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert one()[:2] == (200, wanted)
    good = sorted(took for status, _, _, took in found if status == 200)
    assert {status for status, _, _, _ in found} <= {200, 503}
    assert all(content == wanted for status, content, _, _ in found if status == 200)
    assert all(int(after) >= 1 for status, _, after, _ in found if status == 503)
    return {
        "clients": clients, "answered": len(good), "busy": len(found) - len(good), "median alone": round(calm[10], 4),
        "p50": round(good[len(good) // 2], 4), "p99": round(good[int(0.99 * len(good))], 4),
    }  # fmt: skip


def test_g5_overload_is_refused_with_a_time_to_come_again(frozen_run: Path) -> None:
    found = overload(frozen_run, 24, 1.0)
    assert isinstance(found["busy"], int)
    assert isinstance(found["answered"], int)
    assert found["busy"] >= 1
    assert found["answered"] >= 1


@pytest.mark.long
def test_g5_ten_times_what_it_can_answer_for_a_minute(frozen_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    client = __import__("serve_client")
    data = io.BytesIO()
    drawn = picture("disc", 1, noise=0.0).resize((3_000, 3_000), Image.Resampling.NEAREST)
    drawn.save(data, "PNG")  # few bytes and much work, so that one client can send ten times as much as is answered
    process, port = started(frozen_run, "--no-neighbours")

    async def run() -> dict[str, object]:
        requests = await client.alone(port, [data.getvalue()])
        calm = await client.closed(port, requests, connections=1, seconds=2.0)
        full = await client.closed(port, requests, connections=64, seconds=5.0)
        flood = await client.opened(port, requests, rate=10 * full.rate, seconds=60.0, connections=256)
        back = await client.back_to_normal(port, requests, normal=1.5 * client.percentile(calm.good, 0.99))
        for told in (calm, full, flood):
            assert (told.different, told.other, told.broken, told.without_time) == (0, 0, 0, 0)
        assert not full.busy, "64 fit"
        assert flood.busy
        assert max(flood.good) < Limits().answer_seconds
        assert back == back, "it never came back"
        return {
            "clients": 256, "answered": len(flood.good), "busy": len(flood.busy), "rate at 64": round(full.rate, 1),
            "rate": round(flood.rate, 1), "p99 at 64": round(client.percentile(full.good, 0.99), 4),
            "p50": round(client.percentile(flood.good, 0.5), 4), "p99": round(client.percentile(flood.good, 0.99), 4),
            "back": round(back, 3),
        }  # fmt: skip

    try:
        record("server, overload", **asyncio.run(run()))
    finally:
        process.kill()
        process.communicate()


def test_g5_no_accepted_request_has_more_before_it_than_the_queue_holds(frozen_run: Path) -> None:
    """Counted, not timed: while one picture is held back, how many get in, and what becomes of them."""
    with served(frozen_run, limits=Limits(queue=8)) as address:
        stream, begun, go = io.BytesIO(), threading.Event(), threading.Event()
        picture("disc", 1).save(stream, "PNG")
        data, work, sizes = stream.getvalue(), address.service.model.predict, list[int]()

        def held(pictures: list[bytes]) -> object:
            sizes.append(len(pictures))
            begun.set()
            assert go.wait(60)
            return work(pictures)

        address.service.model.predict = held  # type: ignore[method-assign, assignment]
        with ThreadPoolExecutor(40) as threads:
            found = [threads.submit(asked, address.port, "/predict", data, Content_Type="image/png") for _ in range(40)]
            assert begun.wait(60)
            while sum(one.done() for one in found) < 32:
                time.sleep(0.01)
            go.set()
            codes = Counter(one.result()[0] for one in found)
        assert codes == {200: 8, 503: 32}
        assert sum(sizes) == 8, "what was refused cost no work"


def test_g6_a_client_that_hangs_up_costs_no_work(frozen_run: Path) -> None:
    with served(frozen_run) as address:
        data, seen, go = io.BytesIO(), [], threading.Event()
        picture("disc", 1).save(data, "PNG")
        work = address.service.model.predict

        def counted(pictures: object) -> object:
            seen.append(pictures)
            go.wait(30)
            return work(pictures)

        address.service.model.predict = counted  # type: ignore[method-assign, assignment]
        request = hostile.post(data.getvalue(), "image/png")
        first = socket.create_connection(("127.0.0.1", address.port))
        first.sendall(request)
        while not seen:
            time.sleep(0.01)
        others = [socket.create_connection(("127.0.0.1", address.port)) for _ in range(5)]
        for one in others:
            one.sendall(request)
        while '"waiting": 5' not in str(asked(address.port, "/healthz")[1]).replace("'", '"'):
            time.sleep(0.01)
        for one in others:
            one.close()
        while '"waiting": 0' not in str(asked(address.port, "/healthz")[1]).replace("'", '"'):
            time.sleep(0.01)
        go.set()
        first.settimeout(30)
        assert first.recv(12) == b"HTTP/1.1 200"
        first.close()
        assert len(seen) == 1


def test_g6_a_killed_server_is_started_again_in_its_place_with_the_same_answers(frozen_run: Path) -> None:
    data = io.BytesIO()
    picture("disc", 1).save(data, "PNG")
    process, port = started(frozen_run, "--no-neighbours")
    try:
        wanted = asked(port, "/predict", data.getvalue(), Content_Type="image/png")[:2]
        assert wanted[0] == 200
        busy = socket.create_connection(("127.0.0.1", port))  # a connection that is open when it dies
        busy.sendall(hostile.post(data.getvalue(), "image/png"))
        process.kill()
        process.communicate()
        process, port = started(frozen_run, "--no-neighbours", port=port)
        assert asked(port, "/predict", data.getvalue(), Content_Type="image/png")[:2] == wanted
        busy.close()
    finally:
        process.kill()
        process.communicate()


def test_g6_when_it_is_told_to_stop_all_that_was_accepted_is_answered_and_nothing_else(frozen_run: Path) -> None:
    with served(frozen_run) as address:
        stream, begun, go = io.BytesIO(), threading.Event(), threading.Event()
        picture("disc", 1).save(stream, "PNG")
        data, work = stream.getvalue(), address.service.model.predict
        wanted = asked(address.port, "/predict", data, Content_Type="image/png")[:2]

        def held(pictures: list[bytes]) -> object:
            begun.set()
            assert go.wait(60)
            return work(pictures)

        address.service.model.predict = held  # type: ignore[method-assign, assignment]
        with ThreadPoolExecutor(6) as threads:
            found = [threads.submit(asked, address.port, "/predict", data, Content_Type="image/png")]
            assert begun.wait(60)
            found += [threads.submit(asked, address.port, "/predict", data, Content_Type="image/png") for _ in range(5)]
            while asked(address.port, "/healthz")[1]["waiting"] < 5:
                time.sleep(0.01)
            address.server.should_exit = True
            while address.server.servers[0].is_serving():
                time.sleep(0.01)
            with pytest.raises(ConnectionError):
                asked(address.port, "/healthz")
            go.set()
            assert [one.result()[:2] for one in found] == [wanted] * 6
