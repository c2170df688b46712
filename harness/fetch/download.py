"""One repository into the local cache, each of its files held against the hash that the hub has, and the lock."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import ConfigError
from harness.experiment.hub_sources import HubSource
from harness.experiment.lock import LockedFile, LockedRepository
from harness.files import nearest_existing
from harness.hub import repositories as hub
from harness.hub.network import named_failures, offline
from harness.provenance import file_sha256

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """A repository whose files lie in the local cache and are what they should be."""

    locked: LockedRepository
    #: Bytes that were not there before.
    downloaded: int

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(file.size for file in self.locked.files.values())


def fetch(source: HubSource, locked: LockedRepository | None) -> Fetched:
    """Download what runs read of a repository, at its locked commit or else at the one that its revision stands for now.
    Where the environment forbids the network, only hold the local cache against the lock.

    Raises:
        ConfigError: no answer or no access; no space; a file that is not what the hub or the lock says, also when downloaded
            once more; or offline, and the lock or the cache lacks something.
    """
    if offline():
        if locked is None:
            raise ConfigError(f"{source.name}: found no entry in the lock, and HF_HUB_OFFLINE is set; expected network")
        _hold_against_lock(source, locked, _found(source, locked.commit, locked.files))
        return Fetched(locked=locked, downloaded=0)
    with named_failures(source.name, expected="one that exists and is open to this account (hf auth login)"):
        commit, files = hub.listing(source.kind, source.name, source.revision if locked is None else locked.commit)
        absent = {path: file for path, file in files.items() if hub.cached(source.kind, source.name, commit, path) is None}
        _check_space(source, absent)
        hub.download(source.kind, source.name, commit, files)
        damaged = [path for path, file in _paths(source, commit, files).items() if not hub.is_whole(file, files[path])]
        for path in damaged:
            hub.download_again(source.kind, source.name, commit, path)
    for path, file in _paths(source, commit, damaged).items():
        if not hub.is_whole(file, files[path]):
            raise ConfigError(
                f"{file}: found {file.stat().st_size} bytes of another content, expected the {files[path].size} bytes whose "
                f"hash the hub gives for {source.name}; downloaded twice"
            )
    found = _found(source, commit, files)
    if locked is not None:
        _hold_against_lock(source, locked, found)
    return Fetched(
        locked=LockedRepository(kind=source.kind, name=source.name, revision=source.revision, commit=commit, files=found),
        downloaded=sum(file.size or 0 for path, file in files.items() if path in absent or path in damaged),
    )


def _paths(source: HubSource, commit: str, names: Mapping[str, object] | list[str]) -> dict[str, Path]:
    """Name -> file in the local cache."""
    paths = {name: hub.cached(source.kind, source.name, commit, name) for name in names}
    lacking = [name for name, path in paths.items() if path is None]
    if lacking:
        raise ConfigError(f"{source.name}: found no {', '.join(lacking)} in the local cache, expected all of commit {commit}")
    return {name: path for name, path in paths.items() if path is not None}


def _found(source: HubSource, commit: str, names: Mapping[str, object]) -> dict[str, LockedFile]:
    paths = _paths(source, commit, names)
    return {name: LockedFile(size=path.stat().st_size, sha256=file_sha256(path)) for name, path in paths.items()}


def _hold_against_lock(source: HubSource, locked: LockedRepository, found: Mapping[str, LockedFile]) -> None:
    for name, expected in locked.files.items():
        there = found.get(name)
        if there != expected:
            what = "no such file" if there is None else f"{there.size} bytes, sha256 {there.sha256[:16]}..."
            raise ConfigError(
                f"{source.name}: {name}: found {what}, the lock expects {expected.size} bytes, sha256 {expected.sha256[:16]}..."
            )


def _check_space(source: HubSource, absent: Mapping[str, RepoSibling]) -> None:
    from huggingface_hub import constants

    folder = nearest_existing(Path(constants.HF_HUB_CACHE))
    wanted, free = sum(file.size or 0 for file in absent.values()), shutil.disk_usage(folder).free
    if wanted > free:
        raise ConfigError(
            f"{source.name}: found {free / 1e9:.1f} GB of free disk space at {folder}, expected {wanted / 1e9:.1f} GB; HF_HOME "
            "names another place"
        )
