"""Accuracy of `headstart fit --strategy frozen` beside a plain scikit-learn probe, on real data sets.

    python benchmarks/probe_accuracy.py [--data hymenoptera hotdog ...] [--sources mobilenetv2_035.keras_in1k ...]

The plain probe is what a careful person writes in an hour: timm's network and timm's own evaluation transform, features
of all images, StandardScaler + LogisticRegression, C by 5-fold cross-validation over 1e-4 to 1e2. Both learn from the
training and validation images and are tested on the same sealed images. Prints a table with Wilson intervals and writes
it to benchmarks/results/probe_accuracy.md. Needs the shared data (HEADSTART_SHARED).
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import headstart
from headstart.data import decode
from headstart.data.read import read
from headstart.judge.intervals import wilson
from headstart.records import Dataset, Item

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("HEADSTART_SHARED", ROOT.parent / "shared"))
DATA = ("hymenoptera", "hotdog", "rsscn7", "dtd10", "clothing", "cifar10")
SOURCES = ("mobilenetv2_035.keras_in1k", "mobilenetv2_100.google_qat_in1k")


def plain_probe(dataset: Dataset, source: Path, test_split: str) -> tuple[int, int]:
    """Right answers and number of test items of the plain probe."""
    network = timm.create_model(f"local-dir:{source}", pretrained=True, num_classes=0).eval()
    config = timm.data.resolve_model_data_config(network)
    transform = timm.data.create_transform(**config, is_training=False)

    def features(items: list[Item]) -> np.ndarray:
        rows = []
        with torch.inference_mode():
            for start in range(0, len(items), 32):
                batch = [transform(Image.fromarray(decode.load(item))) for item in items[start : start + 32]]
                rows.append(network(torch.stack(batch)).numpy())
        return np.concatenate(rows)

    train = [item for item in dataset.items if item.split != test_split]
    test = [item for item in dataset.items if item.split == test_split]
    labels = [np.array([item.label for item in items]) for items in (train, test)]
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    search = GridSearchCV(pipeline, {"logisticregression__C": 10.0 ** np.arange(-4, 3)}, cv=5, n_jobs=1)
    search.fit(features(train), labels[0])
    return int((search.predict(features(test)) == labels[1]).sum()), len(test)


def place_of(name: str, folder: Path) -> Path:
    """The data set's folder; of CIFAR-10 the small version, 2,000 training and 1,000 test images."""
    if name != "cifar10":
        return SHARED / "data" / name
    small = folder / "cifar10"
    if not small.exists():
        headstart.subset(SHARED / "data" / name, small, per_class=200, test=1000)
    return small


def main() -> None:
    """Run both sides in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=DATA, choices=DATA)
    parser.add_argument("--sources", nargs="+", default=SOURCES)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "probe_accuracy.md")
    options = parser.parse_args()
    lines = [
        "| data | source | test items | plain probe | headstart (95 % interval) | difference, images |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    print("\n".join(lines), flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        for name in options.data:
            place = place_of(name, Path(scratch))
            dataset = read(place)
            test_split = "test" if "test" in dataset.splits else "val"
            for source in options.sources:
                started = time.perf_counter()
                right, n = plain_probe(dataset, SHARED / "sources" / source, test_split)
                plain_seconds = time.perf_counter() - started
                run = headstart.fit(place, source=str(SHARED / "sources" / source), strategy="frozen").run
                ours = run["scores"]["test"]
                low, high = wilson(right, n)
                difference = round(ours["accuracy"] * n) - right
                line = (
                    f"| {name} | {source} | {n} | {right / n:.4f} ({low:.3f} to {high:.3f}) | {ours['accuracy']:.4f} "
                    f"({ours['accuracy_interval'][0]:.3f} to {ours['accuracy_interval'][1]:.3f}) | {difference:+d} |"
                )
                lines.append(line)
                print(line, f"  {plain_seconds:.0f} s, C={run['plan']['chosen']}", flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
