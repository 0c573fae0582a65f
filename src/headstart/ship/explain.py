"""What an answer rests on: where the network looked, and what would flip the answer.

The map is Grad-CAM (Selvaraju et al. 2017, "Grad-CAM: visual explanations from deep networks via gradient-based
localization"): each channel of the last feature map that has a grid, weighted by the mean gradient of the class's logit
with respect to it, added up, and what is negative left out. Behind mean pooling and a linear head the gradient is the
head's own weight, so that the map is exact: it adds up to the logit (Zhou et al. 2016). A network of tokens gives a map
of its patch tokens. Where its answer rests on the class token alone, the patches are taken where they were last asked
for, before the last attention.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from headstart.data import decode
from headstart.data.augment import center_view, draft_side, normalise, view_box
from headstart.errors import UnreadableImage
from headstart.judge.calibration import softmax
from headstart.records import Card, Item
from headstart.ship.model import Model
from headstart.sources.base import evaluating
from headstart.transfer.net import TransferNet
from headstart.transfer.precision import exact

__all__ = ["Box", "Look", "covered", "flip", "heat_maps", "look", "looked_at", "overlay", "shares_of_picture"]

Array = npt.NDArray[Any]
Box = tuple[float, float, float, float]
"""top, left, bottom, right, as shares of height and width."""

_SIDES = (1 / 8, 1 / 4, 3 / 8, 1 / 2)  # of the grey boxes, as shares of the view's sides
_TOGETHER = 32  # views that are computed at a time
_ROUNDING = 1e-6  # of a logit, that the brightest place must speak: what is less is the rounding of the gradient
_MARKED = 0.2  # of the view: the part that the map marks most
_OUTSIDE = 255  # the palette's entry for what the network did not see
_INFERNO = ((0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164))  # matplotlib's, at five places


# --- where it looked ----------------------------------------------------------------------------------------------


def heat_maps(net: TransferNet, card: Card, views: Tensor, classes: Sequence[int]) -> list[Array | None]:
    """For each view the grid of what spoke for its class: float32 (rows, columns) from 0 to 1, the largest 1.

    `views` are uint8 (n, 3, h, w). None where nothing in the picture speaks for the class, where the answer does not
    follow small changes (nearest neighbours that agree), or where the network keeps no grid.
    """
    device = next(net.parameters()).device
    found: list[Array | None] = []
    with evaluating(net), exact(device), torch.inference_mode(False), torch.enable_grad():
        for start in range(0, len(views), _TOGETHER):
            part = slice(start, start + _TOGETHER)
            inputs = normalise(views[part].to(device), card).contiguous(memory_format=torch.channels_last)
            wanted = torch.as_tensor(list(classes[part]), device=device)
            found += _maps(net, inputs, wanted)
    return found


def _maps(net: TransferNet, inputs: Tensor, wanted: Tensor) -> list[Array | None]:
    with torch.no_grad():
        feature_map = net.source.feature_map(inputs)
    last = feature_map.detach().clone().requires_grad_()
    made = _grids(net, last, _gradient(net.head(net.source.pooled(last, net.pooling)), wanted, [last])[0])
    if made is None:
        made = _deeper(net, inputs, wanted, tokens=feature_map.shape if feature_map.ndim == 3 else None)
    if made is None:
        return [None] * len(inputs)
    tops = made.flatten(1).amax(1)
    rows = (made / tops.clamp_min(1e-30)[:, None, None]).cpu().numpy().astype(np.float32)
    there = [float(top) > _ROUNDING for top in tops]
    return [row if bright and np.isfinite(row).all() else None for row, bright in zip(rows, there, strict=True)]


def _gradient(logits: Tensor, wanted: Tensor, of: Sequence[Tensor]) -> Sequence[Tensor | None]:
    """The gradient of each item's own logit; None where it does not depend on something."""
    score = logits.float().gather(1, wanted[:, None]).sum()
    if not score.requires_grad:
        return [None] * len(of)
    return torch.autograd.grad(score, of, allow_unused=True)


def _grids(net: TransferNet, activations: Tensor, gradient: Tensor | None) -> Tensor | None:
    """Grad-CAM of activations that have a grid: (n, rows, columns); None where they have none or do not matter."""
    if gradient is None:
        return None
    a, g = _positions(net, activations.detach()), _positions(net, gradient)
    if a is None or g is None or not bool(g.any()):
        return None
    grid: Tensor = torch.relu((g.float().mean((2, 3), keepdim=True) * a.float()).sum(1))
    return grid


