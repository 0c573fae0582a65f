"""The command line: flags are the settings, outcomes are exit codes, output is for people or for programs."""

from __future__ import annotations

import csv
import dataclasses
import errno
import io
import json
import os
import signal
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headstart import cli, console, errors
from headstart._cli_options import flag_name
from headstart.settings import Settings

RUN = {
    "headstart": "0.1.0",
    "source": {"address": "toy"},
    "plan": {"strategy": "frozen", "head": "linear", "trained_parameters": 1026, "reasons": ["few items"]},
    "scores": {"test": {"n": 153, "accuracy": 0.9412, "accuracy_interval": [0.892, 0.969]}},
    "baselines": {"majority": {"accuracy": 0.5425, "accuracy_interval": [0.46, 0.62], "class": "bees"}},
    "gain_over_scratch": {"points": 25.5, "interval": [18.2, 32.7]},
    "diagnosis": {"sentence": "Training and validation agree."},
    "seconds": {"total": 75.2},
    "data": {"skipped": [{"file": "a.jpg", "reason": "cut"}], "leaks": [], "warnings": ["one class is small"]},
    "race": [],
}
FOUND = {
    "classes": ["ants", "bees"],
    "splits": {"train": {"n": 5, "per_class": {"ants": 4, "bees": 1}}, "test": {"n": 1, "per_class": {"ants": 1}}},
    "skipped": [{"file": f"broken{i}.jpg", "reason": "truncated"} for i in range(12)],
    "suspicious": [],
    "duplicates": [["a.jpg", "b.jpg"]],
    "leaks": [],
    "contradictions": [],
    "sizes": {
        "width": {"min": 10, "median": 20, "max": 30},
        "height": {"min": 11, "median": 21, "max": 31},
        "modes": {"RGB": 5, "L": 1},
        "formats": {"JPEG": 6},
    },
    "near_duplicates": {
        "groups": [["c.jpg", "d.jpg", "e.jpg", "f.jpg", "g.jpg"]],
        "across_splits": [["c.jpg", "d.jpg"]],
        "contradictions": [],
        "how": "by hashes",
        "test": None,
    },
    "group_leaks": [{"group": "p1", "splits": ["train", "test"]}],
    "imbalance": 4.0,
    "warnings": ["the class bees has one item"],
    "notes": ["split by us"],
}
SUBSET = {"path": "small", "classes": ["ants", "bees"], "splits": {"train": 6, "val": 2}, "notes": ["by seed"]}
ANSWERS = [
    {"file": "a.jpg", "label": "ants", "probability": 0.75, "probabilities": {"ants": 0.75, "bees": 0.25}},
    {"file": "b.jpg", "error": "truncated"},
]
SCORES = {
    "n": 10,
    "accuracy": 0.9,
    "accuracy_interval": [0.6, 0.98],
    "balanced_accuracy": 0.88,
    "macro_f1": 0.875,
    "log_loss": 0.3,
    "calibration_error": 0.05,
    "top5_accuracy": None,
    "per_class": {"ants": {"n": 6, "precision": 1.0, "recall": 0.8, "f1": 0.89}},
}


KEPT: dict[str, Any] = {
    "folder": "kept here",
    "bound": 10_000_000_000,
    "total": 1_300_000_000,
    "entries": [
        {
            "kind": "features", "source": "timm:x", "what": "center view at head", "dtype": "float32",
            "engine": "torch-2.15/fp32", "rows": 885, "bytes": 4_531_200, "used": "2026-01-02T03:04:05+00:00",
            "folder": "f",
        },
    ],
    "removed": [],
}  # fmt: skip


