"""Train the toy source that headstart ships: a tiny ResNet that has seen the handwritten digits 0 to 4, never 5 to 9.

    OMP_NUM_THREADS=1 python tools/train_toy.py            # about two minutes on one core
    OMP_NUM_THREADS=1 python tools/train_toy.py --measure  # only measures what is there and writes its README

The data are scikit-learn's `load_digits` (1,797 pictures of 8x8, the test part of UCI's "Optical Recognition of
Handwritten Digits"), enlarged to 32x32. Five classes alone would teach too little that serves other digits, so two
tasks are added: the answer to learn is the digit, its quarter turn and whether it is mirrored (40 classes; the shipped
classifier has the five upright ones), and a linear decoder must draw the picture again, without its noise, from the 64
features. It writes src/headstart/sources/toy.
The figure printed at the end is a linear probe on the digits 5 to 9 with ten pictures a class, from the trained and
from a random network of the same architecture.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import timm
import torch
from safetensors.torch import save
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional

from headstart.files import write_bytes, write_json, write_text
from headstart.sources.base import seeded

TOY = Path(__file__).resolve().parent.parent / "src" / "headstart" / "sources" / "toy"
ARCHITECTURE = "resnet18"
MODEL_ARGS = {"layers": [1, 1, 1, 1], "channels": [16, 32, 48, 64], "output_stride": 8}
README = """# toy

A ResNet of {parameters:,} parameters that headstart ships for first steps, tests and work without a network. It was
trained by `tools/train_toy.py` on the digits 0 to 4 of scikit-learn's `load_digits` (UCI, "Optical Recognition of
Handwritten Digits", E. Alpaydin and C. Kaynak, CC BY 4.0) and has never seen 5 to 9.

Linear probe on the digits 5 to 9, ten pictures a class, tested on all others, mean over {draws} draws:
**{trained:.3f}** from this network, {random:.3f} from the same network with random weights, {pixels:.3f} from the 8x8
pixels.

