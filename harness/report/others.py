"""The parts of the page that are no table of scores: settings, learning rates, base models, time and memory, claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness import reported
from harness.answers import audit
from harness.errors import ConfigError
from harness.experiment.resolve import label_of
from harness.experiment.runs import base_evaluations, settings_runs
from harness.figures.style import colour_of
from harness.records import bench, timing
from harness.records.read import Loaded, read_metrics, read_predictions
from harness.records.versioned import Recipe, read_json
from harness.report.numbers import Shown
from harness.report.sources import CLAIMS, Source
from harness.schema.evaluation import Metric
from harness.tables import rates, rates_table
from harness.tables import settings as settings_table
from harness.tables import words as text
from harness.tables.cells import METRICS


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell of plain text. ``key``: it is a number that the check recomputes; ``link``: its runs; ``tag``: a word after it."""

    text: str
    key: str | None = None
    order: float | None = None
    link: str | None = None
    colour: str | None = None
    mark: str | None = None
    tag: Shown | None = None


@dataclass(frozen=True, kw_only=True)
class Block:
    """A plain table with its heading, notes and the command that makes its numbers again."""

    name: str
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str | Shown, ...] = ()
    command: str | None = None


# ------------------------------------------------------------------------------------------------------------- settings


def settings_blocks(source: Source, *, allow_missing: bool) -> list[Block]:
    """Table 4 in two parts; none where no table has BeamLoRA."""
    if not settings_runs(source.experiment):
        return []
    table = settings_table.build_settings_table(
        source.experiment, config=source.config, results=source.results, allow_missing=allow_missing
    )
    command = source.harness("tables table4")
    paper, others = [], []
    for one in table.used:
        run = one.run.run_id
        where = (Cell(text=one.run.domain), Cell(text=one.run.model.label, link=f"#run/{run}"))
        stands_for = reported.MODEL_LABELS.get(str(one.run.model.stands_for), text.NOTHING)
        for row in one.paper:
            key = f"table4|{run}|method.{row.name}"
            ours = Cell(text=text.setting(row.ours), key=key if row.ours is not None else None, order=row.ours)
            label = settings_table.WRITTEN[row.name]
            theirs = Cell(text=text.setting(row.paper), order=row.paper)
            rest = (Cell(text=row.verdict), Cell(text=one.source_of(row)))
            paper.append((*where, Cell(text=stands_for), Cell(text=label), theirs, ours, *rest))
        if one.train is not None:
            for name, value in one.values.items():
                shown = Cell(text=text.setting(value), key=f"table4|{run}|{name}")
                others.append((*where, Cell(text=name), shown, Cell(text=one.sources[name])))
    header = ("Domain", "Our model", "Paper's model", "Setting", "Paper", "Ours", "Verdict", "Source of ours")
    return [
        Block(name="table4", title="Table 4: settings of BeamLoRA's runs", header=header, rows=tuple(paper), command=command,
              notes=("Ours are read from train.json: what was used, not what was planned.",)),
        Block(name="table4-all", title="All other settings of these runs", rows=tuple(others),
              header=("Domain", "Our model", "Setting", "Value", "Source"), command=command),
    ]  # fmt: skip


# -------------------------------------------------------------------------------------------------------- learning rate


def rate_blocks(source: Source, *, allow_missing: bool) -> list[Block]:
    """The learning-rate sweep: validation scores of the grid, and test scores at shared and best rates."""
    if rates.SWEEP not in source.experiment.sweeps:
        return []
    tuning = rates.load_tuning(source.experiment, results=source.results, command=source.command, allow_missing=allow_missing)
    table = rates_table.build_rates_table(source.experiment, tuning, results=source.results, command=source.command)
    command = source.harness("tables learning_rate")
    notes = tuple(Shown(key=f"learning_rate|note|{i}", text=note) for i, note in enumerate(table.notes))
    blocks: list[Block] = []
    for group in table.groups:
        columns = sorted({point.rate for line in group.lines for point in line.choice.points})
        grid = tuple(_grid_row(line, columns) for line in group.lines)
        baseline = next((line for line in group.lines if line.is_baseline), None)
        ranks = tuple(_rank_row(line, baseline, group.metric) for line in group.lines)
        name = f"learning-rate-{len(blocks)}"
        blocks.append(Block(name=name, title=f"{rates_table.grid_title(group)}: {group.title}", command=command,
                            header=("Method", *(f"{rate:g}" for rate in columns)), rows=grid, notes=notes))  # fmt: skip
        if not group.tests:
            continue
        score = rates_table.score_heading(group).capitalize()
        header = ("Method", "Shared rate", score, "Rank", "Difference to LoRA", "Best rate", score,
                  "Rank", "Difference to LoRA", "End of the grid")  # fmt: skip
        what = rates_table.MEASURES[group.metric][0]
        blocks.append(Block(name=f"{name}-ranks", rows=ranks, header=header, command=command,
                            title=f"Test {what} at the shared and at each method's best rate: {group.title}"))  # fmt: skip
    return blocks


