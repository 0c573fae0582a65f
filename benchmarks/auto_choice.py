"""The automatic choice beside every fixed one, on real data sets: accuracy on the same sealed test images.

    python benchmarks/auto_choice.py --work WORK [--data hymenoptera ...] [--parts probe fixed loop auto forecast]
    python benchmarks/auto_choice.py --work WORK --parts budgets      # 1, 3 and 10 minutes on 10,000 images
    python benchmarks/auto_choice.py --work WORK --parts table        # from what earlier calls measured

| side | what it is |
| --- | --- |
| auto | `headstart fit DATA --source A,B,C --budget 5m`, nothing else |
| frozen, partial, discriminative, full | `headstart fit --strategy ...` with the best single source |
| plain probe | timm's features, StandardScaler + LogisticRegression, C by cross-validation, best single source |
| tutorial loop | benchmarks/peers/tutorial.py, 5 epochs, classifier alone and all layers, best single source |

The best single source is the one whose plain probe has the best cross-validated accuracy. All sides read the same
folder of train, val and test, which `data.splits.seal` divided; nobody looks at the test images before the end.
`regret` is the accuracy of the best side less that of auto: the best of several is lucky, too, so it flatters them.
`without luck` takes the best side of one half of the test images and its lead over auto on the other half, the mean of
1,000 divisions: what one who knew which side is best would have gained.
Parts keep what they measured in --work, so that they can be run one after the other. Needs the shared data
(HEADSTART_SHARED). Timings on a busy machine change what auto has time for.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import headstart
from headstart.data import decode
from headstart.data.audit import audit
from headstart.data.read import read
from headstart.data.splits import seal
from headstart.judge.intervals import mcnemar, wilson

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("HEADSTART_SHARED", ROOT.parent / "shared"))
DATA = ("hymenoptera", "hotdog", "rsscn7", "dtd10", "clothing", "cifar10")
SOURCES = ("mobilenetv2_035.keras_in1k", "mobilenetv2_100.google_qat_in1k", "mobilenetv1_100.google_qat_in1k")
STRATEGIES = ("frozen", "partial", "discriminative", "full")
SIZES = {"cifar10": 96}  # pictures of 32 pixels: their features at 224 say little more, at five times the price
PARTS = ("probe", "fixed", "loop", "loop-full", "auto", "forecast", "budgets", "table")


class Store:
    """What was measured so far: a JSON file that grows."""

    def __init__(self, work: Path) -> None:
        self.work, self.file = work, work / "measured.json"
        work.mkdir(parents=True, exist_ok=True)
        self.found: dict[str, dict[str, Any]] = json.loads(self.file.read_text()) if self.file.is_file() else {}

    def has(self, name: str, side: str) -> bool:
        return side in self.found.get(name, {})

    def put(self, name: str, side: str, facts: dict[str, Any]) -> None:
        self.found.setdefault(name, {})[side] = facts
        self.file.write_text(json.dumps(self.found))
        shown = {key: value for key, value in facts.items() if key not in ("right", "race")}
        print(f"{name} · {side}: {shown}", flush=True)


def exported(name: str, work: Path) -> Path:
    """The data set as SPLIT/CLASS/FILE with a sealed test split; of CIFAR-10 2,000 + 1,000 images."""
    place = work / "data" / name
    if place.is_dir():
        return place
    origin = SHARED / "data" / name
    if name == "cifar10":
        origin = work / "small"
        headstart.subset(SHARED / "data" / name, origin, per_class=200, test=1000, mode="copy")
    dataset, facts = audit(read(origin))
    dataset = seal(dataset, facts.hashes, val_fraction=0.2, test_fraction=0.2, seed=0)
    for number, item in enumerate(dataset.items):
        data = decode.read_bytes(item)
        folder = place / item.split / dataset.classes[int(item.label or 0)]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:05d}{'.png' if data.startswith(b'PNG', 1) else '.jpg'}").write_bytes(data)
    return place


def source(name: str) -> str:
    """The address of a shared source."""
    return str(SHARED / "sources" / name)


# --- the sides -------------------------------------------------------------------------------------------------


def fit(store: Store, name: str, side: str, *options: str) -> None:
    """One `headstart fit` as a process; its answers on the test images by file."""
    run = store.work / "runs" / name / side
    size = ["--image-size", str(SIZES[name])] if name in SIZES else []
    data = exported(name, store.work)
    words = ["fit", str(data), "--out", str(run), "--overwrite", "--quiet", *size, *options]
    home = {"HEADSTART_HOME": str(store.work / "home" / side)} if side == "auto" else {}
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "headstart", *words], check=True, env={**os.environ, **home})
    seconds = time.perf_counter() - started
    record = json.loads((run / "run.json").read_text())
    with (run / "predictions.csv").open(newline="") as stream:
        right = {Path(row["file"]).name: row["label"] == row["predicted"] for row in csv.DictReader(stream)}
    facts = {"right": right, "seconds": round(seconds, 1), "plan": _plan_words(record)}
    if side == "auto":
        facts |= {
            "scratch": ((record["baselines"].get("scratch") or {}).get("accuracy")),
            "stopped": record["budget"]["stopped"],
            "race": record["race"],
        }
    store.put(name, side, facts)


def _plan_words(record: dict[str, Any]) -> str:
    plan = record["plan"]
    cut = f" from {plan['cut']}" if plan["strategy"] == "partial" else ""
    return f"{plan['strategy']}{cut}, {plan['head']}, {Path(record['source']['address']).name}"


def probes(store: Store, name: str) -> None:
    """The plain probe with every source."""
    for one in SOURCES:
        if not store.has(name, f"probe {one}"):
            store.put(name, f"probe {one}", plain_probe(exported(name, store.work), source(one), SIZES.get(name)))


def plain_probe(data: Path, address: str, size: int | None) -> dict[str, Any]:
    """timm's features and evaluation transform, then scikit-learn."""
    import timm
    import torch
    from PIL import Image
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from torchvision.datasets import ImageFolder

    started = time.perf_counter()
    network = timm.create_model(f"local-dir:{address}", pretrained=True, num_classes=0).eval()
    config = timm.data.resolve_model_data_config(network)
    if size is not None:
        config["input_size"] = (3, size, size)
    transform = timm.data.create_transform(**config, is_training=False)

    def part(*splits: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
        rows, labels, names = [], [], []
        for split in splits:
            files = ImageFolder(data / split).samples
            for start in range(0, len(files), 32):
                some = files[start : start + 32]
                with torch.inference_mode():
                    batch = [transform(Image.open(path).convert("RGB")) for path, _ in some]
                    rows.append(network(torch.stack(batch)).numpy())
                labels += [label for _, label in some]
                names += [Path(path).name for path, _ in some]
        return np.concatenate(rows), np.array(labels), names

    X, y, _ = part("train", "val")
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    search = GridSearchCV(pipeline, {"logisticregression__C": 10.0 ** np.arange(-4, 3)}, cv=5, n_jobs=1).fit(X, y)
    X_test, y_test, names = part("test")
    right = dict(zip(names, (search.predict(X_test) == y_test).tolist(), strict=True))
    seconds = round(time.perf_counter() - started, 1)
    return {"right": right, "cross_validated": float(search.best_score_), "seconds": seconds}


def best_source(store: Store, name: str) -> str:
    """The source whose plain probe is best in cross-validation."""
    probes(store, name)
    return max(SOURCES, key=lambda one: store.found[name][f"probe {one}"]["cross_validated"])


def loop(store: Store, name: str, mode: str) -> None:
    """The tutorial loop."""
    out = store.work / f"{name}-{mode}.json"
    words = ["--data", exported(name, store.work), "--source", source(best_source(store, name)), "--mode", mode]
    words += ["--size", SIZES.get(name, 224), "--epochs", 5, "--out", out]
    script = ROOT / "benchmarks" / "peers" / "tutorial.py"
    started = time.perf_counter()
    subprocess.run([sys.executable, str(script), *map(str, words)], check=True, stdout=subprocess.DEVNULL)
    seconds = round(time.perf_counter() - started, 1)
    store.put(name, f"loop {mode}", {"right": json.loads(out.read_text())["test_right"], "seconds": seconds})


def forecast(store: Store, name: str) -> None:
    """A forecast from half of the training images, against the score with all of them, on the same test images."""
    data = exported(name, store.work)
    half = store.work / "half" / name
    if not half.is_dir():
        _halve(data, half)
    address, found = source(best_source(store, name)), {}
    for side, place in (("half", half), ("all", data)):
        run = store.work / "runs" / name / f"forecast-{side}"
        size = {"image_size": SIZES[name]} if name in SIZES else {}
        found[side] = headstart.fit(place, run, source=address, strategy="frozen", overwrite=True, **size).run
    n = sum(found["all"]["data"]["splits"][split]["n"] for split in ("train", "val"))
    told = found["half"]["forecast"]
    point = next((row for row in told["band"] if row["n"] >= n), told["band"][-1])
    store.put(
        name, "forecast",
        {"from": sum(found["half"]["data"]["splits"][s]["n"] for s in ("train", "val")), "to": n, "at": point,
         "measured": found["all"]["scores"]["test"]["accuracy"],
         "interval": found["all"]["scores"]["test"]["accuracy_interval"], "sentence": told["sentence"]},
    )  # fmt: skip


def _halve(data: Path, target: Path) -> None:
    """Every second training and validation image of each class, and all test images, as links."""
    for split in ("train", "val", "test"):
        for folder in sorted((data / split).iterdir()):
            (target / split / folder.name).mkdir(parents=True)
            for file in sorted(folder.iterdir())[:: 1 if split == "test" else 2]:
                (target / split / folder.name / file.name).symlink_to(file.resolve())


def budgets(store: Store, minutes: list[str]) -> None:
    """How long an automatic run takes on 10,000 training images of CIFAR-10, and what it chose."""
    for budget in minutes:
        run = store.work / "runs" / f"budget-{budget}"
        home = {"HEADSTART_HOME": str(store.work / "home" / f"budget-{budget}")}
        words = ["fit", str(SHARED / "data" / "cifar10"), "--source", ",".join(map(source, SOURCES))]
        words += ["--budget", budget, "--out", str(run), "--overwrite", "--quiet"]
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "headstart", *words], check=True, env={**os.environ, **home})
        seconds = time.perf_counter() - started
        record = json.loads((run / "run.json").read_text())
        test = record["scores"]["test"]
        store.put(
            "budgets", budget,
            {"seconds": round(seconds, 1), "plan": _plan_words(record), "n": record["data"]["splits"]["train"]["n"],
             "accuracy": test["accuracy"], "interval": test["accuracy_interval"],
             "stopped": record["budget"]["stopped"]},
        )  # fmt: skip


