"""VGG16 on a few hundred pictures, two ways: the last convolutions retrained, or the last layer alone replaced.

    python examples/vgg16_partial.py --data DATA --weights vgg16-397923af.pth
    python examples/vgg16_partial.py --data DATA                 random weights: shows the mechanics, learns little

1. The first blocks are frozen, the convolutions from layer 15 on are trained, and one new layer on their global
   average replaces all three fully connected ones.
2. Everything is frozen but the last of the fully connected layers, classifier[6]: a new one learns from its 4,096
   inputs.
"""

import argparse
import tempfile
from pathlib import Path

import headstart

CONVOLUTIONS = {"vgg11": (1, 1, 2, 2, 2), "vgg13": (2, 2, 2, 2, 2), "vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}


def main() -> None:
    """Train both ways, print what was trained and what stayed as it was, and the scores."""
    options = arguments()
    cut = module_of(options.cut, CONVOLUTIONS[options.network])
    ways = {
        f"trained from {cut} on": {
            "strategy": "partial", "cut": cut, "pooling": "avg", "optimizer": "sgd", "lr": 1e-3,
            "epochs": options.epochs, "batch_size": 16,
        },
        "classifier[6] replaced": {"strategy": "frozen", "pooling": "native", "views": 0, "refit": False},
    }  # fmt: skip
    source = options.source or f"{'torchvision' if options.weights else 'random'}:{options.network}"
    if source.startswith("random:"):
        print("No --weights: the network is random. What follows shows the mechanics; the accuracies mean little.\n")
    print(f"layer {options.cut}, as Keras counts, is in torchvision's {options.network}: {cut}\n")
    with tempfile.TemporaryDirectory() as scratch:
        data = options.data
        if options.quick:
            data = Path(scratch) / "data"
            headstart.subset(options.data, data, per_class=8, test=16)
        print("| way | trained parameters | frozen blocks, unchanged | seconds | test accuracy (95 % interval) |")
        print("| --- | --- | --- | --- | --- |", flush=True)
        for name, way in ways.items():
            run = headstart.fit(
                data, options.out and options.out / str(way["strategy"]), source=source, weights=options.weights,
                image_size=options.size, seed=options.seed, **way,
            ).run  # fmt: skip
            print(row(name, run), flush=True)


def module_of(layer: int, convolutions: tuple[int, ...]) -> str:
    """torchvision's name of the first convolution at or after a Keras layer.

    Keras counts the input (0), each convolution with its ReLU, and each pooling. torchvision numbers convolutions,
    ReLUs and poolings alike, and has no input. So the last of VGG16's five blocks of convolutions begins at layer 15 in
    Keras (block5_conv1, after the pooling 14) and at features.24 in torchvision (after the pooling features.23).
    """
    here, module = 1, 0
    for count in convolutions:
        for _ in range(count):
            if here >= layer:
                return f"features.{module}"
            here, module = here + 1, module + 2  # a convolution and its ReLU
        here, module = here + 1, module + 1  # the pooling
    raise SystemExit(f"--cut must be at most {here - 2}, the last convolution")


def row(name: str, run: dict) -> str:
    """One line of the table."""
    test, frozen = run["scores"]["test"], run["frozen"]
    low, high = test["accuracy_interval"]
    kept = f"{len(frozen['blocks'])}, {'yes' if frozen['unchanged'] else 'NO'}"
    return (
        f"| {name} | {run['plan']['trained_parameters']:,} | {kept} | {run['seconds']['total']:.0f} "
        f"| {test['accuracy']:.4f} ({low:.3f} to {high:.3f}) |"
    )


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="a folder of pictures, a folder a class")
    parser.add_argument("--network", default="vgg16", choices=CONVOLUTIONS)
    parser.add_argument("--weights", help="torchvision's weights file for the network (.pth)")
    parser.add_argument("--source", help="another address of the same network, such as a local folder")
    parser.add_argument("--cut", type=int, default=15, help="train from this layer on, counted as Keras does")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--size", type=int, default=224, help="side of the network's input in pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="keep the runs, with their reports and models, in this folder")
    parser.add_argument("--quick", action="store_true", help="8 pictures a class, one epoch: only to see that it runs")
    options = parser.parse_args()
    if options.quick:
        options.epochs, options.size = 1, 32
    return options


if __name__ == "__main__":
    main()
