"""Adapters and control vectors on a transformers model, by hooks: the model itself stays as it was loaded.

Knows nothing of slots, files' forms or who asks.
"""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from jeito.engines.adapters import (
    adapter_digest,
    applied,
    check_directions,
    check_fit,
    form_of,
    outline_of,
    read_directions,
    read_pairs,
)
from jeito.engines.base import PLAIN, Applied, Tuning
from jeito.engines.slots import forward
from jeito.errors import ModelError
from jeito.home import file_digest
from jeito.types import Adapter, Steering

Hook = Callable[[Any, Any, Any], Any]


class Tuner:
    """What can be put on top of one model; contents that were read once stay, by their digest."""

    def __init__(self, model: Any, name: str, base_digest: Callable[[], str]) -> None:
        self._torch: Any = import_module("torch")
        self._model, self._name, self._base_digest = model, name, base_digest
        self._pairs: dict[str, dict[Any, tuple[Any, Any]]] = {}
        """digest → module → (a, b)"""
        self._directions: dict[str, dict[Any, Any]] = {}
        """digest → layer's module → direction"""
        self._now, self._hooks = PLAIN, list[Any]()

    @property
    def layers(self) -> Sequence[Any]:
        return layers_of(self._model)

    def tune(self, adapters: Sequence[Adapter], steering: Sequence[Steering]) -> Tuning:
        """Read what is named and not here yet; raises ModelError for what does not fit."""
        return Tuning(
            applied([self._adapter(Path(one.path), one.scale) for one in adapters]),
            applied([self._vector(Path(one.vector), one.scale) for one in steering]),
        )

    def _adapter(self, path: Path, scale: float) -> Applied:
        if path.is_file():
            raise ModelError(f"{str(path)!r} is a file: transformers takes an adapter's folder", hint="-m a GGUF model")
        outline = outline_of(path)
        found = Applied(adapter_digest(path), scale, path.name, form_of(outline.ranks.items()))
        card = outline.card
        if card and card.base_digest and card.base_digest != self._base_digest():
            raise ModelError(
                f"the adapter {path.name!r} was made on {card.base!r} (weights {card.base_digest[:12]}), and "
                f"{self._name!r} has other weights ({self._base_digest()[:12]})",
                hint=f"-m {card.base}",
            )
        if found.digest in self._pairs:
            return found
        pairs = read_pairs(outline)
        modules = {name: module for name, module in self._model.named_modules() if name in pairs}
        shapes = {name: shape for name, module in modules.items() if (shape := _shape(module)) is not None}
        check_fit(outline, shapes, self._name, pairs)
        with self._torch.inference_mode(False):
            self._pairs[found.digest] = {
                modules[name]: tuple(self._torch.from_numpy(half).to(modules[name].weight.device) for half in pair)
                for name, pair in pairs.items()
            }
        return found

    def _vector(self, path: Path, scale: float) -> Applied:
        directions = read_directions(path)
        digest = file_digest(path)
        if digest not in self._directions:
            layers = self.layers
            width = int(self._model.config.get_text_config(decoder=True).hidden_size)
            check_directions(directions, path, layers=len(layers), width=width, model=self._name)
            self._directions[digest] = {
                layers[at]: self._torch.tensor(direction, device=self._model.device)
                for at, direction in directions.items()
            }
        return Applied(digest, scale, path.name)

    def use(self, tuning: Tuning) -> None:
        """From now on every pass of the model is under this tuning."""
        if tuning == self._now:
            return
        for hook in self._hooks:
            hook.remove()
        added: dict[Any, list[tuple[Any, Any, float]]] = {}
        for one in tuning.adapters:
            for module, (a, b) in self._pairs[one.digest].items():
                added.setdefault(module, []).append((a, b, one.scale))
        moved: dict[Any, Any] = {}
        for one in tuning.steering:
            for layer, direction in self._directions[one.digest].items():
                moved[layer] = moved.get(layer, 0) + direction * one.scale
        hooks = [(module, _beside(parts)) for module, parts in added.items()]
        hooks += [(layer, _onward(direction)) for layer, direction in moved.items()]
        self._hooks = [module.register_forward_hook(hook) for module, hook in hooks]
        self._now = tuning

    def states(self, tokens: Sequence[int]) -> Any:
        """[layers, tokens, width]: what each layer passes on, where directions are added, in float32."""
        self.use(PLAIN)
        kept: list[Any] = []

        def hook(module: Any, given: Any, output: Any) -> None:
            kept.append((output[0] if isinstance(output, tuple) else output)[0].float().cpu())

        hooks = [layer.register_forward_hook(hook) for layer in self.layers]
        try:
            forward(self._model, self._torch.tensor([list(tokens)], device=self._model.device), 1)
        finally:
            for added in hooks:
                added.remove()
        return self._torch.stack(kept).numpy()

    def deltas(self, tuning: Tuning) -> Mapping[Any, Any]:
        """By module: what adapters add to its weights [outputs, inputs], in float32."""
        found: dict[Any, Any] = {}
        for one in tuning.adapters:
            for module, (a, b) in self._pairs[one.digest].items():
                found[module] = found.get(module, 0) + one.scale * (b @ a)
        return found


def _shape(module: Any) -> tuple[int, int] | None:
    """(outputs, inputs) of a linear layer, whatever its weights are quantised to; none for anything else."""
    for outputs, inputs in (("out_features", "in_features"), ("nf", "nx")):
        if hasattr(module, outputs) and hasattr(module, inputs):
            return int(getattr(module, outputs)), int(getattr(module, inputs))
    return None


def layers_of(model: Any) -> Sequence[Any]:
    """The decoder's layers, first to last; raises ModelError for a model that keeps them some other way."""
    torch: Any = import_module("torch")
    count = int(model.config.get_text_config(decoder=True).num_hidden_layers)
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            return list(module)
    raise ModelError(f"the layers of a {model.config.model_type!r} are not found", hint="steer another model")


def _beside(parts: Sequence[tuple[Any, Any, float]]) -> Hook:
    """As peft computes it: the low rank in float32, and one rounding to the layer's own type at the end."""
    linear: Any = import_module("torch.nn.functional").linear

    def hook(module: Any, given: Any, output: Any) -> Any:
        total = output
        for a, b, scale in parts:
            total = total + linear(linear(given[0].to(a.dtype), a), b) * scale
        return total.to(output.dtype)

    return hook


def _onward(direction: Any) -> Hook:
    def hook(module: Any, given: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (output[0] + direction.to(output[0].dtype), *output[1:])
        return output + direction.to(output.dtype)

    return hook
