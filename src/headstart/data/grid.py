"""One picture that shows what the classes look like: a grid of sample items with their labels."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

from headstart.data.decode import load
from headstart.errors import DataError, UnreadableImage
from headstart.records import Dataset, Item

__all__ = ["sample", "sample_grid"]

_PAPER, _INK, _EMPTY = (250, 250, 248), (34, 34, 34), (226, 226, 222)
_COLOURS = (  # Okabe and Ito (2008): told apart with every kind of colour vision
    (0, 114, 178),
    (213, 94, 0),
    (0, 158, 115),
    (204, 121, 167),
    (230, 159, 0),
    (86, 180, 233),
    (240, 228, 66),
    (90, 90, 90),
)


def sample(items: Sequence[Item], n: int, *, seed: int = 0, by_turns: bool = False) -> list[Item]:
    """`n` items (or all of them), as evenly over the classes as they allow, whatever the order of `items`.

    Sorted by class, or in the order in which they were drawn, one a class by turns.
    """
    by_class: dict[int, list[Item]] = {}
    for item in sorted(items, key=lambda item: _draw(seed, item.name)):
        by_class.setdefault(_class(item), []).append(item)
    rounds = itertools.zip_longest(*(by_class[label] for label in sorted(by_class)))
    chosen = [item for turn in rounds for item in turn if item is not None][: max(0, n)]
    return chosen if by_turns else sorted(chosen, key=_class)


def _class(item: Item) -> int:
    return -1 if item.label is None else item.label


def sample_grid(
    dataset: Dataset,
    n: int,
    *,
    seed: int = 0,
    side: int = 160,
    columns: int | None = None,
    colours: Mapping[str, tuple[int, int, int]] | None = None,
) -> Image.Image:
    """Draw `n` sample items in cells of `side` pixels, each with its class on a strip of the class's colour.

    Pictures keep their proportions. `columns` defaults to a grid a little wider than high; `colours` (class → RGB)
    replaces the built-in ones. An unreadable item leaves a grey cell that says so. Raises DataError without items.
    """
    chosen = sample(dataset.items, n, seed=seed)
    if not chosen:
        raise DataError("no items to show", where=dataset.path, remedy="Give a folder or manifest that holds some.")
    columns = max(1, min(columns or math.ceil(math.sqrt(1.5 * len(chosen))), len(chosen)))
    rows = math.ceil(len(chosen) / columns)
    gap, strip = max(4, side // 20), max(16, side // 7)
    font = ImageFont.load_default(max(9, round(strip * 0.6)))
    width, height = gap + columns * (side + gap), gap + rows * (side + strip + gap)
    sheet = Image.new("RGB", (width, height), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for position, item in enumerate(chosen):
        left = gap + (position % columns) * (side + gap)
        top = gap + (position // columns) * (side + strip + gap)
        label = "" if item.label is None else dataset.classes[item.label]
        colour = (colours or {}).get(label, _COLOURS[(item.label or 0) % len(_COLOURS)])
        pen.rectangle((left, top, left + side - 1, top + side - 1), fill=_EMPTY)
        _place(sheet, pen, item, left=left, top=top, side=side, font=font)
        pen.rectangle((left, top + side, left + side - 1, top + side + strip - 1), fill=colour)
        text = _fitted(pen, label, font, side - 8)
        pen.text((left + side / 2, top + side + strip / 2), text, fill=_readable_on(colour), font=font, anchor="mm")
    return sheet


def _place(
    sheet: Image.Image,
    pen: ImageDraw.ImageDraw,
    item: Item,
    *,
    left: int,
    top: int,
    side: int,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    try:
        image = Image.fromarray(load(item, draft=side))
    except UnreadableImage as error:
        text = _fitted(pen, error.reason, font, side - 8)
        pen.text((left + side / 2, top + side / 2), text, fill=_INK, font=font, anchor="mm")
        return
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    image = image.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC)
    sheet.paste(image, (left + (side - size[0]) // 2, top + (side - size[1]) // 2))


def _fitted(pen: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The text, cut with an ellipsis where it is too long; control characters and broken names are shown as "?"."""
    text = "".join(char if char.isprintable() else "?" for char in text)
    if pen.textlength(text, font=font) <= width:
        return text
    while text and pen.textlength(text + "…", font=font) > width:
        text = text[:-1]
    return text + "…"


def _readable_on(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    """Dark or white ink, whichever has more contrast (relative luminance of WCAG 2, gamma taken as 2.2)."""
    red, green, blue = ((value / 255) ** 2.2 for value in colour)
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return _INK if luminance > 0.2 else (255, 255, 255)


def _draw(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"sample {seed}\0{name}".encode("utf-8", "surrogatepass")).digest()
