"""The server answers as `predict` does, to whom it may, and to nothing else."""

from __future__ import annotations

import concurrent.futures
import http.client
import io
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

import headstart
from headstart.errors import MissingExtraError, SettingsError
from headstart.sealed import read_data
from headstart.ship.model import load
from headstart.ship.neighbours import find_neighbours
from headstart.ship.serve.limits import Limits
from serving import Address, asked, form, sent, served, started
from toydata import picture

pytest.importorskip("fastapi", reason="FastAPI is not installed")
SMALL = Limits(body=200_000, pictures=8, pixels=1_000_000, head_seconds=1.0, body_seconds=1.0)


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


@pytest.fixture(scope="module")
def pictures() -> dict[str, bytes]:
    """Pictures of several sizes and kinds by the name of a file."""
    made = {}
    for number, (kind, suffix) in enumerate([("PNG", "png"), ("JPEG", "jpg"), ("WEBP", "webp"), ("PNG", "png")] * 3):
        image = picture(("bar", "disc", "square")[number % 3], 500 + number)
        made[f"{number}.{suffix}"] = encoded(image.resize((20 + 13 * number, 90 - 3 * number)), kind)
    return made


@pytest.fixture(scope="module")
def server(frozen_run: Path, split_shapes: Path) -> Iterator[Address]:
    neighbours = find_neighbours(load(frozen_run), read_data(frozen_run))
    with served(frozen_run, limits=SMALL, neighbours=neighbours, hosts=["model.example"]) as address:
        yield address


# --- the same answers ---------------------------------------------------------------------------------------------


def predicted(run: Path, pictures: dict[str, bytes], folder: Path, *flags: str) -> dict[str, object]:
    """What `headstart predict --json` prints for these pictures, all in one call, by file name."""
    folder.mkdir(exist_ok=True)
    for name, data in pictures.items():
        (folder / name).write_bytes(data)
    command = [sys.executable, "-m", "headstart", "predict", str(run), str(folder), "--json", "--quiet", *flags]
    told = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    return {Path(row["file"]).name: {**row, "file": Path(row["file"]).name} for row in json.loads(told.stdout)}


def test_answers_are_those_of_the_command_bit_for_bit_alone_together_and_under_load(
    server: Address, frozen_run: Path, pictures: dict[str, bytes], tmp_path: Path
) -> None:
    wanted = predicted(frozen_run, pictures, tmp_path / "photos")
    assert len({json.dumps(row) for row in wanted.values()}) == len(pictures)
    alone = {}
    for name, data in pictures.items():
        status, rows, _ = asked(server.port, "/predict", form({name: data})[0], Content_Type=form({})[1])
        assert status == 200
        alone[name] = rows[0]
    assert alone == wanted
    some = dict(list(pictures.items())[:8])
    status, rows, _ = asked(server.port, "/predict", form(some)[0], Content_Type=form({})[1])
    assert status == 200
    assert rows == [wanted[name] for name in some]

    def again(name: str) -> object:
        return asked(server.port, "/predict", form({name: pictures[name]})[0], Content_Type=form({})[1])[1][0]

    with concurrent.futures.ThreadPoolExecutor(12) as threads:
        names = [name for name in pictures for _ in range(4)]
        assert list(threads.map(again, names)) == [wanted[name] for name in names]
    assert max_batch(server) > 1, "no pictures were answered together: the load was none"


def max_batch(server: Address) -> float:
    """The largest batch so far lies above this border."""
    text = asked(server.port, "/metrics")[1].decode()
    counts = [(border, int(n)) for border, n in re.findall(r'batch_pictures_bucket\{le="([\d.]+)"\} (\d+)', text)]
    total = int(re.findall(r"batch_pictures_count (\d+)", text)[0])
    return max((float(border) for border, n in counts if n < total), default=0.0)


