"""The Model: source + head + classes + Card, ready to predict, and the folder it lives in.

The folder is a timm / Hugging Face folder (config.json + model.safetensors) that `timm.create_model("local-dir:...")`
opens with the same logits when the head is one linear layer on the network's own pooling. What timm does not know
stands in headstart.json: classes, Card, Plan, versions, the sha256 of every file, and golden outputs that are checked
when the model is loaded. The reject option stands in reject.safetensors, where there is one, and what the head was
fitted on in files of `learned`. No pickle is read or written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headstart import files, tensors
from headstart.data import augment
from headstart.data.loader import Views, batches
from headstart.errors import ModelError, SourceError, UserError
from headstart.judge.calibration import softmax
from headstart.judge.reject import Reject
from headstart.progress import Reporter, Silent
from headstart.records import SCHEMA, Card, Item, Plan, Skipped, plain
from headstart.ship import hub
from headstart.ship._record import AGAIN, BLANK, KEYS, read_record, temperature_of
from headstart.ship.answers import UNKNOWN, Answers, Prediction, items_of, predictions
from headstart.ship.learned import LEARNED, STATISTICS, Learned
from headstart.sources import open_source
from headstart.transfer.engine import pick_device
from headstart.transfer.heads import FittedHead
from headstart.transfer.memory import in_pieces
from headstart.transfer.net import TransferNet
from headstart.transfer.precision import exact
from headstart.transfer.runner import filled

__all__ = ["UNKNOWN", "Answers", "Model", "Prediction", "find_model_folder", "load", "record_bytes", "softmax"]

_REJECT = "reject.safetensors"
_AHEAD = 4  # images decoded together where each is computed alone: the next ones are decoded meanwhile
_WORDS = 400  # letters of what a file or a library says
_GOLDEN_TOLERANCE = 1e-3  # on probabilities: other processors round differently, other weights differ far more


class Model:
    """A trained network with its classes, ready to predict.

    `temperature` divides the logits: it goes into a linear head, so that other programs give the calibrated answers
    too, and is kept beside any other. `reject` says for which inputs the label is "unknown". `learned` is written with
    the model and not read with it: see `read_learned`.
    """

    def __init__(
        self,
        net: TransferNet,
        classes: Sequence[str],
        *,
        head: FittedHead,
        plan: Plan,
        facts: Mapping[str, Any],
        reject: Reject | None = None,
        temperature: float = 1.0,
        learned: Learned | None = None,
    ) -> None:
        self.classes, self.plan, self.facts = tuple(classes), plan, dict(facts)
        self.reject, self.temperature, self.learned = reject, temperature, learned
        if temperature != 1.0:
            folded = isinstance(net.head, torch.nn.Linear)
            self.facts["calibration"] = {"temperature": temperature, "folded": folded}
            if folded:
                net, head = _divided(net, head, temperature)
                self.temperature = 1.0
        self.net, self.head = net.eval(), head
        self.device = "cpu"

    @property
    def card(self) -> Card:
        """The facts that rule the preprocessing."""
        return self.net.source.card

    def to(self, device: str) -> Model:
        """Move to a device: "cpu", "cuda", "mps", or "auto" for a GPU where there is one; returns the model.

        Raises SettingsError for a device that this machine lacks.
        """
        self.device = pick_device(device)
        self.net.to(device=self.device)
        return self

    # --- answers ------------------------------------------------------------------------------------------------

    def logits(
        self, items: Sequence[Item], *, batch_size: int = 32, reporter: Reporter | None = None
    ) -> tuple[np.ndarray, tuple[Skipped, ...]]:
        """Calibrated logits float32 (n, classes) of items, NaN where one cannot be read, and what was skipped."""
        found = self.answers(items, batch_size=batch_size, reporter=reporter)
        return found.logits, found.skipped

    def answers(self, items: Sequence[Item], *, batch_size: int = 32, reporter: Reporter | None = None) -> Answers:
        """Calibrated logits of items, and which of them the reject option lets through (all without one).

        Where memory runs out it goes on with half as many images at a time; SettingsError where one is too many.
        """
        known = np.ones(len(items), dtype=bool)
        table = np.full((len(items), len(self.classes)), np.nan, dtype=np.float32)
        step = min(batch_size, _AHEAD) if self.device == "cpu" else batch_size
        order = [np.arange(s, min(s + step, len(items))) for s in range(0, len(items), step)]
        skipped: list[Skipped] = []
        self.net.eval()
        at_once, reporter = batch_size, reporter or Silent()
        with reporter.progress("Predicting", len(items)) as bar:
            for batch in batches(Views(items, self.card), order, workers=0 if len(items) == 1 else None):
                skipped += batch.skipped
                if len(batch.index):
                    before, images = at_once, batch.images
                    # On a GPU the numbers must not depend on how many pictures came together: always a full batch.
                    images = images if self.device == "cpu" else filled(images, batch_size)
                    parts, at_once = in_pieces(self._forward, images, at_once)
                    if at_once < before:
                        reporter.note(f"memory ran out: answers are computed for {at_once} images at a time")
                    found = [np.concatenate(column)[: len(batch.index)] for column in zip(*parts, strict=True)]
                    table[batch.index], known[batch.index] = found
                bar.advance(len(batch.index) + len(batch.skipped))
        return Answers(table, known, tuple(skipped))

    def _forward(self, images: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Calibrated logits, and whether each image gets a label, in one pass.

        On the processor every image is computed alone: its numbers must not depend on its company, and the libraries
        below add up in another order for another number of images.
        """
        size = 1 if self.device == "cpu" else len(images)
        found = [self._computed(images[at : at + size]) for at in range(0, len(images), size)]
        return np.concatenate([logits for logits, _ in found]), np.concatenate([known for _, known in found])

    def _computed(self, images: Tensor) -> tuple[np.ndarray, np.ndarray]:
        inputs = augment.normalise(images.to(self.device), self.card).contiguous(memory_format=torch.channels_last)
        with torch.inference_mode(), exact(self.device):
            logits, features = (part.float().cpu().numpy() for part in self.net.both(inputs))
        logits = logits / np.float32(self.temperature)
        if self.reject is None:
            return logits, np.ones(len(logits), dtype=bool)
        return logits, self.reject.accepts(softmax(logits), features)

    def predict(self, inputs: Any, *, reporter: Reporter | None = None) -> list[Prediction]:
        """Answers for files, folders, PIL images or arrays (one or a list); an unreadable one gets an error.

        A list gives one answer an entry, in its order; a folder in it one a picture. Raises DataError when a path does
        not exist, when a folder holds no picture, or when nothing was given. The label is "unknown" where the reject
        option refuses.
        """
        return self.predict_items(items_of(inputs), reporter=reporter)

    def predict_items(self, items: Sequence[Item], *, reporter: Reporter | None = None) -> list[Prediction]:
        """The answers of `predict` for items."""
        return predictions(items, self.answers(items, reporter=reporter), self.classes)

    def predict_proba(self, inputs: Any, *, reporter: Reporter | None = None) -> np.ndarray:
        """Probabilities (n, classes), columns as in `classes`; rows of NaN for inputs that cannot be read."""
        return softmax(self.logits(items_of(inputs), reporter=reporter)[0])

    # --- the folder -----------------------------------------------------------------------------------------------

    def save(self, folder: str | Path, *, readme: str | Callable[[Mapping[str, Any]], str] = "") -> Path:
        """Write the model folder. Killed anywhere, it leaves the model that stood there or the new one, whole.

        `readme` is the text of README.md, or what makes it of config.json.
        """
        from safetensors.numpy import save as pack_arrays
        from safetensors.torch import save as pack

        place = Path(folder).expanduser()
        state, config = self._timm_form()
        text = readme if isinstance(readme, str) else readme(plain(config))
        contents = {
            "config.json": files.text_bytes(files.json_text(config)),
            "model.safetensors": pack(state, metadata={"format": "pt"}),
            "head.safetensors": pack_arrays(self.head.tensors()),
            "README.md": files.text_bytes(text or f"# {self.card.architecture}\n"),
        }
        if self.reject is not None:
            contents[_REJECT] = pack_arrays(self.reject.tensors())
        if self.learned is not None:
            contents |= self.learned.contents()
        record = {
            "schema": SCHEMA,
            "classes": self.classes,
            "card": self.card,
            "plan": self.plan,
            "head": {"kind": self.head.kind, "chosen": self.head.chosen},
            "golden": self._golden(),
            **self.facts,
            **({} if self.reject is None else {"reject": self.reject.facts()}),
            "files": {name: files.hash_bytes(data) for name, data in contents.items()},
            "sha256": BLANK,
        }
        files.write_together(place, {"headstart.json": record_bytes(record), **contents})
        for name in {_REJECT, LEARNED, STATISTICS} - set(contents):
            (place / name).unlink(missing_ok=True)  # of the model that stood here
        return place

    def _timm_form(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The state dict and config.json as timm reads them, with the classifier where the head is one layer."""
        module = self.head.module()
        source, card = self.net.source, self.card
        native, whole = self.plan.pooling == "native", False
        network, architecture, arguments = source.library.headless(source.network, native=native)
        if native and isinstance(module, torch.nn.Linear):
            with suppress(SourceError):  # the architecture cannot hold a linear classifier: head.safetensors holds it
                network, whole = source.whole(module.weight, module.bias), True
                architecture, arguments = source.library.saved_as(source.network)
        state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
        settings = {
            "input_size": card.input_size, "fixed_input_size": _fixed_input_size(architecture),
            "interpolation": card.interpolation, "crop_pct": card.crop_pct, "crop_mode": card.crop_mode,
            "mean": card.mean, "std": card.std, "num_classes": len(self.classes) if whole else 0,
            "license": card.licence,
        }  # fmt: skip
        config = {
            "architecture": architecture,
            "num_classes": len(self.classes) if whole else 0,
            "num_features": card.num_features,
            "label_names": self.classes,
            "model_args": arguments,
            "pretrained_cfg": settings,
        }
        if source.library.channels:
            config["channels"] = plain(source.library.channels)
        return state, config

    def _golden(self) -> dict[str, Any]:
        """Outputs for pictures that any machine can draw again."""
        return {"seed": 0, "n": 3, "probabilities": softmax(self._forward(_golden_images(self.card, 3))[0])}


def record_bytes(record: Mapping[str, Any]) -> bytes:
    """headstart.json of a record, with its own sha256 in it."""
    text = files.json_text({**record, "sha256": BLANK})
    return files.text_bytes(text.replace(BLANK, files.hash_bytes(files.text_bytes(text))))


def _divided(net: TransferNet, head: FittedHead, temperature: float) -> tuple[TransferNet, FittedHead]:
    """The same network with a linear head whose logits are divided by the temperature; the given one stays as it is."""
    head = replace(
        head, arrays={name: (array / temperature).astype(array.dtype) for name, array in head.arrays.items()}
    )
    device = next(net.source.parameters()).device
    return TransferNet(net.source, head.module().to(device), pooling=net.pooling), head


def _fixed_input_size(architecture: str) -> bool:
    """Whether timm builds the network for one size of pictures (it then reads that size from the config)."""
    from headstart.sources._importing import import_timm

    timm = import_timm()
    found = timm.get_pretrained_cfg(architecture) if timm.is_model(architecture) else None
    return bool(found is not None and found.fixed_input_size)


def _golden_images(card: Card, n: int) -> Tensor:
    """Smooth random uint8 pictures from a fixed seed: (n, 3, h, w)."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.integers(0, 256, (n, card.input_size[0], 8, 8)).astype(np.float32))
    smooth = torch.nn.functional.interpolate(coarse, card.input_size[1:], mode="bilinear", align_corners=False)
    return smooth.round().to(torch.uint8)


def find_model_folder(path: str | Path) -> Path:
    """The model folder at `path` or inside the run folder `path`; hf-hub:OWNER/NAME is fetched.

    Raises ModelError when there is none, and HubError when the Hub does not give it.
    """
    if hub.is_address(path):
        return hub.fetch_model(path)
    place = Path(path).expanduser()
    for candidate in (place, place / "model"):
        if (candidate / "headstart.json").is_file():
            return candidate
    if not place.exists():
        raise ModelError("no such folder", where=place, remedy="Give the --out folder of `headstart fit`.")
    unfinished = (place / "settings.json").is_file()
    remedy = f"Finish it with: headstart resume {place}" if unfinished else "Give the --out folder of `headstart fit`."
    raise ModelError("no finished headstart model here", where=place, remedy=remedy)


def load(path: str | Path) -> Model:
    """Open a run or model folder, or hf-hub:OWNER/NAME, and check it: hashes of its files, then golden outputs.

    Raises ModelError when it is missing, damaged, of a newer format, or predicts otherwise than when it was saved.
    """
    place = find_model_folder(path)
    record = read_record(place)
    for name, wanted in record["files"].items():
        target = place / name
        there = target.is_file()
        if (not there or files.hash_file(target) != wanted) and not files.finish(target, wanted):
            what = "the file is not as it was saved" if there else "a file of the model is missing"
            raise ModelError(what, where=target, remedy=AGAIN)
    try:
        model = _opened(place, record)
        _check_golden(model, record["golden"], place)
    except ModelError:
        raise
    except UserError as error:
        raise ModelError(f"the model cannot be opened: {error}", where=place) from error
    except Exception as error:  # whatever a library says of files that are no model, however right their hashes
        reason = (str(error).splitlines() or [""])[0][:_WORDS]
        what = f"the model cannot be opened: {type(error).__name__}: {reason}"
        raise ModelError(what, where=place, remedy="Ask whoever made it.") from error
    return model


def _opened(place: Path, record: Mapping[str, Any]) -> Model:
    """The model of a folder whose files have their hashes; its parts must fit each other."""
    kind, names = str(record["head"]["kind"]), record["files"]
    head = FittedHead.from_tensors(kind, tensors.read(place / "head.safetensors"))
    head = replace(head, chosen=dict(record["head"].get("chosen") or {}))
    reject = Reject.from_tensors(tensors.read(place / _REJECT)) if _REJECT in names else None
    source = open_source(str(place))
    plan = Plan(**{**record["plan"], "reasons": tuple(record["plan"]["reasons"])})
    net = TransferNet(source, head.module(), pooling=plan.pooling)
    facts = {name: value for name, value in record.items() if name not in (*KEYS, "schema", "reject")}
    apart = temperature_of(record)
    return Model(net, record["classes"], head=head, plan=plan, facts=facts, reject=reject, temperature=apart)


def _check_golden(model: Model, golden: Mapping[str, Any], place: Path) -> None:
    """Refuse a model that answers otherwise than when it was saved."""
    now = softmax(model._forward(_golden_images(model.card, int(golden["n"])))[0])
    then = np.array(golden["probabilities"], dtype=np.float64)
    if then.shape != now.shape or not float(np.abs(now - then).max()) <= _GOLDEN_TOLERANCE:
        drift = float(np.abs(now - then).max()) if then.shape == now.shape else float("nan")
        raise ModelError(
            f"the model's answers moved by {drift:.2g} since it was saved: a library computes otherwise",
            where=place,
            remedy=f"Install the versions it was made with: {str(plain(model.facts.get('versions', {})))[:_WORDS]}.",
        )
