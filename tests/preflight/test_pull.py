"""`jeito pull`: what it asks a real server for, what the cache holds afterwards, and what a kill leaves."""

import hashlib
import json
import os
import pty
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

pytest.importorskip("huggingface_hub")
pytest.importorskip("transformers")

from huggingface_hub.constants import HF_HUB_CACHE

from jeito.engines.transformers import locate
from jeito.engines.weights import find_weights
from jeito.errors import InputError, ModelError
from jeito.preflight.fetch import PullError
from jeito.preflight.find import find
from jeito.preflight.pull import Pulled, plan, pull
from tests.preflight.hub import Hub, Repository, Sparse
from tests.preflight.shapes import Files, gguf, packed, sharded, whole, without

INDEX = "model.safetensors.index.json"
SHARDS = [f"model-{number:05d}-of-00003.safetensors" for number in (1, 2, 3)]
SIZE = 400_000
CHILD = """\
import sys
from jeito.preflight.find import find
from jeito.preflight.pull import plan, pull
print(pull(plan(find(sys.argv[1])), progress=lambda done, total: print(done, flush=True)).model_dump_json())
"""


def noisy(files: Files) -> Files:
    """Bytes instead of zeros, so that no part of a file is like another."""
    draw = random.Random(5).randbytes
    return {
        name: body.head + draw(body.size - len(body.head)) if isinstance(body, Sparse) and body.size < 10**8 else body
        for name, body in files.items()
    }


def three() -> Files:
    return noisy(sharded(3, SIZE))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    served = Hub()
    monkeypatch.setenv("HF_ENDPOINT", served.endpoint)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    yield served
    served.close()


@pytest.fixture
def cache() -> Iterator[Path]:
    """The cache of this process, empty."""
    folder = Path(HF_HUB_CACHE)
    shutil.rmtree(folder, ignore_errors=True)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def get(name: str, revision: str | None = None, *, notify: Callable[[str], None] = print, **allowed: bool) -> Pulled:
    return pull(plan(find(name, revision, fresh=True), revision, **allowed), pause=0, wait=1, notify=notify)


def asked_to_the_end(hub: Hub, name: str) -> set[str]:
    """Files that were downloaded, not only looked into."""
    return {
        file.removeprefix(f"{name}/") for file, parts in hub.ranges.items() if any(part.endswith("-") for part in parts)
    }


def held(pulled: Pulled) -> dict[str, bytes]:
    folder = Path(pulled.path)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


OTHERS: Files = {
    "pytorch_model.bin": Sparse(b"PK", 9_000), "pytorch_model.bin.index.json": packed({"weight_map": {"a": "b.bin"}}),
    "tf_model.h5": b"h5", "flax_model.msgpack": b"m", "onnx/model.onnx": b"o", "onnx/config.json": b"{}",
    "original/consolidated.00.pth": b"p", "consolidated.safetensors": Sparse(b"", 9_000), "training_args.bin": b"PK",
    "model.fp16.safetensors": Sparse(b"", 9_000), "trainer_state.json": b"{}", "run.py": b"raise SystemExit",
    ".gitattributes": b"x", "picture.png": b"png",
}  # fmt: skip
TERMS: Files = {"README.md": b"# A model\n", "LICENSE.txt": b"yours"}


def test_only_what_the_model_needs_is_asked_for(hub: Hub, cache: Path) -> None:
    wanted = noisy(whole()) | TERMS | {"chat_template.jinja": b"{{ messages }}", "vocab.json": b"{}", "merges.txt": b""}
    hub.repositories["someone/much"] = Repository(wanted | OTHERS)
    planned = plan(find("someone/much"))
    assert set(planned.files) == wanted.keys()
    pulled = pull(planned)
    # An empty file need not be asked for.
    assert asked_to_the_end(hub, "someone/much") == wanted.keys() - {"merges.txt"}
    assert held(pulled) == wanted
    assert pulled.bytes == pulled.downloaded == sum(len(body) for body in wanted.values() if isinstance(body, bytes))
    assert pulled.path == str(locate("someone/much")[0])


