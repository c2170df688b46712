"""A stand-in base model, trained from scratch on generated text.

One thread, plain loop: AdamW, linear warm-up and cosine decay, next-token loss on sequences of one fixed length cut from the
concatenated documents. Batch ``n`` is a function of the recipe and ``n`` alone, so a killed run resumes bit for bit.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import ConfigError
from harness.files import read_or_set_aside, replacing
from harness.models.stand_in import build_tokenizer, model_config
from harness.provenance import file_sha256, versions
from harness.schema.base_models import BuiltModel, PretrainingSpec
from harness.schema.fields import content_hash

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

#: Called after every optimizer step with (steps done, steps in all, training loss).
Report = Callable[[int, int, float], None]

CHECKPOINT_STEPS = 200
MAX_GRAD_NORM = 1.0
ADAM_BETAS = (0.9, 0.95)
HELD_OUT_DOCUMENTS = 400


def _sequences(documents: list[str], tokenizer: PreTrainedTokenizerFast, length: int) -> torch.Tensor:
    """Documents, each with BOS and EOS, concatenated and cut into int64 [sequences, length]; the rest is dropped."""
    import torch

    ids = [token for text in tokenizer(documents)["input_ids"] for token in (*text, tokenizer.eos_token_id)]
    count = len(ids) // length
    if count == 0:
        raise ConfigError(
            f"pretraining.corpus_documents: the documents make {len(ids)} tokens, expected at least one sequence of {length}"
        )
    return torch.tensor(ids[: count * length]).view(count, length)


def _batches(sequences: torch.Tensor, spec: PretrainingSpec, *, first_step: int) -> Iterator[torch.Tensor]:
    """Batches from ``first_step`` on. Every epoch is a permutation that depends on the seed and the epoch."""
    import torch

    size = spec.per_device_train_batch_size
    per_epoch = len(sequences) // size
    if per_epoch == 0:
        raise ConfigError(f"pretraining.corpus_documents: found {len(sequences)} sequences, expected a batch of {size}")
    order, order_epoch = torch.empty(0), None
    for step in range(first_step, spec.max_steps):
        epoch, position = divmod(step, per_epoch)
        if epoch != order_epoch:
            generator = torch.Generator().manual_seed(1_000_003 * spec.seed + epoch)
            order, order_epoch = torch.randperm(len(sequences), generator=generator), epoch
        yield sequences[order[position * size : (position + 1) * size]]


def learning_rate(step: int, spec: PretrainingSpec) -> float:
    """The rate of optimizer step ``step`` (from 0): linear warm-up, then a cosine to zero."""
    warmup = max(1, round(spec.warmup_ratio * spec.max_steps))
    if step < warmup:
        return spec.learning_rate * (step + 1) / warmup
    return spec.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, spec.max_steps - warmup)))


@dataclass
class _Training:
    """Everything that a checkpoint holds."""

    model: PreTrainedModel
    optimizer: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)

    def save(self, path: Path, fingerprint: str) -> None:
        """Write the checkpoint atomically."""
        import torch

        contents = {
            "fingerprint": fingerprint,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "losses": self.losses,
        }
        with replacing(path) as temporary:
            torch.save(contents, temporary)

    def restore(self, path: Path, fingerprint: str) -> None:
        """Continue from the checkpoint; one of another recipe or of other text is left alone."""
        import torch

        def read(path: Path) -> dict[str, Any]:
            state = torch.load(path, weights_only=True)
            return {name: state[name] for name in ("fingerprint", "model", "optimizer", "step", "seconds", "losses")}

        state = read_or_set_aside(path, read)
        if state is None or state["fingerprint"] != fingerprint:
            return
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds, self.losses = state["step"], state["seconds"], state["losses"]


def _new_training(source: BuiltModel) -> _Training:
    """A freshly initialised model and its optimizer."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(source.pretraining.seed)
    model = AutoModelForCausalLM.from_config(model_config(source), dtype=torch.float32, attn_implementation="sdpa")
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=source.pretraining.learning_rate, betas=ADAM_BETAS, weight_decay=source.pretraining.weight_decay
    )
    return _Training(model, optimizer)


