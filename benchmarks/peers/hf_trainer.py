"""The Trainer of Hugging Face transformers around a timm network.

A module that answers with loss and logits, two loader workers, the Trainer's AdamW with a rate that falls linearly;
validation after every epoch. `--mode frozen` trains the new classifier alone.
"""

from __future__ import annotations

import tempfile
import time
from typing import Any

import common
import numpy as np
import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments

RATES = {"frozen": 1e-3, "full": 2e-4}


class Wrapped(nn.Module):
    """The network in the form that the Trainer wants."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.network(pixel_values)
        found = {"logits": logits}
        if labels is not None:
            found["loss"] = nn.functional.cross_entropy(logits, labels)
        return found


def together(rows: list[tuple[Tensor, int]]) -> dict[str, Tensor]:
    """A batch by name."""
    return {"pixel_values": torch.stack([image for image, _ in rows]), "labels": torch.tensor([y for _, y in rows])}


class Clock(TrainerCallback):
    """Notes the seconds of training and validation, and the accuracy, of every epoch."""

    def __init__(self, result: common.Result) -> None:
        self.result, self.began, self.turned = result, 0.0, 0.0

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        self.began = time.perf_counter()

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        self.turned = time.perf_counter()

    def on_evaluate(self, *_: Any, metrics: dict[str, float], **__: Any) -> None:
        now = time.perf_counter()
        self.result.epoch(
            train_seconds=self.turned - self.began, val_seconds=now - self.turned, accuracy=metrics["eval_accuracy"]
        )


def main() -> None:
    """Train and write the result."""
    options = common.arguments(str(__doc__), choices=tuple(RATES))
    network, config = common.open_network(options.source, common.count_classes(options.data))
    if options.mode == "frozen":
        network.requires_grad_(False)
        for parameter in common.head_parameters(network):
            parameter.requires_grad = True
    for_training, steady = common.make_transforms(config, options.size)
    train = common.folder(options.data, "train", for_training)
    result = common.Result("hf_trainer", options.mode, len(train))
    with tempfile.TemporaryDirectory() as scratch:
        how = TrainingArguments(
            output_dir=scratch,
            num_train_epochs=options.epochs,
            per_device_train_batch_size=options.batch,
            per_device_eval_batch_size=options.batch,
            learning_rate=options.lr or RATES[options.mode],
            dataloader_num_workers=common.WORKERS,
            eval_strategy="epoch",
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=options.seed,
            use_cpu=options.device == "cpu",
            bf16=options.device != "cpu",
        )
        trainer = Trainer(
            model=Wrapped(network),
            args=how,
            data_collator=together,
            train_dataset=train,
            eval_dataset=common.folder(options.data, "val", steady),
            compute_metrics=lambda told: {"accuracy": float(np.mean(told.predictions.argmax(1) == told.label_ids))},
            callbacks=[Clock(result)],
        )
        trainer.train()
    result.write(options.out, threads=torch.get_num_threads())


if __name__ == "__main__":
    main()
