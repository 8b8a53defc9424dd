"""`jeito export`: what stands on which stream."""

import json
from pathlib import Path

from jeito.errors import WRONG_INPUT


def test_json_goes_to_standard_output_and_its_notes_to_standard_error(jeito):
    done = jeito("export", "technical", "--to", "openai", "--model", "gpt")
    assert done.code == 0
    assert json.loads(done.out)["repetition_penalty"] == 1.25
    assert done.err.startswith("notes:\n- ")
    assert "- sampling.repetition_penalty = 1.25: not OpenAI's" in done.err


def test_what_can_hold_comments_leaves_standard_error_empty(jeito):
    done = jeito("export", "technical", "--to", "ollama", "--set", "top_k=20")
    assert (done.code, done.err) == (0, "")
    assert "PARAMETER top_k 20\n" in done.out


def test_a_folder_is_asked_for_what_it_recommends(jeito, unpacked_demo, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for file in unpacked_demo.iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "generation_config.json").unlink(missing_ok=True)
    (folder / "generation_config.json").write_text('{"do_sample": true, "top_k": 33, "temperature": 0.6}')
    done = jeito("export", "plain+temperature=0.4", "--to", "transformers", "--model", folder)
    assert {key: json.loads(done.out)[key] for key in ("top_k", "temperature")} == {"top_k": 33, "temperature": 0.4}
    assert "not known" not in done.err


def test_tools_are_opened_for_a_request(jeito, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("shapes.py").write_text('def area(side: float) -> float:\n    """Area of a square."""\n    return side**2\n')
    Path("measurer.yaml").write_text("system: You measure.\ntools: [shapes.py:area]\n")
    done = jeito("export", "measurer.yaml", "--to", "vllm", "--json")
    said = json.loads(done.out)
    assert '"name": "area"' in said["text"]
    assert any("--tool-call-parser" in note for note in said["notes"])


def test_an_unknown_target_is_refused_in_a_line(jeito):
    done = jeito("export", "technical", "--to", "vlm")
    assert done.code == WRONG_INPUT
    assert done.err == "error: nothing is exported to 'vlm'\n  try: did you mean vllm?\n"
