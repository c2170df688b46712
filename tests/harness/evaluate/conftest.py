"""Small random models and their tokenizer, and answers put into a model's mouth."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import harness.engine.generate
from harness.engine.generate import Completion
from tests.byte_models import model, tokenizer  # noqa: F401 - fixtures


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes the model say the texts that it is called with."""

    def say(texts: list[str], **fields: object) -> None:
        said = [Completion(text=text, **({"tokens": 5, "truncated": False} | fields)) for text in texts]
        monkeypatch.setattr(harness.engine.generate, "generate", lambda *args, **kwargs: said)

    return say
