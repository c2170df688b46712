"""PiSSA and MiLoRA: the decomposition, its cache, and the artefact."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import load_file

from methods.peft_support import ADAPTER, adapted_layers
from methods.svd import cached_decomposition, decompose
from tests.methods import toy
from tests.rounding import assert_equal_but_for_rounding


def matrix(rows: int, columns: int, *, decay: float = 0.97) -> torch.Tensor:
    """A random matrix whose singular values are decay^i."""
    generator = torch.Generator().manual_seed(rows)
    rank = min(rows, columns)
    u = torch.linalg.qr(torch.randn(rows, rank, generator=generator, dtype=torch.float64)).Q
    v = torch.linalg.qr(torch.randn(columns, rank, generator=generator, dtype=torch.float64)).Q
    return (u * decay ** torch.arange(rank)) @ v.T


@pytest.mark.numeric
@pytest.mark.parametrize("shape", [(40, 40), (96, 40), (40, 96)])
def test_triplets_are_the_extreme_ones(shape):
    weight = matrix(*shape).float()
    singular = torch.linalg.svdvals(weight.double())
    triplets = decompose(weight, r=8)
    assert_equal_but_for_rounding(triplets.top.s, singular[:8], terms=1)  # computed in float64, stored in float32
    assert_equal_but_for_rounding(triplets.bottom.s, singular[-8:], terms=1)
    for part in (triplets.top, triplets.bottom):
        assert_equal_but_for_rounding(part.u.T @ part.u, torch.eye(8), terms=shape[0])
        assert_equal_but_for_rounding(part.v.T @ part.v, torch.eye(8), terms=shape[1])
        assert_equal_but_for_rounding(weight @ part.v, part.u * part.s, terms=shape[1])


def test_small_singular_values_survive_the_gram_matrix():
    """Over five orders of magnitude the smallest triplets keep four digits; a float32 Gram matrix loses them."""
    weight = matrix(64, 48, decay=0.78).float()
    singular = torch.linalg.svdvals(weight.double())
    assert singular[-1] / singular[0] < 1e-5
    assert torch.allclose(decompose(weight, r=4).bottom.s.double(), singular[-4:], rtol=1e-4)
    assert not torch.allclose(
        torch.linalg.eigvalsh(weight.T @ weight)[:4].abs().sqrt().flip(0).double(), singular[-4:], rtol=1e-1
    )


def test_singular_weight_gives_finite_factors():
    weight = torch.zeros(12, 8)
    weight[0, 0] = 1.0
    part = decompose(weight, r=3).bottom
    assert torch.isfinite(part.u).all() and part.s.tolist() == [0, 0, 0]


@pytest.mark.numeric
@pytest.mark.parametrize(("name", "start", "stop"), [("pissa", 0, 4), ("milora", -4, None)])
def test_the_right_part_moves_from_base_to_adapter(name, start, stop, tmp_path):
    """W_res + s B A = W; s B A has the r largest (smallest) singular values of W, W_res the others."""
    base = toy.base_model()
    for module, layer in adapted_layers(toy.start(name, tmp_path).model).items():
        weight, residual = base.get_submodule(module).weight.detach(), layer.get_base_layer().weight.detach()
        moved = 2.0 * (layer.lora_B[ADAPTER].weight @ layer.lora_A[ADAPTER].weight).detach()
        singular = torch.linalg.svdvals(weight)
        expected = singular[start:stop]
        assert_equal_but_for_rounding(residual + moved, weight, terms=4)
        # LAPACK's errors are relative to the largest singular value of the matrix.
        rounding = {"terms": max(weight.shape), "magnitude": float(singular[0])}
        assert_equal_but_for_rounding(torch.linalg.svdvals(moved)[:4], expected, **rounding)
        rest = torch.cat([singular[:start], singular[stop:]]) if name == "pissa" else singular[:start]
        assert_equal_but_for_rounding(torch.linalg.svdvals(residual)[: len(rest)], rest, **rounding)
        # balanced: A and B carry the same singular values
        balanced = torch.linalg.svdvals(layer.lora_A[ADAPTER].weight.detach())
        assert_equal_but_for_rounding(balanced, (expected / 2).sqrt(), terms=max(weight.shape), layers=2)


def test_one_decomposition_serves_both_and_is_read_again(tmp_path, monkeypatch):
    toy.start("pissa", tmp_path)
    files = sorted((tmp_path / "cache" / "svd" / "toy").iterdir())
    assert len(files) == toy.MODULES and all(file.name.endswith("-r4.safetensors") for file in files)
    monkeypatch.setattr("methods.svd.decompose", lambda *_, **__: pytest.fail("decomposed again"))
    toy.start("pissa", tmp_path)
    toy.start("milora", tmp_path)
    with pytest.raises(pytest.fail.Exception):
        toy.start("milora", tmp_path, ctx={"base_model_hash": "another"})


def test_cache_is_safe_to_fill_twice_at_once(tmp_path):
    weight = matrix(48, 40).float()

    def decomposition(_: int):
        return cached_decomposition(weight, r=4, name="layer", model_hash="h", cache_dir=tmp_path)

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(decomposition, range(8)))
    assert all(torch.equal(one.top.u, results[0].top.u) for one in results)
    assert [path.name for path in (tmp_path / "svd" / "h").iterdir()] == ["layer-r4.safetensors"]


@pytest.mark.parametrize("how", ["of another shape", "empty", "cut off"])
def test_a_cache_that_cannot_be_used_is_named_and_made_again(tmp_path, how, capsys):
    arguments = {"r": 4, "name": "layer", "model_hash": "h", "cache_dir": tmp_path}
    expected = decompose(matrix(48, 40).float(), r=4)
    cached_decomposition(matrix(48, 40).float(), **arguments)
    path = tmp_path / "svd/h/layer-r4.safetensors"
    if how == "of another shape":
        path.unlink()
        cached_decomposition(matrix(40, 40).float(), **arguments)
    else:
        path.write_bytes(b"" if how == "empty" else path.read_bytes()[:-7])
    again = cached_decomposition(matrix(48, 40).float(), **arguments)
    assert torch.equal(again.top.u, expected.top.u) and torch.equal(again.bottom.v, expected.bottom.v)
    assert f"set aside as damaged-{path.name}, made again" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["pissa", "milora"])
def test_artefact_has_rank_2r_and_scaling_one(name, tmp_path):
    loop = toy.start(name, tmp_path).run(3)
    loop.method.finalize(loop.model, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["init_lora_weights"], config["rank_pattern"]) == (8, 8, True, {})
    tensors = load_file(tmp_path / "out" / "adapter_model.safetensors")
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    assert tensors[key].shape == (8, 32) and tensors[key].dtype == torch.float32


def test_naive_reload_would_be_wrong(tmp_path):
    """Why the artefact is not the trained adapter itself: the base it belongs to was changed."""
    loop = toy.start("pissa", tmp_path).run(3)
    loop.model.save_pretrained(tmp_path / "naive")
    assert (toy.logits(toy.reload(tmp_path / "naive")) - toy.logits(loop.model)).abs().max() > 0.1


def test_resume_on_another_decomposition_is_refused(tmp_path):
    saved = toy.start("pissa", tmp_path).run(3).checkpoint()
    changed = toy.start("pissa", tmp_path, lora_alpha=16)
    with pytest.raises(ValueError, match="initial_factors_sha256: found .* the cached decomposition or the base model"):
        changed.method.load_state_dict(saved["method"])


@pytest.mark.parametrize("name", ["pissa", "milora"])
def test_bfloat16_base_is_decomposed_in_float32(name, tmp_path):
    """The adapter is not rounded, and only the residual's rounding separates the initial model from the base."""
    base = toy.base_model().to(torch.bfloat16)
    weight = base.model.layers[0].mlp.up_proj.weight.detach().float().clone()
    layer = adapted_layers(toy.make(name).wrap(base, toy.context(tmp_path)))["model.layers.0.mlp.up_proj"]
    a, b = layer.lora_A[ADAPTER].weight.detach(), layer.lora_B[ADAPTER].weight.detach()
    assert a.dtype == torch.float32 and not torch.equal(a, a.bfloat16().float())
    error = (layer.get_base_layer().weight.detach().float() + 2.0 * b @ a - weight).abs().max()
    assert error <= 2**-8 * weight.abs().max()


def test_evidence_says_how_much_was_moved(tmp_path):
    energy = {name: toy.start(name, tmp_path).method.evidence(torch.nn.Module()) for name in ("pissa", "milora")}
    assert energy["pissa"]["decomposed_modules"] == toy.MODULES
    assert energy["pissa"]["removed_energy"] > 0.2 > 0.05 > energy["milora"]["removed_energy"] > 0
