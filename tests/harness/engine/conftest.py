"""Small random models and their tokenizer."""

from tests.byte_models import model, tokenizer  # noqa: F401 - fixtures
