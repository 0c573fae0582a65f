"""Weights that are fetched: whole, with the right hash, into the ecosystem's caches; nothing half stays behind."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save
from server import serving

from headstart.errors import SourceError
from headstart.sources import list_sources, open_source
from headstart.sources._download import fetch

NAME = "shufflenet_v2_x0_5"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of a small torchvision network."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "w.pth"
    torch.save(torchvision.models.get_model(NAME, weights=None).state_dict(), file)
    return file.read_bytes()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path / "hub" / "checkpoints"


def point_to(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Let the published weights of the small network be those at `url`."""
    published = torchvision.models.get_model_weights(NAME).DEFAULT
    monkeypatch.setattr(published._value_, "url", url)


def named(data: bytes) -> str:
    return f"/{NAME}-{hashlib.sha256(data).hexdigest()[:8]}.pth"


def test_published_weights_are_fetched_once_and_then_open_without_a_network(
    weights: bytes, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving({named(weights): weights}) as (url, asked):
        point_to(monkeypatch, url + named(weights))
        source = open_source(f"torchvision:{NAME}")
        assert open_source(f"torchvision:{NAME}").sha256() == source.sha256()
        assert len(asked) == 1
    assert open_source(f"torchvision:{NAME}").sha256() == source.sha256()
    assert source.card.origin == url + named(weights)
    assert len(source.card.classes) == 1000
    assert source.address == f"torchvision:{NAME}"
    rows = [row for row in list_sources() if row["where"] == "torch cache"]
    assert [row["architecture"] for row in rows] == [f"torchvision/{NAME}"]
    assert open_source(rows[0]["address"]).sha256() == source.sha256()


@pytest.mark.parametrize("kept", [0.5, 0.0])
def test_a_cut_or_changed_download_is_tried_again_once_and_leaves_nothing(
    weights: bytes, cache: Path, monkeypatch: pytest.MonkeyPatch, kept: float
) -> None:
    part = weights[: int(len(weights) * kept)] or b"<html>not found</html>"
    with serving({named(weights): part}) as (url, asked):
        point_to(monkeypatch, url + named(weights))
        with pytest.raises(SourceError, match="hash is not the one in its name"):
            open_source(f"torchvision:{NAME}")
        assert len(asked) == 2
    assert list(cache.iterdir()) == []


def test_a_damaged_file_in_the_cache_is_fetched_anew(
    weights: bytes, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.mkdir(parents=True)
    (cache / named(weights)[1:]).write_bytes(weights[:1000])
    with serving({named(weights): weights}) as (url, _):
        point_to(monkeypatch, url + named(weights))
        open_source(f"torchvision:{NAME}")
    assert (cache / named(weights)[1:]).read_bytes() == weights


def test_without_a_network_one_error_names_the_ways_out(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point_to(monkeypatch, "http://127.0.0.1:9/resnet.pth")
    with pytest.raises(SourceError) as caught:
        open_source(f"torchvision:{NAME}")
    for way in ("local folder", "--weights FILE", "random:", "headstart sources"):
        assert way in str(caught.value)
    assert not cache.exists() or list(cache.iterdir()) == []


def test_a_file_whose_name_has_no_hash_is_taken_as_it_is(cache: Path) -> None:
    with serving({"/plain.pth": b"bytes"}) as (url, _):
        assert fetch(f"{url}/plain.pth", address="a", architecture="b").read_bytes() == b"bytes"


_ON_A_HUB = """
    import json, sys
    from headstart.sources import list_sources, open_source
    from headstart.errors import SourceError
    found = {}
    for address in ["timm:hf-hub:someone/tiny", "timm:test_resnet.r160_in1k", "timm:hf-hub:someone/none"]:
        try:
            source = open_source(address)
            found[address] = [source.sha256(), source.card.origin, list(source.card.classes)]
        except SourceError as error:
            found[address] = str(error)
    print(json.dumps({"found": found, "listed": [row["address"] for row in list_sources()]}))
"""


def test_the_hub_is_asked_once_and_what_is_cached_opens_without_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=2)
    published = timm.create_model("test_resnet")
    config = {"architecture": "test_resnet", "num_classes": 2, "label_names": ["a", "b"], "pretrained_cfg": {}}
    files = {
        "/someone/tiny/resolve/main/config.json": json.dumps(config).encode(),
        "/someone/tiny/resolve/main/model.safetensors": save(model.state_dict()),
        "/timm/test_resnet.r160_in1k/resolve/main/model.safetensors": save(published.state_dict()),
    }
    with serving(files, headers={"X-Repo-Commit": "a" * 40}) as (url, asked):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        environment |= {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path), "TORCH_HOME": str(tmp_path / "torch")}
        first = _in_a_process(environment)
        fetched = [line for line in asked if line.startswith("GET") and "resolve" in line]
        asked.clear()
    # the server is gone
    second = _in_a_process({**environment, "HF_ENDPOINT": "http://127.0.0.1:9"})
    tiny, named_one = first["found"]["timm:hf-hub:someone/tiny"], first["found"]["timm:test_resnet.r160_in1k"]
    backbone = timm.create_model("test_resnet", num_classes=0)
    backbone.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("fc")})
    assert tiny[1:] == ["hf-hub:someone/tiny", ["a", "b"]]
    assert named_one[1] == "hf-hub:timm/test_resnet.r160_in1k"
    assert tiny[0] != named_one[0]
    assert sum("safetensors" in line for line in fetched) == 2
    assert "could not be fetched" in first["found"]["timm:hf-hub:someone/none"]
    assert {"timm:hf-hub:someone/tiny", "toy"} <= set(first["listed"])
    for address in ("timm:hf-hub:someone/tiny", "timm:test_resnet.r160_in1k"):
        assert second["found"][address] == first["found"][address]


def _in_a_process(environment: dict[str, str]) -> dict[str, dict[str, list[object]]]:
    """What the script prints, in a new process: the Hub's client reads its environment when it is imported."""
    command = [sys.executable, "-c", textwrap.dedent(_ON_A_HUB)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    answer: dict[str, dict[str, list[object]]] = json.loads(done.stdout.splitlines()[-1])
    return answer
