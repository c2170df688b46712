"""Tasks of lm-evaluation-harness on a model that is already in memory.

``evaluation.lm_eval`` of an experiment names tasks, groups or tags of lm-eval, or of YAML files in a folder of one's own.
They keep lm-eval's prompts, tokenisation and metrics: their numbers compare with lm-eval's elsewhere, not with ours.

Two steps, so that nothing expensive happens before bad input is found: ``load_tasks`` resolves the names and reads the
data, ``run_lm_eval`` asks the model.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from harness.did_you_mean import suggestion
from harness.errors import ConfigError
from harness.schema.evaluation import LmEvalSpec

if TYPE_CHECKING:
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

#: Resamples for standard errors that have no closed form. lm-eval's default of 100,000 takes minutes for some metrics.
_BOOTSTRAP_ITERATIONS = 1000


# ------------------------------------------------------------------------------------------------------- names and data


def _members(manager: TaskManager, name: str) -> Iterator[str]:
    """The names of the tasks that a task, group or tag stands for, as far as the index knows them."""
    entry = manager.task_index.get(name)
    if entry is None:
        return
    children = entry.tags if name in manager.all_tags else (entry.cfg or {}).get("task")
    if name not in manager.all_tags and name not in manager.all_groups:
        yield name
        return
    for child in sorted(children) if isinstance(children, set) else children or ():
        child = child if isinstance(child, str) else child.get("task") or child.get("group")
        if isinstance(child, str) and child != name:
            yield from _members(manager, child)


def check_names(manager: TaskManager, names: Sequence[str]) -> None:
    """Refuse what cannot be evaluated, before anything is downloaded.

    Raises:
        ConfigError: a name that lm-eval does not know (with the nearest ones), or a task that executes model-written
            code in this process.
    """
    unknown = [name for name in names if name not in manager.task_index]
    if unknown:
        # Of thousands of tasks in families of like names, the nearest one alone is often not the one that was meant.
        near = suggestion(unknown[0], manager.all_tasks, most=3, cutoff=0.5)
        fault = f"found {', '.join(map(repr, unknown))}, expected tasks that lm-eval knows"
        raise ConfigError(f"{fault}{near and f'; {near}'}", keys=("tasks",))
    for name in names:
        for member in _members(manager, name):
            if (manager.task_index[member].cfg or {}).get("unsafe_code"):
                raise _unsafe(member)


def _unsafe(task: str) -> ConfigError:
    return ConfigError(
        f"{task} executes what the model writes in lm-eval's own process (unsafe_code), which this harness never does; "
        "expected tasks without code. HumanEval and MBPP run in the sandbox as evaluation.tasks of format humaneval, mbpp",
        keys=("tasks",),
    )


def task_manager(spec: LmEvalSpec, *, include_defaults: bool = True, metadata: Mapping[str, Any] | None = None) -> TaskManager:
    """lm-eval's index, in which all names of ``spec`` are tasks that can be evaluated. About 8 s for its own 14,000 tasks.

    Args:
        include_defaults: whether lm-eval's own tasks are known, beside those in ``spec.include_path``.
        metadata: what lm-eval's ``--metadata`` gives to tasks.

    Raises:
        ConfigError: by the key of ``spec``: lm-eval is not installed, ``include_path`` is no folder, or a name is unknown or
            unsafe.
    """
    if find_spec("lm_eval") is None:
        raise ConfigError("found no package lm_eval, expected it from 'pip install beamlora-harness[lm-eval]'")
    if spec.include_path is not None and not Path(spec.include_path).is_dir():
        found = f"found no folder {spec.include_path}, expected one with YAML files of tasks"
        raise ConfigError(found, keys=("include_path",))
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # otherwise a page of information for each task
    manager = TaskManager(
        include_path=spec.include_path, include_defaults=include_defaults, metadata=dict(metadata) if metadata else None
    )
    check_names(manager, spec.tasks)
    return manager


def load_tasks(spec: LmEvalSpec, **index: Any) -> dict[str, Any]:
    """Resolve the names, as ``task_manager`` does with ``index``, and read the data of all tasks.

    Returns:
        lm-eval's dictionary of tasks and groups, for ``run_lm_eval``.

    Raises:
        ConfigError: as there, or data cannot be had (all such tasks are named).
    """
    manager = task_manager(spec, **index)
    loaded: dict[str, Any] = {"tasks": {}, "groups": {}, "group_map": {}}
    failed: dict[str, str] = {}
    for name in spec.tasks:
        try:
            resolved = manager.load([name])
        except ConfigError:
            raise
        except Exception as error:  # the code of tasks and the hub client raise anything; all mean "not to be had"
            failed[name] = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            continue
        for key, value in resolved.items():
            loaded[key] |= value
    if failed:
        reasons = "; ".join(f"{name} ({reason})" for name, reason in failed.items())
        raise ConfigError(
            f"cannot load {reasons}; expected the packages that they need, and network or their sets in the hub client's cache",
            keys=("tasks",),
        )
    for name, task in loaded["tasks"].items():
        if getattr(task, "UNSAFE_CODE", False):
            raise _unsafe(name)
    return loaded


# -------------------------------------------------------------------------------------------------------------- running


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def file_samples(samples: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Logged samples in the form of lm-eval's ``samples_*.jsonl``: arguments by name, responses as text, plain JSON."""
    from lm_eval.utils import handle_non_serializable, sanitize_list

    rows = []
    for sample in samples:
        arguments = {
            f"gen_args_{i}": {f"arg_{j}": value for j, value in enumerate(request)}
            for i, request in enumerate(sample["arguments"])
        }
        row = dict(sample) | {
            "arguments": arguments,
            "resps": sanitize_list(sample["resps"]),
            "filtered_resps": sanitize_list(sample["filtered_resps"]),
            "target": str(sample["target"]),
        }
        rows.append(json.loads(json.dumps(row, default=handle_non_serializable)))
    return rows


