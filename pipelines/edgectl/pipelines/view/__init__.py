"""Watch live: what a stream does now, as pictures and numbers, on a page for a browser."""
