"""Every figure by name: what it shows, and the function that makes it."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from harness.config import ConfigError
from harness.figures.inputs import Inputs
from harness.figures.style import Plot


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A figure: the paper's number (or "ours"), one line of words, and module:function below this package."""

    paper: str
    shows: str
    builder: str


CATALOGUE = {
    "rank_importance": Entry(
        paper="Fig. 1, 2",
        shows="importance of ranks: deciles within a module with the pruning curve, each rank over steps, all modules",
        builder="rank_importance:build",
    ),
    "pruning_curve": Entry(
        paper="Fig. 4",
        shows="accuracy as ranks are pruned from least to most important, BeamLoRA against LoRA, with trend",
        builder="pruning_curve:build",
    ),
    "rank_sweep": Entry(paper="Fig. 5", shows="LoRA and BeamLoRA over the rank r", builder="sweeps:build_rank_sweep"),
    "delta_t": Entry(
        paper="Fig. 6", shows="number of operations and accuracy over the interval between them", builder="sweeps:build_delta_t"
    ),
    "p_init": Entry(
        paper="Fig. 7", shows="operated ranks and accuracy over the initial threshold", builder="sweeps:build_p_init"
    ),
    "time_memory": Entry(
        paper="Fig. 8, 9", shows="training time and peak memory of each method relative to LoRA", builder="time_memory:build"
    ),
    "operations": Entry(
        paper="ours",
        shows="threshold and operated ranks of each operation, per module and layer, and the loss around it",
        builder="operations:build",
    ),
    "pareto": Entry(
        paper="ours", shows="accuracy against training time, peak memory and trainable parameters", builder="pareto:build"
    ),
    "learning_rate": Entry(
        paper="ours",
        shows="accuracy of each method over learning rates; ranking at a shared rate and at each one's best",
        builder="rates:build",
    ),
}


def check_name(name: str) -> None:
    """Refuse a figure that there is not.

    Raises:
        ConfigError: there is no such figure; the message names the nearest.
    """
    if name not in CATALOGUE:
        near = difflib.get_close_matches(name, CATALOGUE, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(CATALOGUE)}"
        raise ConfigError(f"figure: found unknown {name!r}; {hint}")


def build(name: str, inputs: Inputs) -> Plot:
    """Draw one figure. Call it, and save its result, inside ``style.theme()``.

    Raises:
        ConfigError: there is no such figure, the experiment does not plan it, or a record behind it is missing or broken.
    """
    check_name(name)
    module, function = CATALOGUE[name].builder.split(":")
    make: Callable[[Inputs], Plot] = getattr(import_module(f"harness.figures.{module}"), function)
    return make(inputs)


def listing() -> str:
    """A line per figure."""
    width = max(map(len, CATALOGUE))
    return "\n".join(f"{name:<{width}}  {entry.paper:<9}  {entry.shows}" for name, entry in CATALOGUE.items())
