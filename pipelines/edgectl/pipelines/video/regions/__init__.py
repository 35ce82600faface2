"""Detection in regions of the picture at its own resolution, around what moves and what is tracked: a detector's
input is a fifth of a 1080p picture's width, and what is 30 pixels tall in one is 6 in the other.

``cover`` says which, ``budget`` how many of them fit, ``merge`` makes one list of what was found in them,
``choice`` puts them together for a stream.
"""
