"""The engine: it records operations, and carries gradients back through them.

It imports no operation; the few that it needs (`cast`, `sum_to`, `clone` ...) are called on the array library. Read it
in the order in which it runs:

variable.py    an array, and the node that computed it: a Tensor without its methods
node.py        a recorded operation: its edges, and the arrays that its rules need
operation.py   a forward, and for each input the rule of its gradient
walk.py        the backward pass: newest node first
fork.py        branches that were recorded side by side (DataParallel), and threads.py, which runs them
modes.py       settings for a block of the program (no gradients, definitions), and which line is running
observer.py    how profiles, pictures and anomaly detection watch
opmath.py      float16 is computed as float32
hooks.py       handles of hooks
"""
