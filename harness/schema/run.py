"""One run: everything that can change its numbers. Its canonical JSON is the rerun trigger."""

from __future__ import annotations

import hashlib
from typing import Any

from harness.schema.base_models import BaseModelSpec
from harness.schema.data import TrainingData
from harness.schema.evaluation import EvaluationSpec
from harness.schema.fields import SCHEMA_VERSION, Frozen, canonical_json
from harness.schema.training import TrainingSpec


class MethodSpec(Frozen):
    """A resolved method: the row's key and label, the registered name, and every setting with its value."""

    key: str
    label: str
    name: str
    settings: dict[str, Any]


class RunSpec(Frozen):
    """Everything that can change one run's numbers."""

    schema_version: int = SCHEMA_VERSION
    experiment: str
    domain: str
    model_key: str
    model: BaseModelSpec
    method: MethodSpec
    data: TrainingData
    training: TrainingSpec
    evaluation: EvaluationSpec
    seed: int

    @property
    def run_id(self) -> str:
        """domain/model/method/seedN: the identity of a run inside its experiment, and its path."""
        return f"{self.domain}/{self.model_key}/{self.method.key}/seed{self.seed}"

    def training_json(self) -> str:
        """What the trained artefact depends on: no labels, nothing of the evaluation."""
        spec = self.model_dump(mode="json", exclude={"evaluation": True, "model": {"label", "stands_for"}, "method": {"label"}})
        return canonical_json(spec)

    def training_hash(self) -> str:
        """16 hex digits; names the run's scratch folder."""
        return hashlib.sha256(self.training_json().encode()).hexdigest()[:16]

    def evaluation_json(self) -> str:
        """What the metrics depend on beside the trained artefact."""
        return canonical_json(self.evaluation)
