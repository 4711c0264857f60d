"""Measuring an exported file: accuracy, agreement with torch, bytes, counts in its graph, energy and time."""
