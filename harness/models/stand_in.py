"""A stand-in base model before it is trained: its configuration and its tokenizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.schema.base_models import BuiltModel, PretrainingSpec

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerFast

#: Fine-tuning records, per domain, whose words the tokenizer also learns. They are no part of the training text.
TOKENIZER_RECORDS = 1000


def model_config(source: BuiltModel) -> PretrainedConfig:
    """The transformers configuration of a stand-in (special token ids are the tokenizer's: BOS 0, EOS 1, PAD 2)."""
    from transformers import AutoConfig

    return AutoConfig.for_model(**source.config_fields, bos_token_id=0, eos_token_id=1, pad_token_id=2, use_cache=True)


def build_tokenizer(spec: PretrainingSpec) -> PreTrainedTokenizerFast:
    """The stand-in's tokenizer, trained on its pre-training text and a sample of fine-tuning text."""
    from evaluation.sets.prompts import alpaca
    from harness.synthetic import GENERATORS, pretraining_documents
    from harness.synthetic.tokenizer import train_tokenizer

    records = [record for name in ("metamath", "codefeedback") for record in GENERATORS[name](TOKENIZER_RECORDS, spec.seed)]
    texts = [alpaca(record["query"]) + record["response"] for record in records]
    documents = pretraining_documents(min(spec.corpus_documents, 2 * TOKENIZER_RECORDS), spec.seed)
    return train_tokenizer([*documents, *texts], vocab_size=spec.vocab_size)
