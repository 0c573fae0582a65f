"""F1, F3 and F4 of the catalogue: pickles, damaged safetensors and archives are refused, and nothing in them runs."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from _hostile import archive_of, pickles, safetensors_of, signed

import headstart
from headstart.data.store import ArrayStore
from headstart.errors import ModelError, SourceError, UserError
from headstart.ship.model import load
from headstart.sources import open_source
from headstart.transfer import checkpoint
from toydata import write_shapes

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".pkl", ".joblib", ".npy", ".npz", ".ckpt")


@pytest.fixture
def copied(frozen_run: Path, tmp_path: Path) -> Path:
    """A finished run that may be spoilt."""
    return Path(shutil.copytree(frozen_run, tmp_path / "run"))


@pytest.fixture(scope="module")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy as a folder in the timm convention; to read, not to change."""
    from headstart import sources

    place = Path(sources.__file__).parent / "toy"
    return Path(shutil.copytree(place, tmp_path_factory.mktemp("toy") / "toy"))


# --- F1: pickles ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_f1_a_pickle_of_any_kind_under_any_name_is_refused_as_weights(tmp_path: Path, suffix: str) -> None:
    marker = tmp_path / "marker"
    for kind, data in pickles(marker).items():
        file = tmp_path / f"weights{suffix}"
        file.write_bytes(data)
        with pytest.raises(SourceError, match=r"cannot be read|holds no state dict") as caught:
            open_source("random:test_resnet", weights=str(file))
        assert caught.value.where == file, kind
        assert not marker.exists(), kind


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth"])
def test_f1_a_pickle_in_a_source_s_folder_is_refused(toy_folder: Path, tmp_path: Path, name: str) -> None:
    folder, marker = Path(shutil.copytree(toy_folder, tmp_path / "toy")), tmp_path / "marker"
    (folder / "model.safetensors").unlink()
    for kind, data in pickles(marker).items():
        (folder / name).write_bytes(data)
        with pytest.raises(SourceError, match=r"cannot be read|holds no state dict"):
            open_source(str(folder))
        assert not marker.exists(), kind


@pytest.mark.parametrize("name", ["model.safetensors", "head.safetensors", "headstart.json", "config.json"])
def test_f1_a_pickle_in_a_model_is_refused_also_with_hashes_that_fit(copied: Path, tmp_path: Path, name: str) -> None:
    marker, model = tmp_path / "marker", copied / "model"
    whole = {file.name: file.read_bytes() for file in model.iterdir()}
    for kind, data in pickles(marker).items():
        for file, bytes_ in whole.items():
            (model / file).write_bytes(bytes_)
        (model / name).write_bytes(data)
        if name != "headstart.json":
            signed(model)
        with pytest.raises(ModelError):
            load(copied)
        assert not marker.exists(), kind


