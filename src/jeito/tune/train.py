"""From data and a model to an adapter with a name: prepared, checked against memory, trained, written with its card.

Knows nothing of behaviours but what its card is told, and nothing of screens.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from jeito.engines.adapters import CARD, WEIGHTS, AdapterCard, outline_of
from jeito.engines.base import Loading
from jeito.engines.meter import free_memory, taken
from jeito.engines.needs import gigabytes
from jeito.engines.training_needs import TrainingNeed, training_need
from jeito.engines.transformers import own_precision
from jeito.errors import InputError, ModelError
from jeito.home import home
from jeito.tune import data
from jeito.tune.base import Base, load_base, read_base
from jeito.tune.data import Example, Split
from jeito.tune.masks import Text, texts_of
from jeito.tune.qlora import Heard, Trained, Training, adapt
from jeito.tune.settings import Settings, rows_of, steps_of, suited

STEP = 64
"""Lengths that nobody gave are rounded up to this."""


class Prepared(NamedTuple):
    """All that is decided before a weight is read."""

    base: Base
    settings: Settings
    precision: str
    train: tuple[Text, ...]
    held_out: tuple[Text, ...]
    need: TrainingNeed
    left_out: int
    """Texts that are longer than a pass."""
    digest: str
    """Of the data."""


def prepare(
    reference: str, split: Split, given: Mapping[str, Any], loading: Loading,
    notify: Callable[[str], None] = lambda text: None,
) -> Prepared:  # fmt: skip
    """Raises InputError or ModelError for data, settings, a template or a memory with which nothing can be trained."""
    base = read_base(reference, loading, notify)
    sides = [_texts(base, side) for side in split]
    context = base.folder.longest or 2**31
    longest = max((len(text.tokens) for side in sides for text in side), default=1)
    length = int(given.get("length") or min(context, -(-max(longest, 512) // STEP) * STEP))
    if length > context:
        raise InputError(f"a pass of {length} tokens: the longest text is {context}", hint=f"--length {context}")
    train, held_out = (tuple(text for text in side if len(text.tokens) <= length) for side in sides)
    if not train:
        raise (
            InputError(f"no text of {len(sides[0])} to learn from fits {length} tokens", hint=f"--length {longest}")
            if sides[0]
            else InputError("there is nothing to learn from", hint="jeito pairs BEHAVIOUR --cases F")
        )
    parameters = sum(tensor.parameters for tensor in base.weights.tensors)
    settings = suited(parameters, len(train), {**given, "length": length})
    precision, settings, need = _fit(base, settings, [*train, *held_out], len(train), loading)
    left_out = sum(map(len, sides)) - len(train) - len(held_out)
    return Prepared(base, settings, precision, train, held_out, need, left_out, data.digest(split))


def _texts(base: Base, examples: Sequence[Example]) -> list[Text]:
    found: list[Text] = []
    for example in examples:
        try:
            found += texts_of(example, base.template, base.tokens, base.ends)
        except ModelError as error:
            hint = error.hint or "leave that conversation out"
            raise ModelError(f"the conversation about {example.group[:40]!r}: {error}", hint=hint) from error
    return [text for text in found if text.learns]


def _fit(
    base: Base, settings: Settings, texts: Sequence[Text], learning: int, loading: Loading
) -> tuple[str, Settings, TrainingNeed]:
    """The best precision that fits, with layers computed twice only where they have to be."""
    rows = list(steps_of(settings, learning))
    rows.append(list(range(learning, len(texts))))
    passes = [
        [texts[step[at]] for at in row]
        for step in rows
        for row in rows_of([len(texts[at].tokens) for at in step], settings.length)
    ]
    length = max(sum(len(text.tokens) for text in row) for row in passes)
    learned = max(sum(text.learns for text in row) for row in passes)
    room = loading.budget or free_memory(base.device)
    own = own_precision(base.folder, base.weights)
    own = "bf16" if own == "fp32" and base.device != "cpu" else own
    order = list(dict.fromkeys([own, "bf16", "nf4"])) if base.precision == "auto" else [base.precision]
    ways = [(word, again) for word in order for again in ((True,) if settings.checkpointing else (False, True))]
    for word, again in ways:
        need = training_need(
            base.outline, word, rank=settings.rank, targets=frozenset(settings.targets), length=length,
            learned=learned, checkpointing=again, device=base.device,
        )  # fmt: skip
        if room is None or need.peak <= room:
            return word, settings.model_copy(update={"checkpointing": again}), need
    raise ModelError(
        f"training {base.folder.name!r} in {word} with passes of {length:,} tokens takes {gigabytes(need.peak)} "
        f"(weights {gigabytes(need.weights)}, adapter {gigabytes(need.adapter)}, layers {gigabytes(need.layers)}, head "
        f"{gigabytes(need.head)}), and there are {gigabytes(room or 0)}",
        hint=_smaller(word, length, settings),
    )


def _smaller(precision: str, length: int, settings: Settings) -> str:
    offers = ["--precision nf4"] if precision != "nf4" else []
    offers += [f"--length {length // 2}"] if length > 128 else []
    return ", or ".join([*offers, "a smaller model"])


class Made(NamedTuple):
    """An adapter that was written."""

    path: Path
    card: AdapterCard
    is_new: bool
    """Was it made now? Else it was there, from the same base, data and settings."""


def tune(
    prepared: Prepared, name: str, loading: Loading, *, behaviour: str | None = None, fingerprint: str | None = None,
    restart: bool = False, replace: bool = False, heard: Heard | None = None,
) -> Made:  # fmt: skip
    """Train to the end, from the last checkpoint if one was left, and keep the adapter under its name in home.

    One that was made of just this is left as it is, unless `restart`.
    """
    folder, begun = home() / "adapters" / name, _begun(prepared, loading)
    if not restart and (card := _card_of(folder)) and card.training.get("begun") == begun:
        return Made(folder, card, is_new=False)
    if folder.exists() and not replace:
        raise InputError(f"there is an adapter {name!r} already", hint="--replace, or another --name")
    file = home() / "tuning" / f"{name}.safetensors"
    if restart:
        file.unlink(missing_ok=True)
    base, settings, start = prepared.base, prepared.settings, time.monotonic()
    model = adapt(load_base(base, prepared.precision, loading), settings)
    trained = Training(model, settings, prepared.train, prepared.held_out, file, begun, heard=heard).run()
    card = AdapterCard(
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        base=base.reference,
        base_digest=base.weights.digest(),
        base_sum=_list_sum(base, prepared.precision, model),
        behaviour=behaviour,
        behaviour_fingerprint=fingerprint,
        training=_facts(prepared, trained, loading, str(model.dtype).removeprefix("torch."))
        | {"seconds": round(time.monotonic() - start, 1)},
    )
    _write(folder, model.peft_config["default"], trained.weights, card)
    file.unlink(missing_ok=True)
    return Made(folder, card, is_new=True)


def _list_sum(base: Base, precision: str, model: Any) -> float | None:
    """What its card says of the base's norms and biases; none where they were rounded as they were loaded."""
    if own_precision(base.folder, base.weights) not in ("bf16", precision):
        return None
    return float(sum(weight.double().abs().sum() for weight in model.parameters() if weight.ndim == 1))


