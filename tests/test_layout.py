"""The layout is a law: who may import whom, what loads no torch, how large a piece may grow, what no file says."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "headstart"

# From the rim down. A module may import modules of lower layers and of its own; nothing may import upwards.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("__main__",),
    ("cli", "_cli_advice", "_cli_extending", "_cli_options", "_cli_pruning", "_cli_pushing", "_cli_shipping"),
    ("estimator",),
    ("api", "extending", "pruning", "pushing", "shipping"),
    ("running",),
    (
        "advising",
        "choice",
        "stages",
        "finetune",
        "insight",
        "outlook",
        "trusting",
        "selecting",
        "shrinking",
        "record",
        "runfolder",
        "sealed",
        "demo",
        "doctor",
    ),
    ("report", "ship", "transfer"),
    ("judge", "tasks", "sources"),
    ("data",),
    ("console", "_console_shipping"),
    ("files", "settings", "tensors"),
    ("records", "progress"),
    ("errors",),
    ("__init__",),
)
TORCH_FREE = [
    "errors",
    "records",
    "settings",
    "files",
    "progress",
    "console",
    "_console_shipping",
    "cli",
    "_cli_advice",
    "_cli_extending",
    "_cli_options",
    "_cli_pruning",
    "_cli_pushing",
    "_cli_shipping",
    "demo",
    "runfolder",
    "data",
    "data.read",
    "data.audit",
    "data.near",
    "data.splits",
    "data.decode",
    "data.grid",
    "data.subset",
    "data.facts",
    "data.store",
    "transfer",
    "transfer.advice",
    "transfer.rank",
    "transfer.strategy",
    "ship",
    "ship.answers",
    "ship.exported",
    "pruning",
    "pushing",
    "shipping",
    "judge",
    "judge.*",
    "report",
    "report.*",
]
MAX_FILE, MAX_FUNCTION, MAX_PARAMETERS = 500, 60, 8

FILES = sorted(SOURCE.rglob("*.py"))


def module_of(path: Path) -> str:
    """src/headstart/data/read.py → data.read; a package's __init__ is the package; the root's is __init__."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    if parts[-1] == "__init__" and len(parts) > 1:
        parts = parts[:-1]
    return ".".join(parts)


MODULES = {module_of(path): path for path in FILES}


def layer_of(module: str) -> int:
    top = module.split(".")[0]
    found = [i for i, names in enumerate(LAYERS) if top in names]
    assert found, f"{module} stands in no layer: add it to LAYERS and to docs/architecture.md"
    return found[0]


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text("utf-8"))


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def import_nodes(tree: ast.AST, *, everywhere: bool) -> list[ast.Import | ast.ImportFrom]:
    """The imports that run at load time or, with `everywhere`, also those inside functions; none for types only."""
    found: list[ast.Import | ast.ImportFrom] = []
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            found.append(child)
        elif _is_type_checking(child) or (
            not everywhere and isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        ):
            continue
        else:
            found += import_nodes(child, everywhere=everywhere)
    return found


@cache
def imported(module: str, *, everywhere: bool) -> frozenset[str]:
    """Full dotted names that a module imports; `from a import b` gives a.b where b is a module, else a."""
    names: set[str] = set()
    for node in import_nodes(tree_of(module), everywhere=everywhere):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
            continue
        assert node.level == 0, f"{module} imports relatively"
        for alias in node.names:
            whole = f"{node.module}.{alias.name}"
            names.add(whole if whole.removeprefix("headstart.") in MODULES else str(node.module))
    return frozenset(names)


def own_imports(module: str, *, everywhere: bool) -> set[str]:
    """The modules of headstart that a module imports; "headstart" itself is __init__."""
    own = {n for n in imported(module, everywhere=everywhere) if n.split(".")[0] == "headstart"}
    return {name.removeprefix("headstart.") if name != "headstart" else "__init__" for name in own}


def reached(module: str) -> dict[str, str]:
    """Every module that is loaded with `module`, packages of dotted names included, with the one that asked for it."""
    found, waiting = {module: "itself"}, [module]
    while waiting:
        at = waiting.pop()
        names = set(imported(at, everywhere=False))
        names |= {"headstart." + at.rpartition(".")[0]} if "." in at else set()
        for name in names:
            own = name.removeprefix("headstart.") if name.startswith("headstart.") else None
            if own is None:
                found.setdefault(name, at)
                continue
            for step in [own, own.rpartition(".")[0]]:
                if step in MODULES and step not in found:
                    found[step] = at
                    waiting.append(step)
    return found


def torch_free_modules() -> list[str]:
    stems = [name[:-2] for name in TORCH_FREE if name.endswith(".*")]
    return [m for m in MODULES if m in TORCH_FREE or any(m.startswith(stem + ".") for stem in stems)]


