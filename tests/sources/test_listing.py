"""What `list_sources` shows opens, and what is no source is not shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from headstart.sources import list_sources, open_source


@pytest.fixture(autouse=True)
def _no_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def test_the_toy_is_always_there_with_its_size() -> None:
    (row,) = list_sources()
    toy = open_source("toy")
    body = sum(p.numel() for p in toy.network.parameters())
    assert row["address"] == "toy"
    assert row["architecture"] == "resnet18"
    assert row["parameters"] == body + 5 * 65
    assert 0.1 < row["megabytes"] < 0.4


def test_the_sources_in_a_folder_are_found_and_open(shared: Path) -> None:
    rows = [row for row in list_sources([shared / "sources"]) if row["where"] == "folder"]
    assert [Path(row["address"]).name for row in rows] == sorted(p.name for p in (shared / "sources").glob("*/"))
    small = min(rows, key=lambda row: row["parameters"])
    assert open_source(small["address"]).card.architecture == small["architecture"] == "mobilenetv2_035"
    assert [row["address"] for row in list_sources([small["address"]])][1:] == [small["address"]]


def test_folders_of_other_kinds_and_torn_files_are_no_sources(tmp_path: Path) -> None:
    for name, config in {
        "list": "[]",
        "torn": "{",
        "text": json.dumps({"model_type": "bert"}),
        "bare": '{"architecture": "x"}',
    }.items():
        (tmp_path / "many" / name).mkdir(parents=True)
        (tmp_path / "many" / name / "config.json").write_text(config)
    assert [row["address"] for row in list_sources([tmp_path / "many", tmp_path / "none"])] == ["toy"]
    odd = tmp_path / "many" / "bare" / "model.safetensors"
    for data in (b"", b"\xff" * 20, b"\x02\x00\x00\x00\x00\x00\x00\x00[]"):
        odd.write_bytes(data)
        row = list_sources([odd.parent])[1]
        assert (row["architecture"], row["parameters"]) == ("x", None)


def test_files_of_other_programs_in_the_torch_cache_are_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    for name in ("resnet18-f37072fd.pth", "resnet180.pth", "yolo.pth", "vgg16_bn-6c64b313.pth"):
        (folder / name).write_bytes(b"0" * 10)
    rows = {Path(r["address"]).name: r["architecture"] for r in list_sources() if r["where"] == "torch cache"}
    assert rows == {"resnet18-f37072fd.pth": "torchvision/resnet18", "vgg16_bn-6c64b313.pth": "torchvision/vgg16_bn"}
