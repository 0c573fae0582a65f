"""What lies in the caches: the sources that open without a network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import Any

from headstart import files, tensors

__all__ = ["listing"]


def listing(toy: Path, folders: Iterable[str | Path]) -> list[dict[str, Any]]:
    """The toy, given folders, the cache of the Hub and torchvision's, in this order."""
    rows = [_of_folder(toy, "toy", "headstart")] if (toy / "config.json").is_file() else []
    for folder in map(Path, folders):
        for found in _sources_in(folder.expanduser()):
            rows.append(_of_folder(found, str(found), "folder"))
    return [row for row in (*rows, *_hub(), *_torch_home()) if row is not None]


def _sources_in(folder: Path) -> list[Path]:
    """The folder itself where it is a source, else the sources directly in it."""
    if (folder / "config.json").is_file():
        return [folder]
    with suppress(OSError):
        return sorted(path.parent for path in folder.glob("*/config.json"))
    return []


def _of_folder(folder: Path, address: str, where: str) -> dict[str, Any] | None:
    """A row for a folder in the timm convention; None when it is another kind of folder."""
    weights = folder / "model.safetensors"
    try:
        config = files.read_json(folder / "config.json")
        architecture = str(config["architecture"])
        size = weights.stat().st_size
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return _row(address, architecture, _parameters(weights), size, where)


def _row(address: str, architecture: str, parameters: int | None, size: int, where: str) -> dict[str, Any]:
    return {
        "address": address,
        "architecture": architecture,
        "parameters": parameters,
        "megabytes": round(size / 1e6, 2),
        "where": where,
    }


def _parameters(path: Path) -> int | None:
    """Numbers in a safetensors file, read from its header; BatchNorm's statistics are not parameters."""
    buffers = ("running_mean", "running_var", "num_batches_tracked", "relative_position_index")
    try:
        shapes = tensors.shapes(path)
    except (OSError, ValueError):
        return None
    return sum(prod(shape) for name, shape in shapes.items() if not name.endswith(buffers))


def _hub() -> Iterator[dict[str, Any]]:
    """timm repositories in the cache of the Hugging Face Hub."""
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        cache = scan_cache_dir(constants.HF_HUB_CACHE)
    except (CacheNotFound, OSError, ValueError):
        return
    for repository in sorted(cache.repos, key=lambda repo: repo.repo_id):
        owner, _, name = repository.repo_id.partition("/")
        for revision in repository.revisions:
            folder = Path(revision.snapshot_path)
            weights = folder / "model.safetensors"
            if owner == "timm" and weights.is_file():  # timm itself knows the rest
                size = weights.stat().st_size
                yield _row(f"timm:{name}", name.partition(".")[0], _parameters(weights), size, "hub cache")
                break
            if row := _of_folder(folder, f"timm:hf-hub:{repository.repo_id}", "hub cache"):
                yield row
                break


def _torch_home() -> Iterator[dict[str, Any]]:
    """Checkpoints of torchvision's networks in the folder that torch downloads to."""
    import torch

    from headstart.sources._torchvision import architecture_of_file

    with suppress(OSError):
        for path in sorted((Path(torch.hub.get_dir()) / "checkpoints").glob("*.pth")):
            if (name := architecture_of_file(path)) is not None:
                yield _row(f"torchvision:{path}", f"torchvision/{name}", None, path.stat().st_size, "torch cache")
