"""`uacs train mllm` as a Ray job, on all of a cluster's GPUs.

ray job submit -- python jobs/finetune_mllm.py /shared/data/mosi --model /shared/models/HumanOmni-7B \
    --out /shared/models/humanomni-mosi --workers 8 --deepspeed zero2 --set mllm.device=cuda --set mllm.dtype=bfloat16
"""

import sys

from uacs.cli import main

if __name__ == "__main__":
    main(["train", "mllm", *sys.argv[1:]])
