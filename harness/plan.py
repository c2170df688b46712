"""From experiment files to runs: reading, checking, overriding and expanding. No torch."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

import methods
from harness.config import (
    BuiltModel,
    ConfigError,
    Experiment,
    Frozen,
    MethodSpec,
    RunSpec,
    TableSpec,
    TrainingSpec,
    content_hash,
)
from methods.base import AdapterSettings

# --------------------------------------------------------------------------------------------------------------- reading


class _UniqueKeyLoader(yaml.SafeLoader):
    """A key that stands twice is an error; YAML itself would silently keep the last one."""


def _construct_unique(loader: _UniqueKeyLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            mark = key_node.start_mark
            raise ConfigError(f"{mark.name}:{mark.line + 1}: {key}: found twice, expected once")
        seen.add(key)
    loader.flatten_mapping(node)  # "<<: *anchor" puts the anchor's keys first, so that the mapping's own win
    pairs = [(loader.construct_object(key, deep=True), loader.construct_object(value, deep=True)) for key, value in node.value]
    return dict(pairs)


_UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_unique)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        with path.open(encoding="utf-8") as stream:
            content = yaml.load(stream, Loader=_UniqueKeyLoader)
    except FileNotFoundError:
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.yaml")], n=1)
        hint = f"; did you mean {path.parent / near[0]}?" if near else ""
        raise ConfigError(f"{path}: found no such file, expected an experiment{hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: found invalid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: found {type(content).__name__}, expected a mapping of keys")
    return content


def _line_of(path: Path, keys: Sequence[Any]) -> int | None:
    """The line of the deepest of ``keys`` that the file has."""
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return None
    line = None
    for key in keys:
        if isinstance(node, yaml.MappingNode):
            pairs = [(k, v) for k, v in node.value if k.value == str(key)]
            if not pairs:
                break
            line, node = pairs[0][0].start_mark.line + 1, pairs[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
            node = node.value[key]
            line = node.start_mark.line + 1
        else:
            break
    return line


def _located(paths: Sequence[Path], keys: Sequence[Any], message: str) -> ConfigError:
    """An error that names the last file that has the key, the line and the dotted key."""
    dotted = ".".join(str(k) for k in keys)
    for path in reversed(paths):
        line = _line_of(path, keys)
        if line is not None:
            return ConfigError(f"{path}:{line}: {dotted}: {message}")
    return ConfigError(f"{paths[-1]}: {dotted}: {message}")


def _field_names() -> set[str]:
    """Every key that some model of the schema has: what an unknown key is compared with."""
    names: set[str] = set()
    pending: list[type[BaseModel]] = [Frozen]
    while pending:
        model = pending.pop()
        names |= set(model.model_fields)
        pending += model.__subclasses__()
    return names


def _describe(error: Mapping[str, Any]) -> tuple[list[Any], str]:
    """Keys and message of one pydantic error, with the union tags taken out of the keys."""
    keys = [k for k in error["loc"] if k not in ("built", "hub", "local", "gguf", "generated", "files")]
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(keys[-1]), _field_names(), n=1)
        return keys, "found an unknown key" + (f"; did you mean {near[0]!r}?" if near else "")
    if error["type"] == "missing":
        return keys, "found nothing, expected this key"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error":
        return keys, message
    return keys, f"found {error['input']!r}: {message}"


def _validate(model: type[BaseModel], value: Any, *, paths: Sequence[Path], at: Sequence[Any] = ()) -> Any:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        keys, message = _describe(error.errors()[0])
        raise _located(paths, [*at, *keys], message) from None


def _apply(content: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key. A mapping is merged into the one that stands there, as Snakemake's ``--config`` does."""
    *parents, last = key.split(".")
    for parent in parents:
        content = content.setdefault(parent, {})
        if not isinstance(content, dict):
            raise ConfigError(f"{key}: found a plain value at {parent!r}, expected a mapping")
    if isinstance(value, Mapping) and isinstance(content.get(last), dict):
        for name, item in value.items():
            _apply(content[last], name, item)
    else:
        content[last] = value


