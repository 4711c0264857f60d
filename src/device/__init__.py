"""What runs on the board: Python 3.6, numpy and the inference runtimes that are there; nothing else of this project."""
