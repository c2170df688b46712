"""Fine-tuning one base model with one method and one seed. ``python -m harness.train`` makes a run."""
