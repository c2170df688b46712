"""Where each setting of an experiment comes from: the tags in the comments of its YAML files. No torch.

A comment such as ``# [A.2] batch 128`` beside a key, or on lines of its own directly above it, tags that key and every key
below it that has no tag of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from harness.errors import KeyPath

#: Tag -> what it says.
TAGS = {
    "A.2": "the paper, appendix A.2",
    "Table 4": "the paper, Table 4",
    "B.1": "the paper, appendix B.1",
    "script": "the released code's scripts and train.py",
    "ours": "ours: stated neither in the paper nor in its code",
}
#: Shown for a setting that no file states.
DEFAULT = "default"
#: Shown for a setting given on the command line.
COMMAND_LINE = "--set"

_TAG = re.compile(r"\[(" + "|".join(map(re.escape, TAGS)) + r")\]")
_QUOTED = re.compile(r""""(?:[^"\\]|\\.)*"|'[^']*'""")
_COMMENT = re.compile(r"(?:^|\s)#\s*(.*)$")


@dataclass(frozen=True, kw_only=True)
class Source:
    """The tags of one setting, and the comment that they stand in. No tag: the file gives none."""

    tags: tuple[str, ...]
    note: str
    line: int

    def __str__(self) -> str:
        return " ".join(f"[{tag}]" if tag in TAGS else tag for tag in self.tags) or "no source given"


def read_sources(paths: Sequence[Path], overrides: Mapping[str, Any] | None = None) -> dict[KeyPath, Source]:
    """The source of every value that the files state. A later file replaces what it states, lists as a whole."""
    sources: dict[KeyPath, Source] = {}
    for path in paths:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text)
        if root is None:
            continue
        new = dict(_leaves(root, (), Source(tags=(), note="", line=0), _comments(text)))
        replaced = {_up_to_list(key) for key in new}
        sources = {key: source for key, source in sources.items() if not any(key[: len(r)] == r for r in replaced)} | new
    for dotted in overrides or {}:
        prefix = tuple(dotted.split("."))
        sources = {key: source for key, source in sources.items() if key[: len(prefix)] != prefix}
        sources[prefix] = Source(tags=(COMMAND_LINE,), note="", line=0)
    return sources


def _up_to_list(key: KeyPath) -> KeyPath:
    for i, part in enumerate(key):
        if isinstance(part, int):
            return key[:i]
    return key


def _comments(text: str) -> list[tuple[str, bool]]:
    """For each line its comment, and whether it is nothing but a comment."""
    comments = []
    for line in text.splitlines():
        match = _COMMENT.search(_QUOTED.sub(lambda quoted: "_" * len(quoted[0]), line))
        comments.append((line[match.start(1) :] if match else "", line.lstrip().startswith("#")))
    return comments


def _source(first: int, last: int, comments: list[tuple[str, bool]], inherited: Source) -> Source:
    """The source of a key whose lines are ``first`` to ``last`` (from 0)."""
    above = first
    while above > 0 and comments[above - 1][1]:
        above -= 1
    for lines in (range(first, last + 1), range(above, first)):
        text = " ".join(comments[i][0] for i in lines if comments[i][0])
        tags = tuple(dict.fromkeys(_TAG.findall(text)))
        if tags:
            return Source(tags=tags, note=text, line=first + 1)
    return Source(tags=inherited.tags, note=inherited.note, line=first + 1)


def _leaves(
    node: yaml.Node, path: KeyPath, source: Source, comments: list[tuple[str, bool]]
) -> Iterator[tuple[KeyPath, Source]]:
    """Every scalar and every list of scalars, with its source."""
    if isinstance(node, yaml.MappingNode) and node.value:
        for key, value in _pairs(node):
            simple = not _has_mapping(value)
            last = value.end_mark.line if simple and value.end_mark.column > 0 else key.start_mark.line
            own = _source(key.start_mark.line, last, comments, source)
            yield from _leaves(value, (*path, key.value), own, comments)
    elif isinstance(node, yaml.SequenceNode) and _has_mapping(node):
        for i, item in enumerate(node.value):
            yield from _leaves(item, (*path, i), _above(item, comments, source), comments)
    else:
        yield path, source


def _pairs(node: yaml.MappingNode) -> list[tuple[yaml.Node, yaml.Node]]:
    """Keys and values of a mapping; what it merges in (``<<``) gives whole values for keys that it lacks."""
    own = [(key, value) for key, value in node.value if key.value != "<<"]
    merged = [value for key, value in node.value if key.value == "<<"]
    sources = [one for value in merged for one in (value.value if isinstance(value, yaml.SequenceNode) else [value])]
    inherited = {key.value: (key, value) for one in reversed(sources) for key, value in _pairs(one)}
    return list((inherited | {key.value: (key, value) for key, value in own}).values())


def _above(item: yaml.Node, comments: list[tuple[str, bool]], inherited: Source) -> Source:
    """A list item has no key: its source is what stands above it."""
    return _source(item.start_mark.line, item.start_mark.line, comments, inherited)


def _has_mapping(node: yaml.Node) -> bool:
    if isinstance(node, yaml.MappingNode):
        return True
    return isinstance(node, yaml.SequenceNode) and any(_has_mapping(item) for item in node.value)


def source_of(sources: Mapping[KeyPath, Source], path: KeyPath | None) -> Source:
    """The source of a setting by the key that gave it."""
    for length in range(len(path or ()), 0, -1):
        if path is not None and path[:length] in sources:
            return sources[path[:length]]
    return Source(tags=(DEFAULT,), note="", line=0)
