"""Results as pages: what they say, that a model's words stay words, and how a real browser shows them."""

import re
import shutil
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from jeito.behaviour.behaviour import Claim
from jeito.behaviour.load import load
from jeito.decode.local import LocalModel
from jeito.engines.toy import ToyEngine, babble
from jeito.errors import InputError
from jeito.proof.bench import Bench, Cell, Contender
from jeito.proof.cause import as_asked, find_cause, switch_each
from jeito.proof.compare import contrast
from jeito.proof.comparison import Comparison, Share
from jeito.proof.judge import Judge, judge
from jeito.proof.page import LEVELS, render
from jeito.proof.plan import find
from jeito.proof.plots import Bar, Line, Point, curves, forest, scatter
from jeito.proof.prove import prove
from jeito.proof.report import Result, write
from jeito.proof.report_proof import chosen, proof_page
from jeito.proof.report_sides import comparison_page, shortened
from jeito.proof.runs import Asked, Asking, gather
from jeito.proof.surprisal import SHOWN, couple, parting, pieces
from jeito.proof.sweep import ask_each, grid, read_axis
from jeito.proof.sweep import sweep as run_sweep
from jeito.proof.values import Case
from jeito.trace.log import Log
from jeito.types import Token, Trace
from tests.proof.replies import reply

if TYPE_CHECKING:
    from playwright.sync_api import Browser

BABBLER = LocalModel(ToyEngine(babble), "babbler")
HOSTILE = '</pre><script>document.title="mine"</script><img src=x onerror=alert(1)>'
WORDS = Claim(name="words", value={"max": 3}, at_least=0.5)
DIGITS = Claim(name="matches", value="[0-9]", at_least=0.9)


