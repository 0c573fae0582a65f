"""Checks of the installation: what is there, what is missing, what to do."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from headstart import files
from headstart.errors import UserError

__all__ = ["checks"]

_CORE = ("torch", "torchvision", "timm", "safetensors", "numpy", "scipy", "pillow", "scikit-learn", "accelerate")
_EXTRAS = {
    "pyarrow": "data", "onnxruntime": "onnx", "openvino": "openvino", "torch_pruning": "compress", "cleanlab": "clean",
    "optuna": "tune", "fastapi": "serve",
}  # fmt: skip


def checks() -> list[dict[str, Any]]:
    """One row a check: {check, ok, detail, remedy}; `ok` is None for what is optional and absent."""
    found = [_row("python", sys.version_info >= (3, 11), sys.version.split()[0], "Install Python 3.11 or newer.")]
    found += [_package(name) for name in _CORE]
    found += [_extra(module, extra) for module, extra in _EXTRAS.items()]
    found += [_tried("torch computes", _torch_computes), _tried("torch and torchvision fit", _torchvision_fits)]
    found += [_tried("toy source opens", _toy_opens), _tried("device", _device), _torchaudio(), _home(), _hub()]
    return found


def _row(check: str, ok: bool | None, detail: str, remedy: str = "") -> dict[str, Any]:
    return {"check": check, "ok": ok, "detail": detail, "remedy": "" if ok else remedy}


def _package(name: str) -> dict[str, Any]:
    try:
        return _row(name, True, version(name))
    except PackageNotFoundError:
        return _row(name, False, "not installed", f"pip install {name}")


def _extra(module: str, extra: str) -> dict[str, Any]:
    if find_spec(module) is None:
        return _row(f"{module} (optional)", None, "not installed", f"pip install 'headstart[{extra}]'")
    return _row(f"{module} (optional)", True, "installed")


def _tried(check: str, attempt: Callable[[], str]) -> dict[str, Any]:
    """Run a check; whatever it raises is its finding."""
    try:
        return _row(check, True, attempt())
    except Exception as error:
        remedy = error.remedy if isinstance(error, UserError) else "Install headstart again in a new environment."
        return _row(check, False, f"{type(error).__name__}: {error}", remedy)


def _torch_computes() -> str:
    import torch

    value = float((torch.ones(8, 8) @ torch.ones(8, 8)).sum())
    if value != 512:
        raise ArithmeticError(f"8 x 8 ones squared sum to {value}, not 512")
    return f"{torch.get_num_threads()} threads"


def _torchvision_fits() -> str:
    import torch
    import torchvision

    kept = torchvision.ops.nms(torch.tensor([[0.0, 0, 1, 1], [0, 0, 1, 1]]), torch.tensor([1.0, 0.5]), 0.5)
    return f"torchvision {torchvision.__version__}, {len(kept)} box of 2 kept"


def _toy_opens() -> str:
    from headstart.sources import open_source

    return f"{len(open_source('toy').blocks)} blocks"


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return f"cpu, {os.cpu_count()} cores (no GPU: frozen features are the fast way)"


def _torchaudio() -> dict[str, Any]:
    """torchaudio of another torch breaks imports of libraries that look for it."""
    try:
        audio, torch = version("torchaudio").split("+")[0], version("torch").split("+")[0]
    except PackageNotFoundError:
        return _row("torchaudio", True, "not installed (not needed)")
    fits = audio.split(".")[:2] == torch.split(".")[:2]
    return _row("torchaudio", fits, f"{audio} beside torch {torch}", "pip uninstall torchaudio")


def _home() -> dict[str, Any]:
    place = files.home()
    try:
        files.check_writable(place)
    except UserError as error:
        return _row("cache folder", False, str(error), "Set HEADSTART_HOME to a folder that you can write.")
    existing = next(folder for folder in (place, *place.parents) if folder.exists())
    return _row("cache folder", True, f"{place}, {shutil.disk_usage(existing).free / 1e9:.0f} GB free")


def _hub() -> dict[str, Any]:
    """Whether the Hub's client has a token; it is not shown, and the Hub is not asked."""
    from huggingface_hub import get_token

    if get_token() is None:
        return _row("Hub token (optional)", None, "none: `headstart push` alone needs one", "hf auth login")
    return _row("Hub token (optional)", True, "found")
