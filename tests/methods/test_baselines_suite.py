"""What holds for every method: one suite over the whole registry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import methods
from tests.methods import toy
from tests.rounding import assert_equal_but_for_rounding, sums_of

NAMES = sorted(methods.registry())
#: The variants share their method's code and state: what depends on nothing else is asked of them in the slow tests.
EACH = [
    pytest.param(name, marks=() if name == named.cls.name else pytest.mark.slow)
    for name, named in sorted(methods.registry().items())
]
#: And the variant with a state of its own, a mask of dead ranks.
EACH_STATE = [pytest.param(one.values[0], marks=() if one.values[0].endswith("-masked") else one.marks) for one in EACH]
#: Where a run stops, and a checkpoint lies before, between and after the methods' operations.
STOPS = [
    pytest.param(name, stop, marks=() if name == named.cls.name and stop == 7 else pytest.mark.slow)
    for name, named in sorted(methods.registry().items())
    for stop in (5, 7, 12)
]
#: Methods that change base weights before or while training.
EDIT_THE_BASE = {"full-ft", "pissa", "milora", "relora"}


@dataclass(frozen=True)
class Run:
    """What a whole toy run leaves: states and logits before ``finalize``, which may change the model, and its folders."""

    after: dict[str, torch.Tensor]
    checkpoint: dict[str, Any]
    logits: torch.Tensor
    evidence: dict[str, Any]
    folder: Path

    @property
    def output(self) -> Path:
        return self.folder / "out"


def state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {key: tensor.clone() for key, tensor in model.state_dict().items()}


def train(name: str, folder: Path, **settings: Any) -> Run:
    loop = toy.start(name, folder, **settings)
    loop.run()
    run = Run(
        after=state(loop.model),
        checkpoint=loop.checkpoint(),
        logits=toy.logits(loop.model),
        evidence=loop.method.evidence(loop.model),
        folder=folder,
    )
    loop.method.finalize(loop.model, run.output)
    return run


def with_dropout(name: str) -> dict[str, float]:
    """Settings that draw from a random stream in every step; full fine-tuning has none."""
    return {} if name == "full-ft" else {"lora_dropout": 0.1}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Run]:
    """A method's run without dropout, trained once."""
    return cache(lambda name: train(name, tmp_path_factory.mktemp(name)))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Run]:
    """A method's uninterrupted run with dropout, trained once."""
    return cache(lambda name: train(name, tmp_path_factory.mktemp(name), **with_dropout(name)))


@pytest.mark.numeric
@pytest.mark.parametrize("name", NAMES)
def test_starts_as_the_base_model(name, tmp_path):
    expected = toy.logits(toy.base_model())
    wrapped = toy.start(name, tmp_path).model
    assert_equal_but_for_rounding(toy.logits(wrapped), expected, **sums_of(wrapped))


@pytest.mark.numeric
@pytest.mark.parametrize("name", EACH_STATE)
def test_artefact_equals_the_trained_model(name, plain):
    """Saved, reloaded on a fresh base, merged, and exported as plain LoRA: the same logits; and training moved them."""
    trained = plain(name)
    assert (trained.logits - toy.logits(toy.base_model())).abs().max() > 1e-3
    variants = [toy.reload(trained.output), toy.reload(trained.output, merge=True)]
    if (trained.output / "lora").is_dir():
        variants.append(toy.reload(trained.output / "lora", merge=True))
    for model in variants:
        assert_equal_but_for_rounding(toy.logits(model), trained.logits, **sums_of(model))


@pytest.mark.slow
@pytest.mark.parametrize("name", EACH)
def test_the_same_run_twice_gives_the_same_files(name, whole, tmp_path):
    """As does the run that is resumed below, in the default tests too."""
    again = train(name, tmp_path, **with_dropout(name))
    assert toy.folder_hash(again.output) == toy.folder_hash(whole(name).output)


@pytest.mark.parametrize("name", [each for each in EACH if each.values[0] not in {"full-ft", "pissa", "milora"}])
def test_another_seed_gives_another_adapter(name, tmp_path):
    """Except where initialisation has no chance in it (nothing is drawn, or it comes from the base's SVD)."""
    one, two = (toy.start(name, tmp_path, ctx={"seed": seed}).run(2) for seed in (1, 2))
    assert not torch.equal(toy.logits(one.model), toy.logits(two.model))


