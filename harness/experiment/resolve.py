"""From the layers of an experiment file to the settings of one run, each with the key that gave it; and the check that every
name in the file exists. No torch."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import methods
from harness.did_you_mean import hint
from harness.errors import ConfigError, KeyPath
from harness.experiment.yaml_file import validate
from harness.schema.evaluation import InferenceSpec
from harness.schema.experiment import Experiment, Override
from harness.schema.run import MethodSpec, RunSpec
from harness.schema.training import TrainingSpec
from methods.base import AdapterSettings


def check_names(experiment: Experiment) -> None:
    """Every name that points elsewhere in the file, or at a registered method, exists.

    Raises:
        ConfigError: the first one that does not, with the nearest that does.
    """

    def check(name: str, known: Iterable[str], keys: KeyPath, what: str) -> None:
        known = sorted(known)
        if name not in known:
            raise ConfigError(f"found unknown {what} {name!r}; {hint(name, known)}", keys=keys)

    for key, entry in experiment.methods.items():
        check(entry.method or key, methods.registry(), ("methods", key), "method")
    for i, override in enumerate(experiment.overrides):
        for field, known in (
            ("domain", experiment.domains),
            ("model", experiment.models),
            ("method", experiment.methods),
        ):
            for name in getattr(override, field) or ():
                check(name, known, ("overrides", i, field), field)
    for table, spec in experiment.tables.items():
        for domain in spec.domains:
            check(domain, experiment.domains, ("tables", table, "domains"), "domain")
        for model, keys in spec.methods.items():
            check(model, experiment.models, ("tables", table, "methods", model), "model")
            labels: dict[str, str] = {}
            for key in keys:
                check(key, experiment.methods, ("tables", table, "methods", model), "method")
                label = label_of(experiment, key)
                if labels.setdefault(label, key) != key:
                    found = f"found the label {label!r} of {labels[label]!r} beside it in {table}, expected another"
                    raise ConfigError(found, keys=("methods", key, "label"))
    for sweep, points in experiment.sweeps.items():
        for field, known in (("domains", experiment.domains), ("models", experiment.models), ("methods", experiment.methods)):
            for name in getattr(points, field):
                check(name, known, ("sweeps", sweep, field), field.removesuffix("s"))
    for section in ("pruning", "timing"):
        spec = getattr(experiment, section)
        if spec is not None:
            check(spec.domain, experiment.domains, (section, "domain"), "domain")
            check(spec.model, experiment.models, (section, "model"), "model")
            for name in spec.methods:
                check(name, experiment.methods, (section, "methods"), "method")
                if section == "pruning" and not methods.get(experiment.methods[name].method or name).cls.prunable:
                    raise ConfigError(
                        f"found {name!r}, expected methods whose ranks can be pruned", keys=("pruning", "methods")
                    )
    if experiment.pruning is not None:
        tasks = experiment.domains[experiment.pruning.domain].evaluation.tasks
        for name in experiment.pruning.tasks or ():
            check(name, tasks, ("pruning", "tasks"), "task")
    if experiment.timing is not None:
        check(experiment.timing.baseline, experiment.timing.methods, ("timing", "baseline"), "method of this list")
    if experiment.base_evaluation is not None:
        for name in experiment.base_evaluation.models:
            check(name, experiment.models, ("base_evaluation", "models"), "model")


def check_overrides(experiment: Experiment, runs: Sequence[RunSpec]) -> None:
    """Every override changes some of ``runs``.

    Raises:
        ConfigError: it is for none of them, or has a setting that no method of those that it is for has.
    """
    for i, override in enumerate(experiment.overrides):
        names = {run.method.name for run in runs if i in overrides_for(experiment, **where_of(run))}
        if not names:
            raise ConfigError("found no run that it is for, expected one", keys=("overrides", i))
        known = sorted(set(chain(*(methods.get(name).cls.Settings.model_fields for name in names))))
        for setting in override.settings:
            if _ALIASES.get(setting, setting) not in known:
                raise ConfigError(f"found an unknown key; {hint(setting, known)}", keys=("overrides", i, "settings", setting))


def label_of(experiment: Experiment, method: str) -> str:
    """What a method's row is called."""
    entry = experiment.methods[method]
    return entry.label or methods.get(entry.method or method).label


_ALIASES = {alias: "r" for alias in ("lora_r", "lora_rank")}
#: Settings of training that replace each other.
_LENGTHS = {"max_steps", "num_train_epochs"}


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """One run, and which key of the experiment gave each of its settings; None: no key, the value is a default.

    Settings are called ``method.r``, ``training.learning_rate``, ``data.max_length``, ``evaluation.dtype`` and so on.
    """

    run: RunSpec
    origins: Mapping[str, KeyPath | None]


class _Layers:
    """Settings laid over each other, under their own names whatever alias the file uses, each with the key that gave it."""

    def __init__(self, aliases: Mapping[str, str]) -> None:
        self.aliases = aliases
        self.values: dict[str, Any] = {}
        self.keys: dict[str, KeyPath] = {}

    def lay(self, settings: Mapping[str, Any], at: KeyPath, *, known: Container[str] | None = None) -> None:
        """Overlay the settings that stand at ``at`` in the file, or of them those that are ``known``."""
        given: dict[str, str] = {}
        for key, value in settings.items():
            name = self.aliases.get(key, key)
            if given.setdefault(name, key) != key:
                raise ConfigError(f"found beside {given[name]}, which is the same setting, expected one", keys=(*at, key))
            if known is None or name in known:
                self.drop([name])  # which then comes last
                self.values[name], self.keys[name] = value, (*at, key)

    def lay_preset(self, settings: Mapping[str, Any], at: KeyPath) -> None:
        """Overlay what no file states, because the name at ``at`` stands for it."""
        self.values |= settings
        self.keys |= dict.fromkeys(settings, at)

    def drop(self, names: Iterable[str]) -> None:
        for name in names:
            self.values.pop(name, None)
            self.keys.pop(name, None)


