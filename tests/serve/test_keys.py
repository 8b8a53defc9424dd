"""What a key opens, how often it may ask, and what a file of keys must hold."""

import hashlib
from pathlib import Path

import httpx2
import pytest

from jeito.decode.local import LocalModel
from jeito.errors import InputError
from jeito.serve.keys import Key, keys_of, read_keys
from jeito.serve.refusal import Refusal
from tests.serve.conftest import Serve, user


def test_a_key_opens_its_behaviours_and_lists_no_others(serve: Serve, toy: LocalModel) -> None:
    served = serve(toy, keys=["all", "some behaviours=technical,plain"])
    for key, count in (("all", None), ("some", 3)):
        headers = {"authorization": f"Bearer {key}"}
        ids = [one["id"] for one in httpx2.get(f"{served.url}/v1/models", headers=headers).json()["data"]]
        assert {"toy", "toy:plain", "toy:technical"} <= set(ids)
        assert count in (None, len(ids))
    served.http.headers["authorization"] = "Bearer some"
    assert served.post(model="toy:technical").status_code == 200
    refused = served.post(model="toy:creative")
    assert (refused.status_code, "creative" in refused.json()["error"]["message"].partition("model ")[2]) == (404, True)
    assert served.post(jeito={"behaviour": "creative"}).status_code == 404
    assert served.http.get("/v1/models/toy:creative").status_code == 404


def test_a_key_that_asks_too_often_is_told_when_to_come_again(serve: Serve, toy: LocalModel) -> None:
    served = serve(toy, keys=["slow rate=2/h", "quick"])
    assert [served.post().status_code for _ in range(3)] == [200, 200, 429]
    refused = served.post()
    assert 1000 < int(refused.headers["retry-after"]) <= 1800
    assert refused.json()["error"]["code"] == "rate_limit"
    assert served.http.get("/v1/models").status_code == 200
    quick = {"authorization": "Bearer quick"}
    body = {"model": "toy", "messages": [user("hi")]}
    assert httpx2.post(f"{served.url}/v1/chat/completions", json=body, headers=quick).status_code == 200
    assert 'jeito_refusals_total{reason="rate_limit"} 2' in served.http.get("/metrics").text


def test_what_a_key_did_not_use_comes_back_with_time(monkeypatch: pytest.MonkeyPatch) -> None:
    key = Key(1, hashlib.sha256(b"k").digest(), rate=60)
    now = 100.0
    monkeypatch.setattr("jeito.serve.keys.time.monotonic", lambda: now)
    for _ in range(60):
        key.count()
    with pytest.raises(Refusal) as refused:
        key.count()
    assert refused.value.retry_after == 1
    now += 2.5
    key.count()
    key.count()
    with pytest.raises(Refusal):
        key.count()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no key"),
        ("# only this\n", "no key"),
        ("good\nsecret rate=fast\n", "line 2"),
        ("good\nsecret rate=0/min\n", "line 2"),
        ("secret behaviours=\n", "line 1"),
        ("secret admin\n", "line 1"),
        ("behaviours=technical\n", "line 1"),
        ("schlüssel-secret\n", "ASCII"),
        ("secret\nother\nsecret rate=1/min\n", "twice"),
    ],
)
def test_a_bad_file_of_keys_is_refused_by_line_and_never_quoted(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "keys"
    file.write_text(text)
    with pytest.raises(InputError, match=says) as error:
        read_keys(file)
    assert "secret" not in f"{error.value}{error.value.hint}"


def test_keys_of_the_file_and_of_the_environment_both_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JEITO_KEYS", "one, two")
    (tmp_path / "keys").write_text("# ours\n\nthree== rate=5/s\n")
    keys = read_keys(tmp_path / "keys")
    found = [keys.of(f"Bearer {word}") for word in ("one", "two", "three==")]
    assert [key.rate for key in found if key] == [None, None, 5]
    for wrong in ("", "Bearer", "Bearer four", "Bearer oné", "Bearer one,"):
        with pytest.raises(Refusal):
            keys.of(wrong)


def test_a_key_that_is_to_open_what_is_not_served_is_refused_at_the_start(serve: Serve, toy: LocalModel) -> None:
    with pytest.raises(InputError, match="technicl") as error:
        serve(toy, keys=["k behaviours=technicl"])
    assert "technical" in error.value.hint
    keys_of([("here", "k behaviours=a")]).check({"a"})
