"""bf16 is taken where it pays and does no harm, by numbers that are the same in every run."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rigs import make_rig
from torch import Tensor, nn

from headstart.settings import Settings
from headstart.transfer import precision
from headstart.transfer.engine import Engine
from headstart.transfer.precision import Verdict, exact, has_fast_bf16, try_bf16


def small_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(288, 2)
    )


def tried(net: nn.Module, bf16: Any = None) -> Verdict:
    images, goals = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 0, 1])
    autocast = bf16 or (lambda: torch.autocast("cpu", torch.bfloat16))
    return try_bf16(net, lambda: nn.functional.cross_entropy(net(images).float(), goals), bf16=autocast, device="cpu")


def test_a_small_batch_stays_in_fp32_without_a_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "backward", lambda _: pytest.fail("nothing to compare"))
    verdict = tried(small_net())
    assert verdict.precision == "fp32"
    assert "multiply-adds" in verdict.reason


def test_the_work_is_counted_in_multiply_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    work = 4 * (8 * 36 * 27 + 288 * 2)  # four images: 8 channels of 6 x 6 pixels from 27 values each, 288 x 2
    for least, wanted in ((work, "bf16"), (work + 1, "fp32")):
        monkeypatch.setattr(precision, "LEAST_WORK", least)
        assert tried(small_net()).precision == wanted


def test_the_check_leaves_statistics_gradients_and_random_numbers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "LEAST_WORK", 0)
    net = small_net()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    first = tried(net)
    assert torch.rand(3).equal(wanted)
    assert all(value.equal(state[name]) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    torch.manual_seed(5)
    assert tried(net) == first


@pytest.mark.parametrize("harm", [float("nan"), 1.5])
def test_a_loss_that_moves_is_harm(monkeypatch: pytest.MonkeyPatch, harm: float) -> None:
    monkeypatch.setattr(precision, "LEAST_WORK", 0)
    net = small_net()
    losses = iter([1.0, harm])
    verdict = try_bf16(
        net, lambda: next(iter(net.parameters())).sum() * 0 + next(losses), bf16=nullcontext, device="cpu"
    )
    assert verdict.precision == "fp32"
    assert "harm" in verdict.reason


def test_a_gradient_that_turns_away_is_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "LEAST_WORK", 0)
    weight = nn.Linear(2, 1, bias=False)
    slopes = iter([torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 1.0]])])
    verdict = try_bf16(weight, lambda: (weight.weight * next(slopes)).sum() * 1e-6, bf16=nullcontext, device="cpu")
    assert (verdict.precision, "0.447" in verdict.reason) == ("fp32", True)


def test_nearly_no_loss_may_differ_by_a_share_of_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    assert precision._judge(0.001, 0.012, cosine=0.99).precision == "bf16"
    assert precision._judge(0.3, 0.35, cosine=0.99).precision == "fp32"
    assert precision._judge(0.3, 0.3, cosine=float("nan")).precision == "fp32"


def test_machines_tell_whether_they_have_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    for able, wanted in (
        ({}, False),
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"avx2": True}, False),
    ):
        monkeypatch.setattr("torch.cpu.get_capabilities", lambda able=able: able)
        assert has_fast_bf16("cpu") is wanted
    assert not has_fast_bf16("mps")


@pytest.mark.parametrize(("generation", "fast"), [(7, False), (8, True), (9, True)])
def test_a_card_that_only_emulates_bf16_is_not_fast_in_it(
    generation: int, fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.current_device", lambda: 0)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda _: SimpleNamespace(major=generation))
    monkeypatch.setattr("torch.cuda._check_bf16_tensor_supported", lambda _: True)
    assert has_fast_bf16("cuda:1") is fast


def test_one_process_that_sees_harm_keeps_all_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"amx_bf16": True})
    engine = Engine(Settings.of(device="cpu"))
    assert engine.precision == "auto"
    good, bad = Verdict("bf16", "no harm"), Verdict("fp32", "harm")
    monkeypatch.setattr("headstart.transfer.engine.try_bf16", lambda *_, **__: good)
    monkeypatch.setattr(engine, "gather", lambda own: [own, bad])
    assert engine.settle(small_net(), lambda: torch.zeros(())) == "number format fp32: harm"
    assert engine.precision == "fp32"


def test_training_in_auto_says_what_was_chosen_and_a_resumed_run_goes_on_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"amx_bf16": True})
    seen: list[torch.dtype] = []
    forward = nn.Linear.forward

    def watching(layer: nn.Linear, values: Tensor) -> Tensor:
        result = forward(layer, values)
        if layer.training:
            seen.append(result.dtype)
        return result

    monkeypatch.setattr(nn.Linear, "forward", watching)
    monkeypatch.setattr("headstart.transfer.engine.try_bf16", lambda *_, **__: Verdict("bf16", "told"))
    first = make_rig(precision="auto", folder=tmp_path)
    assert first.fit().reasons == ["number format bf16: told"]
    assert set(seen) == {torch.bfloat16}
    monkeypatch.setattr("headstart.transfer.engine.try_bf16", lambda *_, **__: pytest.fail("it was chosen before"))
    second = make_rig(precision="auto", folder=tmp_path)
    assert second.fit().reasons == ["number format bf16: told"]
    assert second.trainer.engine.precision == "bf16"


def test_a_small_training_in_auto_equals_one_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"amx_bf16": True})
    states = []
    for wanted in ("auto", "fp32"):
        made = make_rig(precision=wanted, epochs=1)
        made.fit()
        states.append(made.state())
    assert all(value.equal(states[1][name]) for name, value in states[0].items())


# --- fp32 that is fp32 ------------------------------------------------------------------------------------------------


def gpu_settings() -> tuple[Any, ...]:
    """What torch would do on a GPU; the settings are there without one."""
    cudnn: Any = torch.backends.cudnn
    found = cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision, torch.backends.cuda.matmul.fp32_precision
    return (*found, cudnn.deterministic, cudnn.benchmark)


EXACT = ("ieee", "ieee", True, False)


@pytest.mark.parametrize("before", ["nothing", "high", "all", "benchmark"])
def test_on_a_gpu_fp32_is_fp32_and_what_was_set_comes_back(before: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = gpu_settings()
    try:
        if before == "high":
            torch.backends.cuda.matmul.fp32_precision = "tf32"
        elif before == "all":
            torch.backends.fp32_precision = "tf32"  # type: ignore[attr-defined]
        elif before == "benchmark":
            torch.backends.cudnn.benchmark = True
        held = gpu_settings()
        with exact("cuda:0"):
            conv, rnn, matmul, *rest = gpu_settings()
            assert (conv, rnn, *rest) == EXACT
            assert matmul != "tf32"
            assert torch.backends.cudnn.allow_tf32 is False  # the older question has an answer too
            with exact(torch.device("cuda")):
                pass
            assert gpu_settings()[:2] == ("ieee", "ieee"), "the inner one put them back"
        assert gpu_settings() == held
    finally:
        torch.backends.fp32_precision = "none"  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = False
        torch.backends.cuda.matmul.fp32_precision = found[2]
    assert gpu_settings() == found


def test_a_processor_needs_no_settings() -> None:
    before = gpu_settings()
    with exact("cpu"):
        assert gpu_settings() == before


def test_of_several_threads_the_last_puts_the_settings_back() -> None:
    before, inside, go = gpu_settings(), threading.Barrier(2), threading.Event()

    def other() -> None:
        with exact("cuda"):
            inside.wait(10)
            go.wait(10)
            seen.append(gpu_settings()[0])

    seen: list[str] = []
    thread = threading.Thread(target=other)
    thread.start()
    with exact("cuda"):
        inside.wait(10)
    assert gpu_settings() != before, "the other one still counts on them"
    go.set()
    thread.join(10)
    assert seen == ["ieee"]
    assert gpu_settings() == before


def test_an_error_inside_puts_the_settings_back() -> None:
    before = gpu_settings()
    with pytest.raises(ValueError, match="inside"), exact("cuda"):
        raise ValueError("inside")
    assert gpu_settings() == before
