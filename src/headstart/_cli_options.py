"""What the verbs share: the flags made from the fields of Settings (a flag, a keyword and a recorded key are one), the
arguments that many verbs take, and the way to api and to JSON.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, get_args, get_type_hints

import typer
from typer.core import TyperCommand

from headstart.errors import SettingsError, did_you_mean
from headstart.settings import STRATEGIES, Settings

__all__ = [
    "Data",
    "Json",
    "JsonTo",
    "OnDevice",
    "Quiet",
    "all_but",
    "api",
    "flag_name",
    "option_help",
    "print_json",
    "settings_of",
    "shipping",
    "strategies_of",
    "with_settings",
]

Data = Annotated[str, typer.Argument(help="Folder of pictures, CSV, TSV, JSONL or Parquet.", metavar="DATA")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show neither progress nor a summary.")]
OnDevice = Annotated[
    str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps; auto: a GPU where there is one.", metavar="WORD")
]
Json = Annotated[bool, typer.Option("--json", help="Write the result as JSON to standard output, and nothing else.")]


def api() -> Any:
    """headstart.api, loaded only when a verb runs."""
    from importlib import import_module

    return import_module("headstart.api")


def shipping() -> Any:
    """headstart.shipping, loaded only when a verb runs."""
    from importlib import import_module

    return import_module("headstart.shipping")


def print_json(value: object) -> None:
    """Write a value as JSON to standard output."""
    from headstart.records import plain

    typer.echo(json.dumps(plain(value), indent=1, allow_nan=False))


def flag_name(name: str) -> str:
    """The flag of an option: image_size → --image-size."""
    return "--" + name.replace("_", "-")


def option_help(facts: Mapping[str, Any]) -> str:
    """The help text of an option with its range in words."""
    low, high, text = facts["low"], facts["high"], facts["help"]
    if facts["choices"]:
        return f"{text} One of {', '.join(facts['choices'])}."
    if low is None and high is None:
        return str(text)
    least = f"above {low:g}" if facts["above"] else f"{low:g} or more"
    if high is not None:
        least = f"above {low:g}, at most {high:g}" if facts["above"] else f"{low:g} to {high:g}"
    return f"{text} ({least})"


_enumeration: Any = enum.StrEnum  # called with names known at run time only, which types cannot follow


def _parameter(field: dataclasses.Field[Any], hint: Any) -> inspect.Parameter:
    """One keyword-only parameter as typer reads it."""
    facts, flag, default = field.metadata, flag_name(field.name), field.default
    kind: Any = next((t for t in get_args(hint) if t is not type(None)), hint)
    names = [f"{flag}/--no-{flag[2:]}"] if kind is bool else [flag]
    if facts["choices"]:
        kind = _enumeration("Choice", {choice: choice for choice in facts["choices"]})
        default = kind(default)
    info = typer.Option(
        *names,
        help=option_help(facts),
        metavar="WORD" if facts["choices"] else None,
        rich_help_panel=facts["panel"],
        show_default=default is not None,
    )
    if default is None:
        kind = kind | None
    return inspect.Parameter(
        field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info]
    )


def with_settings(*, without: Sequence[str] = ()) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Replace the **options of a verb by one flag for each field of Settings but those in `without`."""

    def decorated(verb: Callable[..., Any]) -> Callable[..., Any]:
        hints = get_type_hints(Settings)
        own = [p for p in inspect.signature(verb, eval_str=True).parameters.values() if p.kind is not p.VAR_KEYWORD]
        fields = [f for f in dataclasses.fields(Settings) if f.name not in without]
        generated = [_parameter(field, hints[field.name]) for field in fields]

        @functools.wraps(verb)
        def wrapped(*args: Any, **options: Any) -> Any:
            return verb(*args, **options)

        wrapped.__signature__ = inspect.Signature([*own, *generated])  # type: ignore[attr-defined]
        wrapped.__annotations__ = {p.name: p.annotation for p in [*own, *generated]}
        return wrapped

    return decorated


def all_but(*names: str) -> list[str]:
    """The settings that a verb which takes only `names` goes without."""
    return [field.name for field in dataclasses.fields(Settings) if field.name not in names]


def settings_of(options: Mapping[str, Any]) -> Settings:
    """The checked Settings that the flags give; raises SettingsError listing every mistake."""
    return Settings.of(**{n: v.value if isinstance(v, enum.Enum) else v for n, v in options.items()})


def strategies_of(text: str | None) -> list[str] | None:
    """The strategies in "frozen,full"; None for all of them."""
    if text is None:
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in STRATEGIES:
            raise SettingsError(f"unknown strategy {name!r}. {did_you_mean(name, list(STRATEGIES))}")
    if not names:
        raise SettingsError("--strategies names no strategy", remedy=f"Known: {', '.join(STRATEGIES)}")
    return list(dict.fromkeys(names))


class JsonTo(TyperCommand):
    """A command whose --json may stand alone (standard output) or name a file that ends in .json, or "-"."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put "-" behind a --json that is followed by no file."""
        filled: list[str] = []
        for index, word in enumerate(args):
            filled.append(word)
            if word == "--":
                return super().parse_args(ctx, [*filled, *args[index + 1 :]])
            following = args[index + 1] if index + 1 < len(args) else ""
            if word == "--json" and following != "-" and not following.endswith(".json"):
                filled.append("-")
        return super().parse_args(ctx, filled)
