"""Answers in the tokens of LLaMA2's tokenizer: where they end, how they are cut, and which blanks they keep."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from harness.data.tokens import encode_prompt, encode_response
from harness.engine import generate, rows
from tests import sentencepiece_like
from tests.tiny_models import llama

EOS = 2


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return llama(vocab_size=sentencepiece_like.SIZE, bos_token_id=1, eos_token_id=EOS).eval()


def saying(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch, said: dict[str, str]
) -> None:
    """Let the model answer each prompt with one text and EOS, whatever the padding before it: the next token follows from the
    tokens so far that are not masked."""
    follows: dict[tuple[int, ...], int] = {}
    for prompt, response in said.items():
        head = encode_prompt(tokenizer, prompt)
        ids = [*encode_response(tokenizer, prompt=prompt, head=head, response=response), EOS]
        follows |= {(*head, *ids[:place]): token for place, token in enumerate(ids)}
    seen: dict[int, tuple[int, ...]] = {}
    forward = model.forward

    def answer(*, input_ids: torch.Tensor, attention_mask: torch.Tensor, **rest: object) -> object:
        output = forward(input_ids=input_ids, attention_mask=attention_mask, **rest)
        if input_ids.shape[1] > 1:
            seen.clear()
            for row, (ids, mask) in enumerate(zip(input_ids.tolist(), attention_mask.tolist(), strict=True)):
                seen[row] = tuple(token for token, shown in zip(ids, mask, strict=True) if shown)
        else:
            rows = [text for text in seen.values() if follows[text] != EOS]
            seen.update(enumerate((*text, follows[text]) for text in rows))
            for row in range(len(rows), len(seen)):
                del seen[row]
        logits = torch.zeros(len(input_ids), 1, sentencepiece_like.SIZE)
        for row in range(len(input_ids)):
            logits[row, 0, follows[seen[row]]] = 1
        return SimpleNamespace(logits=logits, past_key_values=output.past_key_values)

    monkeypatch.setattr(model, "forward", answer)


def test_answers_keep_their_indentation_and_lose_no_more_than_the_first_blank(
    model: LlamaForCausalLM, llama2_tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {
        "def f(x):\n": "    return x\n    return 2",
        "### Response:": "The answer is: 42",
        "### Instruction: What is 12 plus 30? ### Response:": "\n    return x",
    }
    saying(model, llama2_tokenizer, monkeypatch, said)
    completions = generate.generate(model, llama2_tokenizer, list(said), max_new_tokens=40, batch_size=3, prefix_caching=False)
    assert [one.text for one in completions] == list(said.values())
    assert not any(one.truncated for one in completions)


def test_a_stop_string_is_found_across_tokens(
    model: LlamaForCausalLM, llama2_tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    saying(model, llama2_tokenizer, monkeypatch, {"the": "The answer is: 42\n\n### Instruction: What is 12"})
    whole = generate.generate(model, llama2_tokenizer, ["the"], max_new_tokens=60, batch_size=1)[0]
    cut = generate.generate(
        model, llama2_tokenizer, ["the"], max_new_tokens=60, batch_size=1, stop_strings=("\n\n### Instruction",)
    )[0]
    assert cut.text == "The answer is: 42" and not cut.truncated and cut.tokens < whole.tokens


def test_nll_is_that_of_the_tokens_of_training(model: LlamaForCausalLM, llama2_tokenizer: PreTrainedTokenizerBase) -> None:
    prompts, responses = ["### Response:", "the answer\n"], ["The answer is: 42", " the answer"]
    scored = rows.reference_nll(model, llama2_tokenizer, prompts, responses, batch_size=2)
    for prompt, response, (nll, tokens) in zip(prompts, responses, scored, strict=True):
        head = encode_prompt(llama2_tokenizer, prompt)
        ids = [*encode_response(llama2_tokenizer, prompt=prompt, head=head, response=response), EOS]
        with torch.inference_mode():
            log_p = model(input_ids=torch.tensor([head + ids])).logits[0].log_softmax(-1)
        expected = -sum(float(log_p[len(head) - 1 + place, token]) for place, token in enumerate(ids))
        assert tokens == len(ids) and nll == pytest.approx(expected, rel=1e-5)
