"""Views are timm's evaluation transform within a level; training views depend on (seed, epoch, position) alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from timm.data.transforms import ResizeKeepRatio, str_to_interp_mode
from timm.data.transforms_factory import transforms_imagenet_eval

from headstart.data import augment
from headstart.data.augment import Augmentation, augmented_view, center_view, draft_side, flipped_view, normalise
from headstart.data.loader import Views
from headstart.errors import SourceError
from headstart.records import Card, Item, MemoryOrigin
from headstart.settings import Settings


def picture(tall: int, wide: int, seed: int = 0) -> np.ndarray:
    """A smooth ramp with noise: both low and high frequencies."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:tall, 0:wide]
    base = np.stack([rows * 5 % 256, columns * 3 % 256, (rows + columns) % 256], axis=2)
    return np.asarray((base + rng.integers(0, 60, base.shape)).clip(0, 255), dtype=np.uint8)


def card(side: int | tuple[int, int] = 32, **facts: object) -> Card:
    height, width = (side, side) if isinstance(side, int) else side
    return Card("toy", input_size=(3, height, width), **{"crop_pct": 0.875, **facts})  # type: ignore[arg-type]


_resize = Image.Image.resize


def _width_first(self: Image.Image, size: tuple[int, int], *args: Any, **more: Any) -> Image.Image:
    """Pillow's resize with its two passes in the customary order: newer versions choose the cheaper one."""
    return _resize(_resize(self, (size[0], self.height), *args, **more), size, *args, **more)


def reference(image: np.ndarray, facts: Card) -> np.ndarray:
    """timm's transform of a PIL image; where it refuses (a side would vanish) there is nothing to compare."""
    transform = transforms_imagenet_eval(
        img_size=facts.input_size[1:], crop_pct=facts.crop_pct, crop_mode=facts.crop_mode,
        interpolation=facts.interpolation, mean=facts.mean, std=facts.std, normalize=False,
    )  # fmt: skip
    for step in transform.transforms:
        if isinstance(step, ResizeKeepRatio):  # timm before 1.0.31 forgets it where the sides differ
            step.interpolation = str_to_interp_mode(facts.interpolation)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image.Image, "resize", _width_first)
        return np.asarray(transform(Image.fromarray(image)), dtype=np.int64)


def assert_near(ours: torch.Tensor, theirs: np.ndarray) -> None:
    """Within one level, but for a pixel here and there where both round away from the exact value."""
    apart = np.abs(ours.numpy().astype(np.int64) - theirs)
    assert apart.max() <= 2
    assert (apart > 1).sum() <= max(2, apart.size // 1000)


SHAPES = [(40, 60), (61, 37), (32, 32), (200, 99), (7, 5), (1, 50), (50, 1), (1, 1), (36, 36), (97, 131)]
VANISHING = [(1, 50), (50, 1)]


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "nearest", "lanczos"])
@pytest.mark.parametrize("side", [32, 31, (32, 48), (49, 20)], ids=str)
def test_the_centre_view_is_the_reference_transform_within_one_level(
    crop_mode: str, interpolation: str, side: int | tuple[int, int]
) -> None:
    for crop_pct in (0.875, 1.0, 0.95):
        facts = card(side, crop_mode=crop_mode, interpolation=interpolation, crop_pct=crop_pct)
        for shape in SHAPES:
            if crop_mode == "border" and shape in VANISHING:
                continue  # timm raises: the picture's short side would be less than a pixel
            image = picture(*shape)
            ours, theirs = center_view(image, facts), reference(image, facts)
            assert ours.dtype == torch.uint8
            assert ours.shape == theirs.shape == facts.input_size
            assert_near(ours, theirs)


@pytest.mark.parametrize("shape", VANISHING)
def test_a_picture_of_one_line_still_gives_a_bordered_view(shape: tuple[int, int]) -> None:
    assert center_view(picture(*shape), card(20, crop_mode="border")).shape == (3, 20, 20)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_hard_edges_stay_within_a_level_too(interpolation: str) -> None:
    image = (np.random.default_rng(0).integers(0, 2, (200, 99, 3)) * 255).astype(np.uint8)
    facts = card(32, interpolation=interpolation)
    assert_near(center_view(image, facts), reference(image, facts))


