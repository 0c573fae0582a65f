"""The loss equals torch's where torch has one, and micro-batches add up."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.nn import functional

from headstart.tasks import Classification, Task, balanced_weights


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(12, 3, generator=generator), torch.randint(0, 3, (12,), generator=generator)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_is_torchs_cross_entropy(batch: tuple[torch.Tensor, torch.Tensor], smoothing: float) -> None:
    task: Task = Classification(("a", "b", "c"))
    logits, targets = batch
    expected = functional.cross_entropy(logits, targets, label_smoothing=smoothing)
    assert torch.allclose(task.loss(logits, targets, smoothing=smoothing), expected)
    shares = functional.one_hot(targets, 3).float()
    assert torch.allclose(task.loss(logits, shares, smoothing=smoothing), expected)
    assert task.outputs == 3


def test_weights_of_classes_weigh_items_and_micro_batches_add_up(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    task = Classification(("a", "b", "c"))
    logits, targets = batch
    weights = torch.tensor([1.0, 2.0, 0.5])
    each = functional.cross_entropy(logits, targets, reduction="none") * weights[targets]
    whole = task.loss(logits, targets, weights=weights)
    assert torch.allclose(whole, each.mean())
    halves = [task.loss(logits[rows], targets[rows], weights=weights) for rows in (slice(0, 6), slice(6, 12))]
    assert torch.allclose(whole, sum(halves) / 2)


def test_mixed_targets_give_the_mixed_loss(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    task = Classification(("a", "b", "c"))
    logits, targets = batch
    other = targets.flip(0)
    mixed = 0.3 * functional.one_hot(targets, 3) + 0.7 * functional.one_hot(other, 3)
    expected = 0.3 * task.loss(logits, targets) + 0.7 * task.loss(logits, other)
    assert torch.allclose(task.loss(logits, mixed), expected)


def test_probabilities_sum_to_one_also_in_half_precision(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    task = Classification(("a", "b", "c"))
    found = task.probabilities(batch[0].bfloat16())
    assert found.dtype == torch.float32
    assert torch.allclose(found.sum(1), torch.ones(12))
    scores = task.score(batch[1], found)
    assert scores.n == 12
    assert scores.accuracy == pytest.approx(float((found.argmax(1) == batch[1]).float().mean()))


def test_balanced_weights_make_classes_count_alike() -> None:
    labels = [0] * 6 + [1] * 2 + [3]
    weights = balanced_weights(labels, 4)
    counts = np.bincount(labels, minlength=4)
    assert np.allclose((weights * counts)[[0, 1, 3]], 3)
    assert weights[labels].mean() == pytest.approx(1)
    assert weights[2] == 1
    assert weights.dtype == np.float32


def test_the_tasks_import_no_torch() -> None:
    code = "import sys, headstart.tasks; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
