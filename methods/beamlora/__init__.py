"""BeamLoRA as a method of the harness; the adapter itself is the package ``beamlora``."""

from methods.beamlora.method import BeamLoRA
from methods.beamlora.settings import BeamLoRASettings

__all__ = ["BeamLoRA", "BeamLoRASettings"]
