"""Exports of real networks on real photos: the certificate holds where pictures have many sizes and drafts happen."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import headstart
from headstart.ship.exported import open_export
from headstart.ship.model import load

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

pytestmark = [pytest.mark.shared, pytest.mark.slow]


@pytest.mark.parametrize(
    ("source", "head", "precision"),
    [
        ("mobilenetv2_035.keras_in1k", "linear", "fp32"),
        ("mobilenetv2_035.keras_in1k", "mlp", "int8"),
        ("mobilenetv1_100.google_qat_in1k", "knn", "fp32"),
    ],
)
def test_a_real_network_answers_the_same_from_its_file(
    shared: Path, tmp_path: Path, source: str, head: str, precision: str
) -> None:
    data = tmp_path / "photos"
    for split, count in (("train", 12), ("val", 8)):
        for kind in ("ants", "bees"):
            (data / split / kind).mkdir(parents=True)
            for file in sorted((shared / "data" / "hymenoptera" / split / kind).iterdir())[:count]:
                shutil.copy(file, data / split / kind)
    headstart.fit(
        data, tmp_path / "run", source=str(shared / "sources" / source), strategy="frozen", head=head, error_rate=0.3,
        cache=False,
    )  # fmt: skip
    told = headstart.export(tmp_path / "run", precision=precision, max_drop=None if precision == "fp32" else 20.0)
    assert told["n"] == 16
    if precision == "fp32":
        assert told["pixels"]["pictures_that_differ"] == 0  # no photo is large enough to be drafted
        assert told["network"]["max_probability_difference"] < 1e-4
        assert told["whole"]["flipped"] == []
    files = sorted((data / "val").rglob("*.jpg"))
    ours = load(tmp_path / "run").predict_proba(files)
    theirs = open_export(told["folder"]).predict_proba(files)
    assert np.abs(ours - theirs).max() < (1e-4 if precision == "fp32" else 0.5)
