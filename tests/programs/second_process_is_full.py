"""One process of a training under torchrun whose process 1 runs out of memory at its first step."""
import os
import sys

import train
from tests.helpers import out_of_memory

if os.environ["RANK"] == "1":
    train.pretrain_step = out_of_memory
sys.exit(train.main())