@settings(max_examples=25, deadline=None)
@given(tall=st.integers(1, 90), wide=st.integers(1, 90), side=st.integers(16, 40), pct=st.floats(0.75, 1.0))
def test_every_shape_of_picture_gives_the_reference_view(tall: int, wide: int, side: int, pct: float) -> None:
    facts = card(side, crop_pct=pct)
    image = picture(tall, wide)
    assert_near(center_view(image, facts), reference(image, facts))


def test_an_unknown_interpolation_is_refused_not_replaced() -> None:
    with pytest.raises(SourceError, match="hermite"):
        center_view(picture(40, 40), card(interpolation="hermite"))


@pytest.mark.parametrize("shape", [(32, 32), (36, 36), (50, 70), (1, 1)])
@pytest.mark.parametrize("writable", [True, False])
def test_views_never_share_or_change_the_decoded_array(shape: tuple[int, int], writable: bool) -> None:
    image = picture(*shape)
    image.flags.writeable = writable
    before = image.copy()
    facts = card(32, crop_pct=1.0)
    rng = np.random.default_rng(0)
    whole = Augmentation(crop_scale=1.0, hflip=False)
    with_crop = Augmentation(crop_scale=0.35, vflip=True)
    for view in (
        center_view(image, facts),
        flipped_view(image, facts),
        augmented_view(image, facts, augmentation=whole, rng=rng),
        augmented_view(image, facts, augmentation=with_crop, rng=rng),
    ):
        view.fill_(7)
        assert np.array_equal(image, before)


def test_a_read_only_picture_gives_no_warning(recwarn: pytest.WarningsRecorder) -> None:
    image = picture(40, 40)
    image.flags.writeable = False
    center_view(image, card())
    assert not recwarn.list


def test_a_batch_is_not_changed_by_normalising_it() -> None:
    batch = torch.full((2, 3, 4, 4), 255, dtype=torch.uint8)
    found = normalise(batch, card(mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1.0)))
    assert found.dtype == torch.float32
    assert found[0, :, 0, 0].tolist() == pytest.approx([1.0, 3.0, 1.0])
    assert (batch == 255).all()


def test_the_flipped_view_mirrors_left_and_right() -> None:
    image = picture(40, 60)
    assert torch.equal(flipped_view(image, card()).flip(-1), center_view(image, card()))


