"""One circuit for all instances of a service: the record on Redis, and how each instance keeps in step with it."""
