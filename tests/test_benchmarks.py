"""The benchmarks run: the plain peers on a few drawn pictures, the table, and the merging of results. Never seconds."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "benchmarks"
TOY = ROOT / "src" / "headstart" / "sources" / "toy"


@pytest.fixture(autouse=True)
def _as_a_script(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scripts import their neighbours, as they do when Python runs them."""
    monkeypatch.syspath_prepend(str(FOLDER))


@pytest.fixture
def harness() -> ModuleType:
    return __import__("harness")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight pictures: FOLDER/SPLIT/CLASS/file, two classes, two splits."""
    from toydata import picture

    folder = tmp_path_factory.mktemp("drawn")
    for number in range(8):
        split, kind = ("train", "val")[number // 2 % 2], ("bar", "disc")[number % 2]
        place = folder / split / kind
        place.mkdir(parents=True, exist_ok=True)
        picture(kind, number).save(place / f"{number}.png")
    return folder


def peer(name: str, data: Path, out: Path, *words: str) -> dict[str, Any]:
    """Run a peer as speed.py does, and read its result."""
    command = [sys.executable, FOLDER / "peers" / f"{name}.py", "--data", data, "--source", TOY, "--size", 32]
    command += ["--epochs", 1, "--batch", 2, "--out", out, *words]
    told = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=120, check=False)
    assert told.returncode == 0, told.stderr[-500:]
    return dict(json.loads(out.read_text("utf-8")))


@pytest.mark.parametrize(("name", "words"), [("tutorial", ("--mode", "partial", "--trained", "layer4")),
                                             ("sklearn_probe", ())])  # fmt: skip
def test_a_peer_judges_itself_on_the_pictures_it_is_given(
    drawn: Path, tmp_path: Path, name: str, words: tuple[str, ...]
) -> None:
    found = peer(name, drawn, tmp_path / "result.json", *words)
    assert found["images"] == 4
    assert found["accuracy"] in (0, 0.25, 0.5, 0.75, 1)
    assert [set(row) for row in found["epochs"]] == (
        [{"train_seconds", "val_seconds", "accuracy", "when"}] if name == "tutorial" else []
    )


def test_the_trainable_parts_of_the_tutorial_are_what_its_mode_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER / "peers"))
    common, tutorial = __import__("common"), __import__("tutorial")
    counts = {}
    for mode in ("frozen", "full", "discriminative"):
        network, _ = common.open_network(str(TOY), 3)
        groups = tutorial.trained_groups(network, mode, 0.1, "")
        counts[mode] = [sum(p.numel() for p in group["params"]) for group in groups]
        assert [group["lr"] for group in groups][-1] == pytest.approx(1.0 if mode == "discriminative" else 0.1)
        trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
        assert trained == sum(counts[mode])
    assert counts["frozen"] == counts["full"][1:], "the head alone"
    assert counts["full"] == counts["discriminative"]


def test_a_row_shows_spread_factor_and_whether_the_aim_is_reached(harness: ModuleType) -> None:
    slow = harness.factor_row("work", "loop", "s", [2.0, 1.0, 4.0], [10.0, 30.0, 20.0], wanted=(5, 20))
    assert (slow.got, slow.reached) == ("10.0x", True)
    fast = harness.factor_row("work", "loop", "images/s", [30.0], [20.0], wanted=(2, 3))
    assert (fast.got, fast.reached) == ("1.5x", False), "a higher rate is better"
    text = harness.table([slow.as_dict(), fast.as_dict()])
    assert "| 1.00 ← 2.00 → 4.00 s | loop: 10.0 ← 20.0 → 30.0 s | 10.0x | 5x (20x), reached |" in text
    assert "**missed**" in text
    assert len({line.count("|") for line in text.splitlines()}) == 1, "every line has as many cells"


def test_results_are_merged_case_by_case_and_put_between_the_marks(harness: ModuleType, tmp_path: Path) -> None:
    speed = __import__("speed")
    row = harness.factor_row("work", "loop", "s", [1.0], [2.0]).as_dict()
    case = {"title": "a title", "date": "today", "command": "this", "minutes": 1.0, "machine": harness.machine(),
            "rows": [row], "notes": ["a note"]}  # fmt: skip
    page = tmp_path / "page.md"
    page.write_text(f"before\n{speed.BEGIN}\nold\n{speed.END}\nafter\n", "utf-8")
    speed.write({"one": case}, tmp_path, page)
    speed.write({**speed.known(tmp_path), "two": case}, tmp_path, page)
    text = page.read_text("utf-8")
    assert text.startswith("before\n")
    assert text.endswith(f"{speed.END}\nafter\n")
    assert "old" not in text
    assert (text.count("**one**"), text.count("**two**"), text.count("- a note")) == (1, 1, 2)
    assert (tmp_path / "speed.md").read_text("utf-8") in text


def test_a_process_is_watched_to_its_end_and_its_failure_is_told(harness: ModuleType, tmp_path: Path) -> None:
    lines = tmp_path / "log.jsonl"
    code = f"open({str(lines)!r}, 'w').write('{{\"epoch\": 0}}\\n')"
    found = harness.measure([sys.executable, "-c", code], log=tmp_path / "out", watch=lines)
    assert [row for _, row in found.lines] == [{"epoch": 0}]
    assert 0 < found.lines[0][0] <= found.seconds
    with pytest.raises(RuntimeError, match="no such luck"):
        harness.measure([sys.executable, "-c", "raise SystemExit('no such luck')"], log=tmp_path / "out")


def test_the_page_holds_the_results_that_are_kept() -> None:
    speed = __import__("speed")
    kept = FOLDER / "results" / "speed.md"
    page = (ROOT / "docs" / "performance.md").read_text("utf-8")
    shown = page.partition(speed.BEGIN)[2].partition(speed.END)[0].strip()
    assert shown == (kept.read_text("utf-8").strip() if kept.is_file() else "")


def test_the_table_of_similarity_says_which_measure_orders_the_gains() -> None:
    similarity = __import__("similarity")

    def row(name: str, avoided: float, frozen: float, full: float) -> dict[str, Any]:
        truth = [{"seed": n, "n": 10, "accuracy": {"frozen": frozen, "partial": 0.1, "full": full}} for n in (0, 1)]
        shared = {"source": "toy", "size": 32, "items": 50, "pretrained": 0.5, "random": 0.2, "entropy": None}
        return {"data": name, "truth": truth, "avoided": avoided, "probe": 1 - avoided, "moments": avoided, **shared}

    known = [row("hotdog", 0.9, 0.8, 0.8), row("digits", 0.2, 0.5, 0.7), row("spoken", 0.4, 0.5, 0.6)]
    assert similarity.gain(known[1]) == pytest.approx(20)
    told = similarity.table(known)
    assert told.index("hotdog") < told.index("spoken") < told.index("digits")
    assert "avoided +1.00, probe -1.00, moments +1.00." in told
    assert "on: +0.0 points over 1 sets; below: +15.0 points over 2 sets" in told


def test_the_pixels_of_an_export_are_compared_with_those_of_the_loader(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, frozen_run: Path
) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    pixels = __import__("export_pixels")
    monkeypatch.setattr(pixels, "SIZES", ((20, 33),))
    pixels.compare()
    assert capsys.readouterr().out.count("the graph equals the loader") == 2
    pixels.drafts(frozen_run, 2)
    assert "24 photos enlarged 2 times: 0.0% of values differ" in capsys.readouterr().out  # too small to be drafted


def test_what_alone_costs_is_measured_and_alone_has_the_bits_of_alone() -> None:
    rows = __import__("alone").measured("test_resnet", pictures=8, side=32)
    assert [size for size, _, _ in rows] == [1, 8, 32]
    assert rows[0][2] == 8


# --- the server under load --------------------------------------------------------------------------------------------


def test_the_client_counts_what_comes_back_and_knows_another_answer(frozen_run: Path) -> None:
    pytest.importorskip("fastapi")
    from serving import served
    from toydata import picture

    client, photos = __import__("serve_client"), []
    for number in range(3):
        stream = io.BytesIO()
        picture("disc", number).save(stream, "JPEG")
        photos.append(stream.getvalue())

    async def load(port: int) -> list[Any]:
        requests = await client.alone(port, photos)
        crowd = asyncio.create_task(client.slowly(port, connections=10, every=0.05))
        told = [
            await client.closed(port, requests, connections=4, seconds=0.3),
            await client.opened(port, requests, rate=50, seconds=0.3, connections=4),
            await client.closed(port, [client.Asked(requests[0].data, b"another")], connections=1, seconds=0.1),
            await client.closed(
                port, [client.Asked(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")], connections=1, seconds=0.1
            ),
        ]
        assert await client.back_to_normal(port, requests, normal=60.0) < 60.0
        crowd.cancel()
        return told

    with served(frozen_run) as address:
        closed, opened, other, refused = asyncio.run(load(address.port))
    for told in (closed, opened):
        assert told.good
        assert (told.different, told.other, told.broken, len(told.busy)) == (0, 0, 0, 0)
    assert other.different == len(other.good) > 0
    assert refused.other > 0
    assert not refused.good


def test_the_client_tells_refusals_with_and_without_a_time_and_broken_connections() -> None:
    client = __import__("serve_client")
    answers = [
        b"HTTP/1.1 503 Busy\r\nRetry-After: 2\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 503 Busy\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}",
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ]

    async def run() -> Any:
        turn = iter(answers * 1_000)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while await reader.read(100):
                writer.write(answer := next(turn))
                if not answer:
                    break
            writer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            return await client.closed(port, [client.Asked(b"x", b"ok")], connections=1, seconds=0.2)

    told = asyncio.run(run())
    assert told.good
    assert len(told.busy) >= 2
    assert 0 < told.without_time < len(told.busy)
    assert told.broken >= 1
    assert (told.different, told.other) == (0, 0)


def test_a_percentile_is_a_value_that_so_many_do_not_exceed() -> None:
    percentile = __import__("serve_client").percentile
    values = [float(n) for n in range(1, 101)]
    assert [percentile(values, share) for share in (0.5, 0.99, 1.0)] == [50.0, 99.0, 100.0]
    assert percentile([3.0], 0.99) == 3.0
    assert percentile([], 0.5) != percentile([], 0.5)


def test_the_page_of_the_server_holds_the_results_that_are_kept(harness: ModuleType, tmp_path: Path) -> None:
    load = __import__("serve_load")
    rows = []
    for name, rate, p99 in (("1 connection", 9.0, 0.1), ("8 connections", 10.0, 0.5), ("64 connections", 10.0, 4.0),
                            ("8 connections beside 1,000 slow ones", 9.0, 0.6), ("10 times", 8.0, 6.0)):  # fmt: skip
        told = __import__("serve_client").Told(good=[p99] * 10, busy=[0.01] if p99 == 6.0 else [], seconds=10 / rate)
        row = load.Row(name)
        row.add(told, worked=1.0, before=100.0, after=101.0)
        rows.append(row.as_dict())
    one = {"rows": rows, "capacity": 10.0, "asked_rate": 99.0, "client_share": 0.1, "back_seconds": 0.5,
           "restart_seconds": 3.0}  # fmt: skip
    found = {"machine": harness.machine(), "engines": {"torch": one}, "alone": {"decode": 60.0, "torch": 12.0},
             "date": "today", "photos": 3, "photo_bytes": 50_000, "minutes": 1.0, "command": "this"}  # fmt: skip
    page = tmp_path / "page.md"
    page.write_text(f"before\n{load.BEGIN}\nold\n{load.END}\nafter\n", "utf-8")
    text = load.write(found, tmp_path, page)
    assert page.read_text("utf-8") == f"before\n{load.BEGIN}\n\n{text}\n{load.END}\nafter\n"
    assert "| torch | 10 times | 8.00 | 6,000 | 6,000 | 1 of 11 | 100.0 | 100 → 101 |" in text
    assert "one after the other at most 10; the server's best is 100% of that" in text
    assert "it gives 80% of its best; p99 is 1.5 times that of 64 connections, 12.0 times that of 8" in text
    kept = FOLDER / "results" / "serve.md"
    shown = (ROOT / "docs" / "serve.md").read_text("utf-8").partition(load.BEGIN)[2].partition(load.END)[0].strip()
    assert shown == (kept.read_text("utf-8").strip() if kept.is_file() else "")


def test_what_an_engine_gives_alone_is_measured(frozen_run: Path, tmp_path: Path) -> None:
    __import__("pictures").draw(tmp_path, count=8, splits=False)
    rates = __import__("serve_alone").measured(frozen_run, tmp_path)
    assert {*rates} == {"decode", "torch"}
    assert min(rates.values()) > 0


def test_the_table_of_what_is_deployed_sets_every_side_beside_torch() -> None:
    deployed = __import__("deployed")
    judged = {
        "torch": {"right": [True, True, False, True], "difference": 0.0, "other": 0, "mb": 2.0, "macs": 3e6},
        "onnx fp32": {"right": [True, True, False, True], "difference": 2e-6, "other": 0, "mb": 2.1, "macs": 3e6},
        "onnx int8": {"refused": "2.0 points are lost"},
        "pruned 2x": {"right": [True, False, False, True], "difference": 0.4, "other": 1, "mb": 1.0, "macs": 1.5e6},
    }
    speed = {"torch": {"1": [10.0, 20.0, 30.0], "32": [40.0]}}
    row = deployed.row("pruned 2x", judged["pruned 2x"], [True, True, False, True], speed)
    assert row.startswith("| pruned 2x | 50.0 (15.0 to 85.0) | -25.0 (-75.0 to +0.0) | 1 | 0.4 | 1.0 | 2 | – | – |")
    machine = __import__("harness").machine()
    page = deployed.page({"cases": {"shapes, toy": {"judged": judged, "speed": speed}}, "machine": machine})
    assert "| torch | 75.0 (30.1 to 95.4) |  |  |  | 2.0 | 3 | 10.0 ← 20.0 → 30.0 | 40.0 |" in page
    assert "| onnx int8 | refused: 2.0 points are lost |" in page
    assert len({line.count("|") for line in page.splitlines() if line.startswith("|")}) == 1
    assert "onnx fp32" in deployed.summary({"cases": {"shapes, toy": {"judged": judged}}})
