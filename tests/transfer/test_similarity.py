"""Similarity is what pretrained features avoid of the errors that random ones make: cross-validated, from 0 to 1."""

from __future__ import annotations

import numpy as np
import pytest

from headstart.errors import DataError
from headstart.transfer.similarity import SIMILAR, avoided, probe, similarity

RNG = np.random.default_rng(0)
Y = np.arange(90) % 3


def features(apart: float, d: int = 12, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(len(Y), d)) + apart * rng.normal(size=(3, d))[Y]
    return rows.astype(np.float32)


@pytest.mark.parametrize(
    ("accuracy", "floor", "share"),
    [(0.9, 0.5, 0.8), (0.5, 0.5, 0.0), (0.3, 0.5, 0.0), (1.0, 0.2, 1.0), (1.0, 1.0, 1.0), (0.9, 1.0, 0.0)],
)
def test_the_share_of_errors_avoided(accuracy: float, floor: float, share: float) -> None:
    assert avoided(accuracy, floor) == pytest.approx(share)


def test_features_that_fit_where_random_ones_do_not_are_similar() -> None:
    found = similarity(features(4.0), features(0.0, seed=1), Y, n_classes=3)
    assert found["level"] == "similar"
    assert found["value"] > 0.9
    assert found["threshold"] == SIMILAR
    assert found["pretrained"] > found["random"]
    assert found["majority"] == pytest.approx(1 / 3)
    assert found["items"] == 90


def test_features_that_fit_no_better_than_random_ones_are_different() -> None:
    middling = features(0.7)
    for pretrained, fresh in ((middling, middling), (features(0.0), features(0.0, seed=1))):
        found = similarity(pretrained, fresh, Y, n_classes=3)
        assert found["level"] == "different"
        assert found["value"] <= 0.2


def test_more_useful_features_are_more_similar() -> None:
    fresh = features(0.0, seed=1)
    values = [similarity(features(apart), fresh, Y, n_classes=3)["value"] for apart in (0.0, 0.4, 1.0, 3.0)]
    assert values == sorted(values)
    assert values[0] < values[-1]


def test_always_naming_the_largest_class_is_the_least_to_beat() -> None:
    y = np.where(np.arange(90) < 81, 0, 1)
    noise = RNG.normal(size=(90, 5)).astype(np.float32)
    assert similarity(noise, noise[::-1].copy(), y, n_classes=2)["value"] == 0.0


def test_items_without_features_are_left_out_of_both() -> None:
    pretrained, fresh = features(4.0), features(0.0, seed=1)
    pretrained[3] = np.nan
    fresh[5] = np.nan
    kept = np.setdiff1d(np.arange(90), [3, 5])
    found = similarity(pretrained, fresh, Y, n_classes=3, groups=[str(n) for n in range(90)])
    assert found["items"] == 88
    assert found["pretrained"] == probe(pretrained[kept], Y[kept], n_classes=3)


def test_the_probe_does_not_learn_by_heart() -> None:
    wide = RNG.normal(size=(90, 400)).astype(np.float32)
    assert probe(wide, Y, n_classes=3) < 0.6
    twins = np.concatenate([wide, wide])
    groups = [str(n) for n in range(90)] * 2
    assert probe(twins, np.tile(Y, 2), n_classes=3, groups=groups) < 0.6
    assert probe(twins, np.tile(Y, 2), n_classes=3) > 0.7


def test_too_few_items_are_no_crash() -> None:
    assert probe(np.ones((1, 3), np.float32), np.array([0]), n_classes=2) == 0.0
    with pytest.raises(DataError):
        similarity(features(1.0), features(1.0), Y[:5], n_classes=3)
