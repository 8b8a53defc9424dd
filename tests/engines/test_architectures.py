"""One adapter on many architectures: as peft applies it, on transformers and on llama.cpp."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")
pytest.importorskip("gguf")

from jeito.engines.adapters import CARD, AdapterCard  # noqa: E402
from jeito.engines.base import PLAIN, Row  # noqa: E402
from jeito.engines.llama_tuning import KNOWN  # noqa: E402
from jeito.engines.llamacpp import LlamaEngine  # noqa: E402
from jeito.engines.transformers_tuning import Tuner  # noqa: E402
from jeito.errors import ModelError  # noqa: E402
from jeito.types import Adapter  # noqa: E402
from tests.engines import tiny_gguf  # noqa: E402

# What peft still calls, of a transformers that has given it another name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
TOKENS = [1, *range(40, 60)]


def said(model: Any) -> Any:
    with torch.no_grad():
        return model(torch.tensor([TOKENS])).logits[0].double().numpy()


@pytest.mark.parametrize("name", tiny_gguf.FAMILIES)
def test_an_adapter_does_on_both_engines_what_peft_does_with_it(name: str, tmp_path: Path) -> None:
    family = tiny_gguf.FAMILIES[name]
    model = tiny_gguf.made(family)
    plain = said(model)
    file = tiny_gguf.write(model, family, tmp_path / "model.gguf")
    expected = said(tiny_gguf.adapted(family, tmp_path / "adapter"))
    assert np.abs(expected - plain).max() > 0.5, "it does something"
    wanted = [Adapter(path=str(tmp_path / "adapter"))]

    tuner = Tuner(model, "tiny", lambda: "")
    tuner.use(tuner.tune(wanted, []))
    assert np.allclose(said(model), expected, atol=1e-4)

    engine = LlamaEngine(file, context=64, slots=1)
    total = sum(weight.double().abs().sum().item() for weight in model.parameters() if weight.ndim == 1)
    card = AdapterCard(made="", base="ORG/OTHER", base_sum=total)
    (tmp_path / "adapter" / CARD).write_text(card.model_dump_json())
    try:
        for tuning, theirs in ((PLAIN, plain), (engine.tune(wanted, []), expected)):
            engine.truncate(0, 0)
            ours = engine.extend([Row(0, TOKENS, len(TOKENS), tuning)])[0].astype(np.float64)
            # Its keys and values are kept in 16 bits.
            assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.9999
            assert np.abs(ours - theirs).max() < 0.05 * np.abs(theirs).max()
        if total and not name.startswith(("gemma", "stablelm")):
            other = card.model_copy(update={"base_sum": 1.001 * total})
            (tmp_path / "adapter" / CARD).write_text(other.model_dump_json())
            with pytest.raises(ModelError, match=r"made on 'ORG/OTHER', and 'model.gguf' has other weights"):
                engine.tune(wanted, [])
    finally:
        engine.close()


def test_no_architecture_is_converted_untried() -> None:
    assert {family.architecture for family in tiny_gguf.FAMILIES.values()} == set(KNOWN)
