"""The sampler against Hugging Face's own logits processors and warpers, for every knob that both have."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from jeito.decode.sampler import Sampler
from jeito.types import Sampling
from tests.decode import reference

torch = pytest.importorskip("torch")
process = pytest.importorskip("transformers.generation.logits_process")


ENDS = [1, 2]
# A cut that a float32 sum decides by its last bits is nobody's to promise.
NEAR = 2e-6


def theirs(row: np.ndarray, sampling: Sampling, prompt: list[int], said: list[int]) -> "torch.Tensor":
    """Scores after what `generate` would apply, in its order."""
    chain = process.LogitsProcessorList()
    if sampling.logit_bias:
        chain.append(process.SequenceBiasLogitsProcessor([[[id], bias] for id, bias in sampling.logit_bias.items()]))
    if sampling.repetition_penalty != 1:
        chain.append(process.RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.min_new_tokens:
        chain.append(
            process.MinNewTokensLengthLogitsProcessor(len(prompt), sampling.min_new_tokens, ENDS, device="cpu")
        )
    if sampling.temperature != 1:
        chain.append(process.TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        chain.append(process.TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        chain.append(process.TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        chain.append(process.MinPLogitsWarper(sampling.min_p))
    if sampling.typical_p < 1:
        chain.append(process.TypicalLogitsWarper(sampling.typical_p))
    return chain(torch.tensor([prompt + said]), torch.tensor(row)[None])[0]


def sometimes(values: st.SearchStrategy, otherwise: object) -> st.SearchStrategy:
    return st.one_of(st.just(otherwise), values)


samplings = st.builds(
    Sampling,
    temperature=sometimes(st.sampled_from([0.1, 0.7, 0.9, 1.3, 5.0]), 1.0),
    top_k=sometimes(st.integers(1, 60), 0),
    top_p=sometimes(st.floats(0.01, 0.999), 1.0),
    min_p=sometimes(st.floats(1e-4, 0.9), 0.0),
    typical_p=sometimes(st.floats(0.05, 0.99), 1.0),
    repetition_penalty=sometimes(st.floats(0.5, 3), 1.0),
    logit_bias=st.dictionaries(st.integers(0, 2), st.floats(-5, 5), max_size=2),
    min_new_tokens=sometimes(st.integers(1, 6), 0),
)
histories = st.lists(st.integers(0, 5), min_size=1, max_size=8)


@settings(max_examples=1000, deadline=None)
@given(
    samplings, st.integers(8, 300), st.sampled_from([0.3, 1.0, 4.0]), st.integers(0, 2**32 - 1), histories, histories
)
def test_what_can_be_drawn_and_how_likely_is_what_hugging_face_would_have(
    sampling: Sampling, vocabulary: int, spread: float, seed: int, prompt: list[int], said: list[int]
) -> None:
    row = (np.random.default_rng(seed).standard_normal(vocabulary) * spread).astype(np.float32)
    state = reference.Reply(sampling, 0, prompt, said, frozenset(ENDS), lambda id: b"w%d" % id)
    *_, margin = reference.draw(state, row.tolist(), None)
    assume(margin > NEAR)
    sampler = Sampler(sampling, 0, prompt, ends=frozenset(ENDS), text=lambda id: b"w%d" % id)
    for token in said:
        sampler.accept(token)
    ids, logs = sampler.distribution(row)
    scores = theirs(row, sampling, prompt, said)
    assert sorted(ids.tolist()) == torch.isfinite(scores).nonzero().flatten().tolist()
    expected = torch.softmax(scores.double(), -1).numpy()
    np.testing.assert_allclose(np.exp(logs), expected[ids], atol=1e-6)
