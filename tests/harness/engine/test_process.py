"""The exchange with vLLM's environment: what is asked, and what becomes of an engine that fails. See ``tests.fake_vllm``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from harness.engine import process
from harness.engine.process import PYTHON, VLLM, EngineError
from harness.errors import ConfigError
from tests import fake_vllm
from tests.tiny_models import byte_tokenizer, llama

PROMPTS = [[1, 2, 3], [4]]


def ask(folder: Path, *, prefix_caching: bool = True, **changes: object) -> list[list[int]]:
    model = llama()
    model.generation_config.temperature = 0.9  # without sampling, which transformers would not write
    request = {"limits": [4, 2], "ends": [257], "stop_strings": [], **changes}
    with VLLM(model, byte_tokenizer(), folder=folder / "run", prefix_caching=prefix_caching) as engine:
        answer = engine.tokens(PROMPTS, **request)
        assert (folder / "run/merged/model.safetensors").is_file() and model.generation_config.temperature == 0.9
        return answer


def test_an_engine_gets_weights_and_free_memory_and_whether_to_cache_prefixes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PYTHON, str(fake_vllm.environment(tmp_path)))
    monkeypatch.setenv("FAKE_VLLM", "end")
    assert ask(tmp_path) == [[257], [257]]
    assert not (tmp_path / "run/merged").exists()
    monkeypatch.setattr(process, "_memory_share", lambda: 0.5)
    ask(tmp_path, prefix_caching=False)
    made = [json.loads(line) for line in (tmp_path / "engines").read_text().splitlines()]
    on_cpu = {"dtype": "float32", "generation_config": "vllm", "seed": 0, "enable_prefix_caching": True}
    assert made == [on_cpu, on_cpu | {"gpu_memory_utilization": 0.5, "enable_prefix_caching": False}]


def test_an_engine_takes_three_quarters_of_what_the_model_leaves_free(monkeypatch: pytest.MonkeyPatch) -> None:
    assert process._memory_share() is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (60, 80))
    assert process._memory_share() == 0.75 * 60 / 80


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("start", "ended with exit status 3; its last words: a log of vLLM's own . CUDA out of memory"),
        ("generate", "ended with exit status 1; .* an illegal memory access"),
        ("nonsense", "answered with 'nonsense', expected JSON"),
        ("fewer", "answered with 1 rows, expected 2 rows of token ids"),
        ("long", r"answered row 0 with \[7, 7, 7, 7, 7\], expected 1 to 4 token ids"),
        ("text", r"answered row 0 with \['a'\], expected 1 to 4 token ids"),
    ],
)
def test_an_engine_that_fails_is_named_with_its_last_words(
    mode: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = fake_vllm.environment(tmp_path)
    monkeypatch.setenv(PYTHON, str(python))
    monkeypatch.setenv("FAKE_VLLM", mode)
    with pytest.raises(EngineError, match=rf"vLLM \({python}\) {message}"):
        ask(tmp_path)
    assert not (tmp_path / "run/merged").exists()


def test_an_environment_without_vllm_or_with_an_old_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PYTHON, raising=False)
    with pytest.raises(ConfigError, match=f"{PYTHON}: found no such environment variable, expected the Python of"):
        process.version()
    for python, message in (
        (tmp_path / "nowhere", r"which does not run \(No such file or directory\), expected a Python"),
        (fake_vllm.environment(tmp_path / "empty", release=None), "without vLLM .*KeyError: 'vllm'"),
        (fake_vllm.environment(tmp_path / "old", release="0.8.5.post1"), "found vLLM 0.8.5.post1 in .*, expected 0.9 or later"),
    ):
        monkeypatch.setenv(PYTHON, str(python))
        with pytest.raises(ConfigError, match=message):
            process.version()
    monkeypatch.setenv(PYTHON, str(fake_vllm.environment(tmp_path / "new", release="1.0rc1")))
    assert process.version() == "1.0rc1"
