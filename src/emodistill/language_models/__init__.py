"""Finding and loading language models: the embedded one, local folders, hub ids."""
