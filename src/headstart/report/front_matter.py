"""The front matter of a model card: YAML that the Hub reads. Every text is a quoted scalar, so no name is markup.

The keys are those of the Hub's documentation of model cards; a licence that the Hub has no identifier for is left out
here, for the Hub refuses it, and stands in the card's text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from headstart.report import sentences
from headstart.report.footprint import Footprint
from headstart.report.reading import number, table, text
from headstart.report.words import clean, network_name

__all__ = ["front_matter", "hub_licence"]

_LICENCES = {
    "apache-2.0", "mit", "openrail", "bigscience-openrail-m", "creativeml-openrail-m", "afl-3.0",
    "artistic-2.0", "bsl-1.0", "bsd", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear", "c-uda", "cc",
    "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0",
    "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0",
    "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cdla-sharing-1.0", "cdla-permissive-1.0",
    "cdla-permissive-2.0", "wtfpl", "ecl-2.0", "epl-1.0", "epl-2.0", "eupl-1.1", "eupl-1.2", "agpl-3.0", "gfdl",
    "gpl", "gpl-2.0", "gpl-3.0", "lgpl", "lgpl-2.1", "lgpl-3.0", "isc", "lppl-1.3c", "ms-pl", "apple-ascl",
    "mpl-2.0", "odc-by", "odbl", "openrail++", "osl-3.0", "postgresql", "ofl-1.1", "ncsa", "unlicense", "zlib",
    "pddl",
}  # fmt: skip


def hub_licence(stated: str) -> str:
    """The Hub's identifier that a stated licence begins with; "" where it is none."""
    word = re.split(r"[\s(,;]", stated.strip().lower(), maxsplit=1)[0]
    return word if word in _LICENCES else ""


def front_matter(run: Mapping[str, Any], *, name: str, in_timm: bool, footprint: Footprint | None = None) -> str:
    """The lines between the two rows of dashes, and these."""
    facts: dict[str, Any] = {
        "library_name": "timm" if in_timm else "headstart",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "headstart", *(["timm"] if in_timm else [])],
    }
    if licence := hub_licence(text(run, "source", "licence")):
        facts["license"] = licence
    origin = text(run, "source", "origin")
    if text(run, "plan", "start") != "random" and origin.startswith("hf-hub:"):
        facts["base_model"] = origin.removeprefix("hf-hub:").partition("@")[0]
    if footprint is not None:
        facts["co2_eq_emissions"] = {
            "emissions": float(f"{footprint.grams:.3g}"),
            "source": "estimated from processor time, see the card",
            "training_type": "fine-tuning" if text(run, "plan", "start") != "random" else "pre-training",
            "hardware_used": text(run, "environment", "gpu") or text(run, "environment", "processor") or "unknown",
        }
    facts |= _results(run, name)
    return f"---\n{_yaml(facts)}---\n"


def _results(run: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The test accuracy as the Hub's leaderboards read it; nothing without a sealed test set."""
    measured, data = table(run, "scores", "test"), text(run, "data", "path")
    if number(measured, "accuracy") is None:
        return {}
    called = network_name(data) or "data"
    kinds = (("accuracy", "Accuracy", "accuracy"), ("f1", "Macro F1", "macro_f1"))
    metrics = [
        {"type": kind, "name": shown, "value": round(value, 6)}
        for kind, shown, key in kinds
        if (value := number(measured, key)) is not None
    ]
    title = name.removeprefix("hf-hub:").partition("@")[0].rpartition("/")[2]
    result = {
        "task": {"type": "image-classification", "name": "Image classification"},
        "dataset": {"type": called, "name": called, "split": "test"},
        "metrics": metrics,
    }
    model = title if name.startswith("hf-hub:") else sentences.headline(run).title
    return {"metrics": ["accuracy"], "model-index": [{"name": model, "results": [result]}]}


def _yaml(value: Mapping[str, Any], indent: int = 0) -> str:
    """A mapping of texts, numbers, lists and mappings as block YAML."""
    lines = []
    for key, entry in value.items():
        lead = " " * indent
        if isinstance(entry, Mapping):
            lines += [f"{lead}{key}:\n{_yaml(entry, indent + 2)}"]
        elif isinstance(entry, list):
            lines += [f"{lead}{key}:\n", *(_entry(one, indent) for one in entry)]
        else:
            lines += [f"{lead}{key}: {_scalar(entry)}\n"]
    return "".join(lines)


def _entry(value: Any, indent: int) -> str:
    """One entry of a list; a mapping begins on the line of its dash."""
    if not isinstance(value, Mapping):
        return f"{' ' * indent}- {_scalar(value)}\n"
    inner = _yaml(value, indent + 2)
    return f"{' ' * indent}- {inner[indent + 2 :]}"


def _scalar(value: Any) -> str:
    """A number as it is, a text in double quotes: JSON's escapes are YAML's."""
    return json.dumps(clean(value) if isinstance(value, str) else value, ensure_ascii=False)
