"""Where pretrained networks come from: an address becomes a Source.

timm:NAME[.tag]              published weights through the Hugging Face Hub
timm:hf-hub:OWNER/NAME       a repository of the Hub in the timm convention
torchvision:NAME[.WEIGHTS]   published weights, or torchvision:/path/to/resnet18-f37072fd.pth
random:NAME                  a timm architecture with random weights
toy                          a tiny network that comes with headstart
FOLDER                       config.json + model.safetensors, a headstart model folder too
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.errors import SourceError, did_you_mean
from headstart.settings import DEFAULT_SOURCE, sources_of

if TYPE_CHECKING:
    from torch import nn

    from headstart.sources.base import Source

__all__ = ["addresses", "build_whole", "known", "list_sources", "open_source"]

_TOY = Path(__file__).parent / "toy"


def _open_timm(rest: str, **options: Any) -> Source:
    from headstart.sources._folder import open_repository
    from headstart.sources._timm import open_timm

    return open_repository(rest, **options) if "/" in rest else open_timm(rest, **options)


def _open_random(rest: str, **options: Any) -> Source:
    from headstart.sources._timm import open_random

    return open_random(rest, **options)


def _open_torchvision(rest: str, **options: Any) -> Source:
    from headstart.sources._torchvision import open_torchvision

    return open_torchvision(rest, **options)


def _open_folder(rest: str, **options: Any) -> Source:
    from headstart.sources._folder import open_folder

    return open_folder(Path(rest).expanduser(), **options)


def _open_toy(rest: str, **options: Any) -> Source:
    from headstart.sources._folder import open_folder

    if rest:
        raise SourceError(f"there is one toy network, named toy, not {rest!r}")
    return open_folder(_TOY, address="toy", **options)


_OPENERS: dict[str, Callable[..., Source]] = {
    "timm": _open_timm,
    "torchvision": _open_torchvision,
    "random": _open_random,
    "toy": _open_toy,
    "folder": _open_folder,
}


def addresses(source: str) -> tuple[str, ...]:
    """The sources that an option names; `all` stands for those that open on this machine without a network."""
    if Path(source).expanduser().is_dir():  # its name may hold a comma
        return (source,)
    named = sources_of(source)
    if named != ("all",):
        return named
    found = [str(row["address"]) for row in list_sources(()) if row["address"] != "toy"]
    return tuple(dict.fromkeys(found)) or (DEFAULT_SOURCE,)


def open_source(address: str, *, weights: str | None = None, image_size: int | None = None, seed: int = 0) -> Source:
    """The pretrained network at `address`, without its classifier and in evaluation mode.

    `weights` is a file used instead of the published weights, `image_size` the side of the square input in pixels where
    it shall differ from the card's, `seed` draws the weights of `random:NAME`. Raises SourceError when the address is
    unknown, cannot be reached or does not hold what it should.
    """
    address = str(address).strip()
    if image_size is not None and image_size < 1:
        raise SourceError(f"image_size must be at least 1 pixel, got {image_size}")
    scheme, rest = _split(address)
    source = _OPENERS[scheme](rest, weights=weights, image_size=image_size, seed=seed)
    source.address = address  # as it was given, so that it opens the same again
    return source.eval()


def _split(address: str) -> tuple[str, str]:
    """The scheme of an address and what follows it; a folder needs none."""
    scheme, colon, rest = address.partition(":")
    if scheme in _OPENERS and (colon or scheme == "toy"):
        if not rest and scheme != "toy":
            raise SourceError(f"the address {address!r} names no network", remedy=f"Write {scheme}:NAME")
        return scheme, rest
    folder = Path(address).expanduser()
    if address and folder.is_dir():
        # a headstart run keeps its model in model/
        inner = folder / "model"
        return "folder", str(inner if not (folder / "config.json").exists() and inner.is_dir() else folder)
    if address and known(address):
        raise SourceError(
            f"no source is named {address!r}", remedy=f"Write timm:{address}, or random:{address} untrained"
        )
    schemes = ["timm:NAME", "torchvision:NAME", "random:NAME", "toy", "a folder with config.json + model.safetensors"]
    near = did_you_mean(scheme, list(_OPENERS)) if colon else ""
    hint = near if near.startswith("Did") else f"Use {', '.join(schemes[:-1])} or {schemes[-1]}"
    raise SourceError(f"{address!r} is neither a folder nor the address of a source", remedy=hint)


def build_whole(architecture: str, n_classes: int, *, model_args: Mapping[str, Any] | None = None) -> nn.Module:
    """A network with classifier and random weights, by the names that `Source.whole_architecture` gives.

    `architecture` is timm's name or "torchvision/NAME", `model_args` its keyword arguments. Raises SourceError when
    there is no such network.
    """
    if architecture.startswith("torchvision/"):
        from headstart.sources._torchvision import build_whole as build

        return build(architecture.removeprefix("torchvision/"), n_classes, model_args=model_args or {})
    from headstart.sources._timm import recipe_of

    return recipe_of(architecture).with_arguments(model_args or {}).build(n_classes)


def known(pattern: str = "") -> list[str]:
    """The addresses of timm's pretrained networks whose names contain `pattern` or match it (`*` and `?`)."""
    from headstart.sources._importing import import_timm

    wanted = pattern.removeprefix("timm:")
    if not any(mark in wanted for mark in "*?["):
        wanted = f"*{wanted}*"
    return [f"timm:{name}" for name in import_timm().list_models(wanted, pretrained=True)]


def list_sources(folders: Iterable[str | Path] = ()) -> list[dict[str, Any]]:
    """The sources that open without a network: the toy, the caches of the Hub and of torchvision, and `folders`.

    Each is a dict: address, architecture, parameters (None where only the file would tell), megabytes, where.
    A folder in `folders` is a source itself or holds sources.
    """
    from headstart.sources._listing import listing

    return listing(_TOY, folders)
