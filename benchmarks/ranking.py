"""Whether LogME, the H-score and a probe put sources into the order of their accuracy, on small real data sets.

    python benchmarks/ranking.py [--data hymenoptera ...] [--sources NAME ...] [--size 128]

Half of the images, the classes in proportion, is ranked on; the truth is the accuracy on the other half of a linear
head fitted on the first, as `fit --strategy frozen` fits it. Writes benchmarks/results/ranking.md. Needs the shared
data (HEADSTART_SHARED).
"""

from __future__ import annotations

import argparse
from itertools import combinations
from pathlib import Path

import numpy as np
from similarity import ROOT, SHARED, pool

from headstart.data.audit import audit
from headstart.sources import open_source
from headstart.transfer.features import Pass, embed
from headstart.transfer.heads import fit_head
from headstart.transfer.rank import rank, stratified
from headstart.transfer.similarity import probe

DATA = ("hymenoptera", "hotdog", "rsscn7", "dtd10", "clothing", "cifar10")
SOURCES = ("mobilenetv2_035.keras_in1k", "mobilenetv2_100.google_qat_in1k", "mobilenetv1_100.google_qat_in1k")
MEASURES = ("logme", "h_score", "probe")


def measured(name: str, source: str, size: int) -> dict[str, float]:
    """The measures on the first half and the accuracy on the second."""
    dataset, facts = audit(pool(name))
    y = np.array([item.label for item in dataset.items])
    network = open_source(str(SHARED / "sources" / source), image_size=size)
    X = embed(network, dataset.items, hashes=facts.hashes, how=Pass()).array
    first = stratified(y, len(y) // 2)
    second = np.setdiff1d(np.arange(len(y)), first)
    (row,) = rank({source: X[first]}, y[first])
    k = len(dataset.classes)
    head = fit_head("linear", X[first], y[first], n_classes=k)
    right = head.logits(X[second]).argmax(axis=1) == y[second]
    return {
        "logme": row["logme"], "h_score": row["h_score"], "probe": probe(X[first], y[first], n_classes=k),
        "accuracy": float(right.mean()), "n": len(second),
    }  # fmt: skip


def main() -> None:
    """Measure every pair and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=DATA)
    parser.add_argument("--sources", nargs="+", default=SOURCES)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "ranking.md")
    options = parser.parse_args()
    lines = [
        "| data | source | LogME | H-score | probe | accuracy | on |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    agreed, lost, pairs = dict.fromkeys(MEASURES, 0), dict.fromkeys(MEASURES, 0.0), 0
    chance: list[float] = []
    for name in options.data:
        rows = {source: measured(name, source, options.size) for source in options.sources}
        for source, row in rows.items():
            shown = [f"{row['logme']:.3f}", f"{row['h_score']:.2f}", f"{row['probe']:.3f}", f"{row['accuracy']:.3f}"]
            lines.append("| " + " | ".join([name, source, *shown, f"{row['n']}"]) + " |")
            print(lines[-1], flush=True)
        differing = [(a, b) for a, b in combinations(rows.values(), 2) if a["accuracy"] != b["accuracy"]]
        pairs += len(differing)
        top = max(row["accuracy"] for row in rows.values())
        chance.append(float(np.mean([top - row["accuracy"] for row in rows.values()])))
        for measure in MEASURES:
            agreed[measure] += sum((a[measure] > b[measure]) == (a["accuracy"] > b["accuracy"]) for a, b in differing)
            lost[measure] += 100 * (top - max(rows.values(), key=lambda row: row[measure])["accuracy"])
    sets = len(options.data)
    blind = f"any source {100 * np.mean(chance):.1f}"
    told = ", ".join(f"{name} {agreed[name]}" for name in MEASURES)
    cost = ", ".join([*(f"{name} {lost[name] / sets:.1f}" for name in MEASURES), blind])
    summary = (
        f"At {options.size} px. Of {pairs} pairs of sources in the order of their accuracy: {told}. Points of accuracy "
        f"lost by taking the first, mean over {sets} sets: {cost}."
    )
    text = "\n".join([*lines, "", summary, ""])
    options.out.write_text(text, "utf-8")
    print(text)


if __name__ == "__main__":
    main()
