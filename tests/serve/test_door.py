"""Whose page asks, by which name, and what is said while nobody is in."""

import httpx2
import pytest

from jeito.decode.local import LocalModel
from jeito.serve.door import Door, hosts
from jeito.serve.metrics import Metrics
from jeito.serve.server import Serving, bind
from tests.serve.conftest import Serve, user

BODY = {"model": "toy", "messages": [user("hi")]}


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8123", 200), ("127.0.0.1", 200), ("[::1]:8123", 200), ("LOCALHOST", 200), ("ours.example", 200),
        ("evil.example", 421), ("127.0.0.1.evil.example", 421), ("localhost.evil.example:8123", 421), ("[evil", 421),
    ],
)  # fmt: skip
def test_a_name_that_is_not_ours_gets_nothing(serve: Serve, toy: LocalModel, host: str, status: int) -> None:
    served = serve(toy, at_the_door={"hosts": hosts("127.0.0.1", ["ours.example"], has_keys=False)})
    got = served.http.post("/v1/chat/completions", json=BODY, headers={"host": host})
    assert got.status_code == status
    assert served.http.get("/health", headers={"host": host}).status_code == status
    if status == 421:
        assert "--allow-host" in got.json()["error"]["message"]
        assert served.server.metrics.tokens["prompt"] == 0


def test_with_keys_any_name_is_ours_since_no_page_has_one(serve: Serve, toy: LocalModel) -> None:
    served = serve(toy, keys=["k"], at_the_door={"hosts": hosts("0.0.0.0", [], has_keys=True)})
    assert served.http.get("/v1/models", headers={"host": "jeito.cluster"}).status_code == 200
    assert hosts("0.0.0.0", ["only"], has_keys=True) == {"localhost", "0.0.0.0", "only"}


def test_pages_of_other_sites_may_not_ask(serve: Serve, toy: LocalModel) -> None:
    served = serve(toy)
    for origin, status in (("https://evil.example", 403), ("null", 403), (served.url, 200)):
        got = served.http.post("/v1/chat/completions", json=BODY, headers={"origin": origin})
        assert got.status_code == status
        assert "access-control-allow-origin" not in got.headers
    asked = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    assert served.http.options("/v1/chat/completions", headers=asked).status_code == 403
    assert served.server.metrics.finishes.total() == 1


def test_pages_of_an_allowed_site_may_ask_with_their_key(serve: Serve, toy: LocalModel) -> None:
    served = serve(toy, keys=["k"], at_the_door={"origins": ["https://ours.example"]})
    asked = {"origin": "https://ours.example", "access-control-request-method": "POST"}
    asked |= {"access-control-request-headers": "authorization, content-type"}
    before = httpx2.options(f"{served.url}/v1/chat/completions", headers=asked)
    assert before.status_code == 200
    assert "authorization" in before.headers["access-control-allow-headers"]
    got = served.http.post("/v1/chat/completions", json=BODY, headers={"origin": "https://ours.example"})
    assert (got.status_code, got.headers["access-control-allow-origin"]) == (200, "https://ours.example")
    refused = served.http.post("/v1/chat/completions", json=BODY, headers={"origin": "https://other.example"})
    assert refused.status_code == 403


def test_while_models_load_it_lives_but_is_not_ready() -> None:
    metrics = Metrics()
    bound = bind("127.0.0.1", 0, has_keys=False)
    serving = Serving(Door(metrics), bound)
    try:
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        assert httpx2.get(f"{url}/health").json()["status"] == "ok"
        for path in ("/ready", "/v1/models"):
            got = httpx2.get(url + path)
            assert (got.status_code, got.json()["error"]["code"]) == (503, "loading")
            assert int(got.headers["retry-after"]) > 0
        assert metrics.refusals == {"loading": 2}
    finally:
        serving.stop()
        bound.close()


def test_a_line_for_each_request_has_no_key_and_nothing_of_the_prompt(
    serve: Serve, toy: LocalModel, capsys: pytest.CaptureFixture[str]
) -> None:
    served = serve(toy, keys=["opens-it"], at_the_door={"is_noted": True})
    served.post(messages=[user("a secret")])
    served.http.get("/v1/nothing%0aforged?opens-it", headers={"authorization": "Bearer wrong-key"})
    served.http.get("/health")
    said = capsys.readouterr().err
    lines = said.splitlines()
    assert [line.split()[0] for line in lines] == ["POST", "GET", "GET"]
    assert "200" in lines[0]
    assert lines[0].endswith("key 1")
    assert not any(word in said for word in ("secret", "opens-it", "wrong-key"))
