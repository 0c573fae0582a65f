"""The model card: what it says of a run, what it never says, and that no name becomes markup in Markdown or YAML."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.report import Shared, model_card
from headstart.report.footprint import footprint
from headstart.report.front_matter import front_matter, hub_licence

CONFIG = {"architecture": "resnet18", "num_classes": 2}
HOSTILE = [
    "---", "a: b", "yes", "null", "1.0", "{x}", "[x](http://evil)", "<script>alert(1)</script>", "| a | b |", "`rm`",
    "![x](y)", '"quoted" \\ name', "it's", "# title", "&amp;", "*bold*", "a\nb", "\u202eevil", "\x00\x1b[31m",
    "💥", "~",
]  # fmt: skip


def run_of(*classes: str, **more: Any) -> dict[str, Any]:
    """A small record of a run with two classes or more."""
    classes = classes or ("ants", "bees")
    per_class = {name: {"n": 10, "precision": 0.9, "recall": max(0.0, 0.8 - 0.1 * i), "f1": max(0.0, 0.9 - 0.1 * i)}
                 for i, name in enumerate(classes)}  # fmt: skip
    confusion = [[8 if i == j else 2 if j == (i + 1) % len(classes) else 0 for j in range(len(classes))]
                 for i in range(len(classes))]  # fmt: skip
    return {
        "headstart": "0.1.0", "seed": 3,
        "data": {"path": "/data/of/mine/insects", "classes": list(classes),
                 "splits": {"train": {"n": 40, "per_class": dict.fromkeys(classes, 20)},
                            "test": {"n": 20, "per_class": dict.fromkeys(classes, 10)}},
                 "skipped": [{"file": "secret/patient-7.png", "reason": "torn"}], "licence": None},
        "source": {"address": "/nets/of/mine/net", "architecture": "resnet18", "parameters": 11_000_000,
                   "sha256": "ab" * 32, "licence": "apache-2.0", "origin": "hf-hub:timm/resnet18.a1_in1k@v2"},
        "plan": {"strategy": "frozen", "start": "pretrained", "cut": "head", "head": "linear", "pooling": "native",
                 "reasons": ["source /nets/of/mine/net: as asked"], "trained_parameters": 1026},
        "scores": {"test": {"n": 20, "accuracy": 0.8, "accuracy_interval": [0.58, 0.92], "balanced_accuracy": 0.8,
                            "macro_f1": 0.79, "log_loss": 0.4, "calibration_error": 0.07, "per_class": per_class,
                            "confusion": confusion}},
        "baselines": {"majority": {"accuracy": 0.5, "class": classes[0]}},
        "test_set": {"n": 20, "openings": [{"for": "final score", "after": "the plan was chosen"}]},
        "label_issues": [{"file": "secret/patient-8.png", "label": classes[0], "suggested": classes[1]}],
        "seconds": {"total": 60.0},
        "work": {"processor": {"seconds": 3600.0, "whole": True}},
        "environment": {"torch": "2.0", "timm": "1.0", "processor": "A chip", "cores": 4, "device": "cpu",
                        "processes": 1},
        **more,
    }  # fmt: skip


def shared_of(run: dict[str, Any]) -> Shared:
    return Shared("hf-hub:me/insects", (), footprint(run), True, CONFIG)


def parts(card: str) -> tuple[dict[str, Any], str]:
    """The front matter as YAML reads it, and the rest."""
    assert card.startswith("---\n")
    head, _, body = card.removeprefix("---\n").partition("\n---\n")
    facts = yaml.safe_load(head)
    assert isinstance(facts, dict)
    return facts, body


# --- what it says ---------------------------------------------------------------------------------------------------


def test_the_card_says_classes_use_scores_limits_data_training_licences_and_cost() -> None:
    _, body = parts(model_card(run_of(), shared_of(run_of())))
    assert re.findall(r"^## (.*)$", body, re.MULTILINE) == [
        "Use", "Can I trust this, and where not?", "Scores", "Certainty", "Data", "Training", "Licences",
        "Energy and carbon",
    ]  # fmt: skip
    for told in (
        "It answers with one of 2 classes: ants, bees.",
        "headstart predict hf-hub:me/insects PICTURES",
        'timm.create_model("hf-hub:me/insects"',
        "0.800 (0.580 to 0.920)",
        "was opened once",
        "| bees | 10 | 0.900 | 0.700 (0.397 to 0.892) | 0.800 |",
        "It took ants for bees in 2 of 10 images.",
        "a picture of anything else gets one of them",
        "The test set is small",
        "It has no answer “unknown”.",
        "| ants | 20 | 10 |",
        "1 file could not be used and was left out.",
        "- Source: apache-2.0",
        "- Data: not stated: find out before you share",
        "| machine | A chip, 4 cores, cpu |",
        "About 12 Wh and 5.7 g of CO2, an estimate and no measurement",
    ):
        assert told in body, told


def test_the_weakest_class_comes_first_and_is_named_as_a_limit() -> None:
    run = run_of("a", "b", "c")
    run["scores"]["test"]["per_class"]["b"].update(recall=0.3, f1=0.2)
    body = model_card(run)
    table = body.partition("| class | images | precision | found | F1 |")[2]
    assert re.findall(r"^\| (\w) \|", table, re.MULTILINE)[0] == "b"
    assert "It finds fewer than 7 in 10 of b and c." in body


def test_the_front_matter_is_what_the_hub_reads() -> None:
    from huggingface_hub import ModelCard

    run = run_of()
    card = ModelCard(model_card(run, shared_of(run)))
    assert (card.data.library_name, card.data.license, card.data.pipeline_tag) == (
        "timm", "apache-2.0", "image-classification",
    )  # fmt: skip
    assert card.data.base_model == "timm/resnet18.a1_in1k"
    (first, second) = card.data.eval_results
    assert (first.metric_type, first.metric_value, first.dataset_name) == ("accuracy", 0.8, "insects")
    assert (first.dataset_split, first.task_type, second.metric_type) == ("test", "image-classification", "f1")
    assert card.data.to_dict()["co2_eq_emissions"]["emissions"] == pytest.approx(5.7)
    assert card.data.to_dict()["model-index"][0]["name"] == "insects"


def test_without_a_sealed_test_set_no_result_is_claimed() -> None:
    run = run_of()
    run["scores"] = {"val": run["scores"]["test"]}
    facts, body = parts(model_card(run, shared_of(run)))
    assert "model-index" not in facts
    assert "there is no sealed test set" in body


def test_timm_is_named_only_where_it_opens_the_classifier() -> None:
    for config in ({}, {**CONFIG, "num_classes": 0}, {**CONFIG, "architecture": "torchvision/resnet18"}):
        facts, body = parts(model_card(run_of(), Shared(config=config)))
        assert facts["library_name"] == "headstart"
        assert "timm.create_model" not in body
    assert 'timm.create_model("local-dir:MODEL"' in model_card(run_of(), Shared(config=CONFIG))


def test_licences_that_the_hub_does_not_know_stay_in_the_text() -> None:
    assert hub_licence("Apache-2.0 (Google weights)") == "apache-2.0"
    assert hub_licence("cc-by-nc-4.0") == "cc-by-nc-4.0"
    assert [hub_licence(text) for text in ("", "ask me", "my-own", "MIT-ish")] == [""] * 4
    run = run_of()
    run["source"]["licence"], run["data"]["licence"] = "ask me", {"name": "CC-BY-4.0", "file": "LICENSE"}
    facts, body = parts(model_card(run))
    assert "license" not in facts
    assert "- Source: ask me" in body
    assert "- Data: CC-BY-4.0 (by its LICENSE)" in body


def test_a_network_from_random_weights_has_no_base_and_no_head_start() -> None:
    run = run_of()
    run["plan"]["start"] = "random"
    facts, _ = parts(model_card(run, shared_of(run)))
    assert "base_model" not in facts
    assert facts["co2_eq_emissions"]["training_type"] == "pre-training"


# --- what it never says ---------------------------------------------------------------------------------------------


def test_no_path_and_no_name_of_a_picture_is_told() -> None:
    card = model_card(run_of(), shared_of(run_of()))
    for word in ("/data", "of/mine", "/nets", "secret", "patient", ".png"):
        assert word not in card.replace("picture.jpg", ""), word
    assert "“insects”" in card
    assert "source net: as asked" in card


def test_the_card_of_the_model_folder_tells_no_clock_and_no_machine() -> None:
    run = run_of()
    other = copy.deepcopy(run)
    other["seconds"], other["work"] = {"total": 7.0}, {"processor": {"seconds": 1.0, "whole": False}}
    other["environment"]["processor"], other["environment"]["cores"] = "Another chip", 64
    assert model_card(run) == model_card(other)
    assert model_card(run, shared_of(run)) != model_card(other, shared_of(other))


def test_a_record_with_nothing_in_it_still_makes_a_card() -> None:
    facts, body = parts(model_card({}))
    assert facts["pipeline_tag"] == "image-classification"
    assert body.startswith("\n# ") or body.startswith("# ")


def test_of_very_many_classes_the_weakest_are_shown() -> None:
    names = [f"kind {i}" for i in range(150)]
    body = model_card(run_of(*names))
    assert "The 10 weakest classes:" in body
    assert "kind 99 and 50 more." in body
    assert body.count("\n| ") < 60


# --- hostile names --------------------------------------------------------------------------------------------------


def _tokens(body: str) -> list[Any]:
    """The pieces that Markdown makes of a text, those within lines too but for words and escapes."""
    markdown = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable("table")
    found = []
    for token in markdown.parse(body):
        found += [token, *(child for child in token.children or () if child.type not in ("text", "softbreak"))]
    return found


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_becomes_markup_in_the_card_or_its_front_matter(name: str) -> None:
    run = run_of(name, "bees")
    run["data"]["path"] = f"/data/{name}"
    run["source"].update(licence=name, address=f"local/{name}", origin=name)
    run["environment"]["processor"] = name
    run["data"]["licence"] = {"name": name, "file": name}
    facts, body = parts(model_card(run, shared_of(run)))
    assert set(facts) <= {"library_name", "pipeline_tag", "tags", "co2_eq_emissions", "metrics", "model-index"}
    assert isinstance(facts["model-index"][0]["results"][0]["dataset"]["name"], str)
    assert isinstance(facts["co2_eq_emissions"]["hardware_used"], str)
    assert "\x1b" not in body
    assert "\u202e" not in body
    usual = [token.type for token in _tokens(parts(model_card(run_of(), shared_of(run_of())))[1])]
    assert [token.type for token in _tokens(body)] == usual


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40), st.text(max_size=40))
def test_any_text_in_the_front_matter_is_read_back_as_it_was_shown(path: str, chip: str) -> None:
    from headstart.report.words import clean, network_name

    run = run_of()
    run["data"]["path"], run["environment"]["processor"] = path, chip
    block = front_matter(run, name="MODEL", in_timm=True, footprint=footprint(run))
    facts = yaml.safe_load(block.removeprefix("---\n").removesuffix("---\n"))
    assert facts["model-index"][0]["results"][0]["dataset"]["name"] == clean(network_name(path) or "data")
    assert facts["co2_eq_emissions"]["hardware_used"] == clean(chip or "unknown")
    assert json.dumps(facts)
