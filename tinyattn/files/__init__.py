"""Files: states saved and loaded, written whole or not at all."""
