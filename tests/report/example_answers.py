"""Records of made-up runs that chose for themselves: race, calibration, reject, forecast, twins, …"""

from __future__ import annotations

from typing import Any

from headstart.report import Picture

from .example_runs import HOSTILE, full, hostile, jpeg, many, wilson

MEASURE = "the share of a random network's errors that the pretrained one avoids"
RESNET, EFFICIENT = "timm:resnet18.a1_in1k", "timm:efficientnet_b0.ra_in1k"
NEW_KEYS = (
    "advice",
    "ranking",
    "choice",
    "budget",
    "test_set",
    "cross_validation",
    "near_duplicates",
    "calibration",
    "reject",
    "forecast",
    "label_issues",
    "hardest_classes",
    "repeats",
    "interpolation",
)
# strategy, head, cut, source, share right, seconds, trained parameters, p, what became of it
CANDIDATES = (
    ("partial", "linear", "layer4", RESNET, 0.955, 148.0, 8_394_754, 0.774, "chosen"),
    ("discriminative", "linear", "", RESNET, 0.963, 391.0, 11_177_538, None, "finalist"),
    ("frozen", "svm", "", RESNET, 0.939, 6.1, 1026, 0.109, "finalist"),
    ("frozen", "linear", "", RESNET, 0.935, 5.2, 1026, 0.092, "finalist"),
    ("frozen", "ridge", "", RESNET, 0.918, 4.4, 1026, None, "11 of 245 answers worse than the best head after 5 folds"),
    ("frozen", "knn", "", RESNET, 0.886, 0.4, 0, None, "beaten by every other head on the same features"),
    ("full", "linear", "", RESNET, 0.902, 61.0, 11_177_538, None, "behind after 3 of 12 epochs: 0.902 against 0.951"),
    ("frozen", "linear", "", EFFICIENT, 0.906, 9.8, 2562, None, "its features told the classes apart less well"),
    (
        "scratch",
        "linear",
        "",
        RESNET,
        0.641,
        60.0,
        11_177_538,
        None,
        "behind after 3 of 12 epochs: 0.641 against 0.951",
    ),
)


def race() -> list[dict[str, Any]]:
    """Nine candidates: one chosen, three more finalists, five stopped early."""
    rows: list[dict[str, Any]] = []
    for strategy, head, cut, source, share, seconds, trained, p, fate in CANDIDATES:
        finalist = fate in ("chosen", "finalist")
        items = 245 if finalist or strategy == "frozen" else 82
        rows.append(
            {
                "source": source,
                "strategy": strategy,
                "head": head,
                "cut": cut,
                "score": share,
                "interval": wilson(share, items),
                "log_loss": round(0.09 + 1.7 * (1 - share), 3),
                "items": items,
                "folds": 5 if items == 245 else 1,
                "stage": "folds" if finalist else "probe" if strategy == "frozen" else "trial",
                "seconds": seconds,
                "trained_parameters": trained,
                "p_against_best": p,
                "finalist": finalist,
                "chosen": fate == "chosen",
                "stopped": None if finalist else fate,
            }
        )
    return rows


def _bins(shift: float) -> list[dict[str, float]]:
    sizes = {0.55: 7, 0.65: 8, 0.75: 11, 0.85: 19, 0.945: 38, 0.988: 70}
    return [
        {"confidence": said, "accuracy": max(min(said - shift * (1.15 - said), 1.0), 0.0), "n": n}
        for said, n in sizes.items()
    ]


def _forecast() -> dict[str, Any]:
    def at(n: float) -> float:
        return 0.981 - 0.66 * n**-0.62

    noise = {10: 0.018, 20: -0.012, 40: 0.006, 80: -0.004, 130: 0.003, 185: 0.001}
    return {
        "points": [
            {"n": n, "accuracy": at(n) + off, "low": at(n) + off - 0.4 / n**0.75, "high": at(n) + off + 0.28 / n**0.75,
             "seeds": 5 if n < 185 else 1}
            for n, off in noise.items()
        ],
        "fit": {"limit": 0.981, "scale": 0.66, "exponent": 0.62},
        "band": [
            {"n": n, "accuracy": at(n), "low": at(n) - 0.012 - 0.000055 * n, "high": at(n) + 0.010 + 0.00002 * n}
            for n in (10, 14, 20, 30, 50, 80, 120, 185, 250, 320, 400, 480, 560)
        ],
        "more": [
            {"items": 100, "points": 0.7, "interval": [-0.6, 1.8]},
            {"items": 200, "points": 1.1, "interval": [-0.5, 2.4]},
            {"items": 500, "points": 1.6, "interval": [-0.3, 3.2]},
        ],
        "first": {"class": "ants", "reason": "it is found least often (0.914) and a picture of it taught the most"},
        "sentence": "200 more images would bring about +1.1 points (-0.5 to +2.4), perhaps nothing",
    }  # fmt: skip


