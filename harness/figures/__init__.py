"""The paper's figures, and four of ours, from the records of finished runs: ``python -m harness.figures``. No torch.

A figure is one module with a function ``build(inputs) -> Plot``: it gathers the data as one long table (``Plot.data``, which is
written as CSV beside the pictures) and draws nothing but what is in it. ``catalogue`` lists them, ``inputs`` reads records,
``style`` holds the colours of the methods and everything that all pictures share.
"""