@pytest.mark.parametrize(("name", "stop"), STOPS)
def test_resumed_run_is_bit_identical(name, stop, whole, tmp_path):
    """With dropout, so that random streams count too."""
    torch.save(toy.start(name, tmp_path, **with_dropout(name)).run(stop).checkpoint(), tmp_path / "checkpoint.pt")

    resumed = toy.start(name, tmp_path, **with_dropout(name))
    resumed.restore(torch.load(tmp_path / "checkpoint.pt", weights_only=True)).run()

    expected, tensors = whole(name), resumed.model.state_dict()
    assert expected.after.keys() == tensors.keys()
    assert [key for key in tensors if not torch.equal(expected.after[key], tensors[key])] == []
    assert expected.evidence == resumed.method.evidence(resumed.model)
    resumed.method.finalize(resumed.model, tmp_path / "out")
    assert toy.folder_hash(expected.output) == toy.folder_hash(tmp_path / "out")
    logs = [path.read_text() for folder in (expected.folder, tmp_path) for path in folder.glob("log/operations.jsonl")]
    assert len(logs) in (0, 2) and len(set(logs)) <= 1


@pytest.mark.numeric
@pytest.mark.parametrize("name", EACH)
def test_gradients_do_not_depend_on_accumulation(name, tmp_path):
    """Regularisers included: one batch in one piece or in four gives the same gradients.

    Three steps in a row, each forward and backward.
    """
    grads, sums = [], sums_of(toy.base_model())
    for accumulation in (1, 4):
        loop = toy.start(name, tmp_path, accumulation=accumulation).run(2)
        loop.backward()
        grads.append({key: p.grad for key, p in loop.model.named_parameters() if p.requires_grad})
    for key, grad in grads[0].items():
        assert_equal_but_for_rounding(grad, grads[1][key], terms=sums["terms"], layers=2 * 3 * sums["layers"])


@pytest.mark.parametrize("name", [each for each in EACH_STATE if each.values[0] not in EDIT_THE_BASE])
def test_frozen_weights_stay_as_they_were(name, plain):
    base = toy.base_model().state_dict()
    frozen = {
        key.removeprefix("base_model.model.").replace(".base_layer", ""): tensor for key, tensor in plain(name).after.items()
    }
    assert [key for key in base if not torch.equal(frozen[key], base[key])] == []


@pytest.mark.parametrize("name", EACH_STATE)
def test_checkpoints_hold_everything_that_changes(name, plain, tmp_path):
    """A tensor that training changed but that no checkpoint gives back would be lost by a kill."""
    run = plain(name)
    resumed = state(toy.start(name, tmp_path).restore(run.checkpoint).model)
    assert [key for key, tensor in run.after.items() if not torch.equal(tensor, resumed[key])] == []


@pytest.mark.parametrize("name", EACH)
def test_runs_on_a_bfloat16_base(name, tmp_path):
    """Adapters stay float32 and the losses finite, past the first operation of each method that has any."""
    method, base = toy.make(name), toy.base_model().to(torch.bfloat16)
    loop = toy.Loop(method, base, toy.context(tmp_path)).run(8)
    dtypes = {p.dtype for p in loop.model.parameters() if p.requires_grad}
    assert dtypes == {torch.bfloat16 if name == "full-ft" else torch.float32}
    assert all(0 < loss < 10 for loss in loop.losses)


#: Losses of the first five steps of two layers, float32, dropout 0, with an operation of each method that has any: ReLoRA
#: merges after steps 2 and 4, AdaLoRA masks in steps 3 and 4, IncreLoRA grows in steps 2 and 4 (counted from 0).
#: test_baselines_reference computes the losses of six of the methods a second way.
GOLDEN: dict[str, list[float]] = {
    "full-ft": [4.216808, 4.200803, 4.288401, 3.961117, 4.026613],
    "lora": [4.216808, 4.27575, 4.306339, 4.347751, 4.350852],
    "dora": [4.216808, 4.275322, 4.307724, 4.334992, 4.33942],
    "pissa": [4.216808, 4.269783, 4.318921, 4.292036, 4.317989],
    "milora": [4.216808, 4.266548, 4.30473, 4.376542, 4.370152],
    "relora": [4.216808, 4.27575, 4.306339, 4.3623, 4.381789],
    "adalora": [4.216808, 4.272075, 4.30341, 4.422407, 4.425146],
    "increlora": [4.216808, 4.272041, 4.303461, 4.422449, 4.424986],
}


@pytest.mark.numeric
@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_golden_losses(name, tmp_path):
    settings = {"merge_every": 2} if name == "relora" else {}
    given = toy.context(tmp_path)
    base = toy.base_model(layers=2)
    torch.manual_seed(given.seed)
    losses = toy.Loop(toy.make(name, **settings), base, given).run(5).losses
    assert_equal_but_for_rounding(losses, GOLDEN[name], terms=toy.VOCABULARY, layers=len(losses))
