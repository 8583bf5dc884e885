"""samserve: embed an image once on a GPU, answer every click in milliseconds on a CPU."""

import os

# ONNX Runtime reads this when it is imported, and would report its use to its makers. All of
# samserve's modules import this one first. A value that the user has set is kept.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
