"""``BeamLoraConfig``: a ``LoraConfig`` with everything BeamLoRA adds, so that every setting travels in
adapter_config.json."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from peft import LoraConfig

from beamlora.settings import SETTINGS, BeamSettings


class PluginPeftType(str):
    """The name of a PEFT type from outside PEFT. ``peft.PeftType`` is a closed enum; this has the ``value`` and the long
    form that users of its members read, and is equal to the plain string that adapter_config.json holds."""

    @property
    def value(self) -> str:
        return str.__str__(self)

    def __str__(self) -> str:
        return f"PeftType.{self.value}"


BEAMLORA = PluginPeftType("BEAMLORA")

#: Options of LoraConfig that change the parametrisation or the initialisation in a way that BeamLoRA's ranks cannot
#: follow.
UNSUPPORTED = (
    "use_dora",
    "use_rslora",
    "use_qalora",
    "lora_bias",
    "layer_replication",
    "target_parameters",
    "megatron_config",
    "loftq_config",
    "eva_config",
    "corda_config",
    "lora_ga_config",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "use_bdlora",
    "velora_config",
    "ensure_weight_tying",
)


@dataclass
class BeamLoraConfig(LoraConfig, BeamSettings):
    """Configuration of a BeamLoRA adapter: LoraConfig's fields (``lora_alpha = 2 r`` is the released script's choice)
    and those of ``beamlora.settings.BeamSettings``, where each is described. None stands for the flavor's value;
    ``beam_settings`` has every value resolved.

    Raises:
        ValueError: an impossible value, or a LoRA option that BeamLoRA does not support.
    """

    def __post_init__(self) -> None:
        LoraConfig.__post_init__(self)
        self.peft_type = BEAMLORA
        self._refuse_unsupported()
        #: Where PEFT or transformers wrote this configuration last, for ``BeamLoraCallback`` to put its state there too.
        self.saved_to: Path | None = None
        try:
            self.beam_settings.check_room(r=max([self.r, *(self.rank_pattern or {}).values()]))
        except ValueError as error:
            raise ValueError(f"BeamLoraConfig: {error}") from None

    @property
    def beam_settings(self) -> BeamSettings:
        """The resolved settings of the mechanism.

        Raises:
            ValueError: an impossible value.
        """
        return BeamSettings(**{name: getattr(self, name) for name in SETTINGS})

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """As PEFT's."""
        super().save_pretrained(save_directory, **kwargs)
        self.saved_to = Path(save_directory)

    def to_dict(self) -> dict[str, Any]:
        """As PEFT's, with sets as sorted lists: the same adapter gives the same file in every process."""
        return {k: sorted(v) if isinstance(v, set) else v for k, v in super().to_dict().items()}

    def to_lora_config(self) -> LoraConfig:
        """The configuration of the equivalent plain LoRA adapter (scores folded into A)."""
        return LoraConfig(**{f.name: getattr(self, f.name) for f in fields(LoraConfig) if f.init and f.name != "peft_type"})

    def _refuse_unsupported(self) -> None:
        used = [name for name in UNSUPPORTED if getattr(self, name, None)]
        if used:
            raise ValueError(f"BeamLoraConfig: found {', '.join(used)}, which BeamLoRA does not support; leave them out")
        if not (isinstance(self.init_lora_weights, bool) or self.init_lora_weights == "gaussian"):
            raise ValueError(
                f"BeamLoraConfig: init_lora_weights: found {self.init_lora_weights!r}, expected true, false or 'gaussian'"
            )
