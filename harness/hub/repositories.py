"""What a repository on the hub holds at a commit, and its files in the local cache: below ``HF_HOME``, as for every program."""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from harness.hub.network import require_answer
from harness.provenance import file_sha256

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

Kind = Literal["model", "dataset"]
_COMMIT = re.compile(r"[0-9a-f]{40}")
#: What transformers reads of a model's repository beside the weights, and the weights in the order in which it prefers them:
#: (the index of their parts, the single file, all of them).
_BESIDE_WEIGHTS = ("*.json", "*.model", "*.txt", "*.jinja", "*.tiktoken")
_WEIGHTS = (
    ("model.safetensors.index.json", "model.safetensors", "model*.safetensors"),
    ("pytorch_model.bin.index.json", "pytorch_model.bin", "pytorch_model*.bin"),
)


def is_commit(revision: str) -> bool:
    """Whether a revision names one content for ever; a branch or a tag may move."""
    return _COMMIT.fullmatch(revision) is not None


def listing(kind: Kind, name: str, revision: str) -> tuple[str, dict[str, RepoSibling]]:
    """The commit that a revision of a repository stands for now, and path -> file, as the hub describes it, of those that runs
    need: large ones by their SHA-256, the others by git's SHA-1 of their content.

    Raises:
        ConfigError: the hub does not answer.
        Exception: of huggingface_hub: no such repository or revision, or no access to it.
    """
    from huggingface_hub import HfApi

    require_answer()
    api = HfApi()
    info = (api.model_info if kind == "model" else api.dataset_info)(name, revision=revision, files_metadata=True)
    files = {one.rfilename: one for one in info.siblings or ()}
    return str(info.sha), {path: files[path] for path in needed(kind, files)}


def needed(kind: Kind, paths: Iterable[str]) -> list[str]:
    """The files of a repository that runs read: of a data set all, of a model those beside ``config.json`` without weights in
    other formats than the one that transformers loads."""
    if kind == "dataset":
        return sorted(paths)
    top = sorted(path for path in paths if "/" not in path)
    weights = next((pattern for _, _, pattern in _WEIGHTS if any(fnmatch(path, pattern) for path in top)), None)
    return [path for path in top if any(fnmatch(path, pattern) for pattern in (*_BESIDE_WEIGHTS, weights or ""))]


def cached(kind: Kind, name: str, commit: str, path: str) -> Path | None:
    """A file of a repository in the local cache, if it is there."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, path, repo_type=kind, revision=commit)
    return Path(found) if isinstance(found, str) else None


def download(kind: Kind, name: str, commit: str, paths: Iterable[str]) -> None:
    """Files of a repository into the local cache, those that are there left alone."""
    from huggingface_hub import snapshot_download

    snapshot_download(name, repo_type=kind, revision=commit, allow_patterns=[glob.escape(path) for path in paths])


def download_again(kind: Kind, name: str, commit: str, path: str) -> None:
    """A file of a repository into the local cache, in the place of the one that is there."""
    from huggingface_hub import hf_hub_download

    hf_hub_download(name, path, repo_type=kind, revision=commit, force_download=True)


def is_whole(path: Path, remote: RepoSibling) -> bool:
    """Whether a file has the size and the hash that the hub gives."""
    from huggingface_hub.utils.sha import git_hash

    if path.stat().st_size != remote.size:
        return False
    if remote.lfs is not None:
        return file_sha256(path) == remote.lfs.sha256
    return git_hash(path.read_bytes()) == remote.blob_id


def dataset_folder(name: str, revision: str) -> Path:
    """The folder with a data set's files at a revision, all of them downloaded.

    Raises:
        ConfigError: the hub does not answer.
        Exception: of huggingface_hub: no such repository, revision or access; or offline, and the cache lacks a file.
    """
    from huggingface_hub import snapshot_download

    require_answer()
    return Path(snapshot_download(name, repo_type="dataset", revision=revision))


def missing_weights(name: str, revision: str) -> list[str]:
    """Which files of a model's weights the local cache lacks; none if it has them all in one format."""
    lacking: list[str] = []
    for index, single, _ in _WEIGHTS:
        parts = cached("model", name, revision, index)
        paths = {single} if parts is None else set(json.loads(parts.read_text(encoding="utf-8"))["weight_map"].values())
        absent = sorted(path for path in paths if cached("model", name, revision, path) is None)
        if not absent:
            return []
        if parts is not None or not lacking:
            lacking = absent
    return lacking
