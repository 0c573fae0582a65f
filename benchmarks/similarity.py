"""Which cheap measure of similarity predicts what fine-tuning gains over frozen features, on small real data sets.

    python benchmarks/similarity.py [--data hymenoptera ...] [--source NAME] [--size 96] [--seeds 0 1] [--table]

The truth: `headstart compare` of frozen, partial and full, 20 epochs, on new splits by each seed (30 % test, 15 %
validation). A gain is the test accuracy of the better fine-tuning minus that of frozen features, means over the seeds,
in points; the better one is taken on the test items, so that chance alone may give a point. At most 100 images a class
are used, and the measures see all of these images:

probe     cross-validated accuracy of a ridge head on the source's features, over that of the largest class
avoided   the share of a random network's errors that the pretrained one avoids (`transfer.similarity`)
moments   exp(-KL) of the images' moments from the running statistics at the source's BatchNorm layers
entropy   1 - entropy of the source's own classes / its largest value; only where the source has its classifier

Results are added to benchmarks/results/similarity.json and shown in similarity.md beside it; --table only writes that
anew. Needs the shared data (HEADSTART_SHARED).
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import kendalltau
from torch import Tensor, nn

import headstart
from headstart.data.audit import audit
from headstart.data.augment import normalise
from headstart.data.facts import load_data
from headstart.data.loader import Views, batches
from headstart.records import Dataset, Item
from headstart.sources import open_source
from headstart.sources.base import Source, evaluating
from headstart.transfer.features import Pass, embed
from headstart.transfer.similarity import SIMILAR, avoided, similarity

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("HEADSTART_SHARED", ROOT.parent / "shared"))
RESULTS = ROOT / "benchmarks" / "results" / "similarity.json"
DATA = ("hymenoptera", "hotdog", "rsscn7", "dtd10", "clothing", "cifar10", "tiny10", "digits", "spoken")
WHAT = {
    "hymenoptera": "ants and bees", "hotdog": "hot dogs and other food", "rsscn7": "satellite scenes",
    "dtd10": "textures", "clothing": "clothes", "cifar10": "32 px photographs", "tiny10": "64 px photographs",
    "digits": "handwritten digits, 8 px", "spoken": "spectrograms of spoken digits",
}  # fmt: skip
MEASURES = ("avoided", "probe", "moments", "entropy")
MOST = 100  # images a class
DRAWN = {"hflip": False, "crop_scale": 0.7}  # signs do not survive being mirrored or cut
STRATEGIES = ("frozen", "partial", "full")


# --- data -------------------------------------------------------------------------------------------------------


def pool(name: str) -> Dataset:
    """The images of a data set without splits, at most `MOST` a class but for the two small sets."""
    special: dict[str, Callable[[], Dataset]] = {"digits": digits, "spoken": spoken, "tiny10": tiny}
    found = special[name]() if name in special else load_data(SHARED / "data" / name)
    items = [replace(item, split="") for item in found.items]
    if name not in ("hymenoptera", "hotdog"):
        rng, kept = np.random.default_rng(0), list[Item]()
        for label in range(len(found.classes)):
            mine = [item for item in items if item.label == label]
            kept += [mine[n] for n in sorted(rng.permutation(len(mine))[:MOST])]
        items = kept
    return Dataset(name, found.classes, tuple(sorted(items, key=lambda item: item.name)))


def digits() -> Dataset:
    """Handwritten digits that come with scikit-learn, eight times as large."""
    from sklearn.datasets import load_digits

    found = load_digits()
    pictures = [np.kron(image * 255 / 16, np.ones((8, 8))).astype(np.uint8) for image in found.images]
    return load_data((pictures, [str(label) for label in found.target]))


def spoken() -> Dataset:
    """Spoken digits as pictures: logarithmic spectrograms, low tones at the bottom."""
    from scipy.io import wavfile
    from scipy.signal import spectrogram

    pictures, labels = [], []
    for place in sorted((SHARED / "data" / "fsdd").glob("*/*/*.wav")):
        rate, sound = wavfile.read(place)
        padded = np.pad(sound.astype(float), (0, max(0, 400 - len(sound))))
        power = np.log(spectrogram(padded, rate, nperseg=256, noverlap=192)[2] + 1e-3)[::-1]
        pictures.append((255 * (power - power.min()) / (np.ptp(power) + 1e-9)).astype(np.uint8))
        labels.append(place.parent.name)
    return load_data((pictures, labels))


def tiny() -> Dataset:
    """Every twentieth class of Tiny ImageNet."""
    found = load_data(SHARED / "data" / "tiny_imagenet")
    kept = range(0, 200, 20)
    items = tuple(replace(i, label=kept.index(i.label)) for i in found.items if i.label in kept)
    return found.with_items(items, classes=tuple(found.classes[n] for n in kept))


# --- truth ------------------------------------------------------------------------------------------------------


def truth(name: str, source: Path, size: int, seed: int) -> dict[str, Any]:
    """Test accuracy of each strategy on one new split."""
    run = headstart.compare(
        pool(name), None, strategies=STRATEGIES, source=str(source), image_size=size, epochs=20, patience=20,
        test_fraction=0.3, val_fraction=0.15, seed=seed, **(DRAWN if name in ("digits", "spoken") else {}),
    ).run  # fmt: skip
    accuracy = {row["strategy"]: row["test"]["accuracy"] for row in run["race"]}
    return {"seed": seed, "n": run["race"][0]["test"]["n"], "accuracy": accuracy}


# --- measures ---------------------------------------------------------------------------------------------------


def measures(name: str, place: Path, size: int) -> dict[str, Any]:
    """Every measure on all images of a data set."""
    dataset, facts = audit(pool(name))
    source = open_source(str(place), image_size=size)
    y = np.array([item.label for item in dataset.items])
    good, poor = (
        embed(network, dataset.items, hashes=facts.hashes, how=Pass()).array for network in (source, source.fresh(0))
    )
    found = similarity(good, poor, y, n_classes=len(dataset.classes))
    order = np.random.default_rng(0).permutation(len(y))[:128]
    return {
        "items": len(y),
        "classes": len(dataset.classes),
        "pretrained": found["pretrained"],
        "random": found["random"],
        "avoided": found["value"],
        "probe": avoided(found["pretrained"], found["majority"]),
        "moments": moments(source, [dataset.items[n] for n in order], facts.hashes),
        "entropy": certainty(place, good),
    }


def moments(source: Source, items: list[Item], hashes: Any) -> float | None:
    """exp(-d), where d is the mean over layers of the median over channels of KL(images, running statistics)."""
    norms = {n: part for n, part in source.network.named_modules() if isinstance(part, nn.BatchNorm2d)}
    if not norms:
        return None
    sums: dict[str, list[Any]] = {name: [0, 0.0, 0.0] for name in norms}

    def adding(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def add(_norm: nn.Module, given: tuple[Tensor, ...]) -> None:
            x = given[0].double()
            found = (x.numel() // x.shape[1], x.sum((0, 2, 3)), x.square().sum((0, 2, 3)))
            sums[name] = [before + more for before, more in zip(sums[name], found, strict=True)]

        return add

    hooks = [part.register_forward_pre_hook(adding(name)) for name, part in norms.items()]
    views = Views(items, source.card, hashes=[hashes[item.name] for item in items])
    with evaluating(source), torch.no_grad():
        for batch in batches(views, np.array_split(np.arange(len(items)), 4), workers=0):
            source(normalise(batch.images, source.card))
    for hook in hooks:
        hook.remove()
    distances = []
    for name, part in norms.items():
        count, total, square = sums[name]
        assert isinstance(part.running_mean, Tensor)
        assert isinstance(part.running_var, Tensor)
        mean, variance = total / count, (square / count - (total / count) ** 2).clamp(min=0)
        old, spread = part.running_mean.double(), part.running_var.double()
        used = spread > 1e-6 * spread.max()  # a channel that never varied says nothing
        variance = variance[used] + 1e-6 * spread[used]
        shift = (mean[used] - old[used]) ** 2
        kl = ((variance + shift) / spread[used] - 1 - torch.log(variance / spread[used])) / 2
        distances.append(float(kl.median()))
    return float(np.exp(-np.mean(distances)))


def certainty(place: Path, rows: np.ndarray) -> float | None:
    """1 - mean entropy of the source's own classes by its largest value; None without a classifier."""
    from safetensors.numpy import load_file

    state = load_file(place / "model.safetensors")
    if "classifier.weight" not in state:
        return None
    weight = state["classifier.weight"].astype(np.float64)
    logits = rows @ weight.reshape(len(weight), -1).T + state["classifier.bias"]
    logits -= logits.max(axis=1, keepdims=True)
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return float(1 + (chances * np.log(chances + 1e-30)).sum(axis=1).mean() / np.log(len(weight)))


