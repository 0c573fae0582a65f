"""Records of made-up runs: the smallest, a full one, one with many classes, and one with hostile names."""

from __future__ import annotations

import io
import math
import random
from typing import Any

from PIL import Image

from headstart.report import Picture

HOSTILE = (
    "<script>document.title='run'</script><img src=x onerror=\"document.title='run'\">.jpg",
    "\u202egpj.exe\u2069 שלום عربى.jpg",
    "two\nlines\tand a \x00 zero.jpg",
    "n" * 240 + ".jpg",
    "broken\udcff\udc80bytes\ud800.jpg",
    "'\"><svg onload=alert(1)>{{ 7 * 7 }}{% raw %}",
    "漢字" * 60,
)


def jpeg(colour: tuple[int, int, int], side: int = 48) -> bytes:
    """A small picture with a gradient from one colour to black."""
    image = Image.linear_gradient("L").resize((side, side))
    stream = io.BytesIO()
    Image.merge("RGB", [image.point(lambda v, c=c: v * c // 255) for c in colour]).save(stream, "JPEG")
    return stream.getvalue()


def _map() -> bytes:
    """A transparent PNG, as the map of where a model looked."""
    stream = io.BytesIO()
    Image.merge("LA", [Image.linear_gradient("L").resize((16, 16))] * 2).save(stream, "PNG")
    return stream.getvalue()


MAP = _map()


def pictures(names: list[str], classes: list[str]) -> dict[str, list[Picture]]:
    """A sample and errors with these names."""
    paint = random.Random(0)
    made = [
        (name, jpeg((paint.randrange(256), paint.randrange(256), paint.randrange(256))), classes[i % len(classes)])
        for i, name in enumerate(names)
    ]
    sample = [Picture(name, data, label) for name, data, label in made]
    wrong = [
        Picture(name, data, label, predicted=classes[(i + 1) % len(classes)], probability=0.98 - i / 50, map=MAP)
        for i, (name, data, label) in enumerate(made)
    ]
    return {"sample": sample, "errors": wrong}


def wilson(share: float, n: int) -> list[float]:
    """A 95 % interval, good enough for a made-up run."""
    z = 1.96
    middle = (share + z * z / 2 / n) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / 4 / n / n)
    return [middle - half, middle + half]


def scores(share: float, per_class: dict[str, int], seed: int = 0) -> dict[str, Any]:
    """Scores with a confusion matrix that adds up."""
    draw = random.Random(seed)
    names = list(per_class)
    confusion = [[0] * len(names) for _ in names]
    for i, n in enumerate(per_class.values()):
        for _ in range(n):
            wrong = (i + draw.choice((1, 1, 1, 2, 5))) % len(names)
            confusion[i][i if draw.random() < share else wrong] += 1
    n, right = sum(per_class.values()), sum(confusion[i][i] for i in range(len(names)))
    rows = {}
    for i, name in enumerate(names):
        recall = confusion[i][i] / max(sum(confusion[i]), 1)
        precision = confusion[i][i] / max(sum(row[i] for row in confusion), 1)
        f1 = 2 * precision * recall / max(precision + recall, 1e-9)
        rows[name] = {"n": per_class[name], "precision": precision, "recall": recall, "f1": f1}
    accuracy = right / n
    return {
        "n": n,
        "accuracy": accuracy,
        "accuracy_interval": wilson(accuracy, n),
        "balanced_accuracy": accuracy - 0.004,
        "macro_f1": accuracy - 0.006,
        "log_loss": 0.11,
        "calibration_error": 0.021,
        "per_class": rows,
        "confusion": confusion,
        "top5_accuracy": min(accuracy + 0.05, 1.0) if len(names) > 5 else None,
    }


def race() -> list[dict[str, Any]]:
    """Four strategies, one of which failed."""
    rows: list[dict[str, Any]] = []
    for strategy, head, share, seconds in (
        ("frozen", "linear", 0.954, 41.2),
        ("partial", "linear", 0.967, 312.0),
        ("scratch", "linear", 0.69, 1204.0),
    ):
        rows.append(
            {
                "strategy": strategy,
                "head": head,
                "source": "timm:resnet18.a1_in1k",
                "seconds": seconds,
                "trained_parameters": {"frozen": 1026, "partial": 8_394_754, "scratch": 11_177_538}[strategy],
                "val": {"accuracy": share - 0.01, "accuracy_interval": wilson(share - 0.01, 244), "n": 244},
                "test": {"accuracy": share, "accuracy_interval": wilson(share, 153), "n": 153},
                "train_accuracy": 0.99,
                "gap": 0.99 - share,
                "finalist": strategy != "scratch",
                "verdict": {"frozen": "neither", "partial": "neither", "scratch": "overfits"}[strategy],
            }
        )
    rows.append({"strategy": "full", "head": "linear", "error": "the loss became NaN in epoch 2"})
    return rows


def full() -> dict[str, Any]:
    """A record with every part."""
    train, val, test = {"ants": 94, "bees": 91}, {"ants": 30, "bees": 30}, {"ants": 70, "bees": 83}
    return {
        "schema": 1,
        "headstart": "0.1.0",
        "seed": 0,
        "command": ["headstart", "fit", "ants and bees", "--out", "run"],
        "settings": {
            "data": "ants and bees",
            "strategy": "auto",
            "epochs": 12,
            "batch_size": 32,
            "lr": None,
            "mixup": 0.0,
        },
        "data": {
            "path": "ants and bees",
            "classes": ["ants", "bees"],
            "splits": {
                name: {"n": sum(c.values()), "per_class": c}
                for name, c in zip(("train", "val", "test"), (train, val, test), strict=True)
            },
            "skipped": [
                {"file": "train/ants/imageNotFound.gif", "reason": "a placeholder, not a picture"},
                {"file": "train/bees/empty.jpg", "reason": "empty file"},
            ],
            "suspicious": [{"file": "train/bees/grey.jpg", "reason": "one colour"}],
            "duplicates": [["train/ants/a.jpg", "train/ants/b.jpg"], ["train/bees/c.jpg", "val/bees/d.jpg"]],
            "leaks": [["train/bees/c.jpg", "val/bees/d.jpg"]],
            "contradictions": [["train/ants/e.jpg", "train/bees/f.jpg"]],
            "sizes": {
                "width": {"min": 75, "median": 500, "max": 2848},
                "height": {"min": 71, "median": 375, "max": 2136},
                "modes": {"RGB": 395, "L": 2},
                "formats": {"JPEG": 396, "PNG": 1},
            },
            "imbalance": 1.03,
            "warnings": ["Class bees has 12 pictures smaller than 100 pixels"],
            "notes": ["The folder val became the sealed test set; choices are made by cross-validation inside train."],
        },
        "source": {
            "address": "timm:resnet18.a1_in1k",
            "architecture": "resnet18",
            "parameters": 11_689_512,
            "sha256": "3b1f" * 16,
            "input_size": [3, 224, 224],
            "licence": "apache-2.0",
            "origin": "https://example.org/resnet18",
        },
        "plan": {
            "strategy": "partial",
            "start": "pretrained",
            "cut": "layer4",
            "head": "linear",
            "pooling": "avg",
            "epochs": 12,
            "rates": {"layer4": 0.0003, "head": 0.003},
            "schedule": {"optimizer": "adamw", "weight_decay": 0.05, "warmup": 0.1},
            "reasons": [
                "Few images a class (92): a small head is safer than training everything.",
                "The race's two best did not differ by more than chance; the cheaper one was taken.",
            ],
            "trained_parameters": 8_394_754,
            "chosen": {"strength": 0.01, "temperature": 1.31},
        },
        "scores": {"train": scores(0.99, train, 1), "val": scores(0.95, val, 2), "test": scores(0.967, test, 3)},
        "baselines": {
            "majority": {"accuracy": 0.542, "accuracy_interval": wilson(0.542, 153), "class": "bees"},
            "scratch": {"accuracy": 0.69, "accuracy_interval": wilson(0.69, 153)},
        },
        "gain_over_scratch": {"points": 0.277, "interval": [0.204, 0.349]},
        "race": race(),
        "curves": {
            "axis": "epochs",
            "points": [
                {
                    "x": e,
                    "train_loss": 0.69 * 0.75**e,
                    "val_loss": 0.7 * 0.8**e + 0.1,
                    "train_accuracy": 1 - 0.45 * 0.7**e,
                    "val_accuracy": 0.96 - 0.4 * 0.72**e,
                }
                for e in range(1, 13)
            ],
        },
        "diagnosis": {
            "verdict": "neither",
            "sentence": "Training and validation go together: it neither overfits nor underfits.",
            "advice": ["More images of bees would help most.", "A larger input size may help."],
            "gap": 0.021,
            "gap_interval": [-0.01, 0.05],
        },
        "features": {"items": 398, "computed": 153, "reused": 245, "cut": "layer4", "dtype": "float16"},
        "frozen": {
            "blocks": ["stem", "layer1", "layer2", "layer3"],
            "entries": 92,
            "sha256_before": "ab12" * 16,
            "sha256_after": "ab12" * 16,
            "unchanged": True,
        },
        "seconds": {"total": 372.4, "audit": 3.1, "features": 41.9, "train": 320.0, "judge": 7.4},
        "environment": {
            "python": "3.11.9",
            "torch": "2.15.0",
            "timm": "1.0.31",
            "platform": "Linux",
            "processor": "x86_64",
            "cores": 2,
            "threads": 2,
            "device": "cpu",
        },
        "notes": ["The validation images were added to the training images for the final fit."],
    }


def many(n: int = 47) -> dict[str, Any]:
    """A frozen run over many classes."""
    run = full()
    names = [
        f"class number {i:02d}" if i % 5 else f"knitted, woven and otherwise interlaced texture {i}" for i in range(n)
    ]
    per_class = {name: 20 + (7 * i) % 60 for i, name in enumerate(names)}
    run["data"]["classes"] = names
    run["data"]["splits"] = {
        s: {"n": sum(per_class.values()), "per_class": per_class} for s in ("train", "val", "test")
    }
    run["data"]["imbalance"] = 3.9
    run["scores"] = {"test": scores(0.71, per_class, 5), "val": scores(0.73, per_class, 6)}
    run["baselines"] = {"majority": {"accuracy": 0.035, "accuracy_interval": [0.03, 0.04], "class": names[1]}}
    run["gain_over_scratch"] = None
    run["plan"].update(strategy="frozen", cut="head", rates={}, head="svm")
    run["curves"] = {
        "axis": "training items",
        "points": [
            {
                "x": x,
                "train_accuracy": 1.0,
                "val_accuracy": 0.8 - 20 / math.sqrt(x),
                "train_loss": 0.01,
                "val_loss": 0.5 + 60 / x,
            }
            for x in (1600, 3200, 4800, 6400, 8000, 9600)
        ],
    }
    run["race"] = []
    return run


def hostile() -> dict[str, Any]:
    """A full record in which every name comes from somebody unfriendly."""
    run = full()
    per_class = dict.fromkeys(HOSTILE, 12)
    run["data"].update(
        path=HOSTILE[0],
        classes=list(HOSTILE),
        warnings=list(HOSTILE),
        notes=list(HOSTILE),
        splits={name: {"n": 84, "per_class": per_class} for name in ("train", "test", HOSTILE[0])},
        skipped=[{"file": name, "reason": name} for name in HOSTILE],
        suspicious=[{"file": HOSTILE[3], "reason": HOSTILE[3]}],
        duplicates=[list(HOSTILE)],
        leaks=[list(HOSTILE)],
        contradictions=[[HOSTILE[3], HOSTILE[3]]],
        sizes={
            "width": {"min": HOSTILE[0]},
            "height": {},
            "modes": {HOSTILE[0]: HOSTILE[1]},
            "formats": {HOSTILE[3]: 1},
        },
    )
    run["scores"] = {"test": scores(0.6, per_class)}
    run["baselines"]["majority"]["class"] = HOSTILE[0]
    run["source"] = dict.fromkeys(run["source"], HOSTILE[0]) | {HOSTILE[3]: HOSTILE[3]}
    run["plan"] = {
        "strategy": HOSTILE[0],
        "head": HOSTILE[3],
        "cut": HOSTILE[1],
        "rates": {HOSTILE[0]: 0.1},
        "reasons": list(HOSTILE),
        "chosen": {HOSTILE[5]: HOSTILE[4]},
        "schedule": {HOSTILE[3]: HOSTILE[3]},
    }
    run["race"] = [
        dict(row, strategy=name, head=name, verdict=name) for row, name in zip(race(), HOSTILE, strict=False)
    ]
    run["race"][-1]["error"] = HOSTILE[0] + HOSTILE[3]
    run["diagnosis"] = {"verdict": HOSTILE[0], "sentence": HOSTILE[3], "advice": list(HOSTILE)}
    run["curves"]["axis"] = HOSTILE[0]
    run["frozen"] = {"blocks": list(HOSTILE), "entries": 1, "sha256_before": HOSTILE[0], "sha256_after": HOSTILE[3]}
    run["features"] = {"items": 1, "cut": HOSTILE[0]}
    run["seconds"] = {HOSTILE[0]: 1.0, HOSTILE[3]: 2.0, "total": 3.0}
    run["environment"] = dict.fromkeys(HOSTILE, HOSTILE[0])
    run["settings"] = dict.fromkeys(HOSTILE, HOSTILE[3])
    run["notes"], run["headstart"], run["command"] = list(HOSTILE), HOSTILE[0], ["headstart", "fit", *HOSTILE]
    return run