def evaluate(lm: HFLM, tasks: Mapping[str, Any], *, limit: int | None = None, num_fewshot: int | None = None) -> dict[str, Any]:
    """lm-eval's own result (its ``EvalResults``, samples included) of what ``load_tasks`` gave. Logits are float32 whatever
    the model's dtype, as in our own evaluation: of equal choices lm-eval takes the first."""
    from lm_eval import simple_evaluate

    from harness.models.output_layer import float32_head

    # Stands in for the task manager, which would index lm-eval's 14,000 tasks again and load these a second time.
    loaded = SimpleNamespace(load=lambda names: tasks, task_index={})
    with float32_head(lm.model):
        results = simple_evaluate(
            model=lm,
            tasks=list(tasks["tasks"]),
            num_fewshot=num_fewshot,
            limit=limit,
            bootstrap_iters=_BOOTSTRAP_ITERATIONS,
            task_manager=loaded,
        )
    assert results is not None  # only other ranks of a distributed run get nothing
    return dict(results)


def run_lm_eval(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, spec: LmEvalSpec, *, tasks: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Evaluate the tasks of ``spec``. The model's train mode is restored; the seeds of Python, NumPy and torch are lm-eval's
    afterwards.

    Args:
        tasks: what ``load_tasks`` gave.

    Returns:
        For each task: ``metrics`` (lm-eval's names, ``acc,none`` and ``acc_stderr,none``; None where lm-eval has no number),
        ``samples`` (in the form of ``samples_*.jsonl``), ``version``, ``n``, ``n_original`` (without the limit),
        ``num_fewshot`` and ``higher_is_better``. A group has no samples, the sum of its tasks' n, and ``subtasks``.
    """
    from lm_eval.models.huggingface import HFLM

    from harness.models.output_layer import evaluation_mode

    with evaluation_mode(model):
        lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=spec.batch_size)
        results = evaluate(lm, tasks, limit=spec.limit, num_fewshot=spec.num_fewshot)
    # A group without an aggregate of its own has no sample_len: it is only a name for its tasks.
    return {name: _task_result(name, result, results) for name, result in results["results"].items() if "sample_len" in result}


def _task_result(name: str, result: Mapping[str, Any], results: Mapping[str, Any]) -> dict[str, Any]:
    subtasks = results.get("group_subtasks", {}).get(name) or []
    return {
        "metrics": {key: _number(value) for key, value in result.items() if "," in key},
        "samples": file_samples(results["samples"].get(name, ())),
        "version": results["versions"].get(name),
        "n": result["sample_len"],
        "n_original": results["n-samples"].get(name, {}).get("original"),
        "num_fewshot": results["n-shot"].get(name),
        "higher_is_better": results["higher_is_better"].get(name, {}),
    } | ({"subtasks": list(subtasks)} if subtasks else {})
