"""Generation and scoring give what a plain one-row computation gives, whatever the batching."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from harness.engine.generate import generate
from harness.engine.rows import reference_nll
from tests.byte_models import PROMPTS
from tests.rounding import assert_equal_but_for_rounding, sums_of_scores


@torch.no_grad()
def plain_greedy(model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast, prompt: str, steps: int) -> list[int]:
    """The whole sequence recomputed for every token: no cache, no padding."""
    ids = tokenizer(prompt)["input_ids"]
    start = len(ids)
    for _ in range(steps):
        ids = [*ids, int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())]
        if ids[-1] == 256:
            break
    return ids[start:]


def test_equals_plain_greedy_decoding_for_any_batch_size_and_order(model, tokenizer) -> None:
    expected = [plain_greedy(model, tokenizer, prompt, 20) for prompt in PROMPTS]
    assert len({tuple(tokens) for tokens in expected}) > 3, "the prompts must lead to different texts"
    texts = [tokenizer.decode([t for t in tokens if t != 256], skip_special_tokens=True) for tokens in expected]
    for batch_size in (1, 3, 8):
        completions = generate(model, tokenizer, PROMPTS, max_new_tokens=20, batch_size=batch_size)
        assert [c.text for c in completions] == texts
        assert [c.tokens for c in completions] == [len(tokens) for tokens in expected]
    backwards = generate(model, tokenizer, PROMPTS[::-1], max_new_tokens=20, batch_size=3)
    assert [c.text for c in backwards[::-1]] == texts


@pytest.fixture
def passes(model):
    """(rows, width) of each pass through the model."""
    seen: list[tuple[int, int]] = []
    handle = model.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    yield seen
    handle.remove()


def test_what_all_prompts_begin_with_is_read_once_and_changes_no_answer(model, tokenizer, passes, monkeypatch) -> None:
    monkeypatch.setattr(model.config, "sliding_window", None, raising=False)
    prompts = ["what they all begin with: " + prompt for prompt in PROMPTS]
    lengths = sorted((len(prompt) for prompt in PROMPTS), reverse=True)
    expected = [plain_greedy(model, tokenizer, prompt, 20) for prompt in prompts]
    assert len({tuple(tokens) for tokens in expected}) > 3, "the prompts must lead to different texts"
    for batch_size in (1, 3, 8):
        passes.clear()
        completions = generate(model, tokenizer, prompts, max_new_tokens=20, batch_size=batch_size)
        assert [c.tokens for c in completions] == [len(tokens) for tokens in expected]
        assert [c.text for c in completions] == [tokenizer.decode([t for t in tokens if t != 256]) for tokens in expected]
        assert [shape for shape in passes if shape[1] > 1] == [
            (1, 26),
            *((len(lengths[start : start + batch_size]), lengths[start]) for start in range(0, len(lengths), batch_size)),
        ]


@pytest.mark.parametrize(
    ("asked", "changes"),
    [
        ({"prefix_caching": False}, {}),
        ({"num_beams": 2}, {}),
        ({}, {"sliding_window": 40}),  # shorter than the longest row, whose padding would stand within it
    ],
)
def test_prompts_are_read_whole_where_nothing_is_to_be_shared(model, tokenizer, passes, monkeypatch, asked, changes) -> None:
    monkeypatch.setattr(model.config, "sliding_window", None, raising=False)
    for key, value in changes.items():
        monkeypatch.setattr(model.config, key, value, raising=False)
    generate(model, tokenizer, ["shared, 1", "shared, 22"], max_new_tokens=31, batch_size=8, **asked)
    assert passes[0][1] == len("shared, 22")


def test_equal_prompts_and_a_single_one_are_answered(model, tokenizer) -> None:
    (alone,) = generate(model, tokenizer, ["the same"], max_new_tokens=6, batch_size=2)
    assert generate(model, tokenizer, ["the same"] * 3, max_new_tokens=6, batch_size=2) == [alone] * 3
    assert generate(model, tokenizer, [], max_new_tokens=6, batch_size=2) == []


def test_rows_end_at_their_own_end_token(model, tokenizer, monkeypatch) -> None:
    plain = [plain_greedy(model, tokenizer, prompt, 20) for prompt in PROMPTS]
    # A token that some rows write early and others late or never.
    end = max(range(256), key=lambda t: len({tokens.index(t) if t in tokens else -1 for tokens in plain}))
    ends = [tokens.index(end) + 1 if end in tokens else 20 for tokens in plain]
    assert len(set(ends)) > 1
    monkeypatch.setattr(model.generation_config, "eos_token_id", [end, 256])
    completions = generate(model, tokenizer, PROMPTS, max_new_tokens=20, batch_size=8)
    assert [c.tokens for c in completions] == ends
    assert [c.truncated for c in completions] == [end not in tokens for tokens in plain]
    assert [c.text for c in completions] == [tokenizer.decode(t[: n - (end in t)]) for t, n in zip(plain, ends, strict=True)]


def test_max_new_tokens_limits_and_is_reported(model, tokenizer) -> None:
    completions = generate(model, tokenizer, PROMPTS, max_new_tokens=4, batch_size=4)
    assert all(c.tokens == 4 and c.truncated for c in completions)


def test_stop_strings_cut_the_text_and_end_the_row(model, tokenizer) -> None:
    whole = generate(model, tokenizer, PROMPTS, max_new_tokens=20, batch_size=8)
    stop = whole[0].text[3:5]
    cut = generate(model, tokenizer, PROMPTS, max_new_tokens=20, batch_size=8, stop_strings=[stop])
    assert cut[0].tokens < whole[0].tokens and not cut[0].truncated
    for before, after in zip(whole, cut, strict=True):
        assert after.text == before.text.partition(stop)[0]


def test_positions_end_a_row_but_a_prompt_must_fit(model, tokenizer) -> None:
    (completion,) = generate(model, tokenizer, ["y" * 120], max_new_tokens=50, batch_size=1)
    assert completion.tokens == 8 and completion.truncated
    with pytest.raises(ValueError, match="128 positions"):
        generate(model, tokenizer, ["y" * 128], max_new_tokens=50, batch_size=1)


def test_cache_is_used_although_the_model_was_saved_without(model, tokenizer, monkeypatch) -> None:
    monkeypatch.setattr(model.config, "use_cache", False)
    monkeypatch.setattr(model.generation_config, "use_cache", False)
    widths = []
    handle = model.model.register_forward_pre_hook(
        lambda module, args, kwargs: widths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    generate(model, tokenizer, PROMPTS[:2], max_new_tokens=6, batch_size=2)
    handle.remove()
    assert widths == [max(len(tokenizer(p)["input_ids"]) for p in PROMPTS[:2]), 1, 1, 1, 1, 1]


def test_a_model_that_returns_no_cache_is_refused(model, tokenizer, monkeypatch) -> None:
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda **kwargs: forward(**(kwargs | {"use_cache": False})))
    with pytest.raises(RuntimeError, match="no cache"):
        generate(model, tokenizer, PROMPTS[:1], max_new_tokens=3, batch_size=1)


def test_training_mode_is_restored(model, tokenizer) -> None:
    model.train()
    generate(model, tokenizer, ["a"], max_new_tokens=1, batch_size=1)
    reference_nll(model, tokenizer, ["a"], ["b"], batch_size=1)
    assert model.training
    model.eval()


def assert_same_nll(model: torch.nn.Module, losses: list[tuple[float, int]], expected: list[tuple[float, int]]) -> None:
    """Row by row, since a bound for the longest reference says little about the others."""
    for (nll, _), (right, _) in zip(losses, expected, strict=True):
        assert_equal_but_for_rounding(nll, right, **sums_of_scores(model))


@pytest.mark.numeric
@torch.no_grad()
def test_nll_is_that_of_the_response_and_end_token_only(model, tokenizer) -> None:
    references = ["r", "a longer reference", "zz", "1", "the end", "ok ok", ""]
    expected = []
    for prompt, reference in zip(PROMPTS, references, strict=True):
        head = tokenizer(prompt)["input_ids"]
        ids = [*head, *tokenizer(reference)["input_ids"], 256]
        log_p = model(torch.tensor([ids]), use_cache=False).logits[0].double().log_softmax(-1)
        expected.append((-sum(float(log_p[i - 1, ids[i]]) for i in range(len(head), len(ids))), len(ids) - len(head)))
    for batch_size in (1, 3, 8):
        losses = reference_nll(model, tokenizer, PROMPTS, references, batch_size=batch_size)
        assert [n for _, n in losses] == [n for _, n in expected]
        assert_same_nll(model, losses, expected)


@pytest.mark.numeric
def test_one_long_reference_does_not_widen_the_others(model, tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[torch.Size] = []
    references = ["r" * 100, *["short"] * 6]
    expected = reference_nll(model, tokenizer, PROMPTS, references, batch_size=7)
    hook = model.model.register_forward_pre_hook(
        lambda _, args, kwargs: passes.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    monkeypatch.setattr("harness.engine.rows.SCORED_TOKENS", 150)
    try:
        losses = reference_nll(model, tokenizer, PROMPTS, references, batch_size=7)
    finally:
        hook.remove()
    assert passes.pop(0) == (1, 1)  # what becomes of logits
    assert passes[0] == (1, 104) and len(passes) > 2
    assert all(rows == 1 or rows * width <= 150 for rows, width in passes)
    assert_same_nll(model, losses, expected)
