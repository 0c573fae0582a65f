"""One pass through the network in plain PyTorch, then scikit-learn's LogisticRegression(max_iter=1000), as is usual.

No augmentation, no search of the regularisation, no scaling of the features.
"""

from __future__ import annotations

import time

import common
import numpy as np
import torch
from sklearn.linear_model import LogisticRegression


def main() -> None:
    """Features of both splits, one fit, one score."""
    options = common.arguments(str(__doc__))
    network, config = common.open_network(options.source, 0)
    network.eval().to(options.device)
    _, steady = common.make_transforms(config, options.size)
    tables = {}
    started = time.perf_counter()
    with torch.inference_mode():
        for split in ("train", "val"):
            batches = common.loader(common.folder(options.data, split, steady), options.batch)
            rows = [(network(images.to(options.device)).cpu(), labels) for images, labels in batches]
            tables[split] = (np.concatenate([x for x, _ in rows]), np.concatenate([y for _, y in rows]))
    passed = time.perf_counter()
    head = LogisticRegression(max_iter=1000).fit(*tables["train"])
    fitted = time.perf_counter()
    result = common.Result("sklearn_probe", "frozen", len(tables["train"][0]))
    result.write(
        options.out,
        accuracy=float(head.score(*tables["val"])),
        pass_seconds=passed - started,
        fit_seconds=fitted - passed,
        threads=torch.get_num_threads(),
    )


if __name__ == "__main__":
    main()
