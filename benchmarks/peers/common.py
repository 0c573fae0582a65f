"""What every peer needs: the same arguments, network, transforms and folders, and one form of result.

A peer is a whole process. Its result is a JSON file: one entry an epoch with the seconds of training and of validation,
the accuracy and the moment (seconds since 1970) at which that accuracy was known, and the best accuracy of all epochs.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import InterpolationMode, v2

SMALLEST_CROP = 0.35  # share of the picture that a random resized crop keeps: headstart's --crop-scale
WORKERS = max(2, min(8, os.cpu_count() or 1))  # as many as headstart decodes with


def arguments(description: str, **modes: Any) -> argparse.Namespace:
    """The arguments that all peers share; `modes` are the choices of --mode."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, required=True, help="folder with train, val and perhaps test")
    parser.add_argument("--source", required=True, help="a timm folder, or random:NAME for random weights")
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--mode", choices=list(modes.get("choices", ("frozen",))), default="frozen")
    parser.add_argument("--trained", default="", help="partial: names of the modules that are trained, with commas")
    parser.add_argument("--lr", type=float, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, required=True, help="result.json")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    return options


def open_network(source: str, classes: int) -> tuple[nn.Module, dict[str, Any]]:
    """A timm network with a new classifier of so many classes (0: none), and its preprocessing.

    The classifier starts as torch's own Linear does. Some timm networks draw it so large for few classes that no short
    training of it recovers, which would say nothing about the training.
    """
    if source.startswith("random:"):
        network = timm.create_model(source.removeprefix("random:"), pretrained=False, num_classes=classes)
    else:
        network = timm.create_model(f"local-dir:{source}", pretrained=True, num_classes=classes)
    if isinstance(network.get_classifier(), nn.Linear):
        network.get_classifier().reset_parameters()
    return network, timm.data.resolve_model_data_config(network)


def head_parameters(network: nn.Module) -> list[nn.Parameter]:
    """The new classifier's parameters."""
    return list(network.get_classifier().parameters())


def make_transforms(config: dict[str, Any], size: int) -> tuple[v2.Compose, v2.Compose]:
    """Random resized crop and flip for training; resize and centre crop for validation; the network's own colours."""
    how = InterpolationMode(config["interpolation"])
    end = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(config["mean"], config["std"])]
    train = [v2.RandomResizedCrop(size, scale=(SMALLEST_CROP, 1.0), interpolation=how), v2.RandomHorizontalFlip()]
    steady = [v2.Resize(int(size / config["crop_pct"]), interpolation=how), v2.CenterCrop(size)]
    return v2.Compose([*train, *end]), v2.Compose([*steady, *end])


def folder(data: Path, split: str, transform: v2.Compose) -> ImageFolder:
    """One split as torchvision reads it."""
    return ImageFolder(data / split, transform)


def loader(pictures: ImageFolder, batch: int, *, shuffle: bool = False) -> DataLoader:
    """Batches from two worker processes."""
    return DataLoader(pictures, batch_size=batch, shuffle=shuffle, num_workers=WORKERS)


def count_classes(data: Path) -> int:
    """How many folders the training split has."""
    return sum(1 for place in (data / "train").iterdir() if place.is_dir())


def accuracy_of(network: nn.Module, batches: DataLoader, device: str) -> float:
    """Share of right answers."""
    network.eval()
    right = 0
    with torch.no_grad():
        for images, labels in batches:
            right += int((network(images.to(device)).argmax(1).cpu() == labels).sum())
    return right / len(batches.dataset)


def right_answers(network: nn.Module, pictures: ImageFolder, batches: DataLoader, device: str) -> dict[str, bool]:
    """Which pictures get the right answer, by file name; the batches are not shuffled."""
    network.eval()
    right: list[bool] = []
    with torch.no_grad():
        for images, labels in batches:
            right += (network(images.to(device)).argmax(1).cpu() == labels).tolist()
    return dict(zip((Path(path).name for path, _ in pictures.samples), right, strict=True))


@dataclass
class Result:
    """What a peer writes."""

    name: str
    mode: str
    images: int
    epochs: list[dict[str, float]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def epoch(self, *, train_seconds: float, val_seconds: float, accuracy: float) -> None:
        """Note an epoch that has just been judged."""
        row = {"train_seconds": train_seconds, "val_seconds": val_seconds, "accuracy": accuracy, "when": time.time()}
        self.epochs.append(row)
        print(f"epoch {len(self.epochs)}: {train_seconds:.1f} s + {val_seconds:.1f} s, accuracy {accuracy:.4f}")

    def write(self, path: Path, **facts: Any) -> None:
        """Write the JSON file. `accuracy` is the best of all epochs unless a fact says otherwise."""
        best = max((row["accuracy"] for row in self.epochs), default=None)
        whole = {"name": self.name, "mode": self.mode, "images": self.images, "epochs": self.epochs, "accuracy": best}
        path.write_text(json.dumps({**whole, **self.facts, **facts}, indent=1))
