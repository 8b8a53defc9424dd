"""Training an adapter: a loop over rows of packed texts, on whatever the base was loaded in, on a CPU or a GPU.

The loss is of what the assistant says, summed over a step's rows and divided by their learned tokens, so that neither
packing nor accumulation changes what a step is. Knows nothing of behaviours, files of data or screens.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from jeito.engines.transformers_weights import first_line, quietly, returning_memory
from jeito.errors import EngineError, InputError, nearest
from jeito.tune import checkpoint
from jeito.tune.checkpoint import Point, State
from jeito.tune.masks import Text
from jeito.tune.settings import Settings, rate_at, rows_of, steps_of

Finish = Literal["done", "early", "nan"]
"""All steps; no lower loss for so many looks; a loss that is no number."""
Heard = Callable[[Point, int], None]
"""Hears each step's point, and how many steps there are."""


@dataclass(slots=True)
class Trained:
    """`weights`: the adapter's, of the best look; before one, of the last step after which the loss was a number."""

    state: State
    finish: Finish
    weights: dict[str, Any]
    packed: bool
    """Did texts share passes?"""


def adapt(model: Any, settings: Settings) -> Any:
    """The model with an adapter on top that changes nothing yet. Raises InputError for targets that it has not."""
    torch: Any = import_module("torch")
    with quietly():
        peft: Any = import_module("peft")
    names = linear_names(model)
    if unknown := next((name for name in settings.targets if name not in names), None):
        raise InputError(f"no linear layer is called {unknown!r}", hint=nearest(unknown, names))
    if not names:
        raise InputError("the model has no linear layers to adapt", hint="take another model")
    config = peft.LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout, task_type="CAUSAL_LM",
        target_modules=sorted(settings.targets or names),
    )  # fmt: skip
    torch.manual_seed(settings.seed)
    try:
        with quietly():
            adapted = peft.get_peft_model(model, config)
    except ValueError as error:
        raise InputError(f"peft cannot adapt this model so: {first_line(error)}", hint="--targets others") from error
    if settings.checkpointing:
        inner = adapted.base_model.model
        # transformers 5.24 has given it another name.
        enable = getattr(inner, "activation_checkpointing_enable", None) or inner.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    return adapted.train()


def linear_names(model: Any) -> set[str]:
    """What a model calls its linear layers, without the head."""
    torch: Any = import_module("torch")
    conv: Any = import_module("transformers.pytorch_utils").Conv1D
    head = model.get_output_embeddings()
    return {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | conv) and module is not head
    }


def keeps_apart(model: Any) -> bool:
    """Can texts share a row? Another text in front must not change a bit of what the model says of the one behind."""
    torch: Any = import_module("torch")
    generator = torch.Generator().manual_seed(0)
    first, other, second = (
        torch.randint(0, model.config.get_text_config(decoder=True).vocab_size, (count,), generator=generator)
        for count in (24, 24, 16)
    )
    at = torch.cat([torch.arange(24), torch.arange(16)])[None].to(model.device)
    try:
        rows = [torch.cat([before, second])[None].to(model.device) for before in (first, other)]
        with torch.no_grad(), measuring(model):
            one, two = (model(row, position_ids=at, use_cache=False).logits[0, 24:] for row in rows)
    except (TypeError, ValueError, RuntimeError):
        return False
    # A mixture of experts computes a token a little differently beside others.
    return bool((one - two).abs().max() <= 1e-3 * one.abs().max())


@contextmanager
def measuring(model: Any) -> Iterator[None]:
    """Without dropout; but bitsandbytes' layers are left alone, which would repack their weights for good."""
    training = [module for module in model.modules() if module.training and type(module).__name__ != "Linear4bit"]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


