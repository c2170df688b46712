"""A hub on this machine in the place of the real one; a tokenizer of LLaMA2's kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.hub import network
from tests import sentencepiece_like
from tests.fake_hub import FakeHub

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """An empty one, with an empty local cache."""
    from huggingface_hub import constants, hf_api

    with FakeHub() as started:
        monkeypatch.setattr(constants, "ENDPOINT", started.url)
        monkeypatch.setattr(hf_api.api, "endpoint", started.url)
        monkeypatch.setattr("transformers.utils.hub._hf_api", None)  # made once, for one hub
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", started.url + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
        network._answers.cache_clear()
        yield started
        network._answers.cache_clear()


@pytest.fixture(scope="session")
def llama2_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    """One of LLaMA2's kind, loaded as that of a base model is."""
    from harness.models.load import load_tokenizer
    from harness.schema.base_models import BaseModelSpec, LocalModel
    from tests.tiny_models import llama

    folder = tmp_path_factory.mktemp("llama2")
    sentencepiece_like.save(sentencepiece_like.trained(), folder)
    llama(vocab_size=sentencepiece_like.SIZE).config.save_pretrained(folder)
    source = LocalModel(kind="local", path=str(folder))
    return load_tokenizer("x", BaseModelSpec(label="x", stands_for=None, source=source), models_dir=folder)
