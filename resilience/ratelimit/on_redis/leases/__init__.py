"""Leases: tokens that an instance takes from a bucket on Redis ahead of its calls, and spends without Redis."""
