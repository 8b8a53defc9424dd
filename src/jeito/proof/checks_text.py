"""Checks of a reply's text: how much, in which language, with which words, and does it repeat itself?"""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from jeito.decode.guard import Loop
from jeito.errors import nearest
from jeito.proof import languages, measures
from jeito.proof.bounded import in_time
from jeito.proof.keywords import AnyShare, Least, Most, Pattern, Share, Texts, between, shown, unsaid
from jeito.proof.setting import Setting
from jeito.proof.values import Case, Verdict
from jeito.types import Repetition, Trace


def words(trace: Trace, *, min: Least = None, max: Most = None) -> Verdict:
    """Number of words; code in fences counts too."""
    return between(len(measures.words(trace.answer)), min, max, "words")


def sentences(trace: Trace, *, min: Least = None, max: Most = None) -> Verdict:
    """Number of sentences; list items are sentences, code in fences is not."""
    return between(len(measures.sentences(trace.answer)), min, max, "sentences")


def paragraphs(trace: Trace, *, min: Least = None, max: Most = None) -> Verdict:
    """Number of paragraphs: what blank lines part."""
    return between(len(measures.paragraphs(trace.answer)), min, max, "paragraphs")


def characters(trace: Trace, *, min: Least = None, max: Most = None) -> Verdict:
    """Number of characters, without white space at both ends."""
    return between(len(trace.answer.strip()), min, max, "characters")


def _known(name: str) -> str:
    if name.partition("-")[0].lower() not in languages.KNOWN:
        raise ValueError(f"no such language is known here ({nearest(name, languages.KNOWN)})")
    return name


Language = Annotated[str, AfterValidator(_known)]


def language(
    trace: Trace, case: Case, setting: Setting, *, name: Language | None = None, sure: Share = languages.SURE
) -> Verdict:
    """Written in this language (`pt`, `pt-BR`: the same); without a name, the case's, else the behaviour's.

    Code, links and numbers are left out. Not measured where the detector is less than `sure`.
    """
    wanted = name or case.expect.language or setting.language
    if wanted is None:
        return unsaid(case.name, "which language")
    found = languages.guess(trace.answer)
    if found.language is None:
        return Verdict(None, "there are no words to tell a language by")
    if found.confidence < sure:
        return Verdict(None, f"unsure: {found.language} with {found.confidence:.2f}")
    return Verdict(found.language == wanted.partition("-")[0].lower(), f"{found.language} with {found.confidence:.2f}")


def matches(trace: Trace, case: Case, *, regex: Pattern | None = None, whole: bool = False) -> Verdict:
    """A regular expression of Python is found in the answer, or is the `whole` answer.

    A search that finds no end in five seconds is not measured.
    """
    wanted = regex or case.expect.regex
    if wanted is None:
        return unsaid(case.name, "which regular expression")
    find = re.fullmatch if whole else re.search
    with in_time(f"the regular expression {wanted}"):
        found = find(wanted, trace.answer.strip())
    return Verdict(found is not None, f"{shown([found[0]])} matches" if found else f"nothing matches {wanted}")


def contains(trace: Trace, case: Case, *, facts: Texts | None = None, min: Least = None) -> Verdict:
    """All of these are named, or at least `min` of them; `a|b`: one of both; `sign*`: any ending.

    Whole words; capitals and accents make no difference. Without a list, the case's facts.
    """
    wanted = facts or case.expect.contains
    if not wanted:
        return unsaid(case.name, "which facts")
    text = measures.plain(trace.answer)
    missing = [fact for fact in wanted if not measures.pattern_of(fact).search(text)]
    named = len(wanted) - len(missing)
    enough = len(wanted) if min is None else min
    return Verdict(named >= enough, f"{named} of {len(wanted)}" + (f"; not {shown(missing)}" if missing else ""))


