"""Buckets on Redis, shared by all processes that use it: the scripts, their codec, and the batches of callers."""
