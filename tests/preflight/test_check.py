"""`jeito check`: what it finds of repositories on a real server, by huggingface_hub itself; of folders and files."""

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("huggingface_hub")
pytest.importorskip("transformers")

from jeito.cli.main import _run
from jeito.engines.gguf_header import read_header
from jeito.errors import ModelError
from jeito.preflight.find import Facts, find
from jeito.preflight.finding import CHECKS, Finding
from jeito.preflight.trial import tried
from jeito.preflight.verdict import exit_code, verdict
from tests.preflight.hub import Hub, Repository, Sparse
from tests.preflight.shapes import (
    CHATML,
    CONFIG,
    TOOLS,
    dialogpt,
    gguf,
    mistral_7b,
    packed,
    settings,
    sharded,
    tensors,
    tokenizer,
    whole,
    without,
)  # fmt: skip

TOKEN = "hf_let_me_in"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    served = Hub()
    monkeypatch.setenv("HF_ENDPOINT", served.endpoint)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    yield served
    served.close()


def odd(facts: Facts) -> dict[str, str]:
    """What is not ok."""
    return not_ok(verdict(facts))


def not_ok(findings: list[Finding]) -> dict[str, str]:
    return {finding.id: finding.level for finding in findings if finding.level != "ok"}


def one(facts: Facts, check: str) -> Finding:
    return next(finding for finding in verdict(facts) if finding.id == check)


