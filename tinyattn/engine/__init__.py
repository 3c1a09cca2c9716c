"""The engine, which knows no operation and no array library by name."""
