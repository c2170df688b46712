"""Sizes of the small random models of these tests, whose every byte is a token, and prompts for them."""

from __future__ import annotations

PROMPTS = ["one", "a much longer prompt with many words in it", "two words", "x" * 30, "yet another prompt", "q?", "mid size"]

SIZES = dict(
    vocab_size=257,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
    initializer_range=0.4,
    eos_token_id=256,
    bos_token_id=None,
)
