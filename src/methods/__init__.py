"""Compression methods, one file each: a frozen value of settings whose ``compress`` returns the smaller network."""
