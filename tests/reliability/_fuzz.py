"""Seeded mutations of files, and every parser of ours with the files that it is begun with."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _hostile import archive_of, signed

from hostile import requests
from serving import BOUNDARY, form

__all__ = ["Target", "mutated", "targets"]

VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**400, -(10**30), 0.5, 1e308, 1e-320, "", "a", "x" * 5_000, "../../x",
    "/etc/hostname", "\x00", "\ud800", "\u202e", "nan", [], {}, [[]], [{}], {"": ""}, [None] * 40,
    {"a": {"a": {"a": 1}}},
    "0" * 64, [1, 2, 3], ["a", "b", "c"], [3, 32, 32], "\n",
)  # fmt: skip
TOKENS = (
    b"NaN", b"Infinity", b"1e999", b"-0", b"null", b"{", b"}", b"[", b"]", b'"', b"\\u0000", b"\\ud800", b",", b":",
    b"\0",
    b"\xff", b"\xef\xbb\xbf", b"\r\n", b"\n", b";", b"\t", b"[" * 3_000, b"9" * 5_000, b"--", b"=", b"'", b"<", b"&",
    b"%00",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x80\x80\x80\x80\x10", b"PK\x03\x04", b"__metadata__",
)  # fmt: skip


def mutated(data: bytes, draw: random.Random) -> bytes:
    """The file with one to a few changes: of its meaning where it is JSON, of its bytes."""
    if draw.random() < 0.6:
        try:
            told = json.loads(data)
        except (ValueError, RecursionError):
            pass
        else:
            for _ in range(draw.choice((1, 1, 1, 2, 4))):
                told = _other(told, draw)
            return json.dumps(told).encode()
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 3, 8))):
        at = draw.randrange(len(changed) + 1)
        match draw.randrange(7):
            case 0 if changed:
                changed[at % len(changed)] ^= 1 << draw.randrange(8)
            case 1:
                changed[at:at] = draw.choice(TOKENS)
            case 2:
                del changed[at : at + draw.randrange(1, 40)]
            case 3:
                changed[at:at] = changed[draw.randrange(len(changed) + 1) :][: draw.randrange(1, 200)]
            case 4:
                del changed[at:]
            case 5:
                changed[at : at + 8] = draw.choice((0, 1, 2**31, 2**63, 2**64 - 1)).to_bytes(8, "little")
            case _:
                changed[at : at + draw.randrange(1, 20)] = draw.randbytes(draw.randrange(20))
    return bytes(changed)


def _other(value: Any, draw: random.Random) -> Any:
    """A JSON value with one part replaced, removed, doubled or renamed."""
    if isinstance(value, dict) and value and draw.random() < 0.9:
        name = draw.choice(list(value))
        match draw.randrange(6):
            case 0:
                return {key: entry for key, entry in value.items() if key != name}
            case 1:
                return {**value, draw.choice(("", "x", "../x", name.upper())): value[name]}
            case _:
                return {**value, name: _other(value[name], draw)}
    if isinstance(value, list) and value and draw.random() < 0.9:
        at = draw.randrange(len(value))
        if draw.random() < 0.3:
            return [*value[:at], *value[at + 1 :]] if draw.random() < 0.5 else [*value, value[at]]
        return [*value[:at], _other(value[at], draw), *value[at + 1 :]]
    return draw.choice(VALUES)


@dataclass(frozen=True)
class Target:
    """A parser: the files it is begun with, what reads one, and the errors it may raise."""

    seeds: tuple[bytes, ...]
    read: Callable[[bytes], object]
    allowed: tuple[type[BaseException], ...]


def _in_file(place: Path, name: str, opened: Callable[[], object]) -> Callable[[bytes], object]:
    def read(data: bytes) -> object:
        (place / name).write_bytes(data)
        return opened()

    return read


def targets(run: Path, place: Path, export: Path | None) -> dict[str, Target]:
    """Every parser, on copies of what lies in a finished run and an export."""
    return {**_of_models(run, place), **_of_data(run, place), **_of_graphs(export, place)}


def _of_models(run: Path, place: Path) -> dict[str, Target]:
    from headstart import runfolder, sealed
    from headstart.errors import UserError
    from headstart.ship.model import load
    from headstart.sources import open_source
    from headstart.transfer import checkpoint

    model = Path(shutil.copytree(run / "model", place / "model"))
    source = Path(shutil.copytree(run / "model", place / "source"))
    folder = Path(shutil.copytree(run, place / "run"))
    states = place / "states"
    state = checkpoint.save(states, "one", tensors={}, facts={"at": {"epoch": 1}})

    def opened_signed() -> object:
        signed(model)
        return load(model)

    record = (model / "headstart.json").read_bytes()

    def read_record(data: bytes) -> object:
        try:
            json.loads(data)
            (model / "headstart.json").write_bytes(data)
            return opened_signed()
        except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError):  # nothing to sign
            (model / "headstart.json").write_bytes(data)
            return load(model)

    files = {name: (folder / name).read_bytes() for name in ("run.json", "settings.json", "predictions.csv")}

    def sealed_of(name: str) -> Callable[[bytes], object]:
        def read(data: bytes) -> object:
            for other, whole in files.items():
                (folder / other).write_bytes(data if other == name else whole)
            return sealed._written(folder, runfolder.read(folder / "run.json"))

        return read

    user = (UserError,)
    config = (source / "config.json").read_bytes()
    return {
        "headstart.json": Target((record,), read_record, user),
        "config.json": Target((config,), _in_file(source, "config.json", lambda: open_source(str(source))), user),
        "settings.json": Target(
            (files["settings.json"],),
            _in_file(folder, "settings.json", lambda: runfolder.read(folder / "settings.json")), user,
        ),
        "run.json": Target((files["run.json"],), sealed_of("run.json"), user),
        "predictions.csv": Target((files["predictions.csv"],), sealed_of("predictions.csv"), user),
        "state.json": Target(
            ((state / "state.json").read_bytes(),),
            _in_file(state, "state.json", lambda: checkpoint.load_latest(states)), user,
        ),
        "report of run.json": Target((files["run.json"],), _rendered, user),
    }  # fmt: skip


def _rendered(data: bytes) -> object:
    """A report of whatever run.json says."""
    from headstart import files, report
    from headstart.errors import RunError

    try:
        told = files.parse_json(data)
    except ValueError as error:
        raise RunError("no JSON", remedy="none") from error
    if not isinstance(told, dict):
        return None
    return report.render(told, pictures={}), report.to_markdown(told)


def _of_data(run: Path, place: Path) -> dict[str, Target]:
    from headstart import tensors
    from headstart.data import read
    from headstart.data._shard import Shard, hash_table, write_shard
    from headstart.errors import UserError
    from headstart.ship.serve.limits import Limits, Refused, uploads_of

    shard = place / "shard.safetensors"
    write_shard(shard, hash_table(["ab" * 32, "cd" * 32]), np.ones((2, 3), np.float32), "float32")
    weights, archive = place / "w.safetensors", place / "w.pt"
    tables = place / "tables"
    tables.mkdir()
    (tables / "a.png").write_bytes(b"")

    def rows() -> object:
        found = Shard(shard, "float32")
        return [found.row(int(n)) for n in np.flatnonzero(found.good(np.arange(len(found))))]

    def table(name: str) -> Callable[[bytes], object]:
        return _in_file(tables, name, lambda: read.read(tables / name))

    limits, kind = Limits(), f"multipart/form-data; boundary={BOUNDARY}"
    forms = tuple(request.partition(b"\r\n\r\n")[2][:5_000] for request in requests(40, seed=3))
    for name in ("b.png", "c.png"):
        (tables / name).write_bytes(b"")
    csv = b'file_name,label,split,group\na.png,cat,train,1\nb.png,"d,o\ng",train,2\nc.png,cat,test,3\n'
    lines = b'{"file_name": "a.png", "label": "cat"}\n{"file_name": "b.png", "label": "3", "split": ""}\n'
    return {
        "a shard of the store": Target((shard.read_bytes(),), _in_file(place, shard.name, rows), (ValueError,)),
        "safetensors": Target(
            ((run / "model" / "head.safetensors").read_bytes(),),
            _in_file(place, weights.name, lambda: tensors.read(weights)), (ValueError,),
        ),
        "an archive": Target(
            (archive_of({"w/data.pkl": b"\x80\x02.", "w/data/0": b"1234"}),),
            _in_file(place, archive.name, lambda: tensors.check_archive(archive)), (ValueError,),
        ),
        "multipart": Target(
            (form({"a.png": b"abc", "b": b""})[0], *forms),
            lambda data: uploads_of(data, kind, limits=limits), (Refused,),
        ),
        "CSV": Target((csv, csv.replace(b"d,o", b"do").replace(b",", b";")), table("t.csv"), (UserError,)),
        "TSV": Target((csv.replace(b"d,o", b"do").replace(b",", b"\t"),), table("t.tsv"), (UserError,)),
        "JSON lines": Target((lines,), table("t.jsonl"), (UserError,)),
    }  # fmt: skip


def _of_graphs(export: Path | None, place: Path) -> dict[str, Target]:
    from headstart.errors import ModelError
    from headstart.report.exports import exports_section
    from headstart.ship._screen import screen_onnx, screen_openvino
    from headstart.ship.exported import find_export, read_certificate

    net = (b'<?xml version="1.0"?><net name="n"><layers><layer id="0" name="a" type="Const" version="opset1">'
           b'<data element_type="f32" offset="0" size="12"/></layer></layers></net>')  # fmt: skip
    found = {"OpenVINO": Target((net,), lambda data: screen_openvino(data, 100), (ValueError,))}
    if export is None:
        return found
    copy = Path(shutil.copytree(export, place / "run-of-export" / "exports" / "onnx-fp32"))
    graph = (copy / "model.onnx").read_bytes()

    def told() -> object:
        find_export(copy.parents[1])
        return exports_section([read_certificate(copy)])

    certificate = (copy / "certificate.json").read_bytes()
    found["certificate.json"] = Target((certificate,), _in_file(copy, "certificate.json", told), (ModelError,))
    found["ONNX"] = Target((graph,), screen_onnx, (ValueError,))
    return found