NO_TEMPLATE = {"template.present": "warning"}
ADAPTER = {"adapter_config.json": packed({"base_model_name_or_path": "big/base", "peft_type": "LORA"})}
INDEX = "model.safetensors.index.json"
SHAPES: dict[str, tuple[Repository, dict[str, str]]] = {
    "complete": (Repository(whole()), {}),
    "sharded": (Repository(sharded()), {}),
    "one-shard-missing": (
        Repository(without(sharded(), "model-00002-of-00003.safetensors")), {"weights.complete": "blocker"},
    ),
    "shards-without-index": (Repository(without(sharded(), INDEX)), {"weights.complete": "blocker"}),
    "truncated": (Repository(whole() | {"model.safetensors": tensors(more=-100)}), {"weights.complete": "blocker"}),
    "too-long": (Repository(whole() | {"model.safetensors": tensors(more=7)}), {"weights.complete": "blocker"}),
    "one-shard-short": (
        Repository(sharded() | {"model-00003-of-00003.safetensors": Sparse(b"\x10\0\0\0\0\0\0\0{", 1_000_000)}),
        {"weights.complete": "blocker"},
    ),
    "lfs-pointer": (
        Repository(whole() | {"model.safetensors": b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n"}),
        {"weights.complete": "blocker"},
    ),
    "pickle-only": (
        Repository(without(whole(), "model.safetensors") | {"pytorch_model.bin": Sparse(b"PK", 5_000_000)}),
        {"weights.format": "blocker"},
    ),
    "without-weights": (
        Repository(without(whole(), "model.safetensors"), card={"license": "mit", "base_model": "big/base"}),
        {"weights.present": "blocker"},
    ),
    "other-frameworks": (
        Repository(without(whole(), "model.safetensors") | {"tf_model.h5": b"x"}), {"weights.present": "blocker"},
    ),
    "adapter-only": (Repository(ADAPTER | {"adapter_model.safetensors": tensors()}), {"adapter.base": "warning"}),
    "adapter-without-weights": (
        Repository(ADAPTER), {"weights.present": "blocker", "adapter.base": "warning"},
    ),
    "gguf-only": (Repository({"model-Q4_K_M.gguf": gguf()}), {}),
    "gguf-many": (
        Repository({"model-Q4_K_M.gguf": gguf(), "model-Q8_0.gguf": gguf()}), {"weights.present": "blocker"},
    ),
    "gguf-truncated": (Repository({"model-Q4_K_M.gguf": gguf(short=10)}), {"weights.complete": "blocker"}),
    "gguf-unknown-architecture": (
        Repository({"model-Q4_K_M.gguf": gguf("unheardof")}), {"engine.architecture": "blocker"},
    ),
    "gguf-absurd": (Repository({"model-Q4_K_M.gguf": gguf(keys=2**60)}), {"weights.complete": "blocker"}),
    "no-tokenizer": (Repository(without(whole(), "tokenizer.json")), {"tokenizer.present": "blocker"}),
    "no-template": (Repository(whole(None)), NO_TEMPLATE),
    "template-with-a-syntax-error": (Repository(whole("{% for x in %}")), {"template.compiles": "blocker"}),
    "template-without-end": (
        Repository(whole("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}")),
        {"template.compiles": "blocker"},
    ),
    "template-with-attribute-tricks": (
        Repository(whole("{{ ''.__class__.__mro__[1].__subclasses__() }}")), {"template.compiles": "blocker"},
    ),
    "template-that-drops-tools": (Repository(whole(CHATML)), {"template.tools": "warning"}),
    "template-without-system": (
        Repository(whole("{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + TOOLS)),
        {"template.system": "warning"},
    ),
    "template-that-opens-no-reply": (
        Repository(whole(TOOLS.split("{% if add_gen")[0])), {"template.reply": "warning"},
    ),
    "template-in-a-file": (Repository(whole(None) | {"chat_template.jinja": TOOLS.encode()}), {}),
    "gated": (Repository(whole(), gated=True), {"access.open": "blocker"}),
    "disabled": (Repository(whole(), disabled=True), {"access.open": "blocker"}),
    "custom-code": (
        Repository(whole(model_type="own", auto_map={"AutoModelForCausalLM": "own.OwnModel"})),
        {"engine.code": "blocker"},
    ),
    "unknown-architecture": (
        Repository(whole(model_type="unheardof", architectures=["X"])), {"engine.architecture": "blocker"},
    ),
    "not-a-text-model": (
        Repository(whole(model_type="bert", architectures=["BertForMaskedLM"])), {"engine.architecture": "blocker"},
    ),
    "wrong-vocabulary": (
        Repository(whole() | {"tokenizer.json": tokenizer(70)}), {"tokenizer.vocabulary": "blocker"},
    ),
    "end-outside": (
        Repository(whole() | {"generation_config.json": packed({"eos_token_id": 64})}), {"tokens.end": "blocker"},
    ),
    "begin-outside": (Repository(whole(bos_token_id=999)), {"tokens.begin": "blocker"}),
    "no-end": (
        Repository(whole(eos_token_id=None)
                   | {"tokenizer_config.json": settings(eos_token=None), "generation_config.json": b"{}"}),
        {"tokens.end": "warning"},
    ),
    "pad-is-end": (
        Repository(whole() | {"tokenizer_config.json": settings(pad_token="</s>")}), {"tokens.pad": "warning"},
    ),
    "sampling": (
        Repository(whole() | {"generation_config.json": packed({"temperature": 0.6, "top_p": 0.9})}),
        {"sampling": "warning"},
    ),
    "no-licence": (Repository(whole(), card={}), {"licence": "warning"}),
    "narrow-licence": (Repository(whole(), card={"license": "cc-by-nc-4.0"}), {"licence": "warning"}),
    "no-context": (Repository(whole(max_position_embeddings=None)), {"context": "warning"}),
    "quantised": (
        Repository(whole(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})),
        {"precision": "warning"},
    ),
    "packages-missing": (
        Repository(whole(quantization_config={"quant_method": "gptq", "bits": 4})),
        {"precision": "warning", "engine.packages": "blocker"},
    ),
    "empty": (Repository({".gitattributes": b""}, card={}), {"weights.present": "blocker", "licence": "warning"}),
    "broken-config": (Repository(whole() | {"config.json": b"{,"}), {"files.readable": "blocker"}),
    "names-that-leave": (Repository(whole() | {"../../.bashrc": b"x"}), {"files.safe": "blocker"}),
    "index-that-leaves": (
        Repository(without(whole(), "model.safetensors")
                   | {INDEX: packed({"metadata": {"total_size": 9}, "weight_map": {"a": "../../etc/passwd"}})}),
        {"files.safe": "blocker", "weights.complete": "blocker"},
    ),
    "header-of-2-gb": (
        Repository(whole() | {"model.safetensors": Sparse(struct.pack("<Q", 2_000_000_000) + b"{", 3_000_000_000)}),
        {"weights.complete": "blocker"},
    ),
    "dialogpt-medium": (
        Repository(dialogpt(), card={"license": "mit"}), NO_TEMPLATE | {"tokens.pad": "warning"},
    ),
    "mistral-7b": (
        Repository(mistral_7b()),
        {"template.system": "warning", "template.tools": "warning", "template.reply": "warning"},
    ),
    "config-of-2-gb": (
        Repository(whole() | {"config.json": Sparse(b"{", 2_000_000_000)}), {"files.readable": "blocker"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_a_repository_gives_exactly_its_findings(shape: str, hub: Hub) -> None:
    repository, expected = SHAPES[shape]
    hub.repositories[f"someone/{shape}"] = repository
    facts = find(f"someone/{shape}")
    findings = verdict(facts)
    assert not_ok(findings) == expected
    assert facts.requests == len(hub.requests) <= 14
    assert hub.sent < 3_000_000
    assert exit_code(findings) == (2 if "blocker" in expected.values() else 1 if expected else 0)
    assert all(finding.remedy for finding in findings if finding.level != "ok")
    assert len({finding.id for finding in findings}) == len(findings)
    assert {finding.id for finding in findings} <= CHECKS.keys()


def test_a_70b_of_30_shards_needs_few_requests_and_with_headers_one_more_for_each_shard(hub: Hub) -> None:
    hub.repositories["big/70b"] = Repository(sharded(30, 4_700_000_000))
    facts = find("big/70b")
    assert odd(facts) == {}
    assert len(hub.requests) <= 12
    assert hub.sent <= 20_000_000
    few = len(hub.requests)
    facts = find("big/70b", headers=True)
    assert one(facts, "weights.complete").evidence == "headers of 30 files agree with their sizes"
    # The hub sends each shard's reader on to its store, once.
    assert len(hub.requests) - 2 * few == 2 * 30
    assert hub.sent <= 20_000_000


def test_a_token_opens_what_is_gated_and_never_reaches_another_host(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories["someone/gated"] = Repository(whole(), gated=True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert odd(find("someone/gated")) == {}
    assert hub.tokens_at_cdn
    assert set(hub.tokens_at_cdn) == {""}


def test_a_private_repository_is_there_for_who_may_see_it(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories["someone/private"] = Repository(whole(), private=True)
    assert odd(find("someone/private")) == {"access.exists": "blocker"}
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    facts = find("someone/private")
    assert odd(facts) == {}
    assert one(facts, "access.open").level == "ok"


def test_a_name_that_is_not_there_is_answered_with_near_ones(hub: Hub) -> None:
    hub.repositories["Qwen/Qwen3-4B-Instruct"] = Repository(whole())
    facts = find("Qwen/Qwen3-4b-instrukt")
    assert [finding.id for finding in verdict(facts)] == ["access.exists"]
    assert "Qwen/Qwen3-4B-Instruct" in one(facts, "access.exists").remedy


def test_a_revision_that_is_not_there_is_answered_with_those_that_are(hub: Hub) -> None:
    hub.repositories["someone/model"] = Repository(whole(), branches=("main", "v2"))
    assert odd(find("someone/model", "v2")) == {}
    facts = find("someone/model", "v3")
    assert odd(facts) == {"access.exists": "blocker"}
    assert "someone/model#v2" in one(facts, "access.exists").remedy


def test_a_renamed_repository_says_its_new_name(hub: Hub) -> None:
    hub.repositories["new/name"] = Repository(whole())
    hub.renamed["old/name"] = "new/name"
    facts = find("old/name")
    assert odd(facts) == {"access.renamed": "warning"}
    assert "new/name" in one(facts, "access.renamed").remedy


def test_a_quantisation_picks_one_gguf_of_many(hub: Hub) -> None:
    hub.repositories["someone/gguf"] = Repository({"m-Q4_K_M.gguf": gguf(), "m-Q4_K_S.gguf": gguf(short=5)})
    assert odd(find("someone/gguf:q4_k_m")) == {}
    assert odd(find("someone/gguf:Q4_K_S")) == {"weights.complete": "blocker"}
    assert odd(find("someone/gguf:Q2_K"))["weights.present"] == "blocker"


def test_a_part_of_a_split_gguf_is_missed(hub: Hub) -> None:
    parts = {f"m-Q4_0-{number:05d}-of-00003.gguf": gguf() for number in (1, 3)}
    hub.repositories["someone/split"] = Repository(parts)
    facts = find("someone/split:Q4_0")
    assert odd(facts) == {"weights.complete": "blocker"}
    assert "m-Q4_0-00002-of-00003.gguf" in one(facts, "weights.complete").evidence


def test_all_missing_packages_are_in_one_line(hub: Hub) -> None:
    hub.repositories["someone/gptq"] = SHAPES["packages-missing"][0]
    assert one(find("someone/gptq"), "engine.packages").remedy == "pip install gptqmodel optimum"


@pytest.mark.parametrize(("status", "hint"), [(429, "wait 7 seconds"), (403, "hf auth login"), (503, "later")])
def test_a_hub_that_refuses_is_an_error_with_what_to_do(status: int, hint: str, hub: Hub) -> None:
    hub.repositories["someone/model"] = Repository(whole(), status=status)
    with pytest.raises(ModelError) as caught:
        find("someone/model")
    assert hint in caught.value.hint


@pytest.mark.parametrize("bad", ["slow", "short", 429, 500])
def test_a_body_that_does_not_come_whole_is_a_finding(bad: str | int, hub: Hub) -> None:
    hub.repositories["someone/model"] = Repository(whole(), bad={"tokenizer.json": bad})
    assert odd(find("someone/model", wait=0.3)) == {"files.readable": "blocker"}


def test_a_hub_without_ranges_is_read_only_as_far_as_needed(hub: Hub) -> None:
    long = Sparse(tensors().head, tensors().size + 500_000_000)
    hub.repositories["someone/model"] = Repository(
        whole() | {"model.safetensors": long}, bad={"model.safetensors": "whole"}
    )
    facts = find("someone/model")
    assert odd(facts) == {"weights.complete": "blocker"}
    assert facts.bytes < 1_000_000


def test_what_the_cache_holds_is_not_asked_for_and_is_all_there_is_offline(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub.constants import HF_HUB_CACHE

    repository = Repository(without(whole(), "model.safetensors") | {"model.safetensors": tensors().part(0, 10_000)})
    repository.files["model.safetensors"] = tensors().part(0, tensors().size)  # type: ignore[index]
    hub.repositories["cached/model"] = repository
    cache = Path(HF_HUB_CACHE) / "models--cached--model"
    snapshot = cache / "snapshots" / repository.sha
    snapshot.mkdir(parents=True)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(repository.sha)
    for name, body in repository.files.items():
        assert isinstance(body, bytes)
        (snapshot / name).write_bytes(body)
    assert odd(find("cached/model")) == {}
    assert len(hub.requests) == 1
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    offline = find("cached/model")
    assert (odd(offline), len(hub.requests)) == ({"access.hub": "warning", "licence": "warning"}, 1)
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE"):
        find("not/cached")


def test_a_hub_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch, hub: Hub) -> None:
    hub.close()
    with pytest.raises(ModelError, match="does not answer"):
        find("someone/model")


def write(folder: Path, files: dict[str, bytes | Sparse]) -> Path:
    folder.mkdir()
    for name, body in files.items():
        with (folder / name).open("wb") as file:
            file.write(body.head if isinstance(body, Sparse) else body)
            if isinstance(body, Sparse):
                file.truncate(body.size)
    return folder


def test_a_folder_gives_the_findings_of_its_repository(tmp_path: Path) -> None:
    readme = {"README.md": b"---\nlicense: mit\nbase_model: big/base\n---\nA model.\n"}
    facts = find(str(write(tmp_path / "whole", whole() | readme)))
    assert odd(facts) == {}
    assert one(facts, "base").evidence == "big/base"
    broken = write(tmp_path / "broken", whole() | {"model.safetensors": tensors(more=-1)} | readme)
    assert odd(find(str(broken))) == {"weights.complete": "blocker"}
    assert odd(find(str(write(tmp_path / "shards", sharded() | readme)))) == {}


def test_a_gguf_file_is_read_by_its_header(tmp_path: Path) -> None:
    folder = write(tmp_path / "files", {"a.gguf": gguf(), "b.gguf": gguf(short=1)})
    assert odd(find(str(folder / "a.gguf"))) == {}
    assert odd(find(str(folder / "b.gguf"))) == {"weights.complete": "blocker"}


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "1 seconds"),
        ("{{ 'x' * 10 ** 10 }}", "1024 MiB"),
        ("{{ 9 ** (9 ** 9) }}", "1 seconds"),
        (
            "{% set x = namespace(t='xx') %}{% for a in range(99) %}{% set x.t = x.t ~ x.t %}{% endfor %}",
            "takes more than",
        ),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ cycler.__init__.__globals__ }}", "unsafe"),
        ("{{ " + "(" * 9999 + "1" + ")" * 9999 + " }}", "broken"),
    ],
)
def test_a_hostile_template_is_refused_with_why(source: str, why: str) -> None:
    found = tried(source, {}, seconds=1).broken
    assert found is not None
    assert why in found


def test_a_gguf_header_with_absurd_counts_reads_next_to_nothing() -> None:
    lengths: list[int] = []
    absurd = gguf(keys=2**60)

    def read(start: int, count: int) -> bytes:
        lengths.append(count)
        return absurd.part(start, start + count)

    with pytest.raises(ModelError):
        read_header(read, absurd.size)
    assert sum(lengths) <= 2 << 20


@pytest.fixture
def jeito(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["jeito", *words])
        capsys.readouterr()
        return (_run(), *capsys.readouterr())

    return call


def test_the_command_exits_by_the_worst_finding_and_says_what_to_do(hub: Hub, jeito: Callable[..., Any]) -> None:
    hub.repositories["someone/fine"] = Repository(whole())
    hub.repositories["someone/plain"] = Repository(whole(None))
    hub.repositories["someone/bare"] = SHAPES["without-weights"][0]
    assert jeito("check", "someone/fine")[0] == 0
    assert jeito("check", "someone/plain")[0] == 1
    code, out, _ = jeito("check", "someone/bare")
    assert code == 2
    assert "BLOCKER" in out
    assert "jeito check big/base" in out
    code, out, err = jeito("check", "someone/bare#main", "--json")
    said = json.loads(out)
    assert (code, said["exit"], said["revision"], err) == (2, 2, hub.repositories["someone/bare"].sha, "")
    assert {finding["id"]: finding["level"] for finding in said["findings"]}["weights.present"] == "blocker"
    assert jeito("check", "http://127.0.0.1:1/v1")[0] == 64
    assert jeito("check", "no such thing")[0] == 64


def test_a_config_says_less_than_the_embeddings_own_header(hub: Hub) -> None:
    hub.repositories["someone/model"] = Repository(whole() | {"config.json": packed(CONFIG | {"vocab_size": 9999})})
    assert one(find("someone/model"), "tokenizer.vocabulary").evidence == "64 tokens, 64 rows"


@pytest.mark.parametrize("value", [None, 5, -1, True, 1e300, "x", [], [1], ["x"], {}, {"a": 1}])
@pytest.mark.parametrize(
    "key", ["architectures", "model_type", "vocab_size", "eos_token_id", "auto_map", "text_config"]
)
def test_a_config_of_other_kinds_than_it_should_have_is_no_crash(key: str, value: Any, tmp_path: Path) -> None:
    files = without(whole(None), "generation_config.json") | {"config.json": packed(CONFIG | {key: value})}
    assert verdict(find(str(write(tmp_path / "odd", files))))
