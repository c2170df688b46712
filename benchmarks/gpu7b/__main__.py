"""``python -m benchmarks.gpu7b --output FILE [--smoke]``: see the package."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from harness import cli
from harness.errors import ConfigError
from harness.files import require_writable


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0: the record is written, and no part failed; out of memory and no time left are results. 1: a part failed.

    Raises:
        ConfigError: the check at the paper's scale does not find exactly one GPU.
    """
    started = time.monotonic()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu7b",
        description="Time, memory and exactness of every method on a random LLaMA2-7B on one GPU: at most 7.5 minutes.",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the record, rewritten after every part")
    parser.add_argument("--smoke", action="store_true", help="a tiny model on the CPU: shows that the check works")
    args = parser.parse_args(arguments)

    import torch

    from benchmarks.gpu7b.run import run
    from benchmarks.gpu7b.scale import PAPER, SMOKE

    if not args.smoke and torch.cuda.device_count() != 1:
        raise ConfigError(
            f"found {torch.cuda.device_count()} GPUs, expected one of 80 GB (of several, CUDA_VISIBLE_DEVICES=0 leaves one); "
            "--smoke runs on the CPU"
        )
    require_writable(args.output)
    given = ["--output", str(args.output), *(["--smoke"] if args.smoke else [])]
    record = run(SMOKE if args.smoke else PAPER, output=args.output, arguments=given, started=started)
    return 1 if any(part.status == "error" for part in record.parts) else 0


if __name__ == "__main__":
    cli.run(main)
