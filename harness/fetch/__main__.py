"""``python -m harness.fetch``: everything that an experiment reads from the Hugging Face hub, into the local cache.

For a machine that has network, before runs on one that has none. The commits and the hashes of the files go into the lock
beside the experiment's file, and are what later runs, and fetches elsewhere, must find. Repeated, it verifies the cache.
"""

from __future__ import annotations

import argparse

from harness import cli
from harness.errors import within

DESCRIPTION = """Download every model, tokenizer and data set of an experiment at its commit, and verify them.

Their commits and hashes go into the lock beside the experiment's file: config/paper.lock for --experiment paper. Runs then
work without network, under HF_HUB_OFFLINE=1, and with no other content than this. Repeated, it verifies what is there; an
entry that is taken out of the lock moves on to the commit that its branch has by then."""


def execute(args: argparse.Namespace) -> int:
    """Fetch, and print what was there, what was downloaded, and how large it is."""
    from harness.experiment.hub_sources import hub_sources
    from harness.experiment.lock import lock_file, read_lock, write_lock
    from harness.experiment.runs import load_experiment
    from harness.experiment.yaml_file import placed
    from harness.fetch.download import fetch

    config = cli.parse_config(args)
    experiment = load_experiment(config.files, config.overrides, locked=False)
    sources = hub_sources(experiment)
    if not sources:
        print(f"{experiment.name} reads nothing from the hub")
        return 0
    lock, path = read_lock(config.files), lock_file(config.files)
    entries = {(one.kind, one.name, one.revision): one for one in lock.repositories}
    total = downloaded = 0
    for source in sources:
        with placed(config.files, config.overrides), within(*source.at):
            fetched = fetch(source, lock.find(source.kind, source.name, source.revision))
        entries[source.kind, source.name, source.revision] = fetched.locked
        write_lock(path, entries.values())
        total, downloaded = total + fetched.size, downloaded + fetched.downloaded
        new = f", {_size(fetched.downloaded)} of it downloaded" if fetched.downloaded else ""
        print(
            f"{source.kind:7}  {source.name}  {fetched.locked.commit[:12]}  {len(fetched.locked.files)} files, "
            f"{_size(fetched.size)}{new}",
            flush=True,
        )
    if any(domain.evaluation.lm_eval is not None for domain in experiment.domains.values()):
        print("not fetched: what the tasks under lm_eval read, which lm-evaluation-harness downloads itself")
    print(f"{path}: {len(sources)} repositories, {_size(total)}, every hash verified; {_size(downloaded)} downloaded")
    print("runs on these files need no network: export HF_HUB_OFFLINE=1")
    return 0


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


COMMAND = cli.Command("harness.fetch", DESCRIPTION, cli.add_config_arguments, execute)
main = COMMAND.main

if __name__ == "__main__":
    cli.run(main)
