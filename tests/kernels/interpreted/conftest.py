"""Modules here run the Triton kernels in Triton's interpreter, which a process chooses when it starts."""

import os

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]
