"""Beam search and the scores of choices are those of a plain computation, whatever the batching."""

from __future__ import annotations

import pytest
import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast

from harness.engine.generate import generate
from harness.engine.rows import choice_loglikelihoods
from tests.byte_models import PROMPTS
from tests.rounding import assert_equal_but_for_rounding, sums_of_scores
from tests.tiny_models import byte_tokenizer

CHOICES = [
    ["answer1", "answer2"],
    ["true", "false"],
    ["x1", "x2", "x3", "x4"],
    ["aa", "ab"],
    ["1", "2"],
    ["a", "abc"],
    ["", "b"],
]


# --------------------------------------------------------------------------------------------------------- beam search


@torch.no_grad()
def single_row_beams(model, tokenizer, prompt: str, steps: int, beams: int) -> str:
    """One prompt at a time, without padding, by transformers' own search with its defaults."""
    ids = torch.tensor([tokenizer(prompt)["input_ids"]])
    config = GenerationConfig(num_beams=beams, max_new_tokens=steps, eos_token_id=256, pad_token_id=256)
    out = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)[0, ids.shape[1] :].tolist()
    return tokenizer.decode(out[: out.index(256)] if 256 in out else out, skip_special_tokens=True)


def test_beam_search_equals_one_row_at_a_time_for_any_batch_size_and_order(model, tokenizer) -> None:
    expected = [single_row_beams(model, tokenizer, prompt, 12, 4) for prompt in PROMPTS]
    greedy = [c.text for c in generate(model, tokenizer, PROMPTS, max_new_tokens=12, batch_size=8)]
    assert expected != greedy, "beams must find other texts than greedy decoding"
    for batch_size in (1, 3, 8):
        completions = generate(model, tokenizer, PROMPTS, max_new_tokens=12, batch_size=batch_size, num_beams=4)
        assert [c.text for c in completions] == expected
    backwards = generate(model, tokenizer, PROMPTS[::-1], max_new_tokens=12, batch_size=3, num_beams=4)
    assert [c.text for c in backwards[::-1]] == expected


def test_beams_end_at_end_tokens_positions_and_stop_strings(model, tokenizer, monkeypatch) -> None:
    whole = generate(model, tokenizer, PROMPTS, max_new_tokens=12, batch_size=8, num_beams=2)
    assert all(c.truncated == (c.tokens == 12) for c in whole)
    stop = whole[0].text[1:3]
    (cut,) = generate(model, tokenizer, PROMPTS[:1], max_new_tokens=12, batch_size=1, num_beams=2, stop_strings=[stop])
    assert cut.text == whole[0].text.partition(stop)[0] and not cut.truncated
    near_end = ["y" * 120, "z" * 3]
    assert [c.tokens for c in generate(model, tokenizer, near_end, max_new_tokens=12, batch_size=2, num_beams=2)][0] <= 8


def test_the_models_own_sampling_settings_do_not_reach_beam_search(model, tokenizer, monkeypatch) -> None:
    expected = [c.text for c in generate(model, tokenizer, PROMPTS, max_new_tokens=8, batch_size=8, num_beams=3)]
    own = GenerationConfig(do_sample=True, temperature=5.0, repetition_penalty=3.0, length_penalty=-4.0, eos_token_id=256)
    monkeypatch.setattr(model, "generation_config", own)
    assert [c.text for c in generate(model, tokenizer, PROMPTS, max_new_tokens=8, batch_size=8, num_beams=3)] == expected
    assert model.generation_config is own


# ------------------------------------------------------------------------------------------------------ choices' scores


@torch.no_grad()
def plain_score(model, tokenizer: PreTrainedTokenizerFast, prompt: str, choice: str) -> float:
    head, tail = tokenizer(prompt)["input_ids"], tokenizer(choice)["input_ids"]
    log_p = model(torch.tensor([head + tail]), use_cache=False).logits[0].double().log_softmax(-1)
    return sum(float(log_p[len(head) + i - 1, token]) for i, token in enumerate(tail))


def offered(prompts: list[str], choices: list[list[str]]) -> list[list[tuple[str, str]]]:
    return [[(prompt, choice) for choice in own] for prompt, own in zip(prompts, choices, strict=True)]