def test_one_picture_may_be_the_body_and_top_k_shortens_the_answer(server: Address, pictures: dict[str, bytes]) -> None:
    data = pictures["1.jpg"]
    whole = asked(server.port, "/predict", data, Content_Type="image/jpeg")[1][0]
    assert set(whole["probabilities"]) == {"bar", "disc", "square"}
    status, rows, _ = asked(server.port, "/predict?top_k=1", data, Content_Type="image/jpeg")
    assert status == 200
    assert rows[0]["probabilities"] == {whole["label"]: whole["probability"]}


def test_an_explanation_has_the_answer_the_picture_a_map_and_neighbours(server: Address, split_shapes: Path) -> None:
    own = (split_shapes / "train" / "disc" / "000.png").read_bytes()
    status, found, _ = asked(server.port, "/explain", own, Content_Type="image/png")
    assert status == 200
    assert found["answer"] == {**asked(server.port, "/predict", own, Content_Type="image/png")[1][0], "file": "image"}
    assert found["picture"].startswith("data:image/jpeg;base64,")
    assert found["map"] == "" or found["map"].startswith("data:image/png;base64,")
    assert [one["same"] for one in found["neighbours"]] == [True, False, False, False, False]
    assert found["neighbours"][0]["label"] == "disc"


def test_unreadable_pictures_get_their_reason_and_the_others_their_answer(
    server: Address, pictures: dict[str, bytes]
) -> None:
    mixed = {"good.png": pictures["0.png"], "bad.png": b"\x89PNG nothing", "huge.png": big(2_000, 1_000)}
    status, rows, _ = asked(server.port, "/predict", form(mixed)[0], Content_Type=form({})[1])
    assert status == 200
    assert [row["file"] for row in rows] == list(mixed)
    assert rows[0]["label"] in ("bar", "disc", "square")
    assert "label" not in rows[1]
    assert rows[2]["error"] == "2000 x 1000 pixels are more than the 1 million that are taken here"
    status, content, _ = asked(server.port, "/predict", b"no picture", Content_Type="image/png")
    assert (status, content["reason"]) == (422, "unreadable")
    assert content["answers"][0]["error"] == content["detail"]
    assert asked(server.port, "/explain", b"no picture", Content_Type="image/png")[0] == 422


def big(width: int, height: int) -> bytes:
    return encoded(Image.new("1", (width, height)))


def test_what_the_client_calls_a_file_comes_back_and_goes_nowhere(
    server: Address, pictures: dict[str, bytes], tmp_path: Path
) -> None:
    names = ["../../etc/passwd", "<b>.png", "ü漢.png", "n" * 300]
    for name in names:
        rows = asked(server.port, "/predict", form({name: pictures["0.png"]})[0], Content_Type=form({})[1])[1]
        assert rows[0]["file"] == name[:200]


# --- about --------------------------------------------------------------------------------------------------------


def test_health_model_and_counts(server: Address, pictures: dict[str, bytes]) -> None:
    assert asked(server.port, "/healthz")[:2] == (200, {"status": "ok", "waiting": 0})
    about = asked(server.port, "/model")[1]
    assert about["classes"] == ["bar", "disc", "square"]
    assert about["scores"]["n"] == 24
    assert about["scores"]["accuracy_interval"][0] < about["scores"]["accuracy"]
    assert about["neighbours"] == 45
    assert about["limits"]["body"] == 200_000
    assert "/" not in json.dumps({**about, "licence": ""}).replace("headstart/", "")  # no place on this machine
    before = counts(server)
    asked(server.port, "/predict", pictures["0.png"], Content_Type="image/png")
    asked(server.port, "/nowhere")
    after = counts(server)
    assert after['headstart_requests_total{path="/predict",code="200"}'] == 1 + before.get(
        'headstart_requests_total{path="/predict",code="200"}', 0
    )
    assert after['headstart_requests_total{path="other",code="404"}'] >= 1
    assert after["headstart_held_bytes"] == 0
    assert after["headstart_request_seconds_count"] > before["headstart_request_seconds_count"]


