"""Episodes on disk and what the three stages see of them."""
