"""Stages: what determines each one, its identity, and the store in which it is found again."""
