"""A function as a list of NumPy calls. To read: traced and recorder, trace; plan; guards, program, compiled; write, file."""
