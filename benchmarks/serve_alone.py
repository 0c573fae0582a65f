"""Photos a second of decoding alone and of each engine alone, for benchmarks/serve_load.py: a JSON object.

    python benchmarks/serve_alone.py RUN DATA

Decoding takes all cores, a photo a thread; in the network there is one photo at a time, as in the server, with as many
threads as the engine chooses. The best of five rounds.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from serve_load import photos_of

from headstart.data import decode
from headstart.data.cores import default_workers
from headstart.data.loader import Views
from headstart.records import Item, MemoryOrigin
from headstart.ship.exported import ENGINES, find_export, open_export
from headstart.ship.model import load
from headstart.transfer.kernels import steady_memory


def best(work: Callable[[], object], count: int) -> float:
    """`count` divided by the least seconds that the work took."""
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return count / min(seconds)


def measured(run: Path, data: Path) -> dict[str, float]:
    """Rates by name: decode, torch, and what there are exports for."""
    steady_memory()
    model, photos = load(run), photos_of(data)
    items = [Item(str(number), MemoryOrigin(photo)) for number, photo in enumerate(photos)]
    view = Views(items, model.card)
    views = torch.stack([view(number) for number in range(len(items))])
    with ThreadPoolExecutor(default_workers()) as pool:
        found = {"decode": best(lambda: list(pool.map(view, range(len(items)))), len(items))}
    found["torch"] = best(lambda: model._forward(views), len(items))
    pixels = [decode.load(item)[None] for item in items]
    for kind in ENGINES:
        if kind != "torch" and (folder := find_export(run, kind)) is not None:
            export = open_export(folder)
            found[kind] = best(lambda export=export: [export.outputs(one) for one in pixels], len(items))  # type: ignore[misc]
    return found


if __name__ == "__main__":
    print(json.dumps(measured(Path(sys.argv[1]), Path(sys.argv[2]))))
