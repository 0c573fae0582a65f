"""What it costs that every picture goes through the network alone, and what it is good for.

    python benchmarks/alone.py [NETWORK ...]

For each network of timm (random weights) and batch size: processor milliseconds a picture (least of three), and how
many of the pictures have the same bits as alone. One thread.
"""

from __future__ import annotations

import sys
import time

import timm
import torch
from torch import Tensor, nn

NETWORKS = ("mobilenetv2_035", "resnet18")
SIZES, PICTURES = (1, 8, 32), 32


def outputs(network: nn.Module, images: Tensor, size: int) -> tuple[Tensor, float]:
    """The logits in batches of `size`, and processor seconds."""
    started, rows = time.process_time(), []
    with torch.inference_mode():
        for part in images.split(size):
            rows.append(network(part.contiguous(memory_format=torch.channels_last)))
    return torch.cat(rows), time.process_time() - started


def measured(name: str, *, pictures: int = PICTURES, side: int = 224) -> list[tuple[int, float, int]]:
    """Rows (batch size, milliseconds a picture, pictures with the same bits as alone)."""
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=10).eval()
    images = torch.randn(pictures, 3, side, side)
    alone = outputs(network, images, 1)[0]
    found = []
    for size in SIZES:
        tries = [outputs(network, images, size) for _ in range(3)]
        same = int((tries[0][0] == alone).all(1).sum())
        found.append((size, min(seconds for _, seconds in tries) / pictures * 1e3, same))
    return found


def main(names: list[str]) -> None:
    """Print a table."""
    torch.set_num_threads(1)
    print(f"{'network':24}{'batch':>8}{'ms':>10}{'same bits':>14}")
    for name in names or NETWORKS:
        for size, milliseconds, same in measured(name):
            print(f"{name:24}{size:8d}{milliseconds:10.1f}{same:8d} of {PICTURES}")


if __name__ == "__main__":
    main(sys.argv[1:])