@dataclass(slots=True)
class Training:
    """A training under way. `file`: of its checkpoints; `begun`: the digest of all that it depends on."""

    model: Any
    settings: Settings
    train: Sequence[Text]
    held_out: Sequence[Text]
    file: Path
    begun: str
    heard: Heard | None = None
    packed: bool = False
    state: State = field(init=False)
    _torch: Any = field(init=False)
    _weights: dict[str, Any] = field(init=False)
    _best: dict[str, Any] = field(init=False)
    _good: dict[str, Any] = field(init=False)
    """Before a look found the best: those that gave the last step's loss."""
    _optimizer: Any = field(init=False)

    def run(self) -> Trained:
        """To the end, from where it was left. Raises EngineError where nothing good came of it."""
        # Where memory is short, what a layer lets go of goes back at once: slower by a third, and half as much is held.
        with returning_memory() if self.settings.checkpointing else nullcontext():
            self.begin()
            finish = self._steps()
        if finish == "nan" and self.state.step == 0:
            raise EngineError(
                f"the loss is no number at the first step, at a rate of {self.settings.rate:g}",
                hint="--precision bf16, or a lower --rate",
            )
        # What a loss that is no number was measured with is not good.
        return Trained(self.state, finish, self._best or (finish == "nan" and self._good) or self._copy(), self.packed)

    def begin(self) -> None:
        """Where it was left, or at the beginning."""
        self._torch = import_module("torch")
        self._weights = {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}
        self._optimizer = self._torch.optim.AdamW(self._weights.values(), weight_decay=self.settings.decay)
        self.state, self._best, self._good = State(begun=self.begun), {}, {}
        self._go_on()
        self.packed = keeps_apart(self.model)

    def _steps(self) -> Finish:
        steps = steps_of(self.settings, len(self.train))
        for step in range(self.state.step, len(steps)):
            if self.state.misses >= self.settings.patience:
                return "early"
            rate = rate_at(self.settings, step, len(steps))
            loss = self.step([self.train[at] for at in steps[step]], rate)
            if loss is None:
                return "nan"
            looks = (step + 1) % self.settings.every == 0 or step + 1 == len(steps)
            held_out = self._held_out() if looks and self.held_out else None
            if held_out is not None and not math.isfinite(held_out):
                return "nan"
            point = Point(step=step + 1, loss=loss, held_out=held_out, rate=rate)
            self._count(point)
            if looks:
                self._keep()
            if self.heard:
                self.heard(point, len(steps))
        return "done"

    def step(self, texts: Sequence[Text], rate: float) -> float | None:
        """Learn from these texts; their loss before, or nothing where that or its gradient is no number."""
        torch, count, total = self._torch, sum(text.learns for text in texts), 0.0
        for row in self._rows(texts):
            loss = self._loss(row)
            loss.backward()
            total += float(loss.detach())
        for weight in self._weights.values():
            weight.grad.div_(count)
        norm = torch.nn.utils.clip_grad_norm_(self._weights.values(), self.settings.clip)
        if not (norm.isfinite() and torch.tensor(total).isfinite()):
            return None
        if not self._best:
            self._good = self._copy()
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self._optimizer.zero_grad()
        return total / count

    def _rows(self, texts: Sequence[Text]) -> list[list[Text]]:
        if not self.packed:
            return [[text] for text in texts]
        rows = rows_of([len(text.tokens) for text in texts], self.settings.length)
        return [[texts[at] for at in row] for row in rows]

    def _loss(self, row: Sequence[Text]) -> Any:
        """Nats, summed over the learned tokens of a row. The head is computed where one follows, and nowhere else."""
        torch, device = self._torch, self.model.device
        tokens = list(chain.from_iterable(text.tokens for text in row))
        # What stands first in a text has nothing before it that foretells it.
        learned = list(chain.from_iterable((False, *text.learned[1:]) for text in row))
        before = torch.tensor([at - 1 for at, is_learned in enumerate(learned) if is_learned], device=device)
        wanted = torch.tensor([token for token, is_learned in zip(tokens, learned, strict=True) if is_learned])
        places = {}
        if len(row) > 1:
            counted = chain.from_iterable(range(len(text.tokens)) for text in row)
            places = {"position_ids": torch.tensor([list(counted)], device=device)}
        logits = self.model(
            input_ids=torch.tensor([tokens], device=device), use_cache=False, logits_to_keep=before, **places
        ).logits[0]
        return torch.nn.functional.cross_entropy(logits.float(), wanted.to(device), reduction="sum")

    def _held_out(self) -> float:
        with self._torch.no_grad(), measuring(self.model):
            total = sum(float(self._loss(row)) for row in self._rows(self.held_out))
        return total / sum(text.learns for text in self.held_out)

    def _count(self, point: Point) -> None:
        """Put a step into the state; a held-out loss lower than any before makes its weights the best."""
        found: dict[str, Any] = {"step": point.step, "curve": (*self.state.curve, point)}
        if point.held_out is not None:
            lowest = self.state.best_loss
            if lowest is None or point.held_out < lowest:
                found |= {"best": point.step, "best_loss": point.held_out, "misses": 0}
                self._best = self._copy()
            else:
                found["misses"] = self.state.misses + 1
        self.state = self.state.model_copy(update=found)

    def _copy(self) -> dict[str, Any]:
        return {name: weight.detach().clone() for name, weight in self._weights.items()}

    def _keep(self) -> None:
        tensors = {f"weights.{name}": weight.detach() for name, weight in self._weights.items()}
        tensors |= {f"best.{name}": weight for name, weight in self._best.items()}
        for at, moments in self._optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{at}.{name}": value for name, value in moments.items()}
        tensors["noise"] = self._torch.get_rng_state()
        if self.model.device.type == "cuda":
            tensors["noise.cuda"] = self._torch.cuda.get_rng_state(self.model.device)
        checkpoint.write(self.file, self.state, tensors)

    def _go_on(self) -> None:
        """Where a checkpoint was left, if one was. Raises InputError for one of another training."""
        kept = checkpoint.read(self.file)
        if kept is None:
            return
        if kept.state.begun != self.begun:
            raise InputError(
                f"{str(self.file)!r} was begun with another base, other data or other settings",
                hint="another --name, or --restart",
            )
        self.state, tensors = kept.state, kept.tensors
        with self._torch.no_grad():
            for name, weight in self._weights.items():
                weight.copy_(tensors[f"weights.{name}"])
        device = self.model.device
        self._best = {
            name.removeprefix("best."): tensor.to(device)
            for name, tensor in tensors.items()
            if name.startswith("best.")
        }
        moments: dict[int, dict[str, Any]] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                _, at, kind = name.split(".")
                moments.setdefault(int(at), {})[kind] = tensor
        self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": moments})
        self._torch.set_rng_state(tensors["noise"])
        if "noise.cuda" in tensors:
            self._torch.cuda.set_rng_state(tensors["noise.cuda"], device)
