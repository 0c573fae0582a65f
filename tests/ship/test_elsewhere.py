"""An export needs no headstart: the script of docs/export.md, run where nothing else can be imported."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import headstart

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

PAGE = Path(__file__).resolve().parents[2] / "docs" / "export.md"
ALONE = """
import sys

OURS = {"headstart", "torch", "torchvision", "timm", "onnx", "scipy", "sklearn", "safetensors"}

class _Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in OURS:
            raise ImportError(f"{name} is forbidden here")

sys.meta_path.insert(0, _Forbidden())
"""


def _script() -> str:
    (found,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return str(found)


def test_the_script_is_short_and_imports_onnxruntime_numpy_and_pillow_alone() -> None:
    imported = {
        (alias.name if isinstance(node, ast.Import) else str(node.module)).split(".")[0]
        for node in ast.walk(ast.parse(_script()))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }
    assert imported == {"json", "sys", "numpy", "onnxruntime", "PIL"}
    assert len([line for line in _script().splitlines() if line.strip()]) <= 15


@pytest.mark.parametrize("options", [{}, {"error_rate": 0.45, "head": "mlp"}], ids=["plain", "unknown"])
def test_it_gives_the_labels_of_predict_also_for_grey_and_turned_pictures(
    options: dict[str, object], split_shapes: Path, tmp_path: Path
) -> None:
    headstart.fit(split_shapes, tmp_path / "run", source="toy", strategy="frozen", cache=False, **options)
    told = headstart.export(tmp_path / "run")
    files = sorted((split_shapes / "test").rglob("*.png"))
    odd = tmp_path / "odd"
    odd.mkdir()
    with Image.open(files[0]) as picture:
        picture.convert("L").save(odd / "grey.png")
        picture.resize((300, 211)).save(odd / "large.png")
        exif = Image.Exif()
        exif[0x0112] = 6
        picture.save(odd / "turned.jpg", exif=exif, quality=95)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (1, 1, 3), dtype=np.uint8)).save(odd / "one.png")
    shown = [*files, *sorted(odd.iterdir())]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = [sys.executable, "-c", ALONE + _script(), f"{told['folder']}/model.onnx", *map(str, shown)]
    said = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True, env=environment)
    rows = [line.split("\t") for line in said.stdout.splitlines()]
    wanted = headstart.load(tmp_path / "run").predict(shown)
    assert [(Path(row[0]), row[1]) for row in rows] == [(Path(one.file), one.label) for one in wanted]
    assert np.allclose([float(row[2]) for row in rows], [one.probability for one in wanted], atol=1e-3)
    shutil.rmtree(tmp_path / "run")