class FakeApi(types.ModuleType):
    """Stands for headstart.api: records the calls, gives fixed answers, or raises `error`."""

    def __init__(self) -> None:
        super().__init__("headstart.api")
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.error: BaseException | None = None
        result = types.SimpleNamespace(folder=Path("runs/x y"), run=RUN, model=None)
        answers = {
            **dict.fromkeys(("fit", "compare", "resume", "demo"), result),
            "inspect": FOUND,
            "subset": SUBSET,
            "evaluate": SCORES,
            "predict": ANSWERS,
            "sources": [{"address": "toy", "parameters": 10, "licence": None}],
            "cache": KEPT,
            "doctor": [{"check": "torch", "ok": True, "detail": "2.15", "remedy": ""}],
        }
        self.answers: dict[str, Any] = answers
        for name in [*answers, "sample"]:
            setattr(self, name, self._verb(name))

    def _verb(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            self.calls.append((name, args, options))
            if reporter := options.get("reporter"):
                reporter.say("working")
            if self.error is not None:
                raise self.error
            if name == "sample":
                from PIL import Image

                return Image.new("RGB", (4, 4))
            return self.answers[name]

        return call


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeApi:
    fake = FakeApi()
    monkeypatch.setitem(sys.modules, "headstart.api", fake)
    monkeypatch.delenv("HEADSTART_DEBUG", raising=False)
    monkeypatch.chdir(tmp_path)
    return fake


def options_of(api: FakeApi) -> dict[str, Any]:
    return api.calls[-1][2]


# --- flags --------------------------------------------------------------------------------------------------


def sample_value(field: dataclasses.Field[Any]) -> Any:
    """A valid value of the option that differs from its default."""
    facts = field.metadata
    if facts["choices"]:
        return next(choice for choice in facts["choices"] if choice != field.default)
    if isinstance(field.default, bool):
        return not field.default
    kind = str(field.type)
    if kind.startswith("bool"):
        return True
    if kind.startswith("int"):
        return int(facts["low"] or 0) + 4
    if kind.startswith("float"):
        return 0.25
    return {"lr": "0.125", "device": "cuda", "cache_size": "20GB", "budget": "90s"}.get(field.name, "word")


@pytest.mark.parametrize("field", dataclasses.fields(Settings), ids=lambda field: field.name)
def test_every_setting_is_a_flag_that_arrives_as_given(api: FakeApi, field: dataclasses.Field[Any]) -> None:
    value = sample_value(field)
    words = [flag_name(field.name), str(value)]
    if isinstance(value, bool):
        words = [flag_name(field.name)] if value else ["--no-" + flag_name(field.name)[2:]]
    if field.name in ("cut", "train_last"):
        words += ["--strategy", "partial"]
    assert cli.run(["fit", "data", *words, "--quiet"]) == 0
    settings = options_of(api)["settings"]
    assert getattr(settings, field.name) == value
    assert {*settings.non_default()} - {"strategy"} == {field.name} - {"strategy"}


def test_the_flags_that_a_run_records_give_the_run_again(api: FakeApi) -> None:
    wanted = Settings.of(epochs=7, hflip=False, vflip=True, strategy="full", lr="find", label_smoothing=0.1)
    assert cli.run(["fit", "data", *wanted.flags(), "-q"]) == 0
    assert options_of(api)["settings"] == wanted


def test_compare_takes_strategies_instead_of_one(api: FakeApi) -> None:
    assert cli.run(["compare", "data", "--strategies", "frozen, full,frozen", "--epochs", "2", "-q"]) == 0
    assert options_of(api)["strategies"] == ["frozen", "full"]
    assert options_of(api)["settings"].epochs == 2
    assert cli.run(["compare", "data", "--strategy", "full"]) == 2


@pytest.mark.parametrize("text", ["fulll", ","])
def test_compare_refuses_strategies_that_do_not_exist(api: FakeApi, text: str, capsys: Any) -> None:
    assert cli.run(["compare", "data", "--strategies", text]) == 2
    assert "full" in capsys.readouterr().err


def test_the_default_run_folder_is_named_after_the_data_and_never_taken(api: FakeApi, tmp_path: Path) -> None:
    (tmp_path / "headstart-runs" / "flowers-1").mkdir(parents=True)
    assert cli.run(["fit", "some/flowers", "-q"]) == 0
    assert api.calls[-1][1] == ("some/flowers", Path("headstart-runs/flowers-2"))
    assert cli.run(["demo", "-q"]) == 0
    assert api.calls[-1][1] == (Path("headstart-runs/demo-1"),)


@pytest.mark.parametrize("verb", ["fit", "compare"])
def test_overwrite_is_passed_on_only_when_asked(api: FakeApi, verb: str) -> None:
    cli.run([verb, "data", "--out", "r", "-q"])
    assert "overwrite" not in options_of(api)
    cli.run([verb, "data", "--out", "r", "--overwrite", "-q"])
    assert options_of(api)["overwrite"] is True


# --- exit codes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["fit"], "DATA"),
        (["fitt"], "Did you mean 'fit'?"),
        (["fit", "data", "--epoch", "3"], "--epochs"),
        (["fit", "data", "--epochs", "three"], "valid int"),
        (["fit", "data", "--epochs", "0"], "at least 1"),
        (["fit", "data", "--head", "tree"], "'linear'"),
        (["fit", "data", "--crop-scale", "0"], "above 0"),
        (["inspect", "data", "--sample", "5"], "--out"),
        (["inspect", "data", "--sample", "5", "--out", "grid.bmp"], ".png"),
        (["predict", "run", "a.jpg", "--json", "--csv"], "not both"),
    ],
)
def test_a_mistake_in_the_command_is_one_line_and_exit_code_2(
    api: FakeApi, words: list[str], part: str, capsys: Any
) -> None:
    assert cli.run(words) == 2
    told = capsys.readouterr()
    lines = [line for line in told.err.splitlines() if line != "working"]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert part in lines[0]
    assert "Traceback" not in told.err + told.out


