"""The licence of a data set is what its own folder says, or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from headstart.data.licence import find_licence

TEXTS = {
    "MIT License\n\nCopyright (c) 2020 somebody\n\nPermission is hereby granted, free of charge": "MIT",
    "              Apache License\n        Version 2.0, January 2004": "Apache-2.0",
    "Creative Commons Attribution-NonCommercial-ShareAlike 4.0 International": "CC-BY-NC-SA-4.0",
    "Attribution 4.0 International\n====": "CC-BY-4.0",
    "CC0 1.0 Universal": "CC0-1.0",
    "GNU GENERAL PUBLIC LICENSE\n Version 3, 29 June 2007": "GPL-3.0",
    "\n# For research only\n\nAsk us.": "For research only",
}


@pytest.mark.parametrize("text", TEXTS)
def test_a_licence_file_is_recognised_by_its_text_or_named_by_its_first_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "LICENSE.txt").write_text(text)
    assert find_licence(str(tmp_path)) == {"name": TEXTS[text], "file": "LICENSE.txt"}


@pytest.mark.parametrize(
    "line", ["license: cc-by-4.0", 'licence: "cc-by-4.0"', "license:\n  - cc-by-4.0", "license: [cc-by-4.0]"]
)
def test_the_front_matter_of_a_readme_states_one(line: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(f"---\ntags: [x]\n{line}\n---\n# Data\n")
    assert find_licence(str(tmp_path)) == {"name": "cc-by-4.0", "file": "README.md"}


def test_a_licence_file_goes_before_a_readme_and_a_manifest_looks_beside_itself(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    (tmp_path / "COPYING").write_text("CC0 1.0 Universal")
    (tmp_path / "list.csv").write_text("file_name,label\n")
    assert find_licence(str(tmp_path / "list.csv")) == {"name": "CC0-1.0", "file": "COPYING"}


def test_what_states_nothing_gives_nothing(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# Data\n\nlicense: mine\n")
    (tmp_path / "LICENSE").write_bytes(b"")
    (tmp_path / "licence-notes.png").write_bytes(b"\x89")
    assert find_licence(str(tmp_path)) is None
    assert find_licence("memory") is None
    assert find_licence(str(tmp_path / "gone" / "away")) is None
    assert find_licence("a\x00b") is None
