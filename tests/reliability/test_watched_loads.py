"""F2 of the catalogue: what an audit hook sees while models, runs, exports, stores and weights are opened."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from _hostile import pickles, safetensors_of, signed, signed_export
from test_hostile_models import FILES, RECORDS

import headstart
from headstart.data.store import ArrayStore
from headstart.sources import open_source
from headstart.transfer import checkpoint

WATCHED = Path(__file__).parent / "_watched.py"


def deeds(place: Path, home: Path) -> list[list[str]]:
    """What the child noted."""
    env = {**os.environ, "HEADSTART_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    call = [sys.executable, str(WATCHED), str(place)]
    done = subprocess.run(call, capture_output=True, text=True, timeout=280, check=False, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    told: list[list[str]] = json.loads(done.stdout.splitlines()[-1])
    return told


@pytest.fixture(scope="module")
def good(frozen_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one of everything that can be opened; to copy."""
    place = tmp_path_factory.mktemp("watched") / "good"
    shutil.copytree(frozen_run, place / "run")
    shutil.copy(next(iter((frozen_run.parent.parent).rglob("*.png")), _picture(place)), place / "picture.png")
    checkpoint.save(place / "checkpoints", "one", tensors={"a": torch.ones(3)}, facts={})
    store = ArrayStore({"dtype": "float32"}, kind="features", folder=place / "store")
    store.put(["ab" * 32], np.ones((1, 4), np.float32))
    torch.save(dict(open_source("random:test_resnet").network.state_dict()), place / "weights.pt")
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    headstart.export(place / "run", out=place / "exports" / "onnx")
    return place


def _picture(place: Path) -> Path:
    from toydata import picture

    picture("disc", 0).save(place / "drawn.png")
    return place / "drawn.png"


def test_f2_what_is_opened_does_nothing_but_read_its_own_files(good: Path, tmp_path: Path) -> None:
    shutil.copytree(good, tmp_path / "place" / "good")
    assert deeds(tmp_path / "place", tmp_path / "home") == []


def test_f2_hostile_files_make_no_load_do_anything_else(good: Path, tmp_path: Path) -> None:
    place, marker = tmp_path / "place", tmp_path / "marker"
    shutil.copytree(good, place / "good")
    for number, change in enumerate([*RECORDS.values(), *FILES.values()][::5]):
        bad = place / f"bad-{number:03d}"
        shutil.copytree(good / "run", bad / "run")
        change(bad / "run" / "model")
    traps, faults = pickles(marker), safetensors_of()
    bad = Path(shutil.copytree(good, place / "pickles"))
    for number, data in enumerate(traps.values()):
        for suffix in (".safetensors", ".pt", ".npy"):
            (bad / f"weights-{number}{suffix}").write_bytes(data)
        (bad / "store" / f"{number}.safetensors").write_bytes(data)
    for number, make in enumerate(faults.values()):
        (bad / f"weights-x{number}.safetensors").write_bytes(make())
    for name in ("run.json", "settings.json", "predictions.csv", "race.json"):
        (bad / "run" / name).write_bytes(traps["protocol 0"])
    for path in (bad / "run" / "model" / "model.safetensors", bad / "run" / "model" / "head.safetensors"):
        path.write_bytes(traps["torch zip"])
    signed(bad / "run" / "model")
    program = bad / "exports" / "torch"
    shutil.copytree(bad / "exports" / "onnx", program)
    (program / "model.onnx").rename(program / "model.pt2")
    told = json.loads((program / "certificate.json").read_bytes())
    told["export"].update(to="torch", files={"model.pt2": {"sha256": ""}})
    (program / "certificate.json").write_text(json.dumps(told))
    for export in (bad / "exports").iterdir():
        for path in export.glob("model.*"):
            path.write_bytes(traps["torch zip"])
        signed_export(export)
    removed = ["pickles: store", "os.remove"]  # our own cache: what is no row of it is dropped
    assert [deed for deed in deeds(place, tmp_path / "home") if deed[:2] != removed] == []
    assert not marker.exists()


CARELESS = {
    "os.system": "__import__('os').system('true')",
    "socket.__new__": "__import__('socket').socket()",
    "subprocess.Popen": "__import__('subprocess').run(['true'])",
    "open": "open({place!r}, 'w').close()",
    "compile": "eval('1 + 1')",
    "exec": "exec('1 + 1')",
}


def test_the_hook_sees_a_load_that_is_careless(good: Path, tmp_path: Path) -> None:
    shutil.copytree(good, tmp_path / "place" / "good")
    words = "".join(f"        {line.format(place=str(tmp_path / 'made'))}\n" for line in CARELESS.values())
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "if '_watched' in ' '.join(sys.orig_argv):\n"
        "    from headstart import files\n"
        "    usual = files.read_json\n"
        "    def read_json(path):\n"
        f"{words}"
        "        return usual(path)\n"
        "    files.read_json = read_json\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{tmp_path}:{Path(headstart.__file__).parents[1]}")
        assert CARELESS.keys() <= {deed[1] for deed in deeds(tmp_path / "place", tmp_path / "home")}
