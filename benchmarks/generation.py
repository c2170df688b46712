"""Greedy decoding by ours, from merged weights, and by transformers' ``model.generate``, with the adapter and merged."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial

import torch
from peft import LoraConfig, PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from benchmarks.rounds import Size, in_turn, load, paired, timed
from evaluation.sets.prompts import alpaca
from harness.engine.generate import generate
from harness.models.load import merged
from harness.records.bench import Cost, Row
from harness.synthetic import GENERATORS
from methods.peft_support import add_adapter

BATCH_SIZE = 32
#: Worked examples before each question of the second row.
SHOTS = 8
GOALS = {"unmerged": 0.5, "merged": 0.65}


def measure(size: Size) -> Iterator[Row]:
    """A row for each form of the peer, and one for prompts with worked examples. transformers gets the prompts in their own
    order, as its users do."""
    base, tokenizer = load(size)
    settings = {"r": 64, "lora_alpha": 128, "target_modules": "all-linear", "init_lora_weights": False}
    with_adapter = add_adapter(base, LoraConfig(**settings, task_type="CAUSAL_LM"), seed=0).eval()
    assert isinstance(with_adapter, PeftModel)
    model = merged(copy.deepcopy(with_adapter), torch.float32).eval()
    count, tokens = (4, 4) if size.smoke else (64, 64)
    worked, records = GENERATORS["gsm8k"](SHOTS, 1), GENERATORS["gsm8k"](count, 0)
    before = "".join(f"Question: {record['question']}\nAnswer: {record['answer']}\n\n" for record in worked)

    def ours(prompts: list[str]) -> Cost:
        return timed(lambda: generate(model, tokenizer, prompts, max_new_tokens=tokens, batch_size=BATCH_SIZE))

    def theirs(model: PreTrainedModel | PeftModel, prompts: list[str]) -> Cost:
        return timed(lambda: _transformers(model, tokenizer, prompts, max_new_tokens=tokens))

    prompts = [alpaca(record["question"]) for record in records]
    longer = [f"{before}Question: {record['question']}\nAnswer:" for record in records[:BATCH_SIZE]]
    sides = {
        "ours": partial(ours, prompts),
        "unmerged": partial(theirs, with_adapter, prompts),
        "merged": partial(theirs, model, prompts),
        "ours, longer": partial(ours, longer),
        "merged, longer": partial(theirs, model, longer),
    }
    costs = in_turn(sides, size.rounds)
    for form, goal in GOALS.items():
        name = f"generation, batch {BATCH_SIZE}, over {form}"
        yield _row(name, form=form, goal=goal, ours=costs["ours"], peer=costs[form])
    name = f"generation, {SHOTS} worked examples, over merged"
    yield _row(name, form="merged", goal=None, ours=costs["ours, longer"], peer=costs["merged, longer"])


def _row(name: str, *, form: str, goal: float | None, ours: list[Cost], peer: list[Cost]) -> Row:
    return Row(name=name, ours="merged", peer=f"transformers generate, {form}", goal=goal, rounds=paired(ours, peer))


@torch.inference_mode()
def _transformers(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, prompts: list[str], *, max_new_tokens: int
) -> None:
    tokenizer.padding_side = "left"
    for start in range(0, len(prompts), BATCH_SIZE):
        batch = tokenizer(prompts[start : start + BATCH_SIZE], return_tensors="pt", padding=True)
        model.generate(**batch, do_sample=False, max_new_tokens=max_new_tokens, pad_token_id=tokenizer.pad_token_id)
