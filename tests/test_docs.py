"""The documentation says what is true: commands exist, links resolve, generated pages are fresh, code compiles."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
import typer

import headstart
from headstart import settings
from headstart.cli import app

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
VERBS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def page_id(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def text_of(page: Path) -> str:
    return page.read_text("utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    """Every headstart command that a page shows, in blocks and between backticks."""
    code = "\n".join(re.findall(r"^```(?:bash|console|text|sh)?\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    lines = [line.strip().removeprefix("$ ") for line in code.splitlines()]
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))
    return [
        line for line in [*lines, *spans] if line.startswith("headstart ") and "…" not in line and "VERB" not in line
    ]


def flags_of(verb: str) -> set[str]:
    command = VERBS[verb]
    return {flag for p in command.params for flag in (*p.opts, *p.secondary_opts)} | {"--help", "-h"}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_command_in_the_text_exists_with_its_flags(page: Path) -> None:
    for command in commands(text_of(page)):
        words = shlex.split(command, comments=True)[1:]
        if words[0].startswith("-"):
            assert words[0] in {"--help", "--version", "--install-completion", "--debug"}, command
            continue
        assert words[0] in VERBS, command
        unknown = {word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)} - flags_of(words[0])
        assert not unknown, f"{command}: {sorted(unknown)}"


def test_the_finder_of_commands_finds_them() -> None:
    readme = commands(text_of(ROOT / "README.md"))
    assert "headstart fit PICTURES --out RUN" in readme
    assert len(readme) >= 4


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_relative_links_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if not re.match(r"https?://|#|mailto:", target):
            assert (page.parent / target.split("#")[0]).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_flags_between_backticks_exist_somewhere(page: Path) -> None:
    known = {flag for verb in VERBS for flag in flags_of(verb)} | {"--extra-index-url", "--debug", "--version"}
    known |= {"--install-completion", "--show-completion"}
    spans = re.findall(r"`(--[a-z][a-z-]*)", text_of(page))
    assert not {*spans} - known


def test_all_pages_are_reached_from_the_index() -> None:
    index = text_of(ROOT / "docs" / "index.md")
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "index.md" or f"({page.name})" in index, page.name


def test_generated_pages_are_fresh(make_docs: ModuleType) -> None:
    for path, text in make_docs.pages().items():
        assert text_of(path) == text, f"{path.name} is stale: run make docs"


def test_the_generated_page_names_every_setting(make_docs: ModuleType) -> None:
    page = make_docs.cli_page()
    for name in settings.Settings.__dataclass_fields__:
        assert f"`--{name.replace('_', '-')}" in page


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_python_blocks_compile_and_use_only_public_names(page: Path) -> None:
    for block in blocks(text_of(page), "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "headstart":
                assert node.attr in headstart.__all__, node.attr
            if isinstance(node, ast.ImportFrom) and node.module == "headstart":
                assert {alias.name for alias in node.names} <= {*headstart.__all__}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_make_targets_in_the_text_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", text_of(ROOT / "Makefile"), re.MULTILINE))
    found = re.findall(r"(?:^|`)make ([a-z-]+)", text_of(page), re.MULTILINE)
    assert {*found} <= targets


def test_the_strategies_and_heads_of_the_pages_are_the_codes() -> None:
    strategies = re.findall(
        r"^\| `([a-z]+)`(?: \(default\))? \|", text_of(ROOT / "docs" / "strategies.md"), re.MULTILINE
    )
    heads = re.findall(r"^\| `([a-z]+)`(?: \(default\))? \|", text_of(ROOT / "docs" / "heads.md"), re.MULTILINE)
    assert sorted(strategies) == sorted(settings.STRATEGIES)
    assert sorted(heads) == sorted(settings.HEADS)


def test_the_merge_check_is_a_script_that_parses() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
