"""What a person reads in a model card: what this is, how it was trained, what it scores, how to use and repeat it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from evaluation import sets
from evaluation.sets.columns import Format
from evaluation.sets.prompts import TEMPLATES
from harness import reported
from harness.export.evaluated import hub_id, stand_in_notice
from harness.schema.base_models import BuiltModel, GgufModel, HubModel
from harness.schema.data import DataSource, FileData, GeneratedData, LocalData, which_rows
from harness.schema.evaluation import TaskSpec
from harness.schema.run import RunSpec
from harness.statistics.stats import wilson_interval

_EXAMPLE = "A box holds 4 pens. How many pens are in 3 boxes?"
EVAL_RESULTS = ".eval_results"
EXPORT = "lora"


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a card is about. ``tasks`` are those of metrics.json: the evaluation may be newer than the training record."""

    spec: RunSpec
    tasks: dict[str, TaskSpec]
    train: dict[str, Any]
    metrics: dict[str, Any]
    #: A PEFT adapter or a full model.
    artefact: Literal["adapter", "model"]
    #: Where the plain-LoRA export of an adapter lies, None where the adapter itself is what stock PEFT loads.
    subfolder: str | None

    @property
    def base_id(self) -> str | None:
        """The base model's hub id, None for one that is not on the hub."""
        return hub_id(self.spec.model)

    @property
    def name(self) -> str:
        """A name for the trained model, fit for a hub repository."""
        spec = self.spec
        return f"{spec.model_key}-{spec.domain}-{spec.method.key}-seed{spec.seed}"


#: In a table, what was not measured.
_NOTHING = "–"


def metric_type(task: TaskSpec) -> str:
    """The metric as hub leaderboards call it."""
    return sets.get(task.format).metric


def percent(metrics: dict[str, Any]) -> float:
    """A task's headline accuracy, 0 to 100."""
    return round(100 * metrics["accuracy"], 2)


def dataset_name(source: DataSource, *, format: Format, limit: int | None) -> str:
    """Which records these are, in words."""
    label = sets.get(format).label
    which = which_rows(source, limit=limit)
    first = f", {which}" if which else ""
    if isinstance(source, LocalData):
        return f"{label} ({source.title}{first})"
    if isinstance(source, GeneratedData):
        return f"Generated records in the format of {label} (seed {source.seed}{first or f', {source.rows} rows'})"
    configs = f", configurations {' + '.join(source.hub_config)}" if isinstance(source.hub_config, tuple) else ""
    return f"{label} ({source.hub_id}, {source.split}{configs}{first})"


def body(card: Card) -> str:
    """The card below its metadata, in Markdown."""
    sections = (_what(card), _usage(card), _results(card), _training(card), _repeat(card), _limits(card))
    return "\n\n".join(part for section in sections for part in section) + "\n"


