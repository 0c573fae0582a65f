"""Devices and number formats, and two processes that really are two and end with one network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import two_processes

from headstart.errors import SettingsError
from headstart.settings import Settings
from headstart.transfer.engine import Engine, pick_device

SCRIPT = Path(__file__).parent / "two_processes.py"


@pytest.mark.parametrize("name", ["abacus", "cuda:x", "meta", "xpu"])
def test_an_unknown_device_is_refused_with_the_ways_out(name: str) -> None:
    with pytest.raises(SettingsError, match="Use auto, cpu"):
        pick_device(name)


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    assert pick_device("auto") == "cpu"
    for name in ("cuda", "cuda:1", "mps"):
        with pytest.raises(SettingsError, match="--device auto or cpu"):
            pick_device(name)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    assert pick_device("auto") == pick_device("mps") == "mps"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert pick_device("auto") == "cuda"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("cuda:1") == "cuda:1"
    with pytest.raises(SettingsError, match=r"cuda:2 was asked for, and torch sees 2 GPUs"):
        pick_device("cuda:2")


@pytest.mark.parametrize(
    ("wanted", "kind"), [("auto", torch.float32), ("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_the_number_format_is_the_settings(wanted: str, kind: torch.dtype) -> None:
    engine = Engine(Settings.of(device="cpu", precision=wanted))
    with engine.autocast():
        assert torch.nn.functional.linear(torch.ones(1, 2), torch.ones(1, 2)).dtype == kind


def test_auto_stays_open_where_bf16_is_fast_and_is_fp32_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from headstart.transfer.engine import _precision

    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda **_: True)
    monkeypatch.setattr("torch.cpu.get_capabilities", dict)
    told = (_precision("auto", "cuda:1"), _precision("fp32", "cuda"), _precision("auto", "cpu"))
    assert told == ("auto", "fp32", "fp32")


def test_one_process_shares_with_nobody() -> None:
    engine = Engine(Settings.of(device="cpu"))
    assert (engine.world, engine.rank, engine.main) == (1, 0, True)
    assert engine.gather("x") == ["x"]
    assert engine.total([1.0, 2.5]) == [1.0, 2.5]
    assert engine.worst(3) == 3
    assert engine.part(np.arange(5)).tolist() == [0, 1, 2, 3, 4]
    tensor = torch.ones(2)
    engine.average([tensor])
    engine.wait()
    with engine.main_first():
        pass
    table, there = engine.collect({1: np.array([1.0, 2.0])}, 2)
    assert there.tolist() == [False, True]
    assert np.isnan(table[0]).all()
    assert engine.collect({}, 0)[0].shape == (0, 0)


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]], dict[str, Any]]:
    """What two processes told, and what one process tells."""
    two, one = tmp_path_factory.mktemp("two"), tmp_path_factory.mktemp("one")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(SCRIPT), str(two)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Warning" not in done.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(two_processes.tuning, "_SAVE_SHARE", float("inf"))
        two_processes.main(one)
    ranks = [json.loads((two / f"{rank}.json").read_text()) for rank in (0, 1)]
    return two, ranks, json.loads((one / "0.json").read_text())


@pytest.mark.slow
def test_two_processes_train_one_network_near_that_of_one_process(answers: Any) -> None:
    _, ranks, alone = answers
    assert [(r["smooth"]["rank"], r["smooth"]["world"]) for r in ranks] == [(0, 2), (1, 2)]
    assert ranks[0]["smooth"]["digest"] == ranks[1]["smooth"]["digest"]
    assert np.abs(np.array(ranks[0]["smooth"]["logits"]) - alone["smooth"]["logits"]).max() < 1e-4
    for one, both in zip(alone["smooth"]["history"], ranks[0]["smooth"]["history"], strict=True):
        assert one.keys() == both.keys()
        assert all(both[name] == pytest.approx(one[name], abs=1e-4) for name in one)


@pytest.mark.slow
def test_statistics_averages_small_batches_and_vanished_pictures_keep_the_processes_together(answers: Any) -> None:
    _, ranks, _ = answers
    assert ranks[0]["norms"] == ranks[1]["norms"]
    assert np.isfinite(ranks[0]["norms"]["logits"]).all()
    assert all(ranks[0]["norms"]["there"])


@pytest.mark.slow
def test_two_processes_train_alike_from_rows_at_the_cut(answers: Any) -> None:
    _, ranks, alone = answers
    assert ranks[0]["above"]["digest"] == ranks[1]["above"]["digest"]
    assert np.abs(np.array(ranks[0]["above"]["logits"]) - alone["above"]["logits"]).max() < 1e-4


@pytest.mark.slow
def test_a_pooling_that_passes_by_a_part_of_the_network_trains_too(answers: Any) -> None:
    _, ranks, _ = answers
    assert ranks[0]["passing"] == ranks[1]["passing"]


@pytest.mark.slow
def test_only_the_main_process_writes(answers: Any) -> None:
    folder, _, _ = answers
    assert [json.loads(line)["epoch"] for line in (folder / "smooth" / "log.jsonl").read_text().splitlines()] == [
        0,
        1,
        2,
    ]
    assert len(list((folder / "smooth" / "checkpoints").iterdir())) == 2


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_and_they_go_on_together(answers: Any) -> None:
    _, ranks, alone = answers
    assert [r["code"] for r in (*ranks, alone)] == [143, 143, 143]
    assert ranks[0]["again"] == ranks[1]["again"]
    assert np.abs(np.array(ranks[0]["again"]["logits"]) - alone["again"]["logits"]).max() < 1e-4


@pytest.mark.slow
def test_a_bad_rate_ends_all_processes_with_the_same_advice(answers: Any) -> None:
    _, ranks, alone = answers
    assert "Lower --lr" in alone["absurd"]
    assert ranks[0]["absurd"] == ranks[1]["absurd"] == alone["absurd"]


@pytest.mark.slow
def test_rows_of_all_processes_are_put_together(answers: Any) -> None:
    _, ranks, _ = answers
    wanted = [[[0.0, 0.0], [1.0, 1.0], [-1.0, -1.0], [-1.0, -1.0]], [True, True, False, False]]
    assert ranks[0]["collected"] == ranks[1]["collected"] == wanted
