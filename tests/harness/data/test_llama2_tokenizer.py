"""LLaMA2's tokenizer through prompts, labels and padding: no padding token, BOS, and its way with leading blanks."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from evaluation.sets.prompts import TEMPLATES
from harness.data.batches import PackedCollator, PaddedCollator
from harness.data.tokens import IGNORE_INDEX, decode_response, encode_example, encode_prompt, encode_response
from tests import sentencepiece_like

UNK, BOS, EOS = 0, 1, 2
ALPACA = TEMPLATES["alpaca"]("What is 12 plus 30?\nThink.")


def both(tokenizer: PreTrainedTokenizerBase, prompt: str, response: str) -> tuple[list[int], list[int]]:
    head = encode_prompt(tokenizer, prompt)
    return head, encode_response(tokenizer, prompt=prompt, head=head, response=response)


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_prompt_has_the_tokens_of_its_files_and_one_bos(llama2_tokenizer: PreTrainedTokenizerBase, template: str) -> None:
    """transformers builds the tokenizer anew from vocabulary and merges: the same for every text that begins with no blank."""
    prompt = TEMPLATES[template]("What is é + 30 😀?\n    return x\n\nHow so?")
    ids = encode_prompt(llama2_tokenizer, prompt)
    assert ids == sentencepiece_like.trained().encode(prompt).ids
    assert ids[0] == BOS and not {UNK, BOS, EOS} & set(ids[1:])
    assert llama2_tokenizer.decode(ids, skip_special_tokens=True) == prompt


def test_bytes_stand_for_what_has_no_token(llama2_tokenizer: PreTrainedTokenizerBase) -> None:
    head, ids = both(llama2_tokenizer, ALPACA, "😀")
    assert llama2_tokenizer.convert_ids_to_tokens(ids)[-4:] == ["<0xF0>", "<0x9F>", "<0x98>", "<0x80>"]
    assert decode_response(llama2_tokenizer, head, ids) == "😀"
    assert decode_response(llama2_tokenizer, head, ids[:-1]) == "\ufffd" * 3


@pytest.mark.parametrize("prompt", [ALPACA, "def f(x):\n", "the answer"])
@pytest.mark.parametrize(
    "response", ["The answer is: 42", "    return x\n    return 2", "\n    return x", "  \n the", "```python\nx\n```", ""]
)
def test_a_response_is_what_its_tokens_say(llama2_tokenizer: PreTrainedTokenizerBase, prompt: str, response: str) -> None:
    head, ids = both(llama2_tokenizer, prompt, response)
    assert BOS not in ids and decode_response(llama2_tokenizer, head, ids) == response


def test_the_rest_of_a_running_text_has_the_tokens_that_it_has_there(llama2_tokenizer: PreTrainedTokenizerBase) -> None:
    head, ids = both(llama2_tokenizer, "the answer\n", " the answer")
    assert head + ids == encode_prompt(llama2_tokenizer, "the answer\n the answer")
    assert llama2_tokenizer.convert_ids_to_tokens(ids) == ["▁the", "▁answer"]
    _, apart = both(llama2_tokenizer, ALPACA, "the answer")
    assert ids == apart


@pytest.mark.parametrize("loss_on", ["response", "all"])
def test_eos_is_a_label_and_bos_is_none(llama2_tokenizer: PreTrainedTokenizerBase, loss_on: str) -> None:
    """EOS pads too; that of an example must stay a label."""
    ids, labels = encode_example(llama2_tokenizer, prompt=ALPACA, response="The answer", loss_on=loss_on, max_length=512)
    head, tail = both(llama2_tokenizer, ALPACA, "The answer")
    assert ids == [*head, *tail, EOS] and labels[0] == IGNORE_INDEX
    learnt = [*tail, EOS] if loss_on == "response" else [*head[1:], *tail, EOS]
    assert [label for label in labels if label != IGNORE_INDEX] == learnt


def test_padding_is_masked_and_eos_is_not(llama2_tokenizer: PreTrainedTokenizerBase) -> None:
    assert llama2_tokenizer.pad_token_id == EOS
    examples = []
    for response in ("The answer", "The answer is: 42"):
        ids, labels = encode_example(llama2_tokenizer, prompt="the", response=response, loss_on="response", max_length=64)
        examples.append({"input_ids": torch.tensor(ids), "labels": torch.tensor(labels)})
    lengths = [len(example["input_ids"]) for example in examples]
    batch = PaddedCollator(pad_token_id=EOS)(examples)
    assert batch["attention_mask"].sum(dim=1).tolist() == lengths
    assert batch["input_ids"][0, lengths[0] - 1 :].unique().tolist() == [EOS]
    assert batch["labels"][0, lengths[0] - 1] == EOS and (batch["labels"][0, lengths[0] :] == IGNORE_INDEX).all()
    packed = PackedCollator(attn_implementation="packed_sdpa")(examples)
    assert (packed["labels"] == EOS).sum() == 2 and packed["position_ids"][0].tolist() == [
        *range(lengths[0]),
        *range(lengths[1]),
    ]
