"""One verb per file: what a person can run, configured by ``conf/``."""

import os

# Before torch is loaded. Threads that wait by spinning take the cores from the one they wait for: beside any other
# program on a 2-core machine a generation took more than twice as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
