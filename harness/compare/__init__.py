"""Two sets of answers to the same items, of lm-eval, Inspect AI or this project's own runs, compared as its tables compare
methods. Each format has one module; ``answers`` is what they give."""
