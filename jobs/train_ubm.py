"""`uacs train ubm` as a Ray job, on all of a cluster's nodes.

ray job submit -- python jobs/train_ubm.py /shared/data/mosi --out /shared/models/ubm --workers 4
"""

import sys

from uacs.cli import main

if __name__ == "__main__":
    main(["train", "ubm", *sys.argv[1:]])