def _train(
    training: _Training, spec: PretrainingSpec, sequences: torch.Tensor, *, save: Callable[[], None], report: Report
) -> None:
    """Optimizer steps from where ``training`` stands to the end of the recipe."""
    import torch

    training.model.train()
    for batch in _batches(sequences, spec, first_step=training.step):
        started = time.monotonic()
        for group in training.optimizer.param_groups:
            group["lr"] = learning_rate(training.step, spec)
        loss = training.model(input_ids=batch, labels=batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(training.model.parameters(), MAX_GRAD_NORM)
        training.optimizer.step()
        training.optimizer.zero_grad()
        training.step += 1
        training.losses.append(loss.item())
        training.seconds += time.monotonic() - started
        if training.step % CHECKPOINT_STEPS == 0:
            save()
        report(training.step, spec.max_steps, training.losses[-1])


def held_out_loss(model: PreTrainedModel, sequences: torch.Tensor) -> float:
    """Mean next-token negative log-likelihood, in nats per token, over int64 [sequences, length]."""
    import torch

    with torch.inference_mode():
        losses = [
            model(input_ids=batch, labels=batch, use_cache=False).loss.item() * len(batch) for batch in sequences.split(64)
        ]
    return sum(losses) / len(sequences)


def equation_accuracy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> dict[str, float | int]:
    """Greedy exact match on the equations that pre-training never shows, and the match of always giving the most frequent
    result."""
    import torch

    from harness.synthetic.arithmetic import all_equations, apply, equation_is_held_out

    held_out = [equation for equation in all_equations() if equation_is_held_out(*equation)]
    values = [str(apply(*equation)) for equation in held_out]
    prompts = [f"{a} {operator} {b} = " for a, operator, b in held_out]
    encoded = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left", return_token_type_ids=False)
    with torch.inference_mode():
        generated = model.generate(**encoded, max_new_tokens=4, do_sample=False)
    texts = tokenizer.batch_decode(generated[:, encoded["input_ids"].shape[1] :], skip_special_tokens=True)
    # The text after the number may be a line break or a full stop, as in the corpus.
    correct = sum(text.split("\n")[0].rstrip(". ") == value for text, value in zip(texts, values, strict=True))
    majority = max(values.count(value) for value in set(values))
    return {"count": len(values), "exact_match": correct / len(values), "chance": majority / len(values)}


@contextmanager
def _one_thread() -> Iterator[None]:
    """The order of additions, and with it the last bit, depends on the number of threads."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _write(training: _Training, tokenizer: PreTrainedTokenizerFast, record: dict[str, Any], output_dir: Path) -> None:
    """Write the finished model beside ``output_dir`` and move it there in one step."""
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    temporary = output_dir.with_name(f".{output_dir.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    training.model.save_pretrained(temporary)
    tokenizer.backend_tokenizer.no_padding()  # the last call's padding would be saved with it
    tokenizer.save_pretrained(temporary)
    record["weights_sha256"] = file_sha256(temporary / "model.safetensors")
    (temporary / "pretrain.json").write_text(json.dumps(record, indent=2, allow_nan=False) + "\n")
    if output_dir.exists():
        shutil.rmtree(output_dir)
    os.replace(temporary, output_dir)


def build_base_model(
    source: BuiltModel, *, output_dir: Path, scratch_dir: Path, report: Report | None = None
) -> dict[str, Any]:
    """Train the stand-in, or go on with a killed training, and write it in Hugging Face form.

    ``output_dir`` gets weights, configurations, the tokenizer and ``pretrain.json``, all at once; ``scratch_dir`` holds the
    checkpoint meanwhile. The same recipe gives the same weights on the same machine and torch release.

    Returns:
        The content of ``pretrain.json``.

    Raises:
        ConfigError: too little text for one batch.
    """
    from harness.synthetic import pretraining_documents

    spec = source.pretraining
    tokenizer = build_tokenizer(spec)
    sequences = _sequences(pretraining_documents(spec.corpus_documents, spec.seed), tokenizer, spec.sequence_length)
    # Another stream of the generator, so that no part of it is trained on (short documents may still coincide).
    held_out = _sequences(pretraining_documents(HELD_OUT_DOCUMENTS, -1 - spec.seed), tokenizer, spec.sequence_length)
    text_hash = hashlib.sha256(sequences.numpy().tobytes()).hexdigest()
    fingerprint = content_hash({"source": source.model_dump(mode="json"), "text": text_hash, "versions": versions()})
    scratch_dir.mkdir(parents=True, exist_ok=True)
    checkpoint = scratch_dir / "pretrain.pt"
    with _one_thread():
        training = _new_training(source)
        training.restore(checkpoint, fingerprint)
        _train(
            training, spec, sequences, save=lambda: training.save(checkpoint, fingerprint), report=report or (lambda *_: None)
        )
        training.model.eval()
        equations = equation_accuracy(training.model, tokenizer)
        loss = held_out_loss(training.model, held_out)
    record = {
        "source": source.model_dump(mode="json"),
        "parameters": training.model.num_parameters(),
        "steps": training.step,
        "tokens": training.step * spec.per_device_train_batch_size * spec.sequence_length,
        "training_tokens_available": sequences.numel(),
        "text_sha256": text_hash,
        "train_seconds": training.seconds,
        "final_train_loss": sum(training.losses[-20:]) / len(training.losses[-20:]),
        "held_out_loss": loss,
        "held_out_equations": equations,
        "versions": versions(),
    }
    _write(training, tokenizer, record, output_dir)
    checkpoint.unlink(missing_ok=True)
    return record