def test_all_shards_come_with_their_index_and_a_second_pull_asks_for_none(hub: Hub, cache: Path) -> None:
    hub.repositories["someone/shards"] = Repository(three() | OTHERS)
    first = get("someone/shards")
    assert held(first) == three()
    assert find_weights(Path(first.path)).files == tuple(Path(first.path) / name for name in SHARDS)
    brought = {file: [part for part in parts if part.endswith("-")] for file, parts in hub.ranges.items()}
    again = get("someone/shards")
    assert (again.downloaded, again.bytes, again.path) == (0, first.bytes, first.path)
    assert {file: [part for part in parts if part.endswith("-")] for file, parts in hub.ranges.items()} == brought


def test_a_pickle_comes_only_when_it_is_allowed(hub: Hub, cache: Path) -> None:
    parts = {f"pytorch_model-0000{number}-of-00002.bin": b"PK" * number for number in (1, 2)}
    index = {"pytorch_model.bin.index.json": packed({"weight_map": dict(zip("ab", parts, strict=True))})}
    files = without(whole(), "model.safetensors") | parts | index
    hub.repositories["someone/pickle"] = Repository(files)
    with pytest.raises(ModelError, match="run any code") as caught:
        get("someone/pickle")
    assert "--allow-pickle" in caught.value.hint
    assert asked_to_the_end(hub, "someone/pickle") == set()
    assert held(get("someone/pickle", allow_pickle=True)) == files


def test_code_comes_only_when_it_is_trusted(hub: Hub, cache: Path) -> None:
    files = noisy(whole(model_type="own", auto_map={"AutoModelForCausalLM": "own.Own"})) | {"own.py": b"class Own: ..."}
    hub.repositories["someone/own"] = Repository(files)
    with pytest.raises(ModelError, match="code that the model brings") as caught:
        get("someone/own")
    assert "--trust-remote-code" in caught.value.hint
    assert held(get("someone/own", trust_remote_code=True)) == files


def test_a_missing_package_is_a_warning_since_it_can_come_later(hub: Hub, cache: Path) -> None:
    hub.repositories["someone/gptq"] = Repository(noisy(whole(quantization_config={"quant_method": "gptq", "bits": 4})))
    planned = plan(find("someone/gptq"))
    assert "pip install gptqmodel optimum" in [one.remedy for one in planned.warnings]
    assert pull(planned).downloaded > 0


def test_an_adapter_comes_with_the_name_of_its_base(hub: Hub, cache: Path) -> None:
    said = packed({"base_model_name_or_path": "big/base", "peft_type": "LORA"})
    files = {"adapter_config.json": said, "adapter_model.safetensors": noisy(whole())["model.safetensors"]}
    hub.repositories["someone/lora"] = Repository(files | {"optimizer.pt": b"x"})
    planned = plan(find("someone/lora"))
    assert planned.base == "big/base"
    assert held(pull(planned)) == files


REFUSED: dict[str, tuple[Repository, str, str]] = {
    "gated": (Repository(three(), gated=True), "refuses its files", "accept its terms"),
    "absent": (Repository(three(), private=True), "has no", "did you mean"),
    "one-shard-missing": (Repository(without(three(), SHARDS[1])), "1 of 3 files are missing", "tell its author"),
    "names-that-leave": (Repository(three() | {"../../evil.json": b"x"}), r"\.\./\.\./evil", "do not download"),
    "shards-that-leave": (
        Repository(whole() | {INDEX: packed({"weight_map": {"a": "../../../evil.json"}})}), "evil", "do not download",
    ),
    "no-engine": (Repository(whole(model_type="unheardof", architectures=["X"])), "does not know", "pip install"),
}  # fmt: skip


@pytest.mark.parametrize("shape", REFUSED)
def test_what_will_not_do_is_refused_before_a_byte_of_it_comes(shape: str, hub: Hub, cache: Path) -> None:
    hub.repositories[f"someone/{shape}"], why, hint = REFUSED[shape]
    with pytest.raises(ModelError, match=why) as caught:
        get(f"someone/{shape}")
    assert hint in caught.value.hint
    assert asked_to_the_end(hub, f"someone/{shape}") == set()
    assert not list(cache.parent.rglob("evil*"))
    assert not cache.exists()


