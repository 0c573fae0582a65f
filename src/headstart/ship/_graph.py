"""A model as one network from pictures of any size to probabilities, label and "unknown", and its ONNX file.

The preprocessing is data.augment's centre view to the bit. torch resizes uint8 pictures in two passes, the width first,
with weights in whole numbers of 15 bits at most, and rounds to uint8 after each. Each pass is a matrix product: the
weights of an axis are computed from the size of the picture, and only the rows that the crop keeps. float64 holds every
product and sum exactly, so no order of them changes a pixel.
"""

from __future__ import annotations

import inspect
import io
import json
import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from headstart import __version__
from headstart.data.augment import normalise
from headstart.errors import ExportError, SettingsError
from headstart.files import text_bytes
from headstart.judge.reject import Reject
from headstart.records import Card, plain
from headstart.ship._int8 import narrowed
from headstart.ship.exported import OUTPUTS
from headstart.ship.model import Model
from headstart.transfer._runner_onnx import silent_output

__all__ = ["Answering", "View", "metadata", "to_onnx", "to_program"]

_OPSET = 17
_BITS = 15  # of a weight with its sign, in torch's kernel
_MOST_BITS = 22
_PARTS = (8, 7, 6, 5, 4, 3, 2, 1)  # neighbours are made of the same few pixels: less to multiply
_WORDS = 300  # letters of another library's message


def _triangle(x: Tensor) -> Tensor:
    return (1 - x).clamp(min=0)


def _cubic(x: Tensor) -> Tensor:
    """Keys' cubic with a = -1/2, in the order in which torch computes it."""
    a = -0.5
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


_FILTERS: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {"bilinear": (_triangle, 1.0), "bicubic": (_cubic, 2.0)}


def _sides(images: Tensor) -> tuple[Tensor, Tensor]:
    """Height and width of pictures (n, h, w, 3), each float64 [1], as values of the graph.

    Tensors of no dimension would be taken for plain numbers by the ONNX exporter, and computed in float32.
    """
    if torch.compiler.is_exporting():
        tall, wide = (torch.full((1,), side, dtype=torch.float64) for side in images.shape[1:3])
        return tall, wide
    shape = torch._shape_as_tensor(images).double()
    return shape[1:2], shape[2:3]


def _up_to(n: Tensor) -> Tensor:
    """0, 1, … n - 1 as float64, for n of shape [1]."""
    end: Any = n.long().squeeze(0)
    if torch.compiler.is_exporting():
        end = end.item()
        torch._check(end > 0)
    return torch.arange(end, dtype=torch.float64)