def views(seed: int = 0, epoch: int = 1, **facts: object) -> Views:
    items = [Item(f"{n}", MemoryOrigin(picture(50, 40, n // 2)), 0) for n in range(6)]
    augmentation = Augmentation(**{"crop_scale": 0.35, "hflip": True, "vflip": True, **facts})  # type: ignore[arg-type]
    made = Views(items, card(), augmentation=augmentation, seed=seed)
    made.epoch = epoch
    return made


def test_a_training_view_depends_on_seed_epoch_and_position_alone() -> None:
    one, two = views(), views()
    forward = [one(p) for p in range(6)]
    backward = [two(p) for p in reversed(range(6))][::-1]
    torch.manual_seed(1)
    np.random.seed(1)  # the global streams must not matter
    assert all(torch.equal(a, b) for a, b in zip(forward, backward, strict=True))
    assert torch.equal(one(3), forward[3])


def test_training_views_differ_between_epochs_seeds_and_positions_of_the_same_picture() -> None:
    base, later, other = views(), views(epoch=2), views(seed=1)
    assert not any(torch.equal(base(p), later(p)) for p in range(6))
    assert not any(torch.equal(base(p), other(p)) for p in range(6))
    assert not torch.equal(base(0), base(1))  # the same pixels at two positions


def test_crop_scale_one_without_flips_is_the_centre_view() -> None:
    made = views(crop_scale=1.0, hflip=False, vflip=False)
    assert torch.equal(made(2), center_view(picture(50, 40, 1), card()))


@pytest.mark.parametrize(("axis", "name"), [(-1, "hflip"), (-2, "vflip")])
def test_a_flip_turns_about_half_of_the_views_and_no_other_way(axis: int, name: str) -> None:
    image, facts = picture(50, 40), card()
    plain = center_view(image, facts)
    augmentation = Augmentation(crop_scale=1.0, **{"hflip": False, "vflip": False, name: True})
    drawn = [augmented_view(image, facts, augmentation=augmentation, rng=np.random.default_rng(n)) for n in range(60)]
    turned = sum(torch.equal(view, plain.flip(axis)) for view in drawn)
    assert turned + sum(torch.equal(view, plain) for view in drawn) == 60
    assert 15 <= turned <= 45


@settings(max_examples=60, deadline=None)
@given(
    tall=st.integers(1, 300),
    wide=st.integers(1, 300),
    smallest=st.floats(0.05, 1.0),
    seed=st.integers(0, 2**32),
)
def test_a_random_box_lies_inside_the_picture(tall: int, wide: int, smallest: float, seed: int) -> None:
    top, left, h, w = augment._random_box(tall, wide, smallest, np.random.default_rng(seed))
    assert 0 <= top < top + h <= tall
    assert 0 <= left < left + w <= wide


def test_a_random_box_keeps_the_share_and_the_shape() -> None:
    rng = np.random.default_rng(0)
    boxes = [augment._random_box(200, 200, 0.35, rng)[2:] for _ in range(300)]
    shares, shapes = [h * w / 40_000 for h, w in boxes], [w / h for h, w in boxes]
    assert 0.34 <= min(shares) < 0.45
    assert 0.85 < max(shares) <= 1.0
    assert min(shapes) >= 0.74
    assert max(shapes) <= 1.35


def test_settings_decide_the_augmentation() -> None:
    assert Augmentation.of(Settings(augment=False)) is None
    assert Augmentation.of(Settings(crop_scale=0.5, hflip=False, vflip=True)) == Augmentation(0.5, False, True)


def test_decoding_keeps_as_many_pixels_as_the_resize_needs() -> None:
    assert draft_side(card((32, 48), crop_pct=0.75)) == 64


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in /proc")
def test_a_view_starts_no_threads_of_its_own() -> None:
    """In a fresh process: each of the loader's threads would have torch's threads besides, more than cores."""
    code = """
import os, threading
import numpy as np, torch
from headstart.data.augment import Augmentation, augmented_view, center_view, flipped_view
from headstart.records import Card
torch.set_num_threads(4)
image = np.random.default_rng(0).integers(0, 256, (500, 375, 3), dtype=np.uint8)
card, found = Card("a", input_size=(3, 224, 224)), []
def work():
    before = len(os.listdir("/proc/self/task"))
    center_view(image, card)
    flipped_view(image, card)
    augmented_view(image, card, augmentation=Augmentation(vflip=True), rng=np.random.default_rng(1))
    found.append(len(os.listdir("/proc/self/task")) - before)
thread = threading.Thread(target=work)
thread.start()
thread.join()
print(found)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[0]"


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("size", [(40, 80), (80, 40), (64, 64), (3, 200), (500, 300)])
@pytest.mark.parametrize("crop_pct", [0.5, 0.875, 1.0])
def test_the_box_of_the_view_is_the_part_that_the_view_shows(
    crop_mode: str, size: tuple[int, int], crop_pct: float
) -> None:
    # Two ramps, down and across: their values at the view's middle and edges say where in the picture these lie.
    card = Card("toy", input_size=(3, 32, 48), mean=(0.0, 0.0, 0.0), crop_pct=crop_pct, crop_mode=crop_mode)
    tall, wide = size
    image = np.zeros((tall, wide, 3), np.uint8)
    image[:, :, 0] = np.round((np.arange(tall)[:, None] + 0.5) / tall * 255)
    image[:, :, 1] = np.round((np.arange(wide)[None, :] + 0.5) / wide * 255)
    view = augment.center_view(image, card).numpy().astype(float) / 255
    top, left, bottom, right = augment.view_box(tall, wide, card)
    down = top + (np.arange(32) + 0.5) / 32 * (bottom - top)
    across = left + (np.arange(48) + 0.5) / 48 * (right - left)
    rows, columns = (down > 0.1) & (down < 0.9), (across > 0.1) & (across < 0.9)
    if rows.any() and columns.any():
        inside = view[:, rows][:, :, columns]
        np.testing.assert_allclose(
            inside[0], np.repeat(down[rows][:, None], columns.sum(), 1), atol=0.5 / min(tall, 32) + 0.02
        )
        np.testing.assert_allclose(
            inside[1], np.repeat(across[columns][None], rows.sum(), 0), atol=0.5 / min(wide, 48) + 0.02
        )
