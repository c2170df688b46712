"""What computes completions and log-likelihoods: passes through a model here, and engines in environments of their own."""
