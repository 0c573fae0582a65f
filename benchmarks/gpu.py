"""The same questions on a GPU: images a second of training and of frozen features, and the share of the bf16 limit.

    python benchmarks/gpu.py --data FOLDER --sources random:resnet50 random:vit_small_patch16_224 --size 224
        [--peer-python PATH] [--timm-train train.py] [--device cuda] [--out results/gpu.md]

Ours is `headstart fit --strategy full` and `frozen` with bf16; the others are the Trainer of Hugging Face transformers
with bf16 and, where its script is given, timm's own train.py with `--amp --amp-dtype bfloat16`. Rates are of training
alone (median epoch); random weights cost what trained ones cost. Wanted: full 1.3 times the better of the two, frozen
bound by decoding alone. With `--device cpu` and small sizes the same code runs without a GPU.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from cases import ours_per_epoch, theirs_per_epoch
from harness import Row, factor_row, machine, machine_words, measure, table
from lab import Lab, Side, both

BATCH = 128


def timm_train(lab: Lab, script: Path, data: Path, name: str, options: argparse.Namespace) -> float:
    """Images a second that timm's train script tells at the end of its epochs."""
    log = lab.scratch / f"timm-{name}.log"
    words = ["--amp", "--amp-dtype", "bfloat16"] if options.device != "cpu" else []
    measure(
        [
            lab.peer_python, script, "--data-dir", data, "--val-split", "val", "--model", name, "--img-size",
            options.size, "--num-classes", sum(1 for place in (data / "train").iterdir() if place.is_dir()),
            "--batch-size", options.batch, "--epochs", options.epochs, "--device", options.device,
            "--log-interval", 1, "--output", lab.scratch / "timm", *words,
        ],
        log=log,
    )  # fmt: skip
    rates = [float(found) for found in re.findall(r"\(\s*([\d.]+)/s\)", log.read_text())]
    if not rates:
        raise RuntimeError(f"{script} told no rate: {log}")
    return rates[-1]


def full_row(lab: Lab, source: str, options: argparse.Namespace, limits: dict[str, Any]) -> list[Row]:
    """Training all layers, against each peer."""
    words = {"size": options.size, "epochs": options.epochs, "batch": options.batch, "device": options.device}
    flags = ["--strategy", "full", "--no-probe-first", "--image-size", options.size, "--epochs", options.epochs]
    flags += ["--patience", options.epochs, "--batch-size", options.batch, "--device", options.device]
    flags += ["--precision", "bf16"] if options.device != "cpu" else []
    found = lab.in_turn({
        "ours": lambda: lab.ours(options.data, source, *flags),
        "hf": lambda: lab.peer("hf_trainer", options.data, source, mode="full", **words),
    })  # fmt: skip
    images = found["hf"][0].record["images"]
    rates = [images / ours_per_epoch(side) for side in found["ours"]]
    most = limits["gflops"]["bf16"] * 1e9 / (6 * limits["macs"])
    limit = f"matrix product bf16 {most:,.0f} images/s, {100 * statistics.median(rates) / most:.0f} %"
    title = f"full, {source} at {options.size} px, training"
    theirs = [images / theirs_per_epoch(side) for side in found["hf"]]
    rows = [
        factor_row(
            title, "Hugging Face Trainer", "images/s", rates, theirs, wanted=(1.3, 1.3), limit=limit,
            **both(found["ours"], found["hf"]),
        )
    ]  # fmt: skip
    if options.timm_train is not None:
        rate = timm_train(lab, options.timm_train, options.data, source.removeprefix("random:"), options)
        rows.append(factor_row(title, "timm's train script", "images/s", rates, [rate], wanted=(1.3, 1.3)))
    return rows


def frozen_row(lab: Lab, source: str, options: argparse.Namespace, limits: dict[str, Any]) -> Row:
    """Frozen features against decoding alone: the GPU should wait for the pictures, not they for it."""
    flags = ["--strategy", "frozen", "--views", 0, "--image-size", options.size, "--device", options.device]
    sides: list[Side] = [lab.ours(options.data, source, *flags) for _ in range(lab.rounds)]
    rates = [side.record["work"]["features_computed"] / side.record["seconds"]["features"] for side in sides]
    part = statistics.median(rates) / limits["decode"]
    return Row(
        f"frozen, {source} at {options.size} px, feature pass", "decoding alone", "images/s", rates,
        [limits["decode"]], got=f"{100 * part:.0f} %", wanted="85 % (95 %)", reached=part >= 0.85,
    )  # fmt: skip


def main() -> None:
    """Measure every source and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train, val and test")
    parser.add_argument("--sources", nargs="+", default=["random:resnet50", "random:vit_small_patch16_224"])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--timm-train", type=Path, default=None)
    parser.add_argument("--peer-python", type=Path, default=Path(sys.executable))
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "results" / "gpu.md")
    options = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="headstart-benchmarks-") as scratch:
        lab = Lab(Path(scratch), shared=Path(), peer_python=options.peer_python, dry=False)
        lab.rounds = options.rounds
        for source in options.sources:
            limits = lab.limits(options.data, source, options.size, device=options.device)
            rows += [*full_row(lab, source, options, limits), frozen_row(lab, source, options, limits)]
        notes = "".join(f"- {note}\n" for note in lab.take_notes())
    text = f"{table([row.as_dict() for row in rows])}\n{notes}- {machine_words(machine())}\n"
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
