"""Which candidate is the fastest: by measurement, inside the accuracy budget, and never slower than float."""
