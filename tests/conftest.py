"""Settings of all tests: no test asserts times, and a check of a change does not depend on luck."""

import os

# Workers share the processors, and models of this size are several times slower on two threads beside other work.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import settings

settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")
