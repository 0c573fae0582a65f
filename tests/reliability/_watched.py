"""Opens what stands in a folder with an audit hook that notes every deed; a child process of test_watched_loads.

`python _watched.py PLACE` opens everything twice: PLACE/good first, so that all modules are there, and then, watched,
PLACE/good again and whatever stands in PLACE/bad. Prints JSON: [[where, event, what], …] of deeds that no load may do.
"""

from __future__ import annotations

import json
import os
import site
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from headstart.errors import UserError

__all__: list[str] = []

NEVER = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "pty.spawn", "subprocess.Popen",
         "socket.", "urllib.", "http.", "ftplib.", "smtplib.", "ctypes.", "pickle.find_class", "os.remove", "os.rename",
         "os.rmdir", "os.mkdir", "os.truncate", "os.chmod", "os.chown", "os.link", "os.symlink", "shutil.",
         "webbrowser.", "code.", "sys.settrace", "sys.setprofile", "cpython.run_")  # fmt: skip
"""Events that are none of a load's, by how their names begin."""

OWN = tuple(
    os.path.realpath(place) + os.sep
    for place in (
        sys.prefix, sys.base_prefix, Path(__file__).parents[2] / "src", sysconfig.get_path("stdlib"),
        *site.getsitepackages(), "/usr/share/zoneinfo", "/usr/lib", "/proc", "/sys", "/dev/null/..",
    )
)  # fmt: skip

deeds: list[tuple[str, str, str]] = []
state: dict[str, Any] = {"where": "", "allowed": (), "strict": False}


def _inside(path: str) -> bool:
    place = os.path.realpath(path)
    return place == os.devnull or f"{place}{os.sep}".startswith((*OWN, *state["allowed"]))


def _of_a_file(code: Any) -> bool:
    """Whether code comes from a module's own file, or was made by a library's."""
    name = str(getattr(code, "co_filename", code))
    return name.startswith("<frozen") or _inside(name)


def _settles_memory(event: str, args: tuple[Any, ...]) -> bool:
    """Whether this is transfer.kernels.steady_memory, which tells the process's own libc how much to keep."""
    return (event == "ctypes.dlopen" and args[0] is None) or (event == "ctypes.dlsym" and args[-1] == "mallopt")


def watch(event: str, args: tuple[Any, ...]) -> None:
    if not state["where"]:
        return
    bad = event.startswith(NEVER) and not _settles_memory(event, args)
    if event == "open":
        path, mode, flags = args
        if not isinstance(path, int):
            writes = bool(set(mode or "r") & set("wax+")) or bool((flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
            name = os.fsdecode(path)
            bad = not _inside(name) or (writes and os.path.realpath(name) != os.devnull)
    if event in ("exec", "compile"):
        bad = not _of_a_file(args[0] if event == "exec" else args[1])
        if event == "compile" and args[1] is None:
            bad = False  # a call into the parser without a file, as ast.literal_eval makes
    if event == "import":
        bad = args[1] is not None and not _inside(str(args[1]))
    if bad:
        where, state["where"] = state["where"], ""
        deeds.append((where, event, repr(args)[:300]))
        state["where"] = where


def everything(folder: Path) -> dict[str, Callable[[], object]]:
    """What can be opened in a folder, by how it is opened."""
    import headstart
    from headstart import report, sealed
    from headstart.data import cache
    from headstart.data.store import ArrayStore
    from headstart.ship.exported import open_export
    from headstart.ship.model import load
    from headstart.sources import list_sources, open_source
    from headstart.transfer import checkpoint

    run = folder / "run"
    found: dict[str, Callable[[], object]] = {
        "load": lambda: load(run),
        "resume": lambda: headstart.resume(run),
        "source": lambda: open_source(str(run / "model")),
        "sources": lambda: list_sources([folder]),
        "checkpoint": lambda: checkpoint.load_latest(folder / "checkpoints"),
        "store": lambda: ArrayStore({"dtype": "float32"}, kind="features", folder=folder / "store").find(["ab" * 32]),
        "cache": lambda: cache.entries(),
        "report": lambda: report.render(json.loads((run / "run.json").read_bytes()), pictures={}),
        "sealed": lambda: sealed.read_sealed(run),
        "predict": lambda: headstart.predict(run, folder / "picture.png", engine="torch"),
    }
    for export in sorted((folder / "exports").iterdir()) if (folder / "exports").is_dir() else ():
        found[export.name] = lambda export=export: open_export(export)
    for weights in sorted(folder.glob("weights*")):
        found[weights.name] = lambda weights=weights: open_source("random:test_resnet", weights=str(weights))
    return found


def open_all(folder: Path, *, watched: bool) -> None:
    for name, opened in everything(folder).items():
        state["where"] = f"{folder.name}: {name}" if watched else ""
        try:
            with suppress(UserError, ValueError):
                opened()
        finally:
            state["where"] = ""


def main(place: Path) -> None:
    state["allowed"] = tuple(
        os.path.realpath(p) + os.sep for p in (place, os.environ["HEADSTART_HOME"], tempfile.gettempdir() + "/none")
    )
    open_all(place / "good", watched=False)
    sys.addaudithook(watch)
    for folder in sorted(place.iterdir()):
        if folder.is_dir():
            open_all(folder, watched=True)
    print(json.dumps(deeds))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
