"""One module a library: the same model, steps and operations, each written as that library's users would.

A module has functions named after tasks; `function(problem, options)` returns what is timed, a function
without arguments, whose results are compared with the other sides' before any timing.
"""
