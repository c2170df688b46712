"""When a training example and an evaluation question count as the same text. Pure functions on strings; numpy, no torch.

Words are runs of letters and digits in lower case; all punctuation is dropped except signs that change what a formula
means, which are words of their own (3 - 2 is not 3 + 2). The word "python" is left out: "write a Python function to" is
MBPP's "write a function to".

A question is, by its best training example,

- ``exact``: its words, as asked or without the wrapping that all questions of its set share, are those of a training query;
- ``near``: at least 80 % of its 5-grams stand in one training example (Lee et al. 2022, arXiv 2107.06499: 5-grams and 0.8;
  containment in place of their Jaccard similarity, since a training example also holds a response), and it is not exact;
- ``ngram``: it shares a 13-gram with a training example (GPT-3, arXiv 2005.14165, appendix C, and lm-evaluation-harness),
  whether or not it is also exact or near. This marks common phrases too: an upper bound.

As in GPT-3's appendix C, a question shorter than 13 words is held as one n-gram of its own length if it has at least 8
words, and n-grams that belong to a template do not count. There a template is what stands in more than 10 training
documents; here, in more than 10 questions of the set, because augmented training sets such as MetaMathQA repeat a question
more often than that. Sets are looked at apart: a question that two sets share is not a template.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

#: Words of an n-gram whose sharing counts as overlap, and the fewest that do.
LONG, SHORTEST = 13, 8
#: Words of the n-grams whose contained share makes a near duplicate, that share, and the fewest n-grams it needs.
SHORT, NEAR_SHARE, FEWEST = 5, 0.8, SHORTEST - 5 + 1
#: An n-gram of more questions than this is part of their template.
TEMPLATE_QUESTIONS = 10
#: Changes whenever what is found may change; part of the cache's key.
DEFINITION = 1

_WORD = re.compile(r"[^\W_]+|_|[-+*/^=<>%|]")
_LEFT_OUT = frozenset({"python"})
#: Training examples that are hashed at once.
_CHUNK = 4096
#: Bits of the table that tells at once that a hash belongs to no question.
_FILTER_BITS = 22

Hashes = NDArray[np.uint64]


def words(text: str) -> list[str]:
    """The words of a text, as defined above."""
    return [word for word in _WORD.findall(text.lower()) if word not in _LEFT_OUT]


@dataclass(frozen=True, kw_only=True)
class Match:
    """The best training example of one question. Rows count from 0; a row is None where the kind was not found.

    ``share`` is the largest share of the question's 5-grams in one training example (0 for a question with too few).
    """

    exact_row: int | None
    near_row: int | None
    ngram_row: int | None
    share: float

    @property
    def exact(self) -> bool:
        return self.exact_row is not None

    @property
    def near(self) -> bool:
        return not self.exact and self.near_row is not None

    @property
    def ngram(self) -> bool:
        return self.ngram_row is not None


@dataclass(frozen=True, kw_only=True)
class Question:
    """An evaluation question as it is asked, and its ``core``: without the wrapping of its set. n-grams are the core's."""

    query: str
    core: str


