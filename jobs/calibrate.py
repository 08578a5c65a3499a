"""`uacs calibrate` as the entrypoint of a Ray job; docs/cluster.md shows how it is submitted."""

import sys

from uacs.cli import main

if __name__ == "__main__":
    main(["calibrate", *sys.argv[1:]])
