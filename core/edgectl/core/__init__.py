"""Words and rules that every component shares: errors, digests, task and bundle schemas, wire messages,
histograms.

No threads and no sockets here; files are read and written, nothing is kept open. Importing any part of
edgectl imports this package first, so this is where runtimes are told to keep quiet
(:mod:`edgectl.core.privacy`).
"""

from edgectl.core.privacy import opt_out

opt_out()
