"""Control vectors made by contrast: the directions, their file, and what is refused."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
hf = pytest.importorskip("transformers")
pytest.importorskip("gguf")

from jeito.behaviour.load import load  # noqa: E402
from jeito.cli.main import _run  # noqa: E402
from jeito.engines import transformers as transformers_engine  # noqa: E402
from jeito.engines.adapters import read_directions  # noqa: E402
from jeito.engines.base import Loading, Row  # noqa: E402
from jeito.engines.transformers import TransformersEngine  # noqa: E402
from jeito.errors import InputError  # noqa: E402
from jeito.tune.steer import contrast, kept, save  # noqa: E402
from jeito.types import Steering  # noqa: E402

FORMAL = [
    "We would be most grateful if you could confirm your attendance at your earliest convenience.",
    "I regret to inform you that your application has not been successful on this occasion.",
    "Should you require any further information, please do not hesitate to contact us.",
    "We hereby acknowledge receipt of your letter concerning the outstanding payment.",
]
CASUAL = [
    "Just let me know if you're coming, okay? No rush or anything!",
    "Sorry buddy, you didn't get it this time, that totally sucks.",
    "If you wanna know anything else just hit me up anytime.",
    "Got your note about the money, yeah we'll sort it out soon.",
]
SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 8, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 512}  # fmt: skip


@pytest.fixture(scope="module")
def tiny(teach: Callable[..., Path]) -> Path:
    return teach(**SIZES)


@pytest.fixture(scope="module")
def engine(tiny: Path) -> Iterator[TransformersEngine]:
    engine = transformers_engine.load(tiny, Loading(precision="fp32"))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def demo_as_folder(unpacked_demo: Path) -> Iterator[TransformersEngine]:
    engine = transformers_engine.load(unpacked_demo, Loading(precision="bf16", context=512))
    yield engine
    engine.close()


def states(engine: TransformersEngine, text: str) -> np.ndarray:
    """[layers, width] by transformers' own account; the last layer's is normed there, so it is left out."""
    bos = engine.card.bos
    ids = torch.tensor([[*([] if bos is None else [bos]), *engine.tokens(text, special=False)]])
    with torch.no_grad():
        found = engine.model(ids, output_hidden_states=True).hidden_states
    return torch.stack(found)[1:-1, 0, 1:].mean(dim=1).numpy()


def test_the_mean_is_the_difference_of_the_two_sets(engine: TransformersEngine) -> None:
    found = contrast(engine, FORMAL[:3], CASUAL[:2], layers=range(1, 4))
    ones, others = (np.stack([states(engine, text) for text in texts]) for texts in (FORMAL[:3], CASUAL[:2]))
    expected = (ones.mean(axis=0) - others.mean(axis=0)) / 3
    assert list(found.directions) == [1, 2, 3]
    for layer, direction in found.directions.items():
        assert np.allclose(direction, expected[layer], atol=1e-4)


def test_pca_finds_the_axis_that_all_pairs_differ_along(engine: TransformersEngine) -> None:
    found = contrast(engine, FORMAL, CASUAL, method="pca", layers=range(2, 3)).directions[2].astype(np.float64)
    pairs = np.stack([states(engine, a)[2] - states(engine, b)[2] for a, b in zip(FORMAL, CASUAL, strict=True)])
    unit = found / np.linalg.norm(found)
    values, vectors = np.linalg.eigh(pairs.astype(np.float64).T @ pairs)
    assert abs(unit @ vectors[:, values.argmax()]) > 0.999
    assert np.isclose((pairs @ unit).mean(), np.linalg.norm(found), rtol=1e-3), "it points from negative to positive"


def test_texts_that_were_left_out_are_told_apart_by_a_real_model_and_not_by_their_own_mixture(
    demo_as_folder: TransformersEngine,
) -> None:
    found = contrast(demo_as_folder, FORMAL, CASUAL)
    assert found.told_apart
    assert np.mean(list(found.told_apart.values())) > 0.8
    mixed = contrast(demo_as_folder, FORMAL[:2] + CASUAL[:2], FORMAL[2:] + CASUAL[2:]).told_apart
    assert mixed
    assert np.mean(list(mixed.values())) < 0.6


def test_steering_makes_other_texts_of_that_manner_likelier(
    demo_as_folder: TransformersEngine, warm_home: Path
) -> None:
    found = contrast(demo_as_folder, FORMAL[:3], CASUAL[:3])
    file = warm_home / "steering" / "formal.gguf"
    save(file, found, base="demo", family="llama", method="mean", texts=(3, 3))

    def likelihood(text: str, scale: float) -> float:
        tokens = demo_as_folder.tokens(text, special=False)
        tuning = demo_as_folder.tune([], [Steering(vector=str(file), scale=scale)])
        demo_as_folder.truncate(0, 0)
        rows = demo_as_folder.extend([Row(0, tokens[:-1], len(tokens) - 1, tuning)])[0].astype(np.float64)
        rows -= np.log(np.exp(rows - rows.max(axis=1, keepdims=True)).sum(axis=1, keepdims=True)) + rows.max(
            axis=1, keepdims=True
        )
        return float(np.mean(rows[np.arange(len(rows)), tokens[1:]]))

    def lead(scale: float) -> float:
        return likelihood(FORMAL[3], scale) - likelihood(CASUAL[3], scale)

    assert lead(-1) < lead(0) < lead(1)
    assert lead(1) - lead(-1) > 0.5


def test_a_vector_is_kept_under_its_name_and_found_by_it(
    tiny: Path, warm_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "formal.txt").write_text("\n\n".join(FORMAL))
    words = ["steer", "make", "formal", "--positive", str(tmp_path / "formal.txt"), "-m", f"{tiny}@transformers:fp32"]
    words += [word for text in CASUAL for word in ("--negative", text)]

    def jeito(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["jeito", *words])
        capsys.readouterr()
        return (_run(), *capsys.readouterr())

    code, out, err = jeito(*words, "--layers", "2-5", "--json")
    assert code == 0, err
    said = json.loads(out)
    assert said["layers"] == [2, 3, 4, 5]
    (one,) = kept()
    assert (one.name, one.layers, one.method, one.base) == ("formal", "2-5", "mean", f"{tiny}@transformers:fp32")
    assert list(read_directions(Path(one.path))) == [2, 3, 4, 5]
    assert load("plain", ["steering=[{vector: formal}]"]).behaviour.steering[0].vector == one.path
    code, _, err = jeito(*words)
    assert code == 64
    assert "--replace" in err
    code, out, _ = jeito("steer")
    assert code == 0
    assert "formal" in out
    code, _, err = jeito("steer", "make", "x", "--positive", "a", "--negative", "b", "-m", "demo")
    assert code == 64
    assert "-m demo@transformers" in err
    code, _, err = jeito("steer", "make", "../x", "--positive", "a", "--negative", "b")
    assert code == 64
    code, _, err = jeito("steer", "make", "polite", "--positive", "formal.text", "--negative", "b")
    assert code == 64
    assert "there is no file 'formal.text'" in err, "not a text of one word"


def test_what_is_no_contrast_is_refused(engine: TransformersEngine) -> None:
    with pytest.raises(InputError, match="both sides"):
        contrast(engine, FORMAL, [])
    with pytest.raises(InputError, match="4 texts against 3"):
        contrast(engine, FORMAL, CASUAL[:3], method="pca")
    for layers in (range(0, 3), range(5, 9), range(4, 4)):
        with pytest.raises(InputError, match="no layers"):
            contrast(engine, FORMAL, CASUAL, layers=layers)
    assert contrast(engine, FORMAL[:1], CASUAL[:1]).told_apart is None
