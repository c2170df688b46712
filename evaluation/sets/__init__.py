"""The evaluation and training sets: how a record is read, and what is asked."""
