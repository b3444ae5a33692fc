"""Who sits on the other side of the table."""
