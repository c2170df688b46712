"""Settings of BeamLoRA runs: those of the adapter (``beamlora.settings``, which also says where the paper and the released code
disagree) as part of a run's spec."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from beamlora.settings import SETTINGS, BeamSettings, fault, with_flavor
from methods.base import AdapterSettings


class BeamLoRASettings(AdapterSettings, BeamSettings):
    """Settings of a BeamLoRA run. r, p_init and delta_t are the paper's (Table 4); lora_alpha = 2r is the released
    script's."""

    adapter_dtype: Literal["float32", "bfloat16"] = Field("float32", description="of A, B, g and their Adam moments")

    @model_validator(mode="before")
    @classmethod
    def _flavor_defaults(cls, data: Any) -> Any:
        return with_flavor(data) if isinstance(data, dict) else data

    @field_validator(*SETTINGS)
    @classmethod
    def _possible(cls, value: Any, info: ValidationInfo) -> Any:
        if wrong := fault(str(info.field_name), value):
            raise ValueError(wrong)
        return value

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        self.check()
        self.check_room(r=self.r)
        return self