def _positions(net: TransferNet, activations: Tensor) -> Tensor | None:
    """(n, channels, rows, columns) of a map or of patch tokens; None where there is no grid of several places."""
    if activations.ndim == 4:
        return activations if activations.shape[2] * activations.shape[3] > 1 else None
    patches = activations[:, net.source.library.prefix_tokens :]
    height, width = net.source.card.input_size[1:]
    count = patches.shape[1]
    rows = max(1, round((count * height / width) ** 0.5))
    if count < 2 or count % rows:
        return None
    return patches.transpose(1, 2).reshape(len(patches), -1, rows, count // rows)


def _deeper(net: TransferNet, inputs: Tensor, wanted: Tensor, *, tokens: torch.Size | None) -> Tensor | None:
    """The map of the last place inside the network that has a grid on which the answer depends."""
    seen: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> Tensor | None:
        grid = isinstance(output, Tensor) and output.requires_grad
        if grid and (output.shape == tokens or (tokens is None and output.ndim == 4 and output.shape[2:].numel() > 1)):
            seen.append(output)
            copied: Tensor = output.clone()  # what follows may write into its input
            return copied
        return None

    handles = [module.register_forward_hook(keep) for module in net.source.network.modules()]
    try:
        logits = net(inputs.requires_grad_())
    finally:
        for handle in handles:
            handle.remove()
    for output, gradient in zip(reversed(seen), reversed(_gradient(logits, wanted, seen)), strict=True):
        if (made := _grids(net, output, gradient)) is not None:
            return made
    return None


@dataclass(frozen=True, slots=True)
class Look:
    """One picture as the network saw it: its size (height, width), the view uint8 (3, h, w), and the map."""

    size: tuple[int, int]
    view: Tensor
    grid: Array | None


def look(model: Model, item: Item, label: int) -> Look:
    """Where the model looks in a picture for class `label`. Raises UnreadableImage."""
    pixels = decode.load(item, draft=draft_side(model.card))
    view = center_view(pixels, model.card)
    grid = heat_maps(model.net, model.card, view[None], [label])[0]
    return Look((pixels.shape[0], pixels.shape[1]), view, grid)


def looked_at(model: Model, items: Sequence[Item], labels: Sequence[int]) -> list[bytes]:
    """Overlays of where the model looked in some pictures; empty where there is no map, or no picture any more.

    What cannot be computed here (for want of memory, say) leaves the maps out: a report must not fail for them.
    """
    found = []
    for item, label in zip(items, labels, strict=True):
        try:
            seen = look(model, item, label)
        except (UnreadableImage, RuntimeError):
            found.append(b"")
            continue
        found.append(b"" if seen.grid is None else overlay(seen.grid, size=seen.size, card=model.card))
    return found


# --- the map over the picture -------------------------------------------------------------------------------------


def shares_of_picture(box: Box, *, size: tuple[int, int], card: Card) -> Box:
    """A box of the view as a box of the picture of `size` (height, width), cut at its borders."""
    top, left, bottom, right = view_box(*size, card)
    edges = (top + box[0] * (bottom - top), left + box[1] * (right - left),
             top + box[2] * (bottom - top), left + box[3] * (right - left))  # fmt: skip
    return tuple(min(1.0, max(0.0, edge)) for edge in edges)  # type: ignore[return-value]


def overlay(grid: Array, *, size: tuple[int, int], card: Card, side: int = 64) -> bytes:
    """A small transparent PNG of a map, to be laid over the picture of `size` (height, width) and scaled to it.

    The more a place counts, the brighter and the less transparent; what the network did not see is dark.
    """
    from PIL import Image

    scale = side / max(size)
    tall, wide = (max(1, round(length * scale)) for length in size)
    top, left, bottom, right = view_box(*size, card)
    rows, columns = (round(top * tall), round(bottom * tall)), (round(left * wide), round(right * wide))
    spread = Image.fromarray(np.asarray(grid, dtype=np.float32)).resize(
        (max(1, columns[1] - columns[0]), max(1, rows[1] - rows[0])), Image.Resampling.BILINEAR
    )
    drawn = Image.new("L", (wide, tall), _OUTSIDE)
    levels = np.rint(np.asarray(spread).clip(0, 1) * (_OUTSIDE - 1)).astype(np.uint8)
    drawn.paste(Image.fromarray(levels), (columns[0], rows[0]))
    colours, opacity = _palette()
    paletted = Image.fromarray(np.asarray(drawn), "P")
    paletted.putpalette(colours)
    buffer = io.BytesIO()
    paletted.save(buffer, "PNG", transparency=opacity, optimize=True)
    return buffer.getvalue()


def _palette() -> tuple[list[int], bytes]:
    """Colours and opacities by level; the last entry is for what was not seen."""
    level = np.arange(_OUTSIDE) / (_OUTSIDE - 1)
    places = np.linspace(0, 1, len(_INFERNO))
    ramp = np.stack([np.interp(level, places, channel) for channel in zip(*_INFERNO, strict=True)], axis=1)
    colours = np.vstack([np.rint(ramp), [0, 0, 0]]).astype(int).ravel().tolist()
    return colours, bytes([*np.rint(200 * level**0.8).astype(int).tolist(), 150])


# --- what would change the answer ---------------------------------------------------------------------------------


def covered(model: Model, view: Tensor, grid: Array, label: int) -> dict[str, float]:
    """The probability of class `label` with the marked fifth of a view under grey, and with the least marked fifth.

    A map that tells the truth makes the first much smaller than the second.
    """
    spread = nn.functional.interpolate(
        torch.from_numpy(np.asarray(grid, dtype=np.float32))[None, None], view.shape[-2:], mode="bilinear"
    )[0, 0]
    order = spread.flatten().argsort(stable=True)
    count = max(1, round(_MARKED * len(order)))
    changed = []
    for places in (order[-count:], order[:count]):
        mask = torch.zeros(len(order), dtype=torch.bool)
        mask[places] = True
        changed.append(torch.where(mask.view(spread.shape), _grey(model.card), view))
    marked, unmarked = _chances(model, torch.stack(changed))[:, label].tolist()
    return {"part": _MARKED, "marked": marked, "unmarked": unmarked}


def flip(model: Model, view: Tensor, label: int) -> dict[str, Any] | None:
    """The smallest grey square that changes the likeliest class of a view (3, h, w) from `label`; None where none does.

    Squares of an eighth, a quarter, three eighths and half of each side are tried, moved by half their side. Gives
    {share of the view's area, box (of the view), label: the class it becomes, probability, was: the old one's, tried}.
    """
    tried = 0
    for side in _SIDES:
        starts = np.linspace(0, 1 - side, round(2 * (1 - side) / side) + 1).tolist()
        boxes: list[Box] = [(top, left, top + side, left + side) for top, left in itertools.product(starts, starts)]
        chances = _chances(model, torch.stack([_hidden(view, box, model.card) for box in boxes]))
        tried += len(boxes)
        flipped = np.flatnonzero(chances.argmax(1) != label)
        if len(flipped):
            best = int(flipped[chances[flipped, label].argmin()])
            now = int(chances[best].argmax())
            return {
                "share": side * side, "box": boxes[best], "label": model.classes[now],
                "probability": float(chances[best, now]), "was": float(chances[best, label]), "tried": tried,
            }  # fmt: skip
    return None


def _hidden(view: Tensor, box: Box, card: Card) -> Tensor:
    height, width = view.shape[-2:]
    rows = slice(round(box[0] * height), max(round(box[0] * height) + 1, round(box[2] * height)))
    columns = slice(round(box[1] * width), max(round(box[1] * width) + 1, round(box[3] * width)))
    changed = view.clone()
    changed[:, rows, columns] = _grey(card)
    return changed


def _grey(card: Card) -> Tensor:
    """The card's mean colour: what says least to the network."""
    return torch.tensor([round(255 * mean) for mean in card.mean], dtype=torch.uint8).view(3, 1, 1)


def _chances(model: Model, views: Tensor) -> Array:
    """Calibrated probabilities of uint8 views, in batches."""
    rows = []
    with evaluating(model.net), exact(model.device), torch.inference_mode():
        for start in range(0, len(views), _TOGETHER):
            inputs = normalise(views[start : start + _TOGETHER].to(model.device), model.card).contiguous(
                memory_format=torch.channels_last
            )
            rows.append(model.net(inputs).float().cpu().numpy() / np.float32(model.temperature))
    return softmax(np.concatenate(rows))
