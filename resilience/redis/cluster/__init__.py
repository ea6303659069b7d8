"""The masters of a Redis Cluster: which of them has which key, and connections that follow them."""
