"""Training a network: losses, learning rates, and a training that resumes after any stop."""
