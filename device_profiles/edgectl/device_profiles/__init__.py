"""Device profiles: what a kind of device can do, the catalogue of them, and what this very machine is."""
