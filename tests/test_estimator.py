"""TransferClassifier keeps scikit-learn's contract, for tables of features and for pictures."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any
from unittest import SkipTest

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from headstart import TransferClassifier
from headstart.errors import DataError, SettingsError
from headstart.settings import Settings
from toydata import CLASSES, picture

N = 12


@parametrize_with_checks([TransferClassifier(), TransferClassifier(head="ridge")])
def test_the_contract_of_scikit_learn_is_kept(estimator: Any, check: Any) -> None:
    try:
        check(estimator)
        left_out = ""
    except SkipTest as skipped:
        left_out = str(skipped)
    # what scikit-learn leaves out by itself: inputs of packages that are not installed
    assert not left_out or "pandas" in left_out or "SCIPY_ARRAY_API" in left_out


@pytest.fixture(scope="module")
def arrays() -> tuple[np.ndarray, np.ndarray]:
    """Pictures (n, 32, 32, 3) uint8 and their names."""
    pairs = [(np.asarray(picture(kind, n)), kind) for n in range(N) for kind in CLASSES]
    return np.stack([image for image, _ in pairs]), np.array([kind for _, kind in pairs])


def _toy(**options: Any) -> TransferClassifier:
    return TransferClassifier(**{"source": "toy", **options})


# --- pictures -------------------------------------------------------------------------------------------------------


def test_arrays_pil_pictures_and_paths_give_the_same_answers(
    arrays: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    X, y = arrays
    images = [picture(kind, n) for n in range(N) for kind in CLASSES]
    paths = [tmp_path / f"{n:03d}.png" for n in range(len(images))]
    for image, path in zip(images, paths, strict=True):
        image.save(path)
    names = [str(path) for path in paths]
    ways: list[Any] = [X, list(X), images, paths, names, np.array(names)]
    same = {"options": {"augment": False}}  # augmented views are drawn from the bytes, which differ
    first = _toy(**same).fit(X, y).predict_proba(X)
    assert first.shape == (len(y), 3)
    assert np.allclose(first.sum(axis=1), 1)
    for way in ways[1:]:
        assert np.allclose(_toy(**same).fit(way, y).predict_proba(way), first, atol=1e-5)


def test_labels_are_given_back_as_they_came(arrays: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = arrays
    classifier = _toy().fit(X, y)
    assert classifier.classes_.tolist() == sorted(CLASSES)
    assert set(classifier.predict(X)) <= set(CLASSES)
    assert classifier.score(X, y) > 0.6
    numbers = np.where(y == "bar", 20, np.where(y == "disc", 3, 100))  # as text they would be sorted otherwise
    numbered = _toy().fit(X, numbers)
    assert numbered.classes_.tolist() == [3, 20, 100]
    translated = np.array([{20: "bar", 3: "disc", 100: "square"}[n] for n in numbered.predict(X)])
    assert (translated == classifier.predict(X)).mean() > 0.9


def test_grey_pictures_are_pictures(arrays: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = arrays
    assert _toy().fit(X[..., 0], y).predict(X[:4, ..., 0]).shape == (4,)


@pytest.mark.parametrize("strategy", ["full", "partial"])
def test_fine_tuning_works_and_repeats(strategy: str, arrays: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = arrays
    first, second = (_toy(strategy=strategy, epochs=1, random_state=3).fit(X, y) for _ in range(2))
    assert first.model_.plan.strategy == strategy
    assert np.array_equal(first.predict_proba(X), second.predict_proba(X))


def test_the_seed_reaches_the_run(arrays: tuple[np.ndarray, np.ndarray]) -> None:
    assert _toy(random_state=7)._settings().seed == 7
    assert _toy(random_state=None)._settings().seed == 0
    drawn = _toy(random_state=np.random.RandomState(1))._settings().seed
    assert drawn == _toy(random_state=np.random.RandomState(1))._settings().seed > 0
    X, y = arrays
    a, b = (_toy(strategy="scratch", epochs=1, random_state=seed).fit(X, y).predict_proba(X[:3]) for seed in (0, 1))
    assert not np.allclose(a, b)


def test_pictures_that_cannot_be_read_are_told_when_fitting_and_when_predicting(
    arrays: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    X, y = arrays
    mixed = [*X, tmp_path / "broken.png"]
    with pytest.raises(DataError, match=r"1 training pictures cannot be read.*broken\.png"):
        _toy().fit(mixed, [*y, "bar"])
    with pytest.raises(DataError, match="1 of 37 pictures cannot be read"):
        _toy().fit(X, y).predict(mixed)


# --- the tools of scikit-learn ----------------------------------------------------------------------------------------


def test_cross_validation_and_a_grid_over_heads_and_options(arrays: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = arrays
    scores = cross_val_score(_toy(), X, y, cv=3)
    assert scores.shape == (3,)
    assert scores.mean() > 0.4
    grid = GridSearchCV(_toy(), {"head": ["linear", "knn"], "options": [None, {"folds": 3}]}, cv=2, error_score="raise")
    grid.fit(X, y)
    assert len(grid.cv_results_["params"]) == 4
    assert grid.best_params_["head"] in ("linear", "knn")
    assert grid.predict(X[:2]).shape == (2,)


def test_it_stands_at_the_end_of_a_pipeline(arrays: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = arrays
    brighter = make_pipeline(FunctionTransformer(lambda pixels: np.minimum(pixels, 250)), _toy()).fit(X, y)
    assert brighter.predict(X[:5]).shape == (5,)
    rows = np.random.default_rng(0).normal(size=(60, 5)) + np.repeat(np.eye(3, 5) * 4, 20, axis=0)
    table = make_pipeline(StandardScaler(), TransferClassifier(head="svm")).fit(rows, np.repeat([0, 1, 2], 20))
    assert table.score(rows, np.repeat([0, 1, 2], 20)) > 0.9


def test_parameters_are_copied_and_set(arrays: tuple[np.ndarray, np.ndarray]) -> None:
    first = _toy(head="ridge", options={"folds": 3})
    assert clone(first).get_params() == first.get_params()
    assert first.set_params(head="knn", options={"folds": 2})._settings() == Settings.of(
        source="toy", strategy="frozen", head="knn", folds=2
    )
    assert TransferClassifier().source == Settings().source  # the same words, the same defaults


def test_a_fitted_one_is_copied_by_pickle(arrays: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = arrays
    first = _toy().fit(X, y)
    second = pickle.loads(pickle.dumps(first))
    assert np.array_equal(first.predict_proba(X[:4]), second.predict_proba(X[:4]))


def test_fitting_again_forgets_what_was_fitted_before(arrays: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = arrays
    rows = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    classifier = _toy().fit(rows, np.repeat([0, 1], 15))
    assert classifier.n_features_in_ == 4
    classifier.fit(X, y)
    assert not hasattr(classifier, "head_")
    assert not hasattr(classifier, "n_features_in_")
    assert classifier.predict(X[:2]).shape == (2,)
    classifier.fit(rows, np.repeat([0, 1], 15))
    assert not hasattr(classifier, "model_")
    assert classifier.predict(rows).shape == (30,)


# --- mistakes ---------------------------------------------------------------------------------------------------------


def test_options_are_checked_when_fitting(arrays: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = arrays
    with pytest.raises(SettingsError, match="Did you mean batch_size"):
        _toy(options={"batchsize": 4}).fit(X, y)
    with pytest.raises(SettingsError, match="repeats head"):
        _toy(options={"head": "svm"}).fit(X, y)
    with pytest.raises(SettingsError, match="parameter random_state"):
        _toy(options={"seed": 4}).fit(X, y)
    with pytest.raises(SettingsError, match="no network to train"):
        _toy(strategy="full").fit(np.ones((4, 2)), [0, 1, 0, 1])


def test_labels_are_checked(arrays: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = arrays
    with pytest.raises(ValueError, match="36 pictures and y 35 labels"):
        _toy().fit(X, y[1:])
    with pytest.raises(ValueError, match="one class"):
        _toy().fit(X, ["bar"] * len(X))
    with pytest.raises(ValueError, match="requires y"):
        _toy().fit(X, None)
    with pytest.raises(NotFittedError):
        _toy().predict(X)


def test_too_few_pictures_to_fine_tune_are_told(arrays: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = arrays
    with pytest.raises(DataError, match="choose the epoch"):
        _toy(strategy="full", epochs=1).fit(X[:3], y[:3])
