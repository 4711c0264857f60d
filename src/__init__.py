"""A workbench that compresses deep neural networks and measures the file that ships."""

from src.device.telemetry import switch_off

switch_off()  # here, since every command, worker process and test imports this package before any library
