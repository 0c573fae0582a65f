"""Write docs/cli.md and docs/errors.md from the code; with --check only say which of them are stale."""

from __future__ import annotations

import ast
import enum
import inspect
import sys
import types
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeGuard, get_args, get_origin

from headstart import errors
from headstart.cli import app

ROOT = Path(__file__).resolve().parent.parent
DOCS, SOURCE = ROOT / "docs", ROOT / "src" / "headstart"
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

MESSAGES_HEAD = """
## All messages

Every message that the code can raise, by class and module. What stands in braces is filled in; `…` is text that depends
on the case. Many name a file too: it follows the message in brackets.
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


# --- every raise in the code ------------------------------------------------------------------------------------------


class Message(NamedTuple):
    """One place where an error is made: its class, its module and line, what it says and the way out it names."""

    kind: str
    module: str
    line: int
    what: str
    remedy: str


class _Reader:
    """Reads texts out of the code of one module."""

    def __init__(self, tree: ast.Module) -> None:
        self.constants = {
            target.id: node.value
            for node in tree.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }

    def text(self, node: ast.expr, local: Mapping[str, list[ast.expr]]) -> str:
        """What an expression will say: constant parts as they are, names in braces, `…` for all else."""
        if isinstance(node, ast.Constant):
            return str(node.value)
        if isinstance(node, ast.JoinedStr):
            return "".join(self.text(part, local) for part in node.values)
        if isinstance(node, ast.FormattedValue):
            return self.text(node.value, local)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return self.text(node.left, local) + self.text(node.right, local)
        if isinstance(node, ast.IfExp):
            return f"{self.text(node.body, local)} / {self.text(node.orelse, local)}"
        if isinstance(node, ast.Name):
            known = local.get(node.id) or ([self.constants[node.id]] if node.id in self.constants else [])
            if known and all(_is_text(one) and not _says(one, node.id) for one in known):
                return " / ".join(self.text(one, local) for one in known)
            return f"{{{node.id}}}"
        if isinstance(node, ast.Attribute):
            return f"{{{node.attr}}}"
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "did_you_mean":
            return "Did you mean …?"
        return "…"


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr | ast.Constant | ast.IfExp) and not (
        isinstance(node, ast.Constant) and not isinstance(node.value, str)
    )


def _says(node: ast.expr, name: str) -> bool:
    return any(isinstance(part, ast.Name) and part.id == name for part in ast.walk(node))


def _functions(tree: ast.Module) -> Iterator[ast.AST]:
    """Every function, the innermost last, and the module itself."""
    yield tree
    yield from (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def _assigned(function: ast.AST) -> dict[str, list[ast.expr]]:
    """The expressions that a function gives to its names."""
    found: dict[str, list[ast.expr]] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    found.setdefault(target.id, []).append(node.value)
    return found


@cache
def messages() -> tuple[Message, ...]:
    """Every error of ours that the code makes, in the order of class, module and line."""
    kinds = {name for name in errors.__all__ if isinstance(getattr(errors, name), type)}
    found: dict[tuple[str, int, int], Message] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        reader, module = _Reader(tree), path.relative_to(SOURCE).as_posix()
        for function in _functions(tree):
            local = _assigned(function) if function is not tree else {}
            for call in ast.walk(function):
                if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in kinds:
                    found[module, call.lineno, call.col_offset] = _message(call, reader, local, module)
                elif _is_contradiction(call, function):
                    what = reader.text(call.args[0], local)
                    found[module, call.lineno, call.col_offset] = Message(
                        "SettingsError", module, call.lineno, what, ""
                    )
    return tuple(sorted(found.values(), key=lambda one: (one.kind, one.module, one.line)))


def _is_contradiction(call: ast.AST, function: ast.AST) -> TypeGuard[ast.Call]:
    """Whether settings.py collects a message here, to raise all of them together."""
    if not (
        isinstance(function, ast.FunctionDef) and function.name == "_contradictions" and isinstance(call, ast.Call)
    ):
        return False
    return isinstance(call.func, ast.Attribute) and call.func.attr == "append" and _is_text(call.args[0])


def _message(call: ast.Call, reader: _Reader, local: Mapping[str, list[ast.expr]], module: str) -> Message:
    assert isinstance(call.func, ast.Name)
    words = [reader.text(argument, local) for argument in call.args]
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    remedy = reader.text(given["remedy"], local) if "remedy" in given else ""
    if call.func.id == "MissingExtraError":
        package, extra, purpose = words
        words = [f"{purpose} needs the package {package}, which is not installed"]
        remedy = f"Install it with: pip install 'headstart[{extra}]'"
    elif call.func.id == "UnreadableImage":
        words = [": ".join(words)]
    elif call.func.id == "Interrupted":
        words = [f"interrupted; go on with: {words[1]}"]
    return Message(call.func.id, module, call.lineno, words[0], remedy)


def errors_page() -> str:
    """docs/errors.md."""
    tree = (errors.__doc__ or "").split("\n\n", 1)[1].strip("\n")
    rows = [
        f"| `{name}` | {(getattr(errors, name).__doc__ or '').splitlines()[0]} |"
        for name in errors.__all__
        if isinstance(getattr(errors, name), type)
    ]
    parts = [ERRORS_HEAD, "```text", tree, "```", "", "| class | meaning |", "| --- | --- |", *rows, MESSAGES_HEAD]
    kind = ""
    for one in messages():
        if one.kind != kind:
            kind = one.kind
            parts += ["", f"### {kind}", "", "| message | what to do | module |", "| --- | --- | --- |"]
        parts.append(f"| {_cell(one.what)} | {_cell(one.remedy)} | {one.module.removesuffix('.py')} |")
    return "\n".join(parts) + "\n"


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
