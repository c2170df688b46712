"""Which files of a repository runs read, and which of a model's weights are there."""

from __future__ import annotations

import json

import pytest

from harness.hub import repositories
from tests.fake_hub import FakeHub

BESIDE = ["config.json", "tokenizer.json", "tokenizer.model"]


@pytest.mark.parametrize(
    ("weights", "read"),
    [
        (["model-00001-of-00001.safetensors", "pytorch_model-00001-of-00001.bin"], ["model-00001-of-00001.safetensors"]),
        (["pytorch_model.bin", "consolidated.00.pth"], ["pytorch_model.bin"]),
        (["model.safetensors", "consolidated.safetensors", "model.gguf"], ["model.safetensors"]),
    ],
)
def test_of_a_model_one_format_is_read(weights: list[str], read: list[str]) -> None:
    beside = [*BESIDE, "README.md", ".gitattributes", "original/params.json", "onnx/model.safetensors"]
    assert repositories.needed("model", [*weights, *beside]) == sorted([*BESIDE, *read])


def test_of_a_data_set_everything_is_read() -> None:
    assert repositories.needed("dataset", ["b/x.parquet", "README.md"]) == ["README.md", "b/x.parquet"]


def test_a_part_of_the_weights_that_is_missing_is_named(hub: FakeHub) -> None:
    index = {"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}
    parts = {"model-1-of-2.safetensors": b"1", "model-2-of-2.safetensors": b"2"}
    files = {"model.safetensors.index.json": json.dumps(index).encode(), **parts}
    commit = hub.push("models/some/model", files)
    assert repositories.missing_weights("some/model", commit) == ["model.safetensors"]
    repositories.download("model", "some/model", commit, ["model.safetensors.index.json", "model-1-of-2.safetensors"])
    assert repositories.missing_weights("some/model", commit) == ["model-2-of-2.safetensors"]
    repositories.download("model", "some/model", commit, parts)
    assert repositories.missing_weights("some/model", commit) == []
