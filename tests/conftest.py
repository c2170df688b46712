"""What holds for every test process."""

import os

# One thread a process, as the harness itself runs: pytest-xdist has a process for every core, and libraries that are left to
# themselves start a thread for every core in each of them. Set before anything imports torch; child processes inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
