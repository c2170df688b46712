"""A small byte-level BPE tokenizer for the stand-in models: any text round-trips, every digit is its own token."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from evaluation.sets.prompts import alpaca

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BOS, EOS, PAD = "<s>", "</s>", "<pad>"
#: A digit; a line break with the indent after it; a word with the space before it, and the one after it where a digit
#: follows; other characters with the spaces around them. Lone spaces would make up a fifth of all tokens.
_PIECES = r"\d|\n *| ?[^\W\d_]+(?: (?=\d))?| ?[^\w\s]+ ?|\s+|_"


def prompt_tokens() -> tuple[str, ...]:
    """The constant parts of the Alpaca prompt and of the questions about code. Each is one token: at this size, sequence
    length is what costs time."""
    header, response = alpaca("\0").split("\0")
    input_header, separator = alpaca("\0\n\1").removesuffix(response).rstrip("\1").split("\0")
    questions = ("Create a Python script for this problem:", " Your code should satisfy the following assertion:")
    return header, input_header, separator, response, *questions, "```python\n"


def train_tokenizer(texts: Iterable[str], *, vocab_size: int) -> PreTrainedTokenizerFast:
    """A tokenizer with ``vocab_size`` entries trained on ``texts``. It puts BOS before every text, as Llama's does.

    Raises:
        ValueError: ``vocab_size`` leaves no room for the 256 bytes and the special tokens, or the texts are too few.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    added = prompt_tokens()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(added),
        special_tokens=[BOS, EOS, PAD],
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in added])
    if tokenizer.get_vocab_size() != vocab_size:
        raise ValueError(f"vocab_size: found {vocab_size}, but training gave {tokenizer.get_vocab_size()} entries")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
    )
