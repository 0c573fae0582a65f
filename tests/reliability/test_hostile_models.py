"""F6 and F7 of the catalogue: model folders that say what cannot be, with hashes that fit, and single wrong bytes."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _hostile import signed
from safetensors.numpy import load_file, save_file

from headstart import cli
from headstart.errors import ModelError, SourceError, UserError
from headstart.ship.model import load
from headstart.sources import list_sources, open_source

MANY_DIGITS = b'{"schema": ' + b"9" * 9999 + b"}"
DEEP = b"[" * 100_000 + b"]" * 100_000


@pytest.fixture
def model(frozen_run: Path, tmp_path: Path) -> Path:
    """A model folder that may be spoilt."""
    return Path(shutil.copytree(frozen_run / "model", tmp_path / "model"))


def told(**parts: Any) -> Callable[[Path], object]:
    """A record with other parts."""
    return lambda folder: signed(folder, lambda record: record.update(parts))


def of(part: str, **values: Any) -> Callable[[Path], object]:
    """A record with other values in one part."""
    return lambda folder: signed(folder, lambda record: record[part].update(values))


def without(part: str, name: str) -> Callable[[Path], object]:
    return lambda folder: signed(folder, lambda record: record[part].pop(name))


def configured(**parts: Any) -> Callable[[Path], object]:
    """A config.json with other parts."""

    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_bytes())
        (folder / "config.json").write_text(json.dumps({**config, **parts}))
        signed(folder)

    return change


def viewed(**parts: Any) -> Callable[[Path], object]:
    """A config.json with other facts of the preprocessing."""

    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_bytes())
        configured(pretrained_cfg={**config["pretrained_cfg"], **parts})(folder)

    return change


def arrays(name: str, change: Callable[[dict[str, np.ndarray]], object]) -> Callable[[Path], object]:
    """Other arrays in a safetensors file."""

    def changed(folder: Path) -> None:
        found = dict(load_file(folder / name))
        change(found)
        save_file(found, folder / name, metadata={"format": "pt"})
        signed(folder)

    return changed


def file(name: str, data: bytes) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        (folder / name).write_bytes(data)
        signed(folder)

    return write


RECORDS: dict[str, Callable[[Path], object]] = {
    "fewer classes": told(classes=["a", "b"]),
    "more classes": told(classes=["a", "b", "c", "d"]),
    "no classes": told(classes=[]),
    "a class twice": told(classes=["a", "a", "b"]),
    "numbers for classes": told(classes=[1, 2, 3]),
    "a text for classes": told(classes="abc"),
    "an object for classes": told(classes={"a": 1, "b": 2, "c": 3}),
    "a class of 10 MB": told(classes=["a", "b", "c" * 10_000_000]),
    "a file outside": of("files", **{"../settings.json": "0" * 64}),
    "an absolute file": of("files", **{"/etc/hostname": "0" * 64}),
    "a hidden file": of("files", **{".lock": "0" * 64}),
    "a file with a line end": of("files", **{"a\nb": "0" * 64}),
    "a hash that is none": of("files", **{"README.md": "1"}),
    "a hash that is a number": of("files", **{"README.md": 1}),
    "files that are a list": told(files=["config.json"]),
    "weights that are not hashed": without("files", "model.safetensors"),
    "a head that is not hashed": without("files", "head.safetensors"),
    "a config that is not hashed": without("files", "config.json"),
    "no head's kind": told(head={}),
    "an unknown head": told(head={"kind": "transformer", "chosen": {}}),
    "another head": told(head={"kind": "knn", "chosen": {}}),
    "a list for a plan": told(plan=["frozen"]),
    "a plan without reasons": without("plan", "reasons"),
    "a plan with more": of("plan", colour="red"),
    "an unknown pooling": of("plan", pooling="../../x"),
    "no golden outputs": told(golden={}),
    "a thousand million golden outputs": of("golden", n=10**9),
    "golden outputs of words": of("golden", probabilities=[["a", "b", "c"]] * 3),
    "golden outputs of null": of("golden", probabilities=[[None] * 3] * 3),
    "a temperature of zero": told(calibration={"folded": False, "temperature": 0}),
    "a temperature below zero": told(calibration={"folded": False, "temperature": -1}),
    "a temperature of words": told(calibration={"folded": False, "temperature": "warm"}),
    "no temperature": told(calibration={"folded": False}),
    "calibration that is a list": told(calibration=[1]),
    "seen that is a number": told(seen=3),
    "seen that is deep": told(seen=[[[]]]),
    "versions that are a list": told(versions=[1]),
    "a source that is a text": told(source="x"),
    "a huge schema": told(schema=10**400),
    "a schema of words": told(schema="one"),
    "no schema": told(schema=None),
}

FILES: dict[str, Callable[[Path], object]] = {
    "a deep record": lambda folder: (folder / "headstart.json").write_bytes(DEEP),
    "a record of deep parts": lambda folder: (folder / "headstart.json").write_bytes(b'{"schema": ' + DEEP + b"}"),
    "an infinite schema": lambda folder: (folder / "headstart.json").write_bytes(b'{"schema": 1e999}'),
    "a schema of many digits": lambda folder: (folder / "headstart.json").write_bytes(MANY_DIGITS),
    "NaN in the record": lambda folder: (folder / "headstart.json").write_bytes(b'{"schema": NaN}'),
    "a deep config": file("config.json", DEEP),
    "a config of deep arguments": file("config.json", b'{"architecture": "test_resnet", "model_args": ' + DEEP + b"}"),
    "an empty head": arrays("head.safetensors", lambda found: [found.clear(), found.update(a=np.zeros(1, np.float32))]),
    "NaN in the head": arrays("head.safetensors", lambda found: found["weight"].__setitem__((0, 0), np.nan)),
    "infinity in the head": arrays("head.safetensors", lambda found: found["bias"].__setitem__(0, np.inf)),
    "a head of more classes": arrays(
        "head.safetensors",
        lambda found: found.update(weight=np.zeros((9, 32), np.float32), bias=np.zeros(9, np.float32)),
    ),
    "a head of other features": arrays(
        "head.safetensors", lambda found: found.update(weight=np.zeros((3, 7), np.float32))
    ),
    "a head of no dimensions": arrays("head.safetensors", lambda found: found.update(weight=np.zeros((), np.float32))),
    "a head of whole numbers": arrays(
        "head.safetensors", lambda found: found.update(weight=found["weight"].astype(np.int64))
    ),
    "NaN in the network": arrays("model.safetensors", lambda found: found["conv1.weight"].fill(np.nan)),
    "a variance below zero": arrays("model.safetensors", lambda found: found["bn1.running_var"].fill(-1)),
    "no architecture": configured(architecture=""),
    "a list for an architecture": configured(architecture=["resnet18"]),
    "an address for an architecture": configured(architecture="hf-hub:somebody/something"),
    "a folder for an architecture": configured(architecture="local-dir:/etc"),
    "torchvision's unknown": configured(architecture="torchvision/../../x"),
    "pictures of a million pixels a side": viewed(input_size=[3, 1_000_000, 1_000_000]),
    "pictures of no pixels": viewed(input_size=[3, 0, 0]),
    "pictures of words": viewed(input_size=["3", "32", "32"]),
    "pictures of one number": viewed(input_size=32),
    "a mean of words": viewed(mean=["a", "b", "c"]),
    "a mean of null": viewed(mean=[None, None, None]),
    "a std of zero": viewed(std=[0, 0, 0]),
    "a crop of almost nothing": viewed(crop_pct=1e-9),
    "facts that are a list": configured(pretrained_cfg=[1, 2]),
    "label names that are a number": configured(label_names=7),
}  # fmt: skip


@pytest.mark.parametrize("fault", [*RECORDS, *FILES])
def test_f6_a_model_that_says_what_cannot_be_is_refused_in_one_line(
    model: Path, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    {**RECORDS, **FILES}[fault](model)
    with pytest.raises(ModelError) as caught:
        load(model)
    assert str(model) in str(caught.value)
    assert len(str(caught.value)) < 1_500
    assert cli.run(["predict", str(model), str(model / "README.md")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


ARGUMENTS: dict[str, dict[str, Any]] = {
    "a checkpoint": {"checkpoint_path": "/etc/hostname"},
    "published weights": {"pretrained": True},
    "an address of weights": {"pretrained_cfg": {"url": "http://127.0.0.1:9/x.pth"}},
    "an overlay": {"pretrained_cfg_overlay": {"file": "/etc/hostname"}},
    "a cache folder": {"cache_dir": "/tmp/elsewhere"},
    "features alone": {"features_only": True},
    "a script": {"scriptable": True},
    "a vast width": {"stem_width": 60_000, "base_width": 60_000},
    "a vast number": {"base_width": 10**18},
    "an infinite number": {"drop_rate": float("1e999")},
    "vast depths": {"layers": [60_000] * 4},
    "a long list": {"layers": [1] * 100_000},
    "a deep list": {"layers": [[[[[[[[[[1]]]]]]]]]]},
    "a long text": {"act_layer": "x" * 100_000},
    "an unknown text": {"act_layer": "os.system"},
    "many channels": {"in_chans": 60_000},
    "a list": [1, 2],  # type: ignore[dict-item]
}


@pytest.mark.parametrize("kind", ARGUMENTS)
def test_f6_arguments_of_a_network_load_nothing_and_fill_no_memory(
    model: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("timm was asked to load something")

    for name in ("load_checkpoint", "load_pretrained", "load_model_config_from_hf", "load_model_config_from_path"):
        for module in ("timm.models._factory", "timm.models._builder"):
            monkeypatch.setattr(f"{module}.{name}", never, raising=False)
    config = json.loads((model / "config.json").read_bytes())
    whole = config["model_args"]
    config["model_args"] = {**whole, **ARGUMENTS[kind]} if isinstance(ARGUMENTS[kind], dict) else ARGUMENTS[kind]
    (model / "config.json").write_text(json.dumps(config).replace("Infinity", "1e999"))
    if kind in ("a checkpoint", "published weights", "an address of weights"):
        open_source(str(model))  # what we set ourselves is ours, whatever the folder says
        return
    with pytest.raises(SourceError) as caught:
        open_source(str(model))
    assert str(model) in str(caught.value)
    assert len(str(caught.value)) < 1_000


BOUNDED = """
import json, resource, sys
from pathlib import Path
import torch
from headstart.errors import SourceError
from headstart.sources import open_source
open_source("toy")
held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + (1 << 30),) * 2)
for words in json.loads(sys.argv[2]):
    folder = Path(sys.argv[1])
    config = json.loads((folder / "config.json").read_bytes())
    (folder / "config.json").write_text(json.dumps({**config, **words}))
    try:
        open_source(str(folder))
        print("opened", words)
    except SourceError as error:
        print("refused", error)
    told = Path("/proc/self/status").read_text()  # getrusage remembers the peak of the process that started this one
    print(told.partition("VmHWM:")[2].split()[0])
