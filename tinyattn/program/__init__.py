"""A function as NumPy calls. To read: traced and recorder, trace; plan; guards, program, compiled; write, file."""
