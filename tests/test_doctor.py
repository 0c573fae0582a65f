"""The doctor: a row a check, and for every failure a way to mend it."""

from __future__ import annotations

import builtins
import sys
from importlib.metadata import PackageNotFoundError
from typing import Any

import pytest

from headstart import api, doctor
from headstart.errors import OutputError


def _by_name() -> dict[str, dict[str, Any]]:
    return {row["check"]: row for row in api.doctor()}


def test_a_sound_installation_fails_no_check() -> None:
    rows = api.doctor()
    assert all(row.keys() == {"check", "ok", "detail", "remedy"} for row in rows)
    assert [row for row in rows if row["ok"] is False] == []
    assert len({row["check"] for row in rows}) == len(rows)
    names = {row["check"] for row in rows}
    assert names >= {"python", "torch", "timm", "torch computes", "torch and torchvision fit", "toy source opens"}
    assert names >= {"device", "cache folder", "torchaudio"}


def test_what_is_sound_needs_no_remedy_and_what_is_not_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    for row in api.doctor():
        assert bool(row["remedy"]) == (row["ok"] is not True), row
    missing = _by_name()["onnxruntime (optional)"]
    assert missing["ok"] is None
    assert missing["remedy"] == "pip install 'headstart[onnx]'"


def test_a_token_of_the_hub_is_said_to_be_there_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert _by_name()["Hub token (optional)"]["ok"] is True
    assert "hf_secret" not in str(api.doctor())
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert _by_name()["Hub token (optional)"]["remedy"] == "hf auth login"


def test_a_missing_package_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    version = doctor.version

    def without_timm(name: str) -> str:
        if name == "timm":
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(doctor, "version", without_timm)
    row = _by_name()["timm"]
    assert (row["ok"], row["detail"], row["remedy"]) == (False, "not installed", "pip install timm")


def test_a_torch_that_cannot_be_imported_is_a_finding_and_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def broken(name: str, *args: Any, **options: Any) -> Any:
        if name.split(".")[0] in ("torch", "torchvision"):
            raise OSError("libtorch_cpu.so: cannot open shared object file")
        return real(name, *args, **options)

    for name in [n for n in sys.modules if n.split(".")[0] == "headstart" and ".sources" in n]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", broken)
    rows = {row["check"]: row for row in doctor.checks()}
    monkeypatch.undo()
    for name in ("torch computes", "torch and torchvision fit", "device"):
        assert rows[name]["ok"] is False, name
        assert "libtorch_cpu.so" in rows[name]["detail"]
        assert rows[name]["remedy"]


def test_a_torch_that_computes_wrongly_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch, "ones", lambda *shape: torch.zeros(*shape))
    row = _by_name()["torch computes"]
    assert row["ok"] is False
    assert "not 512" in row["detail"]


@pytest.mark.parametrize(("torchaudio", "ok"), [("0.4.0+cpu", False), ("same", True), (None, True)])
def test_a_torchaudio_of_another_torch_is_found(
    torchaudio: str | None, ok: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = doctor.version

    def told(name: str) -> str:
        if name != "torchaudio":
            return version(name)
        if torchaudio is None:
            raise PackageNotFoundError(name)
        return version("torch") if torchaudio == "same" else torchaudio

    monkeypatch.setattr(doctor, "version", told)
    row = _by_name()["torchaudio"]
    assert row["ok"] is ok
    assert ("pip uninstall torchaudio" in row["remedy"]) is not ok


def test_a_cache_folder_that_cannot_be_written_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("home") / "file"
    file.write_text("no folder")
    monkeypatch.setenv("HEADSTART_HOME", str(file))
    row = _by_name()["cache folder"]
    assert row["ok"] is False
    assert "HEADSTART_HOME" in row["remedy"]


def test_a_user_error_inside_a_check_gives_its_own_remedy() -> None:
    def fails() -> str:
        raise OutputError("full", remedy="Free some space.")

    row = doctor._tried("anything", fails)
    assert row["ok"] is False
    assert row["remedy"] == "Free some space."
