"""Where training shows its loss while it runs: TensorBoard, Weights & Biases, trackio. No number depends on it."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from harness.errors import ConfigError

#: Packages of each of which one is enough, by the Trainer's name of the integration.
PACKAGES = {"tensorboard": ("tensorboard", "tensorboardX"), "trackio": ("trackio",), "wandb": ("wandb",)}


def check(report_to: Sequence[str]) -> None:
    """Refuse an integration whose package is not there.

    Raises:
        ConfigError: names it, and how it is installed.
    """
    for name in report_to:
        if not any(importlib.util.find_spec(package) for package in PACKAGES[name]):
            raise ConfigError(
                f"found {name!r}, but its package is not installed; expected another, or: pip install {PACKAGES[name][0]}",
                keys=("report_to",),
            )
