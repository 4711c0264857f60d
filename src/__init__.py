"""A workbench that compresses deep neural networks and measures the file that ships."""
