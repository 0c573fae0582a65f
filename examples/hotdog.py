"""Hot dog or not: a few hundred photographs, a pretrained network, and the same network from random weights.

    python examples/hotdog.py --data DATA --source SOURCE
    python examples/hotdog.py --data DATA --source torchvision:resnet18 --weights resnet18-f37072fd.pth

The recipe of many a course: in training a random crop resized to 224 and a left-right flip, in testing the middle 224
of a picture resized to 256 (the source's card says so); SGD, weight decay 0.001; the new head learns ten times as fast
as the pretrained backbone.
"""

import argparse
import tempfile
from pathlib import Path

import headstart

RECIPE = {
    "strategy": "discriminative", "backbone_lr": 1e-3, "head_lr": 1e-2,
    "optimizer": "sgd", "momentum": 0.9, "weight_decay": 1e-3,
    "crop_scale": 0.08, "hflip": True,  # the smallest crop keeps 8 % of the picture
    "norm_stats": "updated",  # BatchNorm adapts to the new pictures
    "scratch": True,  # the same network from random weights, with the rate that suits those
}  # fmt: skip


def main() -> None:
    """Train both, print both with intervals, and what the difference on the same test pictures says."""
    options = arguments()
    with tempfile.TemporaryDirectory() as scratch:
        data, out = options.data, options.out or Path(scratch) / "run"
        if options.quick:
            data = Path(scratch) / "data"
            headstart.subset(options.data, data, per_class=8, test=16)
        run = headstart.fit(
            data, out, source=options.source, weights=options.weights, image_size=options.size,
            epochs=options.epochs, probe_first=options.probe_first, seed=options.seed, **RECIPE,
        ).run  # fmt: skip
    test, scratch_test, majority = run["scores"]["test"], run["baselines"]["scratch"], run["baselines"]["majority"]
    print(f"{run['data']['splits']['train']['n']} training, {test['n']} test pictures; {run['source']['architecture']}")
    print("| start | test accuracy (95 % interval) | log loss |")
    print("| --- | --- | --- |")
    print(f"| pretrained | {interval(test)} | {test['log_loss']:.3f} |")
    print(f"| random weights | {interval(scratch_test)} | {scratch_test['log_loss']:.3f} |")
    print(f"| always the commoner class | {interval(majority)} | – |")
    print()
    print(lesson(run["gain_over_scratch"], test["n"]))
    print(run["diagnosis"]["sentence"])
    if options.out:
        print(f"Report, with the most confident mistakes as pictures: {options.out / 'report.html'}")


def interval(measured: dict) -> str:
    """An accuracy with its interval."""
    low, high = measured["accuracy_interval"]
    return f"{measured['accuracy']:.4f} ({low:.3f} to {high:.3f})"


def lesson(gain: dict, n: int) -> str:
    """What the paired difference says, in a sentence."""
    low, high = gain["interval"]
    found = f"Pretraining was worth {gain['points']:+.1f} points (95 % interval {low:+.1f} to {high:+.1f})"
    if low > 0:
        return f"{found}: the gain is real, though {n} test pictures leave its size uncertain."
    return f"{found}: {n} test pictures cannot tell the two apart."


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder with train/ and test/ (or val/), a folder a class")
    parser.add_argument("--source", default=headstart.Settings().source, help="a pretrained network")
    parser.add_argument("--weights", help="weights file for the architecture of --source")
    parser.add_argument("--epochs", type=int, help="default: from the amount of data, more from random weights")
    parser.add_argument("--size", type=int, default=224, help="side of the network's input in pixels")
    parser.add_argument("--probe-first", action="store_true", help="start from the head fitted on frozen features")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="keep the run, with its report, in this folder")
    parser.add_argument("--quick", action="store_true", help="a few pictures, one epoch: only to see that it runs")
    options = parser.parse_args()
    if options.quick:
        options.epochs, options.size = 1, 32
    return options


if __name__ == "__main__":
    main()