# --- the table ---------------------------------------------------------------------------------------------------


def sides(found: dict[str, Any]) -> dict[str, dict[str, bool]]:
    """Answers by side, the plain probe with its best single source."""
    named = {side: facts["right"] for side, facts in found.items() if "right" in facts}
    probe = max((s for s in found if s.startswith("probe ")), key=lambda s: found[s]["cross_validated"], default=None)
    rest = {side: right for side, right in named.items() if not side.startswith("probe ")}
    return {**rest, "probe": named[probe]} if probe else rest


def without_luck(tables: dict[str, np.ndarray], *, seed: int = 0, divisions: int = 1000) -> float:
    """The lead over auto, in points, of the side that is best on one half of the images, on the other half."""
    names = sorted(tables)
    right, auto = np.stack([tables[name] for name in names]).astype(float), names.index("auto")
    rng, leads = np.random.default_rng(seed), []
    for _ in range(divisions):
        order = rng.permutation(right.shape[1])
        one, other = right[:, order[: len(order) // 2]].mean(axis=1), right[:, order[len(order) // 2 :]].mean(axis=1)
        best = np.flatnonzero(one == one.max())  # ties: their mean
        leads.append(float(other[best].mean() - other[auto]))
    return 100 * float(np.mean(leads))


def table(store: Store) -> list[str]:
    """The results as Markdown."""
    columns = ["auto", *STRATEGIES, "probe", "loop frozen", "loop full"]
    lines = [
        "| data | test | " + " | ".join(columns) + " | regret | p against the best | without luck |",
        "|---" * (len(columns) + 5) + "|",
    ]
    regrets, leads = [], []
    for name in DATA:
        found = store.found.get(name, {})
        answers = sides(found)
        if "auto" not in answers:
            continue
        files = sorted(answers["auto"])
        tables = {side: np.array([right[file] for file in files]) for side, right in answers.items()}
        shown = [f"{100 * tables[side].mean():.1f}" if side in tables else "–" for side in columns]
        best = max(tables, key=lambda side: tables[side].mean())
        regret = 100 * float(tables[best].mean() - tables["auto"].mean())
        p = mcnemar(tables["auto"], tables[best])
        low, high = wilson(int(tables["auto"].sum()), len(files))
        shown[0] = f"**{shown[0]}** ({100 * low:.1f} to {100 * high:.1f})"
        regrets.append(regret)
        leads.append(without_luck(tables))
        ends = f" | {regret:.1f} ({best}) | {p:.2f} | {leads[-1]:+.1f} |"
        lines.append(f"| {name} | {len(files)} | " + " | ".join(shown) + ends)
    if regrets:
        means = f"{np.mean(regrets):.2f} points over {len(regrets)} sets, without luck {np.mean(leads):+.2f}"
        lines += ["", f"Mean regret {means}."]
    lines += ["", "| data | auto chose | seconds | scratch | not tried, and why |", "|---|---|---|---|---|"]
    for name in DATA:
        if (auto := store.found.get(name, {}).get("auto")) is not None:
            scratch = "–" if auto["scratch"] is None else f"{100 * auto['scratch']:.1f}"
            stopped = "; ".join(auto["stopped"]).replace(str(SHARED / "sources") + "/", "")
            lines.append(f"| {name} | {auto['plan']} | {auto['seconds']:.0f} | {scratch} | {stopped} |")
    lines += ["", "| budget | took | training images | accuracy | chose |", "|---|---|---|---|---|"]
    for budget, row in store.found.get("budgets", {}).items():
        low, high = (100 * bound for bound in row["interval"])
        accuracy = f"{100 * row['accuracy']:.1f} ({low:.1f} to {high:.1f})"
        lines.append(f"| {budget} | {row['seconds']:.0f} s | {row['n']:,} | {accuracy} | {row['plan']} |")
    lines += ["", "| data | forecast from | for | accuracy forecast | measured | inside |", "|---|---|---|---|---|---|"]
    for name in DATA:
        if (row := store.found.get(name, {}).get("forecast")) is not None:
            at, measured = row["at"], row["measured"]
            inside = "yes" if at["low"] <= measured <= at["high"] else "no"
            told = f"{100 * at['accuracy']:.1f} ({100 * at['low']:.1f} to {100 * at['high']:.1f})"
            lines.append(f"| {name} | {row['from']} | {row['to']} | {told} | {100 * measured:.1f} | {inside} |")
    return lines


def main() -> None:
    """Measure what is asked for, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=DATA, choices=DATA)
    parser.add_argument("--parts", nargs="+", default=PARTS[:6], choices=PARTS)
    parser.add_argument("--strategies", nargs="+", default=STRATEGIES, choices=STRATEGIES, help="of the part fixed")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--budgets", nargs="+", default=["1m", "3m", "10m"])
    parser.add_argument("--again", action="store_true", help="measure what was measured before")
    parser.add_argument("--work", type=Path, required=True, help="folder for data, runs and what was measured")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "auto_choice.md")
    options = parser.parse_args()
    store = Store(options.work)
    for name in options.data:
        if "probe" in options.parts:
            probes(store, name)
        for strategy in options.strategies if "fixed" in options.parts else ():
            if options.again or not store.has(name, strategy):
                fit(store, name, strategy, "--strategy", strategy, "--source", source(best_source(store, name)))
        for part, mode in (("loop", "frozen"), ("loop-full", "full")):
            if part in options.parts and (options.again or not store.has(name, f"loop {mode}")):
                loop(store, name, mode)
        if "auto" in options.parts and (options.again or not store.has(name, "auto")):
            fit(store, name, "auto", "--source", ",".join(map(source, SOURCES)), "--budget", f"{options.minutes:g}m")
        if "forecast" in options.parts:
            forecast(store, name)
    if "budgets" in options.parts:
        budgets(store, options.budgets)
    words = " ".join(sys.argv[1:]).replace(str(options.work), "WORK")
    lines = [
        "# The automatic choice",
        "",
        f"`python benchmarks/auto_choice.py {words}`, 2 cores.",
        "",
        *table(store),
        "",
    ]
    options.out.write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