def absent(trace: Trace, case: Case, *, words: Texts | None = None) -> Verdict:
    """None of these is named; written as for `contains`."""
    wanted = words or case.expect.absent
    if not wanted:
        return unsaid(case.name, "which words must be absent")
    text = measures.plain(trace.answer)
    found = [word for word in wanted if measures.pattern_of(word).search(text)]
    return Verdict(not found, f"it names {shown(found)}" if found else "none of them")


def times(trace: Trace, *, word: str, min: Least = None, max: Most = None) -> Verdict:
    """How often a word comes; written as for `contains`."""
    found = len(measures.pattern_of(word).findall(measures.plain(trace.answer)))
    return between(found, min, max, f"times {word!r}")


def starts(trace: Trace, *, text: Texts) -> Verdict:
    """Begins with this text, or one of these, letter by letter; blanks before it do not count."""
    begin = trace.answer.lstrip()
    return Verdict(begin.startswith(text), f"it begins with {shown([begin[:30]])}")


def ends(trace: Trace, *, text: Texts) -> Verdict:
    """Ends with this text, or one of these, letter by letter; blanks after it do not count."""
    end = trace.answer.rstrip()
    return Verdict(end.endswith(text), f"it ends with {shown([end[-30:]])}")


def one_of(trace: Trace, *, texts: Texts) -> Verdict:
    """The whole answer is one of these; capitals, blanks around it and a point after it make no difference."""
    found = _bare(trace.answer)
    return Verdict(found in {_bare(text) for text in texts}, f"it says {shown([found])}")


def equals(trace: Trace, case: Case, *, text: str | None = None) -> Verdict:
    """The whole answer is this text; as for `one_of`."""
    wanted = text or case.expect.text
    if wanted is None:
        return unsaid(case.name, "which text")
    return one_of(trace, texts=(wanted,))


def _bare(text: str) -> str:
    return " ".join(text.split()).casefold().rstrip(" .!\"'").lstrip("\"'")


def letters(trace: Trace, *, case_of: Annotated[str, Field(pattern="^(upper|lower)$")]) -> Verdict:
    """All letters are `upper` or all are `lower` case; what has no case does not count."""
    text = trace.answer
    if text.upper() == text.lower():
        return Verdict(None, "there are no letters")
    wrong = [letter for letter in text if letter != (letter.upper() if case_of == "upper" else letter.lower())]
    return Verdict(not wrong, f"{len(wrong)} letters are not {case_of} case" if wrong else f"all are {case_of} case")


def distinct(
    trace: Trace, *, min: AnyShare = None, max: AnyShare = None, n: Annotated[int, Field(ge=1)] = 2
) -> Verdict:
    """Different n-grams of words over all inside the reply (distinct-n, Li et al. 2016)."""
    found = measures.distinct(measures.words(trace.answer.casefold()), n)
    if found is None:
        return Verdict(None, f"it has fewer than {n} words")
    return between(found, min, max, f"distinct-{n}")


def repetition(
    trace: Trace, *, min: AnyShare = None, max: AnyShare = None, n: Annotated[int, Field(ge=1)] = 4
) -> Verdict:
    """Share of n-grams of words that were there before: 1 − distinct-n."""
    found = measures.distinct(measures.words(trace.answer.casefold()), n)
    if found is None:
        return Verdict(None, f"it has fewer than {n} words")
    return between(1 - found, min, max, f"of its {n}-grams repeated")


def no_loop(
    trace: Trace,
    *,
    tokens: Annotated[int, Field(ge=1, le=1024)] = 24,
    times: Annotated[int, Field(ge=2)] = 4,
) -> Verdict:
    """No stretch of up to `tokens` tokens comes `times` times in a row; the rule of `guard.repetition`."""
    if trace.finish == "repetition":
        return Verdict(False, trace.why or "the guard ended it")
    ids = [token.id for token in trace.tokens if token.id is not None]
    if not ids or len(ids) < len(trace.tokens):
        return Verdict(None, "the tokens of this reply are not known")
    loop = Loop(Repetition(tokens=tokens, times=times))
    for token in ids:
        loop.add(token)
        if loop.why:
            return Verdict(False, loop.why)
    return Verdict(True, "no loop")


