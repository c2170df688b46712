"""BeamLoRA's settings, with a named default wherever the paper and the released code (gccnlp/BeamLoRA) disagree.

``flavor`` chooses the defaults of three settings. ``released`` follows what the code does, bit for bit. ``paper`` follows the
text in two points, ``topp_scope`` (Eq. 13: inside each module) and ``moment_transfer`` (Eq. 12: moments are copied), and has
``max_prune_fraction`` 0.5, a limit of ours, of which neither speaks. In all else it is the code too, also where the text says
otherwise: scores are r softmax(g / 0.05) and not Eq. 5's softmax (``gate_times_r``, ``gate_temperature``), p is that of the
step before (``threshold_step_offset`` -1), snapshots are taken one step after the middle (``snapshot_step_offset`` 1), and p
arrives at 1 after two epochs (``threshold_horizon``). Each can be set by its name.

| setting | paper | released code |
|---|---|---|
| ``gate_temperature``, ``gate_times_r`` | Eq. 5: a softmax | r softmax(g / 0.05); README: 0.03 if lr < 1e-4 |
| ``moment_transfer`` | Eq. 12: copied from the snapshot | unchanged: the copy goes to a temporary and has no effect |
| ``topp_scope`` | Eq. 13: inside each module | one Top-P over the scores of all modules |
| ``topp_comparison`` | Eq. 13: >=, yet p = 1 means that no rank is operated on | > (so that p = 1 operates on none) |
| ``threshold_horizon`` | Eq. 14: all steps; A.2: operations in the first two epochs | end of the second epoch |
| ``threshold_step_offset`` | Eq. 14: step t | t - 1: the threshold advances after the operation |
| ``snapshot_step_offset`` | half-way between operations | one step later (a counter read before its increment) |
| ``delta_t`` odd | not mentioned | no snapshot is ever taken, the first operation crashes |
| ``pairing`` | not mentioned | a random permutation of the K best ranks |
| ``score_average`` | the average of s_p and s_e | of the raw logits, written to both ranks |
| ``reset_gate_moments`` | not mentioned | zeroed for every module at every operation, also when K = 0 |
| dtype of the adapter | not mentioned | bfloat16 (math, code scripts), float32 (commonsense); here float32 |
| ``max_prune_fraction`` | not mentioned; 0.5 is ours | no limit |
| ``expansion``, ``assessment``, ``dynamic_p`` | Table 3 | the ablation flags are never read; semantics are ours |
| ``dead_ranks`` | not mentioned | as above; measured with ``scored``: dead ranks keep 10 to 84 % of the softmax |

The learning rate belongs to the training settings: the paper gives 3e-4 for all low-rank methods (A.2), the README of
the released code says that Mistral was trained with less than 1e-4, without the value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, Literal, get_args, get_type_hints

#: The settings whose default depends on the flavor.
FLAVORS: dict[str, dict[str, Any]] = {
    "paper": {"topp_scope": "module", "moment_transfer": "history", "max_prune_fraction": 0.5},
    "released": {"topp_scope": "global", "moment_transfer": "keep", "max_prune_fraction": 1.0},
}

#: The settings that are numbers -> what they have to be, and in words.
_NUMBERS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "p_init": (lambda value: 0 < value <= 1, "a number above 0, at most 1"),
    "delta_t": (lambda value: value >= 2 and value % 2 == 0, "an even number from 2 on"),
    "gate_temperature": (lambda value: 1e-6 <= value <= 1e6, "a number from 1e-6 to 1e6"),
    "horizon_steps": (lambda value: value is None or value >= 1, "a number from 1 on"),
    "max_prune_fraction": (lambda value: 0 < value <= 1, "a number above 0, at most 1"),
}


def _setting(default: Any, description: str) -> Any:
    """A field of PEFT's kind. The default None stands for the flavor's value."""
    return field(default=default, metadata={"help": description})


@dataclass(kw_only=True)
class BeamSettings:
    """What BeamLoRA adds to LoRA. ``BeamLoraConfig`` carries the same fields into ``adapter_config.json``.

    Raises:
        ValueError: an impossible value.
    """

    flavor: Literal["paper", "released"] = _setting("paper", "defaults of topp_scope, moment_transfer and max_prune_fraction")
    p_init: float = _setting(0.95, "initial threshold p of the dynamic Top-P (Eq. 14, Table 4)")
    delta_t: int = _setting(1200, "optimizer steps between operations, even (Table 4)")
    gate_temperature: float = _setting(0.05, "tau of the scores softmax(g / tau)")
    gate_times_r: bool = _setting(True, "scores are r softmax(g / tau), so that BeamLoRA starts as LoRA")
    topp_scope: Literal["module", "global"] = _setting(None, "whether the ranks of one module compete, or those of all")
    topp_comparison: Literal["exceeds", "reaches"] = _setting(
        "exceeds", "a rank is operated on from where the cumulative score exceeds (>) or reaches (>=) p"
    )
    threshold_horizon: Literal["two_epochs", "total"] = _setting("two_epochs", "when p arrives at 1")
    horizon_steps: int | None = _setting(None, "optimizer steps; takes the place of threshold_horizon")
    threshold_step_offset: Literal[-1, 0] = _setting(-1, "p at operation t is that of step t + offset")
    snapshot_step_offset: Literal[0, 1] = _setting(1, "snapshots follow step delta_t / 2 + offset of an interval")
    source: Literal["snapshot", "current"] = _setting(
        "snapshot", "expanded ranks copy the half-interval snapshot (Eq. 11-12) or the current state (Eq. 9-10)"
    )
    moment_transfer: Literal["history", "keep", "zero"] = _setting(
        None, "Adam moments of the pruned ranks: copied with the parameters from the source; unchanged; zero"
    )
    pairing: Literal["random", "ranked"] = _setting("random", "which of the K best ranks each pruned one copies")
    score_average: Literal["logits", "scores"] = _setting("logits", "what the two ranks of a pair share equally")
    reset_gate_moments: bool = _setting(True, "zero the Adam moments of all score logits at every operation")
    max_prune_fraction: float = _setting(None, "upper limit of K / r; 1 is no limit")
    operations: bool = _setting(True, "false: the scores are trained, nothing is ever pruned or expanded")
    expansion: bool = _setting(True, "false: pruned ranks stay zero (Table 3, w/o Expansion)")
    dead_ranks: Literal["scored", "masked"] = _setting(
        "scored",
        "without expansion, a pruned rank keeps its logit, so it takes its part of the softmax and is ranked again; "
        "masked: its logit becomes -inf, the others share its part (they grow by it at once), and it is not ranked",
    )
    assessment: bool = _setting(True, "false: K random ranks instead of the K worst and best (w/o Assessment)")
    dynamic_p: bool = _setting(True, "false: p = p_init until the horizon (w/o Dynamic P)")

    def __post_init__(self) -> None:
        for name in SETTINGS:
            if name in FLAVORS["paper"] and getattr(self, name) is None and self.flavor in FLAVORS:
                setattr(self, name, FLAVORS[self.flavor][name])
            if wrong := fault(name, getattr(self, name)):
                raise ValueError(f"{name}: {wrong}")
        self.check()

    @property
    def uses_snapshots(self) -> bool:
        """Whether pruned ranks become copies of the half-interval snapshot."""
        return self.operations and self.expansion and self.source == "snapshot"

    @property
    def shortest_interval(self) -> int:
        """The least ``delta_t``: a snapshot has to lie before its operation, or the copies are those of now, with the moments
        of now, and stay equal to their sources for ever."""
        return 2 + 2 * self.snapshot_step_offset if self.uses_snapshots else 2

    def check(self) -> None:
        """Refuse values that do not go together.

        Raises:
            ValueError: an interval whose snapshot is not before its operation; masked dead ranks where none dies, or where all
                may.
        """
        if self.delta_t < self.shortest_interval:
            raise ValueError(
                f"delta_t: found {self.delta_t} with snapshot_step_offset {self.snapshot_step_offset}, expected an even number "
                f"from {self.shortest_interval} on, so that the snapshot is taken before the operation"
            )
        if self.dead_ranks == "masked" and (self.expansion or self.max_prune_fraction == 1):
            raise ValueError(
                f"dead_ranks: found 'masked' with expansion {str(self.expansion).lower()} and max_prune_fraction "
                f"{self.max_prune_fraction}, expected expansion false (else no rank dies) and max_prune_fraction < 1 (else "
                "every rank may)"
            )

    def check_room(self, *, r: int) -> None:
        """Refuse a rank of which the operations could never prune anything.

        Raises:
            ValueError: operations are on, and not even one of ``r`` ranks may be pruned.
        """
        if self.operations and int(r * self.max_prune_fraction) < 1:
            raise ValueError(
                f"max_prune_fraction: found {self.max_prune_fraction} with r {r}, "
                "expected r * max_prune_fraction >= 1, else no rank can ever be pruned"
            )


#: The names of the settings.
SETTINGS = tuple(one.name for one in fields(BeamSettings))


def with_flavor(given: dict[str, Any]) -> dict[str, Any]:
    """``given`` and, for what it leaves out, the values of its flavor; none for a flavor that there is not."""
    flavor = given.get("flavor", "paper")
    known = FLAVORS[flavor] if flavor in tuple(FLAVORS) else {}  # what has no hash is none either
    return {**known, **given}


def fault(name: str, value: Any) -> str | None:
    """What is wrong with the value of a setting: what was found and what was expected; None for a possible value."""
    hint = _hints()[name]
    if choices := [choice for choice in get_args(hint) if not isinstance(choice, type)]:
        possible, expected = any(type(value) is type(one) and value == one for one in choices), " or ".join(map(repr, choices))
    elif hint is bool:
        possible, expected = isinstance(value, bool), "true or false"
    else:
        rule, expected = _NUMBERS[name]
        kinds = (float, int) if hint is float else hint
        possible = isinstance(value, kinds) and not isinstance(value, bool) and rule(value)
    return None if possible else f"found {value!r}, expected {expected}"


@cache
def _hints() -> dict[str, Any]:
    return get_type_hints(BeamSettings)
