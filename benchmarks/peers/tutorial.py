"""The transfer-learning loop that everybody starts from, in plain PyTorch.

ImageFolder, a DataLoader with two workers, PIL transforms, SGD with momentum 0.9 and a rate that falls to a tenth every
seven epochs; the whole network is in training mode, every epoch is judged on the validation pictures and the best
weights are kept. The rate is 0.001 at a batch of 4 and grows with the batch.

    --mode frozen          only the new classifier is trained; every epoch goes through the whole network anyway
    --mode full            one rate for all layers
    --mode discriminative  the classifier learns ten times as fast
    --mode partial         only the modules of --trained and the classifier; the others are left in evaluation mode
"""

from __future__ import annotations

import copy
import time

import common
import torch
from torch import nn


def trained_groups(network: nn.Module, mode: str, lr: float, trained: str) -> list[dict]:
    """Freeze what the mode freezes, and give the optimiser's groups."""
    head = common.head_parameters(network)
    inside = {id(p) for p in head}
    body = [p for p in network.parameters() if id(p) not in inside]
    if mode == "frozen":
        for parameter in body:
            parameter.requires_grad = False
        return [{"params": head, "lr": lr}]
    if mode == "partial":
        for parameter in body:
            parameter.requires_grad = False
        for name in trained.split(","):
            network.get_submodule(name).requires_grad_(True)
        return [{"params": [p for p in network.parameters() if p.requires_grad], "lr": lr}]
    return [{"params": body, "lr": lr}, {"params": head, "lr": 10 * lr if mode == "discriminative" else lr}]


def training_mode(network: nn.Module, mode: str, trained: str) -> None:
    """All of the network, or only what is trained."""
    network.train(mode != "partial")
    if mode == "partial":
        for name in trained.split(","):
            network.get_submodule(name).train()


def main() -> None:
    """Train, judge each epoch, keep the best."""
    options = common.arguments(str(__doc__), choices=("frozen", "full", "discriminative", "partial"))
    network, config = common.open_network(options.source, common.count_classes(options.data))
    network.to(options.device)
    for_training, steady = common.make_transforms(config, options.size)
    train = common.loader(common.folder(options.data, "train", for_training), options.batch, shuffle=True)
    val = common.loader(common.folder(options.data, "val", steady), options.batch)
    lr = options.lr if options.lr is not None else 0.001 * options.batch / 4
    optimizer = torch.optim.SGD(trained_groups(network, options.mode, lr, options.trained), momentum=0.9)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=7, gamma=0.1)
    criterion = nn.CrossEntropyLoss()
    result = common.Result("tutorial", options.mode, len(train.dataset))
    best, best_accuracy = copy.deepcopy(network.state_dict()), -1.0
    for _ in range(options.epochs):
        started = time.perf_counter()
        training_mode(network, options.mode, options.trained)
        for images, labels in train:
            optimizer.zero_grad()
            loss = criterion(network(images.to(options.device)), labels.to(options.device))
            loss.backward()
            optimizer.step()
        schedule.step()
        judging = time.perf_counter()
        accuracy = common.accuracy_of(network, val, options.device)
        result.epoch(
            train_seconds=judging - started, val_seconds=time.perf_counter() - judging, accuracy=accuracy
        )  # fmt: skip
        if accuracy > best_accuracy:
            best, best_accuracy = copy.deepcopy(network.state_dict()), accuracy
    network.load_state_dict(best)
    facts = {"lr": lr, "threads": torch.get_num_threads()}
    if (options.data / "test").is_dir():
        pictures = common.folder(options.data, "test", steady)
        right = common.right_answers(network, pictures, common.loader(pictures, options.batch), options.device)
        facts |= {"test_right": right, "test_accuracy": sum(right.values()) / len(right)}
    result.write(options.out, **facts)


if __name__ == "__main__":
    main()
