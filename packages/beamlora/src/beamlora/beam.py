"""``BeamLora``: BeamLoRA's snapshots and operations between the steps of any training loop."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from beamlora.adapter_state import AdapterTensors, check_replicas, trainable_adapter
from beamlora.layer import attend
from beamlora.operation import OperationPlan, apply_plan, make_plan, private_permutations, snapshot_keys
from beamlora.schedule import Schedule
from beamlora.settings import SETTINGS

#: What ``BeamLora.state_dict`` holds.
STATE_KEYS = ("settings", "steps", "gates", "snapshot", "snapshot_step", "records")


class BeamLora:
    """Takes the half-interval snapshots, prunes and expands, and remembers what it did.

    One call of ``step`` after each ``optimizer.step()`` is all that a loop needs::

        beam = BeamLora(model, optimizer, total_steps=3 * len(loader), steps_per_epoch=len(loader))
        for batch in batches:
            model(**batch).loss.backward()
            optimizer.step()
            beam.step()
            optimizer.zero_grad()

    The same under accelerate, after ``accelerator.prepare``: with ``accelerator.accumulate``, calls between two updates do
    not count. All settings come from the adapter's own ``BeamLoraConfig``.

    Args:
        model: with one trainable BeamLoRA adapter, wrapped or not by DistributedDataParallel and torch.compile.
        optimizer: torch's Adam or AdamW, or accelerate's wrapper of one.
        total_steps: optimizer steps of the whole run.
        steps_per_epoch: optimizer steps, for ``threshold_horizon="two_epochs"``. None: the loop knows no epochs, and p
            arrives at 1 after ``total_steps`` (Eq. 14), unless the configuration has ``horizon_steps``.
        seed: of the random pairings; the same in all processes.

    Raises:
        TypeError: no single trainable BeamLoRA adapter, or an optimizer without Adam's moments.
        ValueError: no operation fits into the run, no rank could be pruned, parameters are sharded, or the optimizer's weight
            decay does not go with masked ranks.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        total_steps: int,
        steps_per_epoch: int | None = None,
        seed: int = 0,
    ) -> None:
        name, config = trainable_adapter(model)
        settings = config.beam_settings
        if steps_per_epoch is None:
            settings = replace(settings, threshold_horizon="total")
        self.schedule = Schedule.for_run(settings, total_steps=total_steps, steps_per_epoch=steps_per_epoch)
        self.schedule.check()
        self.seed = seed
        self.adapter = AdapterTensors.of(model, optimizer, adapter=name)
        if settings.operations:
            self.adapter.check_optimizer(masked=settings.dead_ranks == "masked")
            settings.check_room(r=max(module.r[name] for module in self.adapter.modules.values()))
        #: Finished optimizer steps.
        self.steps = 0
        #: One entry per operation: step, p, and per module its name, K, the pruned ranks and their sources.
        self.records: list[dict[str, Any]] = []
        self.snapshot: dict[str, dict[str, torch.Tensor]] | None = None
        self.snapshot_step: int | None = None
        self._accumulation = getattr(optimizer, "gradient_state", None)  # of accelerate
        attend(self.adapter.modules.values(), name)

    def step(self) -> OperationPlan | None:
        """To be called after each ``optimizer.step()``: counts it, and takes a snapshot or operates where one is due.

        Returns:
            What the operation did; None where there was none.

        Raises:
            RuntimeError: the snapshot of this operation is missing, or processes hold different adapters.
        """
        if self._accumulation is not None and not self._accumulation.sync_gradients:
            return None
        self.steps += 1
        if self.schedule.is_snapshot_step(self.steps):
            self._take_snapshot()
        if not self.schedule.is_operation_step(self.steps):
            return None
        plan = self._operate()
        self.records.append(plan.to_json())
        return plan

    def _take_snapshot(self) -> None:
        self.snapshot = {
            name: {key: tensors[key].detach().to("cpu", copy=True) for key in snapshot_keys(tensors)}
            for name, tensors in self.adapter.items()
        }
        self.snapshot_step = self.steps

    @torch.no_grad()
    def _operate(self) -> OperationPlan:
        settings, adapter = self.schedule.settings, self.adapter
        plan = make_plan(
            adapter.scores(),
            step=self.steps,
            p=self.schedule.threshold(self.steps),
            settings=settings,
            permutations=private_permutations(seed=self.seed, step=self.steps),
        )
        history = self._history() if any(m.pruned for m in plan.modules) else {}
        for module in plan.modules:
            after = apply_plan(adapter[module.name], history.get(module.name), module, settings=settings)
            adapter.write(module.name, after)
        self.snapshot = self.snapshot_step = None
        check_replicas(adapter, step=self.steps)
        return plan

    def _history(self) -> dict[str, dict[str, torch.Tensor]]:
        """The snapshot for the operation that is due; empty where the settings need none."""
        if not self.schedule.settings.uses_snapshots:
            return {}
        expected = self.schedule.snapshot_step(self.steps)
        if self.snapshot is None or self.snapshot_step != expected:
            raise RuntimeError(
                f"operation after step {self.steps}: found a snapshot of step {self.snapshot_step}, expected one of step "
                f"{expected}; was the run resumed without BeamLoRA's state, or did a version save it that took no snapshots "
                "for longer runs?"
            )
        return self.snapshot

    # ---- state

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside model and optimizer; ``torch.load(weights_only=True)`` reads it."""
        return {
            "settings": self._settings(),
            "steps": self.steps,
            "gates": self.adapter.gate_digest(),
            "snapshot": self.snapshot,
            "snapshot_step": self.snapshot_step,
            "records": json.dumps(self.records),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned, after the model's own tensors.

        ``total_steps`` may be another than in the saved run, as long as the horizon is the same. An operation that a shorter
        run left out, because fewer than ``delta_t`` steps remained, stays left out when a longer run goes on from behind it.

        Raises:
            ValueError: ``state`` lacks a part, was saved under other settings, or belongs to other weights.
        """
        missing = [key for key in STATE_KEYS if key not in state]
        if missing:
            raise ValueError(f"BeamLoRA's state: found {sorted(state)}, expected also {missing}")
        saved, present = state["settings"], self._settings()
        changed = [
            f"{name}: found {present.get(name)!r}, expected {saved.get(name)!r} as in the saved run"
            for name in sorted(saved.keys() | present.keys())
            if saved.get(name) != present.get(name)
        ]
        if changed:
            raise ValueError("a run is resumed with its own settings; " + "; ".join(changed))
        if state["gates"] != self.adapter.gate_digest():
            raise ValueError(
                "found the state of other weights than those that were loaded, expected that of the same checkpoint"
            )
        self.steps = state["steps"]
        self.snapshot = state["snapshot"]
        self.snapshot_step = state["snapshot_step"]
        self.records = json.loads(state["records"])

    def _settings(self) -> dict[str, Any]:
        """All that decides when BeamLoRA does what. How the horizon came about does not matter."""
        names = [name for name in SETTINGS if name not in ("threshold_horizon", "horizon_steps")]
        settings = {name: getattr(self.schedule.settings, name) for name in names}
        return {**settings, "horizon": self.schedule.horizon, "seed": self.seed}
