"""On an NVIDIA GPU: the numbers of a processor, the same bits again, and every verb's way through.

All other tests run there too, on the GPU wherever a device is chosen by itself.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import headstart
from headstart.data.augment import normalise
from headstart.files import hash_bytes
from headstart.sources import open_source
from headstart.transfer._runner_torch import prepared, torch_compute
from headstart.transfer.net import TransferNet

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")
FULL: dict[str, Any] = {
    "source": "toy", "strategy": "full", "epochs": 3, "batch_size": 16, "lr": "1e-2", "cache": False,
    "probe_first": False, "interpolate": False,
}  # fmt: skip


def pictures(n: int, side: int = 64) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(n))


def weights(folder: Path) -> str:
    return hash_bytes((folder / "model" / "model.safetensors").read_bytes())


@pytest.mark.parametrize("address", ["toy", "random:resnet50", "random:mobilenetv2_100", "random:test_vit"])
def test_features_are_those_of_a_processor(address: str) -> None:
    source = open_source(address, seed=0).eval()
    side = source.card.input_size[1]
    images, net = pictures(8, side), TransferNet(source, torch.nn.Identity(), pooling="native").eval()
    with torch.inference_mode():
        wanted = net.double()(normalise(images, source.card).double()).float().numpy()
    compute = torch_compute(prepared(net.float(), "cuda"), source.card, device="cuda", precision="fp32")
    rows = compute(images)
    assert np.abs(rows - wanted).max() <= 2e-5 * np.abs(wanted).max()
    assert np.array_equal(rows, compute(images))
    single = compute(torch.cat([images[5:6], images[[0] * 7]]))[0]
    assert np.array_equal(single, rows[5]), "a row follows what stands beside it"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_fine_tuning_gives_the_same_weights_again(precision: str, split_shapes: Path, tmp_path: Path) -> None:
    before = torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32
    for name in ("one", "two"):
        run = headstart.fit(split_shapes, tmp_path / name, **FULL, precision=precision).run
        assert not any("weights of epoch 0" in note for note in run["notes"]), "nothing was trained that counts"
    assert weights(tmp_path / "one") == weights(tmp_path / "two")
    assert (torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32) == before


def test_answers_are_the_processors_and_follow_no_company(tuned_run: Path, split_shapes: Path) -> None:
    files = sorted((split_shapes / "test").rglob("*.png"))
    model = headstart.load(tuned_run)
    wanted = model.predict_proba(files)
    rows = model.to("cuda").predict_proba(files)
    assert np.abs(rows - wanted).max() < 1e-5
    for n in (1, 2, 7):
        assert np.array_equal(model.predict_proba(files[:n]), rows[:n])


def test_the_verbs_take_the_device(tuned_run: Path, split_shapes: Path, tmp_path: Path) -> None:
    found = {}
    for device in ("cpu", "cuda", "auto"):
        words = [sys.executable, "-m", "headstart", "predict", str(tuned_run), str(split_shapes / "test"), "--json"]
        told = subprocess.run([*words, "--quiet", "--device", device], capture_output=True, text=True, check=True)
        found[device] = [row["probability"] for row in json.loads(told.stdout)]
    assert found["auto"] == found["cuda"]
    assert np.allclose(found["cpu"], found["cuda"], atol=1e-5)
    scores = [headstart.evaluate(tuned_run, split_shapes, device=device)["accuracy"] for device in ("cpu", "cuda")]
    assert scores[0] == scores[1]
    picture = next((split_shapes / "test").rglob("*.png"))
    maps = [headstart.explain(tuned_run, picture, device=device)[0]["looked_at"] for device in ("cpu", "cuda")]
    assert np.allclose(maps[0], maps[1], atol=1e-3)


def test_a_run_is_exported_and_pruned(tuned_run: Path, split_shapes: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch_pruning")
    pytest.importorskip("onnxruntime")
    run = Path(shutil.copytree(tuned_run, tmp_path / "run"))
    certificate = headstart.export(run)
    assert certificate["network"]["max_probability_difference"] < 1e-4
    first = headstart.prune(run, speedup=2, epochs=2)
    assert first["points"][-1]["speedup"] >= 2
    again = headstart.prune(run, speedup=2, epochs=2, out=tmp_path / "again")
    assert first["model"]["sha256"] == again["model"]["sha256"]
    assert len(headstart.predict(first["folder"], split_shapes / "test")) == 24


def test_what_does_not_fit_is_computed_in_smaller_pieces(split_shapes: Path, tmp_path: Path) -> None:
    words = [
        "fit", str(split_shapes), "--out", str(tmp_path / "run"), "--source", "random:resnet18", "--strategy", "full",
        "--epochs", "1", "--batch-size", "30", "--image-size", "384", "--lr", "1e-4", "--precision", "fp32", "--json",
    ]  # fmt: skip
    code = (
        "import sys, torch\n"
        "torch.cuda.set_per_process_memory_fraction(1.5e9 / torch.cuda.get_device_properties(0).total_memory)\n"
        "from headstart import cli\n"
        "sys.exit(cli.run(sys.argv[1:]))"
    )
    told = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    notes = " ".join(json.loads(told.stdout)["notes"])
    assert "memory ran out" in notes
