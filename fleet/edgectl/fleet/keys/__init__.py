"""Keys, signatures, certificates and signed metadata on the host."""