def _method(line: rates_table.Line) -> Cell:
    return Cell(text=line.label, colour=colour_of(line.where[2]))


def _grid_row(line: rates_table.Line, rates: Sequence[float]) -> tuple[Cell, ...]:
    points = {point.rate: point for point in line.choice.points}
    cells = [_method(line)]
    for rate in rates:
        point = points.get(rate)
        if point is None:
            cells.append(Cell(text=text.NOTHING))
            continue
        where = "|".join(("learning_rate", *line.where[:2], point.run_key))
        failed = f"{point.n_diverged} failed" if point.n_diverged else ""
        best = Shown(key=f"{where}|best", text="best") if point == line.choice.best else None
        link = f"#run/{line.where[0]}/{line.where[1]}/{point.run_key}/seed{point.seeds[0]}" if point.seeds else None
        if point.score is None:
            cells.append(Cell(text=failed or "not run", mark="failed" if failed else None, link=link))
        else:
            shown = text.level(point.score, point.metric)
            cells.append(Cell(text=shown, key=f"{where}|validation", order=point.score, link=link, tag=best,
                              mark="best" if best else "failed" if failed else None))  # fmt: skip
    return tuple(cells)


def _rank_row(line: rates_table.Line, baseline: rates_table.Line | None, metric: Metric) -> tuple[Cell, ...]:
    """``baseline``: the row that differences are to."""

    def best(one: rates_table.Line | None) -> str | None:
        return one.choice.best.run_key if one is not None and one.choice.best else None

    cells, own = [_method(line)], "|".join(("learning_rate", *line.where))
    others = (baseline.where[2] if baseline else None, best(baseline))
    sides = (("shared", line.shared, line.where[2]), ("best", line.tuned, best(line)))
    for (name, score, run_key), other in zip(sides, others, strict=True):
        where = "|".join(("learning_rate", *line.where[:2], str(run_key)))
        e, d = score.estimate, score.difference
        cells.append(Cell(text=text.setting(score.rate), key=f"{own}|{name}_rate", order=score.rate))
        cells.append(Cell(text="not run") if e is None else
                     Cell(text=text.level(e.mean, metric), key=f"{where}|test", order=e.mean))  # fmt: skip
        cells.append(Cell(text=text.setting(score.rank), key=f"{own}|{name}_rank", order=score.rank))
        limits = "" if d is None else text.interval(d.low, d.high, metric, with_sign=True)
        cells.append(Cell(text=text.NOTHING) if d is None else
                     Cell(text=f"{text.signed(d.mean, metric)} {limits}", key=f"{where}|minus|{other}",
                          order=d.mean))  # fmt: skip
    return (*cells, Cell(text=line.choice.edge or "", key=f"{own}|edge"))


# ---------------------------------------------------------------------------------------------------------- base models


def base_block(source: Source) -> Block | None:
    """The base models without fine-tuning, as far as they have been evaluated."""
    rows = []
    for base in base_evaluations(source.experiment):
        path = source.folder / base.folder / "metrics.json"
        if not path.is_file():
            continue
        metrics = read_json(path, Recipe.workflow(source.command, path))
        for task, scores in metrics["tasks"].items():
            key = f"{base.folder}|{task}"
            floor = scores.get("floor")
            rows.append((
                Cell(text=source.experiment.models[base.model_key].label, link=f"#run/{base.folder}"),
                Cell(text=reported.label(task)),
                *(Cell(text=text.NOTHING) if scores[metric] is None else
                  Cell(text=text.level(scores[metric], metric), key=f"{key}|{metric}", order=scores[metric])
                  for metric in METRICS),
                Cell(text=text.NOTHING) if floor is None else
                Cell(text=text.percent(floor), key=f"{key}|floor", order=floor),
                Cell(text=str(scores["n"]), key=f"{key}|n", order=scores["n"]),
                Cell(text=scores["grader"] or text.NOTHING),
                Cell(text=base.protocol),
            ))  # fmt: skip
    header = ("Base model", "Test set", "Accuracy, %", "NLL of the gold answer, nats", "Best constant answer, %", "n", "Grader",
              "Protocol")  # fmt: skip
    notes = ("Without fine-tuning, asked and graded as the runs are.",)
    command = f"{source.command} -- base_evaluations"
    title = "Base models without fine-tuning"
    return Block(name="base", title=title, header=header, rows=tuple(rows), notes=notes, command=command) if rows else None


