"""Where a report's content comes from: an experiment, its folders, and the state of every record behind the page."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.cli import FIGURES, Config
from harness.experiment.runs import all_runs, base_evaluations, load_experiment, pruning_runs
from harness.figures import catalogue
from harness.provenance import file_sha256
from harness.records import bench, pruning, timing
from harness.records.read import DEFAULT_RESULTS, load_records, run_folder
from harness.records.training import OPERATIONS
from harness.records.versioned import MissingRecord
from harness.schema.experiment import Experiment
from harness.schema.run import RunSpec

CLAIMS = "claims.json"


@dataclass(frozen=True, kw_only=True)
class Source:
    """An experiment and where its records and figures lie."""

    experiment: Experiment
    config: Config
    results: Path
    #: The folder with the experiment's figures.
    figures: Path

    @property
    def folder(self) -> Path:
        return self.results / self.experiment.name

    @property
    def command(self) -> str:
        """The workflow, but for its target."""
        return self.config.snakemake

    @property
    def arguments(self) -> str:
        """For commands of the harness: which experiment and ``--results-dir``, where they are not the default."""
        words = self.config.short_arguments
        if self.results != DEFAULT_RESULTS:
            words += ["--results-dir", str(self.results)]
        return shlex.join(words)

    def harness(self, words: str) -> str:
        """A command of the harness for this experiment, such as ``python -m harness.report.trace ...``."""
        return f"python -m harness.{words} {self.arguments}".strip()

    def run_folder(self, run: RunSpec) -> Path:
        return run_folder(run, results=self.results)


def open_source(config: Config, *, results: Path, figures: Path | None = None) -> Source:
    """Read and check an experiment.

    Args:
        figures: the folder that holds its figures; by default that of the workflow.

    Raises:
        ConfigError: bad experiment.
    """
    experiment = load_experiment(config.files, config.overrides)
    return Source(experiment=experiment, config=config, results=results, figures=figures or FIGURES / experiment.name)


def due_files(source: Source) -> dict[str, list[Path]]:
    """What a complete report needs beside the runs' records, made or not: what it is -> its files."""
    return {
        "scores after pruning": [source.run_folder(run) / pruning.FILE for run in pruning_runs(source.experiment)],
        "scores of base models": [source.folder / base.folder / "metrics.json" for base in base_evaluations(source.experiment)],
        "step times": [source.folder / timing.FILE] if source.experiment.timing else [],
        "tests of the claims": [source.folder / CLAIMS],
        "figures": _pictures(source),
    }


def require_complete(source: Source) -> None:
    """Refuse to render an experiment that has not been run to its end.

    Raises:
        MissingRecord: records, claims or figures are missing; the message names the command that makes them.
        RecordError: a record is broken.
    """
    target = "reproduce_all"
    load_records(all_runs(source.experiment), results=source.results, command=source.command, target=target)
    due = [path for paths in due_files(source).values() for path in paths]
    missing = [path for path in due if not path.is_file()]
    if missing:
        names = ", ".join(map(str, missing[:3])) + (", ..." if len(missing) > 3 else "")
        raise MissingRecord(
            f"{source.folder}: found no {names} ({len(missing)} of {len(due)} files); make them: {source.command} -- {target}; "
            "or show what is there: --allow-missing"
        )


def record_files(source: Source) -> Iterator[Path]:
    """Every file that a number, picture or word of the page comes from, as far as it exists."""
    folders = [source.run_folder(run) for run in all_runs(source.experiment)]
    folders += [source.folder / base.folder for base in base_evaluations(source.experiment)]
    for folder in folders:
        yield from (
            path for name in ("train.json", "metrics.json", pruning.FILE, OPERATIONS) if (path := folder / name).is_file()
        )
        yield from sorted((folder / "predictions").glob("*.jsonl"))
    others = [source.folder / timing.FILE, source.folder / CLAIMS, source.results / bench.FILE]
    others += [path.with_suffix(suffix) for path in _pictures(source) for suffix in (".png", ".csv")]
    yield from filter(Path.is_file, others)


def _pictures(source: Source) -> list[Path]:
    """Every figure that the experiment plans, drawn or not."""
    return [source.figures / f"{figure.name}.png" for figure in catalogue.planned(source.experiment)]


def state(source: Source) -> dict[str, str]:
    """The first 16 hex digits of the SHA-256 of every file behind the page, by its path below the experiment's
    results, the figures or all results."""

    def name(path: Path) -> str:
        if path.is_relative_to(source.folder):
            return path.relative_to(source.folder).as_posix()
        if path.is_relative_to(source.results):
            return path.relative_to(source.results).as_posix()
        return f"figures/{path.relative_to(source.figures).as_posix()}"

    return {name(path): file_sha256(path)[:16] for path in record_files(source)}