class _Axis(nn.Module):
    """The weights of one pass: how `kept` pixels of the resized side are made of the pixels of the picture's side."""

    steps: Tensor
    powers: Tensor

    def __init__(self, interpolation: str, kept: int) -> None:
        super().__init__()
        self.filter, self.radius = _FILTERS[interpolation]
        self.kept, self.parts = kept, next(n for n in _PARTS if kept % n == 0)
        self.register_buffer("steps", torch.arange(kept, dtype=torch.float64))
        self.register_buffer("powers", 2.0 ** torch.arange(_MOST_BITS + 1, dtype=torch.float64))

    def forward(self, length: Tensor, resized: Tensor, first: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weights float64 [parts, kept / parts, m], the power of two that stands for 1, and pixels int64 [parts, m].

        `length` is the picture's side, `resized` that after the resize, `first` the place in it where the kept ones
        begin. The weights are whole numbers; those of a part are for its own pixels.
        """
        scale = length / resized
        stretch = scale.clamp(min=1.0)
        support = self.radius * stretch
        taps = _up_to(torch.ceil(support) * 2 + 1)
        centre = scale * (_up_to(resized) + 0.5)
        places = torch.floor(centre - support + 0.5).clamp(min=0)[:, None] + taps
        weights = self.filter(((places - centre[:, None] + 0.5) * (1.0 / stretch)).abs())
        weights = torch.where(places < length, weights, torch.zeros_like(weights))
        weights = weights / weights.sum(1, keepdim=True)
        fits = torch.floor(weights.max().reshape(1) * self.powers[1:] + 0.5) < 2**_BITS
        one = self.powers[fits.long().sum(0, keepdim=True)]
        weights = weights * one
        weights = torch.sign(weights) * torch.floor(weights.abs() + 0.5)
        rows = torch.minimum((first + self.steps).clamp(min=0), resized - 1).long()
        places, weights = torch.minimum(places[rows], length - 1), weights[rows]
        parts = places.reshape(self.parts, -1)
        low = parts.min(dim=1).values[:, None]
        steps = _up_to((parts.max(dim=1).values[:, None] - low).max().reshape(1) + 1)
        within = (parts - low).reshape(self.kept, -1).long()
        empty = weights[:, :1] * 0 + steps * 0  # zeros of a size that the graph alone knows
        dense = empty.scatter_add(1, within, weights)
        needed = torch.minimum(low + steps, length - 1).long()
        return dense.reshape(self.parts, self.kept // self.parts, -1), one, needed


class View(nn.Module):
    """The card's centre view: uint8 (n, height, width, 3) of any size → levels float64 (n, 3, h, w), whole numbers."""

    fill: Tensor

    def __init__(self, card: Card) -> None:
        super().__init__()
        if card.interpolation not in _FILTERS:
            raise SettingsError(
                f"a network with the interpolation {card.interpolation!r} cannot be exported",
                remedy=f"Only {' and '.join(sorted(_FILTERS))} can.",
            )
        self.card = card
        self.height, self.width = card.input_size[1:]
        self.rows, self.columns = (_Axis(card.interpolation, side) for side in (self.height, self.width))
        self.register_buffer("fill", torch.tensor([round(255 * m) for m in card.mean]).double().view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """The views of pictures of one size."""
        tall, wide = _sides(images)
        high, broad = self._resized(tall, wide)
        top, left = self._first(high, self.height), self._first(broad, self.width)
        down, one_down, rows = self.rows(tall, high, top)
        across, one_across, columns = self.columns(wide, broad, left)
        if not torch.compiler.is_exporting():  # which knows no slice that depends on a picture's size
            low: Any = rows.min()
            images, rows = images[:, low : rows.max() + 1], rows - low
        levels = images.permute(0, 3, 1, 2)[..., columns].transpose(2, 3).double()  # (n, 3, parts, height, m)
        levels = torch.floor(levels @ across.transpose(1, 2) / one_across + 0.5).clamp(0, 255)
        levels = levels.permute(0, 1, 3, 2, 4).reshape(-1, 3, images.shape[1], self.width)
        levels = torch.floor(down @ levels[:, :, rows] / one_down + 0.5).clamp(0, 255)
        levels = levels.reshape(-1, 3, self.height, self.width)
        if self.card.crop_mode == "border":
            there = _within(self.rows.steps + top, high)[:, None] & _within(self.columns.steps + left, broad)
            levels = torch.where(there, levels, self.fill)
        return levels

    def _resized(self, tall: Tensor, wide: Tensor) -> tuple[Tensor, Tensor]:
        """Height and width after the resize; see data.augment.center_view."""
        high, broad = (math.floor(side / self.card.crop_pct) for side in (self.height, self.width))
        if self.card.crop_mode == "squash":
            return torch.full_like(tall, high), torch.full_like(wide, broad)
        if self.card.crop_mode == "border":
            ratio = torch.minimum(high / tall, broad / wide)
            return torch.round(tall * ratio).clamp(min=1), torch.round(wide * ratio).clamp(min=1)
        if high == broad:
            longer = torch.maximum(tall, wide)
            return torch.floor(broad * longer / wide), torch.floor(high * longer / tall)
        ratio = torch.maximum(high / tall, broad / wide)
        return torch.round(tall * ratio).clamp(min=high), torch.round(wide * ratio).clamp(min=broad)

    def _first(self, resized: Tensor, kept: int) -> Tensor:
        """Where in the resized side the crop begins; below 0 where a border comes first."""
        canvas = resized.clamp(min=kept)
        return torch.round((canvas - kept) / 2) - torch.floor((canvas - resized) / 2)


def _within(places: Tensor, end: Tensor) -> Tensor:
    return (places >= 0) & (places < end)


class _Neighbours(nn.Module):
    """The knn head with votes summed by a matrix product, which every engine knows."""

    mean: Tensor
    bank: Tensor
    votes: Tensor

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        held = dict(module.named_buffers())
        width = int(held["n_classes"][0])
        self.k = min(int(held["k"][0]), len(held["bank"]))
        self.softness, self.smoothing = float(held["softness"][0]), float(held["smoothing"][0])
        self.register_buffer("mean", held["mean"])
        self.register_buffer("bank", held["bank"].T.contiguous())
        self.register_buffer("votes", functional.one_hot(held["labels"], width).float())

    def forward(self, features: Tensor) -> Tensor:
        """Log probabilities [n, classes] of features [n, d]."""
        from headstart.transfer._heads_knn import TIE

        away = features - self.mean
        near = (away / away.norm(dim=1, keepdim=True).clamp(min=1e-12)) @ self.bank
        border = near.topk(self.k, dim=1).values[:, -1:] - TIE
        heard = torch.where(near < border, torch.full_like(near, -torch.inf), near) / self.softness
        shares = torch.softmax(heard, dim=1) @ self.votes
        return torch.log((shares + self.smoothing / self.votes.shape[1]) / (1 + self.smoothing))


class _Refusal(nn.Module):
    """judge.reject.Reject, in float64 as there."""

    mean: Tensor
    axes: Tensor
    linear: Tensor
    constant: Tensor

    def __init__(self, reject: Reject) -> None:
        super().__init__()
        self.threshold, self.distance, self.scale = reject.threshold, reject.distance, float(reject.arrays["scale"][0])
        for name in ("mean", "axes", "linear", "constant"):
            self.register_buffer(name, torch.from_numpy(reject.arrays[name].copy()).double())

    def forward(self, probabilities: Tensor, features: Tensor) -> Tensor:
        """Whether each input gets the answer "unknown": bool [n]."""
        rows = features.double()
        z = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12) - self.mean
        spread = z.square().sum(1) - (z @ self.axes.T).square().sum(1)
        away = self.scale * spread + (z @ self.linear.T + self.constant).min(dim=1).values
        answered: Tensor = (away <= self.distance) & (probabilities.max(dim=1).values >= self.threshold)
        return ~answered


class Answering(nn.Module):
    """A model's whole way from pictures to answers."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.view = View(model.card)
        self.source, self.pooling, self.card = model.net.source, model.net.pooling, model.card
        self.head = _Neighbours(model.net.head) if model.head.kind == "knn" else model.net.head
        self.temperature = model.temperature
        self.refusal = _Refusal(model.reject) if model.reject is not None else None

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """uint8 (n, h, w, 3) → probabilities float32 (n, k), label int64 (n), unknown bool (n), view uint8."""
        levels = self.view(images)
        features = self.source(normalise(levels, self.card), self.pooling)
        logits = self.head(features) / self.temperature
        probabilities = torch.softmax(logits.double(), dim=1)
        unknown = torch.isnan(logits[:, 0]) if self.refusal is None else self.refusal(probabilities, features)
        return probabilities.float(), logits.argmax(dim=1), unknown, levels.to(torch.uint8)


def metadata(model: Model) -> dict[str, str]:
    """What an exported file says of itself: `classes` and `card` as JSON, `headstart` the version that wrote it."""

    def told(value: object) -> str:  # a name may hold bytes that are no UTF-8, which JSON can escape
        return text_bytes(json.dumps(plain(value), ensure_ascii=False)).decode()

    return {"classes": told(model.classes), "headstart": __version__, "card": told(model.card)}


def _example() -> Tensor:
    """Two small pictures, to trace with."""
    return torch.zeros(2, 50, 60, 3, dtype=torch.uint8)


def to_onnx(answering: Answering, facts: dict[str, str]) -> bytes:
    """One ONNX file with everything in it; batch, height and width are free. Raises ExportError where there is none."""
    import onnx

    file, whole = io.BytesIO(), answering.eval()
    free = {0: "n", 1: "height", 2: "width"}
    names: dict[str, Any] = {
        "input_names": ["images"], "output_names": list(OUTPUTS),
        "dynamic_axes": {"images": free, **{name: {0: "n"} for name in OUTPUTS}},
    }  # fmt: skip
    exporter: Callable[..., Any] = torch.onnx.export
    if "dynamo" in inspect.signature(exporter).parameters:
        names.update(dynamo=False, opset_version=_OPSET)
    try:
        with silent_output(), warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # the exporter warns of its own age, and of every number it takes as fixed
            exporter(whole, (_example(),), file, **names)
        made = onnx.load_from_string(file.getvalue())
    except Exception as error:  # whatever the exporter cannot do
        raise _impossible("ONNX", error) from error
    made.doc_string = "uint8 pictures (n, height, width, 3), RGB and upright, all of one size"
    onnx.helper.set_model_props(made, facts)
    return narrowed(made.SerializeToString())


def to_program(answering: Answering, facts: dict[str, str]) -> bytes:
    """The same as a program of torch.export. Raises ExportError where there is none."""
    free, file = dict.fromkeys(range(3), torch.export.Dim.DYNAMIC), io.BytesIO()
    try:
        with silent_output(), warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            made = torch.export.export(answering.eval(), (_example(),), dynamic_shapes=(free,), strict=False)
            torch.export.save(made, file, extra_files=facts)
    except Exception as error:
        raise _impossible("a program of torch", error) from error
    return file.getvalue()


def _impossible(what: str, error: Exception) -> ExportError:
    """The exporter's own words may fill a page."""
    return ExportError(
        f"the network cannot be written as {what}: {type(error).__name__}: {str(error)[:_WORDS]}",
        remedy="Try another kind: --to onnx, openvino or torch.",
    )
