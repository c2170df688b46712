"""From a completion to the answer or the program in it. Pure string functions, no torch, nothing is evaluated."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable
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
_NEXT_PROBLEM = re.compile(
    r"\n[ \t]{0,8}(?:### ?)?(?:Instruction|Response|Question|Problem|Q|USER|ASSISTANT)(?: \d{1,3})? ?:"
    r"|</s>|<\|(?:endoftext|im_end|eot_id)\|>",
    re.IGNORECASE,
)
_SOUND_TRIGGER = re.compile(
    r"the (?:final |correct )?answer is\s*:?|^[^\w\n]{0,12}(?:the )?(?:final )?answer[^\w\n]{0,2}(?:[:=]\**|$)",
    re.IGNORECASE | re.MULTILINE,
)
#: GSM8K's own calculator marks: "2 + 1 = <<2+1=3>>3".
_CALCULATOR = re.compile(r"<<[^<>\n]*>>")
_HASHES = re.compile(r"####")
_SENTENCE_END = re.compile(
    r"(?P<comparison>\sas\s\w+\sas\s)|(?<![ap]\.m)(?<!\bvs)\.\s+(?=[A-Z])|(?<!\\)[!?](?=\s)"
    r"|,?\s(?:because|since|as|which|so|(?<!\bis\s)(?<!\bare\s)(?<!\bwas\s)not)\s"
)
#: What a closing sentence says of the quantity that was asked.
_STATES = re.compile(r"\s(?:is|are|was|were|equals?|has|have|had|costs?|takes?|needs?|makes?|earns?|gets?)\s|=")
_CONCLUDES = re.compile(r"(?:so|therefore|thus|hence|finally|in total|altogether)\b,?\s*", re.IGNORECASE)
#: A sentence whose subject is a counted quantity says how many there are: "5 are left", "2 + 3 = 5 apples are left".
_COUNTED = re.compile(r"\$?\d[\d,.]*\s+(?!(?:is|was|equals|has|had)\b)[a-z]")
#: One line of one expression, or one that begins with no word and is no item of a list.
_ALONE = re.compile(r"\S*[^A-Za-z\s]\S*|(?!\d+[.)]\s)[^A-Za-z\n][^\n]*")
_BETWEEN_BOXES = re.compile(r"[\s$,;]*(?:\b(?:and|or)\b[\s$]*|\\text\s*\{\s*(?:and|or)\s*\}[\s$]*)?")


def answer_text(completion: str, *, truncated: bool = False) -> str | None:
    """The final answer as a reader finds it: on the line of the last "the answer is" or "Answer:", else in the last
    ``\\boxed`` (the last few, where only commas or "and" stand between them), else after the last ``####``, else after the
    last verb of the last sentence; of the first problem only, where the model runs on to another one. None where there is
    none. Cost is linear in the length.

    Args:
        truncated: the token limit cut the completion off, so what stands after its last closed sentence, line or box may be
            half a number, and is not read, nor is a sentence that announces no answer: more was to follow. A completion that
            ends inside one more repetition of its last line was cut off too.
    """
    text, *another = _NEXT_PROBLEM.split(_CALCULATOR.sub("", completion), maxsplit=1)
    cut = not another and (truncated or _ends_in_a_loop(text))
    if cut:
        text = _closed(text)
    for find in (_after(_SOUND_TRIGGER), _boxed, _after(_HASHES), *([] if cut else [_concluded])):
        if (answer := find(text)) is not None:
            return answer
    return None


def _after(mark: re.Pattern[str]) -> Callable[[str], str | None]:
    def find(text: str) -> str | None:
        boxes = _boxes(text)
        starts = [start for start, _, _ in boxes]

        def outside(match: re.Match[str]) -> bool:
            box = bisect_right(starts, match.start()) - 1
            return box < 0 or boxes[box][1] <= match.start()

        marks = list(filter(outside, mark.finditer(text)))
        return stated(text[marks[-1].end() :]) if marks else None

    return find


def _boxed(text: str) -> str | None:
    return ", ".join(last_boxes(text)) or last_boxed(text)


def _concluded(text: str) -> str | None:
    """What the last sentence says that something is, or has; how many there are; or what follows a "therefore". A completion
    that is one line and no prose is the answer itself."""
    if _ALONE.fullmatch(text.strip()):
        return stated(text)
    last = re.split(r"\n|[.!?]\s", text.strip())[-1].replace("**", "")
    opening = _CONCLUDES.match(last)
    said = last[opening.end() :] if opening else last
    verbs = list(_STATES.finditer(said))
    subject = said.rpartition("=")[2].strip()
    predicate = said[verbs[-1].end() :] if verbs else said
    said = subject if _COUNTED.match(subject) and not re.search(r"\d", predicate) else predicate
    return said.strip().removesuffix(".") if (verbs or opening) and not last.endswith("?") else None


def _ends_in_a_loop(text: str) -> bool:
    """Whether the last line begins as the two equal lines before it do, and is shorter."""
    *_, first, second, last = ["", "", *text.split("\n")]
    return first == second != last != "" and second.startswith(last)


def _closed(text: str) -> str:
    """The text up to its last line end, sentence end or closed box."""
    ends = [match.end() for match in re.finditer(r"\n|(?<!\\)[.!?](?=\s)", text)]
    boxes = [end for _, end, _ in _boxes(text)]
    return text[: max([0, *ends[-1:], *boxes[-1:]])]


def stated(tail: str) -> str:
    """The answer after the words that announce it: the boxes of its line, else its first sentence."""
    line = first_line(tail)
    boxes = last_boxes(line)
    if boxes:
        return ", ".join(boxes)
    end = next((match for match in _SENTENCE_END.finditer(line) if not match["comparison"]), None)
    return line[: end.start()] if end else line


def first_line(text: str) -> str:
    """The first line that is not blank, and the following ones while a brace or a LaTeX environment is open; no full
    stop at the end."""
    kept: list[str] = []
    depth = 0
    for line in text.strip().split("\n"):
        kept.append(line)
        depth += line.count(r"\begin{") - line.count(r"\end{") + line.count("{") - line.count("}")
        depth += line.count(r"\[") - line.count(r"\]")
        if depth <= 0:
            break
    return " ".join(kept).strip().strip("*").strip().removesuffix(".")


def _boxes(text: str) -> list[tuple[int, int, str]]:
    """(start, end, body) of each ``\\boxed{...}`` with balanced braces. Those inside another one do not count."""
    boxes: list[tuple[int, int, str]] = []
    for match in re.finditer(r"\\f?box(?:ed)?\s*\{", text):
        if boxes and match.start() < boxes[-1][1]:
            continue
        depth = 1
        for position in range(match.end(), len(text)):
            depth += (text[position] == "{") - (text[position] == "}")
            if depth == 0:
                boxes.append((match.start(), position + 1, text[match.end() : position]))
                break
        else:
            break  # never closed, nor is any later one
    return boxes


def last_boxes(text: str) -> list[str]:
    """The bodies of the last boxes of a text between which nothing but commas, "and" or "or" stands."""
    bodies: list[str] = []
    following = None
    for start, end, body in reversed(_boxes(text)):
        if following is not None and not _BETWEEN_BOXES.fullmatch(text, end, following):
            break
        bodies.insert(0, body)
        following = start
    return bodies


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