def test_a_digest_that_is_no_digest_names_no_file(hub: Hub, cache: Path) -> None:
    hub.repositories["someone/model"] = Repository(noisy(whole()))
    facts = find("someone/model")
    bad = dict.fromkeys(facts.digests, "../../../../evil")
    notes: list[str] = []
    pulled = pull(plan(facts.model_copy(update={"digests": bad})), notify=notes.append)
    # huggingface_hub then goes by the digests of the headers that come with each file.
    assert held(pulled) == noisy(whole())
    assert len(notes) == len(pulled.files)
    assert not list(cache.parent.parent.glob("evil*"))


@pytest.mark.parametrize("bad", [None, "wrong"])
def test_what_only_huggingface_hub_can_bring_is_checked_too(bad: str | None, hub: Hub, cache: Path) -> None:
    hub.repositories["someone/model"] = Repository(three(), bad={SHARDS[0]: bad} if bad else {})
    facts = find("someone/model")
    planned = plan(facts.model_copy(update={"files": facts.files | {SHARDS[0]: None}}))
    if bad:
        with pytest.raises(PullError, match="another digest"):
            pull(planned)
        assert not list(cache.rglob(SHARDS[0]))
    else:
        assert held(pull(planned)) == three()


def test_a_token_opens_what_is_gated_and_is_not_sent_on(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories["someone/gated"] = Repository(three(), gated=True)
    monkeypatch.setenv("HF_TOKEN", "hf_let_me_in")
    assert held(get("someone/gated")) == three()
    assert set(hub.tokens_at_cdn) == {""}


@pytest.mark.parametrize("target", ["demo", "folder", "file"])
def test_what_is_here_is_not_pulled(target: str, demo: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    reference = {"demo": "demo", "folder": str(tmp_path), "file": str(demo)}[target]
    with pytest.raises(InputError, match="is here already") as caught:
        plan(find(reference))
    assert caught.value.hint.startswith(f"jeito ask -m {reference}")


def test_a_body_that_breaks_off_goes_on_with_the_rest_of_it(hub: Hub, cache: Path) -> None:
    hub.repositories["someone/model"] = Repository(three(), bad={SHARDS[0]: "once"})
    pulled = get("someone/model")
    assert held(pulled) == three()
    size = len(three()[SHARDS[0]])  # type: ignore[arg-type]
    assert hub.ranges[f"someone/model/{SHARDS[0]}"] == ["bytes=0-", f"bytes={size // 2}-"]
    assert hub.sent_of[f"someone/model/{SHARDS[0]}"] == size


def test_a_hub_that_sends_nothing_is_given_up_and_what_came_is_kept(hub: Hub, cache: Path) -> None:
    name = "someone/model"
    hub.repositories[name] = Repository(three(), bad={SHARDS[1]: "none"})
    with pytest.raises(PullError, match="breaks off at 0 of") as caught:
        get(name)
    assert caught.value.hint == f"jeito pull {name}"
    assert len(hub.ranges[f"{name}/{SHARDS[1]}"]) == 5
    with pytest.raises(ModelError):  # the name means nothing before all is here
        locate(name)
    hub.repositories[name] = Repository(three())
    assert held(get(name)) == three()
    assert hub.ranges[f"{name}/{SHARDS[0]}"] == ["bytes=0-"]


@pytest.mark.parametrize("status", [404, 403, 503])
def test_a_file_that_the_hub_does_not_give_in_the_middle_is_named(status: int, hub: Hub, cache: Path) -> None:
    hub.repositories["someone/model"] = Repository(three(), bad={SHARDS[2]: status})
    with pytest.raises(PullError, match=f"{status}") as caught:
        get("someone/model")
    assert SHARDS[2] in str(caught.value)
    assert len(hub.ranges.get(f"someone/model/{SHARDS[1]}", [])) == 1


def test_a_hub_without_ranges_is_begun_anew(hub: Hub, cache: Path) -> None:
    hub.repositories["someone/model"] = Repository(three(), bad={SHARDS[0]: "whole"})
    data = three()[SHARDS[0]]
    assert isinstance(data, bytes)
    blobs = cache / "models--someone--model" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{hashlib.sha256(data).hexdigest()}.incomplete").write_bytes(data[:1000])
    pulled = get("someone/model")
    assert hub.ranges[f"someone/model/{SHARDS[0]}"] == ["bytes=1000-"]
    assert held(pulled) == three()


def test_bytes_of_another_digest_are_thrown_away(hub: Hub, cache: Path) -> None:
    hub.repositories["someone/model"] = Repository(three(), bad={SHARDS[0]: "wrong"})
    with pytest.raises(PullError, match="another digest") as caught:
        get("someone/model")
    assert caught.value.hint == "jeito pull someone/model"
    held_now = {path.read_bytes() for path in cache.rglob("*") if path.is_file()}
    assert three()[SHARDS[0]] not in held_now
    hub.repositories["someone/model"] = Repository(three())
    assert held(get("someone/model")) == three()


@pytest.mark.parametrize(
    ("files", "file"),
    [(three(), SHARDS[1]), (three(), "config.json"), (noisy(whole()), "model.safetensors")],
)
def test_a_damaged_file_in_the_cache_is_found_and_comes_again(files: Files, file: str, hub: Hub, cache: Path) -> None:
    hub.repositories["someone/model"] = Repository(files)
    path = Path(get("someone/model").path) / file
    with path.open("r+b") as opened:
        opened.write(b"\0\xff")
    notes: list[str] = []
    again = get("someone/model", notify=notes.append)
    assert held(again) == files
    assert again.downloaded == len(files[file])  # type: ignore[arg-type]
    assert [file in note for note in notes] == [True]


def test_without_the_hub_the_cache_is_all_there_is_and_is_checked(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repositories["someone/model"] = Repository(three())
    first = get("someone/model")
    asked = len(hub.requests)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    again = get("someone/model")
    assert (again.path, again.downloaded, set(again.files)) == (first.path, 0, set(first.files))
    (Path(first.path) / SHARDS[1]).write_bytes((Path(first.path) / SHARDS[1]).read_bytes()[:-1] + b"!")
    with pytest.raises(PullError, match="damaged"):
        get("someone/model")
    (Path(first.path) / SHARDS[1]).unlink()
    with pytest.raises(ModelError, match="its cache has not all of"):
        get("someone/model")
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE") as caught:
        get("someone/else")
    assert caught.value.hint == "unset HF_HUB_OFFLINE"
    assert len(hub.requests) == asked


def test_a_disk_that_is_too_small_is_said_with_both_figures(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repositories["someone/model"] = Repository(three(), bad={SHARDS[2]: "none"})
    with pytest.raises(PullError):
        get("someone/model")
    hub.repositories["someone/model"] = Repository(three())
    lacking = len(three()[SHARDS[2]])  # type: ignore[arg-type]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, lacking - 1))
    with pytest.raises(PullError, match=f"{lacking:,} bytes .* {lacking - 1:,} free"):
        get("someone/model")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, lacking))
    assert get("someone/model").downloaded == lacking


def test_a_revision_is_kept_under_its_own_name(hub: Hub, cache: Path) -> None:
    hub.repositories["someone/model"] = Repository(three(), branches=("main", "v2"))
    pulled = get("someone/model", "v2")
    assert pulled.model == "someone/model#v2"
    assert locate("someone/model", "v2")[0] == Path(pulled.path)
    with pytest.raises(ModelError):
        locate("someone/model")


def test_a_newer_revision_that_breaks_off_leaves_the_older_in_use(hub: Hub, cache: Path) -> None:
    hub.repositories["someone/model"] = Repository(three())
    old = get("someone/model")
    newer = three() | {"extra_config.json": b"{}", SHARDS[2]: three()[SHARDS[2]]}
    hub.repositories["someone/model"] = Repository(newer, bad={"extra_config.json": 404})
    with pytest.raises(PullError, match="404"):
        get("someone/model")
    assert locate("someone/model")[0] == Path(old.path)
    hub.repositories["someone/model"] = Repository(newer)
    new = get("someone/model")
    assert new.path != old.path
    assert new.downloaded == len(b"{}")
    assert locate("someone/model")[0] == Path(new.path)


def test_what_was_renamed_is_kept_under_its_new_name(hub: Hub, cache: Path) -> None:
    hub.repositories["new/name"] = Repository(three())
    hub.renamed["old/name"] = "new/name"
    assert get("old/name").model == "new/name"
    assert locate("new/name")


class Place(NamedTuple):
    """A machine of its own for processes: a hub, an empty cache, an empty home."""

    hub: Hub
    folder: Path

    @property
    def env(self) -> dict[str, str]:
        return os.environ | {"HF_HOME": str(self.folder / "hf"), "JEITO_HOME": str(self.folder / "home")}

    def jeito(self, *words: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "jeito.cli.main", *words]
        return subprocess.run(command, env=self.env, capture_output=True, text=True, check=False)

    def child(self, name: str) -> "subprocess.Popen[str]":
        return subprocess.Popen([sys.executable, "-c", CHILD, name], env=self.env, stdout=subprocess.PIPE, text=True)

    def blob(self, name: str, data: bytes) -> Path:
        blobs = self.folder / "hf" / "hub" / f"models--{name.replace('/', '--')}" / "blobs"
        return blobs / hashlib.sha256(data).hexdigest()


@pytest.fixture
def place(hub: Hub, tmp_path: Path) -> Place:
    return Place(hub, tmp_path)


def test_after_a_kill_the_next_pull_asks_for_the_rest_alone(place: Place) -> None:
    hub, data = place.hub, three()[SHARDS[1]]
    assert isinstance(data, bytes)
    hub.repositories["someone/model"] = Repository(three(), bad={SHARDS[1]: "stuck"})
    with place.child("someone/model") as victim:
        assert victim.stdout
        whole_before = sum(len(three()[file]) for file in three() if file not in SHARDS[1:])  # type: ignore[arg-type]
        while int(victim.stdout.readline()) < whole_before + 100_000:
            pass
        victim.kill()
    part = place.blob("someone/model", data).with_suffix(".incomplete")
    kept = part.stat().st_size
    assert 0 < kept <= len(data) // 2
    hub.repositories["someone/model"] = Repository(three())
    done = place.jeito("pull", "someone/model", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    pulled = Pulled.model_validate_json(done.stdout)
    assert hub.ranges[f"someone/model/{SHARDS[1]}"] == ["bytes=0-", f"bytes={kept}-"]
    assert hub.ranges[f"someone/model/{SHARDS[0]}"] == ["bytes=0-"]
    assert held(pulled) == three()
    assert pulled.downloaded == pulled.bytes - whole_before - kept
    assert not list(part.parent.glob("*.incomplete"))


def test_an_interrupt_says_how_to_go_on(place: Place) -> None:
    place.hub.repositories["someone/model"] = Repository(three(), bad={SHARDS[1]: "stuck"})
    command = [sys.executable, "-m", "jeito.cli.main", "pull", "someone/model"]
    # A process inherits that interrupts are ignored, as they are where tests run in the background.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        running = subprocess.Popen(command, env=place.env, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)
    with running:
        assert place.hub.stuck.wait(60)
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "jeito pull someone/model" in said
    assert "Traceback" not in said


def test_two_that_pull_the_same_at_once_both_end_well_and_bring_it_once(place: Place) -> None:
    hub = place.hub
    hub.repositories["someone/model"] = Repository(three(), bad={SHARDS[0]: "stuck"})
    with place.child("someone/model") as first:
        assert hub.stuck.wait(60)
        with place.child("someone/model") as second:
            assert second.stdout
            second.stdout.readline()  # what is here already: the second has begun, and the first holds the shard
            hub.go.set()
            outputs = [one.communicate(timeout=60)[0] for one in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0)
    for output in outputs:
        assert held(Pulled.model_validate_json(output.splitlines()[-1])) == three()
    assert [hub.ranges[f"someone/model/{file}"] for file in SHARDS] == [["bytes=0-"]] * 3


def test_a_person_sees_one_line_of_progress(place: Place) -> None:
    place.hub.repositories["someone/model"] = Repository(three())
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "jeito.cli.main", "pull", "someone/model"]
    running = subprocess.Popen(
        command, env=place.env | {"TERM": "xterm", "COLUMNS": "100"}, stdout=subprocess.PIPE, stderr=theirs
    )
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 65536):
            shown += part
    except OSError:  # so Linux says that the other end is closed
        pass
    running.communicate()
    os.close(ours)
    assert b"1.2/1.2 MB" in shown
    assert shown.count(b"MB/s") >= 1 or b"0:00:0" in shown


def test_a_tiny_model_is_pulled_through_a_pipe_without_progress_and_answers(place: Place, tmp_path: Path) -> None:
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    torch.manual_seed(0)
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        ["the cat sat on the mat"],
        trainers.BpeTrainer(initial_alphabet=alphabet, special_tokens=["<s>", "</s>"], show_progress=False),
    )
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, bos_token_id=0, eos_token_id=1, max_position_embeddings=256, initializer_range=0.3,
    )  # fmt: skip
    folder = tmp_path / "made"
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    files: Files = {file.name: file.read_bytes() for file in folder.iterdir()}
    place.hub.repositories["tiny/llama"] = Repository(files | {"onnx/model.onnx": b"o"})
    done = place.jeito("pull", "tiny/llama")
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_dir()
    assert "\x1b" not in done.stderr
    assert 'jeito ask -m tiny/llama "' in done.stderr
    answer = place.jeito("ask", "-m", "tiny/llama", "Hi", "--set", "max_new_tokens=3", "--seed", "1", "--json")
    assert answer.returncode == 0, answer.stderr
    assert len(json.loads(answer.stdout)["tokens"]) == 3


