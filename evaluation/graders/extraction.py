"""From a completion to the answer or the program in it. Pure string functions, no torch, nothing is evaluated."""

from __future__ import annotations

import re
from fractions import Fraction

#: What MetaMathQA responses end in; exact case and one blank.
TRIGGER = "The answer is: "

# ---------------------------------------------------------------------------------------------------- MetaMath lineage


def metamath_answer(completion: str) -> str | None:
    """MATH answer as MetaMath's evaluation takes it: after the last trigger, up to a full stop that ends a line."""
    _, trigger, tail = completion.rpartition(TRIGGER)
    if not trigger:
        return None
    answer = tail.partition(".\n")[0].strip()
    return answer.removesuffix(".").strip()


_LINEAGE_NUMBER = re.compile(r"[-+]?\d*[.,/]?\d+")


def metamath_number(completion: str) -> int | None:
    """GSM8K answer as MetaMath's evaluation takes it: the first number after the last trigger, with at most one
    separator, rounded half to even. 1,234,567 gives 1234; 3/4 gives 1; n/0 gives n."""
    _, trigger, tail = completion.rpartition(TRIGGER)
    match = _LINEAGE_NUMBER.search(tail) if trigger else None
    if match is None:
        return None
    text = match.group().replace(",", "")
    try:
        if "/" not in text:
            return round(float(text))
        numerator, denominator = text.split("/")
        if denominator == "0":
            return round(float(numerator))
        ratio = Fraction(text)
        return round(ratio.numerator / ratio.denominator)
    except (ValueError, OverflowError, ZeroDivisionError):
        return None


# --------------------------------------------------------------------------------------------------------------- sound

#: Where a model stops answering and starts a new problem, in the words of its prompt template.
_NEXT_PROBLEM = re.compile(r"\n[ \t]{0,8}(?:### ?)?(?:Instruction|Response|Question|Problem|USER|ASSISTANT) ?:", re.IGNORECASE)
_SOUND_TRIGGER = re.compile(r"the (?:final )?answer is\s*:?", re.IGNORECASE)
_HASHES = re.compile(r"####")


def answer_text(completion: str) -> str | None:
    """The final answer as a reader finds it: on the line of the last "the answer is", else the last ``\\boxed``, else
    after the last ``####``; of the first problem only, where the model runs on to another one. None where there is
    none. Cost is linear in the length."""
    text = _NEXT_PROBLEM.split(completion, maxsplit=1)[0]
    for pattern in (_SOUND_TRIGGER, None, _HASHES):
        if pattern is None:
            answer = last_boxed(text)
        else:
            marks = list(pattern.finditer(text))
            answer = first_line(text[marks[-1].end() :]) if marks else None
        if answer is not None:
            return answer
    return None


def first_line(text: str) -> str:
    """The first line that is not blank, and the following ones while a brace or a LaTeX environment is open; no full
    stop at the end."""
    kept: list[str] = []
    depth = 0
    for line in text.strip().split("\n"):
        kept.append(line)
        depth += line.count(r"\begin{") - line.count(r"\end{") + line.count("{") - line.count("}")
        if depth <= 0:
            break
    return " ".join(kept).strip().strip("*").strip().removesuffix(".")


def last_boxed(text: str) -> str | None:
    """The body of the last ``\\boxed{...}``, else of the last ``\\fbox{...}``, with balanced braces; also ``\\boxed
    3``."""
    start = max(text.rfind("\\boxed"), -1)
    if start < 0:
        start = text.rfind("\\fbox")
    if start < 0:
        return None
    body = text[start:].removeprefix("\\boxed").removeprefix("\\fbox")
    if not body.startswith("{"):
        match = re.match(r"\s+([^\s$]+)", body)
        return match.group(1) if match else None
    depth = 0
    for position, character in enumerate(body):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return body[1:position]
    return None


# ---------------------------------------------------------------------------------------------------------------- code

_PYTHON_FENCE = re.compile(r"```(?:python3?|py)?[ \t]*\n(.*?)(?:\n[ \t]*```|\Z)", re.DOTALL)


def pissa_code(completion: str) -> str:
    """PiSSA's clean-up: carriage returns dropped, the body of the first ```python fence where there is one (else the
    raw text), then cut at the main guard, at "# Example usage", and at the first "assert" anywhere."""
    text = completion.replace("\r", "")
    _, fence, body = text.partition("```python")
    if fence:
        text = body.partition("```")[0]
    for cut in ('if __name__ == "__main__":', "# Example usage", "assert"):
        text = text.partition(cut)[0]
    return text


def sound_code(completion: str, *, entry_point: str | None = None) -> str:
    """The program in a completion: the first fenced block that defines ``entry_point`` (else the first fenced block),
    else the text up to the first line of prose. An unclosed fence runs to the end."""
    text = completion.replace("\r\n", "\n")
    blocks = _PYTHON_FENCE.findall(text)
    if blocks:
        defining = [block for block in blocks if entry_point and re.search(rf"\bdef\s+{re.escape(entry_point)}\b", block)]
        return _without_tabs((defining or blocks)[0])
    return _without_tabs(_up_to_prose(text))


def _without_tabs(code: str) -> str:
    """Tabs in indents as four blanks, so that a body fits under a stub indented with blanks."""
    return re.sub(r"^[ \t]+", lambda indent: indent.group().expandtabs(4), code, flags=re.MULTILINE)


_CODE_LINE = re.compile(
    r"(?:def|class|import|from|if|elif|else|for|while|try|except|finally|with|async|match|return|print|assert|raise"
    r"|pass|del|global|nonlocal|lambda)\b|[@#)\]}'\"]|[A-Za-z_][\w.\[\], ]*(?:[-+*/%&|^@<>:]*=|\()"
)


def _up_to_prose(text: str) -> str:
    """The text before the first unindented line, after some code, that cannot start a Python statement."""
    kept: list[str] = []
    quotes = 0
    for line in text.split("\n"):
        inside = quotes % 2 == 1
        if not inside and line.strip() and not line[0].isspace() and not _CODE_LINE.match(line):
            if any(part.strip() for part in kept):
                break
            continue
        quotes += line.count('"""') + line.count("'''")
        kept.append(line)
    return "\n".join(kept)