class Found(HTMLParser):
    """The tags of a page with their attributes, its text, and its ids."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, name: str) -> list[str]:
        return [value for _, given in self.tags if (value := given.get(name)) is not None]


# All that pages are made of is made once: nothing here changes it.


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Log:
    return Log(tmp_path_factory.mktemp("pages") / "log.db")


@pytest.fixture(scope="module")
def judged(log: Log) -> Judge:
    """A toy that says again what it is asked: nineteen short ones and one that would be code."""
    cases = [Case(name=f"case {n}", prompt=f"say {n}") for n in range(19)] + [Case(name="hostile", prompt=HOSTILE)]
    proof = prove("plain+max_new_tokens=90", LocalModel(ToyEngine(), "toy"), cases, repeats=1, log=log, seed=3,
                  claims=[WORDS, DIGITS], early=False, cases_from="cases.yaml")  # fmt: skip
    planned = find(log, proof.plan.digest)
    assert planned is not None
    return judge(log, planned)


def traces_of(judge: Judge, log: Log) -> list[Trace]:
    return [log.get(run) for run in chosen(judge)]


@pytest.fixture(scope="module")
def comparison(log: Log) -> Comparison:
    sides = [Asked(label, label, load(label, ["max_new_tokens=40"])) for label in ("technical", "plain")]
    switched = switch_each(sides[0].loaded, sides[1].loaded)
    asking = Asking([Case(name=f"case {n}", prompt=f"say {n}") for n in range(8)], "cases.yaml", 2, 5)
    a, b, *others = gather(asking, [*sides, *as_asked("technical", switched)], BABBLER, log)
    claim = Claim(name="characters", value={"max": 30}, at_least=1.0)
    cause = find_cause(a, b, switched, others, [claim])
    return contrast([a, b], [claim]).model_copy(update={"cause": cause})


@pytest.fixture(scope="module")
def swept(log: Log) -> Result:
    asking = Asking([Case(name=f"case {n}", prompt=f"say {n}") for n in range(8)], "cases.yaml", 1, 5)
    axes = [read_axis("temperature=0.5:2.0:4")]
    label = "plain+max_new_tokens=20"
    assert len(ask_each(label, grid(axes))) == 4
    return run_sweep(label, axes, asking, BABBLER, log, [Claim(name="characters", value={"max": 30}, at_least=0.3)])


def benched() -> Bench:
    share = Share(rate=0.5, low=0.3, high=0.7)
    cell = Cell(behaviour="plain", cases="train", check="correct", quality=share, passed=5, trials=10, clusters=10,
                unmeasured=0, tokens=99, tokens_per_second=50.0, first_token_seconds=0.1, plan="f" * 64)  # fmt: skip
    common: dict[str, Any] = {
        "engine": "toy", "precision": None, "device": "cpu", "weight_bytes": 10**8, "load_seconds": 0.5,
        "tokens_per_second": 50.0, "first_token_seconds": 0.1, "follows": None, "claims": {"holds": 1, "fails": 0},
    }  # fmt: skip
    return Bench(
        contenders=(
            Contender(model="small", peak_bytes=2 * 10**8, quality=share, on_front=True, cells=(cell,), **common),
            Contender(model="worse", peak_bytes=4 * 10**8, quality=Share(rate=0.4, low=0.2, high=0.6), on_front=False,
                      cells=(), **common),
            Contender(model="none", peak_bytes=None, quality=None, on_front=False, cells=(), error="no weights",
                      **common),
        ),
        behaviours=("plain",), cases=("train",), seed=1, alpha=0.05, notes=("speeds are of this machine",),
    )  # fmt: skip


def test_the_sentence_comes_first_and_says_how_many_claims_hold(judged: Judge, log: Log) -> None:
    page = proof_page(judged, traces_of(judged, log))
    assert page.sentence == "plain+max_new_tokens=90 holds 1 of 2 claims on toy"
    assert page.decision == ("undecided", "undecided")
    text = render(page)
    assert text.index("<h1>") < text.index("<h2")
    assert "jeito prove plain+max_new_tokens=90 -m toy --cases cases.yaml --limit 20" in Found(text).text
    assert "--check &#39;{&#34;words&#34;: {&#34;max&#34;: 3}}&#39; --at-least 0.5" in text


def test_the_sentence_of_a_cause_says_passes_of_checks_alone_and_the_command_says_what_was_claimed(
    comparison: Comparison,
) -> None:
    assert comparison.cause is not None
    (pair,) = [pair for pair in comparison.cause.parts[0].pairs if pair.kind == "check"]
    for kind, check, said in (
        ("check", "correct", "passes correct less often"),
        ("feature", "words", "has less words"),
    ):
        own = pair.model_copy(update={"kind": kind, "check": check, "difference": 0.5})
        part = comparison.cause.parts[0].model_copy(update={"pairs": (own,)})
        cause = comparison.cause.model_copy(update={"parts": (part,), "named": {check: (part.name,)}})
        page = comparison_page(comparison.model_copy(update={"cause": cause}))
        assert page.sentence == f"{part.name} is why technical {said}"
    right = comparison.pairs[0].model_copy(update={"check": "correct", "at_least": 0.1})
    text = render(comparison_page(comparison.model_copy(update={"pairs": (right,)})))
    assert "--check correct --at-least 0.1" in text


def test_a_page_shows_the_replies_that_did_not_pass_and_why(judged: Judge, log: Log) -> None:
    text = Found(render(proof_page(judged, traces_of(judged, log)))).text
    assert "1 of 20 replies failed a claim; these 1 failed the most." in text
    assert "words, over 3" in text


def test_what_a_model_wrote_stays_text(judged: Judge, log: Log) -> None:
    found = Found(render(proof_page(judged, traces_of(judged, log))))
    assert HOSTILE in found.text
    assert not {"script", "img", "iframe"} & {tag for tag, _ in found.tags}


def test_a_page_refers_to_nothing_outside_itself(judged: Judge, comparison: Comparison, log: Log) -> None:
    for page in (proof_page(judged, traces_of(judged, log)), comparison_page(comparison)):
        text = render(page)
        found = Found(text)
        assert all(link.startswith(("#", "data:")) for link in found.all("href"))
        assert not found.all("src")
        assert "url(" not in text
        assert "@import" not in text
        ids = found.all("id")
        assert len(ids) == len(set(ids))
        assert {link[1:] for link in found.all("href") if link.startswith("#")} <= set(ids)
        for names in found.all("aria-labelledby"):
            assert set(names.split()) <= set(ids)


def test_the_same_result_gives_the_same_page(judged: Judge, comparison: Comparison, log: Log) -> None:
    assert render(proof_page(judged, traces_of(judged, log))) == render(proof_page(judged, traces_of(judged, log)))
    again = Comparison.model_validate_json(comparison.model_dump_json())
    assert render(comparison_page(comparison)) == render(comparison_page(again))


def test_a_page_that_cannot_be_written_is_an_error_of_ours(judged: Judge, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        write(judged, [], tmp_path / "nowhere" / "page.html")


def test_every_result_has_a_page(comparison: Comparison, swept: Result, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    said = {}
    for name, result in {"compare": comparison, "sweep": swept, "bench": benched()}.items():
        write(result, (), file)
        said[name] = Found(file.read_text()).text
    assert "Where replies part" in said["compare"]
    assert "sampling.repetition_penalty" in said["compare"]
    assert "jeito compare -b technical -b plain -m babbler --cases cases.yaml -n 16 --seed 5" in said["compare"]
    assert """--check '{"characters": {"max": 30}}'""" in said["compare"]
    assert "characters" in said["sweep"]
    assert "--over temperature=0.5,1,1.5,2" in said["sweep"]
    assert "small passes the most: 50% of replies, of 3 models" in said["bench"]
    assert "no weights" in said["bench"]


def test_names_of_sides_are_shortened_to_what_tells_them_apart() -> None:
    assert shortened(["a+x=1", "a+y=2+x=1"]) == {"a+x=1": "a", "a+y=2+x=1": "a+y=2"}
    assert shortened(["a+x=1", "a+x=1+x=1"]) == {"a+x=1": "a+x=1", "a+x=1+x=1": "a+x=1+x=1"}


def tokens(*given: tuple[str, float | None]) -> tuple[Token, ...]:
    return tuple(Token(id=n, text=text, logprob=logprob, drawn=-0.1) for n, (text, logprob) in enumerate(given))


def test_a_reply_is_cut_where_its_surprisal_changes_and_loses_no_letter() -> None:
    trace = reply(
        "so a é!", tokens=tokens(("so", -0.1), (" a", -0.2), (" ", -1.0), ("", -2.0), ("é", -2.0), ("!", -9.0))
    )
    found = pieces(trace)
    assert [piece.text for piece in found] == ["so a", " ", "é", "!"]
    assert [piece.level for piece in found] == [0, 1, 3, 4], "half a letter is one piece with the other half"
    assert "surprisal 4.0 nats" in found[2].said
    assert len(LEVELS) == 4


def test_a_long_reply_is_cut_and_says_so() -> None:
    trace = reply("x" * 2 * SHOWN)
    assert "".join(piece.text for piece in pieces(trace)) == "x" * SHOWN + " […]"


def test_two_replies_part_at_the_first_token_that_differs() -> None:
    a = reply("the sum is 5", tokens=tokens(("the", -1.0), (" sum", -1.0), (" is", -1.0), (" 5", -1.0)))
    other = Token(id=99, text=" was", logprob=-4.0, drawn=-0.5)
    b = reply("the sum was", tokens=(*a.tokens[:2], other))
    assert parting(a, b) == 2
    assert parting(a, a) is None
    found = couple(a, b, ("A", "B"), "a case")
    assert [piece.mark for piece in found.replies[1].pieces] == ["same", "same", "parted"]
    assert "B says “was” (the model gives it 1.8 %, what the behaviour sets makes that 61 %)" in found.said
    assert parting(a, reply("the", tokens=a.tokens[:1])) == 1


def test_an_interval_is_drawn_where_it_lies() -> None:
    drawn = str(forest("f", "title", "said", [Bar("claim <1>", 0.25, 0.5, 0.75, 0.5, "holds")], (0.0, 1.0)))
    # The scale goes from 2 to 98 percent.
    assert 'x1="26.00%"' in drawn
    assert 'x2="74.00%"' in drawn
    assert 'cx="50.00%"' in drawn
    assert "claim &lt;1&gt;" in drawn
    crossed = str(forest("f", "title", "said", [Bar("claim", 0.1, 0.2, 0.3, None, "fails")], (0.0, 1.0)))
    assert "✕" in crossed
    assert "<circle" not in crossed


def test_a_curve_skips_what_was_not_measured() -> None:
    line = Line("a", [0.0, None, 1.0], [None, None, None], [None, None, None])
    drawn = str(curves("c", "t", "s", [1.0, 2.0, 3.0], [line], ends=(0.0, 1.0)))
    assert drawn.count("<circle") == 2
    assert 'points="0.00,100.00 100.00,0.00"' in drawn


def test_the_stair_joins_the_best_only() -> None:
    dots = [Point("A", 10, 0.4, 0.3, 0.5, True, "a"), Point("B", 20, 0.3, None, None, False, "b"),
            Point("C", 20, 0.8, 0.7, 0.9, True, "c")]  # fmt: skip
    drawn = str(scatter("s", "t", "said", dots, "MB"))
    stair = re.search(r'class="stair" points="([^"]*)"', drawn)
    assert stair is not None
    assert len(stair[1].split()) == 3


# What follows is seen by a browser.


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """Chromium: without it these tests would pass and say nothing, so they fail."""
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.fail("there is no chromium: apt-get install chromium", pytrace=False)
    with sync_playwright() as play:
        opened = play.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def files(
    judged: Judge, comparison: Comparison, swept: Result, log: Log, tmp_path_factory: pytest.TempPathFactory
) -> list[Path]:
    """A page of each kind."""
    results: Sequence[Result] = (judged, comparison, swept, benched())
    folder, made = tmp_path_factory.mktemp("files"), []
    for at, result in enumerate(results):
        made.append(folder / f"{at}.html")
        write(result, traces_of(judged, log), made[-1])
    return made


# For each text: its colour and what lies behind it, as far up as something is opaque.
_CONTRASTS = """() => {
  const context = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const paint = (colours) => {
    context.clearRect(0, 0, 1, 1);
    for (const colour of colours) { context.fillStyle = colour; context.fillRect(0, 0, 1, 1); }
    return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const found = [];
  for (const element of document.querySelectorAll('body *')) {
    if (![...element.childNodes].some(node => node.nodeType === 3 && node.data.trim())) continue;
    if (element.closest('desc, title') || element.matches('.skip')) continue;
    const behind = [];
    for (let at = element; at; at = at.parentElement) behind.unshift(getComputedStyle(at).backgroundColor);
    const style = getComputedStyle(element);
    const ground = paint(['white', ...behind]);
    const ink = paint(['white', ...behind, element.closest('svg') ? style.fill : style.color]);
    const [high, low] = [light(ground), light(ink)].sort((a, b) => b - a);
    found.push([(high + 0.05) / (low + 0.05), element.tagName + '.' + (element.getAttribute('class') || '')]);
  }
  return found.sort((a, b) => a[0] - b[0]);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_every_page_on_a_phone_and_a_screen(browser: "Browser", files: list[Path], scheme: Any) -> None:
    for width in (360, 1100):
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        page = context.new_page()
        said: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message, said=said: said.append(message.text))
        page.on("pageerror", lambda error, said=said: said.append(str(error)))
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        for file in files:
            page.goto(file.as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            lowest, where = page.evaluate(_CONTRASTS)[0]
            assert lowest >= 4.5, f"{where} of {file.name} in {scheme}"
        assert said == []
        assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
        context.close()


def test_whoever_cannot_see_a_page_can_walk_through_it(browser: "Browser", files: list[Path]) -> None:
    page = browser.new_page(viewport={"width": 360, "height": 800})
    for file in files:
        page.goto(file.as_uri())
        levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map(e => +e.tagName[1])")
        assert levels[0] == 1
        assert all(after - before <= 1 for before, after in pairwise(levels))
        assert levels.count(1) == 1
        for role in ("banner", "navigation", "main", "contentinfo"):
            assert page.get_by_role(role).count() == 1
        for drawing in page.query_selector_all("svg[role=img]"):
            assert drawing.query_selector("title").text_content()  # type: ignore[union-attr]
            assert drawing.query_selector("desc").text_content()  # type: ignore[union-attr]
        assert page.evaluate("[...document.querySelectorAll('th')].every(e => e.scope)")
        # Cards on a phone are rows of a table still.
        assert page.get_by_role("table").count() == page.locator("table").count()
        assert page.get_by_role("cell").count() == page.locator("td:not(:empty)").count()
    page.close()


def test_a_page_goes_onto_paper(browser: "Browser", files: list[Path]) -> None:
    page = browser.new_page()
    for file in files:
        page.goto(file.as_uri())
        printed = page.pdf(format="A4")
        assert printed.startswith(b"%PDF")
        page.emulate_media(media="print", color_scheme="dark")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert not page.locator("nav").is_visible()
    page.close()


def test_code_that_a_model_wrote_does_not_run(browser: "Browser", files: list[Path]) -> None:
    page = browser.new_page()
    page.goto(files[0].as_uri())
    assert page.title() == "plain+max_new_tokens=90 holds 1 of 2 claims on toy"
    assert page.locator("img").count() == 0
    page.close()
