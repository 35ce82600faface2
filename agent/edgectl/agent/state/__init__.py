"""What a device remembers across restarts: the journal, its mirror, and the store of blobs."""
