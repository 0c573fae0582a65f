"""The command line: parse, call api, print, exit code; no logic.

Exit codes: 0 done; 1 our own bug; 2 the user's to mend; 130 and 143 interrupted by Ctrl-C and SIGTERM; 141 the reader
of a pipe went away.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from headstart import __version__
from headstart._cli_advice import advise, sources
from headstart._cli_extending import extend
from headstart._cli_options import (
    Data,
    Json,
    JsonTo,
    OnDevice,
    Quiet,
    api,
    print_json,
    settings_of,
    strategies_of,
    with_settings,
)
from headstart._cli_pruning import prune
from headstart._cli_pushing import push
from headstart._cli_shipping import AnsweredBy, Engine, explain, export, serve
from headstart.errors import DataError, HeadstartError, Interrupted, OutputError, SettingsError
from headstart.progress import reporter_for, safe

__all__ = ["app", "main", "run"]

app = typer.Typer(
    name="headstart",
    help="The best honest classifier from a pretrained network and a small labelled set.",
    epilog="A first session: headstart inspect PICTURES, then headstart fit PICTURES --out RUN.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

RunFolder = Annotated[Path, typer.Argument(help="Run folder that fit or compare wrote.", metavar="RUN")]
Out = Annotated[Path | None, typer.Option("--out", help="Run folder to write; default: headstart-runs/NAME-N.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")]


class _Terminated(BaseException):
    """SIGTERM arrived where no loop was listening."""


# --- errors to messages and exit codes ---------------------------------------------------------------------


def _debugging() -> bool:
    return os.environ.get("HEADSTART_DEBUG", "") not in ("", "0")


def _told(message: object, code: int) -> int:
    if _debugging():
        import traceback

        traceback.print_exc()
    typer.echo(safe(message), err=True)
    return code


def _bug(error: BaseException) -> int:
    """Write the traceback to a file and ask for a report, in one line."""
    import platform
    import tempfile
    import traceback

    from headstart import files

    place = Path(tempfile.gettempdir()) / f"headstart-traceback-{os.getpid()}.txt"
    head = f"headstart {__version__}, Python {platform.python_version()}, {platform.platform()}\n{safe(sys.argv)}\n\n"
    text = head + "".join(traceback.format_exception(error))
    try:
        files.write_text(place, text.encode("utf-8", "backslashreplace").decode())
        where = f"the traceback is in {place} (HEADSTART_DEBUG=1 shows it here)"
    except HeadstartError:
        where = "HEADSTART_DEBUG=1 shows the traceback"
    return _told(f"error: this is a bug in headstart, please report it: {type(error).__name__}: {error}; {where}", 1)


def _code(error: BaseException) -> int:
    """Tell what happened in one line on standard error; the exit code."""
    import errno

    if isinstance(error, Interrupted):
        return _told(error, error.exit_code)
    if isinstance(error, HeadstartError):
        return _told(f"error: {error}", 2)
    if isinstance(error, BrokenPipeError):  # whoever read our output went away: nothing is wrong
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    if isinstance(error, KeyboardInterrupt | _Terminated):
        return _told("interrupted", 130 if isinstance(error, KeyboardInterrupt) else 143)
    outside = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
    if isinstance(error, OSError) and error.errno in (*outside, errno.EMFILE, errno.ENFILE):
        place = f" [{error.filename}]" if error.filename is not None else ""
        remedy = "Free some space or choose another place" if error.errno in outside else "Try: ulimit -n 1024"
        return _told(f"error: {error.strerror}{place}. {remedy}", 2)
    return _bug(error)


def _verb(function: Callable[..., Any]) -> Callable[..., Any]:
    """A verb whose every failure becomes one message and an exit code."""

    @functools.wraps(function)
    def guarded(**options: Any) -> None:
        try:
            function(**options)
            sys.stdout.flush()
        except typer.Exit:
            raise
        except BaseException as error:
            raise typer.Exit(_code(error)) from None

    return guarded


# --- helpers -----------------------------------------------------------------------------------------------


@contextmanager
def _run_folder(out: Path | None, name: str) -> Iterator[Path]:
    """`out`, else the first of headstart-runs/NAME-1, NAME-2 … that does not exist, made so that no other run takes it.

    Where nothing is written in it, it is removed again.
    """
    if out is not None:
        yield out
        return
    from headstart import files, runfolder

    n, parent = 1, files.make_folder("headstart-runs")
    while True:
        folder = parent / f"{name}-{n}"
        try:
            folder.mkdir()
            break
        except FileExistsError:
            n += 1
    try:
        yield folder
    finally:
        with suppress(OSError):
            if not runfolder.content(folder):
                (folder / ".lock").unlink(missing_ok=True)
                folder.rmdir()
        with suppress(OSError):  # other runs stand there
            parent.rmdir()


def _name_of(data: str) -> str:
    return Path(data).resolve().stem or "data"


def _write_picture(picture: Any, place: Path) -> None:
    from headstart import files

    kind = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}.get(place.suffix.lower())
    if kind is None:
        raise OutputError("a grid is written as .png, .jpg or .webp", where=place)
    with files.write_stream(place) as stream:
        picture.save(stream, kind)


def _finish(result: Any, *, as_json: bool, quiet: bool) -> None:
    """Print the run's record, its summary, or nothing; of several processes only the first speaks."""
    if os.environ.get("RANK", "0") != "0":
        return
    if as_json:
        print_json(result.run)
    elif not quiet:
        from headstart import console

        console.run_summary(result.run, result.folder)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"headstart {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    ctx: typer.Context,
    version: Annotated[  # noqa: ARG001  its callback answers
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    """The best honest classifier from a pretrained network and a small labelled set."""
    if debug:
        os.environ["HEADSTART_DEBUG"] = "1"
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help(), nl=False)


