"""What is raised about files that come from elsewhere: one sentence that names the file and what is wrong."""

from __future__ import annotations


class FileFormatError(ValueError):
    """A file that cannot be read, is damaged, or is not of the format that was asked for."""


class MissingFileError(FileFormatError, FileNotFoundError):
    """There is no file of that name."""
