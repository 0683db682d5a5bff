"""Data sets: where clips come from, and what happens to them before the network sees them."""
