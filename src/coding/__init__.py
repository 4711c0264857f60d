"""Entropy coders of networks, and the packed file that holds a whole network in as few bytes as possible."""
