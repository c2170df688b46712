"""An environment with a stand-in for vLLM: what of its interface ``harness.engine.in_vllm`` uses, greedy by transformers.

``FAKE_VLLM`` in the process's environment chooses what it does instead of that: ``end`` ends every row at once, and the others
fail in their own ways. Each engine appends how it was made to the file ``engines``.
"""

from __future__ import annotations

import os
from pathlib import Path

from tests import preloaded

RELEASE = "0.11.0"

_VLLM = """
import json, os, sys
from pathlib import Path
from types import SimpleNamespace

MODE = os.environ.get("FAKE_VLLM", "greedy")


class SamplingParams:
    def __init__(self, *, temperature, max_tokens, stop, stop_token_ids, ignore_eos):
        assert temperature == 0 and ignore_eos
        self.max_tokens, self.stop, self.ends = max_tokens, stop, stop_token_ids


class LLM:
    def __init__(self, model, **settings):
        print("a log of vLLM's own", flush=True)
        with Path(__file__).parent.with_name("engines").open("a") as stream:
            stream.write(json.dumps(settings) + "\\n")
        if MODE == "start":
            print("CUDA out of memory", file=sys.stderr)
            sys.exit(3)
        if MODE == "greedy":
            from transformers import AutoModelForCausalLM, AutoTokenizer

            self.model = AutoModelForCausalLM.from_pretrained(model, dtype=settings["dtype"]).eval()
            self.tokenizer = AutoTokenizer.from_pretrained(model)

    def generate(self, prompts, settings, use_tqdm):
        if MODE == "generate":
            raise RuntimeError("an illegal memory access")
        if MODE == "nonsense":
            os.write(3, b"nonsense\\n")
        rows = [self._row(prompt["prompt_token_ids"], own) for prompt, own in zip(prompts, settings)]
        outputs = [SimpleNamespace(outputs=[SimpleNamespace(token_ids=row)]) for row in rows]
        return outputs[1:] if MODE == "fewer" else outputs

    def _row(self, prompt, own):
        match MODE:
            case "long":
                return [7] * (own.max_tokens + 1)
            case "early":
                return [7]
            case "text":
                return ["a"]
        if MODE != "greedy":
            return own.ends[:1]
        import torch

        ids = list(prompt)
        while len(ids) - len(prompt) < own.max_tokens:
            with torch.inference_mode():
                ids.append(int(self.model(torch.tensor([ids])).logits[0, -1].argmax()))
            text = self.tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True)
            if ids[-1] in own.ends or any(stop in text for stop in own.stop):
                break
        return tuple(ids[len(prompt) :])
"""


def environment(folder: Path, *, release: str | None = RELEASE) -> Path:
    """The Python of an environment in ``folder``, with the stand-in unless ``release`` is None."""
    if release is not None:
        package, distribution = folder / "vllm", folder / f"vllm-{release}.dist-info"
        package.mkdir(parents=True)
        distribution.mkdir()
        (package / "__init__.py").write_text(_VLLM)
        (package / "inputs.py").write_text("TokensPrompt = dict\n")
        (distribution / "top_level.txt").write_text("vllm\n")
        (distribution / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {release}\n")
    folder.mkdir(exist_ok=True)
    python = folder / "python"
    # Isolated (-I) as the real one, but for the folder.
    python.write_text(f'#!/bin/sh\n[ "$1" = -I ] || exit 9\nshift\nPYTHONPATH={folder} exec {preloaded.python()} "$@"\n')
    os.chmod(python, 0o755)
    return python
