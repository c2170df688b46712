"""The layers as one function: the numbers of PEFT's chains but for rounding, and PEFT's own where they cannot be."""

from __future__ import annotations

import copy
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import nn

from beamlora import fused
from tests.methods import toy

#: One of each layer: LoRA, DoRA, BeamLoRA, AdaLoRA, IncreLoRA. PiSSA, MiLoRA and ReLoRA train LoRA's.
NAMES = ("lora", "dora", "beamlora", "adalora", "increlora")
#: Relative error of all gradients together, and of any one tensor's, against the chain of operations.
BOUNDS = {torch.float32: (5e-6, 2e-5), torch.float64: (1e-10, 1e-10)}


def pair(name: str, folder: Path, **settings: Any) -> tuple[nn.Module, nn.Module]:
    """Twice the same model, the second one fused; everything moved from where it starts, score logits by 0.3, too."""
    made = []
    for fuse in (False, True):
        torch.manual_seed(1)
        model = toy.make(name, **settings).wrap(toy.base_model(), toy.context(folder))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter += 0.3 * torch.randn(parameter.shape)
        if fuse:
            fused.install(model)
        made.append(model.train())
    return made[0], made[1]


def gradients(model: nn.Module, *, seed: int = 3) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    model.zero_grad()
    toy.next_token_loss(model, toy.batch(1)).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad and p.grad is not None}


def fused_layers(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, fused.Fused)]


