"""A miniature experiment that tests change one key at a time."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

import methods

#: Two methods on a stand-in of 150 k parameters; a run trains in about a second.
MINIATURE: dict[str, Any] = {
    "name": "mini",
    "title": "miniature",
    "seeds": [0],
    "gpu": False,
    "models": {
        "llama-mini": {
            "label": "Llama miniature",
            "stands_for": "llama2-7b",
            "source": {
                "kind": "built",
                "architecture": "llama",
                "hidden_size": 64,
                "intermediate_size": 128,
                "num_hidden_layers": 1,
                "num_attention_heads": 4,
                "num_key_value_heads": 4,
                "pretraining": {"max_steps": 10, "learning_rate": 3e-3, "corpus_documents": 400},
            },
        }
    },
    "domains": {
        "math": {
            "train": {
                "source": {"kind": "generated", "generator": "metamath", "rows": 96, "seed": 1},
                "format": "metamath",
                "max_length": 256,
            },
            "evaluation": {
                "tasks": {
                    "gsm8k": {
                        "source": {"kind": "generated", "generator": "gsm8k", "rows": 8, "seed": 2},
                        "format": "gsm8k",
                        "prompt_template": "alpaca",
                        "max_new_tokens": 16,
                        "grader": "sound",
                    }
                }
            },
        }
    },
    "training": {"learning_rate": 3e-3, "per_device_train_batch_size": 8, "max_steps": 12, "logging_steps": 2, "save_steps": 4},
    "adapter": {"r": 8, "lora_alpha": 16},
    "methods": {"lora": {}, "dora": {}},
    "tables": {"table1": {"domains": ["math"], "methods": {"llama-mini": ["lora", "dora"]}}},
}


def miniature(**changes: Any) -> dict[str, Any]:
    """The miniature with dotted keys changed, such as ``miniature(**{"training.max_steps": 3})``."""
    content = copy.deepcopy(MINIATURE)
    for key, value in changes.items():
        *parents, last = key.split(".")
        target = content
        for parent in parents:
            target = target.setdefault(parent, {})
        target[last] = value
    return content


def write(folder: Path, content: dict[str, Any]) -> Path:
    """Write an experiment file."""
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


#: Settings with which each mechanism acts several times within 16 steps.
SETTINGS: dict[str, dict[str, Any]] = {
    "beamlora": {"delta_t": 4, "horizon_steps": 14, "p_init": 0.8},
    "adalora": {"tinit": 2, "tfinal": 4, "deltaT": 1},
    "relora": {"merge_every": 5, "restart_warmup": 2},
    "increlora": {"growth_start": 2, "growth_end": 12, "top_h": 7},
}


def settings_of(name: str) -> dict[str, Any]:
    """Those of a method, or of the one that it is a variant of."""
    return SETTINGS.get(methods.get(name).cls.name, {})
