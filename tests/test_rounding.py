"""The bound of rounding holds for what it is derived from, and is tight enough to show a fault."""

from __future__ import annotations

import pytest
import torch

from tests.rounding import assert_equal_but_for_rounding, rounding_bound, sums_of
from tests.tiny_models import llama

pytestmark = pytest.mark.numeric


def one_after_the_other(products: torch.Tensor) -> torch.Tensor:
    """Sums over the last dimension in the given order, rounded to the dtype after every addition."""
    total = torch.zeros_like(products[..., 0])
    for term in products.unbind(-1):
        total = total + term
    return total


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("terms", [8, 128, 2048])
def test_two_orders_of_a_sum_differ_by_less_than_the_bound_and_by_more_than_a_hundredth_of_it(
    terms: int, dtype: torch.dtype
) -> None:
    products = torch.randn(200, terms, dtype=dtype, generator=torch.Generator().manual_seed(terms))
    straight, backwards = one_after_the_other(products), one_after_the_other(products.flip(-1))
    bound = rounding_bound(float(straight.abs().max()), terms=terms, dtype=dtype)
    assert bound / 100 < float((straight - backwards).abs().max()) < bound


def test_chained_products_add_their_errors() -> None:
    """16 random rotations of 64 dimensions, against the same in float64."""
    generator = torch.Generator().manual_seed(0)
    exact = rounded = torch.randn(200, 64, dtype=torch.float64, generator=generator)
    rounded = rounded.float()
    for _ in range(16):
        rotation = torch.linalg.qr(torch.randn(64, 64, dtype=torch.float64, generator=generator)).Q
        exact, rounded = exact @ rotation.float().double(), rounded @ rotation.float()
    assert_equal_but_for_rounding(rounded, exact, terms=64, layers=16)


def test_a_coarser_dtype_or_a_lost_term_is_no_rounding() -> None:
    x = torch.randn(64, 128, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(128, 32, generator=torch.Generator().manual_seed(1))
    expected = x @ weight
    assert_equal_but_for_rounding((x.double() @ weight.double()), expected, terms=128)
    for wrong in (x @ weight.bfloat16().float(), x @ weight.half().float(), x[:, 1:] @ weight[1:], expected * (1 + 1e-4)):
        with pytest.raises(AssertionError, match=r"found a difference of \S+, expected at most \S+, which rounding explains"):
            assert_equal_but_for_rounding(wrong, expected, terms=128)


def test_what_is_no_number_or_has_another_shape_is_not_equal() -> None:
    with pytest.raises(AssertionError, match="difference of nan"):
        assert_equal_but_for_rounding([1.0, float("nan")], [1.0, 2.0], terms=4)
    with pytest.raises(AssertionError, match=r"found shape \(1,\), expected \(2,\)"):
        assert_equal_but_for_rounding([1.0], [1.0, 1.0], terms=4)


def test_zeros_have_no_rounding() -> None:
    assert_equal_but_for_rounding([0.0], [0.0], terms=1000, layers=100)
    with pytest.raises(AssertionError):
        assert_equal_but_for_rounding([1e-30], [0.0], terms=1000, layers=100)


def test_sums_of_a_model() -> None:
    assert sums_of(llama()) == {"terms": 64, "layers": 10}
