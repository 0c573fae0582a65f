"""The feature pipeline against its parts: decoding alone, the forward of the same engine alone, and both together.

    python benchmarks/pipeline.py --data FOLDER --source SOURCE --size 224 --rounds 3 --out pipeline.json

`embed` is called as a run calls it, cold, with the trial of the engines and the writing of the store. In one process,
the three in turn. The cores are shared: where decoding and forward both use all of them, no pipeline can reach the
slower of the two, only 1 / (1/decode + 1/forward); both limits are written.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from limits import BATCH, one_batch

from headstart.data.audit import audit
from headstart.data.loader import Views, batches
from headstart.data.read import read
from headstart.sources import open_source
from headstart.transfer.features import Pass, embed
from headstart.transfer.runner import RunnerChoice, pick_runner


def main() -> None:
    """Measure and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--source", required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    source = open_source(options.source, image_size=options.size)
    dataset, facts = audit(read(options.data))
    items, n = dataset.items, len(dataset.items)
    order = [np.arange(start, min(start + BATCH, n)) for start in range(0, n, BATCH)]
    images = one_batch(source, options.data)
    runner = pick_runner(source, source.card, images=images, left=n, how=RunnerChoice())
    found: dict[str, Any] = {"images": n, "engine": runner.identity, "facts": dict(runner.facts)}
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as home:
            os.environ["HEADSTART_HOME"] = home
            hashes = [facts.hashes[item.name] for item in items]
            started = time.perf_counter()
            for _batch in batches(Views(items, source.card, hashes=hashes), order):
                pass
            decoded = time.perf_counter()
            runner(images)
            again = time.perf_counter()
            for _number in range(len(order)):
                runner(images)
            computed = time.perf_counter()
            features = embed(source, items, hashes=facts.hashes, how=Pass())
            done = time.perf_counter()
        assert features.computed == n, "nothing was warm"
        source.to("cpu")
        found.setdefault("decode", []).append(n / (decoded - started))
        found.setdefault("forward", []).append(len(order) * BATCH / (computed - again))
        found.setdefault("embed", []).append(n / (done - computed))
    options.out.write_text(json.dumps(found, indent=1, default=str))
    print(json.dumps(found, indent=1, default=str))


if __name__ == "__main__":
    main()
