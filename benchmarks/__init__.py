"""Measurements that are no part of the harness: each is a command of its own."""
