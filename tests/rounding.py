"""How far rounding alone lets two computations of the same numbers differ: the tolerance of every numeric test.

Which kernel multiplies two matrices, and so in which order a sum is taken, depends on the processor, on the number of threads
and on the shape of the batch. Every order rounds differently and none is the right one. The error that n additions leave, whose
roundings are random, grows like the square root of n, in units of the last place of the result:
https://doi.org/10.1137/18M1226312 proves a bound of this form. Sums on the results of sums add their errors.

Two computations that run the same kernels on the same numbers agree to the bit. Their tests use ``torch.equal``, not this.
"""

from __future__ import annotations

from typing import Any

import torch

#: The largest of the thousands of differences of a test is 4 to 5 standard deviations, where the typical one is half of
#: eps * sqrt(terms). Beyond that, attention and normalisation enlarge some errors: GPT-2's logits use a third of their bound.
MARGIN = 4


def rounding_bound(magnitude: float, *, terms: int, layers: int = 1, dtype: torch.dtype = torch.float32) -> float:
    """Largest absolute difference that rounding explains between two computations of numbers up to ``magnitude``.

    Args:
        magnitude: of the results, or of what they are a difference of.
        terms: length of the longest sum; 1 where nothing is summed.
        layers: how many such sums follow one another, each on the results of the one before.
        dtype: the coarsest one in which a result is rounded.
    """
    return MARGIN * torch.finfo(dtype).eps * terms**0.5 * layers * magnitude


def sums_of(model: torch.nn.Module) -> dict[str, int]:
    """``terms`` and ``layers`` of a transformer's logits, for the functions of this module.

    In a row come, per layer: norm, query, scores, values, output, norm, up and down; then the last norm and the head.
    """
    config = model.config
    intermediate = getattr(config, "intermediate_size", None) or 4 * config.hidden_size  # GPT-2 has the factor built in
    return {"terms": max(config.hidden_size, intermediate), "layers": 8 * config.num_hidden_layers + 2}


def sums_of_scores(model: torch.nn.Module) -> dict[str, int]:
    """The same for losses and log-likelihoods: a softmax over the vocabulary, then a sum over tokens.

    The layers before are not counted: their errors are relative to logits, which are small beside a sum of log-likelihoods.
    """
    return {"terms": model.config.vocab_size, "layers": 2}


def assert_equal_but_for_rounding(
    actual: Any,
    expected: Any,
    *,
    terms: int,
    layers: int = 1,
    dtype: torch.dtype = torch.float32,
    magnitude: float | None = None,
) -> None:
    """Fail unless two tensors, arrays, sequences or numbers differ by no more than ``rounding_bound``.

    ``magnitude`` is that of the largest expected number unless given.
    """
    actual, expected = (torch.as_tensor(values).detach().double() for values in (actual, expected))
    assert actual.shape == expected.shape, f"found shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    largest = float(expected.abs().max()) if magnitude is None else magnitude
    bound = rounding_bound(largest, terms=terms, layers=layers, dtype=dtype)
    worst = float((actual - expected).abs().max())
    assert worst <= bound, f"found a difference of {worst:.2e}, expected at most {bound:.2e}, which rounding explains"
