"""The pixels of an export: how the graph's resize compares with ONNX's own, and what drafted JPEGs change.

    python benchmarks/export_pixels.py
    python benchmarks/export_pixels.py --run RUN --enlarge 4

The first resizes noise, the hardest picture, of four sizes to a card of 224 pixels on one core: the median milliseconds
of CPU time, and how many values of ONNX Runtime's Resize with antialias, in two passes, differ from the loader's. The
second takes the judged photos of a run, enlarged and encoded anew, as the loader reads them and decoded whole.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import Tensor, nn

from headstart.data import augment, decode
from headstart.records import Card
from headstart.sealed import read_sealed
from headstart.ship._graph import View
from headstart.ship.model import load, softmax

SIZES = ((224, 224), (375, 500), (1080, 1920), (3000, 4000))
MODES = {"bicubic": "cubic", "bilinear": "linear"}


class Levels(nn.Module):
    """The preprocessing alone."""

    def __init__(self, card: Card) -> None:
        super().__init__()
        self.view = View(card)

    def forward(self, images: Tensor) -> Tensor:
        """The views as uint8."""
        levels: Tensor = self.view(images).to(torch.uint8)
        return levels


def opened(data: bytes) -> Any:
    """An ONNX file in ONNX Runtime, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def graph(card: Card) -> Any:
    """The preprocessing of an export."""
    file = io.BytesIO()
    free = {"images": {0: "n", 1: "height", 2: "width"}}
    torch.onnx.export(
        Levels(card).eval(), (torch.zeros(2, 50, 60, 3, dtype=torch.uint8),), file, dynamo=False, opset_version=17,
        input_names=["images"], output_names=["view"], dynamic_axes=free,
    )  # fmt: skip
    return opened(file.getvalue())


def resize(card: Card, tall: int, size: tuple[int, int]) -> Any:
    """ONNX's own Resize of a whole picture, the width first."""
    words: dict[str, Any] = {"mode": MODES[card.interpolation], "antialias": 1, "cubic_coeff_a": -0.5}
    words["exclude_outside"] = int(card.interpolation == "bicubic")
    nodes = [
        helper.make_node("Transpose", ["images"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Resize", ["planes", "", "", "first"], ["wide"], **words),
        helper.make_node("Resize", ["wide", "", "", "second"], ["view"], **words),
    ]
    sides = ((1, 3, tall, size[1]), (1, 3, *size))
    made = helper.make_graph(
        nodes, "resize", [helper.make_tensor_value_info("images", TensorProto.UINT8, [1, "height", "width", 3])],
        [helper.make_tensor_value_info("view", TensorProto.UINT8, None)],
        [numpy_helper.from_array(np.array(s), n) for s, n in zip(sides, ("first", "second"), strict=True)],
    )  # fmt: skip
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    return opened(model.SerializeToString())


def milliseconds(call: Callable[[], object], rounds: int) -> float:
    """The median CPU time of a call."""
    call()
    times = []
    for _ in range(rounds):
        started = time.process_time()
        call()
        times.append(time.process_time() - started)
    return float(np.median(times)) * 1000


def compare() -> None:
    """The table of sizes."""
    for interpolation in MODES:
        card = Card("none", input_size=(3, 224, 224), interpolation=interpolation, crop_pct=0.875)
        ours = graph(card)
        for tall, wide in SIZES:
            picture = np.random.default_rng(0).integers(0, 256, (tall, wide, 3), dtype=np.uint8)
            rounds, fed = 5 if tall > 1000 else 15, {"images": picture[None]}
            same = np.array_equal(ours.run(None, fed)[0][0], augment.center_view(picture, card).numpy())
            size = augment._covering(tall, wide, 256, 256)
            theirs = resize(card, tall, size)
            whole = augment._resize(augment._tensor(picture), size, interpolation).numpy().astype(np.int16)
            away = np.abs(whole - theirs.run(None, fed)[0][0])
            took = [milliseconds(lambda s=s, f=fed: s.run(None, f), rounds) for s in (ours, theirs)]
            print(
                f"{interpolation:<9} {wide}x{tall}: the graph {'equals the loader' if same else 'DIFFERS'}, "
                f"{took[0]:.1f} ms; Resize {took[1]:.1f} ms, {(away > 0).mean():.2%} of values differ, by {away.max()}"
            )


def drafts(run: Path, enlarge: int) -> None:
    """What decoding at a fraction of the size changes."""
    model, found = load(run), read_sealed(run)
    apart, answers = [], []
    for item in found.items:
        small = Image.fromarray(decode.load(item))
        large = small.resize((small.width * enlarge, small.height * enlarge), Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        large.save(buffer, "JPEG", quality=92)
        views = [
            augment.center_view(decode.decode(buffer.getvalue(), item.name, draft=draft), model.card)
            for draft in (augment.draft_side(model.card), None)
        ]
        apart.append((views[0].short() - views[1].short()).abs().numpy())
        answers.append(softmax(model._forward(torch.stack(views))[0]))
    levels, said = np.stack(apart), np.stack(answers)
    print(
        f"{len(said)} photos enlarged {enlarge} times: {(levels > 0).mean():.1%} of values differ, by {levels.max()} "
        f"at most; a probability moves by {np.abs(said[:, 0] - said[:, 1]).max():.3f} at most; "
        f"{(said[:, 0].argmax(1) != said[:, 1].argmax(1)).sum()} other labels"
    )


def main() -> None:
    """Parse and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--enlarge", type=int, default=4)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.run is None:
        compare()
    else:
        drafts(asked.run, asked.enlarge)


if __name__ == "__main__":
    main()
