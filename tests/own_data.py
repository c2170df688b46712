"""The docs' example of data of one's own, with files that fit it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow
from pyarrow import parquet

from tests import readme


def _question(n: int) -> tuple[str, int]:
    more = n % 7 + 1
    return f"{('Ann', 'Ben', 'Cid', 'Dora')[n % 4]} has {n} pens and buys {more} more. How many?", n + more


def write_example(folder: Path) -> None:
    """Write my.yaml, and the 40 rows that it trains on and the 16 and 12 that it asks, one of them from the training set."""
    (folder / "my.yaml").write_text(readme.example("own-data"))
    data = folder / "data"
    data.mkdir()
    with (data / "train.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("question", "solution"))
        writer.writerows((asked, f"The answer is: {answer}") for asked, answer in map(_question, range(40)))
    lines = (json.dumps({"question": asked, "result": answer}) for asked, answer in map(_question, range(39, 55)))
    (data / "test.jsonl").write_text("\n".join(lines))
    quiz = []
    for n in range(60, 72):
        asked, answer = _question(n)
        texts = [str(answer + (place - n) % 3) for place in range(3)]
        quiz.append({"question": asked, **dict(zip("abc", texts, strict=True)), "key": "ABC"[texts.index(str(answer))]})
    parquet.write_table(pyarrow.Table.from_pylist(quiz), data / "quiz.parquet")
