"""What stands on a command line beside its options: changes of an experiment, and targets in the wrong place."""
