"""What this machine could do at best: decoding alone, each engine's forward alone, matrix product, copying memory.

    python benchmarks/limits.py --data FOLDER --source SOURCE --size 224 --out limits.json

Decoding uses the one loader with its own number of threads. Forward rates are of full batches of real pictures that
are in memory already. The matrix product limit of a network is the rate of a large square product divided by the
network's multiply-accumulates: no program that computes these in this number format can be faster.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from headstart.data import augment
from headstart.data.loader import Views, batches
from headstart.data.read import read
from headstart.sources import open_source
from headstart.sources.base import Source, evaluating
from headstart.transfer.runner import RunnerChoice, pick_runner

BATCH = 32
FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16}
ENGINES = (
    ("torch", "fp32"), ("torch", "bf16"), ("onnxruntime", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"),
)  # fmt: skip


def best(work: Callable[[], object], *, seconds: float = 1.0, rounds: int = 3) -> float:
    """The shortest seconds of one call: at least `rounds` calls, and more until `seconds` are over."""
    work()
    found: list[float] = []
    began = time.perf_counter()
    while len(found) < rounds or time.perf_counter() - began < seconds:
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return min(found)


def matrix_product(dtype: torch.dtype, *, device: str) -> float:
    """GFLOP/s of a square matrix product on all threads, or on the GPU."""
    side = 2048 if device == "cpu" else 8192
    a, b = (torch.randn(side, side).to(device, dtype) for _ in range(2))
    return 2 * side**3 / best(lambda: finished(a @ b)) / 1e9


def finished(value: Tensor) -> Tensor:
    """Wait for the GPU, where there is one."""
    if value.device.type == "cuda":
        torch.cuda.synchronize()
    return value


def memory_copy(device: str, *, megabytes: int = 512) -> float:
    """GB/s that are read and written when a large block is copied."""
    a = torch.zeros(megabytes << 18, device=device)
    b = torch.empty_like(a)
    return 2 * a.numel() * 4 / best(lambda: finished(b.copy_(a))) / 1e9


def decoding(source: Source, data: Path, count: int) -> float:
    """Images a second through the one loader alone, `count` at least, from bytes on disk to views."""
    items = list(islice(cycle(read(data).items), count))
    views = Views(items, source.card)
    order = [np.arange(start, min(start + BATCH, count)) for start in range(0, count, BATCH)]
    return count / best(lambda: [None for _ in batches(views, order)], seconds=0, rounds=2)


def one_batch(source: Source, data: Path) -> Tensor:
    """A full batch of real pictures, uint8."""
    items = list(islice(cycle(read(data).items), BATCH))
    return next(iter(batches(Views(items, source.card), [np.arange(BATCH)]))).images


def forwards(source: Source, images: Tensor, *, device: str) -> dict[str, float]:
    """Images a second of each engine, and of torch as everybody calls it ("eager")."""
    found: dict[str, float] = {}
    source.to(device)
    plain = augment.normalise(images.to(device), source.card)
    with evaluating(source), torch.inference_mode():
        found["eager fp32"] = len(images) / best(lambda: finished(source(plain)))
        for engine, precision in ENGINES:
            how = RunnerChoice(engine=engine, precision=precision, device=device)
            try:
                runner = pick_runner(source, source.card, images=images, left=10**6, how=how)
            except Exception as error:
                print(f"{engine} {precision}: {error}")
                continue
            if (runner.name, runner.precision) == (engine, precision):
                found[f"{engine} {precision}"] = len(images) / best(lambda run=runner: run(images))
    return found


def multiplications(source: Source, *, last: int = 2) -> tuple[float, float, list[str]]:
    """Multiply-accumulates an image, those of the last blocks with weights, and the modules that hold
    these blocks' parameters."""
    with evaluating(source), torch.no_grad(), FlopCounterMode(display=False) as counter:
        source(torch.zeros(1, *source.card.input_size))
    first = source.blocks.index([block for block in source.blocks if block.parameters][-last])
    known = dict(source.network.named_parameters())
    trained = [name for block in source.blocks[first:] for name in block.entries if name in known]
    owners = list(dict.fromkeys(name.rpartition(".")[0] for name in trained))
    counts = counter.get_flop_counts()
    above = sum(sum(counts.get(f"Source.network.{name}", {}).values()) for name in owners)
    return counter.get_total_flops() / 2, above / 2, owners


def main() -> None:
    """Measure and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--source", required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--count", type=int, default=480)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    source = open_source(options.source, image_size=options.size)
    macs, above, names = multiplications(source)
    found: dict[str, Any] = {
        "macs": macs,
        "macs_last_two": above,
        "last_two": names,
        "gflops": {name: matrix_product(kind, device=options.device) for name, kind in FORMATS.items()},
        "copy_gb": memory_copy(options.device),
        "decode": decoding(source, options.data, options.count),
        "forward": forwards(source, one_batch(source, options.data), device=options.device),
    }
    found["forward_limit"] = {name: rate * 1e9 / (2 * macs) for name, rate in found["gflops"].items()}
    options.out.write_text(json.dumps(found, indent=1))
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
