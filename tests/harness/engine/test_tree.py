"""Scores from trees are those of each sequence alone, with every shared token computed once."""

from __future__ import annotations

import pytest
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, GraniteConfig, GraniteForCausalLM

from harness.engine import tree
from harness.engine.rows import choice_loglikelihoods, reference_nll
from harness.engine.tree import Response
from tests.byte_models import PROMPTS
from tests.rounding import assert_equal_but_for_rounding, sums_of_scores
from tests.tiny_models import byte_tokenizer

CHOICES = [
    ["answer1", "answer2"],
    ["true", "false", "true"],
    ["x1", "x2", "x3", "x4"],
    ["a", "abc", "abd"],
    ["1", "2"],
    ["", "b"],
    ["same", "same"],
]


def responses(tokenizer, prompts: list[str], *, ended: bool = False) -> list[list[Response]]:
    return [
        [tree.response(tokenizer, prompt, choice, ended=ended) for choice in own]
        for prompt, own in zip(prompts, CHOICES, strict=True)
    ]


@pytest.fixture
def passes(model):
    """(rows, width, tokens in the cache) of each pass through the model, but for that which shows what becomes of logits."""
    seen: list[tuple[int, ...]] = []

    def note(module, args, kwargs) -> None:
        cached = kwargs.get("past_key_values")
        if kwargs["use_cache"] or kwargs["input_ids"].shape != (1, 1):
            seen.append((*kwargs["input_ids"].shape, cached.get_seq_length() if cached is not None else 0))

    handle = model.model.register_forward_pre_hook(note, with_kwargs=True)
    yield seen
    handle.remove()


@pytest.mark.numeric
@pytest.mark.parametrize("preamble", ["", "what all prompts begin with: "])
def test_choices_score_as_rows_do_for_any_batch_size_and_order(model, tokenizer, preamble: str) -> None:
    prompts = [preamble + prompt for prompt in PROMPTS]
    offered = [[(prompt, choice) for choice in own] for prompt, own in zip(prompts, CHOICES, strict=True)]
    expected = [[nats for nats, _ in own] for own in choice_loglikelihoods(model, tokenizer, offered, batch_size=1)]
    asked = responses(tokenizer, prompts)
    for batch_size in (1, 3, 8):
        for scores, right in zip(tree.loglikelihoods(model, asked, batch_size=batch_size), expected, strict=True):
            assert_equal_but_for_rounding(scores, right, **sums_of_scores(model))
    backwards = tree.loglikelihoods(model, asked[::-1], batch_size=2)[::-1]
    for scores, right in zip(backwards, expected, strict=True):
        assert_equal_but_for_rounding(scores, right, **sums_of_scores(model))
    assert backwards[5][0] == 0 and backwards[6][0] == backwards[6][1]


@pytest.mark.numeric
@torch.no_grad()
@pytest.mark.parametrize(
    "build",
    [
        lambda sizes: Gemma3ForCausalLM(Gemma3TextConfig(**sizes, head_dim=8, final_logit_softcapping=0.2)),
        lambda sizes: GraniteForCausalLM(GraniteConfig(**sizes, logits_scaling=0.1)),
    ],
)
def test_logits_that_the_model_caps_or_scales_are_scored_as_it_has_them(tokenizer, build) -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 257, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2,
             "num_attention_heads": 2, "num_key_value_heads": 2, "initializer_range": 0.2}  # fmt: skip
    model = build(sizes).eval()
    asked = responses(tokenizer, PROMPTS)
    offered = [[(prompt, choice) for choice in own] for prompt, own in zip(PROMPTS, CHOICES, strict=True)]
    by_rows = choice_loglikelihoods(model, tokenizer, offered, batch_size=3)
    by_trees = tree.loglikelihoods(model, asked, batch_size=3)
    for own, rows, trees in zip(asked, by_rows, by_trees, strict=True):
        right = []
        for one in own:
            log_p = model(torch.tensor([one.tokens])).logits[0].double().log_softmax(-1)
            right.append(sum(float(log_p[i - 1, one.tokens[i]]) for i in range(one.start, len(one.tokens))))
        assert_equal_but_for_rounding([nats for nats, _ in rows], right, **sums_of_scores(model))
        assert_equal_but_for_rounding(trees, right, **sums_of_scores(model))


@pytest.mark.numeric
def test_references_score_with_their_end(model, tokenizer) -> None:
    asked = [own[:1] for own in responses(tokenizer, PROMPTS, ended=True)]
    losses = reference_nll(model, tokenizer, PROMPTS, [own[0] for own in CHOICES], batch_size=4)
    scores = tree.loglikelihoods(model, asked, batch_size=4)
    for (score,), (own,), (nll, tokens) in zip(scores, asked, losses, strict=True):
        assert len(own.scored) == tokens
        assert_equal_but_for_rounding(-score, nll, **sums_of_scores(model))


def test_each_shared_token_is_computed_once(model, tokenizer, passes) -> None:
    if getattr(model.config, "sliding_window", None):
        pytest.skip("what is further away than the window cannot come from a cache")
    offered = ("the way", "the wax", "thy")
    asked = [[tree.response(tokenizer, prompt, text, ended=False) for text in offered] for prompt in ("ab", "ac")]
    tree.loglikelihoods(model, asked, batch_size=2)
    # First "a"; then "b" or "c" and "the wa", after which, and after "th", the last tokens are read off.
    assert passes == [(1, 1, 0), (1, 14, 1)]


@pytest.mark.parametrize(("room", "shape"), [(1, (2, 20)), (256, (1, 40))])
def test_examples_are_packed_into_rows_of_nearly_one_length(model, tokenizer, passes, monkeypatch, room, shape) -> None:
    monkeypatch.setattr(tree, "_ROW", room)
    asked = [[tree.response(tokenizer, text, "!", ended=False)] for text in ("x" * 20, "y" * 9, "z" * 9, "v" * 2)]
    tree.loglikelihoods(model, asked, batch_size=4)
    assert passes == [(*shape, 0)]


def test_a_window_in_some_layers_only_is_refused(model, tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.config, "sliding_window", 4, raising=False)
    monkeypatch.setattr(model.config, "layer_types", ["full_attention", "sliding_attention"], raising=False)
    asked = responses(tokenizer, PROMPTS)
    with pytest.raises(ValueError, match=r"evaluation.scoring: found tree.*expected rows"):
        tree.loglikelihoods(model, asked, batch_size=4)


def test_a_prompt_or_tokenizer_without_needed_tokens_is_refused(tokenizer) -> None:
    with pytest.raises(ValueError, match="found no tokens"):
        tree.response(tokenizer, "", "b", ended=False)
    endless = byte_tokenizer()
    endless.eos_token = None
    with pytest.raises(ValueError, match="eos_token_id: found none"):
        tree.response(endless, "a", "b", ended=True)
