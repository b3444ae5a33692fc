"""Studies: which conditions are trained and played, and what is asked of the episodes (METHOD 7)."""
