"""How the numbers were made: models, data, versions, hardware, commits, cost, contamination; from the records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from harness import reported
from harness.experiment.runs import all_runs
from harness.report.others import Block, Cell
from harness.report.sources import Source
from harness.schema.data import DataSource, which_rows
from harness.schema.run import RunSpec
from harness.tables import words as text


@dataclass(frozen=True, kw_only=True)
class Model:
    """A base model; ``stands_for`` is the paper's, ``stand_in`` says that ours takes its place."""

    label: str
    stands_for: str | None
    stand_in: bool
    what: str


@dataclass(frozen=True, kw_only=True)
class Made:
    models: tuple[Model, ...]
    #: (name, value) pairs.
    facts: tuple[tuple[str, str], ...]
    data: Block
    contamination: Block | None


def _listed(values: Iterable[Any]) -> str:
    """Distinct values with how often each occurs where there are several, the most common first."""
    counts = Counter(value for value in values if value)
    if len(counts) == 1:
        return str(next(iter(counts)))
    return "; ".join(f"{value} ({n} runs)" for value, n in sorted(counts.items(), key=lambda item: (-item[1], str(item[0]))))


def _commit(git: dict[str, Any] | None) -> str:
    if not git or not git.get("commit"):
        return ""
    return str(git["commit"])[:12] + (" with uncommitted changes" if git.get("dirty") else "")


def _hardware(hardware: dict[str, Any] | None) -> str:
    if not hardware:
        return ""
    accelerators = ", ".join(hardware.get("accelerators") or ()) or "no accelerator"
    return f"{hardware.get('cpu')}, {hardware.get('cores')} cores, {hardware.get('threads')} thread(s) a run, {accelerators}"


def _versions(versions: dict[str, str] | None) -> str:
    return ", ".join(f"{name} {version}" for name, version in (versions or {}).items())


def describe(data: DataSource, *, limit: int | None) -> str:
    """A data source in words."""
    if data.kind == "generated":
        words = f"generated: {data.generator}, {data.rows} rows, seed {data.seed}"
    else:
        words = data.title + (f", {data.rows} rows" if data.rows else "")
    which = which_rows(data, limit=limit)
    return words + (f", {which}" if which else "")


def _models(source: Source, runs: Sequence[RunSpec]) -> tuple[Model, ...]:
    keys = dict.fromkeys(run.model_key for run in runs)
    models = []
    for key in keys:
        model = source.experiment.models[key]
        what = {
            "built": "trained from scratch by the workflow",
            "hub": "from the Hugging Face hub",
            "local": "from a local folder",
            "gguf": "from a GGUF file, dequantised",
        }[model.source.kind]
        stands_for = reported.MODEL_LABELS[model.stands_for] if model.stands_for else None
        models.append(Model(label=model.label, stands_for=stands_for, stand_in=model.replaces_the_papers, what=what))
    return tuple(models)


def _data(source: Source, runs: Sequence[RunSpec]) -> Block:
    rows = []
    for domain in dict.fromkeys(run.domain for run in runs):
        spec = source.experiment.domains[domain]
        train = f"training ({spec.train.format})"
        rows.append((Cell(text=domain), Cell(text=train), Cell(text=describe(spec.train.source, limit=spec.train.limit)),
                     Cell(text=text.NOTHING), Cell(text=text.NOTHING)))  # fmt: skip
        for name, task in spec.evaluation.tasks.items():
            rows.append((Cell(text=domain), Cell(text=f"{task.split}: {reported.label(name)}"),
                         Cell(text=describe(task.source, limit=task.limit)), Cell(text=task.grader or text.NOTHING),
                         Cell(text=spec.evaluation.protocol)))  # fmt: skip
    return Block(name="data-sets", title="Data", header=("Domain", "Use", "Source", "Grader", "Protocol"), rows=tuple(rows))


def _contamination(entries: Sequence[dict[str, Any]]) -> Block | None:
    """Test questions found in the training set, once for each domain and task."""
    counted: dict[tuple[str, str], tuple[str, dict[str, Any]]] = {}
    for entry in entries:
        for task, counts in (entry.get("contamination") or {}).items():
            counted.setdefault((entry["domain"], task), (entry["id"], counts))
    rows = tuple(
        (
            Cell(text=domain),
            Cell(text=reported.label(task), link=f"#run/{run}"),
            *(Cell(text=str(counts[name]), key=f"contamination|{run}|{task}|{name}", order=counts[name])
              for name in ("n", "exact", "near", "ngram")),
        )
        for (domain, task), (run, counts) in counted.items()
    )  # fmt: skip
    notes = ("Questions of the test set that the training set has word for word, nearly, or a 13-word part of.",)
    header = ("Trained on", "Test set", "Questions", "Exact", "Near", "13-gram")
    title = "Contamination: test questions found in the training data"
    return Block(name="contamination", title=title, header=header, rows=rows, notes=notes) if rows else None


def made(source: Source, entries: Sequence[dict[str, Any]]) -> Made:
    """From the entries of ``runs.run_entries`` and ``base_entries``."""
    runs = all_runs(source.experiment)
    trains = [entry["train"] for entry in entries if "train" in entry]
    statuses = Counter(entry["status"] for entry in entries if entry["method_key"] != "base")
    dates = sorted(train["created_at"] for train in trains if train.get("created_at"))
    wall = sum(train.get("wall_time_s") or 0.0 for train in trains)
    cpu = [train["cpu_time_s"] for train in trains if train.get("cpu_time_s") is not None]
    planned = f"{len(runs)} planned: {statuses['success']} finished, {statuses['diverged']} failed (diverged)"
    left = statuses["missing"] + statuses["stale"]
    cost = f"{text.duration(wall)} of training, summed over runs" + (f"; {text.duration(sum(cpu))} of CPU time" if cpu else "")
    facts = [
        ("Runs", planned + (f", {left} not run or made with other settings" if left else "")),
        ("Seeds", ", ".join(map(str, sorted({run.seed for run in runs})))),
        ("Cost", cost),
        ("Trained", f"{dates[0]} to {dates[-1]}" if dates else ""),
        ("Commit", _listed(_commit(train.get("git")) for train in trains)),
        ("Hardware", _listed(_hardware(train.get("hardware")) for train in trains)),
        ("Software", _listed(_versions(train.get("versions")) for train in trains)),
        ("Made again by", f"{source.command} -- reproduce_all"),
        ("Checked by", source.harness("report --check")),
    ]
    return Made(
        models=_models(source, runs),
        facts=tuple((name, value) for name, value in facts if value),
        data=_data(source, runs),
        contamination=_contamination(entries),
    )