def _card_of(folder: Path) -> AdapterCard | None:
    try:
        return outline_of(folder).card
    except ModelError:  # none, or a broken one, which --replace replaces
        return None


def _begun(prepared: Prepared, loading: Loading) -> str:
    base = prepared.base
    said = {
        "base": base.weights.digest(), "data": prepared.digest, "settings": prepared.settings.model_dump(mode="json"),
        "precision": prepared.precision, "compute": loading.compute, "double": loading.double_quantisation,
        "device": base.device, "versions": _versions(),
    }  # fmt: skip
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _versions() -> dict[str, str]:
    return {package: version(package) for package in ("torch", "transformers", "peft")}


def _facts(prepared: Prepared, trained: Trained, loading: Loading, computes: str) -> dict[str, Any]:
    state, texts = trained.state, prepared.train
    return {
        **prepared.settings.model_dump(mode="json"),
        "precision": prepared.precision, "computes": computes, "device": prepared.base.device,
        "double_quantisation": loading.double_quantisation, "data": prepared.digest, "texts": len(texts),
        "held_out_texts": len(prepared.held_out), "left_out": prepared.left_out, "begun": state.begun,
        "tokens": sum(len(text.tokens) for text in texts), "learned": sum(text.learns for text in texts),
        "packed": trained.packed, "finish": trained.finish, "steps": state.step, "best_step": state.best,
        "held_out_loss": state.best_loss, "curve": [point.model_dump(mode="json") for point in state.curve],
        "memory": {"predicted": prepared.need.peak, **taken(prepared.base.device)}, "versions": _versions(),
    }  # fmt: skip


def _write(folder: Path, config: Any, weights: Mapping[str, Any], card: AdapterCard) -> None:
    """As peft writes it, and our card; the folder is there whole or not at all."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    # Not the folder that the base was read from: it lies elsewhere for whoever is given the adapter.
    config.base_model_name_or_path, config.inference_mode = card.base, True
    config.save_pretrained(partial)
    tensors = {name.replace(".default.", "."): weight.contiguous().cpu() for name, weight in weights.items()}
    (partial / WEIGHTS).write_bytes(import_module("safetensors.torch").save(tensors, {"format": "pt"}))
    (partial / CARD).write_text(card.model_dump_json(indent=1))
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
