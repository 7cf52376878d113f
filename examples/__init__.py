"""Programs that use what a run made; each is a file of its own, to read and to change."""