def counts(server: Address) -> dict[str, float]:
    """The lines of /metrics; every one is a comment or a name with a number."""
    status, text, headers = asked(server.port, "/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = [line for line in text.decode().splitlines() if not line.startswith("#")]
    pattern = re.compile(r'^[a-z_]+(?:\{[a-z]+="[^"]*"(?:,[a-z]+="[^"]*")*\})? [\d.e+-]+$')
    assert all(pattern.match(line) for line in lines), lines
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def test_the_interface_is_told_and_its_page_loads_nothing(server: Address) -> None:
    interface = asked(server.port, "/openapi.json")[1]
    assert set(interface["paths"]) == {"/predict", "/explain", "/model", "/healthz", "/metrics"}
    assert set(interface["paths"]["/predict"]["post"]["requestBody"]["content"]) == {"multipart/form-data", "image/*"}
    page = asked(server.port, "/docs")[1].decode()
    assert "POST /predict" in page
    for text in (page, asked(server.port, "/")[1].decode()):
        assert not re.search(r'(?:src|href)="(?!data:,|/docs|/openapi\.json)', text)
        assert "http://" not in text.replace("http://127.0.0.1:8000/predict", "")
        assert "https://" not in text


def test_every_answer_carries_the_security_headers(server: Address) -> None:
    for path in ("/", "/healthz", "/docs", "/model", "/metrics", "/openapi.json", "/nowhere"):
        headers = asked(server.port, path)[2]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in headers
        assert "server" not in headers
    assert asked(server.port, "/healthz", method="POST")[2]["x-content-type-options"] == "nosniff"


# --- refusals -----------------------------------------------------------------------------------------------------


def test_other_names_and_other_sites_are_refused(server: Address, pictures: dict[str, bytes]) -> None:
    for host in ("attacker.example", "127.0.0.1.attacker.example"):
        assert asked(server.port, "/healthz", Host=host)[:2] == (400, {
            "detail": "the server is not called by this name; see --allow-host", "reason": "host",
        })  # fmt: skip
    assert asked(server.port, "/healthz", Host="model.example:80")[0] == 200
    words = {"Content_Type": "image/png", "Origin": "https://attacker.example"}
    assert asked(server.port, "/predict", pictures["0.png"], **words)[:2][0] == 403


def test_wrong_paths_methods_and_options_are_refused(server: Address, pictures: dict[str, bytes]) -> None:
    assert asked(server.port, "/../etc/passwd")[1]["reason"] == "path"
    assert asked(server.port, "/predict")[1]["reason"] == "method"
    status, content, _ = asked(server.port, "/predict?top_k=0", pictures["0.png"], Content_Type="image/png")
    assert (status, content["reason"]) == (422, "option")
    assert asked(server.port, "/explain", form(pictures_of(2))[0], Content_Type=form({})[1])[1]["reason"] == "too_many"


def pictures_of(n: int) -> dict[str, bytes]:
    return {f"{i}.png": encoded(picture("disc", i)) for i in range(n)}


def test_too_many_bytes_are_refused_whatever_is_said_of_them(server: Address) -> None:
    status, content, _ = asked(server.port, "/predict", b"x" * 300_000, Content_Type="image/png")
    assert (status, content["reason"]) == (413, "too_large")
    assert asked(server.port, "/nowhere", b"x" * 300_000)[2]["connection"] == "close"  # nobody reads the rest
    start = (
        b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    assert sent(server.port, start + (b"8000\r\n" + b"x" * 32_768 + b"\r\n") * 8) == 413


def test_slow_and_silent_clients_are_let_go_and_others_answered(server: Address) -> None:
    slow = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(20)]
    for number, one in enumerate(slow):
        one.sendall(
            b"GET / HT" if number % 2 else b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n"
        )
    assert asked(server.port, "/healthz")[0] == 200
    ends = []
    for one in slow:
        one.settimeout(30)
        ends.append(one.recv(65_536)[:12])
        one.close()
    assert set(ends[1::2]) == {b""}  # no headers came: closed
    assert set(ends[::2]) == {b"HTTP/1.1 408"}


def test_beyond_the_connections_the_oldest_that_waits_is_closed(frozen_run: Path) -> None:
    with served(frozen_run, limits=Limits(connections=5)) as address:
        waiting = []
        for _ in range(5):
            waiting.append(socket.create_connection(("127.0.0.1", address.port)))
            waiting[-1].sendall(b"GET /")
            time.sleep(0.02)
        assert asked(address.port, "/healthz")[0] == 200
        assert ended(waiting[0])
        for one in waiting:
            one.close()


def ended(connection: socket.socket) -> bool:
    """Whether the server closes a connection without a word."""
    connection.settimeout(30)
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_a_full_queue_says_when_to_come_again_and_what_was_accepted_is_answered(frozen_run: Path) -> None:
    with served(frozen_run, limits=Limits(queue=2)) as address:
        data, work = encoded(picture("disc", 1)), address.service.model.predict

        def slowly(pictures: object) -> object:
            time.sleep(0.3)
            return work(pictures)

        address.service.model.predict = slowly  # type: ignore[method-assign, assignment]

        def one(_: int) -> tuple[int, object, str]:
            status, content, headers = asked(address.port, "/predict", data, Content_Type="image/png")
            return status, content, headers.get("retry-after", "")

        with concurrent.futures.ThreadPoolExecutor(12) as threads:
            found = list(threads.map(one, range(12)))
        good = [content for status, content, _ in found if status == 200]
        busy = [after for status, _, after in found if status == 503]
        assert len(good) + len(busy) == 12
        assert len(good) >= 2
        assert busy
        assert all(int(after) >= 1 for after in busy)
        assert all(content == good[0] for content in good)
        assert asked(address.port, "/predict", data, Content_Type="image/png")[0] == 200


def test_who_is_refused_while_sending_may_ask_again_on_the_same_connection(frozen_run: Path) -> None:
    with served(frozen_run, limits=Limits(queue=1)) as address:
        data, work = encoded(picture("disc", 1)), address.service.model.predict
        begun, go = threading.Event(), threading.Event()

        def held(pictures: object) -> object:
            begun.set()
            assert go.wait(60)
            return work(pictures)

        address.service.model.predict = held  # type: ignore[method-assign, assignment]
        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            first = thread.submit(asked, address.port, "/predict", data, Content_Type="image/png")
            assert begun.wait(60)
            connection = http.client.HTTPConnection("127.0.0.1", address.port, timeout=60)
            for body in (data, b"GET / HTTP/1.1\r\n\r\n" * 20_000, data):  # what is dropped is taken for no request
                connection.request("POST", "/predict", body, {"Content-Type": "image/png"})
                answer = connection.getresponse()
                assert (answer.status, json.loads(answer.read())["reason"]) == (503, "busy")
            mine = connection.sock
            go.set()
            status, wanted, _ = first.result()
            assert status == 200
            connection.request("POST", "/predict", data, {"Content-Type": "image/png"})
            assert json.loads(connection.getresponse().read()) == wanted
            assert connection.sock is mine
            connection.close()


def test_who_sends_slowly_takes_no_place(frozen_run: Path) -> None:
    with served(frozen_run, limits=Limits(queue=1)) as address:
        data, slow = encoded(picture("disc", 1)), []
        named = f"Host: localhost\r\nContent-Type: image/png\r\nContent-Length: {len(data)}"
        for _ in range(5):
            slow.append(socket.create_connection(("127.0.0.1", address.port), timeout=60))
            slow[-1].sendall(f"POST /predict HTTP/1.1\r\n{named}\r\n\r\n".encode() + data[:50])
        assert asked(address.port, "/predict", data, Content_Type="image/png")[0] == 200
        for one in slow:  # and each of them gets its answer when it comes to it
            one.sendall(data[50:])
            assert one.recv(12) == b"HTTP/1.1 200"
            one.close()


def test_too_long_an_answer_is_given_up(frozen_run: Path) -> None:
    with served(frozen_run, limits=Limits(answer_seconds=0.1)) as address:
        address.service.model.predict = lambda pictures: time.sleep(0.5)  # type: ignore[method-assign, assignment, return-value]
        status, content, headers = asked(address.port, "/predict", b"x", Content_Type="image/png")
        assert (status, content["reason"]) == (503, "slow")
        assert "retry-after" in headers


def test_a_bug_of_ours_is_one_line_and_the_server_goes_on(frozen_run: Path, caplog: pytest.LogCaptureFixture) -> None:
    with served(frozen_run) as address:

        def broken(pictures: object) -> object:
            raise ZeroDivisionError("secret words")

        address.service.model.predict = broken  # type: ignore[method-assign, assignment]
        status, content, headers = asked(address.port, "/predict", b"x", Content_Type="image/png")
        assert status == 500
        assert "secret" not in str(content)
        assert headers["x-content-type-options"] == "nosniff"
        assert asked(address.port, "/healthz")[0] == 200


# --- the command --------------------------------------------------------------------------------------------------


def test_a_signal_ends_the_command_when_accepted_requests_are_answered(frozen_run: Path) -> None:
    process, port = started(frozen_run, "--no-neighbours")
    try:
        many = form([(f"{i}.png", encoded(picture("disc", i).resize((400, 400)))) for i in range(32)])
        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            answer = thread.submit(asked, port, "/predict", many[0], Content_Type=many[1])
            while "held_bytes 0" in asked(port, "/metrics")[1].decode() and not answer.done():
                time.sleep(0.002)
            process.send_signal(signal.SIGTERM)
            status, rows, _ = answer.result()
        assert status == 200
        assert len(rows) == 32
        assert process.wait(60) == 0
        with pytest.raises(ConnectionRefusedError):
            asked(port, "/healthz")
    finally:
        process.kill()
        process.communicate()


def test_the_command_answers_by_the_engine_of_predict_and_shows_the_map_of_its_answer(
    frozen_run: Path, pictures: dict[str, bytes], tmp_path: Path
) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    run = Path(shutil.copytree(frozen_run, tmp_path / "run"))
    headstart.export(run)
    certificate = run / "exports" / "onnx-fp32" / "certificate.json"
    told = json.loads(certificate.read_text())
    told["latency"]["batch_1"].update(export_ms=1.0, torch_ms=2.0)
    certificate.write_text(json.dumps(told))
    few = dict(list(pictures.items())[:6])
    found = {}
    for flags, engine in (((), "onnxruntime"), (("--engine", "torch"), "torch")):
        found[engine] = list(predicted(run, few, tmp_path / "photos", *flags).values())
        process, port = started(run, "--no-neighbours", *flags)
        try:
            assert asked(port, "/model")[1]["engine"] == engine
            rows = asked(port, "/predict", form(few)[0], Content_Type=form({})[1])[1]
            assert rows == found[engine]
            seen = asked(port, "/explain", form({"0.png": few["0.png"]})[0], Content_Type=form({})[1])[1]
            assert seen["answer"] == rows[0]
            assert seen["map"].startswith("data:")
        finally:
            process.kill()
            process.communicate()
    assert found["onnxruntime"] != found["torch"]  # in the last bits: each is really computed by its own


def test_it_listens_on_this_machine_alone_until_ctrl_c(frozen_run: Path) -> None:
    process, port = started(frozen_run)
    try:
        text = Path("/proc/net/tcp").read_text() if Path("/proc/net/tcp").exists() else ""
        listeners = [line.split()[1] for line in text.splitlines()[1:] if line.split()[3] == "0A"]
        mine = [address for address in listeners if int(address.partition(":")[2], 16) == port]
        assert not text or mine == [f"0100007F:{port:04X}"]
        assert asked(port, "/model")[1]["neighbours"] == 45
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()


def test_a_port_that_is_taken_and_a_missing_package_are_told(frozen_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SettingsError, match="cannot listen on"):
        headstart.serve(frozen_run, port=taken.getsockname()[1])
    find = __import__("importlib.util").util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "uvicorn" else find(name))
    with pytest.raises(MissingExtraError, match=r"headstart\[serve\]"):
        headstart.serve(frozen_run, port=0)