Use it on small, centred, single-channel-like pictures only: it knows nothing about photographs.
"""


def digits(wanted: range) -> tuple[Tensor, np.ndarray]:
    """Pictures [n,3,32,32] in -1..1 and labels [n] of these digits."""
    data = load_digits()
    chosen = np.isin(data.target, list(wanted))
    small = torch.from_numpy(data.images[chosen]).float().unsqueeze(1) / 8 - 1
    large = functional.interpolate(small, size=(32, 32), mode="bicubic", align_corners=False, antialias=True).clamp(
        -1, 1
    )
    return large.expand(-1, 3, -1, -1).contiguous(), data.target[chosen]


def augmented(images: Tensor, turns: Tensor, mirrored: Tensor) -> tuple[Tensor, Tensor]:
    """Each picture turned, mirrored, then a little rotated, scaled, sheared and shifted: without and with noise."""
    n = len(images)
    angle = turns * (np.pi / 2) + (torch.rand(n) - 0.5) * 0.6
    scale = 1 / (0.75 + 0.45 * torch.rand(n, 2))
    shear = (torch.rand(n) - 0.5) * 0.4
    shift = (torch.rand(n, 2) - 0.5) * 0.4
    cos, sin = torch.cos(angle), torch.sin(angle)
    scale[:, 0] *= 1 - 2 * mirrored
    rows = [
        torch.stack([cos * scale[:, 0], (-sin + shear) * scale[:, 1], shift[:, 0]], 1),
        torch.stack([sin * scale[:, 0], cos * scale[:, 1], shift[:, 1]], 1),
    ]
    grid = functional.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    moved = functional.grid_sample(images + 1, grid, align_corners=False) - 1
    contrast = 0.6 + 0.4 * torch.rand(n, 1, 1, 1)
    clean = (moved + 1) * contrast - 1
    return clean, (clean + 0.1 * torch.randn(n, 1, 32, 32)).clamp(-1, 1)


def train(epochs: int, seed: int) -> nn.Module:
    """The network with 40 outputs (digit x quarter turn x mirrored), trained with AdamW on a one-cycle rate."""
    images, labels = digits(range(5))
    with seeded(seed):
        network = timm.create_model(ARCHITECTURE, num_classes=40, **MODEL_ARGS)
        decoder = nn.Linear(64, 256)
        optimizer = torch.optim.AdamW([*network.parameters(), *decoder.parameters()], lr=4e-3, weight_decay=0.02)
        steps = epochs * -(-len(images) // 64)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps)
        network.train()
        for epoch in range(epochs):
            total = 0.0
            for chosen in torch.randperm(len(images)).split(64):
                turns, mirrored = torch.randint(4, (len(chosen),)), torch.randint(2, (len(chosen),))
                target = torch.from_numpy(labels)[chosen] + 5 * turns + 20 * mirrored
                clean, noisy = augmented(images[chosen], turns, mirrored)
                features = network.forward_head(network.forward_features(noisy), pre_logits=True)
                drawn = functional.mse_loss(
                    decoder(features), functional.adaptive_avg_pool2d(clean[:, :1], 16).flatten(1)
                )
                loss = functional.cross_entropy(network.fc(features), target, label_smoothing=0.1) + 10 * drawn
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                total += loss.item() * len(chosen)
            if epoch % 10 == 9:
                print(f"epoch {epoch + 1}: loss {total / len(images):.3f}", flush=True)
    return network.eval()


def probe(features: np.ndarray, labels: np.ndarray, draws: int = 20) -> float:
    """Accuracy of logistic regression on ten pictures a class, mean over seeded draws."""
    found = []
    for draw in range(draws):
        order = np.random.default_rng(draw).permutation(len(labels))
        few = np.concatenate([order[labels[order] == digit][:10] for digit in np.unique(labels)])
        rest = np.setdiff1d(order, few)
        head = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
        found.append(head.fit(features[few], labels[few]).score(features[rest], labels[rest]))
    return float(np.mean(found))


def measure(draws: int = 20) -> dict[str, float]:
    """Probe accuracy on the digits 5 to 9 from the shipped network, a random one, and from pixels."""
    from headstart.sources import open_source

    images, labels = digits(range(5, 10))
    pixels = load_digits().images[load_digits().target >= 5]
    toy = open_source("toy").eval()
    with torch.no_grad():
        rows = {
            "trained": toy(images),
            "random": toy.fresh(0).eval()(images),
            "pixels": torch.from_numpy(pixels).flatten(1),
        }
    return {name: probe(row.numpy(), labels, draws) for name, row in rows.items()}


def write(network: nn.Module) -> None:
    """The timm folder; convolutions rounded to float16, everything else float32."""
    state = {name: value.clone() for name, value in network.state_dict().items()}
    state["fc.weight"], state["fc.bias"] = state["fc.weight"][:5].clone(), state["fc.bias"][:5].clone()
    state = {name: value.half() if value.ndim == 4 else value for name, value in state.items()}
    config = {
        "architecture": ARCHITECTURE,
        "num_classes": 5,
        "num_features": 64,
        "label_names": ["0", "1", "2", "3", "4"],
        "model_args": MODEL_ARGS,
        "pretrained_cfg": {
            "num_classes": 5,
            "input_size": [3, 32, 32],
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "first_conv": "conv1",
            "classifier": "fc",
            "license": "Apache-2.0 (weights); trained on CC BY 4.0 data",
        },
    }
    write_bytes(TOY / "model.safetensors", save(state, metadata={"format": "pt"}))
    write_json(TOY / "config.json", config)


def main() -> None:
    """Train, write and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=80)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--measure", action="store_true", help="measure the network that is there and write its README")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.measure:
        write(train(options.epochs, options.seed))
    figures = measure()
    parameters = sum(p.numel() for p in timm.create_model(ARCHITECTURE, num_classes=5, **MODEL_ARGS).parameters())
    write_text(TOY / "README.md", README.format(parameters=parameters, draws=20, **figures))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
