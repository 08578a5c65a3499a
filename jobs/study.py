"""`uacs study` as a Ray job: trainings, answers and large models on all of a cluster.

ray job submit -- python jobs/study.py /shared/data/mosi --config study.yaml --out /shared/studies/mosi
"""

import sys

from uacs.cli import main

if __name__ == "__main__":
    main(["study", *sys.argv[1:]])
