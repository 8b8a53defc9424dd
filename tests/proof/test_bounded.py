"""What would not end in a lifetime ends, and is no verdict."""

import signal

import pytest

from jeito.errors import InputError
from jeito.proof import bounded
from jeito.proof.bounded import in_time
from tests.proof.replies import check

ENDLESS = "(a+)+$"


@pytest.mark.parametrize(
    ("name", "value"),
    [("matches", {"regex": ENDLESS}), ("json_schema", {"schema": {"pattern": ENDLESS}})],
)
def test_a_search_without_end_measures_nothing_and_says_so(
    name: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded, "SECONDS", 0.1)
    found = check(name, value, f'"{"a" * 60}b"')
    assert found.passed is None
    assert "found no end in 0.1 s" in found.why


def test_whoever_else_waits_for_the_alarm_gets_it_back() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(InputError, match="a rest found no end"), in_time("a rest", 0.05):
        signal.pause()
    with in_time("nothing"):
        pass
    assert signal.getsignal(signal.SIGALRM) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
