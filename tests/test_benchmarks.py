"""The benchmarks run: the plain peers on a few drawn pictures, the table, and the merging of results. Never seconds."""

from __future__ import annotations

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
