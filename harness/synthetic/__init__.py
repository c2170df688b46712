"""A small world for stand-in models: training and evaluation records in the formats of the public sets.

Everything here is pure Python and a function of its arguments: the same rows and seed give the same records anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from evaluation.sets.llm_adapters import COMMONSENSE
from harness.synthetic import commonsense, records
from harness.synthetic.corpus import pretraining_documents

#: Generator name -> f(rows, seed) -> records in the format of the set of that name.
GENERATORS: dict[str, Callable[[int, int], list[dict[str, Any]]]] = {
    "metamath": records.metamath,
    "codefeedback": records.codefeedback,
    "gsm8k": records.gsm8k,
    "math": records.math,
    "humaneval": records.humaneval,
    "mbpp": records.mbpp,
    "commonsense": commonsense.training,
    **{name: commonsense.evaluation(name) for name in COMMONSENSE},
}

__all__ = ["GENERATORS", "pretraining_documents"]
