"""What holds for every method: one suite over the whole registry."""

from __future__ import annotations

import pytest
import torch

import methods
from tests.methods import toy

NAMES = sorted(methods.registry())
#: Methods that change base weights before or while training.
EDIT_THE_BASE = {"full-ft", "pissa", "milora", "relora"}


@pytest.mark.parametrize("name", NAMES)
def test_starts_as_the_base_model(name, tmp_path):
    expected = toy.logits(toy.base_model())
    wrapped = toy.start(name, tmp_path).model
    assert torch.allclose(toy.logits(wrapped), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_artefact_equals_the_trained_model(name, tmp_path):
    """Saved, reloaded on a fresh base, merged, and exported as plain LoRA: the same logits; and training moved them."""
    loop = toy.start(name, tmp_path).run()
    trained = toy.logits(loop.model)
    loop.method.finalize(loop.model, tmp_path / "out")

    assert (trained - toy.logits(toy.base_model())).abs().max() > 1e-3
    variants = [toy.reload(tmp_path / "out"), toy.reload(tmp_path / "out", merge=True)]
    if (tmp_path / "out" / "lora").is_dir():
        variants.append(toy.reload(tmp_path / "out" / "lora", merge=True))
    for model in variants:
        assert torch.allclose(toy.logits(model), trained, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_run_twice_gives_the_same_files(name, tmp_path):
    hashes, settings = [], {} if name == "full-ft" else {"lora_dropout": 0.1}
    for attempt in ("a", "b"):
        loop = toy.start(name, tmp_path / attempt, **settings).run()
        loop.method.finalize(loop.model, tmp_path / attempt / "out")
        hashes.append(toy.folder_hash(tmp_path / attempt / "out"))
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in {"full-ft", "pissa", "milora"}])
def test_another_seed_gives_another_adapter(name, tmp_path):
    """Except where initialisation has no chance in it (nothing is drawn, or it comes from the base's SVD)."""
    one, two = (toy.start(name, tmp_path, ctx={"seed": seed}).run(2) for seed in (1, 2))
    assert not torch.equal(toy.logits(one.model), toy.logits(two.model))


@pytest.mark.parametrize("stop", [5, 7, 12])
@pytest.mark.parametrize("name", NAMES)
def test_resumed_run_is_bit_identical(name, stop, tmp_path):
    """With dropout, so that random streams count too; checkpoints before, between and after the methods' operations."""
    settings = {} if name == "full-ft" else {"lora_dropout": 0.1}
    whole = toy.start(name, tmp_path / "whole", **settings).run()
    torch.save(toy.start(name, tmp_path / "cut", **settings).run(stop).checkpoint(), tmp_path / "checkpoint.pt")

    resumed = toy.start(name, tmp_path / "cut", **settings)
    resumed.restore(torch.load(tmp_path / "checkpoint.pt", weights_only=True)).run()

    expected, found = whole.model.state_dict(), resumed.model.state_dict()
    assert expected.keys() == found.keys()
    assert [key for key in expected if not torch.equal(expected[key], found[key])] == []
    assert whole.method.evidence(whole.model) == resumed.method.evidence(resumed.model)
    for loop, folder in ((whole, "whole"), (resumed, "cut")):
        loop.method.finalize(loop.model, tmp_path / folder / "out")
    assert toy.folder_hash(tmp_path / "whole" / "out") == toy.folder_hash(tmp_path / "cut" / "out")
    logs = [path.read_text() for path in sorted(tmp_path.glob("*/log/operations.jsonl"))]
    assert len(set(logs)) <= 1


@pytest.mark.parametrize("name", NAMES)
def test_gradients_do_not_depend_on_accumulation(name, tmp_path):
    """Regularisers included: one batch in one piece or in four gives the same gradients."""
    grads = []
    for accumulation in (1, 4):
        loop = toy.start(name, tmp_path, accumulation=accumulation).run(2)
        loop.backward()
        grads.append({key: p.grad for key, p in loop.model.named_parameters() if p.requires_grad})
    for key, grad in grads[0].items():
        assert torch.allclose(grad, grads[1][key], atol=2e-6, rtol=1e-3), key


@pytest.mark.parametrize("name", [name for name in NAMES if name not in EDIT_THE_BASE])
def test_frozen_weights_stay_as_they_were(name, tmp_path):
    loop = toy.start(name, tmp_path).run()
    base = toy.base_model().state_dict()
    frozen = {
        key.removeprefix("base_model.model.").replace(".base_layer", ""): tensor
        for key, tensor in loop.model.state_dict().items()
    }
    assert [key for key in base if not torch.equal(frozen[key], base[key])] == []


@pytest.mark.parametrize("name", NAMES)
def test_checkpoints_hold_everything_that_changes(name, tmp_path):
    """A tensor that training changed but that is in no checkpoint would be lost by a kill."""
    before = {key: tensor.clone() for key, tensor in toy.start(name, tmp_path).model.state_dict().items()}
    loop = toy.start(name, tmp_path).run()
    changed = {key for key, tensor in loop.model.state_dict().items() if not torch.equal(tensor, before[key])}
    assert changed <= set(loop.method.checkpoint_tensors(loop.model))


@pytest.mark.parametrize("name", NAMES)
def test_runs_on_a_bfloat16_base(name, tmp_path):
    """Adapters stay float32 and the losses finite."""
    method, base = toy.make(name), toy.base_model().to(torch.bfloat16)
    loop = toy.Loop(method, base, toy.context(tmp_path)).run()
    dtypes = {p.dtype for p in loop.model.parameters() if p.requires_grad}
    assert dtypes == {torch.bfloat16 if name == "full-ft" else torch.float32}
    assert all(0 < loss < 10 for loss in loop.losses)


#: Losses of the first five steps, float32, dropout 0, with an operation of each method that has any: ReLoRA merges after
#: steps 2 and 4, AdaLoRA masks in steps 3 and 4, IncreLoRA grows in steps 2 and 4 (counted from 0).
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


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_golden_losses(name, tmp_path):
    settings = {"merge_every": 2} if name == "relora" else {}
    assert toy.start(name, tmp_path, **settings).run(5).losses == pytest.approx(GOLDEN[name], abs=1e-4)
