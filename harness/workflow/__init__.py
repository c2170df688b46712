"""What the Snakefile calls: the graph, the checks before it, a GPU for each job."""