def table(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """A Markdown table."""
    header = list(header)
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _code(text: str, language: str) -> str:
    return f"```{language}\n{text.strip()}\n```"


# -------------------------------------------------------------------------------------------------------------- what it is


def _what(card: Card) -> list[str]:
    spec = card.spec
    kind = "A PEFT adapter for" if card.artefact == "adapter" else "A full model, fine-tuned from"
    parts = [
        f"# {spec.method.label} on {spec.model.label}: {spec.domain}, seed {spec.seed}",
        f"{kind} {_base(card)}, trained with {spec.method.label} on {_rows(card)}. It is one run of the experiment "
        f"`{spec.experiment}` of beamlora-harness, which compares fine-tuning methods under one protocol: judge the method by "
        "the experiment's tables, not by this run alone.",
    ]
    return parts + [f"> **Stand-in.** {notice}" for notice in [stand_in_notice(spec.model)] if notice]


def _base(card: Card) -> str:
    """The base model in words, without any path."""
    source, label = card.spec.model.source, card.spec.model.label
    match source:
        case _ if card.base_id:
            return f"[{card.base_id}](https://huggingface.co/{card.base_id})"
        case BuiltModel():
            return f"{label}, a {source.architecture.capitalize()} that the workflow itself trains on generated text"
        case GgufModel():
            return f"{label} (the file `{source.file}` of the Python package `{source.package}`, dequantised)"
    return f"{label}, a model that is not on the hub"


def _rows(card: Card) -> str:
    """The training data in words."""
    source, rows = card.spec.data.source, card.train["data"]["rows"]
    if isinstance(source, FileData):
        return f"{rows:,} rows of [{source.hub_id}](https://huggingface.co/datasets/{source.hub_id}) ({source.split})"
    if isinstance(source, LocalData):
        return f"{rows:,} rows of `{source.title}`, a file that is not on the hub"
    return f"{rows:,} generated rows in the format of {card.spec.data.format} (seed {source.seed})"


# -------------------------------------------------------------------------------------------------------------------- usage


def _usage(card: Card) -> list[str]:
    parts = ["## Use", _code(usage(card), "python")]
    if card.base_id is None and not isinstance(card.spec.model.source, GgufModel) and card.artefact == "adapter":
        parts.append(
            f"`BASE_FOLDER` is the folder of the base model, which is not on the hub (SHA-256 of its weights: "
            f"`{card.train['base_model_hash']}`)."
        )
    if card.subfolder:
        parts.append(
            f"`{EXPORT}/` is an ordinary LoRA adapter, which stock PEFT and LoRA servers load; the scores are its. "
            "The method's own form of the same adapter, if it has one, is beside this card."
        )
    return parts


def usage(card: Card) -> str:
    """A script that loads the artefact with stock libraries and asks it one question in the template of its training.
    ``FOLDER`` in it is the folder of the card."""
    prompt = TEMPLATES[card.spec.data.prompt_template](_EXAMPLE)
    imports, load = ["from transformers import AutoModelForCausalLM, AutoTokenizer"], []
    if card.artefact == "model":
        load = ['model = AutoModelForCausalLM.from_pretrained("FOLDER")']
    else:
        imports.insert(0, "from peft import PeftModel")
        subfolder = f', subfolder="{card.subfolder}"' if card.subfolder else ""
        load = [
            f"base = AutoModelForCausalLM.from_pretrained({_base_arguments(card)})",
            f'model = PeftModel.from_pretrained(base, "FOLDER"{subfolder})',
        ]
        if isinstance(card.spec.model.source, GgufModel):
            imports.insert(0, "from importlib.resources import files\n")
    return "\n".join(
        [
            *imports,
            "",
            *load,
            'tokenizer = AutoTokenizer.from_pretrained("FOLDER")',
            f"prompt = {prompt!r}",
            'inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)',
            f"output = model.generate(**inputs, do_sample=False, max_new_tokens={_most_tokens(card)})",
            "print(tokenizer.decode(output[0]))",
        ]
    )


def _most_tokens(card: Card) -> int:
    return max(task.max_new_tokens for task in card.tasks.values()) or 256


def _base_arguments(card: Card) -> str:
    source = card.spec.model.source
    if isinstance(source, GgufModel):
        return f'str(files("{source.package}")), gguf_file="{source.file}"'
    if card.base_id is None:
        return '"BASE_FOLDER"'
    revision = getattr(source, "model_revision", "main")
    return f'"{card.base_id}"' + (f', revision="{revision}"' if revision != "main" else "")


# ------------------------------------------------------------------------------------------------------------------ results


def _results(card: Card) -> list[str]:
    rows = []
    for name, task in card.tasks.items():
        metrics = card.metrics["tasks"][name]
        answers = [_NOTHING] * 4
        if task.grader is not None:
            low, high = wilson_interval(metrics["accuracy"] * metrics["n"], metrics["n"])
            error, limits = f"{100 * metrics['stderr']:.2f}", f"{100 * low:.1f} to {100 * high:.1f}"
            answers = [metric_type(task), f"{percent(metrics):.2f}", error, limits]
        rows.append(
            [
                dataset_name(task.source, format=task.format, limit=task.limit),
                answers[0],
                metrics["n"],
                *answers[1:],
                f"{metrics['gold_nll']:.3f}",
                task.grader or _NOTHING,
                task.prompt_template,
            ]
        )
    parts = [
        "## Results",
        table(
            ["test set", "metric", "n", "%", "standard error", "95 % interval", "NLL of the gold answer", "grader", "prompt"],
            rows,
        ),
        "Greedy decoding, no examples in the prompt. Standard error (binomial) and interval (Wilson) are those of drawing the "
        "test questions; they do not contain the spread between training seeds. NLL in nats per token.",
    ]
    generated = [name for name, task in card.tasks.items() if isinstance(task.source, GeneratedData)]
    if generated:
        parts.append(
            f"{', '.join(generated)}: the questions are generated, not those of the public set, and cannot be "
            f"compared with anyone's numbers on it. They have no hub id, so `{EVAL_RESULTS}/` does not list them."
        )
    return parts


# ----------------------------------------------------------------------------------------------------------------- training


def _training(card: Card) -> list[str]:
    spec, train = card.spec, card.train
    t = spec.training
    length = f"{t.num_train_epochs:g} epochs, " if t.num_train_epochs is not None else ""
    facts = {
        "method": f"{spec.method.label} (`{spec.method.name}`)",
        **{f"`{key}`": _show(value) for key, value in spec.method.settings.items()},
        "trained parameters": f"{train['trainable_parameters']:,} (the base model has {train['base_parameters']:,})",
        "seed": spec.seed,
        "optimizer steps": f"{length}{train['steps']:,} steps",
        "global batch": f"{t.global_batch} examples",
        "tokens": f"{train['tokens']['input']:,} read, {train['tokens']['label']:,} with a loss (on: {spec.data.loss_on})",
        "longest example": f"{spec.data.max_length} tokens; {train['data']['rows_cut']} of {train['data']['rows']} rows cut",
        "prompt template": spec.data.prompt_template,
        "learning rate": f"{t.learning_rate:g}, {t.lr_scheduler_type}, {_warmup(spec)}",
        "optimizer": f"AdamW, betas {t.adam_beta1:g} and {t.adam_beta2:g}, epsilon {t.adam_epsilon:g}, weight decay "
        f"{t.weight_decay:g}, gradients clipped at {t.max_grad_norm:g}",
        "base weights": t.dtype,
        "training time": f"{train['wall_time_s']:,.0f} s on {_device(train['hardware'])}",
        **{f"evidence: {key}": _show(value) for key, value in train["evidence"].items() if not isinstance(value, dict | list)},
    }
    parts = ["## Training", table(["", ""], facts.items())]
    if isinstance(spec.data.source, GeneratedData):
        parts.append("The training data are generated by the project and have no hub id.")
    return parts


def _warmup(spec: RunSpec) -> str:
    t = spec.training
    return f"{t.warmup_steps} warm-up steps" if t.warmup_steps is not None else f"{100 * t.warmup_ratio:g} % warm-up"


def _device(hardware: dict[str, Any]) -> str:
    return ", ".join(hardware["accelerators"]) or f"{hardware['cpu']}, threads: {hardware['threads']}"


def _show(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


# ------------------------------------------------------------------------------------------------------------------- repeat


def _repeat(card: Card) -> list[str]:
    spec, train = card.spec, card.train
    own = reported.CONFIG / f"{spec.experiment}.yaml"
    which = f"--config experiment={spec.experiment}" if own.is_file() else "--configfile EXPERIMENT.yaml"
    target = f"results/{spec.experiment}/{spec.run_id}/metrics.json"
    unknown = "" if own.is_file() else f" `EXPERIMENT.yaml` is the file of the experiment `{spec.experiment}`."
    facts = {
        "commit (training)": _state(train["git"]),
        "commit (evaluation)": _state(card.metrics["git"]),
        "hash of the settings": f"`{train['training_hash']}`",
        f"base model, {'commit' if isinstance(spec.model.source, HubModel) else 'SHA-256'}": f"`{train['base_model_hash']}`",
        "training rows, SHA-256": f"`{train['data']['sha256']}`",
        **{f"{name} rows, SHA-256": f"`{card.metrics['tasks'][name]['data_sha256']}`" for name in card.tasks},
        **{f"{name}, graded by": _graders(card.metrics["tasks"][name].get("sources")) for name in card.tasks},
        "versions": ", ".join(f"{name} {release}" for name, release in train["versions"].items()),
    }
    return [
        "## Repeat it",
        _code(f"snakemake --cores all {target} {which}", "bash"),
        "in a checkout of beamlora-harness at the commit below. The run is the same one if its `train.json` has the same hash "
        f"of the settings (`training_hash`); settings changed with `--config` have to be given again.{unknown}",
        table(["", ""], facts.items()),
    ]


def _graders(sources: dict[str, str] | None) -> str:
    return "not recorded" if sources is None else ", ".join(f"{part} `{what}`" for part, what in sources.items())


def _state(git: dict[str, Any]) -> str:
    if git["commit"] is None:
        return "not run from a checkout"
    return f"`{git['commit']}`" + (", with uncommitted changes" if git["dirty"] else "")


def _limits(card: Card) -> list[str]:
    return [
        "## Limits",
        "Made to compare methods, and tested on nothing but the sets above: neither for safety nor for bias. No licence is "
        "stated here: the terms of the base model and of the data apply.",
    ]
