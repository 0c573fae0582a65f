"""The quick roads end where torch's own end, and memory is handed back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from headstart.transfer import kernels
from headstart.transfer.kernels import QuickBf16, kept_memory, steady_memory


def run(net: nn.Module, images: Tensor, *, quick: bool) -> tuple[Tensor, list[Tensor]]:
    """The output under autocast to bf16, and the gradients of images and weights."""
    images = images.clone().requires_grad_()
    net.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        if quick:
            with QuickBf16():
                output = net(images)
        else:
            output = net(images)
    output.float().square().sum().backward()
    return output.detach(), [images.grad, *(p.grad.clone() for p in net.parameters() if p.grad is not None)]  # type: ignore[list-item]


@settings(max_examples=12, deadline=None)
@given(
    side=st.integers(4, 9), stride=st.sampled_from([(2, 2), (1, 2), (3, 1)]), padding=st.integers(0, 1),
    bias=st.booleans(), multiplier=st.integers(1, 2),
)  # fmt: skip
def test_strided_depthwise_convolutions_have_torchs_values_and_gradients(
    side: int, stride: tuple[int, int], padding: int, bias: bool, multiplier: int
) -> None:
    torch.manual_seed(side)
    net = nn.Conv2d(8, 8 * multiplier, 3, stride=stride, padding=padding, bias=bias, groups=8)
    images = torch.randn(2, 8, side, side).contiguous(memory_format=torch.channels_last)
    (wanted, slopes), (got, others) = run(net, images, quick=False), run(net, images, quick=True)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got, wanted, rtol=0, atol=0)
    for slope, other in zip(slopes, others, strict=True):
        assert other.dtype == slope.dtype
        torch.testing.assert_close(other, slope, rtol=2e-2, atol=2e-2 * float(slope.abs().max()))


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize(
    "kind", [nn.ReLU, nn.ReLU6, functional.relu6, lambda inplace: nn.Hardtanh(0.0, 6.0, inplace=inplace)]
)
def test_clamps_of_every_bf16_number_are_torchs_bit_for_bit(
    kind: Any, inplace: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Tensor] = []
    before = kernels._Clamp.apply
    monkeypatch.setattr(kernels._Clamp, "apply", lambda values, *how: (taken.append(values), before(values, *how))[1])
    every = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(torch.bfloat16)
    every = every[~every.isnan()]

    def clamp(values: Tensor) -> Tensor:
        result: Tensor = kind(values, inplace) if kind is functional.relu6 else kind(inplace)(values)
        return result

    def clamped(quick: bool) -> tuple[Tensor, Tensor]:
        values = every.clone().requires_grad_()
        copy = values * 1  # leaves cannot be changed in place
        if quick:
            with QuickBf16():
                result = clamp(copy)
        else:
            result = clamp(copy)
        assert (result.data_ptr() == copy.data_ptr()) == inplace
        result.backward(torch.ones_like(result))
        assert values.grad is not None
        return result.detach(), values.grad

    (wanted, slope), (got, other) = clamped(False), clamped(True)
    assert len(taken) == 1
    torch.testing.assert_close(got, wanted, rtol=0, atol=0)
    torch.testing.assert_close(other, slope, rtol=0, atol=0)


@pytest.mark.parametrize("bounds", [(), (0.0, 5.0), (-6.0, 6.0)])
def test_clamps_to_other_bounds_are_torchs(bounds: tuple[float, ...]) -> None:
    values = torch.arange(-8, 9).to(torch.bfloat16)
    with QuickBf16():
        assert functional.hardtanh(values, *bounds).tolist() == values.clamp(*(bounds or (-1, 1))).tolist()


def test_fp32_and_predictions_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Tensor:
        raise AssertionError("not for this")

    monkeypatch.setattr(kernels._Clamp, "apply", refuse)
    monkeypatch.setattr(kernels._StridedDepthwise, "apply", refuse)
    net = nn.Sequential(nn.Conv2d(4, 4, 3, stride=2, groups=4), nn.ReLU6())
    with QuickBf16():
        assert net(torch.randn(1, 4, 8, 8)).dtype == torch.float32
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            functional.conv2d(torch.randn(1, 4, 8, 8), torch.randn(4, 1, 3, 3), stride=2, groups=4)


def test_a_nan_in_a_normalised_batch_is_still_seen_by_the_gradient() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU6(inplace=True), nn.Conv2d(4, 2, 1))
    images = torch.randn(2, 3, 4, 4)
    images[0, 0, 0, 0] = float("nan")
    _, slopes = run(net, images, quick=True)
    assert any(slope.isnan().any() for slope in slopes[1:])


def test_the_allocators_thresholds_are_set_and_set_back_also_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    monkeypatch.setattr("platform.libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(kernels, "_set_thresholds", lambda _, values: seen.append(values))
    with pytest.raises(KeyError), kept_memory():
        raise KeyError
    assert seen == [kernels._KEPT, kernels._USUAL]
    monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))
    with kept_memory():
        pass
    steady_memory()
    assert len(seen) == 2


def test_memory_is_kept_for_good_where_the_allocator_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    monkeypatch.setattr("platform.libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(kernels, "_set_thresholds", lambda _, values: seen.append(values))
    steady_memory()
    assert seen == [kernels._USUAL]
