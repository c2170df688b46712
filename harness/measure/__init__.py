"""Measuring trained and training models: time, memory, and accuracy without the least important ranks."""
