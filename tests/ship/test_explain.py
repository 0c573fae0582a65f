"""Where a model looked: exact where it can be, on patches where there are tokens, in its place over the picture."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from headstart.data.augment import center_view, normalise
from headstart.records import Card, Item, MemoryOrigin
from headstart.ship.explain import covered, flip, heat_maps, look, looked_at, overlay, shares_of_picture
from headstart.ship.model import Model, load
from headstart.sources import open_source
from headstart.sources._timm import Recipe, source_of
from headstart.sources.base import Source, seeded
from headstart.transfer.heads import fit_head
from headstart.transfer.net import TransferNet, fresh_head
from toydata import picture


def views(n: int, size: int, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, 6, 6, generator=draw) * 255
    return nn.functional.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 255).to(torch.uint8)


def random_net(name: str, size: int, *, pooling: str = "native", **arguments: object) -> TransferNet:
    """A network of timm's with random weights, and a random linear head of four classes."""
    with seeded(0):
        network = timm.create_model(name, num_classes=0, **arguments).eval()
    facts = {"input_size": (3, size, size), "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    source = source_of(Recipe(name, dict(arguments), facts), network, address=f"random:{name}", origin="random")
    return TransferNet(source, fresh_head("linear", source.width(pooling), 4, seed=1), pooling=pooling).eval()


@pytest.fixture(scope="module")
def toy() -> Source:
    return open_source("toy")


@pytest.fixture(scope="module")
def model(frozen_run: Path) -> Model:
    return load(frozen_run)


# --- the map ------------------------------------------------------------------------------------------------------


def test_behind_mean_pooling_and_a_linear_head_the_map_is_the_heads_own_weights(toy: Source) -> None:
    net = TransferNet(toy, fresh_head("linear", toy.width("native"), 3, seed=0)).eval()
    shown = views(5, 32)
    for label in range(3):
        with torch.no_grad():
            features = toy.feature_map(normalise(shown, toy.card))
            spoken = torch.einsum("c,nchw->nhw", net.head.weight[label], features)  # type: ignore[arg-type]
            logits = net(normalise(shown, toy.card))[:, label]
        torch.testing.assert_close(spoken.mean((1, 2)) + net.head.bias[label], logits, atol=1e-4, rtol=1e-4)  # type: ignore[index]
        for found, exact in zip(heat_maps(net, toy.card, shown, [label] * 5), torch.relu(spoken), strict=True):
            if exact.max() == 0:
                assert found is None
            else:
                np.testing.assert_allclose(found, (exact / exact.max()).numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "size", "arguments", "grid"),
    [
        ("vit_tiny_patch16_224", 64, {"img_size": 64, "depth": 2}, (4, 4)),
        ("vit_tiny_patch16_224", 64, {"img_size": 64, "depth": 2, "global_pool": "avg"}, (4, 4)),
        ("vit_tiny_patch16_224", 64, {"img_size": 64, "depth": 2, "reg_tokens": 3}, (4, 4)),
        ("swin_tiny_patch4_window7_224", 64, {"img_size": 64, "depths": (1, 1), "embed_dim": 24}, (8, 8)),
        ("mixer_s32_224", 64, {"img_size": 64}, (2, 2)),
        ("test_convnext", 64, {}, (2, 2)),
    ],
)  # fmt: skip
def test_networks_of_every_kind_have_a_map_of_their_own_grid(
    name: str, size: int, arguments: dict[str, object], grid: tuple[int, int]
) -> None:
    net = random_net(name, size, **arguments)
    found = [row for label in range(4) for row in heat_maps(net, net.source.card, views(2, size), [label] * 2)]
    there = [row for row in found if row is not None]
    assert len(there) >= 4
    for row in there:
        assert row.shape == grid
        assert row.min() >= 0
        assert row.max() == 1
    assert not all(np.array_equal(row, there[0]) for row in there)


