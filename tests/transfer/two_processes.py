"""What torchrun starts: train on CPU and tell what this rank sees of the result. Argument: a folder."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
from rigs import coloured, make_rig

from headstart import files
from headstart.errors import Interrupted, SettingsError
from headstart.records import Item, MemoryOrigin
from headstart.sources import open_source
from headstart.transfer import tuning
from headstart.transfer.interrupt import Stop
from headstart.transfer.steps import Samples


def told(made: object, **more: object) -> dict[str, object]:
    state = made.state()  # type: ignore[attr-defined]
    digest = files.hash_json([[name, value.tolist()] for name, value in state.items()])
    logits, there = made.trainer.predict(made.val.items)  # type: ignore[attr-defined]
    history = [{k: v for k, v in row.items() if k != "seconds"} for row in made.trainer.result.history]  # type: ignore[attr-defined]
    return {"digest": digest, "logits": logits.tolist(), "there": there.tolist(), "history": history, **more}


def main(out: Path) -> None:
    torch.set_num_threads(1)
    rank = int(os.environ.get("RANK", "0"))
    answers: dict[str, object] = {}

    vit = open_source("random:test_vit", image_size=32)
    smooth = {"source": vit, "augment": False, "n": 15, "batch_size": 5, "optimizer": "sgd", "lr": "0.05"}
    made = make_rig(folder=out / "smooth", accumulate=2, **smooth)
    made.fit()
    answers["smooth"] = told(made, world=made.trainer.engine.world, rank=made.trainer.engine.rank)

    # BatchNorm, an average of weights, a batch smaller than the number of processes, and pictures that vanish
    good = coloured(9)
    items = [Item("gone", MemoryOrigin(b""), 0) if n in (0, 4) else item for n, item in enumerate(good.items)]
    norms = make_rig(
        source=open_source("toy"), norm_stats="updated", ema=0.5, batch_size=1, train=Samples(tuple(items), good.labels)
    )
    norms.fit()
    answers["norms"] = told(norms)

    # a pooling that passes by a part of the network
    mobile = open_source("random:mobilenetv3_small_050", image_size=32)
    passing = make_rig(source=mobile, pooling="avg", n=6, batch_size=2, epochs=1)
    passing.fit()
    answers["passing"] = told(passing)

    # from rows at the cut
    kept = {**smooth, "strategy": "partial", "train_last": 2, "augment": True, "views": 2, "n": 16}
    above = make_rig(stored=True, **kept)
    above.fit()
    answers["above"] = told(above)

    # one process alone hears the signal: all stop at the same step, and go on together
    stop = Stop()
    halted = make_rig(folder=out / "halted", stop=stop, **smooth)
    steps = halted.trainer._step

    def heard(*args: object, **more: object) -> None:
        if rank == 1 or "RANK" not in os.environ:
            stop.code = 143
        steps(*args, **more)  # type: ignore[arg-type]

    halted.trainer._step = heard  # type: ignore[method-assign, assignment]
    try:
        halted.fit()
    except Interrupted as error:
        answers["code"] = error.exit_code
    again = make_rig(folder=out / "halted", **smooth)
    again.fit()
    answers["again"] = told(again)

    absurd = make_rig(source=vit, lr="1e20", warmup=0.0, clip=0.0, epochs=40, patience=40, optimizer="sgd")
    try:
        absurd.fit()
    except SettingsError as error:
        answers["absurd"] = str(error)
    found = made.trainer.engine.collect({rank: np.full(2, rank)}, 4)
    answers["collected"] = [table.tolist() for table in (np.nan_to_num(found[0], nan=-1), found[1])]
    (out / f"{rank}.json").write_text(json.dumps(answers))


if __name__ == "__main__":
    tuning._SAVE_SHARE = float("inf")  # every epoch is saved
    main(Path(sys.argv[1]))
