"""From the layers of an experiment file to the settings of one run, and the check that every name in it exists. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import methods
from harness.config import Experiment, MethodSpec, RunSpec, TrainingSpec
from harness.did_you_mean import hint
from harness.experiment.yaml_file import located, validate
from methods.base import AdapterSettings


def check_names(experiment: Experiment, paths: Sequence[Path]) -> None:
    """Every name that points elsewhere in the file, or at a registered method, exists.

    Raises:
        ConfigError: the first one that does not, with the nearest that does.
    """

    def check(name: str, known: Iterable[str], keys: Sequence[Any], what: str) -> None:
        known = sorted(known)
        if name not in known:
            raise located(paths, keys, f"found unknown {what} {name!r}; {hint(name, known)}")

    for key, entry in experiment.methods.items():
        check(entry.method or key, methods.registry(), ["methods", key], "method")
    for i, override in enumerate(experiment.overrides):
        for field, known in (
            ("domain", experiment.domains),
            ("model", experiment.models),
            ("method", experiment.methods),
        ):
            for name in getattr(override, field) or ():
                check(name, known, ["overrides", i, field], field)
    for table, spec in experiment.tables.items():
        for domain in spec.domains:
            check(domain, experiment.domains, ["tables", table, "domains"], "domain")
        for model, keys in spec.methods.items():
            check(model, experiment.models, ["tables", table, "methods", model], "model")
            for key in keys:
                check(key, experiment.methods, ["tables", table, "methods", model], "method")
    for sweep, points in experiment.sweeps.items():
        for field, known in (("domains", experiment.domains), ("models", experiment.models), ("methods", experiment.methods)):
            for name in getattr(points, field):
                check(name, known, ["sweeps", sweep, field], field.removesuffix("s"))
    for section in ("pruning", "timing"):
        spec = getattr(experiment, section)
        if spec is not None:
            check(spec.domain, experiment.domains, [section, "domain"], "domain")
            check(spec.model, experiment.models, [section, "model"], "model")
            for name in spec.methods:
                check(name, experiment.methods, [section, "methods"], "method")
                if section == "pruning" and not methods.get(experiment.methods[name].method or name).cls.prunable:
                    raise located(paths, ["pruning", "methods"], f"found {name!r}, expected methods whose ranks can be pruned")
    if experiment.pruning is not None:
        known = experiment.domains[experiment.pruning.domain].evaluation.tasks
        for name in experiment.pruning.tasks or ():
            check(name, known, ["pruning", "tasks"], "task")
    if experiment.timing is not None:
        check(experiment.timing.baseline, experiment.timing.methods, ["timing", "baseline"], "method of this list")
    if experiment.base_evaluation is not None:
        for name in experiment.base_evaluation.models:
            check(name, experiment.models, ["base_evaluation", "models"], "model")
    for key in experiment.methods:
        if "." in key or "/" in key:
            raise located(paths, ["methods", key], "found a dot or a slash in the name, expected neither: names become paths")


_ALIASES = {alias: "r" for alias in ("lora_r", "lora_rank")}


def _layer(target: dict[str, Any], settings: Mapping[str, Any]) -> None:
    """Overlay settings, under their own names whatever alias the file uses."""
    target.update({_ALIASES.get(key, key): value for key, value in settings.items()})


def resolve_run(
    experiment: Experiment,
    *,
    domain: str,
    model: str,
    method: str,
    seed: int,
    paths: Sequence[Path],
    point: Mapping[str, Any] | None = None,
) -> RunSpec:
    """One run. ``point`` is laid over everything else: settings of training under their names, the rest the method's.

    Raises:
        ConfigError: a setting that the method or the training loop does not have, or a value that it does not take.
    """
    entry = experiment.methods[method]
    named = methods.get(entry.method or method)
    domain_spec = experiment.domains[domain]
    settings: dict[str, Any] = {}
    shared: dict[str, Any] = {}
    _layer(shared, experiment.adapter)
    _layer(shared, domain_spec.adapter)
    for key in shared:
        if key not in AdapterSettings.model_fields:
            raise located(
                paths,
                ["adapter", key],
                "found an unknown key; expected one of " + ", ".join(AdapterSettings.model_fields),
            )
    _layer(settings, {k: v for k, v in shared.items() if k in named.cls.Settings.model_fields})
    _layer(settings, named.preset)
    _layer(settings, entry.settings)
    training = {**experiment.training, **domain_spec.training, **entry.training}
    if set(entry.training) & {"max_steps", "num_train_epochs"}:
        training = {k: v for k, v in training.items() if k in entry.training or k not in ("max_steps", "num_train_epochs")}
    at = ["methods", method, "settings"]
    for i, override in enumerate(experiment.overrides):
        wanted = ((override.domain, domain), (override.model, model), (override.method, method))
        if all(names is None or name in names for names, name in wanted):
            _layer(
                settings,
                {
                    k: v
                    for k, v in override.settings.items()
                    if override.method is not None or _ALIASES.get(k, k) in named.cls.Settings.model_fields
                },
            )
            training.update(override.training)
            if override.settings:
                at = ["overrides", i, "settings"]
    if point is not None:
        training.update({key: value for key, value in point.items() if key in TrainingSpec.model_fields})
        _layer(settings, {key: value for key, value in point.items() if key not in TrainingSpec.model_fields})
        at = ["sweeps"]
    resolved = validate(named.cls.Settings, settings, paths=paths, at=at)
    return RunSpec(
        experiment=experiment.name,
        domain=domain,
        model_key=model,
        model=experiment.models[model],
        method=MethodSpec(
            key=method, label=entry.label or named.label, name=named.name, settings=resolved.model_dump(mode="json")
        ),
        data=domain_spec.train,
        training=validate(TrainingSpec, training, paths=paths, at=["training"]),
        evaluation=domain_spec.evaluation,
        seed=seed,
    )
