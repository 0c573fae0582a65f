"""fastai's `fine_tune`: one epoch with a frozen body, then the others with all layers and discriminative rates.

The network is the same timm network; fastai brings its own loader (two workers), optimiser, one-cycle schedule and
rates. `--epochs` counts both parts.
"""

from __future__ import annotations

import time

import common
import torch
from fastai.callback.core import Callback
from fastai.vision.all import (
    ImageDataLoaders,
    Learner,
    Normalize,
    RandomResizedCrop,
    accuracy,
    aug_transforms,
    params,
)


class Clock(Callback):
    """Notes the seconds of training and validation, and the accuracy, of every epoch."""

    def __init__(self, result: common.Result) -> None:
        super().__init__()
        self.result, self.began, self.turned = result, 0.0, 0.0

    def before_train(self) -> None:
        self.began = time.perf_counter()

    def before_validate(self) -> None:
        self.turned = time.perf_counter()

    def after_validate(self) -> None:
        now = time.perf_counter()
        found = float(self.recorder.metrics[0].value)
        self.result.epoch(train_seconds=self.turned - self.began, val_seconds=now - self.turned, accuracy=found)


def main() -> None:
    """Fine-tune and write the result."""
    options = common.arguments(str(__doc__))
    network, config = common.open_network(options.source, common.count_classes(options.data))
    pictures = ImageDataLoaders.from_folder(
        options.data,
        train="train",
        valid="val",
        bs=options.batch,
        num_workers=common.WORKERS,
        item_tfms=RandomResizedCrop(options.size, min_scale=common.SMALLEST_CROP),
        batch_tfms=[
            *aug_transforms(do_flip=True, max_rotate=0, max_zoom=1, max_lighting=0, max_warp=0),
            Normalize.from_stats(config["mean"], config["std"]),
        ],
        device=torch.device(options.device),
    )
    head = common.head_parameters(network)
    inside = {id(p) for p in head}
    result = common.Result("fastai", "fine_tune", len(pictures.train_ds))
    learner = Learner(
        pictures,
        network,
        splitter=lambda model: [[p for p in params(model) if id(p) not in inside], head],
        metrics=accuracy,
        cbs=[Clock(result)],
        path=options.out.parent,
    )
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(max(1, options.epochs - 1))
    result.write(options.out, threads=torch.get_num_threads())


if __name__ == "__main__":
    main()