def _as_seeds(value: Any) -> Any:
    """``seeds=5`` means five seeds, 0 to 4; ``seeds=0,3`` names them."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return list(range(value))
    if isinstance(value, str) and all(part.strip().isdigit() for part in value.split(",")):
        return [int(part) for part in value.split(",")]
    return value


def load_experiment(paths: Sequence[Path], overrides: Mapping[str, Any] | None = None) -> Experiment:
    """Read and check an experiment.

    Args:
        paths: YAML files; the keys of later files win, mappings are merged.
        overrides: dotted key -> value, applied last.

    Raises:
        ConfigError: anything that is wrong with the files, before any work.
    """
    content: dict[str, Any] = {}
    for path in paths:
        for key, value in _read_yaml(path).items():
            _apply(content, key, value)
    for key, value in (overrides or {}).items():
        _apply(content, key, value)
    if "seeds" in content:
        content["seeds"] = _as_seeds(content["seeds"])
    experiment = _validate(Experiment, content, paths=paths)
    _check_names(experiment, paths)
    for table in experiment.tables:
        table_runs(experiment, table, paths=paths)
    return experiment


def _check_names(experiment: Experiment, paths: Sequence[Path]) -> None:
    """Every name that points elsewhere in the file, or at a registered method, exists."""

    def check(name: str, known: Iterable[str], keys: Sequence[Any], what: str) -> None:
        known = sorted(known)
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(known)}"
            raise _located(paths, keys, f"found unknown {what} {name!r}; {hint}")

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


# ------------------------------------------------------------------------------------------------------------- expanding

_ALIASES = {alias: "r" for alias in ("lora_r", "lora_rank")}


def _layer(target: dict[str, Any], settings: Mapping[str, Any]) -> None:
    """Overlay settings, under their own names whatever alias the file uses."""
    target.update({_ALIASES.get(key, key): value for key, value in settings.items()})


def _resolve_run(experiment: Experiment, *, domain: str, model: str, method: str, seed: int, paths: Sequence[Path]) -> RunSpec:
    entry = experiment.methods[method]
    named = methods.get(entry.method or method)
    domain_spec = experiment.domains[domain]
    settings: dict[str, Any] = {}
    shared: dict[str, Any] = {}
    _layer(shared, experiment.adapter)
    _layer(shared, domain_spec.adapter)
    for key in shared:
        if key not in AdapterSettings.model_fields:
            raise _located(
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
    resolved = _validate(named.cls.Settings, settings, paths=paths, at=at)
    return RunSpec(
        experiment=experiment.name,
        domain=domain,
        model_key=model,
        model=experiment.models[model],
        method=MethodSpec(
            key=method, label=entry.label or named.label, name=named.name, settings=resolved.model_dump(mode="json")
        ),
        data=domain_spec.train,
        training=_validate(TrainingSpec, training, paths=paths, at=["training"]),
        evaluation=domain_spec.evaluation,
        seed=seed,
    )


def table_runs(experiment: Experiment, table: str, *, paths: Sequence[Path] = (Path("experiment"),)) -> list[RunSpec]:
    """The runs behind one table, in row order: domain, model, method, seed.

    Raises:
        ConfigError: the experiment has no such table, or a method's settings are wrong.
    """
    if table not in experiment.tables:
        raise ConfigError(f"{paths[-1]}: tables: found {sorted(experiment.tables)}, expected {table!r}")
    spec: TableSpec = experiment.tables[table]
    return [
        _resolve_run(experiment, domain=domain, model=model, method=method, seed=seed, paths=paths)
        for domain in spec.domains
        for model, keys in spec.methods.items()
        for method in keys
        for seed in experiment.seeds
    ]


def all_runs(experiment: Experiment) -> list[RunSpec]:
    """The runs of every table, each once."""
    found = {run.run_id: run for table in experiment.tables for run in table_runs(experiment, table)}
    return list(found.values())


def load_run(paths: Sequence[Path], overrides: Mapping[str, Any], run_id: str) -> tuple[Experiment, RunSpec]:
    """One run of an experiment by its id, domain/model/method/seedN.

    Raises:
        ConfigError: the experiment has no such run.
    """
    experiment = load_experiment(paths, overrides)
    runs = {run.run_id: run for run in all_runs(experiment)}
    if run_id not in runs:
        near = difflib.get_close_matches(run_id, runs, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"the experiment has {len(runs)} runs"
        raise ConfigError(f"{paths[-1]}: found no run {run_id!r}; {hint}")
    return experiment, runs[run_id]


def base_model_folder(key: str, source: BuiltModel) -> str:
    """The folder name, below the models folder, of a stand-in: its key and the hash of its recipe."""
    return f"{key}-{content_hash(source)}"


def base_models(runs: Iterable[RunSpec]) -> dict[str, tuple[str, BuiltModel]]:
    """The stand-ins that must be built for ``runs``: folder name -> (model key, recipe)."""
    return {
        base_model_folder(run.model_key, run.model.source): (run.model_key, run.model.source)
        for run in runs
        if isinstance(run.model.source, BuiltModel)
    }
