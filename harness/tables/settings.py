"""Table 4: the settings that BeamLoRA's runs actually had, from their records, beside the paper's, each with its source."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import cli, reported
from harness.errors import ConfigError
from harness.experiment import table4
from harness.experiment.runs import load_experiment, origins, settings_runs
from harness.experiment.sources import TAGS, read_sources, source_of
from harness.experiment.table4 import PaperSetting
from harness.records.read import StaleRecord, TrainRecord, load_train_record
from harness.records.versioned import MissingRecord
from harness.schema.experiment import Experiment
from harness.schema.fields import SUBJECT, canonical_json
from harness.schema.run import RunSpec
from harness.tables import words as text
from harness.tables.arguments import output_folder
from harness.tables.markup import csv_lines, markdown_grid, tex_document, tex_header, tex_heading, tex_tabular, write_formats

NAME = "table4"
#: A setting of the paper's Table 4 -> how it is written.
WRITTEN = {"r": "rank r", "p_init": "p_init", "delta_t": "ΔT, steps"}


@dataclass(frozen=True, kw_only=True)
class Used:
    """The settings of one BeamLoRA run, from its record; ``train`` is None where it has not run."""

    run: RunSpec
    train: TrainRecord | None
    paper: tuple[PaperSetting, ...]
    #: Name -> value of every other setting, and name -> source of every one.
    values: Mapping[str, Any]
    sources: Mapping[str, str]

    @property
    def label(self) -> str:
        return f"{self.run.domain}, {self.run.model.label}"

    def source_of(self, setting: PaperSetting) -> str:
        """Where the run's value of one of the paper's settings comes from."""
        return self.sources.get(f"method.{setting.name}", "")


@dataclass(frozen=True, kw_only=True)
class SettingsTable:
    experiment: Experiment
    used: tuple[Used, ...]
    missing: tuple[str, ...]


def build_settings_table(
    experiment: Experiment,
    *,
    config: cli.Config,
    results: Path,
    allow_missing: bool,
) -> SettingsTable:
    """Read the records of ``plan.settings_runs``.

    Args:
        config: its files' comments name the sources.

    Raises:
        ConfigError: no BeamLoRA in any table; records that are missing (unless allowed) or broken.
    """
    runs = settings_runs(experiment)
    if not runs:
        raise ConfigError(f"{config.files[-1]}: tables: found no method {SUBJECT!r}, expected one whose settings Table 4 shows")
    sources = read_sources(config.files, config.overrides)
    used, missing = [], []
    for run in runs:
        try:
            train = load_train_record(run, results=results, command=config.snakemake)
        except (MissingRecord, StaleRecord) as error:
            if not allow_missing:
                raise type(error)(f"{error}; all of {NAME}: {config.snakemake} -- reproduce_{NAME}") from None
            train = None
            missing.append(run.run_id)
        keys = origins(experiment, run)
        used.append(_used(run, train, {name: str(source_of(sources, key)) for name, key in keys.items()}))
    return SettingsTable(experiment=experiment, used=tuple(used), missing=tuple(missing))


def _used(run: RunSpec, train: TrainRecord | None, sources: Mapping[str, str]) -> Used:
    spec = {} if train is None else train.spec
    blocks = {"method": spec.get("method", {}).get("settings", {})}
    blocks |= {name: spec.get(name, {}) for name in ("training", "data", "evaluation")}
    values = {name: blocks[block].get(key) for name in sources for block, key in [name.split(".", 1)]}
    paper = table4.compare(run, blocks["method"], reported.settings())
    for one in paper:
        values.pop(f"method.{one.name}", None)
    return Used(run=run, train=train, paper=tuple(paper), values=values, sources=sources)


# --------------------------------------------------------------------------------------------------------------- words


def _paper_rows(table: SettingsTable) -> list[list[str]]:
    return [
        [one.run.domain, reported.MODEL_LABELS.get(str(one.run.model.stands_for), text.NOTHING), one.run.model.label,
         WRITTEN[row.name], text.setting(row.paper), text.setting(row.ours), row.verdict, one.source_of(row)]
        for one in table.used for row in one.paper
    ]  # fmt: skip


_PAPER_HEADER = ["Domain", "Paper's model", "Our model", "Setting", "Paper", "Ours", "Verdict", "Source of ours"]


def _other_rows(table: SettingsTable) -> list[list[str]]:
    """Every other setting: of all runs where they agree, else of each."""
    names = dict.fromkeys(name for one in table.used for name in one.values)
    rows = []
    for name in names:
        groups: dict[str, list[Used]] = {}
        for one in table.used:
            if one.train is not None and name in one.values:
                groups.setdefault(canonical_json([one.values[name], one.sources[name]]), []).append(one)
        for group in groups.values():
            where = "all" if len(groups) == 1 else "; ".join(one.label for one in group)
            rows.append([name, where, text.setting(group[0].values[name]), group[0].sources[name]])
    steps = {one.label: one.train.steps for one in table.used if one.train is not None and one.train.steps is not None}
    return rows + [["optimizer steps done", label, str(number), "record"] for label, number in steps.items()]


_OTHER_HEADER = ["Setting", "Runs", "Value", "Source"]


def _notes(table: SettingsTable) -> list[str]:
    tags = ", ".join(f"[{tag}] {meaning}" for tag, meaning in TAGS.items())
    notes = [
        *table.experiment.notes,
        "Ours: from train.json of one run of each domain and model, so what was used, not what was planned.",
        f"Sources, from the comments of the experiment's file: {tags}; default: no file states it, the value is the code's.",
    ]
    if any(row.verdict == "stand-in" for one in table.used for row in one.paper):
        notes.append(
            "stand-in: the paper's settings are for its own models and numbers of steps; a stand-in's are chosen to fit it."
        )
    if table.missing:
        notes.append(f"Partial table: {len(table.missing)} planned runs have no usable record: {', '.join(table.missing)}.")
    return notes


def _title(table: SettingsTable) -> str:
    return f"{NAME} · {table.experiment.name}: settings of BeamLoRA's runs"


def markdown(table: SettingsTable) -> str:
    lines = [f"# {_title(table)}", "", "## The paper's Table 4", ""]
    lines += [*markdown_grid(_PAPER_HEADER, _paper_rows(table), right=(4, 5)), "", "## All other settings", ""]
    lines += [*markdown_grid(_OTHER_HEADER, _other_rows(table)), "", "## Notes", ""]
    return "\n".join([*lines, *(f"- {note}" for note in _notes(table))]) + "\n"


#: Rows of one tabular in TeX: what fits on a landscape page.
_PAGE = 28


def tex(table: SettingsTable) -> str:
    paper, other = _paper_rows(table), _other_rows(table)
    lines = [tex_heading("The paper's Table 4")]
    lines += tex_tabular("llllrrll", [tex_header(_PAPER_HEADER)], paper, "Settings of the paper's Table 4, and ours.")
    lines.append(tex_heading("All other settings"))
    for start in range(0, len(other), _PAGE):
        caption = "All other settings of these runs." if start == 0 else "Continued."
        lines += tex_tabular("lp{8cm}p{8cm}l", [tex_header(_OTHER_HEADER)], other[start : start + _PAGE], caption)
    return tex_document(_title(table), lines, _notes(table))


def csv_text(table: SettingsTable) -> str:
    """One line per run and setting."""
    lines = []
    for one in table.used:
        common = {
            "experiment": table.experiment.name,
            "domain": one.run.domain,
            "model_key": one.run.model_key,
            "stands_for": one.run.model.stands_for,
            "run_id": one.run.run_id,
        }
        for row in one.paper:
            lines.append({**common, "setting": f"method.{row.name}", "paper": row.paper, "ours": row.ours,
                          "verdict": row.verdict, "source": one.source_of(row)})  # fmt: skip
        for name, value in one.values.items():
            shown = canonical_json(value) if isinstance(value, list | dict) else value
            lines.append({**common, "setting": name, "paper": None, "ours": shown, "verdict": None,
                          "source": one.sources[name]})  # fmt: skip
    return csv_lines(lines)


def write(table: SettingsTable, folder: Path) -> list[Path]:
    """Write ``table4.md``, ``.tex`` and ``.csv`` and return their paths."""
    return write_formats(folder, NAME, markdown=markdown(table), tex=tex(table), csv_text=csv_text(table))


def write_table(args: argparse.Namespace) -> int:
    """Write the table, for ``python -m harness.tables table4``."""
    config = cli.parse_config(args)
    experiment = load_experiment(config.files, config.overrides)
    table = build_settings_table(experiment, config=config, results=args.results_dir, allow_missing=args.allow_missing)
    for path in write(table, output_folder(args, experiment)):
        print(path)
    return 0