def test_f1_a_pickle_beside_a_model_is_not_looked_at(copied: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    for number, data in enumerate(pickles(marker).values()):
        for name in ("pytorch_model.bin", "model.pth", f"{number}.pkl", "optimizer.pt", "calibration.joblib", "x.npy"):
            (copied / "model" / name).write_bytes(data)
            (copied / name).write_bytes(data)
    load(copied)
    assert not marker.exists()


def test_f1_a_pickle_for_a_checkpoint_is_passed_over_also_with_a_hash_that_fits(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    checkpoint.save(tmp_path, "good", tensors={"a": torch.ones(3)}, facts={})
    place = checkpoint.save(tmp_path, "bad", tensors={"a": torch.zeros(3)}, facts={})
    for kind, data in pickles(marker).items():
        for name in ("state.safetensors", "state.json"):
            (place / name).write_bytes(data)
        _sign_state(place)
        found, notes = checkpoint.load_latest(tmp_path)
        assert found is not None
        assert found[0]["a"].tolist() == [1, 1, 1], kind
        assert list(notes) == [place.name]
        assert not marker.exists(), kind


def _sign_state(place: Path) -> None:
    """state.json with the right hashes for whatever lies beside it."""
    from headstart import files

    told = {"schema": 1, "number": 2, "sha256": files.hash_file(place / "state.safetensors")}
    files.write_json(place / "state.json", {**told, "own": files.hash_json(told)})


def test_f1_a_pickle_in_the_store_is_dropped_and_counted(tmp_path: Path) -> None:
    import numpy as np

    store = ArrayStore({"dtype": "float32"}, kind="features", root=tmp_path / "store")
    store.put(["ab" * 32], np.ones((1, 4), np.float32))
    marker, wanted = tmp_path / "marker", ["ab" * 32, "cd" * 32]
    for number, data in enumerate(pickles(marker).values()):
        (store.folder / f"{number}.safetensors").write_bytes(data)
        (store.folder / f"{number}.pkl").write_bytes(data)
    assert store.find(wanted).there.tolist() == [True, False]
    assert store.damaged == len(pickles(marker))
    assert not marker.exists()


def test_f1_an_export_that_is_a_pickle_is_refused_also_with_a_certificate_that_fits(tmp_path: Path) -> None:
    from headstart import files
    from headstart.ship.exported import open_export

    marker = tmp_path / "marker"
    for kind, data in pickles(marker).items():
        for to, names in {
            "onnx": ["model.onnx"],
            "torch": ["model.pt2"],
            "openvino": ["model.xml", "model.bin"],
        }.items():
            for name in names:
                (tmp_path / name).write_bytes(data)
            hashes = {name: {"sha256": files.hash_bytes(data)} for name in names}
            told = {
                "schema": 1, "classes": ["a", "b"], "card": {"architecture": "x"}, "model": {},
                "export": {"to": to, "precision": "fp32", "files": hashes},
            }  # fmt: skip
            files.write_json(tmp_path / "certificate.json", told)
            with pytest.raises(ModelError, match="not opened"):
                open_export(tmp_path)
            assert not marker.exists(), (kind, to)


# --- F3: safetensors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", safetensors_of())
def test_f3_a_safetensors_file_that_is_none_is_refused_and_named(tmp_path: Path, fault: str) -> None:
    file = tmp_path / "weights.safetensors"
    file.write_bytes(safetensors_of()[fault]())
    with pytest.raises(SourceError, match="cannot be read") as caught:
        open_source("random:test_resnet", weights=str(file))
    assert caught.value.where == file
    assert len(str(caught.value)) < 600


BOUNDED = """
import resource, sys
from pathlib import Path
from headstart import tensors
held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + (200 << 20),) * 2)
for file in sorted(Path(sys.argv[1]).iterdir()):
    try:
        tensors.shapes(file)
        print("opened", file.name)
    except ValueError as error:
        print("refused", file.name)
"""


def test_f3_what_is_refused_takes_less_than_200_mb(tmp_path: Path) -> None:
    for number, make in enumerate(safetensors_of().values()):
        (tmp_path / f"{number:02d}").write_bytes(make())
    done = subprocess.run(
        [sys.executable, "-c", BOUNDED, str(tmp_path)], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = done.stdout.splitlines()
    assert len(told) == len(safetensors_of())
    assert [line for line in told if not line.startswith("refused")] == []


def test_f3_whole_numbers_are_no_weights(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    state = dict(open_source("random:test_resnet").network.state_dict())
    state["conv1.0.weight"] = torch.ones_like(state["conv1.0.weight"], dtype=torch.int64)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(SourceError, match=r"no fractions conv1\.0\.weight int64"):
        open_source("random:test_resnet", weights=str(tmp_path / "w.safetensors"))


def test_f3_a_file_cut_or_grown_anywhere_is_refused(toy_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(toy_folder, tmp_path / "toy"))
    whole = (folder / "model.safetensors").read_bytes()
    for size in [*range(0, len(whole), max(1, len(whole) // 60)), len(whole) - 1]:
        (folder / "model.safetensors").write_bytes(whole[:size])
        with pytest.raises(SourceError, match="cannot be read"):
            open_source(str(folder))
    (folder / "model.safetensors").write_bytes(whole + b"\0")
    with pytest.raises(SourceError, match="cannot be read"):
        open_source(str(folder))


# --- F4: archives ---------------------------------------------------------------------------------------------------


def _torch_archive(tmp_path: Path) -> dict[str, bytes]:
    """The entries of a state dict that torch saved."""
    torch.save(dict(open_source("random:test_resnet").network.state_dict()), tmp_path / "w.pt")
    with zipfile.ZipFile(tmp_path / "w.pt") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _device(info: zipfile.ZipInfo) -> zipfile.ZipInfo:
    info.external_attr = 0o020666 << 16
    return info


def test_f4_no_archive_is_unpacked_and_one_for_weights_is_refused_where_torch_did_not_write_it(tmp_path: Path) -> None:
    entries, root = _torch_archive(tmp_path), next(iter(_torch_archive(tmp_path))).partition("/")[0]
    open_source("random:test_resnet", weights=str(tmp_path / "w.pt"))  # as it is, it opens
    inside = tmp_path / "inside"
    inside.mkdir()
    outside = {
        "a step up": {f"{root}/../../outside": b"x"}, "absolute": {str(tmp_path / "outside"): b"x"},
        "ten thousand": {f"{root}/data/x{n}": b"" for n in range(10_000)}, "a device": {f"{root}/zero": b""},
        "upper and lower": {f"{root}/DATA.PKL": b"x", f"{root}/Data.pkl": b"y"},
    }  # fmt: skip
    for kind, more in outside.items():
        (inside / "w.pt").write_bytes(archive_of({**more, **entries}))
        before = sorted(tmp_path.rglob("*"))
        with suppress(SourceError):  # whether it opens or not
            open_source("random:test_resnet", weights=str(inside / "w.pt"))
        assert sorted(tmp_path.rglob("*")) == before, kind


def test_f4_a_packed_archive_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    entries = _torch_archive(tmp_path)
    largest = max(entries, key=lambda name: len(entries[name]))
    bomb = {**entries, largest: bytes(400 << 20)}  # a thousand times its packed size
    (tmp_path / "bomb.pt").write_bytes(archive_of(bomb, how=zipfile.ZIP_DEFLATED))
    del bomb
    assert (tmp_path / "bomb.pt").stat().st_size < 4 << 20
    with pytest.raises(SourceError, match="packed entries"):
        open_source("random:test_resnet", weights=str(tmp_path / "bomb.pt"))


def test_f4_an_archive_is_no_data_no_source_no_model_and_no_run(tmp_path: Path) -> None:
    write_shapes(tmp_path / "data", per_class=2)
    shutil.make_archive(str(tmp_path / "data"), "zip", tmp_path / "data")
    with tarfile.open(tmp_path / "data.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "data", "../data")
    before = sorted(tmp_path.rglob("*"))
    for name in ("data.zip", "data.tar.gz"):
        place = tmp_path / name
        for opened in (headstart.inspect, open_source, load, headstart.resume):
            with pytest.raises(UserError) as caught:
                opened(str(place))
            assert name in str(caught.value)
        with pytest.raises(SourceError, match="cannot be read"):
            open_source("random:test_resnet", weights=str(place))
    assert sorted(tmp_path.rglob("*")) == before


def test_f4_the_old_tar_files_of_torch_are_refused_and_not_unpacked(tmp_path: Path) -> None:
    (tmp_path / "storages").write_bytes(b"\x80\x02K\x00.")
    with tarfile.open(tmp_path / "w.pt", "w") as archive:
        archive.add(tmp_path / "storages", "storages")
        archive.add(tmp_path / "storages", "../outside")
    with pytest.raises(SourceError, match="cannot be read"):
        open_source("random:test_resnet", weights=str(tmp_path / "w.pt"))
    assert not (tmp_path.parent / "outside").exists()


def test_f4_the_code_unpacks_no_archive() -> None:
    source = Path(headstart.__file__).parent
    for file in source.rglob("*.py"):
        text = file.read_text("utf-8")
        for word in ("extractall", ".extract(", "tarfile", "shutil.unpack", "import pickle", "joblib", "allow_pickle"):
            assert word not in text, (file.name, word)
    assert "zipfile" in (source / "tensors.py").read_text("utf-8")  # which reads the list of entries alone


def test_pickles_are_traps(tmp_path: Path) -> None:
    """The test itself: who loads them carelessly makes the file."""
    import io
    import pickle

    import numpy as np

    for kind, data in pickles(tmp_path / "marker").items():
        stream = io.BytesIO(data)
        if kind.startswith("protocol"):
            pickle.loads(data)
        elif kind.startswith("torch"):
            torch.load(stream, weights_only=False)
        elif kind == "joblib":
            __import__("joblib").load(stream)
        else:
            loaded = np.load(stream, allow_pickle=True)
            _ = loaded["a"] if kind == "npz" else loaded
        assert (tmp_path / "marker").exists(), kind
        (tmp_path / "marker").unlink()
