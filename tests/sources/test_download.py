"""Weights that are fetched: whole, with the right hash, into the ecosystem's caches; nothing half stays behind."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save
from weights_server import serving

from headstart.errors import SourceError
from headstart.sources import list_sources, open_source
from headstart.sources._download import fetch

NAME = "shufflenet_v2_x0_5"
NOBODY = "http://127.0.0.1:9"


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


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the Hub; its client has read the environment long ago, so its constants are set."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return tmp_path / "hub"


def point_the_hub_to(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)


def test_the_hub_is_asked_once_and_what_is_cached_opens_without_it(
    hub_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model, published = timm.create_model("test_resnet", num_classes=2), timm.create_model("test_resnet")
    config = {"architecture": "test_resnet", "num_classes": 2, "label_names": ["a", "b"], "pretrained_cfg": {}}
    files = {
        "/someone/tiny/resolve/main/config.json": json.dumps(config).encode(),
        "/someone/tiny/resolve/main/model.safetensors": save(model.state_dict()),
        "/timm/test_resnet.r160_in1k/resolve/main/model.safetensors": save(published.state_dict()),
        "/someone/bare/resolve/main/config.json": json.dumps(config).encode(),
    }
    addresses = ["timm:hf-hub:someone/tiny", "timm:test_resnet.r160_in1k"]
    with serving(files, headers={"X-Repo-Commit": "a" * 40}) as (url, asked):
        point_the_hub_to(monkeypatch, url)
        tiny, named_one = (open_source(address) for address in addresses)
        assert sum("GET" in line and "safetensors" in line for line in asked) == 2
        with pytest.raises(SourceError, match=r"none of config\.json"):
            open_source("timm:hf-hub:someone/none")
        with pytest.raises(SourceError, match=r"none of model\.safetensors"):
            open_source("timm:hf-hub:someone/bare")
    point_the_hub_to(monkeypatch, NOBODY)
    assert [open_source(address).sha256() for address in addresses] == [tiny.sha256(), named_one.sha256()]
    for source, network in ((tiny, model), (named_one, published)):
        wanted = network.state_dict()
        assert all(torch.equal(v, wanted[k]) for k, v in source.network.state_dict().items())
    assert (tiny.card.origin, tiny.card.classes) == ("hf-hub:someone/tiny", ("a", "b"))
    assert named_one.card.origin == "hf-hub:timm/test_resnet.r160_in1k"
    assert named_one.card.input_size == (3, 160, 160)
    rows = {row["address"]: row for row in list_sources()}
    assert set(rows) == {"toy", *addresses}
    assert {rows[address]["architecture"] for address in addresses} == {"test_resnet"}
    assert {rows[address]["where"] for address in addresses} == {"hub cache"}
    assert rows[addresses[1]]["parameters"] == sum(p.numel() for p in published.parameters())


def test_a_silent_hub_gives_one_error_at_once(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point_the_hub_to(monkeypatch, NOBODY)

    def fetch_anyway(*_: object, **__: object) -> str:
        raise AssertionError("the Hub's client, which tries for a minute, was called")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch_anyway)
    with pytest.raises(SourceError, match=r"could not be fetched.*--weights FILE, random:test_resnet"):
        open_source("timm:test_resnet")


def test_a_damaged_file_in_the_cache_of_the_hub_is_named(hub_cache: Path, tmp_path: Path) -> None:
    snapshot = hub_cache / "models--timm--test_resnet.r160_in1k" / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes(b"torn")
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text("a" * 40)
    with pytest.raises(SourceError, match=r"cannot be loaded.*model\.safetensors.*[Dd]elete"):
        open_source("timm:test_resnet.r160_in1k")