# -------------------------------------------------------------------------------------------------------------- graders


def grader_block(source: Source, loaded: Loaded) -> Block | None:
    """The sound grader beside Math-Verify on every answer that both judged, by model and test set; None where there is none."""
    places = [(r.folder, r.run.domain, r.run.model_key) for r in loaded.records]
    places += [(source.folder / base.folder, base.folder, base.model_key) for base in base_evaluations(source.experiment)]
    judged: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for folder, place, model in places:
        tasks = read_metrics(folder)["tasks"] if (folder / "metrics.json").is_file() else {}
        for task, scores in tasks.items():
            if set(audit.REFERENCE) <= set(scores.get("graders", ())):
                rows = read_predictions(folder, task, fields=("verdicts",))
                judged.setdefault((place, model, task), []).extend(row["verdicts"] for row in rows)
    lines = []
    for (place, model, task), verdicts in judged.items():
        pair = audit.pair(*audit.REFERENCE, verdicts)
        key = f"graders|{place}|{model}|{task}"
        lines.append((
            Cell(text="nothing" if place.startswith("base/") else place, link=f"#run/{place}" if "/" in place else None),
            Cell(text=source.experiment.models[model].label),
            Cell(text=reported.label(task)),
            Cell(text=text.percent(1 - pair.share), key=f"{key}|agreement", order=1 - pair.share),
            Cell(text=str(pair.first_only), key=f"{key}|sound", order=pair.first_only),
            Cell(text=str(pair.second_only), key=f"{key}|math_verify", order=pair.second_only),
            Cell(text=str(len(verdicts)), key=f"{key}|n", order=len(verdicts)),
        ))  # fmt: skip
    header = ("Fine-tuned on", "Model", "Test set", "Agree, %", "Only sound accepts", "Only Math-Verify accepts", "Answers")
    title = "The sound grader beside Math-Verify on the same answers"
    notes = ("The command lists the answers of a run on which its graders differ.",)
    command = "python -m harness.answers.audit RUN_DIR"
    return Block(name="graders", title=title, header=header, rows=tuple(lines), notes=notes, command=command) if lines else None


# --------------------------------------------------------------------------------------------------------------- timing


def timing_block(source: Source) -> Block | None:
    """Time and memory relative to the baseline, if they have been measured."""
    path = source.folder / timing.FILE
    if source.experiment.timing is None or not path.is_file():
        return None
    record = timing.load(source.experiment, results=source.results, command=source.command)
    rows = []
    for method, cost in timing.summarise(record).items():
        cells = [Cell(text=label_of(source.experiment, method), colour=colour_of(method))]
        cells.append(Cell(text=f"{1000 * cost.seconds_per_step:.1f}", key=f"timing|{method}|ms_per_step",
                          order=cost.seconds_per_step))  # fmt: skip
        for name, ratio in (("time", cost.time), ("peak", cost.peak)):
            cells.append(Cell(text=f"{ratio.median:.2f}", key=f"timing|{method}|{name}", order=ratio.median))
            cells.append(Cell(text=f"[{ratio.low:.2f}, {ratio.high:.2f}]", key=f"timing|{method}|{name}_interval"))
        rows.append(tuple(cells))
    return Block(
        name="timing", rows=tuple(rows),
        title=f"Time and memory relative to {label_of(source.experiment, record.timing.baseline)}",
        header=("Method", "ms per step", "Time", "95 % interval", "Peak memory", "95 % interval"),
        notes=(f"Medians of {record.timing.rounds} interleaved rounds; intervals: bootstrap over rounds.",),
        command=f"{source.command} -- time_memory",
    )  # fmt: skip


