"""What is deployed beside what was trained: exports and pruned networks of frozen runs, on sealed pictures.

    python benchmarks/deployed.py --work WORK [--data hymenoptera ...] [--source ...] [--parts make speed table]

| side | what it is |
| --- | --- |
| torch | `headstart fit DATA --source SOURCE --strategy frozen`, as `headstart.load` opens it |
| onnx fp32, onnx int8 | `headstart export RUN [--precision int8]` |
| pruned 2x, pruned 4x | `headstart prune RUN --speedup 2` and `4`, as `headstart.load` opens them |
| … onnx | the same, exported |

All sides answer for the same sealed pictures, from the file on. `change` is against torch, in percentage points, with
the paired 95 % bootstrap interval. Speed is from decoded pixels to the answer, all sides in turn in one process, with
as many threads as there are cores; torch computes each picture alone, so that an answer depends on no company. MB are
the files that are needed to answer, MACs those of the network in one picture. A refused export gives the reason.
Parts keep what they made in --work. Needs the shared data (HEADSTART_SHARED).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import machine, machine_words, spread
from limits import multiplications

import headstart
from headstart.data import decode
from headstart.data.augment import center_view
from headstart.errors import ExportError
from headstart.judge.calibration import softmax
from headstart.judge.intervals import paired_bootstrap, wilson
from headstart.progress import Plain
from headstart.sealed import read_sealed
from headstart.ship.exported import ExportedModel, open_export
from headstart.ship.model import Model, load

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("HEADSTART_SHARED", ROOT.parent / "shared"))
DATA = ("hymenoptera", "dtd10", "rsscn7")
SOURCES = ("mobilenetv2_035.keras_in1k", "mobilenetv2_100.google_qat_in1k")
SPEEDUPS = (2, 4)
ROUNDS = {1: 15, 32: 5}
NEEDED = (".safetensors", ".onnx")
PARTS = ("make", "speed", "table")

COLUMNS = (
    "side", "accuracy", "change", "other answers", "largest difference", "MB", "M MACs", "1 at a time", "32 at a time"
)  # fmt: skip
INTRODUCTION = """# What is deployed beside what was trained