def nats(scores: list[tuple[float, int]]) -> list[float]:
    return [value for value, _ in scores]


@pytest.mark.numeric
def test_choice_scores_are_those_of_each_choice_alone_for_any_batch_size_and_order(model, tokenizer) -> None:
    expected = [[plain_score(model, tokenizer, p, c) for c in own] for p, own in zip(PROMPTS, CHOICES, strict=True)]
    for batch_size in (1, 3, 8):
        scored = choice_loglikelihoods(model, tokenizer, offered(PROMPTS, CHOICES), batch_size=batch_size)
        assert [[tokens for _, tokens in scores] for scores in scored] == [[len(text) for text in own] for own in CHOICES]
        for scores, right in zip(scored, expected, strict=True):
            assert_equal_but_for_rounding(nats(scores), right, **sums_of_scores(model))
    backwards = choice_loglikelihoods(model, tokenizer, offered(PROMPTS[::-1], CHOICES[::-1]), batch_size=2)
    for scores, right in zip(backwards[::-1], expected, strict=True):
        assert_equal_but_for_rounding(nats(scores), right, **sums_of_scores(model))


def test_choices_that_differ_in_the_last_token_cost_one_row(model, tokenizer) -> None:
    rows: list[int] = []
    handle = model.model.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    choice_loglikelihoods(model, tokenizer, offered(PROMPTS[:2], [["answer1", "answer2", "answer3"]] * 2), batch_size=8)
    choice_loglikelihoods(model, tokenizer, offered(PROMPTS[:2], [["true", "false"]] * 2), batch_size=8)
    handle.remove()
    assert rows == [1, 2, 1, 4]  # the single ones show what becomes of logits


def test_choices_are_scored_without_end_token_and_need_two(model, tokenizer) -> None:
    (scores,) = choice_loglikelihoods(model, tokenizer, [[("p", ""), ("p", "b")]], batch_size=1)
    assert scores[0] == (0.0, 0) and scores[1][1] == 1
    with pytest.raises(ValueError, match="found 1 choices, expected at least two"):
        choice_loglikelihoods(model, tokenizer, [[("p", "only")]], batch_size=1)


def test_progress_counts_rows_up_to_all(model, tokenizer) -> None:
    seen: list[tuple[int, int]] = []
    choice_loglikelihoods(
        model, tokenizer, offered(PROMPTS[:3], [["a1", "a2"]] * 3), batch_size=2, on_batch=lambda *update: seen.append(update)
    )
    assert seen == [(2, 3), (3, 3)]


def test_a_response_that_begins_with_a_blank_has_the_tokens_of_the_running_text() -> None:
    from harness.data.tokens import encode_example, encode_response

    class WithBlank:
        """A tokenizer that puts a blank before every text, as Llama's does, and joins blanks in pairs."""

        eos_token_id = 999

        def __call__(self, text: str, *, add_special_tokens: bool = True) -> dict[str, list[int]]:
            text = " " + text
            ids, at = [], 0
            while at < len(text):
                width = 2 if text[at : at + 2].startswith(" ") and at + 1 < len(text) else 1
                ids.append(sum(map(ord, text[at : at + width])) + 400 * width)
                at += width
            return {"input_ids": ids}

    tokenizer = WithBlank()
    head = tokenizer("ask:")["input_ids"]
    assert (
        encode_response(tokenizer, prompt="ask:", head=head, response=" yes") == tokenizer("ask: yes")["input_ids"][len(head) :]
    )
    assert encode_response(tokenizer, prompt="ask:", head=head, response="yes") == tokenizer("yes")["input_ids"]
    ids, labels = encode_example(tokenizer, prompt="ask:", response=" yes", loss_on="all", max_length=99)
    assert ids == [*tokenizer("ask: yes")["input_ids"], 999] and labels == [-100, *ids[1:]]
    # A prompt whose last token would change keeps its tokens.
    bytes_ = byte_tokenizer()
    assert encode_response(bytes_, prompt="a", head=[1, 2], response=" b") == bytes_(" b")["input_ids"]