# --- verbs -------------------------------------------------------------------------------------------------


@app.command(cls=JsonTo)
@_verb
def inspect(
    data: Data,
    *,
    json_to: Annotated[
        str | None, typer.Option("--json", metavar="[FILE.json]", help="Write what was found as JSON: here or to FILE.")
    ] = None,
    group: Annotated[
        str | None, typer.Option(help="Column of the manifest whose items belong together, or 'folder'; as in fit.")
    ] = None,
    sample: Annotated[int | None, typer.Option(min=1, help="Draw N labelled pictures as a grid; needs --out.")] = None,
    out: Annotated[Path | None, typer.Option(help="Picture file for --sample, for example grid.png.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sample.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Look at the data before training: counts, unreadable files, duplicates, leaks, sizes. Loads no network."""
    if (sample is None) != (out is None):
        raise SettingsError("--sample and --out belong together", remedy="For example --sample 24 --out grid.png")
    found = api().inspect(data, group=group, reporter=reporter_for(quiet=quiet))
    if json_to == "-":
        print_json(found)
    elif json_to is not None:
        from headstart import files

        files.write_json(json_to, found)
    else:
        from headstart import console

        console.inspection(found)
    if sample is not None and out is not None:
        _write_picture(api().sample(data, sample, seed=seed), out)


app.command()(_verb(sources))
app.command()(_verb(advise))


@app.command()
@_verb
@with_settings()
def fit(
    data: Data,
    *,
    out: Out = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
    **options: Any,
) -> None:
    """Train and judge one classifier; writes a run folder with report, predictions and model."""
    settings, extra = settings_of(options), {"overwrite": True} if overwrite else {}
    with _run_folder(out, _name_of(data)) as folder:
        result = api().fit(data, folder, settings=settings, reporter=reporter_for(quiet=quiet), **extra)
    _finish(result, as_json=as_json, quiet=quiet)


@app.command()
@_verb
@with_settings(without=("strategy", "refit"))
def compare(
    data: Data,
    *,
    out: Out = None,
    strategies: Annotated[
        str | None, typer.Option(help="Strategies to race, for example frozen,full; default: all.")
    ] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
    **options: Any,
) -> None:
    """Race several strategies on the same splits; writes a run folder with the best one's model."""
    settings, extra = settings_of(options), {"overwrite": True} if overwrite else {}
    names, reporter = strategies_of(strategies), reporter_for(quiet=quiet)
    with _run_folder(out, _name_of(data)) as folder:
        result = api().compare(data, folder, strategies=names, settings=settings, reporter=reporter, **extra)
    _finish(result, as_json=as_json, quiet=quiet)


@app.command()
@_verb
def resume(run: RunFolder, *, quiet: Quiet = False, as_json: Json = False) -> None:
    """Go on with an interrupted run; a finished one is left as it is."""
    _finish(api().resume(run, reporter=reporter_for(quiet=quiet)), as_json=as_json, quiet=quiet)


@app.command()
@_verb
def evaluate(
    run: RunFolder,
    data: Data,
    *,
    split: Annotated[
        str | None, typer.Option(help="train, val, test or all; default: test, without it val, without both all.")
    ] = None,
    device: OnDevice = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Judge a model on labelled data that it has not seen."""
    scores = api().evaluate(run, data, split=split, device=device, reporter=reporter_for(quiet=quiet))
    if as_json:
        print_json(scores)
    else:
        from headstart import console

        console.scores(scores)


@app.command()
@_verb
def predict(
    run: RunFolder,
    files: Annotated[list[Path], typer.Argument(help="Pictures, or folders of pictures.", metavar="FILES...")],
    *,
    as_csv: Annotated[bool, typer.Option("--csv", help="Write CSV to standard output.")] = False,
    top_k: Annotated[int | None, typer.Option(min=1, help="Give the K most probable classes only.")] = None,
    engine: AnsweredBy = Engine.auto,
    device: OnDevice = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Name the class of pictures, with its probability."""
    if as_json and as_csv:
        raise SettingsError("give --json or --csv, not both")
    from headstart import console

    reporter = reporter_for(quiet=quiet)
    answers = api().predict(run, files, top_k=top_k, engine=engine.value, device=device, reporter=reporter)
    if as_json:
        print_json(answers)
    elif as_csv:
        console.predictions_csv(answers)
    else:
        console.predictions(answers)
    if answers and all("error" in answer for answer in answers):
        raise DataError(
            f"none of the {len(answers)} files could be read", remedy="Their reasons stand beside their names."
        )


for _used in (export, prune, extend, explain, serve, push):
    app.command()(_verb(_used))


@app.command()
@_verb
def subset(
    data: Data,
    *,
    out: Annotated[Path, typer.Option(help="Folder to write: SPLIT/CLASS/file.")],
    per_class: Annotated[int, typer.Option(min=1, help="Training items of each class.")],
    val: Annotated[int, typer.Option(min=0, help="Validation items in all.")] = 0,
    test: Annotated[int, typer.Option(min=0, help="Test items in all.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the choice.")] = 0,
    copy: Annotated[bool, typer.Option("--copy", help="Copy the files instead of linking them.")] = False,
    as_json: Json = False,
) -> None:
    """Write a smaller data set with the same number of items in each class."""
    mode = "copy" if copy else "link"
    made = api().subset(data, out, per_class=per_class, val=val, test=test, seed=seed, mode=mode)
    if as_json:
        print_json(made)
    else:
        from headstart import console

        console.subset(made)


@app.command()
@_verb
def demo(
    *,
    out: Annotated[Path | None, typer.Option(help="Run folder to write; default: headstart-runs/demo-N.")] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Show a whole run in a minute, on drawn pictures and a tiny network that is shipped: nothing is downloaded."""
    with _run_folder(out, "demo") as folder:
        result = api().demo(folder, reporter=reporter_for(quiet=quiet))
    _finish(result, as_json=as_json, quiet=quiet)


@app.command()
@_verb
def cache(
    *,
    prune: Annotated[bool, typer.Option("--prune", help="Remove what was used least recently, down to --to.")] = False,
    to: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Size for --prune, for example 2GB; default: the bound.")
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Remove everything, or what --kind names.")] = False,
    kind: Annotated[str | None, typer.Option(help="features, decoded, engines or seen; default: all.")] = None,
    as_json: Json = False,
) -> None:
    """Show what is kept between runs: features, decoded pictures, exported networks, what audits saw; remove it."""
    found = api().cache(prune=prune, to=to, clear=clear, kind=kind)
    if as_json:
        print_json(found)
    else:
        from headstart import console

        console.kept(found)


@app.command()
@_verb
def doctor(*, as_json: Json = False) -> None:
    """Check this installation; exit code 2 when something needs mending."""
    checks = api().doctor()
    if as_json:
        print_json(checks)
    else:
        from headstart import console

        console.checks(checks)
    if any(check["ok"] is False for check in checks):
        raise typer.Exit(2)


# --- the door ----------------------------------------------------------------------------------------------


def run(args: Sequence[str] | None = None) -> int:
    """Run one command line (without the program's name; default: this process's) and return the exit code."""
    import signal
    import threading

    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show must not end the run
    before = None
    if threading.current_thread() is threading.main_thread():
        before = signal.signal(signal.SIGTERM, _terminate)
    try:
        result = typer.main.get_command(app).main(args=args, prog_name="headstart", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except SystemExit as error:  # a completion script was asked for
        return error.code if isinstance(error.code, int) else 0
    except BaseException as error:
        if hasattr(error, "format_message"):  # click's own usage errors
            return _told(f"error: {_usage(error)}", 2)
        return _code(error)
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _terminate(number: int, frame: object) -> None:  # noqa: ARG001  the signal module's signature
    raise _Terminated


def _usage(error: Any) -> str:
    """A usage error in one line, with the command whose help lists what exists."""
    command = error.ctx.command_path if getattr(error, "ctx", None) is not None else "headstart"
    message = " ".join(str(error.format_message()).split()).replace("Value error, ", "").rstrip(".")
    return f"{message}{'' if message.endswith('?') else '.'} See: {command} --help"


def main() -> None:
    """The console script."""
    import warnings

    warnings.filterwarnings("ignore", module=r"PIL\.")  # what is wrong with a picture is in the audit
    code = run()
    if os.environ.get("WORLD_SIZE", "1") == "1":
        _end(code)
    sys.exit(code)


def _end(code: int) -> None:
    """End the process at once: every file is written and synced, and to take torch apart would need half a second."""
    import atexit

    try:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except (AttributeError, OSError, ValueError):  # a stream is closed or missing: Python knows what to do about it
        return
    os._exit(code)
