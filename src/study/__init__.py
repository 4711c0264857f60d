"""A search: the space of chains, its trials, the workers that run them, and how trials are compared."""
