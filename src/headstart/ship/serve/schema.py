"""What the interface takes and gives, for /openapi.json, and a page of it that loads nothing."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from html import escape
from typing import Any

from headstart.ship.serve.guard import HEADERS
from headstart.ship.serve.limits import Limits

__all__ = ["ANSWERS", "EXPLANATION", "docs_page", "docs_policy", "picture_body"]

_TEXT, _NUMBER = {"type": "string"}, {"type": "number"}
_ANSWER = {
    "type": "object",
    "description": "The answer for one picture, or an error.",
    "required": ["file"],
    "properties": {
        "file": {**_TEXT, "description": "The client's own name for it."},
        "label": {**_TEXT, "description": 'The class, or "unknown".'},
        "best": {**_TEXT, "description": 'The likeliest class, where the label is "unknown".'},
        "probability": {**_NUMBER, "description": "Of the likeliest class, 0 to 1, calibrated."},
        "probabilities": {"type": "object", "additionalProperties": _NUMBER},
        "error": {**_TEXT, "description": "Why there is no answer."},
    },
}
_REFUSAL = {
    "type": "object",
    "required": ["detail", "reason"],
    "properties": {"detail": {**_TEXT, "description": "A sentence."}, "reason": {**_TEXT, "description": "A word."}},
}


def _response(words: str, content: Mapping[str, Any]) -> dict[str, Any]:
    return {"description": words, "content": {"application/json": {"schema": content}}}


_REFUSALS: dict[int | str, dict[str, Any]] = {
    400: _response("Not a form with pictures (reason: form, empty, host).", _REFUSAL),
    403: _response("Sent by another site's page (origin).", _REFUSAL),
    408: _response("The request came too slowly (slow).", _REFUSAL),
    413: _response("Too many bytes or pictures (too_large, too_many).", _REFUSAL),
    415: _response("Neither a form nor a picture (kind).", _REFUSAL),
    422: _response("No picture could be read (unreadable), or a wrong option (option).", _REFUSAL),
    503: _response("Busy or out of time (busy, slow): come again after Retry-After seconds.", _REFUSAL),
}
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: _response("One answer a picture, in their order.", {"type": "array", "items": _ANSWER}),
    **_REFUSALS,
}
EXPLANATION: dict[int | str, dict[str, Any]] = {
    200: _response(
        "The answer and what it rests on.",
        {
            "type": "object",
            "properties": {
                "answer": _ANSWER,
                "picture": {**_TEXT, "description": "The picture, small, as a data URI."},
                "map": {**_TEXT, "description": "A transparent PNG to lay over it; empty where there is none."},
                "neighbours": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {
                            "label": _TEXT,
                            "similarity": {**_NUMBER, "description": "A cosine, -1 to 1."},
                            "same": {"type": "boolean", "description": "The very same file."},
                            "picture": _TEXT,
                        },
                    },
                },
            },
        },
    ),
    **_REFUSALS,
}


def picture_body(limits: Limits) -> dict[str, Any]:
    """What the routes that take pictures take."""
    binary = {"type": "string", "format": "binary"}
    words = f"At most {limits.body / 1e6:g} MB and {limits.pictures} pictures."
    form = {"type": "object", "properties": {"files": {"type": "array", "items": binary}}}
    content = {"multipart/form-data": {"schema": form}, "image/*": {"schema": binary}}
    return {"requestBody": {"required": True, "description": words, "content": content}}


# --- the page -----------------------------------------------------------------------------------------------------

_STYLE = """
:root { color-scheme: light dark; --soft: #575e64; --raised: #f3f4f0; --paper: #fcfcfa; --ink: #1c2023; }
@media (prefers-color-scheme: dark) {
  :root { --soft: #a7b0b4; --raised: #1d2326; --paper: #14181a; --ink: #e8eae6; }
}
body { margin: 0 auto; padding: 1rem 1.25rem 4rem; max-width: 50rem; font: 1.0625rem/1.6 system-ui, sans-serif;
  background: var(--paper); color: var(--ink); overflow-wrap: anywhere; }
h2 { margin: 2.5rem 0 0; font: 600 1.125rem ui-monospace, monospace; }
p { margin: .25rem 0 1rem; }
th, td { padding: .3rem 1rem .3rem 0; text-align: left; vertical-align: top; }
pre { padding: .9rem 1.1rem; border-radius: .5rem; background: var(--raised); white-space: pre-wrap; }
td, caption { color: var(--soft); } caption { text-align: left; } summary { cursor: pointer; }
"""


def docs_policy() -> str:
    """The policy by which the page's style counts and nothing runs."""
    style = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    return f"{HEADERS['content-security-policy']}; style-src 'sha256-{style}'; img-src data:"


def docs_page(interface: Mapping[str, Any]) -> str:
    """The OpenAPI document as a page without script and without anything to load."""
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>Interface · headstart</title><style>{_STYLE}</style></head><body><main><h1>Interface</h1>"
        f"<p>{escape(interface['info']['description'])} The same for programs: "
        '<a href="/openapi.json">openapi.json</a>.</p>'
        "<pre>curl -F files=@photo.jpg http://127.0.0.1:8000/predict</pre>"
    ]
    for path, methods in interface["paths"].items():
        for method, facts in methods.items():
            parts.append(_route(f"{method.upper()} {path}", facts))
    return "".join([*parts, "</main></body></html>"])


def _route(title: str, facts: Mapping[str, Any]) -> str:
    body = facts.get("requestBody") or {}
    takes = f"<p>Takes {escape(', '.join(body['content']))}. {escape(body['description'])}</p>" if body else ""
    options = "".join(
        f"<p>Option <code>{escape(one['name'])}</code>: {escape(json.dumps(one['schema']))}</p>"
        for one in facts.get("parameters", ())
    )
    rows = "".join(
        f'<tr><th scope="row">{escape(code)}</th><td>{escape(one["description"])}</td></tr>'
        for code, one in facts.get("responses", {}).items()
    )
    shapes = [one["content"]["application/json"]["schema"] for code, one in facts.get("responses", {}).items()
              if code == "200" and "application/json" in one.get("content", {})]  # fmt: skip
    given = "".join(
        f"<details><summary>What 200 gives</summary><pre>{escape(json.dumps(one, indent=1))}</pre></details>"
        for one in shapes if one
    )  # fmt: skip
    words = escape(facts.get("description") or facts.get("summary") or "")
    table = f"<table><caption>Answers</caption><tbody>{rows}</tbody></table>" if rows else ""
    return f"<h2>{escape(title)}</h2><p>{words}</p>{takes}{options}{table}{given}"
