"""Views: the deterministic preprocessing of a picture that the Card rules, and its augmented variants.

A view is uint8 (3, height, width); `normalise` makes it the float input of the network. Resizing is antialiased and
stays in uint8: the pixels of Pillow's filters within one level (two in less than a
thousandth of the values), several times as fast. The width is resized first and the height after it, as Pillow did when
most published networks were trained; versions of Pillow that choose the order by cost differ more on hard edges.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from headstart.errors import SourceError, did_you_mean
from headstart.records import Card
from headstart.settings import Settings

__all__ = [
    "VERSION",
    "Augmentation",
    "View",
    "augmented_view",
    "center_view",
    "draft_side",
    "flipped_view",
    "normalise",
    "view_box",
]

VERSION = 1
"""Part of every feature key: raised whenever a view's pixels change."""

_TENSOR_MODES = {"bicubic", "bilinear"}
_RATIO = (3 / 4, 4 / 3)


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How training views vary: random resized crop down to `crop_scale` of the area, flips."""

    crop_scale: float = 0.35
    hflip: bool = True
    vflip: bool = False

    @classmethod
    def of(cls, settings: Settings) -> Augmentation | None:
        """The augmentation that the settings ask for; None when it is switched off."""
        if not settings.augment:
            return None
        return cls(crop_scale=settings.crop_scale, hflip=settings.hflip, vflip=settings.vflip)


@dataclass(frozen=True, slots=True)
class View:
    """One deterministic preprocessing of a picture: the centre view, a flipped one, or augmented view `number`.

    Which augmented view it is depends on the seed, the number and the picture's content alone, so it can be kept.
    """

    kind: str = "center"  # "center", "flipped", "augmented"
    number: int = 0
    augmentation: Augmentation | None = None
    seed: int = 0

    def __call__(self, image: np.ndarray, card: Card, *, content: str = "") -> Tensor:
        """The view of a picture whose bytes have the sha256 `content`."""
        if self.augmentation is not None:
            rng = np.random.default_rng((self.seed, self.number, int(content[:16] or "0", 16)))
            return augmented_view(image, card, augmentation=self.augmentation, rng=rng)
        return flipped_view(image, card) if self.kind == "flipped" else center_view(image, card)


def draft_side(card: Card) -> int:
    """The shortest side that decoding must keep for this card (in pixels)."""
    return math.floor(max(card.input_size[1:]) / card.crop_pct)


def center_view(image: np.ndarray, card: Card) -> Tensor:
    """The evaluation view of an H×W×3 uint8 picture: resized and cropped as the card says."""
    height, width = card.input_size[1:]
    size = _scaled(image.shape[0], image.shape[1], card)
    return _center_crop(_resize(_tensor(image), size, card.interpolation), height, width, card)


def view_box(tall: int, wide: int, card: Card) -> tuple[float, float, float, float]:
    """Which part of a picture of `tall` × `wide` pixels the evaluation view shows: top, left, bottom, right.

    They are shares of the picture's height and width; below 0 and above 1 lies what a border was added for.
    """
    height, width = card.input_size[1:]
    scaled_h, scaled_w = _scaled(tall, wide, card)
    top, left = _offset(scaled_h, height), _offset(scaled_w, width)
    return top / scaled_h, left / scaled_w, (top + height) / scaled_h, (left + width) / scaled_w


def _scaled(tall: int, wide: int, card: Card) -> tuple[int, int]:
    """The size to which the evaluation view resizes a picture before it crops."""
    height, width = card.input_size[1:]
    scaled_h, scaled_w = math.floor(height / card.crop_pct), math.floor(width / card.crop_pct)
    if card.crop_mode == "squash":
        return scaled_h, scaled_w
    if card.crop_mode == "border":
        ratio = min(scaled_h / tall, scaled_w / wide)
        return max(1, round(tall * ratio)), max(1, round(wide * ratio))
    return _covering(tall, wide, scaled_h, scaled_w)


def _offset(scaled: int, wanted: int) -> int:
    """Where the crop begins along a side; negative where a border is added."""
    filled = max(scaled, wanted)
    return round((filled - wanted) / 2) - (filled - scaled) // 2


def flipped_view(image: np.ndarray, card: Card) -> Tensor:
    """The evaluation view, mirrored left to right."""
    return _copied(center_view(image, card), across=True)


def augmented_view(image: np.ndarray, card: Card, *, augmentation: Augmentation, rng: np.random.Generator) -> Tensor:
    """A training view: random resized crop and flips, drawn from `rng` alone (Szegedy et al. 2015, section 6)."""
    height, width = card.input_size[1:]
    tall, wide = image.shape[:2]
    if augmentation.crop_scale < 1:
        top, left, h, w = _random_box(tall, wide, augmentation.crop_scale, rng)
        image = image[top : top + h, left : left + w]
        view = _resize(_tensor(image), (height, width), card.interpolation)
    else:
        view = center_view(image, card)
    across = augmentation.hflip and rng.random() < 0.5
    down = augmentation.vflip and rng.random() < 0.5
    return _copied(view, across=across, down=down)


def normalise(batch: Tensor, card: Card) -> Tensor:
    """uint8 (n, 3, h, w) → float32 (value / 255 − mean) / std, on the batch's own device."""
    mean = torch.tensor(card.mean, device=batch.device).view(1, -1, 1, 1)
    std = torch.tensor(card.std, device=batch.device).view(1, -1, 1, 1)
    return batch.to(torch.float32).div_(255).sub_(mean).div_(std)


