"""The loss without logits: cross-entropy's value and gradients, whatever the size of its chunks, and only where it is right."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import Gemma2Config, Gemma2ForCausalLM, GPT2Config, GPT2LMHeadModel

from harness.train import attention, loss
from tests import tiny_models

ROWS, WIDTH, VOCABULARY = 23, 12, 50


def case(*, bias: bool, trained: bool) -> tuple[torch.Tensor, nn.Linear, torch.Tensor]:
    torch.manual_seed(0)
    head = nn.Linear(WIDTH, VOCABULARY, bias=bias).double().requires_grad_(trained)
    hidden = (torch.randn(ROWS, WIDTH, dtype=torch.float64) * 3).requires_grad_()
    return hidden, head, torch.randint(VOCABULARY, (ROWS,))


@pytest.mark.parametrize("rows", [1, 7, 1000])
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_value_and_gradients_are_those_of_cross_entropy(monkeypatch, bias: bool, trained: bool, rows: int) -> None:
    monkeypatch.setattr(loss, "CHUNK_LOGITS", rows * VOCABULARY)
    results = []
    for ours in (False, True):
        hidden, head, labels = case(bias=bias, trained=trained)
        total = loss.label_loss(hidden, head, labels) if ours else cross_entropy(head(hidden), labels, reduction="sum")
        (total / 7).backward()
        results.append([total.double(), hidden.grad, head.weight.grad, None if head.bias is None else head.bias.grad])
    for expected, actual in zip(*results, strict=True):
        assert (expected is None) == (actual is None)
        if expected is not None:
            assert torch.allclose(expected, actual, rtol=2e-6, atol=1e-6)  # the softmax is float32


def test_no_more_logits_than_a_chunk_exist(monkeypatch) -> None:
    monkeypatch.setattr(loss, "CHUNK_LOGITS", 4 * VOCABULARY)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and result.shape[-1:] == (VOCABULARY,) and result.shape != (WIDTH, VOCABULARY):
                largest = max(largest, result.numel())
            return result

    hidden, head, labels = case(bias=False, trained=False)
    with Watch():
        loss.label_loss(hidden, head, labels).backward()
    assert largest == 4 * VOCABULARY


@pytest.mark.parametrize("build", [tiny_models.llama, lambda: GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=16, n_head=2))])
def test_a_head_whose_output_is_the_logits_is_found_and_left_as_it_was(build) -> None:
    model = build().train()
    assert loss.plain_head(model) is model.get_output_embeddings()
    assert model.training and "forward" not in vars(model.get_output_embeddings())


def test_it_is_found_under_packed_attention() -> None:
    attention.register()
    model = tiny_models.llama(attn_implementation="packed_sdpa")
    assert loss.plain_head(model) is model.lm_head


def test_capped_logits_and_heads_of_another_kind_are_left_to_the_model() -> None:
    sizes = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "head_dim": 8}
    config = Gemma2Config(**sizes, num_attention_heads=2, num_key_value_heads=1, final_logit_softcapping=5.0)
    assert loss.plain_head(Gemma2ForCausalLM(config)) is None
    model = tiny_models.llama()

    class Scaled(nn.Linear):
        pass

    model.lm_head.__class__ = Scaled
    assert loss.plain_head(model) is None
