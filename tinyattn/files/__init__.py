"""Files: states are saved and loaded without executing anything that a file contains.

In reading order:

whole.py          the package's file errors; files opened only if they are regular files; atomic writes
nested.py         a nested state as JSON text and named arrays, and back
serialization.py  save, load, load_metadata: safetensors files, validated before their contents are used
"""
