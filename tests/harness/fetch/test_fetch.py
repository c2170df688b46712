"""``beamlora fetch``: what it downloads from a hub, what it holds that against, and that runs then need no network."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from harness.errors import ConfigError
from harness.experiment.lock import read_lock
from harness.experiment.runs import all_runs, load_experiment
from harness.fetch import __main__ as command
from harness.hub import network
from harness.hub import repositories as client
from harness.train import __main__ as training
from harness.workflow.preflight import __main__ as preflight
from tests.experiments import miniature, write
from tests.fake_hub import FakeHub, gsm8k, sha256
from tests.tiny_models import byte_tokenizer, llama

MODEL, SET = "models/some/model", "datasets/some/gsm8k"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a whole model, and what such repositories hold beside them."""
    folder = tmp_path_factory.mktemp("model")
    llama().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    other = {"README.md": b"card", "pytorch_model.bin": b"the same", "original/params.json": b"{}"}
    return {path.name: path.read_bytes() for path in folder.iterdir()} | other


@pytest.fixture
def experiment(hub: FakeHub, model: dict[str, bytes], tmp_path: Path) -> Path:
    """The miniature with its model and its sets on the hub, none of them pinned."""
    hub.push(MODEL, model)
    hub.push(SET, gsm8k())
    source = {"kind": "files", "hub_id": "some/gsm8k", "hub_config": "main"}
    changes: dict[str, Any] = {
        "models.llama-mini.source": {"kind": "hub", "model_name_or_path": "some/model"},
        "domains.math.train.source": {**source, "split": "train"},
        "domains.math.train.format": "gsm8k",
        "domains.math.evaluation.tasks.gsm8k.source": {**source, "split": "test"},
    }
    return write(tmp_path, miniature(**changes))


def fetch(experiment: Path) -> int:
    return command.main(["--configfile", str(experiment)])


def check(experiment: Path, *options: str) -> None:
    """The preflight."""
    folder = experiment.parent
    own = ["--configfile", str(experiment), "--models-dir", str(folder), "--output", str(folder / "ok.json")]
    preflight.main([*own, *options])


