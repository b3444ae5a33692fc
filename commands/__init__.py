"""What the commands at the top share: entry, what is played, what a study trains and plays. Hydra stops here."""
