"""``--check``: whether a page says what the raw files say."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any

from harness.errors import ConfigError
from harness.experiment.runs import all_runs, base_evaluations
from harness.files import json_text
from harness.records.training import OPERATIONS
from harness.records.versioned import Recipe, RecordError, read_json
from harness.report import recompute
from harness.report.recompute import Raw, TableNumbers, mean, read_rows
from harness.report.sources import CLAIMS, Source, due_files, state
from harness.statistics import stats
from harness.tables import rates, rates_table
from harness.tables import words as text

#: Mismatches named; more are counted.
NAMED = 50
_NUMBER = re.compile(r"[+\-−]?\d+(?:\.\d+)?(?:e[+\-]?\d+)?")
_SENTENCE = re.compile(
    r": (?P<mean>\S+) \[(?P<low>\S+), (?P<high>\S+)\], (?:df (?P<dof>\S+)|of one seed's examples)"
    r"(?:, (?P<word>(?:better|worse)(?: \(by less than the margin\))?|equivalent|undecided|not decided)(?![a-z])[^,]*)?"
    r"(?:, (?P<seeds>\d+) seeds?)?$"
)
#: Keys of what a page may not leave out, by their ends and by their beginnings.
NEEDED = ("|mean", "|difference", "|verdict", "|paper", "|collapsed")
ALL_NEEDED = ("claim|", "learning_rate|")
#: What the page says: keys and texts, in its order.
Printed = list[tuple[str, str]]
#: What the page should say: numbers in the order of the text, or the very text.
Expected = tuple[float, ...] | str


@dataclass(frozen=True, kw_only=True)
class Checked:
    """How many printed numbers, cells and runs were compared with the records, and what did not agree."""

    words: int = 0
    cells: int = 0
    runs: int = 0
    mismatches: tuple[str, ...]


class _Page(HTMLParser):
    """The marked numbers of a page, in order, and its packed data."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.numbers: list[tuple[str, str]] = []
        self.packed: str | None = None
        self._open: list[tuple[str, str | None]] = []
        self._text: dict[int, list[str]] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if tag == "script" and attributes.get("id") == "page-data":
            self.packed = ""
        if tag in ("span", "a", "dd", "script"):
            self._open.append((tag, attributes.get("data-number")))
            self._text[len(self._open)] = []

    def handle_data(self, data: str) -> None:
        for depth in self._text:
            self._text[depth].append(data)

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open[-1][0] != tag:
            return
        words = "".join(self._text.pop(len(self._open)))
        _, key = self._open.pop()
        if tag == "script" and self.packed == "":
            self.packed = words
        if key is not None:
            self.numbers.append((key, words))


def read_page(path: Path) -> tuple[Printed, dict[str, Any]]:
    """The marked numbers (key, text) of a page, and its data.

    Raises:
        ConfigError: it cannot be read, or is none of ours.
    """
    from harness.report.page import unpack

    parser = _Page()
    try:
        parser.feed(path.read_text(encoding="utf-8"))
        parser.close()
        if not parser.packed:
            raise ValueError("no data")
        return parser.numbers, unpack(parser.packed)
    except (ValueError, OSError, RuntimeError) as error:
        raise ConfigError(f"{path}: found no report ({error}), expected the output of python -m harness.report") from error


# ----------------------------------------------------------------------------------------------------------- comparing


def figures_of(words: str) -> list[tuple[float, float]]:
    """The numbers in a text, each with half a unit of its last digit."""
    numbers = []
    for match in _NUMBER.findall(words):
        plain = match.replace("−", "-")
        digits, _, exponent = plain.partition("e")
        places = len(digits.partition(".")[2])
        numbers.append((float(plain), 0.5 * 10.0 ** (int(exponent or 0) - places)))
    return numbers


def agrees(words: str, expected: Expected) -> bool:
    """Whether a text says the expected numbers, to the precision that it gives."""
    if isinstance(expected, str):
        return words == expected
    said = figures_of(words)
    if len(said) != len(expected):
        return False
    return all(abs(a - b) <= unit * (1 + 1e-6) + 1e-12 for (a, unit), b in zip(said, expected, strict=True))


