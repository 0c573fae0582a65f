"""CIFAR-10 three ways, and from scratch: what a pretrained network is worth after a few epochs.

    python examples/cifar10_three_ways.py --data DATA --source SOURCE

The three ways are those of OneFlow's transfer-learning tutorial: train everything with one rate; train everything, the
backbone slowly; train the head alone. Its recipe is kept: SGD with momentum 0.9, weight decay 5e-4, batches of 64, a
constant rate, resized pictures flipped both ways, a head that starts from random weights, three epochs. Two things
differ: the head alone is fitted by a convex solver, and training from scratch gets the rate that suits random weights
(0.05, not 0.001), because a baseline should be given a chance.
"""

import argparse
import csv
import tempfile
from pathlib import Path

import headstart
from headstart.judge.intervals import paired_bootstrap

RECIPE = {
    "optimizer": "sgd", "momentum": 0.9, "weight_decay": 5e-4, "clip": 0.0,
    "batch_size": 64, "schedule": "constant", "warmup": 0.0,
    "crop_scale": 1.0, "hflip": True, "vflip": True,  # resize and flip, no random crop
    "norm_stats": "updated",  # BatchNorm adapts to the new pictures, as in the tutorial
    "val_fraction": 0.1, "refit": False,  # every way learns from the same items
}  # fmt: skip
WAYS = {
    "head alone": {"strategy": "frozen"},
    "everything, one rate": {"strategy": "full", "lr": 0.001},
    "everything, two rates": {"strategy": "discriminative", "backbone_lr": 1e-4, "head_lr": 1e-3},
    "from scratch": {"strategy": "scratch", "lr": 0.05},
}


def main() -> None:
    """Train the four ways on the same splits, print a row as each ends, then what they are worth."""
    options = arguments()
    with tempfile.TemporaryDirectory() as scratch:
        data, runs = options.data, options.out or Path(scratch) / "runs"
        if options.quick:
            data = Path(scratch) / "data"
            headstart.subset(options.data, data, per_class=6, test=50)
        print("| way | trained parameters | seconds | test accuracy (95 % interval) | best epoch |")
        print("| --- | --- | --- | --- | --- |", flush=True)
        right = {}
        for name, way in WAYS.items():
            result = headstart.fit(
                data, runs / name.replace(" ", "-"), source=options.source, image_size=options.size,
                epochs=options.epochs, patience=options.epochs, probe_first=options.probe_first, seed=options.seed,
                **RECIPE, **way,
            )  # fmt: skip
            right[name] = answers(result.folder)
            print(row(name, result.run), flush=True)
        print()
        for name in list(right)[:-1]:
            print(worth(name, right[name], right["from scratch"]))


def row(name: str, run: dict) -> str:
    """One line of the table."""
    test = run["scores"]["test"]
    low, high = test["accuracy_interval"]
    trained = run["plan"]["trained_parameters"]
    best = run["curves"].get("best", "–")
    score = f"{test['accuracy']:.4f} ({low:.3f} to {high:.3f})"
    return f"| {name} | {trained:,} | {run['seconds']['total']:.0f} | {score} | {best} |"


def answers(folder: Path) -> list[bool]:
    """For each test picture whether the run's answer was right."""
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
        return [line["label"] == line["predicted"] for line in csv.DictReader(file)]


def worth(name: str, ours: list[bool], scratch: list[bool]) -> str:
    """The gain over scratch on the same test pictures, in a sentence."""
    gain = paired_bootstrap(ours, scratch)
    certain = "" if gain.low > 0 or gain.high < 0 else ": this test set cannot tell the two apart"
    return (
        f"{name}: {100 * gain.value:+.1f} points against scratch, "
        f"95 % interval {100 * gain.low:+.1f} to {100 * gain.high:+.1f}{certain}"
    )


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="CIFAR-10 as Parquet or as folders train/ and test/")
    parser.add_argument("--source", default=headstart.Settings().source, help="a pretrained network")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--size", type=int, default=96, help="side of the network's input in pixels")
    parser.add_argument("--probe-first", action="store_true", help="start fine-tunings from the head fitted first")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="keep the runs, with their reports, in this folder")
    parser.add_argument("--quick", action="store_true", help="6 pictures a class, one epoch: only to see that it runs")
    options = parser.parse_args()
    if options.quick:
        options.epochs, options.size = 1, 32
    return options


if __name__ == "__main__":
    main()
