"""The check that asks a model: another behaviour judges replies, and is itself measured first."""

import hashlib
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from jeito.behaviour.load import load
from jeito.decode.noise import derive
from jeito.proof.keywords import Share
from jeito.proof.setting import Setting
from jeito.proof.values import Case, Label, Verdict
from jeito.run.run import run, together
from jeito.types import Message, Trace

FEWEST = 4
"""Labelled replies of each kind by which a judge can be measured at all."""

YES, NO = "The reply meets the criterion.", "The reply does not meet the criterion."


class Standing(NamedTuple):
    """How a judge did on labelled replies. `agreement`: mean of its rates on those that pass and those that do not."""

    right_passing: int
    passing: int
    right_failing: int
    failing: int

    @property
    def agreement(self) -> float:
        return (self.right_passing / self.passing + self.right_failing / self.failing) / 2


def judge(
    trace: Trace,
    case: Case,
    setting: Setting,
    *,
    criterion: Annotated[str, Field(min_length=1)],
    behaviour: str = "judge",
    model: str | None = None,
    agreement: Share = 0.8,
) -> Verdict:
    """A `behaviour` (ends in A or B) on a `model` says that the reply meets the criterion; without a model, the same.

    It is asked twice, with A and B swapped; who changes sides has not said anything. It is believed only if it agrees
    with the replies that the cases label (`labels: [{reply: …, passes: true}, …]`, four of each kind at least):
    the mean of its rates on those that pass and those that do not has to reach `agreement`. Always yes reaches 0.5.
    """
    if setting.open_model is None:
        return Verdict(None, "a judge is a model, and none may be asked here")
    asker = _Asker(setting, behaviour, model or "", criterion)
    key = f"{behaviour}\n{model}\n{criterion}"
    standing = setting.judged.get(key)
    if standing is None:
        standing = setting.judged[key] = asker.measure([(one, label) for one in setting.cases for label in one.labels])
    if isinstance(standing, str):
        return Verdict(None, standing)
    assert isinstance(standing, Standing)
    if standing.agreement < agreement:
        return Verdict(None, f"the judge is not to be believed: {_shown(standing)}")
    (said,) = asker.ask([(case, trace.answer)])
    if said is None:
        return Verdict(None, "the judge changed sides when A and B were swapped")
    return Verdict(said, f"the judge says {'yes' if said else 'no'} ({_shown(standing)})")


def _shown(standing: Standing) -> str:
    return (
        f"right on {standing.right_passing} of {standing.passing} labelled replies that pass and on "
        f"{standing.right_failing} of {standing.failing} that do not"
    )


class _Asker(NamedTuple):
    setting: Setting
    behaviour: str
    reference: str
    criterion: str

    def measure(self, labelled: Sequence[tuple[Case, Label]]) -> Standing | str:
        """How the judge does on labelled replies; text: why it cannot be measured."""
        kinds = {passes: [label for _, label in labelled if label.passes is passes] for passes in (True, False)}
        if min(map(len, kinds.values())) < FEWEST:
            return (
                f"nobody knows how good the judge is: {len(kinds[True])} and {len(kinds[False])} labelled replies pass "
                f"and do not, {FEWEST} of each are needed"
            )
        said = self.ask([(case, label.reply) for case, label in labelled])
        right = [label.passes for (_, label), verdict in zip(labelled, said, strict=True) if verdict is label.passes]
        return Standing(right.count(True), len(kinds[True]), right.count(False), len(kinds[False]))

    def ask(self, replies: Sequence[tuple[Case, str]]) -> list[bool | None]:
        """Yes, no, or none where the order of the statements decided; all in one batch."""
        model = self.setting.ask(self.reference)
        # It is asked while other replies are under way, which must not matter.
        loaded = load(self.behaviour, ["exact=true"] if "exact" in model.abilities else [])
        runs = []
        for case, reply in replies:
            for turn, statements in enumerate(((YES, NO), (NO, YES))):
                prompt = self._prompt(case, reply, statements)
                seed = derive(int(hashlib.sha256(prompt.encode()).hexdigest()[:16], 16), turn)
                runs.append(run(loaded, model, prompt, seed=seed, case=f"judge of {case.name}", log=self.setting.log))
        for _ in together(runs):
            pass
        letters = [one.trace.answer.strip()[-1:].upper() for one in runs]
        pairs = zip(letters[::2], letters[1::2], strict=True)
        return [{("A", "B"): True, ("B", "A"): False}.get(pair) for pair in pairs]

    def _prompt(self, case: Case, reply: str, statements: tuple[str, str]) -> str:
        asked = case.ask if isinstance(case.ask, str) else "\n".join(map(_said, case.ask))
        parts = {"Asked": asked, "Reply": reply, "Criterion": self.criterion}
        blocks = [f"{name}:\n{text.strip()}" for name, text in parts.items()]
        return "\n\n".join([*blocks, f"A: {statements[0]}\nB: {statements[1]}"])


def _said(message: Message) -> str:
    return f"{message.role}: {message.content}"


CHECKS: tuple[Any, ...] = (judge,)
