"""One experiment on real objects: its plan, its rehearsal, its stages, its files and its results."""