@pytest.mark.numeric
@pytest.mark.parametrize(("dropout", "dtype"), [(0.0, torch.float32), (0.3, torch.float32), (0.3, torch.float64)], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_loss_and_gradients_are_those_of_the_chain(name: str, dropout: float, dtype: torch.dtype, tmp_path: Path) -> None:
    plain, one = (model.to(dtype) for model in pair(name, tmp_path, lora_dropout=dropout))
    assert len(fused_layers(one)) == toy.MODULES and not fused_layers(plain)
    expected, actual = gradients(plain), gradients(one)
    assert expected.keys() == actual.keys()
    together, each = BOUNDS[dtype]
    difference = sum((expected[key] - actual[key]).double().square().sum() for key in expected) ** 0.5
    assert difference <= together * sum(value.double().square().sum() for value in expected.values()) ** 0.5
    for key, value in expected.items():
        assert (value - actual[key]).norm() <= each * value.norm(), key


@pytest.mark.parametrize("steps", [8, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", NAMES)
def test_a_run_has_the_losses_of_the_chain_and_repeats_to_the_bit(name: str, steps: int, tmp_path: Path) -> None:
    losses = []
    for place, fuse in enumerate((False, True, True)):
        ctx = toy.context(tmp_path / str(place), total_steps=max(steps, 20))  # 8 of 20 hold an operation of each method
        loop = toy.Loop(toy.make(name, lora_dropout=0.1), toy.base_model(), ctx)
        if fuse:
            fused.install(loop.model)
        torch.manual_seed(5)
        losses.append(loop.run(steps).losses)
    plain, one, again = losses
    assert one == again
    assert max(abs(a - b) for a, b in zip(plain, one, strict=True)) <= 1e-4 and max(plain) - min(plain) > 0.1


@pytest.mark.parametrize("name", NAMES)
def test_with_gradient_checkpointing_the_gradients_are_the_same(name: str, tmp_path: Path) -> None:
    _, model = pair(name, tmp_path, lora_dropout=0.2)
    expected = gradients(model)
    inner: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    inner.enable_input_require_grads()
    inner.gradient_checkpointing_enable({"use_reentrant": False})
    actual = gradients(model)
    assert all(torch.equal(expected[key], actual[key]) for key in expected)


@pytest.mark.parametrize("name", NAMES)
def test_under_autocast_the_output_has_its_dtype_and_differs_from_float32_as_the_chains_does(name: str, tmp_path: Path) -> None:
    """Of one batch the ratio of the two differences is 0.25 to 2.6, since a few logits make most of either."""
    plain, one = (model.eval() for model in pair(name, tmp_path))
    ratios = []
    for ids in map(toy.batch, range(1, 9)):
        with torch.no_grad():
            exact = plain(input_ids=ids).logits
            with torch.autocast("cpu", torch.bfloat16):
                chain, single = (model(input_ids=ids).logits for model in (plain, one))
        assert chain.dtype == single.dtype == torch.bfloat16
        ratios.append(float((single - exact).norm() / (chain - exact).norm()))
    assert statistics.median(ratios) <= 1.2
    with torch.autocast("cpu", torch.bfloat16):
        loss = toy.next_token_loss(one.train(), toy.batch(1))
    loss.backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in one.parameters() if p.requires_grad)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_on_a_bfloat16_base_outputs_and_gradients_have_the_dtypes_of_the_chain(
    name: str, autocast: bool, tmp_path: Path
) -> None:
    made = pair(name, tmp_path, lora_dropout=0.3)
    results = []
    for model in made:
        for parameter in model.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.bfloat16()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            results.append((toy.logits(model).dtype, {key: value.dtype for key, value in gradients(model).items()}))
    assert results[0] == results[1] and set(results[1][1].values()) == {torch.float32}


@pytest.mark.parametrize("name", ["lora", "dora", "beamlora", "adalora"])
def test_disabled_merged_and_second_adapters_are_pefts(name: str, tmp_path: Path) -> None:
    plain, one = pair(name, tmp_path)
    base = toy.logits(toy.base_model())
    for model in (plain, one):
        with model.disable_adapter():
            assert torch.equal(toy.logits(model), base)
    merged = [toy.logits(model.merge_and_unload()) for model in map(copy.deepcopy, (plain, one))]
    assert torch.equal(*merged)
    if name != "adalora":  # PEFT trains one AdaLoRA adapter at a time
        for model in (plain, one):
            torch.manual_seed(2)
            model.add_adapter("second", model.peft_config["default"])
            model.base_model.set_adapter(["default", "second"])
        assert torch.equal(toy.logits(plain), toy.logits(one))


class Quantised(nn.Linear):
    """Stands for a layer that computes its product in another way."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).round(decimals=1)


@pytest.mark.parametrize("change", ["subclass", "trained", "hook"])
def test_a_base_layer_of_another_kind_is_called(change: str, tmp_path: Path) -> None:
    plain, one = pair("lora", tmp_path)
    called = []
    for model in (plain, one):
        base = model.base_model.model.model.layers[0].mlp.up_proj.base_layer
        if change == "subclass":
            base.__class__ = Quantised
        elif change == "trained":
            base.weight.requires_grad_(True)
        else:
            base.register_forward_hook(lambda *_: called.append(1))
    expected, actual = gradients(plain), gradients(one)
    assert expected.keys() == actual.keys() and len(called) == (2 if change == "hook" else 0)
    for key, value in expected.items():
        assert torch.allclose(value, actual[key], rtol=1e-4, atol=1e-6), key


def test_the_length_of_dora_columns_without_the_product() -> None:
    torch.manual_seed(0)
    weight, a, b = torch.randn(40, 30).double(), torch.randn(4, 30).double(), torch.randn(40, 4).double()
    assert torch.allclose(fused.dora_norm(weight, a, b, 2.0), (weight + 2 * b @ a).norm(dim=1), rtol=1e-12)


def test_saving_and_class_names_are_pefts(tmp_path: Path) -> None:
    plain, one = pair("lora", tmp_path)
    assert plain.state_dict().keys() == one.state_dict().keys()
    for place, model in enumerate((plain, one)):
        model.save_pretrained(tmp_path / str(place))
    files = [(tmp_path / str(place) / "adapter_model.safetensors").read_bytes() for place in range(2)]
    assert files[0] == files[1]
