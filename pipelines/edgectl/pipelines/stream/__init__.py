"""What video and audio share: frames, the ledger of what became of them, traces, events, threads."""
