"""What a comparison comes to: values alone."""

from typing import Literal

from pydantic import Field

from jeito.proof.measured import Kind
from jeito.proof.stats import Decision
from jeito.types import Several, Trace, Value


class Pair(Value):
    """How much more of something b has than a, over coupled pairs of replies.

    Intervals cover all checks of a comparison at once, or all its features at once; `adjusted` is Holm's p-value among
    the same. `low`, `high`: none where there are too few cases for an interval, and `why` says so.
    """

    a: str
    b: str
    check: str = Field(description="a check with its keywords, or a feature")
    kind: Kind
    a_mean: float | None = Field(description="of a check: the share of replies that pass; over pairs that are whole")
    b_mean: float | None
    difference: float | None = Field(description="b less a, mean over cases; none: nothing could be measured")
    low: float | None
    high: float | None
    p: float
    adjusted: float
    n: int = Field(description="pairs, with the unmeasured")
    clusters: int = Field(description="cases, or pairs where these very cases are spoken of")
    unmeasured: int
    variance_ratio: float | None = Field(
        description="variance of the difference over that of uncoupled replies; none: no case has two pairs, or nothing"
        " varies"
    )
    at_least: float | None = Field(default=None, description="what the difference was claimed to be at least")
    decision: Decision | None = Field(default=None, description="none: nothing was claimed")
    why: str = ""

    @property
    def differs(self) -> bool:
        """Is it sure that the sides differ, all others looked at too?"""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


class Divergence(Value):
    """How many tokens two sides share from the beginning of each pair of replies."""

    a: str
    b: str
    n: int = Field(description="pairs of which both have tokens")
    identical: int = Field(description="pairs that never diverge")
    median: float | None = Field(description="tokens before the first that differs, over the others; none: no others")
    tokens: Several[int | None] = Field(description="of each pair, in order; none: it never diverges, or has none")


class Apart(Value):
    """Are the replies of two sides different at all? Energy distance of their features, tested by permutation."""

    a: str
    b: str
    distance: float
    p: float
    adjusted: float = Field(description="the same where all pairs of sides are looked at (Holm)")
    replies: int
    clusters: int


class Share(Value):
    """A share with its interval."""

    rate: float
    low: float
    high: float


class Confusion(Value):
    """Who is taken for whom by a classifier that never saw the case: a row for each side, a column for each guess."""

    names: Several[str]
    counts: Several[Several[int]]
    rates: Several[Several[Share]]
    accuracy: Share
    clusters: int


class Variety(Value):
    """Diversity within a reply (distinct pairs of words) and between replies to one case (share of unlike pairs)."""

    side: str
    within: Share | None
    between: Share | None = Field(description="none: no case has two replies of this side")


class Separation(Value):
    """Can the sides be told apart by their replies? `features`: those looked at."""

    pairs: Several[Apart]
    confusion: Confusion | None
    variety: Several[Variety]
    features: Several[str]
    why: str = Field(default="", description="why there is no confusion matrix, or no test")


class Side(Value):
    """What stands on one side, and the plan that holds its runs."""

    name: str = Field(description="unique in its comparison: the behaviour, with the model where there are several")
    behaviour: str
    model: str
    plan: str
    exact: bool
    unmeasured: int = Field(description="runs that failed")


class Part(Value):
    """One line or knob of a behaviour, switched alone: `before` to `after`, and what it changed."""

    name: str = Field(description="`sampling.repetition_penalty`, `system line 2`")
    before: str
    after: str
    plan: str = Field(description="that holds its runs")
    pairs: Several[Pair] = Field(description="a: the first side as it is; b: with this alone as the second has it")


class Cause(Value):
    """Which part of what differs between two behaviours makes each difference."""

    a: str
    b: str
    total: Several[Pair]
    parts: Several[Part]
    named: dict[str, Several[str]] = Field(description="of each check, the parts that surely change it, the most first")


class Comparison(Value):
    """Several sides on the same cases and seeds, every pair of them."""

    sides: Several[Side]
    cases: str
    clusters: int = Field(description="cases")
    repeats: int
    seed: int
    meaning: Literal["these cases", "cases like these"]
    alpha: float
    pairs: Several[Pair]
    divergence: Several[Divergence]
    separation: Separation | None
    cause: Cause | None = None
    decision: Decision | None = Field(default=None, description="fails if one claim does, else undecided if one is")
    notes: Several[str] = ()
    runs: Several[Trace] = Field(description="side by side, cases in order, repeats within")
    outcomes: dict[str, Several[Several[float | None]]] = Field(
        default_factory=dict,
        description="of each check: for each side 1 where a run passed, 0 where not, in their order",
    )