def test_a_quantisation_is_pulled_runs_replays_and_is_listed(place: Place, demo: Path) -> None:
    files: Files = {"demo-Q4_1.gguf": demo.read_bytes(), "demo-Q8_0.gguf": gguf(), "config.json": b"{}"} | TERMS
    place.hub.repositories["tiny/demo-GGUF"] = Repository(files)
    refused = place.jeito("pull", "tiny/demo-GGUF")
    assert refused.returncode == 64
    assert "Q4_1 (98,362,432 bytes), Q8_0 (8,000,000,704 bytes)" in refused.stderr
    assert "jeito pull tiny/demo-GGUF:Q4_1" in refused.stderr
    done = place.jeito("pull", "tiny/demo-GGUF:Q4_1", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["model"], Path(said["path"]).name) == ("tiny/demo-GGUF:Q4_1", "demo-Q4_1.gguf")
    assert set(said["files"]) == {"demo-Q4_1.gguf", *TERMS}
    assert asked_to_the_end(place.hub, "tiny/demo-GGUF") == set(said["files"])
    replies = [
        place.jeito("ask", "-m", name, "Hi", "--set", "max_new_tokens=4", "--seed", "1", "--json")
        for name in ("tiny/demo-GGUF:Q4_1", "tiny/demo-GGUF", said["path"])
    ]
    answers = {json.loads(reply.stdout)["answer"] for reply in replies}
    assert len(answers) == 1
    assert place.jeito("replay", "--last", "3").returncode == 0
    listed = json.loads(place.jeito("models", "--json").stdout)["models"]
    assert {(one["model"], one["runs"]) for one in listed if one["where"] == "hub"} == {("tiny/demo-GGUF:Q4_1", 2)}
    assert json.loads(place.jeito("model", "tiny/demo-GGUF:q4_1", "--json").stdout)["engine"] == "llamacpp"
    assert place.jeito("explain", "-m", "tiny/demo-GGUF:Q4_1", "-b", "technical").returncode == 0


