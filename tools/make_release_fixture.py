"""Write what a release must stay able to read: a model and an interrupted run, with their known answers.

    OMP_NUM_THREADS=1 python tools/make_release_fixture.py [FOLDER]

FOLDER is tests/reliability/releases/VERSION by default and must not exist. It gets a source of random weights, drawn
pictures, a model that was made of them, a run that was stopped after its first epoch, and golden.json: the model's
probabilities and where the run ends. Later versions must load the model, predict as it did and take the run there.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save

import headstart
from headstart import files
from headstart.errors import Interrupted
from headstart.progress import Silent
from headstart.sources.base import seeded

ROOT = Path(__file__).resolve().parent.parent
ARCHITECTURE = "resnet18"
MODEL_ARGS = {"layers": [1, 1, 1, 1], "channels": [4, 6, 8, 12], "output_stride": 8}
SPLITS = {"train": 6, "val": 3, "test": 3}
OPTIONS: dict[str, Any] = {
    "source": "./source", "device": "cpu", "precision": "fp32", "engine": "torch", "workers": 0, "cache": False,
}  # fmt: skip
TUNED: dict[str, Any] = {
    "strategy": "partial", "train_last": 2, "epochs": 4, "batch_size": 6, "lr": "2e-2", "views": 0, "patience": 9,
    "probe_first": False, "interpolate": False, "augment": False,
}  # fmt: skip


def write_pictures(folder: Path) -> None:
    """Stripes of three directions in colours of their own; kind and number decide every pixel."""
    x, y = np.meshgrid(np.arange(32), np.arange(32))
    number = 0
    for split, count in SPLITS.items():
        for n in range(number, number + count):
            for kind, way in {"across": y, "down": x, "slanting": x + y}.items():
                rng = np.random.default_rng((n, len(kind)))
                bright, dark = rng.integers(120, 256, 3), rng.integers(0, 100, 3)
                stripes = ((way + rng.integers(8)) // rng.integers(3, 7)) % 2 == 0
                place = folder / split / kind
                place.mkdir(parents=True, exist_ok=True)
                pixels = np.where(stripes[:, :, None], bright, dark).astype(np.uint8)
                Image.fromarray(pixels).save(place / f"{n:02d}.png", optimize=True)
        number += count


def write_source(folder: Path) -> None:
    """A tiny network of random weights in the timm convention."""
    with seeded(0):
        network = timm.create_model(ARCHITECTURE, num_classes=0, **MODEL_ARGS)
    files.write_bytes(folder / "model.safetensors", save(network.state_dict(), metadata={"format": "pt"}))
    cfg = {
        "input_size": [3, 32, 32], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic",
        "crop_pct": 1.0, "num_classes": 0, "first_conv": "conv1", "classifier": "fc", "license": "Apache-2.0",
    }  # fmt: skip
    config = {"architecture": ARCHITECTURE, "num_classes": 0, "model_args": MODEL_ARGS, "pretrained_cfg": cfg}
    files.write_json(folder / "config.json", config)


class Stopping(Silent):
    """Presses Ctrl-C after the first epoch."""

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Stop."""
        if row["epoch"] == 1:
            os.kill(os.getpid(), signal.SIGINT)


def write_run(folder: Path) -> None:
    """A run with one checkpoint, whose settings name no place of this machine."""
    try:
        headstart.fit("pictures", folder, reporter=Stopping(), **OPTIONS, **TUNED)
    except Interrupted:
        pass
    else:
        raise SystemExit("the run was not interrupted")
    settings = files.read_json(folder / "settings.json")
    for name in ("platform", "processor", "cores"):
        del settings["begun"]["environment"][name]
    files.write_json(folder / "settings.json", {**settings, "directory": "."})
    *older, _ = sorted((folder / "checkpoints").iterdir())
    for place in older:
        shutil.rmtree(place)
    for rest in folder.glob(".lock*"):
        rest.unlink()


def golden(answers: np.ndarray) -> list[list[float]]:
    """Probabilities that a person can compare."""
    return [[round(float(value), 6) for value in row] for row in answers]


def make(folder: Path) -> None:
    """Write the fixture; its own place is the working folder meanwhile, so that all paths in it are relative."""
    torch.set_num_threads(1)
    folder.mkdir(parents=True)
    os.chdir(folder)
    write_pictures(Path("pictures"))
    write_source(Path("source"))
    pictures = sorted(Path("pictures/test").rglob("*.png"))
    model = headstart.fit("pictures", strategy="frozen", head="linear", error_rate=0.2, **OPTIONS).model
    model.save("model")
    write_run(Path("run"))
    with tempfile.TemporaryDirectory() as place:
        end = headstart.resume(shutil.copytree("run", Path(place) / "run"))
        log = [json.loads(line) for line in (Path(place) / "run" / "log.jsonl").open()]
    found = {
        "headstart": headstart.__version__,
        "pictures": [path.as_posix() for path in pictures],
        "model": golden(model.predict_proba(pictures)),
        "run": golden(end.model.predict_proba(pictures)),
        "val_loss": [round(row["val_loss"], 6) for row in log],
        "best_epoch": end.run["curves"]["best"],
    }
    files.write_json("golden.json", found)


def main() -> None:
    """Make the fixture of this version."""
    default = ROOT / "tests" / "reliability" / "releases" / headstart.__version__
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    if folder.exists():
        raise SystemExit(f"{folder} exists: a fixture of a release is never made anew")
    os.environ["HEADSTART_HOME"] = tempfile.mkdtemp()
    make(folder.resolve())
    print(f"wrote {folder}")


if __name__ == "__main__":
    main()
