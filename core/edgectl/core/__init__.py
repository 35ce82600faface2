"""Words and rules that every component shares: errors, digests, task and bundle schemas, wire messages, histograms.

No threads and no sockets here; files are read and written, nothing is kept open.
"""
