"""Optax transformations that federated learning needs."""
