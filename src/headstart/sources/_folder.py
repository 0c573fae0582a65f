"""Folders in the timm / Hugging Face convention: local ones, headstart's models, repositories of the Hub."""

from __future__ import annotations

from pathlib import Path

from headstart import files
from headstart.errors import SourceError, did_you_mean
from headstart.sources._config import build_within, checked_arguments, checked_facts, numbers_of
from headstart.sources._download import fetch_from_hub
from headstart.sources._importing import import_timm
from headstart.sources._timm import Recipe, card_of, load_backbone, source_of
from headstart.sources._weights import read_weights
from headstart.sources.base import Source, seeded
from headstart.sources.widths import checked

__all__ = ["open_folder", "open_repository", "read_config"]

_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth")
_TORCHVISION = "torchvision/"
_WORDS = 200  # letters of another library's message


def open_folder(
    folder: Path,
    *,
    weights: str | None = None,
    image_size: int | None = None,
    seed: int = 0,
    address: str | None = None,
    origin: str | None = None,
) -> Source:
    """A local folder in the timm / Hugging Face convention (config.json + model.safetensors), a headstart model too."""
    recipe = read_config(folder)
    found = (file for name in _WEIGHTS if (file := folder / name).is_file())
    path = Path(weights) if weights is not None else next(found, None)
    if path is None:
        raise SourceError("the folder holds no weights", where=folder, remedy="It needs a model.safetensors file")
    address, origin = address or str(folder), origin or folder.resolve().name
    recipe = recipe.sized(image_size)
    if recipe.architecture.startswith(_TORCHVISION):
        from headstart.sources._torchvision import open_architecture

        name = recipe.architecture.removeprefix(_TORCHVISION)
        card = card_of(recipe, origin)
        return open_architecture(name, path, card=card, address=address, seed=seed, channels=recipe.channels)
    state = read_weights(path)
    try:
        with seeded(seed):
            network = build_within(recipe.build, numbers=numbers_of(path, recipe.channels), entries=len(state))
    except SourceError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0][:_WORDS]
        raise SourceError(
            f"{recipe.architecture} cannot be built with the arguments in config.json: {reason}",
            where=folder,
            remedy="Mend its model_args, or fetch the folder again",
        ) from error
    load_backbone(network, recipe, state, where=path)
    return source_of(recipe, network, address=address, origin=origin)


def open_repository(repository: str, *, weights: str | None, image_size: int | None, seed: int) -> Source:
    """A repository of the Hub in the timm convention: fetched into the Hub's own cache, then opened as a folder."""
    repository = repository.removeprefix("hf-hub:").removeprefix("hf_hub:")
    address = f"timm:hf-hub:{repository}"
    config = fetch_from_hub(repository, ["config.json"], address=address, architecture="NAME")
    if weights is None:
        weights = str(fetch_from_hub(repository, _WEIGHTS, address=address, architecture="NAME"))
    origin = f"hf-hub:{repository}"
    return open_folder(config.parent, weights=weights, image_size=image_size, seed=seed, address=address, origin=origin)


def read_config(folder: Path) -> Recipe:
    """The recipe in a folder's config.json, in timm's new or old form."""
    timm = import_timm()

    file = folder / "config.json"
    try:
        config = files.read_json(file)
        if not isinstance(config, dict):
            raise TypeError("not an object")
        nested = config.get("pretrained_cfg")
        facts = dict(config if nested is None else nested)
        architecture = str(config.get("architecture") or facts.get("architecture") or "")
        args = checked_arguments(config.get("model_args") or {})
        facts = checked_facts(config, facts, args)
    except (OSError, ValueError, TypeError) as error:
        raise SourceError(
            f"config.json cannot be read: {str(error)[:_WORDS]}", where=file, remedy="Fetch the folder again"
        ) from error
    if not architecture:
        raise SourceError("config.json names no timm architecture", where=file, remedy='It needs an "architecture" key')
    if not architecture.startswith(_TORCHVISION) and not timm.is_model(architecture):
        raise SourceError(
            f"timm has no network named {architecture!r}",
            where=file,
            remedy=did_you_mean(architecture, timm.list_models()),
        )
    return Recipe(architecture, args, facts, checked(config.get("channels"), file))
