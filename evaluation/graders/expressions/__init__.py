"""Expressions as a reader sees them: unicode as LaTeX (``characters``), LaTeX to trees that keep what was written (``parse``),
whether an answer is worked out (``shape``), what it is worth (``values``), and in what unit (``units``). No text is
evaluated as Python."""
