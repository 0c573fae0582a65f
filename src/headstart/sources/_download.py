"""Fetch a published weights file into torch's own cache, whole and with the hash that its name announces."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlparse

from headstart.errors import SourceError
from headstart.sources._weights import hash_matches_name

__all__ = ["fetch", "unreachable"]


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
