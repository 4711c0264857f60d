"""How files are written, whole or not at all, and how records (JSON with a schema version) are written and read."""
