"""A tokenizer of LLaMA2's kind, made here: no padding token, BOS in front, a blank before every text, bytes for what it has no
token for. Its files are those of ``meta-llama/Llama-2-7b-hf``: what ``tokenizers`` makes of a SentencePiece BPE model."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

BLANK = "▁"
SIZE = 600
#: What it learns from.
TEXTS = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.",
    "### Instruction: What is 12 plus 30? ### Response: Let's think step by step. The answer is: 42",
    "def f(x):    return x + 1        if x:            return f(x)",
    "the correct answer is answer1 answer2 true false Please choose the correct answer to the question",
)
#: As in the hub's tokenizer_config.json.
CONFIG = {
    "add_bos_token": True,
    "add_eos_token": False,
    "bos_token": "<s>",
    "clean_up_tokenization_spaces": False,
    "eos_token": "</s>",
    "legacy": False,
    "model_max_length": 10**30,
    "pad_token": None,
    "padding_side": "right",
    "sp_model_kwargs": {},
    "tokenizer_class": "LlamaTokenizer",
    "unk_token": "<unk>",
}


def trained() -> Tokenizer:
    """The tokenizer that TEXTS give. LLaMA2's vocabulary begins like this one: <unk> <s> </s>, then the 256 bytes."""
    special = [AddedToken(token, special=True, normalized=False) for token in ("<unk>", "<s>", "</s>")]
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(BLANK), normalizers.Replace(" ", BLANK)])
    # While it learns, so that no token holds two words; several blanks are tokens of their own.
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(f"{BLANK}[^{BLANK}]+|{BLANK}+(?={BLANK}[^{BLANK}])"), "isolated")
    trainer = trainers.BpeTrainer(vocab_size=SIZE, special_tokens=[*special, *bytes_], show_progress=False)
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["id"] < 3]  # bytes are ordinary tokens
    tokenizer = Tokenizer.from_str(json.dumps({**content, "pre_tokenizer": None}))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(BLANK, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Write it as the hub has LLaMA2's."""
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(CONFIG))
