"""Fetch published weights into the caches of their ecosystems: torch's and the Hugging Face Hub's."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlparse

from headstart.errors import SourceError
from headstart.sources._weights import hash_matches_name

__all__ = ["fetch", "fetch_from_hub", "knock", "unreachable"]

_PATIENCE = 6.0  # seconds until a server that says nothing counts as unreachable


def fetch(url: str, *, address: str, architecture: str) -> Path:
    """The cached file of `url`, fetched first where it is missing or damaged.

    A file NAME-HASH.pth must have a sha256 that begins with HASH. A damaged download is repeated once, then SourceError
    is raised and nothing stays in the cache.
    """
    import torch

    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / Path(urlparse(url).path).name
    if path.is_file() and hash_matches_name(path):
        return path
    problem = Exception("not tried")
    for _ in range(2):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), progress=False)
        except Exception as error:
            problem = error
            break  # no network: a second attempt would only wait longer
        if hash_matches_name(path):
            return path
        path.unlink()
        problem = Exception("the downloaded file is damaged: its hash is not the one in its name")
    raise unreachable(address, problem, architecture=architecture) from problem


def fetch_from_hub(repository: str, names: Sequence[str], *, address: str, architecture: str) -> Path:
    """The first of the files `names` that OWNER/NAME[@REVISION] on the Hugging Face Hub has, cached or fetched.

    What is cached is taken without asking the Hub, so a name means the same weights tomorrow and without a network.
    """
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    owner, _, revision = repository.partition("@")
    for name in names:
        cached = try_to_load_from_cache(owner, name, revision=revision or None)
        if isinstance(cached, str):
            return Path(cached)
    problem: Exception = FileNotFoundError(f"the repository has none of {', '.join(names)}")
    try:
        if not constants.HF_HUB_OFFLINE:
            knock(constants.ENDPOINT)
        for name in names:
            with suppress(EntryNotFoundError):
                try:
                    return Path(hf_hub_download(owner, name, revision=revision or None))
                except LocalEntryNotFoundError as error:
                    raise ConnectionError(str(error)) from error
    except Exception as error:
        problem = error
    raise unreachable(address, problem, architecture=architecture) from problem


def knock(url: str) -> None:
    """Raise OSError at once where the Hub's own client would try again and again for a minute."""
    with suppress(urllib.error.HTTPError):  # an answer of any kind
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_PATIENCE).close()


def unreachable(address: str, error: Exception, *, architecture: str) -> SourceError:
    """The one error for weights that are neither cached nor to be fetched: it names the ways out."""
    reason = (str(error).strip().splitlines() or [""])[0][:120] or type(error).__name__
    return SourceError(
        f"the weights of {address} are not in the cache and could not be fetched ({reason.rstrip('.')})",
        remedy=(
            "Without a network use a local folder (config.json + model.safetensors), --weights FILE, "
            f"random:{architecture} (untrained), or one of those that `headstart sources` lists"
        ),
    )
