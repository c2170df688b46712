"""The last layer computes in float32, and only while it is asked to."""

from __future__ import annotations

import pytest
import torch

from harness.models.output_layer import float32_head
from tests.tiny_models import llama


@pytest.mark.parametrize("tied", [False, True])
def test_logits_are_the_float32_product_of_bfloat16_states_and_weights(tied: bool) -> None:
    model = llama(tie_word_embeddings=tied).bfloat16().eval()
    ids = torch.tensor([[5, 6, 7]])
    head = model.lm_head
    with torch.no_grad(), float32_head(model):
        logits = model(ids).logits
        hidden = model.get_decoder()(ids).last_hidden_state
    assert hidden.dtype == torch.bfloat16 and logits.dtype == torch.float32
    assert torch.equal(logits, hidden.float() @ head.weight.float().T)
    assert model.lm_head is head and (head.weight is model.model.embed_tokens.weight) is tied
    with torch.no_grad():
        rounded = model(ids).logits
    assert rounded.dtype == torch.bfloat16 and not torch.equal(rounded.float(), logits)


def test_a_float32_model_keeps_its_head_and_an_error_gives_the_head_back() -> None:
    model = llama()
    head = model.lm_head
    with float32_head(model):
        assert model.lm_head is head
    model.bfloat16()
    with pytest.raises(KeyError), float32_head(model):
        assert model.lm_head is not head
        raise KeyError
    assert model.lm_head is head
