"""Features of the shared sets by a real pretrained network, once a session."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

__all__ = ["features_of"]


@cache
def features_of(shared: Path, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Features and classes of the items to learn from, and of the test items (hymenoptera: val)."""
    from headstart.data import decode, read
    from headstart.files import hash_bytes
    from headstart.sources import open_source
    from headstart.transfer.features import embed

    data = read.read(shared / "data" / name)
    source = open_source(str(shared / "sources" / "mobilenetv2_035.keras_in1k"))
    hashes = {item.name: hash_bytes(decode.read_bytes(item)) for item in data.items}
    rows = embed(source, data.items, hashes=hashes, use_store=False).array
    labels = np.array([item.label for item in data.items])
    last = "test" if "test" in data.splits else "val"
    out = np.array([item.split == last for item in data.items])
    return rows[~out], labels[~out], rows[out], labels[out]