def user_errors() -> list[errors.HeadstartError]:
    kinds = [errors.DataError, errors.SourceError, errors.SettingsError, errors.OutputError, errors.RunError]
    made: list[errors.HeadstartError] = [kind("wrong", where="there", remedy="Mend it") for kind in kinds]
    return [
        *made,
        errors.ModelError("wrong"),
        errors.MissingExtraError("onnx", "onnx", "export"),
        errors.UnreadableImage("wrong", "cut"),
    ]


@pytest.mark.parametrize("error", user_errors(), ids=lambda error: type(error).__name__)
def test_every_error_for_the_user_is_one_line_and_exit_code_2(
    api: FakeApi, error: errors.HeadstartError, capsys: Any
) -> None:
    api.error = error
    assert cli.run(["fit", "data", "--quiet"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == f"error: {error}\n"


def test_a_name_with_a_newline_cannot_forge_a_second_line(api: FakeApi, capsys: Any) -> None:
    api.error = errors.DataError("cannot be read", where="a\nerror: all is lost\x1b[2J")
    assert cli.run(["fit", "data", "-q"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_our_own_bug_is_one_line_with_a_traceback_file(
    api: FakeApi, capsys: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    api.error = ZeroDivisionError("division by zero")
    assert cli.run(["resume", "run", "-q"]) == 1
    told = capsys.readouterr().err
    assert len(told.splitlines()) == 1
    assert "report" in told
    [written] = tmp_path.glob("headstart-traceback-*.txt")
    assert str(written) in told
    assert "ZeroDivisionError" in written.read_text()


def test_a_bug_is_told_even_where_nothing_can_be_written(
    api: FakeApi, capsys: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))
    api.error = EOFError()
    assert cli.run(["resume", "run", "-q"]) == 1
    assert "please report" in capsys.readouterr().err


def test_debug_shows_the_traceback(api: FakeApi, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADSTART_DEBUG", "0")  # so that the flag's change is undone after the test
    api.error = errors.DataError("wrong")
    assert cli.run(["--debug", "fit", "data"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("code", [130, 143])
def test_an_interrupted_run_tells_the_resume_command(api: FakeApi, code: int, capsys: Any) -> None:
    api.error = errors.Interrupted(code, "headstart resume 'runs/x y'")
    assert cli.run(["fit", "data", "-q"]) == code
    assert "headstart resume 'runs/x y'" in capsys.readouterr().err


def test_ctrl_c_outside_the_loop_is_130(api: FakeApi, capsys: Any) -> None:
    api.error = KeyboardInterrupt()
    assert cli.run(["fit", "data", "-q"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_sigterm_outside_the_loop_is_143(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(api, "doctor", lambda: os.kill(os.getpid(), signal.SIGTERM) or [])
    assert cli.run(["doctor"]) == 143
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_full_disk_is_the_users_to_mend(api: FakeApi, capsys: Any) -> None:
    api.error = OSError(errno.ENOSPC, "No space left on device", "somewhere")
    assert cli.run(["fit", "data", "-q"]) == 2
    assert "No space left on device [somewhere]" in capsys.readouterr().err


def test_cache_shows_what_is_kept_and_what_was_removed(api: FakeApi, capsys: Any) -> None:
    assert cli.run(["cache"]) == 0
    assert api.calls[-1] == ("cache", (), {"prune": False, "to": None, "clear": False, "kind": None})
    out = capsys.readouterr().out
    for part in ("timm:x", "center view at head", "885", "4.53 MB", "2026-01-02 03:04", "1.3 GB of at most 10.0 GB"):
        assert part in out
    assert "removed" not in out
    api.answers["cache"] = {**KEPT, "entries": [], "removed": KEPT["entries"]}
    assert cli.run(["cache", "--prune", "--to", "2GB"]) == 0
    assert api.calls[-1][2] == {"prune": True, "to": "2GB", "clear": False, "kind": None}
    assert "removed: 1, 4.53 MB" in capsys.readouterr().out


def test_doctor_fails_only_for_what_must_be_mended(api: FakeApi, capsys: Any) -> None:
    rows = [{"check": "gpu", "ok": None, "detail": "none", "remedy": "slow"}]
    api.answers["doctor"] = rows
    assert cli.run(["doctor"]) == 0
    rows.append({"check": "torch", "ok": False, "detail": "too old", "remedy": "pip install torch"})
    assert cli.run(["doctor"]) == 2
    assert "torch: pip install torch" in capsys.readouterr().out
    assert cli.run(["doctor", "--json"]) == 2
    assert json.loads(capsys.readouterr().out) == rows


def test_predict_fails_when_no_file_could_be_read(api: FakeApi, capsys: Any) -> None:
    assert cli.run(["predict", "run", "a.jpg", "b.jpg", "-q"]) == 0
    api.answers["predict"] = [ANSWERS[1]]
    assert cli.run(["predict", "run", "b.jpg", "-q"]) == 2
    assert "none of the 1 files" in capsys.readouterr().err


# --- output ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["fit", "data"], RUN),
        (["compare", "data"], RUN),
        (["resume", "run"], RUN),
        (["demo"], RUN),
        (["inspect", "data"], FOUND),
        (["evaluate", "run", "data", "--split", "test"], SCORES),
        (["predict", "run", "a.jpg", "b.jpg", "--top-k", "2"], ANSWERS),
        (["sources", "--all", "*"], [{"address": "toy", "parameters": 10, "licence": None}]),
        (["subset", "data", "--per-class", "3", "--out", "small"], SUBSET),
        (["cache"], KEPT),
    ],
    ids=lambda value: value[0] if isinstance(value, list) and isinstance(value[0], str) else "",
)
def test_json_is_all_of_standard_output(api: FakeApi, words: list[str], answer: object, capsys: Any) -> None:
    assert cli.run([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == answer


def test_progress_goes_to_standard_error_and_quiet_shows_none(api: FakeApi, capsys: Any) -> None:
    cli.run(["fit", "data"])
    told = capsys.readouterr()
    assert "working" in told.err
    assert "working" not in told.out
    cli.run(["fit", "data", "--quiet"])
    assert capsys.readouterr() == ("", "")


def test_the_summary_of_a_fit_says_how_good_against_what_and_where(api: FakeApi, capsys: Any) -> None:
    assert cli.run(["fit", "data"]) == 0
    out = capsys.readouterr().out
    for part in (
        "94.1%  (95 % interval 89.2 to 96.9 %; 153 items",
        "54.2%  (always bees)",
        "+39.9 points over the majority",
        "+25.5 points over training from scratch  (95 % interval 18.2 to 32.7)",
        "because few items",
        "1 min 15 s",
        "runs/x y/report.html",
        "headstart predict 'runs/x y' PICTURES",
        "1 files skipped",
        "one class is small",
    ):
        assert part in out


def test_a_race_is_a_table_with_its_failures(api: FakeApi, capsys: Any) -> None:
    won = {"accuracy": 0.9, "accuracy_interval": [0.8, 0.95]}
    race = [
        {
            "strategy": "frozen",
            "head": "linear",
            "val": won,
            "test": won,
            "seconds": 2.0,
            "trained_parameters": 5,
            "gap": 0.071,
            "finalist": True,
        },
        {"strategy": "full", "head": "linear", "error": "out of memory"},
    ]
    api.answers["compare"] = types.SimpleNamespace(folder=None, run={"race": race}, model=None)
    assert cli.run(["compare", "data"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "90.0% (80.0 to 95.0 %)" in lines[1]
    assert lines[1].endswith("chosen")
    assert "+7.1" in lines[1]
    assert "failed: out of memory" in lines[2]


def test_inspect_shows_counts_and_everything_that_wants_a_look(api: FakeApi, capsys: Any) -> None:
    assert cli.run(["inspect", "data"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[:4]] == [
        ["class", "train", "test"], ["ants", "4", "1"], ["bees", "1", "0"], ["all", "5", "1"]
    ]  # fmt: skip
    text = "\n".join(lines)
    for part in (
        "skipped: 12",
        "… and 2 more",
        "a.jpg = b.jpg",
        "nearly the same: 1",
        "c.jpg ~ d.jpg ~ e.jpg ~ f.jpg ~ …",
        "nearly the same over splits: 1",
        "p1: train, test",
        "median 20",
        "RGB 5, L 1",
        "4.0 times",
        "warning: the",
    ):
        assert part in text


def test_inspect_json_goes_to_a_file_or_stands_alone(api: FakeApi, capsys: Any, tmp_path: Path) -> None:
    assert cli.run(["inspect", "data", "--json", "found.json"]) == 0
    assert json.loads((tmp_path / "found.json").read_text()) == FOUND
    for words in (["--json", "data"], ["data", "--json", "-"], ["--json", "-q", "data"], ["--json", "--", "data"]):
        capsys.readouterr()
        assert cli.run(["inspect", *words]) == 0
        assert json.loads(capsys.readouterr().out) == FOUND


def test_inspect_draws_a_sample(api: FakeApi, tmp_path: Path) -> None:
    assert cli.run(["inspect", "data", "--sample", "4", "--out", "grid.png", "--seed", "3", "-q"]) == 0
    assert api.calls[-1] == ("sample", ("data", 4), {"seed": 3})
    assert (tmp_path / "grid.png").read_bytes().startswith(b"\x89PNG")


def test_subset_passes_numbers_and_mode(api: FakeApi, capsys: Any) -> None:
    words = ["--per-class", "100", "--val", "50", "--test", "20", "--out", "small", "--copy", "--seed", "4"]
    assert cli.run(["subset", "data", *words]) == 0
    assert api.calls[-1] == (
        "subset",
        ("data", Path("small")),
        {"per_class": 100, "val": 50, "test": 20, "seed": 4, "mode": "copy"},
    )
    assert capsys.readouterr().out == "small: 2 classes, train 6, val 2 items\nnote: by seed\n"


def test_predict_csv_is_csv_whatever_the_names(api: FakeApi, capsys: Any) -> None:
    odd = 'a,"b"\n.jpg'
    api.answers["predict"] = [{**ANSWERS[0], "file": odd}, ANSWERS[1]]
    assert cli.run(["predict", "run", "a", "--csv", "-q"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert rows[0]["file"] == odd
    assert (rows[0]["label"], rows[0]["p:bees"]) == ("ants", "0.25")
    assert (rows[1]["label"], rows[1]["error"]) == ("", "truncated")


def test_tables_for_people_name_every_file(api: FakeApi, capsys: Any) -> None:
    assert cli.run(["predict", "run", "a.jpg", "b.jpg", "-q"]) == 0
    out = capsys.readouterr().out
    assert "75.0%  (bees 25.0%)" in out
    assert "unreadable  truncated" in out
    assert cli.run(["evaluate", "run", "data", "-q"]) == 0
    assert "90.0%  (95 % interval 60.0 to 98.0 %)" in capsys.readouterr().out
    assert cli.run(["sources"]) == 0
    assert "licence" not in capsys.readouterr().out  # a column that holds nothing
    api.answers["sources"] = []
    assert cli.run(["sources"]) == 0
    assert "no source found" in capsys.readouterr().out


HOSTILE = ["[red]x[/red]", "[/]", ":smile:", "😀.jpg", "na\udcffme.jpg", "line\nbreak", "\x1b[31mred", "\u202egpj.exe"]


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
@pytest.mark.parametrize("terminal", [False, True], ids=["pipe", "terminal"])
def test_hostile_names_are_shown_as_they_are_and_steer_nothing(
    api: FakeApi, name: str, terminal: bool, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "is_terminal", lambda: terminal)
    monkeypatch.setenv("COLUMNS", "200")
    api.answers["predict"] = [{**ANSWERS[0], "file": name}]
    assert cli.run(["predict", "run", "x", "-q"]) == 0
    out = capsys.readouterr().out
    assert console.safe(name) in out
    assert "\x1b[31m" not in out
    assert "\u202e" not in out
    assert cli.run(["predict", "run", "x", "-q", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["file"] == name


# --- as a process ---------------------------------------------------------------------------------------------


def headstart(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "headstart", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)


def test_help_version_and_no_words_answer(capsys: Any) -> None:
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("headstart 0.")
    assert cli.run([]) == 0
    assert "inspect" in capsys.readouterr().out
    assert cli.run(["fit", "--help"]) == 0
    assert "--layer-decay" in capsys.readouterr().out


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from headstart import cli; cli.run(['fit', '--help']);"
        "print([n for n in ('torch', 'numpy', 'PIL', 'timm', 'sklearn', 'headstart.api') if n in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert told.stdout.splitlines()[-1] == "[]"


def test_the_module_runs_as_the_command_does() -> None:
    told = headstart("fitt")
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr == "error: No such command 'fitt'. Did you mean 'fit'? See: headstart --help\n"


def test_a_reader_that_goes_away_is_no_error() -> None:
    code = (
        "import sys, types; fake = types.ModuleType('headstart.api');"
        "fake.sources = lambda *a, **k: [{'address': 'x' * 1000}] * 3000;"
        "sys.modules['headstart.api'] = fake; from headstart.cli import run; sys.exit(run(['sources']))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.read(100)
    process.stdout.close()
    assert process.wait(timeout=60) == 141
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()


def test_completion_knows_the_choices() -> None:
    environment = {**os.environ, "_HEADSTART_COMPLETE": "complete_bash", "COMP_CWORD": "4"}
    told = headstart(env={**environment, "COMP_WORDS": "headstart fit data --strategy fr"})
    assert "frozen" in told.stdout


# --- with the real api ------------------------------------------------------------------------------------------


def two_colours(folder: Path, splits: dict[str, int]) -> Path:
    """Write FOLDER/SPLIT/{blue,red}/N.png, so many a class in each split."""
    from PIL import Image

    for split, count in splits.items():
        for name, colour in (("blue", (20, 40, 200)), ("red", (210, 30, 20))):
            (folder / split / name).mkdir(parents=True)
            for n in range(count):
                shade = tuple(min(255, c + 2 * n + len(split)) for c in colour)
                Image.new("RGB", (36 + n, 40), shade).save(folder / split / name / f"{n}.png")
    return folder


def test_a_whole_session_from_looking_to_predicting(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = two_colours(tmp_path / "pictures", {"train": 6, "val": 3, "test": 4})
    (data / "train" / "red" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nhalf")

    def told(*words: str, code: int = 0) -> Any:
        assert cli.run([*words, "--json"]) == code, capsys.readouterr().err
        return json.loads(capsys.readouterr().out) if code == 0 else capsys.readouterr().err

    found = told("inspect", str(data))
    assert found["classes"] == ["blue", "red"]
    assert [row["file"] for row in found["skipped"]] == ["train/red/broken.png"]

    assert found["near_duplicates"]["groups"] == []
    assert "no column 'patient'" in told("inspect", str(data), "--group", "patient", code=2)
    assert "no column 'patient'" in told("fit", str(data), "--source", "toy", "--group", "patient", code=2)

    run = told("fit", str(data), "--source", "toy", "--head", "ridge", "--out", "run", "--seed", "3")
    assert run["settings"]["head"] == "ridge"
    assert run["plan"]["strategy"] == "frozen"
    assert run["scores"]["test"]["n"] == 8
    assert json.loads((tmp_path / "run" / "run.json").read_text()) == run
    assert "--overwrite" in told("fit", str(data), "--source", "toy", "--out", "run", code=2)

    assert told("resume", "run") == run
    judged = told("evaluate", "run", str(data), "--split", "test")
    assert judged["accuracy"] == pytest.approx(run["scores"]["test"]["accuracy"])
    answers = told(
        "predict", "run", str(data / "test" / "red"), str(data / "train" / "red" / "broken.png"), "--top-k", "1"
    )
    assert len(answers) == 5
    assert [set(answer) for answer in answers if "error" in answer] == [{"file", "error"}]
    assert all(len(answer["probabilities"]) == 1 for answer in answers if "error" not in answer)

    assert cli.run(["fit", str(data), "--source", "toy", "--out", "run", "--overwrite", "--quiet"]) == 0
    assert cli.run(["subset", str(data), "--per-class", "2", "--out", "small"]) == 0
    assert "small: 2 classes, train 4" in capsys.readouterr().out
    assert sorted(p.name for p in (tmp_path / "small" / "train").iterdir()) == ["blue", "red"]
    assert "toy" in [row["address"] for row in told("sources")]


def test_real_mistakes_end_in_one_line(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    two_colours(tmp_path / "data", {"train": 4})
    for words in (
        ["inspect", "nowhere"],
        ["fit", "nowhere", "--source", "toy"],
        ["fit", "data", "--source", "timm:resnet1888"],
        ["fit", "data", "--source", "toy", "--cut", "nowhere", "--strategy", "partial"],
        ["predict", "data", "x.png"],
        ["evaluate", "nowhere", "data"],
        ["resume", "data"],
    ):
        assert cli.run([*words, "--quiet"]) == 2, words
        told = capsys.readouterr()
        assert told.out == ""
        assert len(told.err.splitlines()) == 1, told.err
        assert told.err.startswith("error: ")
    assert not (tmp_path / "headstart-runs").exists()


def test_of_several_processes_only_the_first_prints(api: FakeApi, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for rank, speaks in (("0", True), ("1", False)):
        monkeypatch.setenv("RANK", rank)
        assert cli.run(["fit", "data", "--json"]) == 0
        assert bool(capsys.readouterr().out) is speaks


def test_the_process_ends_at_once_but_what_was_printed_and_promised_comes_first() -> None:
    code = """
import atexit
from headstart import cli
class Heavy:
    def __del__(self):
        print("taken apart")
held = Heavy()
cli.run = lambda: print("said", end="") or 3
atexit.register(print, " and done")
cli.main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, "said and done\n", "")