def test_a_map_follows_the_part_that_the_answer_follows() -> None:
    # A network that sees brightness alone, and a bright square that moves: the map must move with it.
    net = random_net("convnext_atto", 64, depths=(1, 1, 1, 1), dims=(8, 8, 8, 8))

    class Brightness(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return nn.functional.avg_pool2d(images.mean(1, keepdim=True), 8).expand(-1, 8, -1, -1)

    net.source.library.feature_map = lambda network, images: Brightness()(images)  # type: ignore[method-assign]
    net.source.library.native = lambda network, features: features.mean((2, 3))  # type: ignore[method-assign]
    with torch.no_grad():
        net.head.weight[0].fill_(1.0)  # type: ignore[index, operator, union-attr]
    shown = torch.zeros(4, 3, 64, 64, dtype=torch.uint8)
    places = [(0, 0), (0, 40), (40, 0), (40, 40)]
    for number, (top, left) in enumerate(places):
        shown[number, :, top : top + 16, left : left + 16] = 255
    for row, (top, left) in zip(heat_maps(net, net.source.card, shown, [0] * 4), places, strict=True):
        assert row is not None
        assert np.unravel_index(row.argmax(), row.shape) == (top // 8, left // 8)


def test_a_map_of_one_place_is_taken_from_deeper_inside(toy: Source) -> None:
    net = random_net("convnext_atto", 32, depths=(1, 1, 1, 1), dims=(8, 8, 8, 8))
    assert net.source.feature_map(torch.zeros(1, 3, 32, 32)).shape[2:] == (1, 1)
    there = [
        row
        for label in range(4)
        for row in heat_maps(net, net.source.card, views(2, 32), [label] * 2)
        if row is not None
    ]
    assert there
    assert all(row.shape == (2, 2) for row in there)


@pytest.mark.parametrize("seed", range(5))
def test_where_all_neighbours_agree_there_is_no_map(toy: Source, seed: int) -> None:
    # The gradient is zero but for its rounding, some billionths of a logit: that is no map.
    rows = np.repeat(np.eye(2, toy.width("native"), dtype=np.float32), 6, axis=0)
    rows += np.random.default_rng(seed).normal(0, 1e-3, rows.shape).astype(np.float32)
    head = fit_head("knn", rows, np.repeat([0, 1], 6), n_classes=2, fixed={"k": 3, "softness": 0.1, "smoothing": 0.3})
    net = TransferNet(toy, head.module()).eval()
    for label in (0, 1):
        assert heat_maps(net, toy.card, views(4, 32), [label] * 4) == [None] * 4


def test_maps_leave_the_network_and_its_gradients_as_they_were(model: Model) -> None:
    model.net.train()
    before = {name: value.clone() for name, value in model.net.state_dict().items()}
    heat_maps(model.net, model.card, views(3, 32), [0, 1, 2])
    assert model.net.training
    model.net.eval()
    assert all(torch.equal(value, before[name]) for name, value in model.net.state_dict().items())
    assert all(parameter.grad is None for parameter in model.net.parameters())


def test_the_same_picture_has_the_same_map_bit_for_bit_in_any_company(model: Model) -> None:
    shown = views(4, 32)
    one, again = (heat_maps(model.net, model.card, shown, [0, 1, 2, 0]) for _ in range(2))
    for row, other in zip(one, again, strict=True):
        assert (row is None) == (other is None)
        assert row is None or np.array_equal(row, other)  # type: ignore[arg-type]


# --- over the picture ---------------------------------------------------------------------------------------------


def opened(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))


@pytest.mark.parametrize(("mode", "crop"), [("center", 0.5), ("center", 1.0), ("squash", 0.8), ("border", 1.0)])
@pytest.mark.parametrize("size", [(40, 80), (80, 40), (64, 64), (3, 200)])
def test_an_overlay_has_the_proportions_of_the_picture_and_its_light_where_the_view_is(
    mode: str, crop: float, size: tuple[int, int]
) -> None:
    card = Card("toy", input_size=(3, 32, 32), crop_pct=crop, crop_mode=mode)
    drawn = opened(overlay(np.ones((4, 4)), size=size, card=card, side=80))
    assert drawn.shape[:2] == tuple(max(1, round(length * 80 / max(size))) for length in size)
    # What the view shows, by way of the pixels: a picture that is white, and black where the view ends.
    top, left, bottom, right = shares_of_picture((0, 0, 1, 1), size=size, card=card)
    bright = drawn[:, :, 0] > 200
    rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
    tall, wide = drawn.shape[:2]
    for found, wanted in [
        (rows[0] / tall, top), ((rows[-1] + 1) / tall, bottom),
        (columns[0] / wide, left), ((columns[-1] + 1) / wide, right),
    ]:  # fmt: skip
        assert abs(found - wanted) <= 1 / min(tall, wide)


def test_a_mark_in_the_picture_lies_where_the_overlay_says(model: Model) -> None:
    # A white spot at a known place of a wide picture; the map's brightest place of the view is made there.
    card = Card("toy", input_size=(3, 32, 32), crop_pct=1.0)
    pixels = np.zeros((64, 128, 3), np.uint8)
    pixels[40:48, 80:88] = 255
    view = center_view(pixels, card)
    drawn = opened(overlay(view[0].numpy() / 255.0, size=(64, 128), card=card, side=128))
    heat = drawn[:, :, 0].astype(float) * (drawn[:, :, 3] != 150)
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert 38 <= row <= 49
    assert 78 <= column <= 89


def test_what_is_unreadable_gets_no_map_and_stops_nothing(model: Model) -> None:
    items = [Item("good", MemoryOrigin(picture("disc", 1))), Item("bad", MemoryOrigin(b"no picture"))]
    good, bad = looked_at(model, items, [0, 0])
    assert bad == b""
    assert good == b"" or good.startswith(b"\x89PNG")


# --- what would change the answer -----------------------------------------------------------------------------------


class _Corner(nn.Module):
    """Class 1 where the upper left quarter is bright, else class 0."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        height, width = images.shape[-2:]
        bright = images[:, :, : height // 4, : width // 4].mean((1, 2, 3))
        return torch.stack([torch.full_like(bright, 0.5), bright], dim=1) * 10


class _Answers:
    """What `covered` and `flip` ask of a model."""

    classes, temperature, device = ("plain", "bright"), 1.0, "cpu"
    card = Card("toy", input_size=(3, 32, 32), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    net = _Corner()


def test_the_smallest_grey_square_that_flips_the_answer_is_found_where_the_answer_lies() -> None:
    shown = torch.zeros(3, 32, 32, dtype=torch.uint8)
    shown[:, :8, :8] = 200
    found = flip(_Answers(), shown, 1)  # type: ignore[arg-type]
    assert found is not None
    assert found["label"] == "plain"
    assert found["was"] < 0.5 < found["probability"]
    top, left, bottom, right = found["box"]
    assert (top, left) == (0, 0)
    # an eighth covers a quarter of the corner and does not suffice (200 / 255 * 3 / 4 > 0.5); a quarter covers it
    assert (bottom, right) == (0.25, 0.25)


def test_an_answer_that_no_square_flips_is_said_to_be_so() -> None:
    assert flip(_Answers(), torch.zeros(3, 32, 32, dtype=torch.uint8), 0) is None  # type: ignore[arg-type]


def test_covering_what_a_true_map_marks_costs_more_than_covering_the_rest() -> None:
    shown = torch.zeros(3, 32, 32, dtype=torch.uint8)
    shown[:, :8, :8] = 200
    grid = np.zeros((4, 4), np.float32)
    grid[0, 0] = 1
    found = covered(_Answers(), shown, grid, 1)  # type: ignore[arg-type]
    assert found["marked"] < 0.5 < found["unmarked"]
    wrong = covered(_Answers(), shown, 1 - grid, 1)  # type: ignore[arg-type]
    assert wrong["marked"] > 0.5 > wrong["unmarked"]


def test_a_look_holds_what_the_network_saw(model: Model) -> None:
    image = picture("square", 3)
    seen = look(model, Item("one", MemoryOrigin(image)), 2)
    assert seen.size == (32, 32)
    assert torch.equal(seen.view, center_view(np.asarray(image), model.card))
