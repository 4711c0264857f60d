"""What runs on the board: Python 3.6, numpy and whichever inference runtime is there; nothing else of this project."""
