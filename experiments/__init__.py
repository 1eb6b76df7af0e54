"""One verb per file: what a person can run, configured by ``conf/``."""