def bench_block(source: Source) -> Block | None:
    """Our time and memory beside other programs', if the benchmarks have been run."""
    path = source.results / bench.FILE
    if not path.is_file():
        return None
    record = bench.read(path)
    rows = []
    for i, row in enumerate(record.rows):
        low, high = row.spread
        rows.append((
            Cell(text=row.name),
            Cell(text=row.peer or "CPU seconds"),
            Cell(text=f"{row.value:.2f}", key=f"bench|{i}|value", order=row.value),
            Cell(text=f"[{low:.2f}, {high:.2f}]", key=f"bench|{i}|quartiles"),
            Cell(text="" if row.goal is None else f"{row.goal:g}"),
        ))  # fmt: skip
    made = ", ".join(f"{name} {record.versions[name]}" for name in ("torch", "transformers", "peft") if name in record.versions)
    return Block(
        name="bench", title="The harness beside other programs", rows=tuple(rows),
        header=("Measured", "Relative to", "Median", "Quartiles", "Goal: at most"),
        notes=(
            "Ratios of CPU time for the same work, of memory where that is said, by rounds in turn on one thread.",
            f"On {record.hardware['cpu']}, with {made}, at commit {str(record.git['commit'])[:12]}."
            + (" A smoke run: so small that its numbers mean nothing." if record.smoke else ""),
        ),
        command="make bench",
    )  # fmt: skip


# --------------------------------------------------------------------------------------------------------------- claims


@dataclass(frozen=True, kw_only=True)
class ClaimPart:
    """A number of a claim; ``p`` and ``detectable`` where there is one."""

    label: Shown
    expected: Shown
    ours: Shown
    verdict: Shown
    p: Shown | None
    detectable: Shown | None
    runs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ClaimView:
    """A claim as it is printed."""

    statement: Shown
    word: Shown
    source: Shown
    paper: Shown
    test: Shown
    stand_in: Shown | None
    parts: tuple[ClaimPart, ...]

    @property
    def printed(self) -> list[Shown]:
        """All of its words and numbers."""
        values = [value for one in (self, *self.parts) for value in vars(one).values()]
        return [value for value in values if isinstance(value, Shown)]


def claim_views(source: Source) -> list[ClaimView] | None:
    """The claims in claims.json; None where there is no such file."""
    path = source.folder / CLAIMS
    if not path.is_file():
        return None
    try:
        return [claim_view(claim) for claim in read_json(path, Recipe.workflow(source.command, path))["claims"]]
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{path}: found a claim of another form ({error!r}); make it: {source.command} -- {path}") from error


def claim_view(claim: Mapping[str, Any]) -> ClaimView:
    """A claim of claims.json.

    Raises:
        KeyError, TypeError: it is of another form.
    """
    key = f"claim|{claim['key']}"
    return ClaimView(
        **{name: Shown(key=f"{key}|{name}", text=claim[name]) for name in ("statement", "source", "paper", "test")},
        word=Shown(key=f"{key}|verdict", text=claim["word"]),
        stand_in=Shown(key=f"{key}|stand_in", text="stand-in") if claim["stand_in"] else None,
        parts=tuple(_claim_part(part, f"{key}|{i}") for i, part in enumerate(claim["parts"])),
    )


def _claim_part(content: Mapping[str, Any], key: str) -> ClaimPart:
    from harness.claims import text as words
    from harness.claims.verdicts import Part, Quantity, Range

    quantity = None if content["quantity"] is None else Quantity(**content["quantity"])
    made = Part(**{**content, "expected": Range(**content["expected"]), "quantity": quantity, "comparison": None})
    p = text.p_value((content["comparison"] or {}).get("p_adjusted"))
    detectable = words.detectable(made)
    return ClaimPart(
        label=Shown(key=f"{key}|label", text=made.label),
        expected=Shown(key=f"{key}|expected", text=words.expected(made.expected, quantity)),
        ours=Shown(key=key, text=words.ours(made)),
        verdict=Shown(key=f"{key}|verdict", text=made.word),
        p=None if p == text.NOTHING else Shown(key=f"{key}|p", text=p),
        detectable=None if detectable == text.NOTHING else Shown(key=f"{key}|detectable", text=detectable),
        runs=tuple(made.runs),
    )
