"""Cameras whose native calls cannot be interrupted, read in a child process that can be killed.

:mod:`.grabber` is the child's program; it has the standard library alone, so that it runs under any Python of the
machine. Beside it lies one file per library that reads cameras. :mod:`.child_reader` is the side of the stream.
Frames go through shared memory without a name: nothing is left behind, whoever dies.
"""
