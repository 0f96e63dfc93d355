"""Trains in the current folder and kills the run at random moments until it is complete.

Run by test_train_resume.py as a process of its own: each run is a fork of one that has imported torch and started
no thread yet, so that a kill costs no import. Prints how many were killed, and how many left half a checkpoint.
"""

import json
import multiprocessing
import os
import random
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from pipeline.params.schema import ModelParams, TrainParams
from pipeline.train.stage import train

FORK = multiprocessing.get_context("fork")


def run(model: dict, params: dict) -> None:
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        train(ModelParams(**model), TrainParams(**params), seed=1)


def main(model: dict, params: dict, kills: int, seed: int) -> None:
    moments = random.Random(seed)
    killed = within_writing = 0
    while True:
        process = FORK.Process(target=run, args=(model, params))
        process.start()
        if killed < kills:
            # From the imports to the middle of an epoch; each run gets some steps further.
            process.join(moments.uniform(0.3, 1.5))
        else:
            process.join()
        if process.exitcode is not None:
            break
        process.kill()
        process.join()
        killed += 1
        within_writing += any(Path(".checkpoints").glob(".*.part*"))
        time.sleep(0.01)
    print(json.dumps({"killed": killed, "within_writing": within_writing, "exitcode": process.exitcode}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
