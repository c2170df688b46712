"""Records, tokens, labels and batches."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import BatchSampler, SequentialSampler

from harness.data.batches import PackedCollator, PaddedCollator, ShareOfBatches, is_empty
from harness.data.load import load_records, source_fingerprint
from harness.data.tokens import IGNORE_INDEX, encode_example, noted_lengths, training_set
from harness.errors import ConfigError
from harness.experiment.runs import load_run
from harness.schema.data import FileData, GeneratedData, TrainingData
from harness.train import attention
from harness.train.run import Folders, load_inputs
from tests.experiments import miniature, write
from tests.rounding import assert_equal_but_for_rounding, sums_of
from tests.tiny_models import byte_tokenizer, llama, mistral

ROWS = [
    {"query": "one?", "response": "1"},
    {"query": "two?\nreally", "response": "2 it is"},
    {"query": "three?", "response": "3" * 30},
]


def file_source(**changes: object) -> FileData:
    return FileData(**{"kind": "files", "hub_id": "some/set", "split": "train", "local": "rows.jsonl", **changes})


def training_data(**changes: object) -> TrainingData:
    return TrainingData(**{"source": file_source(), "format": "metamath", "max_length": 400, **changes})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "rows.json"])
def test_local_copies_are_read_in_every_form(tmp_path: Path, name: str) -> None:
    text = json.dumps(ROWS) if name.endswith(".json") else "\n".join(map(json.dumps, ROWS))
    content = gzip.compress(text.encode()) if name.endswith(".gz") else text.encode()
    (tmp_path / name).write_bytes(content)
    assert load_records(file_source(local=name), data_dir=str(tmp_path)) == ROWS
    assert load_records(file_source(local=name), data_dir=str(tmp_path), limit=1) == ROWS[:1]
    assert load_records(file_source(local=name, skip=1), data_dir=str(tmp_path), limit=1) == ROWS[1:2]
    with pytest.raises(ConfigError, match=f"skip: found {len(ROWS)}, expected fewer than the {len(ROWS)} rows of .*{name}"):
        load_records(file_source(local=name, skip=len(ROWS)), data_dir=str(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"local": "other.jsonl"}, "found no file"),
        ({"rows": 4}, "found 3 rows, expected 4"),
        ({"sha256": "0" * 64}, "found sha256"),
    ],
)
def test_a_wrong_local_copy_is_refused(folder: Path, changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_records(file_source(**changes), data_dir=str(folder))


def test_a_file_that_is_not_records_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{broken\n")
    with pytest.raises(ConfigError, match="cannot be read as JSON records"):
        load_records(file_source(), data_dir=str(tmp_path))


def test_an_unknown_generator_is_refused() -> None:
    with pytest.raises(ConfigError, match="generator: found unknown 'nothing'; expected one of"):
        load_records(GeneratedData(kind="generated", generator="nothing", rows=1, seed=0), data_dir=None)


def test_labels_stand_on_the_response_and_eos_only() -> None:
    tokenizer = byte_tokenizer()
    ids, labels = encode_example(tokenizer, prompt="ab", response="cd", loss_on="response", max_length=99)
    assert tokenizer.decode(ids) == "abcd</s>"
    assert labels == [IGNORE_INDEX] * 2 + ids[2:]


def test_labels_on_all_leave_only_the_first_token_out() -> None:
    ids, labels = encode_example(byte_tokenizer(), prompt="ab", response="cd", loss_on="all", max_length=99)
    assert labels == [IGNORE_INDEX, *ids[1:]]


def test_a_long_example_is_cut_and_counted(folder: Path, tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    whole = training_set(training_data(), tokenizer, data_dir=str(folder), cache_dir=tmp_path / "c")
    longest = max(len(whole[i]["input_ids"]) for i in range(3))
    cut = training_set(training_data(max_length=longest - 1), tokenizer, data_dir=str(folder), cache_dir=tmp_path / "c")
    assert (whole.cut, cut.cut) == (0, 1)
    assert max(len(cut[i]["input_ids"]) for i in range(3)) == longest - 1


def test_a_limit_that_leaves_no_label_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="max_length: found 8"):
        training_set(training_data(max_length=8), byte_tokenizer(), data_dir=str(folder), cache_dir=tmp_path / "c")


def test_tokens_are_cached_per_recipe(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for changes in ({}, {}, {"loss_on": "all"}, {"limit": 2}):
        training_set(training_data(**changes), byte_tokenizer(), data_dir=str(folder), cache_dir=cache)
    assert len(list(cache.iterdir())) == 3


def test_a_run_notes_how_long_its_examples_are_for_a_plan(tmp_path: Path, models_dir: Path) -> None:
    experiment, run = load_run([write(tmp_path, miniature())], {}, "math/llama-mini/lora/seed0")
    where = Folders(output=tmp_path, scratch=tmp_path, models=models_dir, cache=tmp_path / "cache")
    assert noted_lengths(run.data, run.model, cache_dir=where.cache) is None
    examples = load_inputs(run, experiment, where).dataset
    lengths = [len(examples[i]["input_ids"]) for i in range(96)]
    assert noted_lengths(run.data, run.model, cache_dir=where.cache) == Counter(lengths)
    other = run.data.model_copy(update={"max_length": 64})
    assert noted_lengths(other, run.model, cache_dir=where.cache) is None


def packed_and_padded() -> tuple[dict, dict]:
    generator = torch.Generator().manual_seed(0)
    rows = []
    for length in (5, 17, 11, 30):
        ids = torch.randint(0, 250, (length,), generator=generator)
        rows.append({"input_ids": ids, "labels": torch.cat([torch.full((3,), IGNORE_INDEX), ids[3:]])})
    return PackedCollator(attn_implementation="packed_sdpa")(rows), PaddedCollator(pad_token_id=258)(rows)


def test_packed_batches_have_no_padding_and_every_label() -> None:
    packed, padded = packed_and_padded()
    assert packed["input_ids"].shape == (1, 5 + 17 + 11 + 30)
    assert packed["segment_lengths"] == [5, 17, 11, 30]
    assert torch.equal(packed["labels"], padded["labels"][padded["labels"] != IGNORE_INDEX])
    assert torch.equal(packed["input_ids"][0, packed["logits_to_keep"] + 1], packed["labels"])


@pytest.mark.parametrize("collator", [PackedCollator(attn_implementation="packed_sdpa"), PaddedCollator(pad_token_id=258)])
def test_a_micro_batch_without_rows_has_no_label(collator: Any) -> None:
    batch = collator([])
    assert is_empty(batch) and not is_empty(packed_and_padded()[0])
    assert (batch["labels"] != IGNORE_INDEX).sum() == 0


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_processes_share_the_micro_batches_of_an_epoch(processes: int) -> None:
    """Each in its turn, none twice; those that get less get micro-batches without rows."""
    batches = BatchSampler(SequentialSampler(range(13)), batch_size=2, drop_last=False)
    shares = [ShareOfBatches(batches, processes=processes, index=index) for index in range(processes)]
    rounds = list(zip(*shares, strict=True))
    assert {len(share) for share in shares} == {len(rounds)}
    assert [rows for each in rounds for rows in each if rows] == list(batches)


@pytest.mark.numeric
@pytest.mark.parametrize("build", [llama, mistral], ids=["llama", "mistral with a sliding window"])
def test_packing_changes_no_logit(build) -> None:
    """Logits at label positions equal those of the padded batch; the window of 8 is shorter than the examples."""
    attention.register()
    packed, padded = packed_and_padded()
    plain = build(attn_implementation="eager")
    fast = build(attn_implementation=attention.NAME)
    with torch.no_grad():
        expected = plain(input_ids=padded["input_ids"], attention_mask=padded["attention_mask"]).logits
        expected = expected[:, :-1][padded["labels"][:, 1:] != IGNORE_INDEX]
        labels = packed.pop("labels")
        logits = fast(**packed, use_cache=False).logits[0]
    assert logits.shape == (len(labels), 260)
    assert_equal_but_for_rounding(logits, expected, **sums_of(plain))


def test_packed_attention_refuses_a_batch_that_is_not_packed() -> None:
    attention.register()
    _, padded = packed_and_padded()
    with pytest.raises(ValueError, match="segment_lengths"):
        llama(attn_implementation=attention.NAME)(input_ids=padded["input_ids"])


def test_fingerprint_of_records_that_hold_infinities_and_broken_text() -> None:
    """MBPP+ has tasks whose inputs are infinite; a model's or a scraper's broken bytes are lone surrogates."""
    rows = [{"base_input": [float("inf"), float("nan")], "text": "\udcff"}]
    assert len(source_fingerprint(rows)) == 64
    assert source_fingerprint(rows) != source_fingerprint([{"base_input": [float("-inf"), float("nan")], "text": "\udcff"}])
