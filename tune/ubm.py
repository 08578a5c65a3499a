"""`uacs tune ubm` as a Ray job, its trials on all of a cluster's nodes.

ray job submit --runtime-env jobs/runtime_env.yaml -- \\
    python tune/ubm.py /shared/mosi --calibration /shared/calibration --out /shared/tuned --at-once 8 --gpus 0.25
"""

import sys

from uacs.cli import main

if __name__ == "__main__":
    main(["tune", "ubm", *sys.argv[1:]])
