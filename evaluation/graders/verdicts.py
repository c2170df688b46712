"""What graders say."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What one grader says about one completion."""

    correct: bool
    #: The answer or program taken from the completion; None where there is none.
    extracted: str | None
    #: How the program's run ended (code tasks): passed, failed, timed_out, out_of_memory or forbidden.
    outcome: str | None = None

    @property
    def unparseable(self) -> bool:
        """Whether no answer could be taken from the completion."""
        return self.extracted is None


@dataclass(frozen=True, kw_only=True)
class Grading:
    """All verdicts on one set: ``verdicts[grader][i]`` belongs to example i. ``sandbox_level`` is None where nothing
    ran."""

    verdicts: dict[str, list[Verdict]]
    sandbox_level: str | None = None
    limits: dict[str, float] = field(default_factory=dict)
