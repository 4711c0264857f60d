"""Data sets of images, one file for each family: they are read, checked, split and made into batches."""
