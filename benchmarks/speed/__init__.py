"""How near U-ACS comes to what the machine can do: `make bench`, or `python -m benchmarks.speed`."""

import uacs.cluster  # noqa: F401  before a part imports Ray