`python benchmarks/deployed.py --work WORK`. Accuracy on sealed pictures with Wilson's 95 % interval; the change against
torch in points with the paired bootstrap's. Pictures a second from decoded pixels to the answer, least ← median → most,
all sides in turn. MACs are those of the network."""

Side = Model | ExportedModel


def made(run: Path, data: Path, source: Path, *, speedups: Sequence[int] = SPEEDUPS) -> dict[str, Path | str]:
    """The folder of every side by its name, or why there is none; what stands there already is kept."""
    if not (run / "run.json").is_file():
        headstart.fit(data, run, source=str(source), strategy="frozen", reporter=Plain())
    found: dict[str, Path | str] = {"torch": run / "model"}
    found |= exports(run, "")
    for speedup in speedups:
        place = run / "pruned" / f"speedup-{speedup}"
        if not (place / "curve.json").is_file():
            headstart.prune(run, speedup=speedup, out=place, reporter=Plain())
        found[f"pruned {speedup}x"] = place
        found |= exports(place, f"pruned {speedup}x ")
    return found


def exports(place: Path, name: str) -> dict[str, Path | str]:
    """The two exports of a run or model folder, or why one was refused."""
    found: dict[str, Path | str] = {}
    for precision in ("fp32", "int8"):
        folder, refusal = place / "exports" / f"onnx-{precision}", place / f"refused-{precision}.txt"
        if not (folder / "certificate.json").is_file() and not refusal.is_file():
            try:
                headstart.export(place, precision=precision, out=folder, reporter=Plain())
            except ExportError as error:
                refusal.parent.mkdir(parents=True, exist_ok=True)
                refusal.write_text(error.what)
        found[f"{name}onnx {precision}"] = folder if not refusal.is_file() else refusal.read_text()
    return found


def opened(place: Path) -> Side:
    """The model or the export in a folder."""
    return open_export(place) if (place / "certificate.json").is_file() else load(place)


def judged(run: Path, sides: Mapping[str, Path | str]) -> dict[str, dict[str, Any]]:
    """For every side: right answers, the largest difference of a probability from torch, other answers, MB, MACs."""
    sealed, found, first = read_sealed(run), {}, np.empty(0)
    for name, place in sides.items():
        if isinstance(place, str):
            found[name] = {"refused": place}
            continue
        side = opened(place)
        said = softmax(side.answers(sealed.items).logits)
        first = said if name == "torch" else first
        net = side if isinstance(side, Model) else load(place.parent.parent)
        found[name] = {
            "right": (said.argmax(1) == sealed.labels).tolist(),
            "difference": float(np.abs(said - first).max()),
            "other": int((said.argmax(1) != first.argmax(1)).sum()),
            "mb": sum(file.stat().st_size for file in place.iterdir() if file.suffix in (".safetensors", ".onnx"))
            / 1e6,
            "macs": multiplications(net.net.source)[0],
        }
    return found


def timed(run: Path, sides: Mapping[str, Path | str]) -> dict[str, dict[str, list[float]]]:
    """Pictures a second of every side at each batch size, all in turn."""
    torch.set_num_threads(os.cpu_count() or 1)
    calls = {name: call(opened(place)) for name, place in sides.items() if isinstance(place, Path)}
    pixels = decode.load(read_sealed(run).items[0])
    found: dict[str, dict[str, list[float]]] = {name: {str(n): [] for n in ROUNDS} for name in calls}
    for n, rounds in ROUNDS.items():
        stack = np.repeat(pixels[None], n, axis=0)
        for answer in calls.values():
            answer(stack)
        for _ in range(rounds):
            for name, answer in calls.items():
                began = time.perf_counter()
                answer(stack)
                found[name][str(n)].append(n / (time.perf_counter() - began))
    return found


def call(side: Side) -> Callable[[np.ndarray], object]:
    """From pixels uint8 (n, height, width, 3) to the answer."""
    if isinstance(side, ExportedModel):
        return side.outputs
    return lambda stack: side._forward(torch.stack([center_view(picture, side.card) for picture in stack]))


def page(found: Mapping[str, Any]) -> str:
    """The results as Markdown."""
    lines = [INTRODUCTION, ""]
    for case, facts in found["cases"].items():
        right = np.array(facts["judged"]["torch"]["right"])
        lines += [
            f"## {case}, {len(right)} pictures", "",
            "| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS),
        ]  # fmt: skip
        lines += [row(name, side, right, facts.get("speed", {})) for name, side in facts["judged"].items()]
        lines.append("")
    return "\n".join([*lines, machine_words(found["machine"]), ""])


def row(name: str, side: Mapping[str, Any], first: np.ndarray, speed: Mapping[str, Any]) -> str:
    """One line of a table."""
    if "refused" in side:
        return f"| {name} | refused: {side['refused']} | | | | | | | |"
    right = np.array(side["right"])
    low, high = wilson(int(right.sum()), len(right))
    change = paired_bootstrap(right, np.asarray(first))
    rates = [spread(speed[name][str(n)]) if name in speed else "–" for n in ROUNDS]
    cells = [
        name, f"{100 * right.mean():.1f} ({100 * low:.1f} to {100 * high:.1f})",
        "" if name == "torch" else f"{100 * change.value:+.1f} ({100 * change.low:+.1f} to {100 * change.high:+.1f})",
        "" if name == "torch" else str(side["other"]), "" if name == "torch" else f"{side['difference']:.1g}",
        f"{side['mb']:.1f}", f"{side['macs'] / 1e6:.0f}", *rates,
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def summary(found: Mapping[str, Any]) -> str:
    """The median change of each kind of side over all cases, for the screen."""
    kinds: dict[str, list[float]] = {}
    for facts in found["cases"].values():
        first = np.mean(facts["judged"]["torch"]["right"])
        for name, side in facts["judged"].items():
            if "right" in side:
                kinds.setdefault(name, []).append(100 * float(np.mean(side["right"]) - first))
    return "\n".join(
        f"{name:<22} {spread([round(value, 1) for value in values], 'points')}; mean {statistics.mean(values):+.2f}"
        for name, values in kinds.items()
    )


def main() -> None:
    """Make, time, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--data", nargs="+", default=list(DATA))
    parser.add_argument("--source", nargs="+", default=list(SOURCES))
    parser.add_argument("--speedups", nargs="+", type=int, default=list(SPEEDUPS))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "deployed.md")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    store = options.work / "deployed.json"
    found: dict[str, Any] = json.loads(store.read_text()) if store.is_file() else {"cases": {}}
    for data in options.data:
        for source in options.source:
            run, case = options.work / f"{data}-{source.partition('.')[0]}", f"{data}, {source}"
            facts = found["cases"].setdefault(case, {})
            if "make" in options.parts:
                places = SHARED / "data" / data, SHARED / "sources" / source
                sides = made(run, *places, speedups=options.speedups)
                facts["sides"] = {name: [str(place), isinstance(place, Path)] for name, place in sides.items()}
                facts["judged"] = judged(run, sides)
            sides = {name: Path(place) if there else place for name, (place, there) in facts["sides"].items()}
            if "speed" in options.parts:
                facts["speed"] = timed(run, sides)
                found["machine"] = machine()
            store.write_text(json.dumps(found))
            print(case, "done", flush=True)
    if "table" in options.parts:
        options.out.write_text(page(found))
        print(summary(found))


if __name__ == "__main__":
    main()
