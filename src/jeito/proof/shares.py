"""A share over cases, some of whose replies could not be measured."""

from collections.abc import Sequence
from statistics import fmean

from jeito.proof.comparison import Share
from jeito.proof.intervals import Interval, bounded


def ends(cases: Sequence[Sequence[float | None]], alpha: float) -> Interval:
    """An interval for the mean over cases of scores in [0, 1]: what is missing is 0 for its low end, 1 for its high."""
    least, most = ([fmean(missing if one is None else one for one in case) for case in cases] for missing in (0, 1))
    return Interval(bounded(least, alpha).low, bounded(most, alpha).high)


def share(cases: Sequence[Sequence[float | None]], alpha: float) -> Share | None:
    """The rate of what was measured, with that interval; none: nothing was."""
    known = [one for case in cases for one in case if one is not None]
    found = ends(cases, alpha)
    return Share(rate=fmean(known), low=found.low, high=found.high) if known else None