def resolve_run(
    experiment: Experiment,
    *,
    domain: str,
    model: str,
    method: str,
    seed: int,
    point: tuple[str, int] | None = None,
) -> Resolved:
    """One run.

    Args:
        point: a sweep and the number of one of its points, which is laid over everything else: settings of training under
            their names, the rest the method's.

    Raises:
        ConfigError: a setting that the method or the training loop does not have, or a value that it does not take.
    """
    entry, domain_spec = experiment.methods[method], experiment.domains[domain]
    named = methods.get(entry.method or method)
    settings = _method_layers(experiment, named, domain=domain, method=method)
    training = _training_layers(experiment, domain=domain, method=method)
    at: tuple[Any, ...] = ("methods", method, "settings")
    for i, override in overrides_for(experiment, domain=domain, model=model, method=method).items():
        known = None if override.method is not None else named.cls.Settings.model_fields
        settings.lay(override.settings, ("overrides", i, "settings"), known=known)
        training.lay(override.training, ("overrides", i, "training"))
        if override.settings:
            at = ("overrides", i, "settings")
    if point is not None:
        sweep, number = point
        values = experiment.sweeps[sweep].points[number]
        for_training = values.keys() & TrainingSpec.model_fields.keys()
        training.lay(values, ("sweeps", sweep, "points", number), known=for_training)
        settings.lay({k: v for k, v in values.items() if k not in for_training}, ("sweeps", sweep, "points", number))
        at = ("sweeps",)
    checked = validate(named.cls.Settings, settings.values, at=at, origins=settings.keys).model_dump(mode="json")
    run = RunSpec(
        experiment=experiment.name,
        domain=domain,
        model_key=model,
        model=experiment.models[model],
        method=MethodSpec(key=method, label=label_of(experiment, method), name=named.name, settings=checked),
        data=domain_spec.train,
        training=validate(TrainingSpec, training.values, at=["training"], origins=training.keys),
        evaluation=domain_spec.evaluation,
        seed=seed,
    )
    origins = {f"method.{name}": settings.keys.get(name) for name in checked}
    origins |= {f"training.{name}": training.keys.get(name) for name in TrainingSpec.model_fields}
    return Resolved(run=run, origins=origins | _domain_origins(experiment, domain))


def _method_layers(experiment: Experiment, named: methods.NamedMethod, *, domain: str, method: str) -> _Layers:
    """The method's settings but for overrides: what all adapters share, what makes a variant, what its entry says."""
    shared = {("adapter",): experiment.adapter, ("domains", domain, "adapter"): experiment.domains[domain].adapter}
    layers = _Layers(_ALIASES)
    for at, settings in shared.items():
        for key in settings:
            if _ALIASES.get(key, key) not in AdapterSettings.model_fields:
                expected = ", ".join(AdapterSettings.model_fields)
                raise ConfigError(f"found an unknown key; expected one of {expected}", keys=(*at, key))
        layers.lay(settings, at, known=named.cls.Settings.model_fields)
    layers.lay_preset(named.preset, ("methods", method))
    layers.lay(experiment.methods[method].settings, ("methods", method, "settings"))
    return layers


def _training_layers(experiment: Experiment, *, domain: str, method: str) -> _Layers:
    """The settings of training but for overrides. A method with a length of its own has no other."""
    own = experiment.methods[method].training
    layers = _Layers({})
    layers.lay(experiment.training, ("training",))
    layers.lay(experiment.domains[domain].training, ("domains", domain, "training"))
    if own.keys() & _LENGTHS:
        layers.drop(_LENGTHS)
    layers.lay(own, ("methods", method, "training"))
    return layers


def where_of(run: RunSpec) -> dict[str, str]:
    """The domain, model and method of a run, as an experiment calls them: without the point of a sweep."""
    return {"domain": run.domain, "model": run.model_key, "method": run.method.key.partition(".")[0]}


def overrides_for(experiment: Experiment, **where: str) -> dict[int, Override]:
    """Place in the file -> override, of those that are meant for a domain, model and method."""
    meant = {}
    for i, override in enumerate(experiment.overrides):
        wanted = {field: getattr(override, field) for field in where}
        if all(names is None or where[field] in names for field, names in wanted.items()):
            meant[i] = override
    return meant


def _domain_origins(experiment: Experiment, domain: str) -> dict[str, KeyPath | None]:
    """Of what a domain says for all its runs: the training set; protocol of evaluation and how its answers are computed."""
    spec, at = experiment.domains[domain], ("domains", domain)
    keys: dict[str, KeyPath | None] = {
        f"data.{name}": (*at, "train", name) if name in spec.train.model_fields_set else None
        for name in type(spec.train).model_fields
        if name not in ("source", "format")
    }
    shared = "protocol" in experiment.model_fields_set and experiment.protocol == spec.evaluation.protocol
    keys["evaluation.protocol"] = ("protocol",) if shared else (*at, "evaluation", "protocol")
    return keys | {f"evaluation.{name}": (*at, "evaluation", name) for name in InferenceSpec.model_fields}
