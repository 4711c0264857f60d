"""One file for each tracking store behind the protocol of ``src/contracts/tracking.py``, and the source of a run."""
