"""BeamLoRA's settings, with a named default wherever the paper and the released code (gccnlp/BeamLoRA) disagree.

``flavor`` chooses the defaults of the settings on which the paper speaks and the code does otherwise: ``paper``
follows the text, ``released`` follows what the code does, bit for bit. Where the paper is silent or ambiguous, both
follow the code.

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
| ``adapter_dtype`` | not mentioned | bfloat16 (math, code scripts), float32 (commonsense); here float32 |
| ``max_prune_fraction`` | not mentioned | no limit |
| ``expansion``, ``assessment``, ``dynamic_p`` | Table 3 | the ablation flags are never read; semantics are ours |
| ``dead_ranks`` | not mentioned | as above; measured with ``scored``: dead ranks keep 10 to 84 % of the softmax |

The learning rate belongs to the training settings: the paper gives 3e-4 for all low-rank methods (A.2), the README of
the released code says that Mistral was trained with less than 1e-4, without the value.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from methods.base import AdapterSettings, MethodSettings

#: The settings whose default depends on the flavor.
FLAVORS: dict[str, dict[str, Any]] = {
    "paper": {"topp_scope": "module", "moment_transfer": "history", "max_prune_fraction": 0.5},
    "released": {"topp_scope": "global", "moment_transfer": "keep", "max_prune_fraction": 1.0},
}


class BeamSettings(MethodSettings):
    """What BeamLoRA adds to LoRA. ``BeamLoraConfig`` carries the same fields into ``adapter_config.json``."""

    flavor: Literal["paper", "released"] = "paper"
    p_init: float = Field(0.95, gt=0, le=1, description="initial threshold p of the dynamic Top-P (Eq. 14, Table 4)")
    delta_t: int = Field(1200, ge=2, description="optimizer steps between operations, even (Table 4)")
    gate_temperature: float = Field(0.05, gt=0, description="tau of the scores softmax(g / tau)")
    gate_times_r: bool = Field(True, description="scores are r softmax(g / tau), so that BeamLoRA starts as LoRA")
    topp_scope: Literal["module", "global"] = FLAVORS["paper"]["topp_scope"]
    topp_comparison: Literal["exceeds", "reaches"] = Field(
        "exceeds", description="a rank is operated on from where the cumulative score exceeds (>) or reaches (>=) p"
    )
    threshold_horizon: Literal["two_epochs", "total"] = Field("two_epochs", description="when p arrives at 1")
    horizon_steps: int | None = Field(None, ge=1, description="optimizer steps; takes the place of threshold_horizon")
    threshold_step_offset: Literal[-1, 0] = Field(-1, description="p at operation t is that of step t + offset")
    snapshot_step_offset: Literal[0, 1] = Field(1, description="snapshots follow step delta_t / 2 + offset of an interval")
    source: Literal["snapshot", "current"] = Field(
        "snapshot",
        description="expanded ranks copy the half-interval snapshot (Eq. 11-12) or the current state (Eq. 9-10)",
    )
    moment_transfer: Literal["history", "keep", "zero"] = Field(
        FLAVORS["paper"]["moment_transfer"],
        description="Adam moments of the pruned ranks: copied with the parameters from the source; unchanged; zero",
    )
    pairing: Literal["random", "ranked"] = Field("random", description="which of the K best ranks each pruned one copies")
    score_average: Literal["logits", "scores"] = Field("logits", description="what the two ranks of a pair share equally")
    reset_gate_moments: bool = Field(True, description="zero the Adam moments of all score logits at every operation")
    max_prune_fraction: float = Field(
        FLAVORS["paper"]["max_prune_fraction"], gt=0, le=1, description="upper limit of K / r; 1 is no limit"
    )
    operations: bool = Field(True, description="false: the scores are trained, nothing is ever pruned or expanded")
    expansion: bool = Field(True, description="false: pruned ranks stay zero (Table 3, w/o Expansion)")
    dead_ranks: Literal["scored", "masked"] = Field(
        "scored",
        description="without expansion, a pruned rank keeps its logit, so it takes its part of the softmax and is ranked "
        "again; masked: its logit becomes -inf, the others share its part (they grow by it at once), and it is not ranked",
    )
    assessment: bool = Field(True, description="false: K random ranks instead of the K worst and best (w/o Assessment)")
    dynamic_p: bool = Field(True, description="false: p = p_init until the horizon (w/o Dynamic P)")

    @model_validator(mode="before")
    @classmethod
    def _flavor_defaults(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {**FLAVORS.get(data.get("flavor", "paper"), {}), **data}

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

    @model_validator(mode="after")
    def _dead_ranks(self) -> Self:
        if self.dead_ranks == "masked" and (self.expansion or self.max_prune_fraction == 1):
            raise ValueError(
                f"dead_ranks: found 'masked' with expansion {str(self.expansion).lower()} and max_prune_fraction "
                f"{self.max_prune_fraction}, expected expansion false (else no rank dies) and max_prune_fraction < 1 (else "
                "every rank may)"
            )
        return self

    @field_validator("delta_t")
    @classmethod
    def _even(cls, value: int) -> int:
        if value % 2:
            raise ValueError(f"delta_t: found {value}, expected an even number (the snapshot is taken half-way)")
        return value


class BeamLoRASettings(AdapterSettings, BeamSettings):
    """Settings of a BeamLoRA run. r, p_init and delta_t are the paper's (Table 4); lora_alpha = 2r is the released
    script's."""

    adapter_dtype: Literal["float32", "bfloat16"] = Field("float32", description="of A, B, g and their Adam moments")

    @model_validator(mode="after")
    def _room_to_prune(self) -> BeamLoRASettings:
        self.check_room(r=self.r)
        return self
