"""From a finished run to what is deployed: exported, made smaller, and taught a class that it did not know.

    python examples/deploy.py --data DATA --source SOURCE [--new-class NAME] [--out OUT]

One class is put aside and a model is fitted on the others. It is exported with its preprocessing inside and judged
before it is written; a network of half the multiply-adds is cut out of it and exported too; and the class that was put
aside is learned from its pictures alone. Needs the extras: pip install 'headstart[onnx,compress]'.
"""

import argparse
import tempfile
from pathlib import Path

import headstart
from headstart.errors import ExportError


def main() -> None:
    """Fit, export, prune, extend; print what each is worth."""
    options = arguments()
    with tempfile.TemporaryDirectory() as scratch:
        out = options.out or Path(scratch)
        data, new, name = put_aside(options, out)
        fitted = headstart.fit(data, out / "run", source=options.source, strategy="frozen", head="ridge")
        print(f"Fitted without {name!r}: {judged(fitted.run['scores']['test'])} of the sealed pictures right.")

        print("\n| model | MB | change in points (95 % interval) | other answers | one picture, ms |")
        print("| --- | --- | --- | --- | --- |")
        for precision in ("fp32", "int8"):
            print(row(f"ONNX {precision}", fitted.folder, precision))
        small = headstart.prune(fitted.folder, speedup=2, epochs=options.epochs)
        for precision in ("fp32", "int8"):
            print(row(f"pruned, ONNX {precision}", small["folder"], precision))
        test, (low, high) = small["test"], small["test"]["change_interval"]
        print(
            f"\nHalf of the multiply-adds: {judged(test['scores'])} right, {test['change_points']:+.1f} points beside "
            f"the whole network (95 % interval {low:+.1f} to {high:+.1f})."
        )

        more = headstart.extend(fitted.folder, new, out=out / "more")
        print(
            f"\nLearned {more['classes']['added'][0]} from {more['new']['pictures']} pictures; no old one was needed."
        )
        answers = headstart.predict(more["folder"], [new])
        known = sum(answer["label"] == name for answer in answers if "error" not in answer)
        print(f"It now calls {known} of {len(answers)} pictures of the new class {name!r}.")


def put_aside(options: argparse.Namespace, out: Path) -> tuple[Path, Path, str]:
    """A copy of the data without one class, the folder of that class's training pictures, and its name."""
    copied = out / "data"
    headstart.subset(options.data, copied, per_class=options.per_class, test=options.test, mode="copy")
    train = copied / "train"
    name = options.new_class or max(folder.name for folder in train.iterdir())
    new = out / "new"
    new.mkdir(parents=True)
    (train / name).rename(new / name)
    for split in copied.iterdir():
        if (split / name).is_dir():
            (split / name).rename(out / f"unseen-{split.name}")
    return copied, new, name


def row(title: str, model: Path | str, precision: str) -> str:
    """Export a model and say what its certificate holds, or why it was refused."""
    try:
        made = headstart.export(model, precision=precision)
    except ExportError as error:
        return f"| {title} | refused: {error.what} | | | |"
    size = sum(entry["bytes"] for entry in made["export"]["files"].values()) / 1e6
    change, (low, high) = made["accuracy"]["change_points"], made["accuracy"]["interval_points"]
    flips, took = len(made["whole"]["flipped"]), made["latency"]["batch_1"]["export_ms"]
    return f"| {title} | {size:.1f} | {change:+.1f} ({low:+.1f} to {high:+.1f}) | {flips} of {made['n']} | {took:.1f} |"


def judged(scores: dict) -> str:
    """An accuracy with its interval."""
    low, high = scores["accuracy_interval"]
    return f"{scores['accuracy']:.4f} ({low:.3f} to {high:.3f})"


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder or manifest with several classes")
    parser.add_argument("--source", default=headstart.Settings().source, help="a pretrained network")
    parser.add_argument("--new-class", help="the class that is put aside; default: the last one")
    parser.add_argument("--per-class", type=int, default=50, help="training pictures of a class, at most")
    parser.add_argument("--test", type=int, default=200, help="sealed test pictures, at most")
    parser.add_argument("--epochs", type=int, help="of training after the cut; default: from the number of pictures")
    parser.add_argument("--out", type=Path, help="keep everything in this folder, which must not be there")
    parser.add_argument("--quick", action="store_true", help="a few pictures, one epoch: only to see that it runs")
    options = parser.parse_args()
    if options.quick:
        options.epochs, options.per_class, options.test = 1, 12, 24
    return options


if __name__ == "__main__":
    main()
