"""BeamLoRA (Gu et al.): a LoRA whose ranks compete like the hypotheses of a beam search.

In a script of one's own::

    from beamlora import BeamLoraCallback, BeamLoraConfig

    model = get_peft_model(model, BeamLoraConfig(r=64, lora_alpha=128, p_init=0.95, delta_t=1200, task_type="CAUSAL_LM"))
    trainer = Trainer(model=model, ..., callbacks=[BeamLoraCallback()])

or, in a loop of one's own, ``beam = BeamLora(model, optimizer, total_steps=..., steps_per_epoch=...)`` and ``beam.step()``
after each ``optimizer.step()``.

Importing any of the lazy names below registers the PEFT type ``BEAMLORA``; do so before loading a native adapter. This
module itself imports neither torch nor PEFT, because the Snakefile reads method settings through it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from beamlora.beam import BeamLora
    from beamlora.callback import BeamLoraCallback
    from beamlora.config import BeamLoraConfig
    from beamlora.export import export_lora
    from beamlora.layer import BeamLoraLinear
    from beamlora.model import BeamLoraModel

__all__ = [
    "BeamLora",
    "BeamLoraCallback",
    "BeamLoraConfig",
    "BeamLoraLinear",
    "BeamLoraModel",
    "export_lora",
]

_LAZY = {
    "BeamLora": "beam",
    "BeamLoraCallback": "callback",
    "BeamLoraConfig": "config",
    "BeamLoraLinear": "layer",
    "BeamLoraModel": "model",
    "export_lora": "export",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    importlib.import_module(".model", __name__)  # registers the PEFT type
    return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