def answers() -> dict[str, Any]:
    """Every key that a run that chose for itself adds."""
    return {
        "race": race(),
        "advice": {
            "images_per_class": 92.5,
            "size": "small",
            "similarity": {"value": 0.78, "level": "similar", "threshold": 0.5, "measure": MEASURE},
            "quadrant": "small and similar",
            "strategy": "frozen",
            "reasons": ["92 training images a class are few (under 1,000)",
                        f"{MEASURE} is 0.78, at least 0.50: "
                        "the data are similar to the source's",
                        "the features fit as they are: a regularised head on them overfits least"],
            "would_change": ["with 908 more images a class (1,816 in all) the set would be large: then partial",
                             "a race on this data, which measures what this only expects: it decides"],
        },
        "ranking": [
            {"source": RESNET, "logme": 0.412, "h_score": 0.871, "items": 245, "seconds": 6.2, "raced": True},
            {"source": EFFICIENT, "logme": 0.377, "h_score": 0.842, "items": 245, "seconds": 9.8, "raced": True},
            {"source": "timm:mobilenetv3_small_100.lamb_in1k", "logme": 0.291, "h_score": 0.803, "items": 245,
             "seconds": 3.1, "raced": False},
        ],
        "choice": {
            "sentence": "partial · linear wins: discriminative · linear is 0.8 points better on 245 held-out pictures "
            "(p = 0.77), which is within chance, and costs 11.2 million trained parameters instead of 8.4 million.",
            "rule": "the simplest candidate that no other beats beyond chance on the items that both were judged on",
            "best": "discriminative · linear",
            "chosen": "partial · linear",
            "p": 0.774,
        },
        "budget": {"asked": 600.0, "stopped": ["fine-tuning of efficientnet_b0 (about 9 min)"]},
        "test_set": {"n": 153, "openings": [{"for": "final score", "after": "the plan was chosen and trained"}]},
        "cross_validation": None,
        "near_duplicates": {
            "groups": [["train/ants/5.jpg", "train/ants/5_crop.jpg"], ["train/bees/81.jpg", "test/bees/12.jpg"],
                       ["train/bees/7.jpg", "train/ants/92.jpg"]],
            "across_splits": [["train/bees/81.jpg", "test/bees/12.jpg"]],
            "contradictions": [["train/bees/7.jpg", "train/ants/92.jpg"]],
            "how": "difference hashes that differ by at most 10 % in a grid of 16 x 16 cells, mirrored or not",
            "test": {
                "with_twin": {"n": 14, "accuracy": 1.0, "accuracy_interval": wilson(1.0, 14)},
                "without_twin": {"n": 139, "accuracy": 0.964, "accuracy_interval": wilson(0.964, 139)},
            },
        },
        "calibration": {
            "temperature": 1.31,
            "items": 245,
            "before": {"calibration_error": 0.048, "log_loss": 0.131, "bins": _bins(0.16)},
            "after": {"calibration_error": 0.021, "log_loss": 0.110, "bins": _bins(0.03)},
        },
        "reject": {
            "error_rate": 0.05,
            "threshold": 0.712,
            "distance": 18.4,
            "held_out": {"n": 153, "rejected": 7 / 153, "rejected_interval": wilson(7 / 153, 153),
                         "accuracy_kept": 0.986, "accuracy_kept_interval": wilson(0.986, 146), "wrong_caught": 0.6},
            "foreign": [
                {"name": "textures", "n": 188, "accepted": 6 / 188, "accepted_interval": wilson(6 / 188, 188)},
                {"name": "other insects", "n": 120, "accepted": 0.325, "accepted_interval": wilson(0.325, 120)},
            ],
        },
        "forecast": _forecast(),
        "label_issues": [
            {"file": "train/ants/92.jpg", "label": "ants", "suggested": "bees", "p_label": 0.004, "p_suggested": 0.996,
             "score": 0.991},
            {"file": "train/bees/17.jpg", "label": "bees", "suggested": "ants", "p_label": 0.031, "p_suggested": 0.969,
             "score": 0.874},
            {"file": "train/ants/40.jpg", "label": "ants", "suggested": "bees", "p_label": 0.094, "p_suggested": 0.906,
             "score": 0.613},
        ],
        "hardest_classes": [
            {"class": "ants", "recall": 0.914, "n": 70, "confused_with": "bees", "share": 0.086},
            {"class": "bees", "recall": 0.964, "n": 83, "confused_with": "ants", "share": 0.036},
        ],
        "repeats": {
            "n": 5,
            "accuracy": {"mean": 0.9595, "sd": 0.0069, "min": 0.9477, "max": 0.9673},
            "seeds": [{"seed": i, "accuracy": a} for i, a in enumerate((0.9673, 0.9608, 0.9477, 0.9608, 0.9608))],
        },
        "interpolation": {
            "alpha": 0.6,
            "tried": [{"alpha": a, "log_loss": 0.12 + (a - 0.6) ** 2 / 5, "accuracy": 0.955 - (a - 0.6) ** 2 / 20}
                      for a in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)],
        },
    }  # fmt: skip


