"""One convolutional base, three classifiers: a fully connected layer, global average pooling, a support vector machine.

    python examples/three_classifiers.py --data DATA --source SOURCE --out RUNS

The base is frozen and runs once over the pictures; the three classifiers then learn in seconds from what it found:

1. fully connected: the whole feature map, flattened, into 256 units with dropout 0.5;
2. global average pooling: the mean over the map's positions, into one linear layer;
3. linear SVM on the same means, its regularisation by grid search in 10-fold cross-validation.

Each leaves a report with its learning curves. The last lines say in words which one overfits.
"""

import argparse
import tempfile
from pathlib import Path

import headstart

CLASSIFIERS = {
    "fully connected": {"head": "mlp", "pooling": "flatten"},
    "global average pooling": {"head": "linear", "pooling": "avg"},
    "linear SVM": {"head": "svm", "pooling": "avg", "folds": 10},
}


def main() -> None:
    """Fit the three, print their curves, then the table and a diagnosis of each in words."""
    options = arguments()
    with tempfile.TemporaryDirectory() as scratch:
        data, runs = options.data, options.out or Path(scratch) / "runs"
        if options.quick:
            data = Path(scratch) / "data"
            headstart.subset(options.data, data, per_class=16, test=16)
        done = {
            name: headstart.fit(
                data, runs / name.replace(" ", "-"), source=options.source, image_size=options.size,
                strategy="frozen", views=0, refit=False, seed=options.seed, **classifier,
            ).run
            for name, classifier in CLASSIFIERS.items()
        }  # fmt: skip
    for name, run in done.items():
        print_curves(name, run["curves"])
    print("| classifier | trained parameters | train | validation | test (95 % interval) | chosen |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, run in done.items():
        print(row(name, run))
    print()
    for name, run in done.items():
        print(f"{name}: {run['diagnosis']['sentence']}")
        if options.out:
            print(f"  curves: {runs / name.replace(' ', '-') / 'report.html'}")


def print_curves(name: str, curves: dict, *, most: int = 6) -> None:
    """Losses and accuracies over epochs, or over the number of training items; a few evenly spaced points."""
    points = curves["points"]
    step = max(1, -(-len(points) // most))
    print(f"{name}, over {curves['axis']}:")
    for point in points[::step]:
        losses = f"loss {point['train_loss']:.3f} train, {point['val_loss']:.3f} validation"
        accuracies = f"accuracy {point['train_accuracy']:.3f} train, {point['val_accuracy']:.3f} validation"
        print(f"  {point['x']:>5}  {losses};  {accuracies}")
    print()


def row(name: str, run: dict) -> str:
    """One line of the table."""
    train, val, test = (run["scores"][split] for split in ("train", "val", "test"))
    low, high = test["accuracy_interval"]
    chosen = ", ".join(
        f"{key} {value:g}" for key, value in run["plan"]["chosen"].items() if isinstance(value, (int, float))
    )
    return (
        f"| {name} | {run['plan']['trained_parameters']:,} | {train['accuracy']:.4f} | {val['accuracy']:.4f} "
        f"| {test['accuracy']:.4f} ({low:.3f} to {high:.3f}) | {chosen} |"
    )


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="a folder of pictures, a folder a class")
    parser.add_argument("--source", default=headstart.Settings().source, help="the pretrained convolutional base")
    parser.add_argument("--size", type=int, help="side of the network's input in pixels; default: the source's own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="keep the runs, with their reports, in this folder")
    parser.add_argument("--quick", action="store_true", help="16 pictures a class: only to see that it runs")
    options = parser.parse_args()
    if options.quick:
        options.size = options.size or 64
    return options


if __name__ == "__main__":
    main()