def _tensor(image: np.ndarray) -> Tensor:
    """H×W×3 array → (3, H, W) view of the same memory: channels-last strides, which the fast resize kernels want."""
    image = np.ascontiguousarray(image)
    return torch.from_numpy(image if image.flags.writeable else image.copy()).permute(2, 0, 1)


def _copied(view: Tensor, *, across: bool = False, down: bool = False) -> Tensor:
    """`view` in memory order, turned round. By numpy: torch would start its own threads in each one of the loader's."""
    if view.is_contiguous() and not across and not down:
        return view
    array = view.numpy()[:, :: -1 if down else 1, :: -1 if across else 1]
    return torch.from_numpy(np.array(array, order="C"))


def _covering(tall: int, wide: int, height: int, width: int) -> tuple[int, int]:
    """The size that keeps the proportions and just covers height × width (torchvision's rounding)."""
    if height == width:
        if wide <= tall:
            return int(width * tall / wide), width
        return height, int(height * wide / tall)
    ratio = max(height / tall, width / wide)
    return max(height, round(tall * ratio)), max(width, round(wide * ratio))


def _resize(view: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    if tuple(view.shape[-2:]) == size:
        return view
    if interpolation in _TENSOR_MODES:
        resized = functional.interpolate(view[None], size, mode=interpolation, antialias=True, align_corners=False)
        return resized[0]
    from PIL import Image

    names = _TENSOR_MODES | {"lanczos", "nearest", "box", "hamming"}
    if interpolation not in names:
        raise SourceError(
            f"the source asks for the interpolation {interpolation!r}",
            remedy=did_you_mean(interpolation, sorted(names)),
        )
    picture = Image.fromarray(view.permute(1, 2, 0).numpy())
    method = Image.Resampling[interpolation.upper()]
    array = np.array(picture.resize((size[1], picture.height), method).resize(size[::-1], method))
    return _tensor(array)


def _center_crop(view: Tensor, height: int, width: int, card: Card) -> Tensor:
    tall, wide = view.shape[-2:]
    if tall < height or wide < width:  # only "border" gets here: the rest is filled with the card's mean
        fill = torch.tensor([round(255 * m) for m in card.mean], dtype=torch.uint8).view(3, 1, 1)
        canvas = fill.expand(3, max(tall, height), max(wide, width)).clone()
        top, left = (canvas.shape[1] - tall) // 2, (canvas.shape[2] - wide) // 2
        canvas[:, top : top + tall, left : left + wide] = view
        view, (tall, wide) = canvas, (canvas.shape[1], canvas.shape[2])
    top, left = round((tall - height) / 2), round((wide - width) / 2)
    return _copied(view[:, top : top + height, left : left + width])


def _random_box(tall: int, wide: int, smallest: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """top, left, height, width of a box with a random share of the area and a random shape."""
    for _ in range(10):
        area = tall * wide * rng.uniform(smallest, 1.0)
        ratio = math.exp(rng.uniform(math.log(_RATIO[0]), math.log(_RATIO[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= wide and 0 < h <= tall:
            return int(rng.integers(0, tall - h + 1)), int(rng.integers(0, wide - w + 1)), h, w
    side = min(tall, wide)
    return (tall - side) // 2, (wide - side) // 2, side, side