# --- who imports whom -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down_only_also_inside_functions(module: str) -> None:
    here = layer_of(module)
    upward = {name for name in own_imports(module, everywhere=True) if layer_of(name) < here}
    assert not upward, f"{module} imports upwards: {sorted(upward)}"


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {m: {n for n in own_imports(m, everywhere=True) if n in MODULES and n != m} for m in MODULES}
    # a package's __init__ that gathers its own parts, and parts that name their package, are one unit at load time
    remaining = dict(graph)
    while leaves := [m for m, targets in remaining.items() if not targets & {*remaining}]:
        for leaf in leaves:
            del remaining[leaf]
    assert not remaining, f"circle among {sorted(remaining)}"


@pytest.mark.parametrize("module", torch_free_modules())
def test_modules_that_answer_at_once_reach_no_torch(module: str) -> None:
    found = reached(module)
    for name, asker in found.items():
        assert name.split(".")[0] not in {"torch", "torchvision", "timm", "accelerate"}, f"{asker} imports {name}"


def test_modules_that_answer_at_once_load_no_torch_when_run() -> None:
    names = ["headstart." + m for m in torch_free_modules()]
    code = (
        "import importlib, sys\n"
        f"for name in {names}:\n"
        "    importlib.import_module(name)\n"
        "    assert 'torch' not in sys.modules, name\n"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert told.returncode == 0, told.stderr[-300:]


# --- sizes --------------------------------------------------------------------------------------------------------


def functions(module: str) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [n for n in ast.walk(tree_of(module)) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]


@pytest.mark.parametrize("module", MODULES)
def test_files_functions_and_signatures_stay_small(module: str) -> None:
    lines = MODULES[module].read_text("utf-8").count("\n")
    assert lines <= MAX_FILE, f"{lines} lines"
    for function in functions(module):
        body = function.body[1:] if ast.get_docstring(function) is not None else function.body
        if body:
            length = (body[-1].end_lineno or 0) - body[0].lineno + 1
            assert length <= MAX_FUNCTION, f"{function.name} has {length} lines"
        arguments = function.args
        named = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
        count = len([name for name in named if name not in ("self", "cls")])
        assert count <= MAX_PARAMETERS, f"{function.name} has {count} parameters"


@pytest.mark.parametrize("module", MODULES)
def test_every_module_says_what_it_is_and_what_it_offers(module: str) -> None:
    tree = tree_of(module)
    if not tree.body:
        return  # an empty __init__.py offers nothing
    assert ast.get_docstring(tree), "no docstring"
    public = [n.name for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and n.name[0] != "_"]
    undocumented = [n.name for n in tree.body if getattr(n, "name", "_")[0] != "_" and not ast.get_docstring(n)]  # type: ignore[arg-type, attr-defined]
    assert not undocumented
    if public:
        assert "__all__" in MODULES[module].read_text("utf-8"), "no __all__"


# --- what no file does or says --------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", MODULES)
def test_no_pickle_and_no_loading_that_could_run_code(module: str) -> None:
    names = {name.split(".")[0] for name in imported(module, everywhere=True)}
    assert not names & {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert given.get("weights_only") == "True"
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("np.load", "numpy.load"):
            assert "allow_pickle" not in ast.unparse(node)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("eval", "exec", "print")


WRITERS = ("write_text", "write_bytes", "torch.save", "np.save", "np.savez", "save_file", "json.dump", "rename")


@pytest.mark.parametrize("module", [m for m in MODULES if m != "files"])
def test_files_are_written_by_the_one_writer_only(module: str) -> None:
    for node in ast.walk(tree_of(module)):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if called.split(".")[-1] == "open":
            words = [a.value for a in node.args if isinstance(a, ast.Constant)]
            words += [k.value.value for k in node.keywords if k.arg == "mode" and isinstance(k.value, ast.Constant)]
            modes = [w for w in words if isinstance(w, str) and re.fullmatch(r"[rwxabt+]{1,4}", w)]
            assert not any(set(mode) & set("wxa+") for mode in modes), f"line {node.lineno} opens for writing"
        if called.startswith("files.") or called in ("write_text", "write_bytes"):
            continue
        assert not called.endswith(WRITERS), f"line {node.lineno} writes without headstart.files: {called}"


COMMITTED = [".py", ".md", ".toml", ".yml", ".j2", ".css", ".sh", ""]
# Written in pieces, so that this file does not find itself.
FORBIDDEN = [
    "/" + "home/",
    "/" + "root/",
    "/" + "Users/",
    "T" + "ODO",
    "F" + "IXME",
    "X" + "XX",
    "py" + "pi.org",
    "files.python" + "hosted",
]


def committed_files() -> list[Path]:
    told = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    names = told.stdout.splitlines() if told.returncode == 0 else []
    paths = [ROOT / name for name in names] or [p for p in ROOT.rglob("*") if ".git" not in p.parts]
    return [p for p in paths if p.is_file() and p.suffix in COMMITTED and p.stat().st_size < 1_000_000]


def test_no_file_names_a_machine_or_leaves_a_mark_unfinished() -> None:
    said = []
    for path in committed_files():
        text = path.read_text("utf-8", "replace")
        said += [
            f"{path.relative_to(ROOT)}: {word}" for word in FORBIDDEN if re.search(rf"(?<!\w){re.escape(word)}", text)
        ]
    assert not said
