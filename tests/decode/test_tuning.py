"""Replies under different adapters in one decoder: they share steps' turns, and nothing else."""

from collections.abc import Sequence

from jeito.decode.decoder import Decoder
from jeito.decode.decoder import Sequence as Reply
from jeito.engines.base import PLAIN, Applied, Logits, Row, Tuning, tuning_of
from jeito.engines.toy import ToyEngine, babble
from jeito.types import Sampling

PROMPT = list(b"the same beginning for all of them")
TUNINGS = [PLAIN, *(Tuning(adapters=(Applied("a", scale, "a"),)) for scale in (1.0, 0.5)),
           Tuning(steering=(Applied("a", 1.0, "a"),))]  # fmt: skip


class Tunable(ToyEngine):
    """Its logits depend on the tuning under which each of a slot's tokens was computed, as a real cache does."""

    def __init__(self, *, slots: int) -> None:
        super().__init__(babble, slots=slots, batch=48)
        self.under: list[list[Tuning]] = [[] for _ in range(slots)]

    def extend(self, rows: Sequence[Row], exact: bool = False) -> list[Logits]:
        tuning_of(rows)
        return super().extend(rows, exact)

    def _extend_one(self, row: Row) -> Logits:
        under = self.under[row.slot]
        under.extend([row.tuning] * len(row.tokens))
        self._score = lambda tokens: babble([*tokens, *(TUNINGS.index(tuning) for tuning in under)])
        return super()._extend_one(row)

    def fork(self, source: int, target: int, length: int) -> None:
        super().fork(source, target, length)
        self.under[target] = self.under[source][:length]

    def truncate(self, slot: int, length: int) -> None:
        super().truncate(slot, length)
        del self.under[slot][length:]


def submit(decoder: Decoder, tuning: Tuning, seed: int) -> Reply:
    sampling = Sampling(seed=seed, max_new_tokens=20)
    shape = decoder.engine.exact()[0]
    return decoder.submit([*PROMPT, seed], sampling, shape, None, tuning=tuning)


def finish(decoder: Decoder, replies: Sequence[Reply]) -> list[list[int]]:
    while not all(reply.done for reply in replies):
        decoder.step()
    return [reply.reply for reply in replies]


def test_a_reply_is_the_same_alone_and_among_others_under_other_tunings() -> None:
    wanted = [(tuning, seed) for seed in range(3) for tuning in TUNINGS]
    alone = []
    for tuning, seed in wanted:
        decoder = Decoder(Tunable(slots=1))
        alone += finish(decoder, [submit(decoder, tuning, seed)])
    assert len({tuple(reply) for reply in alone}) == len(wanted)
    decoder = Decoder(Tunable(slots=5))
    assert finish(decoder, [submit(decoder, *one) for one in wanted]) == alone


def test_every_tuning_has_its_turn_in_every_round() -> None:
    engine = Tunable(slots=8)
    decoder = Decoder(engine)
    replies = [submit(decoder, tuning, seed) for tuning in TUNINGS for seed in range(2)]
    for _ in range(40):
        decoder.step()
    assert not any(reply.done for reply in replies)
    served = [tuning_of(rows) for rows in engine.calls]
    rounds = [set(served[at : at + len(TUNINGS)]) for at in range(16, 36, len(TUNINGS))]
    assert all(one == set(TUNINGS) for one in rounds)


def test_what_was_computed_under_a_tuning_is_shared_with_the_next_reply_under_it() -> None:
    decoder = Decoder(Tunable(slots=8))
    for tuning in TUNINGS:
        finish(decoder, [submit(decoder, tuning, 0)])
    again = [submit(decoder, tuning, 1) for tuning in TUNINGS]
    finish(decoder, again)
    # What the seed adds differs; the beginning is there.
    assert [reply.cached for reply in again] == [len(PROMPT)] * len(TUNINGS)
