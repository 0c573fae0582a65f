"""The toy: small, always the same, and worth something on digits that it has never seen."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch.nn import functional

import headstart.sources
from headstart.sources import open_source

TOY = Path(headstart.sources.__file__).parent / "toy"


def test_it_is_small_and_always_the_same() -> None:
    one, two = open_source("toy"), open_source(" toy ")
    assert one.sha256() == two.sha256() == one.card.sha256
    assert sum(file.stat().st_size for file in TOY.iterdir()) < 400_000
    assert one.card.input_size == (3, 32, 32)
    assert one.card.classes == ("0", "1", "2", "3", "4")
    assert [block.name for block in one.blocks] == ["stem", "layer1", "layer2", "layer3", "layer4"]


def test_its_random_twin_shares_nothing_but_the_shape() -> None:
    toy = open_source("toy")
    assert toy.fresh(0).sha256() != toy.sha256()
    assert toy.fresh(0).width("native") == toy.width("native") == 64


def _probe(features: np.ndarray, labels: np.ndarray, draw: int) -> float:
    order = np.random.default_rng(draw).permutation(len(labels))
    few = np.concatenate([order[labels[order] == digit][:10] for digit in np.unique(labels)])
    rest = np.setdiff1d(order, few)
    scaled = (features - features[few].mean(0)) / (features[few].std(0) + 1e-6)
    head = LogisticRegression(C=0.1, max_iter=500).fit(scaled[few], labels[few])
    return float(head.score(scaled[rest], labels[rest]))


def test_its_features_tell_unseen_digits_better_than_random_ones_and_than_pixels() -> None:
    data = load_digits()
    new = data.target >= 5
    small = torch.from_numpy(data.images[new]).float().unsqueeze(1) / 8 - 1
    images = functional.interpolate(small, size=(32, 32), mode="bicubic", antialias=True).clamp(-1, 1)
    images, labels = images.expand(-1, 3, -1, -1), data.target[new]
    toy = open_source("toy")
    with torch.no_grad():
        rows = {"toy": toy(images), "random": toy.fresh(0).eval()(images), "pixels": small.flatten(1)}
    scores = {k: np.mean([_probe(v.numpy(), labels, draw) for draw in range(5)]) for k, v in rows.items()}
    assert scores["toy"] > scores["random"] + 0.15
    assert scores["toy"] > scores["pixels"]
    told = re.search(r"\*\*(0\.\d+)\*\*", (TOY / "README.md").read_text())
    assert told is not None
    assert scores["toy"] == pytest.approx(float(told.group(1)), abs=0.03)


def test_its_own_classifier_still_tells_the_digits_it_has_seen() -> None:
    import timm

    data = load_digits()
    old = data.target < 5
    small = torch.from_numpy(data.images[old]).float().unsqueeze(1) / 8 - 1
    images = functional.interpolate(small, size=(32, 32), mode="bicubic", antialias=True).clamp(-1, 1)
    model = timm.create_model(f"local-dir:{TOY}", pretrained=True).eval()
    with torch.no_grad():
        right = model(images.expand(-1, 3, -1, -1)).argmax(1).numpy() == data.target[old]
    assert right.mean() > 0.97