def test_a_split_gguf_comes_with_all_its_parts_and_nothing_else(hub: Hub, cache: Path) -> None:
    parts = {f"Q4_0/m-Q4_0-0000{number}-of-00002.gguf": gguf() for number in (1, 2)}
    hub.repositories["someone/split"] = Repository(parts | {"m-Q8_0.gguf": gguf()} | TERMS)
    assert plan(find("someone/split:q4_0")).files == ("README.md", "LICENSE.txt", *parts)
    with pytest.raises(ModelError, match="no single Q2_K"):
        plan(find("someone/split:Q2_K"))
    # Another may come later, so even the only one is called by its own name.
    hub.repositories["someone/one"] = Repository({"m-Q8_0.gguf": gguf()})
    assert plan(find("someone/one", "main"), "main").model == "someone/one:Q8_0#main"


def test_a_quantisation_of_a_repository_with_other_weights_too_is_the_gguf(hub: Hub, cache: Path) -> None:
    hub.repositories["someone/both"] = Repository(whole() | {"both-Q4_0.gguf": gguf()})
    assert plan(find("someone/both:Q4_0")).files == ("both-Q4_0.gguf",)
    assert "model.safetensors" in plan(find("someone/both")).files
    with pytest.raises(ModelError, match="no single Q8_0"):
        plan(find("someone/both:Q8_0"))
