"""Suspected label errors: planted ones are found, a hard set without any gives none."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.judge.label_issues import find_label_issues, to_csv


def odds(n: int, k: int, *, spread: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities, and classes drawn by them: the smaller the spread, the harder the set."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(n, k)) * spread
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return chances, (logits + generator.gumbel(size=logits.shape)).argmax(1)


def flipped(y: np.ndarray, k: int, *, share: float, seed: int) -> tuple[np.ndarray, set[str]]:
    """Labels with a share turned into another class, and the names of those items."""
    generator = np.random.default_rng(seed)
    chosen = generator.permutation(len(y))[: round(share * len(y))]
    wrong = y.copy()
    wrong[chosen] = (wrong[chosen] + generator.integers(1, k, len(chosen))) % k
    return wrong, {str(i) for i in chosen}


def names(n: int) -> list[str]:
    return [str(i) for i in range(n)]


def precision_recall(rows: list[dict[str, object]], planted: set[str]) -> tuple[float, float]:
    found = {str(row["file"]) for row in rows}
    return len(found & planted) / max(1, len(found)), len(found & planted) / len(planted)


@pytest.mark.parametrize("spread", [1.0, 2.0, 4.0])
def test_a_clean_set_gives_no_suspects_however_hard_it_is(spread: float) -> None:
    found = [
        len(find_label_issues(*odds(400, 5, spread=spread, seed=seed), names(400), names(5))) for seed in range(10)
    ]
    assert sum(found) <= 8  # of 4,000 items, where the model itself is wrong on 160 to 2,000


def test_planted_errors_are_found_and_hardly_anything_else() -> None:
    results = []
    for seed in range(6):
        chances, y = odds(500, 5, spread=4.0, seed=seed)
        wrong, planted = flipped(y, 5, share=0.05, seed=seed)
        results.append(precision_recall(find_label_issues(chances, wrong, names(500), names(5)), planted))
    precision, recall = np.mean(results, axis=0)
    assert precision > 0.7
    assert recall > 0.5


def test_probabilities_that_are_too_soft_or_too_sure_find_the_same() -> None:
    chances, y = odds(500, 5, spread=4.0, seed=0)
    wrong, _ = flipped(y, 5, share=0.05, seed=0)
    wanted = {row["file"] for row in find_label_issues(chances, wrong, names(500), names(5))}
    for power in (0.6, 1.5):
        bent = chances**power / (chances**power).sum(1, keepdims=True)
        found = {row["file"] for row in find_label_issues(bent, wrong, names(500), names(5))}
        assert len(found ^ wanted) <= 3


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 120), st.integers(2, 6), st.integers(0, 1000))
def test_rows_are_worst_first_and_say_what_the_model_says(n: int, k: int, seed: int) -> None:
    chances, y = odds(n, k, spread=4.0, seed=seed)
    wrong, _ = flipped(y, k, share=0.2, seed=seed)
    rows = find_label_issues(chances, wrong, names(n), names(k))
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)
    for row in rows:
        i = int(row["file"])
        assert row["label"] == str(wrong[i]) != row["suggested"] == str(chances[i].argmax())
        assert (row["p_label"], row["p_suggested"]) == (chances[i, wrong[i]], chances[i].max())
        assert 0.5 < row["score"] <= 1


def test_few_items_one_class_and_absurd_probabilities_do_no_harm() -> None:
    assert find_label_issues(np.zeros((0, 3)), np.zeros(0, dtype=int), [], names(3)) == []
    assert find_label_issues(np.ones((4, 1)), np.zeros(4, dtype=int), names(4), names(1)) == []
    rows = find_label_issues(np.eye(3)[np.arange(60) % 3], np.arange(60) // 30, names(60), names(3))
    assert all(np.isfinite(row["score"]) for row in rows)
    with pytest.raises(ValueError, match="do not fit"):
        find_label_issues(np.ones((4, 2)) / 2, np.zeros(4, dtype=int), names(3), names(2))


def test_the_csv_reads_back() -> None:
    chances, y = odds(300, 3, spread=5.0, seed=1)
    wrong, _ = flipped(y, 3, share=0.1, seed=1)
    rows = find_label_issues(chances, wrong, [f'a, "{i}".png' for i in range(300)], names(3))
    read = list(csv.DictReader(io.StringIO(to_csv(rows))))
    assert rows
    assert [row["file"] for row in read] == [row["file"] for row in rows]
    assert float(read[0]["score"]) == pytest.approx(float(rows[0]["score"]), abs=1e-6)
    assert to_csv([]) == "file,label,suggested,p_label,p_suggested,score\n"


def _of_head(X: np.ndarray, y: np.ndarray, k: int) -> list[dict[str, object]]:
    from headstart.judge.calibration import fit_temperature, softmax
    from headstart.transfer.heads import fit_head

    oof = fit_head("linear", X, y, n_classes=k).oof
    assert oof is not None
    return find_label_issues(softmax(oof / fit_temperature(oof, y)), y, names(len(y)), names(k))


def test_planted_errors_among_drawn_pictures_are_found(tmp_path: Path) -> None:
    """The toy's features of 180 drawn shapes, 5 % of them with a wrong label; precision 0.73, recall 0.30 measured."""
    from headstart.data import decode, read
    from headstart.files import hash_bytes
    from headstart.sources import open_source
    from headstart.transfer.features import embed
    from toydata import write_shapes

    items = read.read(write_shapes(tmp_path / "shapes", per_class=60)).items
    hashes = {item.name: hash_bytes(decode.read_bytes(item)) for item in items}
    X = embed(open_source("toy"), items, hashes=hashes, use_store=False).array
    y = np.array([item.label for item in items])
    assert len(_of_head(X, y, 3)) <= 1
    found, right = 0, 0
    for seed in range(6):
        wrong, planted = flipped(y, 3, share=0.05, seed=seed)
        rows = _of_head(X, wrong, 3)
        found, right = found + len(rows), right + sum(row["file"] in planted for row in rows)
    assert right / found >= 0.6
    assert right / 54 >= 0.2


@pytest.mark.shared
@pytest.mark.slow
def test_flipped_labels_of_real_pictures_are_found(shared: Path) -> None:
    """5 % flipped, as in the table of the module, with the smaller source."""
    from shared_features import features_of

    found, planted_in_all, right, clean = 0, 0, 0, 0
    for name in ("hymenoptera", "dtd10", "clothing"):
        X, y, _, _ = features_of(shared, name)
        k = int(y.max()) + 1
        clean += len(_of_head(X, y, k))
        for seed in (0, 1):
            wrong, planted = flipped(y, k, share=0.05, seed=seed)
            rows = _of_head(X, wrong, k)
            found, planted_in_all = found + len(rows), planted_in_all + len(planted)
            right += sum(row["file"] in planted for row in rows)
    assert clean <= 3
    assert right / found >= 0.60  # 0.73 measured
    assert right / planted_in_all >= 0.30  # 0.39 measured
