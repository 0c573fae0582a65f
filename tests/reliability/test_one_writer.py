"""One writer for every file: nothing but `files` opens, renames or moves anything, and it does so in the safe order."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from _faults import Forge

import headstart

SOURCE = Path(headstart.__file__).parent
ALLOWED = {
    ("sources/_download.py", "download_url_to_file"): "torch fetches into its own cache; the hash is checked after it",
    ("transfer/features.py", "TemporaryDirectory"): "a folder that goes with the process; `files` writes what is in it",
    ("data/subset.py", "symlink_to"): "a link has no content that could be torn",
    ("transfer/_runner_onnx.py", "os.open"): "the null device",
    ("ship/_int8.py", "TemporaryDirectory"): "the quantiser knows files alone; `files` writes what comes of it",
    ("ship/export.py", "TemporaryDirectory"): "OpenVINO knows files alone; `files` writes what comes of it",
    ("ship/export.py", "save_model"): "into that folder",
    ("cli.py", "os.open"): "the null device",
}
WRITERS = {
    "save_file", "save_model", "savez", "savez_compressed", "savetxt", "tofile", "dump_to_file", "to_csv_file", "move",
    "copyfile", "copy2", "copytree", "copyfileobj", "renames", "write_text", "write_bytes", "symlink_to",
    "hardlink_to", "truncate", "fdopen", "mkstemp", "mkdtemp", "NamedTemporaryFile", "TemporaryFile",
    "SpooledTemporaryFile", "TemporaryDirectory", "download_url_to_file", "memmap", "open_memmap", "extractall",
}  # fmt: skip
MODULES = {"os": {"open", "write", "replace", "rename", "link", "symlink"}, "np": {"save"}, "numpy": {"save"},
           "torch": {"save"}, "shutil": {"copy"}, "pickle": {"dump"}, "json": {"dump"}}  # fmt: skip


def writes(call: ast.Call) -> str:
    """The name of what a call does to a file; "" where it does nothing, or asks `files` to."""
    function = call.func
    name = (
        function.id if isinstance(function, ast.Name) else function.attr if isinstance(function, ast.Attribute) else ""
    )
    owner = ast.unparse(function.value) if isinstance(function, ast.Attribute) else ""
    if owner == "files":
        return ""
    if owner in MODULES and name in MODULES[owner]:
        return f"{owner}.{name}"
    if name == "open" and owner not in ("os", "Image"):
        mode = call.args[1] if owner == "" and len(call.args) > 1 else call.args[0] if owner and call.args else None
        mode = next((word.value for word in call.keywords if word.arg == "mode"), mode)
        plain = mode is None or (isinstance(mode, ast.Constant) and not set(str(mode.value)) & set("wax+"))
        return "" if plain else "open"
    if name in ("replace", "rename") and owner and len(call.args) == 1 and not call.keywords:  # a text takes two
        return name
    if name in ("write_text", "write_bytes") and not owner:  # imported from files
        return ""
    return name if name in WRITERS else ""


def found_in(text: str) -> list[str]:
    return [told for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call) and (told := writes(node))]


def test_nothing_but_files_writes_renames_or_moves_a_file() -> None:
    seen = {
        (path.relative_to(SOURCE).as_posix(), told)
        for path in SOURCE.rglob("*.py")
        if path != SOURCE / "files.py"
        for told in found_in(path.read_text("utf-8"))
    }
    assert seen - ALLOWED.keys() == set()
    assert ALLOWED.keys() - seen == set(), "a reason for what is no longer done"


@pytest.mark.parametrize(
    "text",
    [
        "open(p, 'w')", "p.open('ab')", "p.open(mode='r+b')", "open(p, mode=m)", "p.write_text('x')",
        "os.replace(a, b)", "os.open(p, 1)", "p.rename(q)", "p.replace(q)", "np.save(p, x)",
        "torch.save(x, p)", "save_file(x, p)", "shutil.move(a, b)", "tempfile.mkstemp()", "shutil.copy(a, b)",
    ],
)  # fmt: skip
def test_what_writes_is_recognised(text: str) -> None:
    assert found_in(text)


@pytest.mark.parametrize(
    "text",
    ["open(p)", "p.open('rb')", "t.replace('a', 'b')", "replace(x, a=1)", "files.write_text(p, 'x')", "Image.open(p)",
     "write_bytes(p, b'')", "p.open()"],
)  # fmt: skip
def test_what_reads_is_left_alone(text: str) -> None:
    assert not found_in(text)


# --- the order on the disk ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def calls(forge: Forge, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str]]:
    """What a fine-tuning did to the disk: (operation, path below the folder)."""
    from toydata import write_shapes

    root = tmp_path_factory.mktemp("order")
    write_shapes(root / "data", per_class=6)
    words = ("fit", "data", "--out", "run", "--source", "toy", "--strategy", "full", "--epochs", "1", "--quiet",
             "--engine", "torch", "--workers", "0")  # fmt: skip
    watched = (root / "run", root / "home")
    done = forge.run(*words, place=root, watched=watched, env={"HEADSTART_HOME": str(root / "home")})
    assert done.code == 0, done.err
    pairs = [call.partition(" ")[::2] for call in done.calls]
    return [(operation, path.removeprefix(f"{root}/")) for operation, path in pairs]


def test_every_file_is_written_beside_its_place_synced_renamed_and_its_folder_synced(
    calls: list[tuple[str, str]],
) -> None:
    renamed = 0
    for number, (operation, path) in enumerate(calls):
        name, folder = path.rpartition("/")[2], path.rpartition("/")[0]
        if operation in ("open", "create", "write"):
            probe = path == "run" or name.startswith("#")  # it has no name
            assert probe or name.endswith(".tmp") or name in (".lock", "log.jsonl"), f"{operation} {path}"
        if operation == "rename":
            before = [kind for kind, at in calls[:number] if at.startswith(f"{folder}/.{name}.")]
            if name == "settings.json":  # whole under another name before the run that stood there is removed
                assert before == ["rename"], path
            else:
                assert before[-3:] == ["write", "fsync", "chmod"], path
                assert calls[number + 1] == ("fsync", folder) or folder == "run/model"  # all names, then their folder
            renamed += 1
    assert renamed > 12
    log = [operation for operation, path in calls if path == "run/log.jsonl" and operation != "rename"]
    assert [log[n + 1] for n, operation in enumerate(log) if operation == "write"] == ["fsync"] * log.count("write")


def test_what_marks_a_whole_is_written_last(calls: list[tuple[str, str]]) -> None:
    order = [path for operation, path in calls if operation == "rename" and path.startswith("run/")]
    assert order[1:3] == ["run/.settings.json.overtake.tmp", "run/settings.json"]  # after the lock's holder
    assert order[-1] == "run/run.json"
    model = [(n, kind) for n, (kind, path) in enumerate(calls) if path.startswith("run/model/")]
    names = [n for n, kind in model if kind == "rename"]
    assert calls[names[0]][1] == "run/model/headstart.json"  # it holds the hashes: see files.finish
    assert {kind for n, kind in model if n > names[0]} <= {"rename", "unlink"}  # all was on the disk before
    assert calls[names[-1] + 1] == ("fsync", "run/model")
    states = [path.rpartition("/")[2] for path in order if "/checkpoints/" in path]
    assert states[::2] == ["state.safetensors"] * (len(states) // 2)
    assert states[1::2] == ["state.json"] * (len(states) // 2)


def test_new_folders_are_synced_into_those_that_hold_them(calls: list[tuple[str, str]]) -> None:
    made = [(number, path) for number, (operation, path) in enumerate(calls) if operation == "mkdir"]
    for number, path in made:
        if "/" in path:
            assert calls[number + 1] == ("fsync", path.rpartition("/")[0])