_REFUSAL = re.compile(
    r"""
    \b(?:i|we)(?:\s+(?:am|are)|['’](?:m|re))\s+(?:(?:very|so|really|truly)\s+)?(?:sorry|afraid)\b
    | \bmy\s+apologies\b | \bi\s+apologi[sz]e\b
    | \b(?:i|we)\s+(?:can(?:no|['’])t|can\s+not|could\s*n['’]t|won['’]t|will\s+not|must\s+decline|decline|refuse)\s+
      (?:to\s+)?(?:\w+ly\s+)?(?:help|assist|do|provide|answer|comply|fulfil?l?|create|write|generate|give|share|support|
      engage|continue|discuss|produce|offer|respond|tell|participate|recommend\s+that|be\s+of|in\s+good)\b
    | \b(?:i|we)(?:\s+(?:am|are)|['’](?:m|re))\s+(?:unable|not\s+(?:able|allowed|permitted|in\s+a\s+position))\b
    | \bas\s+an?\s+(?:ai|artificial|language\s+model|large\s+language)\b
    | \b(?:sinto\s+muito|lamento|me\s+desculpe|desculpe(?:-me)?|desculpa)\b[\s,.!;:]*(?:mas|porém|por[ée]m|n[ãa]o|eu)\b
    | \bn[ãa]o\s+(?:me\s+)?
      (?:posso|consigo|poderei|vou|irei|podemos|sou\s+capaz\s+de|estou\s+autorizad[oa]\s+a|é\s+permitido)\s+
      (?:te\s+|lhe\s+|o\s+)?(?:ajudar|auxiliar|fazer|fornecer|responder|atender|criar|escrever|gerar|dar|ensinar|
      compartilhar|discutir|continuar|participar|cumprir|produzir|oferecer|dizer)\b
    | \bcomo\s+(?:uma?\s+)?(?:ia|intelig[êe]ncia\s+artificial|modelo\s+de\s+linguagem|assistente\s+virtual)\b
    | \brecuso-me\b | \bme\s+recuso\b
    """,
    re.VERBOSE | re.IGNORECASE,
)
OPENING = 300
"""Characters in which a refusal says so; later on such words are told of others."""


def refuses(trace: Trace) -> Verdict:
    """Declines to do what was asked, by what English and Portuguese replies begin with; `false`: it does not.

    A rule of thumb: an excuse in the first 300 characters. Replies in other languages are not measured.
    """
    if not trace.answer.strip():
        return Verdict(None, "the answer is empty")
    found = _REFUSAL.search(trace.answer[:OPENING])
    if found:
        return Verdict(True, f"it says {shown([' '.join(found[0].split())])}")
    spoken = languages.guess(trace.answer)
    if spoken.language not in ("en", "pt", None) and spoken.confidence >= languages.SURE:
        return Verdict(None, f"refusals are known in English and Portuguese, this is {spoken.language}")
    return Verdict(False, "no excuse in its beginning")


def similar(trace: Trace, case: Case, *, to: str | None = None, min: Share = 0.5) -> Verdict:
    """chrF to a reference, 0 to 1: an F-score of runs of 1 to 6 characters (Popović 2015); without one, the case's.

    It measures letters, not meaning: 0.3 is the same subject, 0.5 close wording, 1 the same text.
    """
    wanted = to or case.expect.reference
    if wanted is None:
        return unsaid(case.name, "similar to what")
    return between(measures.chrf(trace.answer, wanted), min, None, "of chrF")


CHECKS: tuple[Any, ...] = (
    words, sentences, paragraphs, characters, language, matches, contains, absent, times, starts, ends, one_of, equals,
    letters, distinct, repetition, no_loop, refuses, similar,
)  # fmt: skip