def refused(experiment: Path, *options: str) -> str:
    with pytest.raises(ConfigError) as caught:
        check(experiment, *options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def weights(hub: FakeHub) -> Path:
    """The weights in the local cache."""
    found = client.cached("model", "some/model", hub.branches[MODEL]["main"], "model.safetensors")
    assert found is not None
    return found


def test_what_was_fetched_trains_without_network(
    hub: FakeHub, experiment: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fetch(experiment) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in out[:2]] == [
        ["model", "some/model", hub.branches[MODEL]["main"][:12]],
        ["dataset", "some/gsm8k", hub.branches[SET]["main"][:12]],
    ]
    assert out[2].startswith(f"{experiment.with_suffix('.lock')}: 2 repositories, 0.1 MB, every hash verified")
    hub.close()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    check(experiment)
    run = all_runs(load_experiment([experiment]))[0]
    options = [
        "--run",
        run.run_id,
        "--run-dir",
        str(experiment.parent / "run"),
        "--scratch",
        str(experiment.parent / "scratch"),
    ]
    folders = ["--models-dir", str(experiment.parent), "--cache-dir", str(experiment.parent / "tokens")]
    training.main(["--configfile", str(experiment), "--set", "training.max_steps=1", *options, *folders])
    record = json.loads((experiment.parent / "run" / "train.json").read_text())
    assert record["spec"]["data"]["source"]["revision"] == hub.branches[SET]["main"]
    assert record["spec"]["model"]["source"]["model_revision"] == record["base_model_hash"] == hub.branches[MODEL]["main"]


def test_the_lock_holds_every_file_that_runs_read_and_no_other(hub: FakeHub, experiment: Path, model: dict[str, bytes]) -> None:
    fetch(experiment)
    locked = read_lock([experiment]).find("model", "some/model", "main")
    assert locked is not None and set(locked.files) == {
        *("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    }
    assert locked.files["model.safetensors"].sha256 == sha256(model["model.safetensors"])
    downloaded = {line.rpartition("/")[2] for line in hub.asked if line.startswith("GET /some/")}
    assert downloaded == set(locked.files)


def test_a_branch_that_moves_changes_nothing_until_its_entry_is_taken_out(hub: FakeHub, experiment: Path) -> None:
    fetch(experiment)
    first = all_runs(load_experiment([experiment]))[0]
    moved = hub.push(SET, gsm8k(train=97))
    fetch(experiment)
    assert all_runs(load_experiment([experiment]))[0] == first and len(preflight_rows(experiment)) == 2
    assert preflight_rows(experiment)["domains.math.train.source"] == 96
    experiment.with_suffix(".lock").unlink()
    fetch(experiment)
    again = all_runs(load_experiment([experiment]))[0]
    assert again.training_hash() != first.training_hash() and again.data.source.model_dump()["revision"] == moved
    assert preflight_rows(experiment)["domains.math.train.source"] == 97


def preflight_rows(experiment: Path) -> dict[str, int]:
    check(experiment)
    return json.loads((experiment.parent / "ok.json").read_text())["rows"]


def test_a_branch_without_a_lock_is_refused_before_anything_is_read(hub: FakeHub, experiment: Path) -> None:
    message = refused(experiment)
    assert "models.llama-mini.source.model_revision: found 'main', which may move, expected a commit of some/model" in message
    assert f"'beamlora fetch --configfile {experiment}' finds and keeps it in {experiment.with_suffix('.lock')}" in message
    assert hub.asked == []


def test_a_damaged_file_is_downloaded_again(hub: FakeHub, experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fetch(experiment)
    content = weights(hub).read_bytes()
    weights(hub).resolve().write_bytes(bytes([content[0] ^ 1]) + content[1:])
    capsys.readouterr()
    fetch(experiment)
    assert weights(hub).read_bytes() == content
    assert "0.1 MB of it downloaded" in capsys.readouterr().out.splitlines()[0]


def test_a_hub_that_sends_something_else_is_refused(hub: FakeHub, experiment: Path, model: dict[str, bytes]) -> None:
    hub.broken["model.safetensors"] = [b"x" * len(model["model.safetensors"])] * 2
    with pytest.raises(ConfigError, match=r"model\.safetensors: found 109104 bytes of another content.*downloaded twice"):
        fetch(experiment)
    assert not experiment.with_suffix(".lock").exists()


def test_other_content_than_the_locked_is_refused(hub: FakeHub, experiment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch(experiment)
    whole = weights(hub).read_bytes()
    weights(hub).resolve().write_bytes(b"x" * len(whole))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"some/model: model\.safetensors: found 109104 bytes, sha256 .* the lock expects"):
        fetch(experiment)
    weights(hub).resolve().write_bytes(whole[:100])
    assert "found 100 bytes in" in refused(experiment) and "expected the 109104 of the lock" in refused(experiment)
    weights(hub).resolve().write_bytes(whole)
    assert fetch(experiment) == 0
    experiment.with_suffix(".lock").unlink()
    with pytest.raises(ConfigError, match="some/model: found no entry in the lock, and HF_HUB_OFFLINE is set"):
        fetch(experiment)


def test_missing_weights_are_refused_on_the_head_node(hub: FakeHub, experiment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch(experiment)
    weights(hub).unlink()
    check(experiment)
    missing = "source.model_revision: found no model.safetensors of some/model in the local cache, and "
    assert missing + "jobs run on other nodes; 'beamlora fetch" in refused(experiment, "--jobs-elsewhere")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert missing + "HF_HUB_OFFLINE is set; 'beamlora fetch" in refused(experiment)


def test_a_disk_that_is_too_small_is_refused_before_the_download(
    hub: FakeHub, experiment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("usage", (), {"free": 1000}))
    with pytest.raises(ConfigError, match=r"some/model: found 0\.0 GB of free disk space"):
        fetch(experiment)
    assert not [line for line in hub.asked if "/resolve/" in line]


def test_a_repository_that_is_not_there_is_one_line(hub: FakeHub, experiment: Path) -> None:
    del hub.branches[MODEL], hub.commits[MODEL]
    with pytest.raises(ConfigError, match=r"source\.model_revision: some/model: cannot be read from the hub.*hf auth login"):
        fetch(experiment)


def test_a_hub_that_does_not_answer_is_one_line_at_once(hub: FakeHub, experiment: Path) -> None:
    fetch(experiment)
    hub.close()
    network._answers.cache_clear()
    start = time.monotonic()
    assert "cannot be reached; expected network, or HF_HUB_OFFLINE=1 and the files that 'beamlora fetch'" in refused(experiment)
    assert time.monotonic() - start < 5


def test_an_experiment_without_the_hub_fetches_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fetch(write(tmp_path, miniature())) == 0
    assert capsys.readouterr().out == "mini reads nothing from the hub\n"
    assert not (tmp_path / "experiment.lock").exists()
