"""`uacs tune thresholds` as a script, for `ray job submit -- python tune/thresholds.py RUN --out DIR`."""

import sys

from uacs.cli import main

if __name__ == "__main__":
    main(["tune", "thresholds", *sys.argv[1:]])