def judged() -> dict[str, Any]:
    """A full record of a run that chose for itself."""
    run = {**full(), **answers()}
    run["diagnosis"]["advice"] = ["A larger input size may help."]
    return run


def without_test_set() -> dict[str, Any]:
    """A run whose data had no test set: cross-validation stands in."""
    run = judged()
    del run["scores"]["test"], run["data"]["splits"]["test"]
    run["test_set"] = {"n": 0, "openings": []}
    run["cross_validation"] = {
        "folds": 5,
        "repeats": 3,
        "n": 245,
        "accuracy": 0.955,
        "accuracy_interval": wilson(0.955, 245),
        "sentence": "Right for 0.955 of 245 images, each judged by models that had not seen it (5 folds, 3 times).",
    }
    return run


def crowded(classes: int = 10_000, candidates: int = 300) -> dict[str, Any]:
    """A run with very many classes, candidates, issues and twins."""
    run = {**many(), **answers()}
    names = [f"species {i:05d}" for i in range(classes)]
    run["data"]["classes"] = names
    shares = [0.9 - i / 1000 for i in range(candidates)]
    run["race"] = [
        dict(race()[i % 9], head=f"head {i}", chosen=i == 0, score=share, interval=wilson(share, 245))
        for i, share in enumerate(shares)
    ]
    run["ranking"] = [dict(run["ranking"][i % 3], source=f"timm:network_{i}") for i in range(400)]
    run["label_issues"] = [
        {"file": f"{i}.jpg", "label": names[i], "suggested": names[i + 1], "p_label": 0.1, "p_suggested": 0.9,
         "score": 0.1}
        for i in range(min(classes - 1, 900))
    ]  # fmt: skip
    run["near_duplicates"].update({key: [[f"{i}.jpg", f"{i}b.jpg"] for i in range(800)] for key in ("groups",)})
    run["reject"]["foreign"] = [dict(run["reject"]["foreign"][0], name=f"set {i}") for i in range(60)]
    run["repeats"]["seeds"] = [{"seed": i, "accuracy": 0.9 + i / 10_000} for i in range(200)]
    run["hardest_classes"] = [dict(run["hardest_classes"][0], **{"class": name}) for name in names[:5]]
    return run


def _renamed(value: Any, name: str) -> Any:
    """The same record with every text replaced."""
    if isinstance(value, dict):
        return {key: _renamed(entry, name) for key, entry in value.items()}
    if isinstance(value, list):
        return [_renamed(entry, name) for entry in value]
    return name if isinstance(value, str) else value


def judged_hostile(name: str = HOSTILE[0]) -> dict[str, Any]:
    """A run that chose for itself in which every text comes from somebody unfriendly."""
    return {**hostile(), **{key: _renamed(value, name) for key, value in answers().items()}}


def suspects(run: dict[str, Any]) -> list[Picture]:
    """A picture for each label that looks wrong."""
    return [
        Picture(row["file"], jpeg((40 + 60 * i % 200, 180 - 50 * i % 150, 90)), row["label"],
                predicted=row["suggested"], probability=row["p_suggested"])
        for i, row in enumerate(run["label_issues"][:24])
    ]  # fmt: skip
