"""What an arm says beside what it gains: a detector of harmful moves, and a guard that keeps them off the table."""
