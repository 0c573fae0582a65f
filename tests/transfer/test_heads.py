"""Every head keeps the same promises: finite, deterministic, one module, the same answers after a round trip."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.svm import LinearSVC

from headstart.errors import DataError, SettingsError
from headstart.judge.calibration import log_softmax
from headstart.transfer import heads
from headstart.transfer._heads_common import Scaler, accuracy_and_loss, fold_pairs, rotate
from headstart.transfer._heads_linear import lowest
from headstart.transfer._heads_solver import LOSSES, Parts, solve
from headstart.transfer.heads import KINDS, FittedHead, fit_head, learning_curve, train_mlp

every_kind = pytest.mark.parametrize("kind", KINDS)
linear_kinds = pytest.mark.parametrize("kind", ["linear", "svm", "ridge"])


def blobs(n: int = 60, d: int = 12, k: int = 3, *, seed: int = 0, apart: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Features of k classes around k centres, not scaled alike, after a ReLU."""
    generator = np.random.default_rng(seed)
    y = np.arange(n) % k
    centres = np.random.default_rng(99).normal(size=(k, d)) * apart
    X = np.maximum(centres[y] + generator.normal(size=(n, d)), 0) * np.geomspace(0.1, 10, d)
    return X.astype(np.float32), y


def half_standardised(X: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The scaling of the heads, written down again."""
    mean, std = X.mean(0, dtype=float), X.std(0, dtype=float)
    return lambda rows: (rows - mean) / np.sqrt(std * std.mean())


def probabilities(logits: np.ndarray) -> np.ndarray:
    return np.exp(log_softmax(logits))


# --- promises of all heads ----------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("k", [2, 3])
def test_a_head_learns_and_its_module_gives_the_same_logits(kind: str, k: int) -> None:
    X, y = blobs(k=k, apart=2.0)
    X_new, y_new = blobs(k=k, seed=1, apart=2.0)
    head = fit_head(kind, X, y, n_classes=k, folds=3)
    logits = head.logits(X_new)
    assert logits.shape == (60, k)
    assert logits.dtype == np.float32
    assert (logits.argmax(1) == y_new).mean() > 0.8
    module = head.module()
    assert not module.training
    assert np.abs(module(torch.from_numpy(X_new)).detach().numpy() - logits).max() < 1e-4


@every_kind
def test_the_same_seed_gives_the_same_bits_and_leaves_the_global_random_state(kind: str) -> None:
    X, y = blobs()
    torch.manual_seed(3)
    np.random.seed(3)
    before = (torch.get_rng_state(), np.random.get_state()[1].tolist())
    one = fit_head(kind, X, y, n_classes=3, folds=3, seed=5)
    one.module()
    other = fit_head(kind, X.copy(), y.copy(), n_classes=3, folds=3, seed=5)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()
    assert one.chosen == other.chosen
    for name, array in one.tensors().items():
        assert array.tobytes() == other.arrays[name].tobytes()


@every_kind
def test_arrays_survive_safetensors_bit_for_bit(kind: str, tmp_path: Path) -> None:
    X, y = blobs()
    head = fit_head(kind, X, y, n_classes=3, folds=3)
    save_file(head.tensors(), tmp_path / "head.safetensors")
    again = FittedHead.from_tensors(kind, load_file(tmp_path / "head.safetensors"))
    assert again.logits(X).tobytes() == head.logits(X).tobytes()


@every_kind
def test_fixed_choices_skip_the_search_and_give_the_same_head(kind: str) -> None:
    X, y = blobs()
    searched = fit_head(kind, X, y, n_classes=3, folds=3)
    fixed = fit_head(kind, X, y, n_classes=3, folds=3, fixed=searched.chosen)
    assert fixed.chosen == searched.chosen
    assert fixed.oof is None
    assert fixed.search == []
    assert np.abs(fixed.logits(X) - searched.logits(X)).max() < 1e-3


@every_kind
def test_out_of_fold_logits_are_honest_answers_for_every_item(kind: str) -> None:
    X, y = blobs(90, apart=1.0)
    head = fit_head(kind, X, y, n_classes=3, folds=3)
    assert head.oof is not None
    assert head.oof.shape == (90, 3)
    assert np.isfinite(head.oof).all()
    noise = np.random.default_rng(0).permutation(y)
    blind = fit_head(kind, X, noise, n_classes=3, folds=3)
    assert blind.oof is not None
    assert (head.oof.argmax(1) == y).mean() > 0.7
    assert (blind.oof.argmax(1) == noise).mean() < 0.55
    best = min(row["log_loss"] for row in head.search)
    assert accuracy_and_loss(head.oof, y)[1] <= best * 1.25 + 0.02


@every_kind
def test_odd_features_and_rare_classes_give_finite_numbers(kind: str) -> None:
    X, y = blobs(31)
    X[:, 0], X[:, 1], X[:, 2] = 0.0, 7.25, 1e6
    y[0] = 3  # the only item of its class; class 4 has none
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        head = fit_head(kind, X, y, n_classes=5, folds=5)
        logits = head.logits(X * 1.5)
    assert all(np.isfinite(array).all() for array in head.arrays.values())
    assert np.isfinite(logits).all()
    assert head.oof is not None
    assert np.isfinite(head.oof).all()
    assert not (head.logits(X).argmax(1) == 4).any()


@every_kind
@pytest.mark.parametrize(("n", "k"), [(1, 2), (2, 2), (4, 1)])
def test_hardly_any_items_are_enough_to_answer(kind: str, n: int, k: int) -> None:
    X, y = blobs(n, k=k)
    head = fit_head(kind, X, y, n_classes=k)
    logits = head.logits(X)
    assert logits.shape == (n, k)
    assert np.isfinite(logits).all()
    assert np.abs(head.module()(torch.from_numpy(X)).detach().numpy() - logits).max() < 1e-4


@every_kind
def test_items_of_one_group_are_never_judged_by_each_other(kind: str) -> None:
    generator = np.random.default_rng(0)
    X = np.repeat(generator.normal(size=(20, 30)), 4, axis=0).astype(np.float32)  # 20 places, photographed 4 times
    X += 0.01 * generator.normal(size=X.shape).astype(np.float32)
    y = np.repeat(generator.permutation(np.arange(20) % 2), 4)
    groups = [f"place {i // 4}" for i in range(80)]
    open_eyes, honest = (fit_head(kind, X, y, n_classes=2, folds=4, groups=g).oof for g in (None, groups))
    assert open_eyes is not None
    assert honest is not None
    assert (open_eyes.argmax(1) == y).mean() > 0.95
    assert (honest.argmax(1) == y).mean() < 0.8


@every_kind
def test_learning_curves_grow_by_nested_parts(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = blobs(40)
    seen: list[set[int]] = []
    original = heads._grown

    def spy(*data: Any, **options: Any) -> Any:
        for rows, head in original(*data, **options):
            seen.append(set(rows))
            assert set(y[rows]) == {0, 1, 2}
            yield rows, head

    monkeypatch.setattr(heads, "_grown", spy)
    fixed = {"linear": {"C": 0.1}, "mlp": {"epochs": 3}, "svm": {"C": 1}, "ridge": {"alpha": 10}, "knn": {"k": 3}}
    X_val, y_val = blobs(30, seed=1)
    points = learning_curve(kind, X, y, n_classes=3, fixed=fixed[kind], X_val=X_val, y_val=y_val)
    assert [p["x"] for p in points] == sorted({p["x"] for p in points}) == [len(rows) for rows in seen]
    assert points[-1]["x"] == 40
    assert all(small < large for small, large in pairwise(seen))
    assert all(0 <= p["val_accuracy"] <= 1 and np.isfinite(p["train_loss"]) for p in points)


@linear_kinds
def test_a_learning_curve_ends_at_the_head_of_all_items(kind: str) -> None:
    X, y = blobs(60, apart=0.7)
    X_val, y_val = blobs(30, seed=1, apart=0.7)
    head = fit_head(kind, X, y, n_classes=3)
    last = learning_curve(kind, X, y, n_classes=3, fixed=head.chosen, X_val=X_val, y_val=y_val)[-1]
    assert last["val_loss"] == pytest.approx(accuracy_and_loss(head.logits(X_val), y_val)[1], abs=2e-3)
    assert last["train_loss"] == pytest.approx(accuracy_and_loss(head.logits(X), y)[1], abs=2e-3)


# --- linear heads -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "d", "k"), [(80, 12, 3), (40, 200, 3), (60, 30, 2), (50, 120, 2)])
@pytest.mark.parametrize("C", [1e-3, 0.1, 10.0])
def test_linear_is_scikit_learns_logistic_regression(n: int, d: int, k: int, C: float) -> None:
    X, y = blobs(n, d, k, apart=0.7)
    X_new = blobs(n, d, k, seed=1, apart=0.7)[0]
    scale = half_standardised(X)
    plain = LogisticRegression(C=C, max_iter=10_000, tol=1e-8).fit(scale(X), y)
    head = fit_head("linear", X, y, n_classes=k, fixed={"C": C})
    expected = plain.predict_proba(scale(X_new))
    assert np.abs(probabilities(head.logits(X_new)) - expected).max() < 1e-3


def test_ridge_is_scikit_learns_ridge_on_one_hot_labels() -> None:
    X, y = blobs(50, 20)
    scaled = half_standardised(X)(X)
    plain = Ridge(alpha=3.0).fit(scaled, np.eye(3)[y]).predict(scaled)
    head = fit_head("ridge", X, y, n_classes=3, fixed={"alpha": 3.0})
    expected = plain - plain.mean(1, keepdims=True)
    assert np.abs(head.logits(X) - expected).max() < 1e-3


def test_svm_is_scikit_learns_linear_svc() -> None:
    X, y = blobs(80, 20, apart=0.7)
    scaled = half_standardised(X)(X) / np.sqrt(20)
    # scikit-learn penalises the bias; a large scaling makes that vanish, as in ours
    plain = LinearSVC(C=5.0, dual=False, intercept_scaling=300, max_iter=100_000, tol=1e-8).fit(scaled, y)
    margins = plain.decision_function(scaled)
    head = fit_head("svm", X, y, n_classes=3, fixed={"C": 5.0})
    assert np.abs(head.logits(X) - (margins - margins.mean(1, keepdims=True))).max() < 0.01


@linear_kinds
def test_linear_heads_are_one_linear_layer(kind: str) -> None:
    X, y = blobs()
    module = fit_head(kind, X, y, n_classes=3, folds=3).module()
    assert type(module) is torch.nn.Linear
    assert module.weight.requires_grad
    assert (module.in_features, module.out_features) == (12, 3)


@pytest.mark.parametrize("kind", ["svm", "ridge"])
def test_the_temperature_moves_probabilities_but_no_answer(kind: str) -> None:
    X, y = blobs(90, apart=0.8)
    head = fit_head(kind, X, y, n_classes=3)
    bare = fit_head(kind, X, y, n_classes=3, fixed={k: v for k, v in head.chosen.items() if k != "temperature"})
    assert np.array_equal(head.logits(X).argmax(1), bare.logits(X).argmax(1))
    assert head.oof is not None
    assert accuracy_and_loss(head.oof, y)[1] < accuracy_and_loss(head.oof * head.chosen["temperature"], y)[1]


def test_a_class_without_items_gets_next_to_no_probability_anywhere() -> None:
    X, y = blobs(40)
    for kind in ("linear", "svm", "ridge"):
        far = np.random.default_rng(0).normal(size=(50, 12)).astype(np.float32) * 1000
        found = probabilities(fit_head(kind, X, y, n_classes=4, folds=3).logits(far))
        assert found[:, 3].max() <= 1 / 40


@pytest.mark.parametrize("shape", [(30, 8), (8, 30)])
def test_rotation_keeps_products_and_norms(shape: tuple[int, int]) -> None:
    generator = np.random.default_rng(0)
    X, order = generator.normal(size=shape).astype(np.float32), generator.permutation(shape[0])
    scaler = Scaler.of(X)
    turned = rotate(X, scaler, order=order)
    W = generator.normal(size=(2, turned.Z.shape[1]))
    assert np.allclose((scaler(X) @ turned.weight(W).T)[order], turned.Z @ W.T, atol=1e-4)
    assert np.linalg.norm(turned.weight(W)) == pytest.approx(np.linalg.norm(W), rel=1e-4)
    assert np.allclose(np.square(turned.Z).sum(0), turned.power, rtol=1e-3)


def test_the_axes_of_the_same_features_are_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[int] = []
    original = torch.linalg.eigh

    def counted(gram: torch.Tensor) -> Any:
        found.append(len(gram))
        return original(gram)

    monkeypatch.setattr(torch.linalg, "eigh", counted)
    X, y = blobs(seed=23)
    head = fit_head("linear", X, y, n_classes=3)
    learning_curve("linear", X.copy(), y, n_classes=3, fixed=head.chosen, X_val=X, y_val=y)
    assert found == [12]
    fit_head("linear", X + 1e-3, y, n_classes=3)
    assert found == [12, 12]


def test_very_wide_and_long_features_are_solved_without_rotation(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = blobs(60, 20)
    turned = {kind: fit_head(kind, X, y, n_classes=3, fixed={"C": 0.5, "alpha": 5.0}) for kind in ("linear", "ridge")}
    monkeypatch.setattr("headstart.transfer._heads_common._ROTATION_LIMIT", 10)
    for kind, head in turned.items():
        plain = fit_head(kind, X, y, n_classes=3, fixed={"C": 0.5, "alpha": 5.0})
        assert np.abs(plain.logits(X) - head.logits(X)).max() < 1e-2


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_slopes_are_those_of_finite_differences(loss: str) -> None:
    generator = torch.Generator().manual_seed(0)
    F = torch.randn(2, 3, 6, generator=generator, dtype=torch.float64)
    y, absent = (
        torch.randint(0, 2, (6,), generator=generator),
        torch.tensor([[False, False, False], [False] * 2 + [True]]),
    )
    value, slope, _ = LOSSES[loss](F.clone(), y, absent)
    step = 1e-6 * torch.randn(F.shape, generator=generator, dtype=torch.float64)
    moved = LOSSES[loss](F + step, y, absent)[0]
    assert (moved - value).numpy() == pytest.approx((slope * step).sum(dim=(1, 2)).numpy(), rel=1e-3)
    assert not slope[1, 2].any()  # a class that the fit never sees


def parts_of(X: np.ndarray, y: np.ndarray, *, sections: int = 1) -> Parts:
    """All fits but one section each; one section: one fit on all."""
    turned = rotate(X, Scaler.of(X))
    sees = ~np.eye(sections, dtype=bool) if sections > 1 else np.ones((1, 1), dtype=bool)
    return Parts(turned.Z, y, int(y.max()) + 1, np.linspace(0, len(y), sections + 1).astype(int), sees, turned.power)


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_the_solver_ends_where_the_gradient_vanishes(loss: str) -> None:
    X, y = blobs(60, 10, apart=0.7)
    parts = parts_of(X, y).wide()
    A = solve(parts, loss=loss, penalty=np.array([0.05]), tolerance=1e-14).A
    answers = torch.from_numpy(A[:, :, :-1] @ parts.Z.T + A[:, :, -1:])
    slope = LOSSES[loss](answers, torch.from_numpy(y), torch.zeros(1, 3, dtype=torch.bool))[1].numpy()[0]
    assert np.abs(slope @ parts.Z / 60 + 0.05 * A[0, :, :-1]).max() < 1e-5
    assert np.abs(slope.mean(1)).max() < 1e-5


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_fits_side_by_side_are_those_made_alone(loss: str) -> None:
    X, y = blobs(90, 10, apart=0.7)
    y[:30] = np.where(y[:30] == 2, 0, y[:30])
    y[30:] = np.where(y[30:] == 2, 1, y[30:])
    y[3] = 2  # the first fit lacks this class
    parts = parts_of(X, y, sections=3).wide()
    penalty = np.array([0.01, 0.1, 1.0])
    together = solve(parts, loss=loss, penalty=penalty, tolerance=1e-13).A
    for i in range(3):
        alone = solve(parts.only(np.array([i])), loss=loss, penalty=penalty[i : i + 1], tolerance=1e-13).A
        assert np.abs(together[i] - alone[0]).max() < 1e-4
    assert not together[0, 2].any()


def test_threads_change_no_bit_of_a_sum_and_get_their_number_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headstart.transfer._heads_solver._BLOCK", 1 << 10)
    monkeypatch.setattr("headstart.transfer._heads_common._BLOCK", 1 << 10)
    X, y = blobs(300)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(fit_head("linear", X, y, n_classes=3).arrays["weight"])
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert found[0].tobytes() == found[1].tobytes()


@pytest.mark.parametrize("valley", range(13))
def test_the_walk_finds_the_lowest_place_and_asks_few(valley: int) -> None:
    asked: list[int] = []

    def loss(place: int) -> float:
        asked.append(place)
        return (place - valley - 0.2) ** 2

    assert lowest(13, loss, start=4) == valley
    assert len(asked) == len(set(asked)) <= 8


@pytest.mark.parametrize("valley", range(5))
def test_the_walk_over_few_places_leaves_out_what_lies_beyond_a_worse_one(valley: int) -> None:
    asked: list[int] = []

    def loss(place: int) -> float:
        asked.append(place)
        return (place - valley - 0.2) ** 2

    assert lowest(5, loss, start=2) == valley
    assert set(asked) <= set(range(min(valley, 2) - 1, max(valley, 2) + 2))
    assert len(asked) == len(set(asked)) <= 4


@linear_kinds
def test_the_walk_is_as_good_as_trying_every_strength(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = blobs(80, 60, apart=0.4)
    found = fit_head(kind, X, y, n_classes=3)

    def every(count: int, loss: Callable[[int], float], *, start: int) -> int:
        return min(range(count), key=loss) if start else 0

    monkeypatch.setattr("headstart.transfer._heads_linear.lowest", every)
    every_one = fit_head(kind, X, y, n_classes=3)
    assert len(found.search) <= len(every_one.search)
    assert found.oof is not None
    assert every_one.oof is not None
    assert accuracy_and_loss(found.oof, y)[1] < accuracy_and_loss(every_one.oof, y)[1] + 1e-3


def test_ten_thousand_classes_do_not_crash() -> None:
    generator = np.random.default_rng(0)
    X, y = generator.normal(size=(300, 4)).astype(np.float32), generator.integers(0, 10_000, 300)
    for kind in KINDS:
        fixed = {"C": 0.1, "alpha": 1.0, "k": 3, "epochs": 1}
        head = fit_head(kind, X, y, n_classes=10_000, fixed=fixed)
        assert head.logits(X[:5]).shape == (5, 10_000)


# --- mlp, knn -----------------------------------------------------------------------------------------------


def test_mlp_is_two_layers_with_a_history_of_every_epoch() -> None:
    X, y = blobs()
    head = fit_head("mlp", X, y, n_classes=3, folds=3)
    module = head.module()
    assert [type(layer).__name__ for layer in module] == ["Linear", "ReLU", "Dropout", "Linear"]
    assert (module[0].out_features, module[2].p) == (256, 0.5)
    assert [row["epoch"] for row in head.history] == list(range(1, len(head.history) + 1))
    assert set(head.history[0]) == {"epoch", "train_loss", "val_loss", "train_accuracy", "val_accuracy"}
    losses = [row["val_loss"] for row in head.history]
    assert head.chosen["epochs"] == 1 + int(np.argmin(losses))
    assert head.history[-1]["train_loss"] < head.history[0]["train_loss"]


def test_mlp_with_a_validation_set_stops_early_and_gives_the_best_weights_back() -> None:
    X, y = blobs(60, apart=0.5)
    X_val, y_val = blobs(40, seed=2, apart=0.5)
    arrays, history = train_mlp(X, y, n_classes=3, seed=0, validation=(X_val, y_val))
    losses = [row["val_loss"] for row in history]
    assert len(losses) < 100
    assert np.argmin(losses) < len(losses) - 1
    found = accuracy_and_loss(FittedHead("mlp", arrays).logits(X_val), y_val)[1]
    assert found == pytest.approx(min(losses), rel=1e-4)


def test_knn_votes_as_counted_by_hand() -> None:
    X = np.array([[1, 0], [1, 0.1], [0, 1], [-1, 0]], dtype=np.float32)
    head = fit_head("knn", X, np.array([0, 0, 1, 2]), n_classes=3, fixed={"k": 1, "smoothing": 0.3})
    found = probabilities(head.logits(X))
    assert np.allclose(found[0], [1.1 / 1.3, 0.1 / 1.3, 0.1 / 1.3], atol=1e-5)
    assert found.argmax(1).tolist() == [0, 0, 1, 2]


def test_equally_near_neighbours_all_vote() -> None:
    X = np.zeros((6, 3), dtype=np.float32)
    head = fit_head("knn", X, np.array([0, 0, 0, 0, 1, 1]), n_classes=2, fixed={"k": 1, "smoothing": 0.0001})
    found = probabilities(head.logits(X))
    assert np.allclose(found, [[2 / 3, 1 / 3]] * 6, atol=1e-3)
    assert np.allclose(head.module()(torch.from_numpy(X)).exp().numpy(), found, atol=1e-4)


# --- shared parts -------------------------------------------------------------------------------------------


def test_folds_hold_out_every_item_once_even_with_rare_classes() -> None:
    y = np.array([0] * 12 + [1] * 11 + [2] * 3 + [3])
    pairs = fold_pairs(y, 5, seed=0)
    assert len(pairs) == 5
    assert sorted(np.concatenate([held for _, held in pairs])) == list(range(27))
    assert all(set(train).isdisjoint(held) for train, held in pairs)
    assert all(1 <= (y[held] == 0).sum() <= 4 for _, held in pairs)
    assert fold_pairs(np.array([0]), 5, seed=0) == []
    assert fold_pairs(np.array([0, 1]), 5, seed=0, groups=["a", "a"]) == []
    with pytest.raises(SettingsError, match="at least 2"):
        fold_pairs(y, 1, seed=0)


def test_scaled_features_have_mean_0_and_variance_1_on_average_and_keep_their_order_of_deviation() -> None:
    X, _ = blobs(200)
    X[:, 3] = 5.0
    scaled = Scaler.of(X)(X)
    others = np.delete(scaled, 3, axis=1)
    assert np.abs(scaled.mean(0)).max() < 1e-4
    assert np.square(others).mean() == pytest.approx(1, rel=1e-4)
    assert np.array_equal(np.argsort(others.std(0)), np.argsort(np.delete(X, 3, axis=1).std(0)))
    assert not scaled[:, 3].any()


@pytest.mark.parametrize(
    ("X", "y", "text"),
    [
        (np.zeros((3, 2)), [0, 1], "do not fit"),
        (np.zeros((0, 2)), [], "no item"),
        (np.array([[np.nan, 1.0]]), [0], "not finite"),
        (np.zeros((2, 2)), [0, 2], "between 0 and 1"),
        (np.zeros((2, 2)), [-1, 0], "between 0 and 1"),
    ],
)
def test_features_and_labels_that_cannot_be_trained_on_are_refused(X: np.ndarray, y: list[int], text: str) -> None:
    with pytest.raises(DataError, match=text):
        fit_head("linear", X, np.array(y), n_classes=2)


def test_an_unknown_head_is_named_with_the_known_ones() -> None:
    with pytest.raises(SettingsError, match="Did you mean linear"):
        fit_head("linaer", np.zeros((2, 2)), np.array([0, 1]), n_classes=2)
    with pytest.raises(SettingsError, match="unknown head"):
        FittedHead.from_tensors("tree", {})


def test_heads_import_no_torch() -> None:
    code = "import sys, headstart.transfer.heads; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