# --- the table --------------------------------------------------------------------------------------------------


def gain(row: dict[str, Any]) -> float:
    """Test accuracy of the better fine-tuning minus that of frozen features, in points."""
    frozen, *tuned = (np.mean([one["accuracy"][name] for one in row["truth"]]) for name in STRATEGIES)
    return 100 * float(max(tuned) - frozen)


def table(known: list[dict[str, Any]]) -> str:
    """Markdown: a table for each source and size, and how well each measure orders the gains."""
    parts = []
    for source, size in sorted({(row["source"], row["size"]) for row in known}):
        rows = [row for row in known if (row["source"], row["size"]) == (source, size) and row["truth"]]
        rows.sort(key=lambda row: -row["avoided"])
        seeds = max(len(row["truth"]) for row in rows)
        parts += [
            f"## {source}, {size} px, {seeds} split{'s' if seeds > 1 else ''}",
            "",
            "| data | what | images | frozen | partial | full | gain, points | avoided | probe | moments | entropy |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        for row in rows:
            means = [np.mean([t["accuracy"][s] for t in row["truth"]]) for s in STRATEGIES]
            shown = ["-" if row[name] is None else f"{row[name]:.2f}" for name in MEASURES]
            cells = [row["data"], WHAT[row["data"]], str(row["items"]), *(f"{mean:.3f}" for mean in means)]
            parts.append("| " + " | ".join([*cells, f"{gain(row):+.1f}", *shown]) + " |")
        parts += ["", orders(rows), ""]
    return "\n".join(parts)


def orders(rows: list[dict[str, Any]]) -> str:
    """How well each measure orders the data sets by gain: Kendall's tau, 1 where less similar always gains more."""
    gains, told = [gain(row) for row in rows], []
    for name in MEASURES:
        values = [row[name] for row in rows]
        if len(rows) > 2 and None not in values:
            told.append(f"{name} {kendalltau([-value for value in values], gains).statistic:+.2f}")
    sides = [
        [value for row, value in zip(rows, gains, strict=True) if (row["avoided"] >= SIMILAR) == above]
        for above in (True, False)
    ]
    words = [f"{np.mean(side):+.1f} points over {len(side)} sets" if side else "no set" for side in sides]
    return (
        f"Kendall's tau between a measure (reversed) and the gain: {', '.join(told)}. Mean gain from `avoided` "
        f"{SIMILAR} on: {words[0]}; below: {words[1]}."
    )


def main() -> None:
    """Measure what is not known yet, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=DATA, choices=DATA)
    parser.add_argument("--source", default="mobilenetv2_035.keras_in1k")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1))
    parser.add_argument("--table", action="store_true", help="write the table of what is known, and measure nothing")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    known: list[dict[str, Any]] = json.loads(options.out.read_text("utf-8")) if options.out.exists() else []
    for name in () if options.table else options.data:
        place, key = SHARED / "sources" / options.source, (name, options.source, options.size)
        row = next((row for row in known if (row["data"], row["source"], row["size"]) == key), None)
        if row is None:
            row = {"data": name, "source": options.source, "size": options.size, "truth": []}
            known.append(row)
        row.update(measures(name, place, options.size))
        for seed in options.seeds:
            if seed not in [one["seed"] for one in row["truth"]]:
                row["truth"].append(truth(name, place, options.size, seed))
                print(name, row["truth"][-1], flush=True)
            options.out.write_text(json.dumps(known, indent=1) + "\n", "utf-8")
    options.out.with_suffix(".md").write_text(table(known), "utf-8")
    print(table(known))


if __name__ == "__main__":
    main()