"""
VAST = [
    {"architecture": "vit_base_patch16_224", "model_args": {"embed_dim": 49_152, "num_heads": 8, "depth": 60_000}},
    {"architecture": "swin_base_patch4_window7_224", "model_args": {"window_size": 1_000, "img_size": 2_000}},
    {"architecture": "resnet50", "model_args": {"layers": [65_000, 65_000, 65_000, 65_000]}},
    {"architecture": "vit_giant_patch14_clip_224", "model_args": {}},
    {"architecture": "torchvision/vit_h_14", "model_args": {}, "pretrained_cfg": {"input_size": [3, 224, 224]}},
]


def test_f6_a_network_that_is_larger_than_its_weights_is_refused_before_it_takes_memory(model: Path) -> None:
    call = [sys.executable, "-c", BOUNDED, str(model), json.dumps(VAST)]
    done = subprocess.run(call, capture_output=True, text=True, timeout=280, check=False, env={**os.environ})
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert [line.partition(" ")[0] for line in lines[::2]] == ["refused"] * len(VAST), done.stdout
    assert all("larger than its weights" in line for line in lines[::2]), done.stdout
    assert int(lines[-1]) < 1_200_000


def test_f6_a_folder_that_cannot_be_read_spoils_no_list_of_sources(model: Path, tmp_path: Path) -> None:
    place = tmp_path / "sources"
    for number, fault in enumerate(FILES):
        folder = Path(shutil.copytree(model, place / f"{number:02d}"))
        FILES[fault](folder)
    shutil.copytree(model, place / "good")
    rows = list_sources([place])
    assert str(place / "good") in [row["address"] for row in rows]


# --- F7: one byte ---------------------------------------------------------------------------------------------------


def _places(data: bytes, draw: random.Random, count: int) -> list[int]:
    """Seeded places of a file, its first and its last byte."""
    return sorted({0, len(data) - 1, *(draw.randrange(len(data)) for _ in range(count))})


def check_one_byte(folder: Path, opened: Callable[[Path], object], *, count: int, seed: int = 0) -> int:
    """Change, cut and grow every file of a folder in seeded places; each must be refused with the file named."""
    draw, done = random.Random(seed), 0
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        spoilt = [whole[:at] + bytes([whole[at] ^ 1 << draw.randrange(8)]) + whole[at + 1 :]
                  for at in _places(whole, draw, count)]  # fmt: skip
        spoilt += [whole[: draw.randrange(len(whole))] for _ in range(max(1, count // 4))]
        spoilt += [whole + b" ", whole + b"\0", b"", whole[1:], whole[::-1]]
        for data in spoilt:
            path.write_bytes(data)
            with pytest.raises(ModelError) as caught:
                opened(folder)
            assert Path(str(caught.value.where)).name == path.name, (path.name, str(caught.value))
            done += 1
        path.write_bytes(whole)
    opened(folder)
    return done


def test_f7_one_byte_of_any_file_of_a_model_changed_is_an_error_that_names_it(model: Path) -> None:
    assert check_one_byte(model, load, count=8) > 60


@pytest.mark.long
def test_f7_any_byte_of_a_model(model: Path) -> None:
    from figures import record

    record("F7: one wrong byte of a model", faults=check_one_byte(model, load, count=600), unnoticed=0)


def test_f7_files_of_another_model_are_refused(model: Path, tuned_run: Path) -> None:
    for path in sorted(model.iterdir()):
        whole, other = path.read_bytes(), (tuned_run / "model" / path.name).read_bytes()
        if path.name == "headstart.json" or whole == other:
            continue
        path.write_bytes(other)
        with pytest.raises(ModelError) as caught:
            load(model)
        assert Path(str(caught.value.where)).name == path.name
        path.write_bytes(whole)
    (model / "headstart.json").write_bytes((tuned_run / "model" / "headstart.json").read_bytes())
    with pytest.raises(ModelError, match=r"safetensors|config\.json|README"):
        load(model)


def test_f7_a_file_that_is_a_folder_a_pipe_or_a_link_to_nowhere_is_named(model: Path) -> None:
    for path in sorted(model.iterdir()):
        kept = path.with_suffix(".kept")
        path.rename(kept)
        for make in (path.mkdir, lambda path=path: os.mkfifo(path), lambda path=path: path.symlink_to("nowhere")):
            make()
            with pytest.raises(UserError) as caught:
                load(model)
            assert path.name in str(caught.value) or path.name == "headstart.json"
            path.rmdir() if path.is_dir() else path.unlink()
        kept.rename(path)
    load(model)