class _Grams:
    """n-grams of questions, each with the questions that hold it, for looking up many hashes at once."""

    def __init__(self, hashes: Hashes, owners: NDArray[np.int64], *, set_of: NDArray[np.int64]) -> None:
        """``hashes`` and ``owners`` (one question per hash) may repeat; n-grams of a template are dropped.
        ``set_of`` (questions,) is the set of each question."""
        pairs = np.unique(np.stack([hashes, owners.astype(np.uint64)], axis=1), axis=0)
        in_set = np.stack([pairs[:, 0], set_of[pairs[:, 1].astype(np.int64)].astype(np.uint64)], axis=1)
        _, group, size = np.unique(in_set, axis=0, return_inverse=True, return_counts=True)
        pairs = pairs[size[group] <= TEMPLATE_QUESTIONS]
        self.owners = pairs[:, 1].astype(np.int64)
        self.values, self.first, self.counts = np.unique(pairs[:, 0], return_index=True, return_counts=True)
        #: n-grams of each question that are not template.
        self.totals = np.bincount(self.owners, minlength=len(set_of))
        self._filter = np.zeros(1 << _FILTER_BITS, dtype=bool)
        self._filter[_slot(self.values)] = True

    def find(self, hashes: Hashes, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """(row, question, how many different n-grams they share), for hashes that stand in ``rows``."""
        maybe = self._filter[_slot(hashes)].nonzero()[0]
        hashes, rows = hashes[maybe], rows[maybe]
        if not len(self.values) or not len(hashes):
            return (np.empty(0, dtype=np.int64),) * 3
        position = np.minimum(np.searchsorted(self.values, hashes), len(self.values) - 1)
        hit = self.values[position] == hashes
        pairs = np.unique(np.stack([rows[hit], position[hit]], axis=1), axis=0)
        counts = self.counts[pairs[:, 1]]
        row = np.repeat(pairs[:, 0], counts)
        question = self.owners[_spans(self.first[pairs[:, 1]], counts)]
        matched, shared = np.unique(np.stack([row, question], axis=1), axis=0, return_counts=True)
        return matched[:, 0], matched[:, 1], shared


def _slot(hashes: Hashes) -> NDArray[np.int64]:
    return (hashes >> np.uint64(64 - _FILTER_BITS)).astype(np.int64)


def _spans(first: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The indices first[i] .. first[i] + counts[i] - 1 of all i, one after another."""
    if not len(counts):
        return np.empty(0, dtype=np.int64)
    starts = np.cumsum(counts) - counts
    return np.arange(counts.sum()) - np.repeat(starts - first, counts)


def _window_hashes(values: Hashes, n: int) -> Hashes:
    """A 64-bit polynomial hash of every n successive values; wraps around."""
    result = np.zeros(max(0, len(values) - n + 1), dtype=np.uint64)
    for offset in range(n):
        result *= np.uint64(0x9E3779B97F4A7C15)
        result += values[offset : offset + len(result)]
    return result


class QuestionIndex:
    """Evaluation questions, made ready to be held against any number of training examples.

    Memory grows with the questions, not with the training set: training examples are streamed.
    """

    def __init__(self, questions: Sequence[Question], *, sets: Sequence[int] | None = None) -> None:
        """``sets``: how many successive questions belong to each set (None: all to one)."""
        split = [words(question.core) for question in questions]
        self._count = len(split)
        sizes = [len(split)] if sets is None else sets
        self._set_of = np.repeat(np.arange(len(sizes)), sizes)
        vocabulary = sorted({word for question in split for word in question})
        self._ids = {word: i + 1 for i, word in enumerate(vocabulary)}  # 0: a word of no question
        random = np.random.default_rng(0)
        self._values = random.integers(1, 2**64 - 1, size=len(vocabulary) + 1, dtype=np.uint64)
        self._exact: dict[str, list[int]] = {}
        for index, question in enumerate(questions):
            for text in {" ".join(words(question.query)), " ".join(split[index])} - {""}:
                self._exact.setdefault(text, []).append(index)
        self._short = self._index(split, SHORT)
        lengths = {LONG} | {len(question) for question in split if SHORTEST <= len(question) < LONG}
        self._long = {
            n: self._index(split, n, only=None if n == LONG else n)  # a short question counts as a whole only
            for n in sorted(lengths)
        }

    def _index(self, split: Sequence[list[str]], n: int, *, only: int | None = None) -> _Grams:
        hashes, owners = [np.empty(0, dtype=np.uint64)], [np.empty(0, dtype=np.int64)]
        for index, question in enumerate(split):
            if only is None or len(question) == only:
                grams = _window_hashes(self._values[[self._ids[word] for word in question]], n)
                hashes.append(grams)
                owners.append(np.full(len(grams), index))
        return _Grams(np.concatenate(hashes), np.concatenate(owners), set_of=self._set_of)

    def matches(self, examples: Iterable[tuple[str, str]]) -> list[Match]:
        """The best training example of every question.

        Args:
            examples: (query, response) of each training row, in order; read once.
        """
        best = np.zeros(self._count)
        rows = {kind: np.full(self._count, -1) for kind in ("exact", "near", "ngram")}
        start = 0
        for chunk in _chunks(examples, _CHUNK):
            queries = [words(query) for query, _ in chunk]
            for row, query in enumerate(queries):
                for question in self._exact.get(" ".join(query), ()):
                    if rows["exact"][question] < 0:
                        rows["exact"][question] = start + row
            texts = [[*query, *words(response)] for query, (_, response) in zip(queries, chunk, strict=True)]
            ids, owners = self._encode(texts)
            self._update_short(ids, owners + start, best, rows["near"])
            self._update_long(ids, owners + start, rows["ngram"])
            start += len(chunk)
        near = best >= NEAR_SHARE
        return [
            Match(
                exact_row=_row(rows["exact"][i]),
                near_row=_row(rows["near"][i]) if near[i] else None,
                ngram_row=_row(rows["ngram"][i]),
                share=float(best[i]),
            )
            for i in range(self._count)
        ]

    def _encode(self, texts: Sequence[list[str]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Word ids of all texts with a 0 after each, and the text of each id."""
        known = self._ids.get
        ids: list[int] = []
        for text in texts:
            ids += [known(word, 0) for word in text]
            ids.append(0)
        return np.array(ids, dtype=np.int64), np.repeat(np.arange(len(texts)), [len(text) + 1 for text in texts])

    def _windows(self, ids: NDArray[np.int64], owners: NDArray[np.int64], n: int) -> tuple[Hashes, NDArray[np.int64]]:
        """Hashes of the n-grams all of whose words occur in questions, and the text of each."""
        if len(ids) < n:
            return np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.int64)
        unknown = np.concatenate([[0], np.cumsum(ids == 0)])
        whole = (unknown[n:] == unknown[:-n]).nonzero()[0]
        return _window_hashes(self._values[ids], n)[whole], owners[whole]

    def _update_short(
        self, ids: NDArray[np.int64], owners: NDArray[np.int64], best: NDArray[np.float64], rows: NDArray[np.int64]
    ) -> None:
        row, question, shared = self._short.find(*self._windows(ids, owners, SHORT))
        enough = self._short.totals[question] >= FEWEST
        row, question, share = row[enough], question[enough], shared[enough] / self._short.totals[question[enough]]
        order = np.lexsort((row, -share, question))  # of each question the largest share first, then the first row
        question, leading = np.unique(question[order], return_index=True)
        row, share = row[order][leading], share[order][leading]
        better = share > best[question]
        best[question[better]], rows[question[better]] = share[better], row[better]

    def _update_long(self, ids: NDArray[np.int64], owners: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
        for n, grams in self._long.items():
            row, question, _ = grams.find(*self._windows(ids, owners, n))
            first = np.full(self._count, np.iinfo(np.int64).max)
            np.minimum.at(first, question, row)
            new = (rows < 0) & (first < np.iinfo(np.int64).max)
            rows[new] = first[new]


def _row(value: int) -> int | None:
    return None if value < 0 else int(value)


def _chunks(items: Iterable[tuple[str, str]], size: int) -> Iterator[list[tuple[str, str]]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
