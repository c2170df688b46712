"""EvalPlus's oracle: what the reference solution of a task returns, and whether a program returns the same.

A set does not store expected outputs: they are what the reference returns. It runs in the sandbox like any program, once
per task; outputs and times are kept below a cache folder. Programs are only sent inputs; their outputs are compared by the
sandbox's trusted side, with the comparison given here.
"""

from __future__ import annotations

import hashlib
import marshal
import platform
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from evaluation.graders.evalplus import OutputComparison, Suite, Task, is_none_or_object
from evaluation.sandbox.run import Job, Output, Result, Sandbox
from harness.files import replacing

#: Part of every cache key; raised when the meaning of a file changes.
_VERSION = 1
_REFERENCE_TIMEOUT_S = 300.0
_REFERENCE_MEMORY_MB = 4096
#: Inputs whose reference output is larger (as marshal writes it), or too large to be sent, are left out: in HumanEval+ and
#: MBPP+ five inputs of Mbpp/255, with up to 260 MB each. More of them in one suite are an error.
MAX_OUTPUT_BYTES = 16 << 20
MAX_LEFT_OUT = 5
#: What the sandbox reports for an object of a class of its own.
_OBJECT = "NotPlainData"
#: References run at once; their outputs are held in memory until all of them have ended.
_BATCH = 16


class OracleError(ValueError):
    """A reference solution does not run on its own inputs. The message names the task."""


@dataclass(frozen=True, kw_only=True)
class TimeLimits:
    """evalplus 0.3.1's limits in seconds of wall clock: for one input a multiple of the reference's time, but at least
    ``input_min_s``; for a suite the sum of these, but at most ``suite_max_s``."""

    input_min_s: float = 1.0
    input_factor: float = 4.0
    suite_max_s: float = 60.0

    def of_inputs(self, reference_s: Sequence[float]) -> list[float]:
        """One limit for each input."""
        return [max(self.input_min_s, self.input_factor * seconds) for seconds in reference_s]

    def of_suite(self, reference_s: Sequence[float]) -> float:
        """The limit for all of them."""
        return min(self.suite_max_s, sum(self.of_inputs(reference_s))) + 1.0

    def as_dict(self) -> dict[str, float]:
        """The limits that belong in a record."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Truth:
    """A suite of one task: inputs, what the reference returns for each, and how long it takes in the sandbox."""

    inputs: tuple[list[Any], ...]
    expected: tuple[Any, ...]
    seconds: tuple[float, ...]


class Oracle:
    """Expected outputs, computed when first asked for and kept below ``cache_dir``."""

    def __init__(self, cache_dir: Path, sandbox: Sandbox) -> None:
        self._folder, self._sandbox = cache_dir / "evalplus", sandbox

    def prepare(self, wanted: Sequence[tuple[Task, Suite]]) -> None:
        """Run the references whose outputs are not kept yet, several at once.

        Raises:
            OracleError: one fails.
        """
        paths = {self._path(task, suite): (task, suite) for task, suite in wanted}
        missing = [pair for path, pair in paths.items() if not path.is_file()]
        for start in range(0, len(missing), _BATCH):
            batch = missing[start : start + _BATCH]
            results = self._sandbox.run_all([self._reference_job(task, _inputs(task, suite)) for task, suite in batch])
            for (task, suite), result in zip(batch, results, strict=True):
                self._keep(task, suite, result)

    def truth(self, task: Task, suite: Suite) -> Truth:
        """What was kept of a prepared task."""
        inputs, expected, seconds = marshal.loads(zlib.decompress(self._path(task, suite).read_bytes()))
        return Truth(inputs=inputs, expected=expected, seconds=seconds)

    @staticmethod
    def _reference_job(task: Task, inputs: Sequence[list[Any]]) -> Job:
        return Job(
            source=task.reference,
            entry_point=task.entry_point,
            inputs=inputs,
            collect=True,
            timeout_s=_REFERENCE_TIMEOUT_S,
            memory_mb=_REFERENCE_MEMORY_MB,
        )

    def _keep(self, task: Task, suite: Suite, result: Result) -> None:
        inputs = _inputs(task, suite)
        outputs = list(result.outputs)
        while len(outputs) < len(inputs):  # a run ends at an output that does not even fit into memory: go on behind it
            outputs.append(Output(value=None, error=result.outcome, seconds=0.0))
            _check(task, suite, outputs)
            if len(outputs) < len(inputs):
                result = self._sandbox.run_all([self._reference_job(task, inputs[len(outputs) :])])[0]
                outputs += result.outputs
        _check(task, suite, outputs)
        pairs = zip(inputs, outputs, strict=True)
        kept = [(given, output) for given, output in pairs if _left_out_for(task, output) is None]
        columns = (
            tuple(given for given, _ in kept),
            tuple(_value(task, output) for _, output in kept),
            tuple(output.seconds for _, output in kept),
        )
        with replacing(self._path(task, suite)) as temporary:
            temporary.write_bytes(zlib.compress(marshal.dumps(columns), level=1))

    def _path(self, task: Task, suite: Suite) -> Path:
        content = (_VERSION, platform.python_version(), task.dataset, task.entry_point, task.reference, _inputs(task, suite))
        digest = hashlib.sha256(repr(content).encode("utf-8", "surrogatepass")).hexdigest()
        return self._folder / f"{digest[:32]}.truth"


def _inputs(task: Task, suite: Suite) -> Sequence[list[Any]]:
    return task.plus if suite == "plus" else task.base or ()


def _is_answer(task: Task, output: Output) -> bool:
    return output.error is None or (output.error == _OBJECT and is_none_or_object(task))


def _left_out_for(task: Task, output: Output) -> str | None:
    """Why a reference's output is not used; None where it is."""
    if not _is_answer(task, output):
        return output.error
    try:
        size = len(marshal.dumps(_value(task, output)))
    except ValueError:
        return f"a {type(output.value).__name__}, or one inside the output"
    return "too large an output" if size > MAX_OUTPUT_BYTES else None


def _check(task: Task, suite: Suite, outputs: Sequence[Output]) -> None:
    reasons = [reason for output in outputs if (reason := _left_out_for(task, output)) is not None]
    if len(reasons) > MAX_LEFT_OUT or (reasons and len(reasons) == len(_inputs(task, suite))):
        raise OracleError(f"{task.id}: reference solution: found {reasons[-1]} on {suite} inputs, expected an output")


def _value(task: Task, output: Output) -> Any:
    """What is compared: where only None or not counts, that."""
    return output.error == _OBJECT or output.value is not None if is_none_or_object(task) else output.value


def program_job(task: Task, source: str, truths: Sequence[Truth], limits: TimeLimits) -> Job:
    """The job that asks a program for its outputs, one suite after the other, up to the first that is wrong."""
    seconds = [truth.seconds for truth in truths]
    return Job(
        source=source,
        entry_point=task.entry_point,
        inputs=[given for truth in truths for given in truth.inputs],
        expected=[value for truth in truths for value in truth.expected],
        # Each suite has one comparison, because it has a state.
        comparisons=[one for truth in truths for one in [OutputComparison(task)] * len(truth.inputs)],
        input_timeouts_s=[limit for suite in seconds for limit in limits.of_inputs(suite)],
        timeout_s=sum(map(limits.of_suite, seconds)),
    )


def outcomes(result: Result, truths: Sequence[Truth]) -> list[str]:
    """The outcome of each suite: passed, or how the run of ``program_job`` ended. A suite passes only if those before it do."""
    counts = accumulate(len(truth.inputs) for truth in truths)
    return ["passed" if result.right >= count else result.outcome for count in counts]
