"""Networks, one file for each family of architectures; building a network for its data; files of weights."""
