"""The lock file of an experiment: the commit of each repository on the hub, and the hashes of its files. No torch.

``beamlora fetch`` writes it beside the experiment's last file: ``config/paper.lock`` for ``config/paper.yaml``. It is meant to
be committed. Where a file names a branch, the experiment is read with the locked commit in its place, so that what a run
depends on stands in its spec like any other setting.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from harness.errors import ConfigError
from harness.files import write_json
from harness.schema.base_models import BRANCH
from harness.schema.fields import Frozen


class LockedFile(Frozen):
    """A file of a repository."""

    size: int = Field(ge=0, description="bytes")
    sha256: str = Field(min_length=64, max_length=64)


class LockedRepository(Frozen):
    """A repository on the hub, at the commit that its revision stood for when it was first fetched."""

    kind: Literal["model", "dataset"]
    name: str
    revision: str = Field(description="as the experiment's file names it")
    commit: str = Field(pattern="^[0-9a-f]{40}$")
    files: dict[str, LockedFile] = Field(description="those that runs need")


class Lock(Frozen):
    """The content of a lock file."""

    lock_version: Literal[1] = 1
    repositories: tuple[LockedRepository, ...] = ()

    def find(self, kind: str, name: str, revision: str) -> LockedRepository | None:
        """The entry of a repository at a revision, named as in the experiment's file or by its locked commit."""
        return next(
            (
                one
                for one in self.repositories
                if (one.kind, one.name) == (kind, name) and revision in (one.revision, one.commit)
            ),
            None,
        )


def lock_file(paths: Sequence[Path]) -> Path:
    """Where the lock of an experiment is written: beside its last file."""
    return paths[-1].with_suffix(".lock")


def read_lock(paths: Sequence[Path]) -> Lock:
    """What the locks beside an experiment's files say; those of later files win.

    Raises:
        ConfigError: a lock that cannot be read, or of another version.
    """
    entries: dict[tuple[str, str, str], LockedRepository] = {}
    for path in (lock_file([path]) for path in paths):
        if not path.is_file():
            continue
        try:
            lock = Lock.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            first = error.errors()[0] if isinstance(error, ValidationError) else None
            what = " ".join(str(error).split()) if first is None else f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
            raise ConfigError(f"{path}: {what}; expected what 'beamlora fetch' writes: remove it and fetch again") from error
        entries |= {(one.kind, one.name, one.revision): one for one in lock.repositories}
    return Lock(repositories=tuple(entries.values()))


def write_lock(path: Path, repositories: Iterable[LockedRepository]) -> None:
    """Write a lock, sorted."""
    entries = sorted(repositories, key=lambda one: (one.kind, one.name, one.revision))
    write_json(path, Lock(repositories=tuple(entries)).model_dump(mode="json"))


def with_commits(content: Any, lock: Lock, *, data_dir: Any) -> Any:
    """The content of an experiment's file with locked commits in the place of the revisions that it names.

    Args:
        data_dir: of the experiment. A set that it has a local copy of does not come from the hub.
    """
    if isinstance(content, dict):
        changed = {key: with_commits(value, lock, data_dir=data_dir) for key, value in content.items()}
        match content:
            case {"kind": "hub", "model_name_or_path": str(name)}:
                return changed | _commit("model", name, "model_revision", content, lock)
            case {"kind": "files", "hub_id": str(name)} if data_dir is None or content.get("local") is None:
                return changed | _commit("dataset", name, "revision", content, lock)
        return changed
    if isinstance(content, list):
        return [with_commits(value, lock, data_dir=data_dir) for value in content]
    return content


def _commit(kind: str, name: str, key: str, content: Mapping[str, Any], lock: Lock) -> dict[str, str]:
    entry = lock.find(kind, name, str(content.get(key, BRANCH)))
    return {} if entry is None else {key: entry.commit}
