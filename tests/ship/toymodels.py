"""Models on the toy source with heads fitted on made-up features: what the tests of exports share."""

from __future__ import annotations

from typing import Any

import numpy as np

from headstart.data.augment import center_view
from headstart.judge.reject import Reject
from headstart.records import Plan
from headstart.ship.model import Model, softmax
from headstart.sources import open_source
from headstart.transfer.heads import fit_head
from headstart.transfer.net import TransferNet
from toydata import CLASSES, picture

__all__ = ["pictures_of_many_sizes", "session", "toy_features", "toy_model"]

SIZES = ((1, 1), (2, 3), (3, 4000), (4000, 3), (32, 32), (33, 31), (224, 224), (375, 500), (17, 301))


def toy_features(n: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Features of drawn shapes, as the toy source sees them, and their classes."""
    import torch

    from headstart.data.augment import normalise

    source = open_source("toy").eval()
    views = [center_view(np.asarray(picture(kind, i)), source.card) for i in range(n) for kind in CLASSES]
    with torch.inference_mode():
        return source(normalise(torch.stack(views), source.card)).numpy(), np.arange(3 * n) % 3


def toy_model(head: str = "linear", *, temperature: float = 1.0, error_rate: float | None = None) -> Model:
    """A model that names drawn shapes; with an error rate it may say "unknown"."""
    X, y = toy_features()
    source, fitted = open_source("toy"), fit_head(head, X, y, n_classes=3, seed=0)
    reject = None
    if error_rate is not None:
        reject = Reject.fit(softmax(fitted.logits(X) / temperature), y, features=X, error_rate=error_rate)
    plan = Plan("frozen", "pretrained", "head", head, "native", 0, {})
    net = TransferNet(source, fitted.module())
    return Model(net, CLASSES, head=fitted, plan=plan, facts={}, reject=reject, temperature=temperature)


def pictures_of_many_sizes(seed: int = 0) -> list[np.ndarray]:
    """Noise, the hardest picture for a resize, in odd sizes, and grey and smooth ones."""
    rng = np.random.default_rng(seed)
    found = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in SIZES]
    grey = np.repeat(rng.integers(0, 256, (61, 47, 1), dtype=np.uint8), 3, axis=2)
    slope = np.broadcast_to(np.linspace(0, 255, 300).astype(np.uint8)[:, None, None], (300, 90, 3))
    return [*found, grey, np.ascontiguousarray(slope)]


def session(data: bytes) -> Any:
    """An ONNX file opened as a stranger would."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