def unlike(shown: Any, expected: Any, at: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two values of JSON are not the same, floats to nine digits: the place below ``at``, and both values there."""
    if isinstance(shown, dict) and isinstance(expected, dict) and shown.keys() == expected.keys():
        for key in shown:
            yield from unlike(shown[key], expected[key], f"{at}.{key}" if at else key)
    elif isinstance(shown, list) and isinstance(expected, list) and len(shown) == len(expected):
        for i, (ours, theirs) in enumerate(zip(shown, expected, strict=True)):
            yield from unlike(ours, theirs, f"{at}[{i}]")
    else:
        numbers = [isinstance(value, int | float) and not isinstance(value, bool) for value in (shown, expected)]
        if not (math.isclose(shown, expected, rel_tol=1e-9, abs_tol=1e-12) if all(numbers) else shown == expected):
            yield at, shown, expected


def same(shown: Any, expected: Any) -> bool:
    """Whether two values of JSON are the same, floats to nine digits."""
    return next(unlike(shown, expected), None) is None


# ------------------------------------------------------------------------------------------------------ what is expected


def _p(value: float) -> Expected:
    return "<0.001" if value < 0.001 else (value,)


def _expected_cell(table: TableNumbers, key: str, model: str, method: str, metric: str, column: Any) -> dict[str, Expected]:
    scale = 100 if metric == "accuracy" else 1
    expected: dict[str, Expected] = {}
    estimate = table.estimate(model, method, column, metric)
    if estimate is not None:
        plain, whole = estimate
        expected |= {f"{key}|mean": (scale * plain,), f"{key}|stderr": (scale * whole.stderr,)}
        expected |= {f"{key}|low": (scale * whole.low,), f"{key}|high": (scale * whole.high,)}
    if collapsed := table.collapsed(model, method, column, metric):
        expected[f"{key}|collapsed"] = (collapsed, len(table.seeds(model, method, column)))
    if (paper := table.paper(model, method, metric, column)) is not None:
        expected[f"{key}|paper"] = (100 * paper,)
    for parent, prefix in ((False, ""), (True, "parent_")):
        compared = table.compared.get((model, method, metric, column, parent))
        if compared is not None:
            d = compared.difference
            expected |= {f"{key}|{prefix}difference": (scale * compared.mean,),
                      f"{key}|{prefix}difference_low": (scale * d.low,), f"{key}|{prefix}difference_high": (scale * d.high,),
                      f"{key}|{prefix}dof": "one seed" if d.dof is None else (d.dof,)}  # fmt: skip
            if compared.verdict is not None:
                expected[f"{key}|{prefix}verdict"] = compared.verdict
            if compared.p_adjusted is not None:
                expected[f"{key}|{prefix}p"] = _p(compared.p_adjusted)
    return expected


def _expected_table(source: Source, table: TableNumbers) -> dict[str, Expected]:
    from harness.tables.build import load_table

    expected: dict[str, Expected] = {}
    whole = load_table(table.name, source.config, results=source.results, allow_missing=True)
    for key, model, method, metric, column in table.cells():
        expected |= _expected_cell(table, key, model, method, metric, column)
    for model, method in table.rows:
        facts = table.facts(model, method)
        write: dict[str, Callable[[Any], str]] = {
            "trainable_parameters": text.count, "seconds": text.duration,
            "peak_memory_bytes": lambda value: f"{value / 2**30:.2f} GiB",
        }  # fmt: skip
        expected |= {f"{table.name}|{model}|{method}|||{name}": write[name](value) for name, value in facts.items()}
    expected[f"{table.name}|tally"] = table.tally()
    if (margin := getattr(source.experiment.comparisons.margin, whole.metric)) is not None:
        expected[f"{table.name}|margin"] = ((100 if whole.metric == "accuracy" else 1) * margin,)
    return expected | {f"{table.name}|note|{i}": note for i, note in enumerate(text.notes(whole))}


def _claims(source: Source) -> dict[str, Any] | None:
    """What the records make of claims.json; None where there is no such file."""
    from harness.claims.ledger import load_claims
    from harness.claims.text import record

    if not (source.folder / CLAIMS).is_file():
        return None
    made = record(*load_claims(source.config, results=source.results, allow_missing=True))
    content: dict[str, Any] = json.loads(json_text(made))
    return content


def _expected_rates(raw: Raw) -> dict[str, Expected]:
    source = raw.source
    if rates.SWEEP not in source.experiment.sweeps:
        return {}
    where: dict[str, Any] = {"results": source.results, "command": source.command}
    tuning = rates.load_tuning(source.experiment, **where, allow_missing=True)
    notes = rates_table.build_rates_table(source.experiment, tuning, **where).notes
    return {**recompute.rate_words(raw), **{f"learning_rate|note|{i}": note for i, note in enumerate(notes)}}


def _expected_others(raw: Raw, claims: Mapping[str, Any] | None) -> dict[str, Expected]:
    from harness.report.others import claim_view

    source = raw.source
    expected: dict[str, Expected] = {**recompute.timing_numbers(source), **recompute.bench_numbers(source)}
    expected |= _expected_rates(raw)
    views = [claim_view(claim) for claim in claims["claims"]] if claims else []
    expected |= {one.key: one.text for view in views for one in view.printed}
    for base in base_evaluations(source.experiment):
        for task in base.tasks:
            if not (source.folder / base.folder / "predictions" / f"{task}.jsonl").is_file():
                continue
            rows = raw.rows(base.folder, task)
            golds = [row.get("gold") for row in rows]
            expected |= {f"{base.folder}|{task}|n": (len(rows),),
                      f"{base.folder}|{task}|floor": (100 * max(map(golds.count, golds)) / len(golds),)}  # fmt: skip
            for name, field in recompute.FIELDS.items():
                if rows[0][field] is not None:
                    scale = 100 if name == "accuracy" else 1
                    expected[f"{base.folder}|{task}|{name}"] = (scale * mean(row[field] for row in rows),)
    planned = all_runs(source.experiment)
    statuses = list(raw.status.values())
    left = len(planned) - len(statuses)
    counts = (len(planned), statuses.count("success"), statuses.count("diverged"), *((left,) if left else ()))
    for name, paths in due_files(source).items():
        lacking = sum(not path.is_file() for path in paths)
        expected[f"partial|{name}"] = (lacking, len(paths)) if len(paths) > 1 else ()
    return expected | {"partial|planned runs": (left, len(planned)), "made|Runs": tuple(map(float, counts))}


def _single(raw: Raw, key: str) -> Expected | None:
    """What a key names that is worked out on its own: a setting, a learning-rate number, a count of overlaps."""
    kind, *parts = key.split("|")
    if kind == "learning_rate" and len(parts) > 3:
        return recompute.rate_number(raw, parts)
    if kind == "contamination":
        run, task, name = parts
        record = json.loads((raw.source.folder / run / "metrics.json").read_text(encoding="utf-8"))
        return (len(raw.rows(run, task)) if name == "n" else record["contamination"][task][name],)
    if kind == "graders":
        return recompute.grader_number(raw, parts)
    if kind == "table4":
        run, name = parts
        spec = raw.train(run)["spec"]
        block, _, setting = name.partition(".")
        return text.setting((spec["method"]["settings"] if block == "method" else spec[block]).get(setting))
    return None


def _sentence(table: TableNumbers, key: str, words: str) -> bool:
    """Whether a comparison in words has the recomputed numbers and verdict."""
    place, _, name = key.rpartition("|")
    cell = next(one for one in table.cells() if one[0] == place)
    metric = cell[3]
    compared = table.compared.get((cell[1], cell[2], metric, cell[4], name.startswith("parent_")))
    match = _SENTENCE.search(words)
    if compared is None or match is None:
        return compared is None and match is None
    d, scale = compared.difference, 100 if metric == "accuracy" else 1
    numbers = [scale * compared.mean, scale * d.low, scale * d.high]
    said = [match["mean"], match["low"], match["high"]]
    if compared.outcome is None and compared.verdict is not None:
        return agrees(" ".join(said), tuple(numbers)) and words.endswith(f", {compared.verdict}")
    numbers += [d.n_seeds] if d.dof is None else [d.dof, d.n_seeds]
    said += [match["seeds"] or ""] if d.dof is None else [match["dof"] or "", match["seeds"] or ""]
    return match["word"] == compared.verdict and agrees(" ".join(said), tuple(numbers))


def _check_words(
    raw: Raw, tables: Mapping[str, TableNumbers], claims: Mapping[str, Any] | None, page: Printed
) -> Iterable[str]:
    """Mismatches of the numbers that stand in the page's HTML."""
    expected = _expected_others(raw, claims)
    for table in tables.values():
        expected |= _expected_table(raw.source, table)
    seen = set()
    for key, words in page:
        seen.add(key)
        if key.startswith("made|") and key != "made|Runs":
            continue
        name = key.partition("|")[0]
        if key.endswith("sentence"):
            if not _sentence(tables[name], key, words):
                yield f"{key}: the page says {words!r}, the records say otherwise"
            continue
        value = expected.get(key) if key in expected else _single(raw, key)
        if value is None:
            yield f"{key}: the page says {words!r}, the records have no such number"
        elif not agrees(words, value):
            yield f"{key}: the page says {words!r}, the records say {value}"
    for key in expected.keys() - seen:
        if key.endswith(NEEDED) or key.startswith(ALL_NEEDED):
            yield f"{key}: the records say {expected[key]}, the page has no such number"


# ------------------------------------------------------------------------------------------------------- the packed data


def _check_details(tables: Mapping[str, TableNumbers], numbers: list[dict[str, Any]]) -> Iterable[str]:
    """Mismatches of the unrounded numbers behind the page's own views."""
    entries = {entry["key"]: entry for entry in numbers}
    for table in tables.values():
        for key, model, method, metric, column in table.cells():
            if (entry := entries.get(key)) is None:
                continue
            estimate = table.estimate(model, method, column, metric)
            pairs: list[tuple[str, Any, Any]] = [("ours", entry["ours"], None if estimate is None else {
                "mean": estimate[0], **{k: getattr(estimate[1], k) for k in ("stderr", "low", "high", "n_seeds", "n_examples")},
            })]  # fmt: skip
            for name, parent in (("versus", False), ("parent", True)):
                c = table.compared.get((model, method, metric, column, parent))
                left = ("other",)
                shown = None if entry[name] is None else {k: v for k, v in entry[name].items() if k not in left}
                pairs.append((name, shown, None if c is None else {
                    "mean": c.mean, "low": c.difference.low, "high": c.difference.high, "dof": c.difference.dof,
                    "n_seeds": c.difference.n_seeds, "family": c.family, "p_adjusted": c.p_adjusted,
                    "p_equivalent": c.p_equivalent, "verdict": c.verdict,
                    "detectable": stats.minimum_detectable_difference(c.difference) if c.difference.n_seeds > 1 else None,
                }))  # fmt: skip
            paper = table.paper(model, method, metric, column)
            pairs.append(("paper", entry["paper"] and entry["paper"]["value"], paper))
            yield from (f"{key}|{name}: the page's data say {a}, the records say {b}" for name, a, b in pairs if not same(a, b))


def _scores(rows: list[dict[str, Any]], shown: Mapping[str, Any]) -> dict[str, Any]:
    """Of the shown scores those that follow from predictions."""
    scores: dict[str, Any] = {"n": len(rows)}
    if shown.get("accuracy") is not None:
        scores["accuracy"] = mean(row["correct"] for row in rows)
    if shown.get("gold_nll") is not None:
        scores["gold_nll"] = mean(row["gold_nll"] for row in rows)
    for name in ("unparseable", "truncated"):
        if shown.get(name) is not None and name in rows[0]:
            scores[name] = mean(row[name] for row in rows)
    if shown.get("timed_out") is not None and "outcome" in rows[0]:
        scores["timed_out"] = mean(row["outcome"] == "timed_out" for row in rows)
    if shown.get("graders") is not None:
        scores["graders"] = {grader: mean(row["verdicts"][grader] for row in rows) for grader in shown["graders"]}
    return scores


def _check_run(raw: Raw, entry: dict[str, Any], data: dict[str, Any]) -> Iterable[str]:
    folder = raw.source.folder / entry["id"]
    for task, shown in entry["tasks"].items():
        rows = raw.rows(entry["id"], task)
        for name, value in _scores(rows, shown).items():
            if not same(shown[name], value):
                yield f"{entry['id']}: {task}: {name}: the page's data say {shown[name]}, the predictions say {value}"
        answers = data["answers"]["runs"][entry["id"]][task]
        group = data["answers"]["groups"][answers["group"]]
        if [str(row["id"]) for row in rows] != group["ids"]:
            yield f"{entry['id']}: {task}: the page's data name other examples than the predictions"
        solved = [row["correct"] for row in rows if row["correct"] is not None]
        if answers["bits"] != "".join(str(round(1 / worth)) if worth else "0" for worth in solved):
            yield f"{entry['id']}: {task}: the page's data say that other examples were solved than the predictions"
        for position, answer in zip(group["shown"], answers["answers"], strict=True):
            completion = rows[position].get("completion")
            if completion is not None and not completion.startswith((answer[0] or "").removesuffix(" [cut]")):
                yield f"{entry['id']}: {task}: {group['ids'][position]}: the page shows another completion than the predictions"
    if entry["id"] not in raw.status:
        return
    if sorted(entry["collapsed"]) != sorted(raw.collapsed(entry["id"])):
        yield f"{entry['id']}: the page says that it collapsed on other tasks than the predictions"
    train = raw.train(entry["id"])
    if not same(entry["train"], {name: train.get(name) for name in entry["train"]}):
        yield f"{entry['id']}: the page's data say something else than train.json"
    if entry["loss"] != [[point["step"], point["loss"]] for point in train.get("loss_curve", []) if "loss" in point]:
        yield f"{entry['id']}: the page's loss curve is not that of train.json"
    if entry["operations"] is not None:
        totals = [sum(module["K"] for module in row["modules"]) for row in read_rows(folder / OPERATIONS)]
        if [sum(row["ranks"]) for row in entry["operations"]["rows"]] != totals:
            yield f"{entry['id']}: the page's operations are not those of {OPERATIONS}"
    for task, curve in (entry["pruning"] or {}).items():
        record = json.loads((folder / "pruning.json").read_text(encoding="utf-8"))["tasks"][task]
        scores = record["losses"]
        if curve["metric"] == "accuracy":
            scores = [[1 / int(digit) if digit != "0" else 0 for digit in row] for row in record["correct"]]
        if not same(curve["means"], list(map(mean, scores))):
            yield f"{entry['id']}: {task}: the page's scores after pruning are not those of pruning.json"


def _check_claims(source: Source, claims: Mapping[str, Any] | None) -> Iterable[str]:
    """Mismatches of claims.json with what the records make of it."""
    if claims is None:
        return
    path = source.folder / CLAIMS
    recipe = Recipe.workflow(source.command, path)
    for at, shown, expected in unlike(read_json(path, recipe), claims):
        yield f"{path}: {at}: found {shown!r}, the records say {expected!r}; make it again: {recipe.again}"


def _check_figures(source: Source, shown: Mapping[str, Any]) -> Iterable[str]:
    """Mismatches of the figures' data: of the page with the CSV beside the picture, and of that with the records."""
    from harness.figures import catalogue, interactive, style
    from harness.figures.inputs import Inputs
    from harness.report.page import plots

    drawn = plots(source)
    inputs = Inputs(
        experiment=source.experiment, configfiles=source.config.files, results=source.results, command=source.command
    )
    for name in drawn | dict(shown):
        if not same(shown.get(name), drawn.get(name)):
            yield f"{name}: the page's plots are not those of {source.figures / name}.csv"
            continue
        with style.theme():
            csv = style.csv_text(catalogue.build(name, inputs).data)
        now, then = (interactive.columns(interactive.read(one)) for one in (StringIO(csv), source.figures / f"{name}.csv"))
        if not same(then, now):
            again = f"{source.command} --force -- {source.figures / name}.png"
            yield f"{name}: {source.figures / name}.csv is not what the records say; draw it again: {again}"


def _check_state(source: Source, recorded: Mapping[str, str]) -> Iterable[str]:
    """Files that are not those that the page was written from."""
    now = state(source)
    for path in sorted(recorded.keys() | now.keys()):
        if path not in now:
            yield f"{path}: the page was written from it, and it is gone"
        elif path not in recorded:
            yield f"{path}: is newer than the page, which does not know it"
        elif recorded[path] != now[path]:
            yield f"{path}: has changed since the page was written"


def check(source: Source, path: Path) -> Checked:
    """Recompute the numbers of a page.

    Raises:
        ConfigError: there is no page, or records that it needs are broken.
    """
    if not path.exists():
        raise ConfigError(f"{path}: found no such page; write it: {source.harness('report')}")
    words, data = read_page(path)
    mismatches = list(_check_state(source, data["state"]))
    try:
        raw = Raw(source)
    except RecordError as error:
        return Checked(mismatches=(str(error), *mismatches))
    tables = {name: TableNumbers(raw, name) for name in source.experiment.tables}
    shown = [entry for entry in data["runs"] if entry["tasks"] or entry["status"] == "diverged"]
    try:
        claims = _claims(source)
        mismatches += _check_words(raw, tables, claims, words)
        mismatches += _check_claims(source, claims)
        mismatches += _check_details(tables, data["numbers"])
        for entry in shown:
            mismatches += _check_run(raw, entry, data)
        mismatches += _check_figures(source, data["plots"])
    except (ConfigError, FileNotFoundError, KeyError, StopIteration) as error:
        mismatches.append(f"{path}: the records no longer have what the page shows: {error!r}")
    more = [f"... and {len(mismatches) - NAMED} more"] if len(mismatches) > NAMED else []
    return Checked(words=len(words), cells=len(data["numbers"]), runs=len(shown), mismatches=(*mismatches[:NAMED], *more))
