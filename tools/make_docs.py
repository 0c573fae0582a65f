"""Write docs/cli.md and docs/errors.md from the code; with --check only say which of them are stale."""

from __future__ import annotations

import enum
import inspect
import sys
import types
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from headstart import errors
from headstart.cli import app

DOCS = Path(__file__).resolve().parent.parent / "docs"
MARK = "<!-- Written by tools/make_docs.py (make docs): do not edit by hand. -->"

CLI_HEAD = f"""{MARK}

# The command line

    headstart VERB DATA_OR_RUN --flag value

Every flag of `fit` and `compare` is also a keyword of the Python function (`--image-size 96` is `image_size=96`) and a
key under `settings` in run.json. `headstart VERB --help` shows the same as this page.

| exit code | meaning |
| --- | --- |
| 0 | done |
| 1 | a bug of headstart: one line asks for a report and names a file with the traceback |
| 2 | something for you to mend: one line says what, where and what to do |
| 130, 143 | stopped by Ctrl-C or SIGTERM; the command that goes on is shown |
| 141 | the reader of the output went away (as in `headstart sources \\| head -1`) |

Results go to standard output, progress and messages to standard error; with `--json` standard output holds the JSON and
nothing else. On a terminal progress is bars, elsewhere a line every few seconds, with `--quiet` nothing.
`headstart --debug VERB …` or `HEADSTART_DEBUG=1` shows tracebacks. `headstart --install-completion` teaches your shell
the verbs, the flags and their choices; `headstart --version` names the version.
"""

ERRORS_HEAD = f"""{MARK}

# Errors

Everything that headstart raises on purpose is a `HeadstartError`. A `UserError` is yours to mend: its one line says
what is wrong, where, and what to do; the command line shows it and ends with exit code 2. In Python its parts are the
attributes `what`, `where` and `remedy`. Any other exception is a bug: please report it.
"""

KINDS = {int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH"}


def _cell(text: object) -> str:
    return str(text).replace("|", "\\|")


def _parameter(parameter: inspect.Parameter) -> tuple[str, Any, Any]:
    """How the parameter is written on the command line, its typer facts, and its plain type."""
    annotated, info = get_args(parameter.annotation)[:2]
    kind = next((t for t in get_args(annotated) if t is not types.NoneType), annotated)
    names = [name for name in (info.default, *(info.param_decls or ())) if isinstance(name, str)]
    if type(info).__name__ == "ArgumentInfo":
        return info.metavar or f"[{parameter.name.upper()}]...", info, kind
    name = names[0] if names else "--" + parameter.name.replace("_", "-")
    name = name.replace("/", "`, `") if kind is bool else name
    short = f"`, `{names[1]}" if len(names) > 1 else ""
    metavar = info.metavar or ("" if kind is bool else KINDS.get(kind, "WORD"))
    return f"{name}{short}{' ' + metavar if metavar else ''}", info, kind


def _default(parameter: inspect.Parameter) -> str:
    value = parameter.default
    if value is inspect.Parameter.empty:
        return "required"
    if value is None or value is False:
        return ""
    return "on" if value is True else f"`{value.value if isinstance(value, enum.Enum) else value}`"


def _verb(name: str, callback: Any) -> str:
    """One verb: its sentence, its use, a table for each panel of flags."""
    parameters = list(inspect.signature(callback, eval_str=True).parameters.values())
    assert all(get_origin(p.annotation) is Annotated for p in parameters)
    panels: dict[str, list[str]] = {}
    use = [f"headstart {name}"]
    for parameter in parameters:
        written, info, _ = _parameter(parameter)
        if type(info).__name__ == "ArgumentInfo":
            use.append(written)
            panel, default = "Arguments", _default(parameter)
        else:
            panel, default = info.rich_help_panel or "Flags", _default(parameter)
        panels.setdefault(panel, []).append(f"| `{_cell(written)}` | {_cell(info.help)} | {_cell(default)} |")
    parts = [f"## {name}", "", f"    {' '.join(use)} [FLAGS]", "", inspect.getdoc(callback) or "", ""]
    for panel, rows in panels.items():
        parts += [f"| {panel} | | default |", "| --- | --- | --- |", *rows, ""]
    return "\n".join(parts)


def cli_page() -> str:
    """docs/cli.md."""
    verbs = [(c.name or c.callback.__name__, c.callback) for c in app.registered_commands if c.callback is not None]
    return "\n".join([CLI_HEAD, *(_verb(name, callback) for name, callback in verbs)]).rstrip() + "\n"


def errors_page() -> str:
    """docs/errors.md."""
    tree = (errors.__doc__ or "").split("\n\n", 1)[1].strip("\n")
    rows = [
        f"| `{name}` | {(getattr(errors, name).__doc__ or '').splitlines()[0]} |"
        for name in errors.__all__
        if isinstance(getattr(errors, name), type)
    ]
    return "\n".join([ERRORS_HEAD, "```text", tree, "```", "", "| class | meaning |", "| --- | --- |", *rows, ""])


def pages() -> dict[Path, str]:
    """Every generated page with its text."""
    return {DOCS / "cli.md": cli_page(), DOCS / "errors.md": errors_page()}


def main() -> int:
    """Write the pages, or with --check name those that are stale."""
    stale = [p for p, text in pages().items() if not p.exists() or p.read_text("utf-8") != text]
    for path in stale:
        if "--check" in sys.argv:
            print(f"{path} is stale: run make docs")
        else:
            path.write_text(pages()[path], "utf-8")
            print(f"wrote {path}")
    return int(bool(stale) and "--check" in sys.argv)


if __name__ == "__main__":
    sys.exit(main())
