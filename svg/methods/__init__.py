"""One sparse method per file."""
