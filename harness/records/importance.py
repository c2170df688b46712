"""How important each rank was during training: the file that a run writes, and measures of it. NumPy only.

The importance of a rank is the Frobenius norm of its share of the weight update (section 2.2).
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness import files
from harness.records.versioned import Recipe

#: Name of the file in a run's adapter folder.
FILE = "rank_importance.npz"
MADE = Recipe.command("python -m harness.train, with training.importance_every and a method with ranks")
_STEPS = "steps"
_DECILES = 10


@dataclass(frozen=True, kw_only=True)
class ImportanceHistory:
    """Importances of all ranks after ``steps`` optimizer steps.

    A column is a slot, not a rank with a history of its own: where BeamLoRA replaces the rank in a slot by a copy of another
    (operations.jsonl says where), or ReLoRA starts a new cycle, the slot's importance jumps. A snapshot at such a step shows
    the slots after the operation.
    """

    #: Finished optimizer steps at each snapshot, increasing, int64, shape (S,).
    steps: NDArray[np.int64]
    #: Module name in the base model -> importances, float32, shape (S, r).
    modules: dict[str, NDArray[np.float32]]

    @property
    def last(self) -> dict[str, NDArray[np.float32]]:
        """Module name -> importances at the end of training, shape (r,)."""
        return {name: values[-1] for name, values in self.modules.items()}


def write(path: Path, history: ImportanceHistory) -> None:
    """Write a history. The same history gives the same bytes."""
    arrays: Mapping[str, NDArray[Any]] = {_STEPS: history.steps, **history.modules}
    with files.replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            # A ZipInfo of its own carries a fixed date.
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w") as stream:
                np.lib.format.write_array(stream, array, allow_pickle=False)


def read(path: Path, recipe: Recipe = MADE) -> ImportanceHistory:
    """The history that a run wrote (``numpy.load`` reads it as well).

    Args:
        recipe: how the caller's reader makes it, for messages.

    Raises:
        RecordError: the file is missing or is not such a history.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
    except FileNotFoundError:
        raise recipe.missing(path) from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise recipe.broken(path, f"cannot be read: {error}") from error
    steps = arrays.pop(_STEPS, None)
    wrong = [name for name, values in arrays.items() if steps is None or values.ndim != 2 or len(values) != len(steps)]
    if steps is None or not arrays or wrong:
        shapes = {name: values.shape for name, values in arrays.items() if not wrong or name in wrong}
        raise recipe.broken(path, f"found {_STEPS} {getattr(steps, 'shape', None)} and {shapes}, expected (S,) and (S, r)")
    return ImportanceHistory(steps=steps, modules=arrays)


# ---------------------------------------------------------------------------------------------------------------- measures


def deciles(importances: ArrayLike) -> NDArray[np.float64]:
    """Mean importance of each tenth of a module's ranks, from the least to the most important (Figure 1), shape (10,).

    With r not a multiple of 10 a rank on a border counts for both tenths, with the share of it that lies in each; the mean of
    the deciles is the mean of the importances for any r.

    Args:
        importances: of one module, shape (r,), r >= 1.
    """
    ordered = np.sort(np.asarray(importances, dtype=np.float64))
    # Rank k covers [k, k + 1) / r of the unit interval: the mean over a tenth is a difference of the running integral.
    integral = np.concatenate([[0.0], np.cumsum(ordered)]) / len(ordered)
    borders = np.arange(_DECILES + 1) / _DECILES
    return np.diff(np.interp(borders, np.arange(len(ordered) + 1) / len(ordered), integral)) * _DECILES


def variation(importances: ArrayLike) -> NDArray[np.float64]:
    """Coefficient of variation over the ranks (standard deviation over mean): how much they differ, 0 for equal ones.

    Args:
        importances: shape (..., r), such as the (S, r) of one module over time.

    Returns:
        Shape (...); NaN where all importances are 0, as in LoRA before the first step.
    """
    values = np.asarray(importances, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        coefficients: NDArray[np.float64] = values.std(axis=-1) / values.mean(axis=-1)
    return coefficients


def evenness(importances: ArrayLike) -> NDArray[np.float64]:
    """Entropy of the importances' shares over its largest value ln r: 1 for equal ranks, 0 if one rank has all.

    Args:
        importances: shape (..., r), r >= 2.

    Returns:
        Shape (...); NaN where all importances are 0.
    """
    values = np.asarray(importances, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = values / values.sum(axis=-1, keepdims=True)
        terms = np.where(shares == 0, 0.0, shares * np.log(shares))
    entropies: NDArray[np.float64] = np.abs(terms.sum(axis=-1)) / np.log(values.shape[-1])
    return entropies
