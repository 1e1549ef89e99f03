"""The graph without any server: python bare_engine.py MODEL FOLDER SECONDS. Prints one JSON document.

`engine_*` runs it on pixels that are there already; `decoding_per_second` decodes the files of FOLDER as well, with
eight of them under way: what a server can reach whose HTTP costs nothing.
"""

import asyncio
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "training_code"))

import artifact
import images
import numpy as np
from serving_batches import Pipeline


def times(work: Callable[[], object], seconds: float) -> list[float]:
    work()
    taken = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        begin = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begin)
    return taken


async def decoding_per_second(model: artifact.Model, bodies: list[bytes], seconds: float) -> float:
    pipeline = Pipeline(model.engine, model.image_size)
    files = itertools.cycle(bodies)
    begin = time.perf_counter()
    done = 0

    async def call() -> None:
        nonlocal done
        while time.perf_counter() < begin + seconds:
            await pipeline.outputs(next(files), with_map=False)
            done += 1

    await asyncio.gather(*(call() for _ in range(8)))
    taken = time.perf_counter() - begin
    pipeline.close()
    return done / taken


def main() -> None:
    model = artifact.load(Path(sys.argv[1]))
    bodies = [file.read_bytes() for file in sorted(Path(sys.argv[2]).iterdir())]
    seconds = float(sys.argv[3])
    squares = np.stack([images.decode_square(body, model.image_size) for body in bodies])
    rates = {
        size: size / statistics.median(times(lambda size=size: model.engine.infer(squares[:size]), seconds))  # type: ignore[misc]
        for size in (1, 2, 4, 8, 16)
    }
    taken = times(lambda: images.decode_square(bodies[0], model.image_size), seconds / 2)
    result = {
        "engine_ms": 1000 / rates[1],
        "engine_per_second": max(rates.values()),
        "best_batch": max(rates, key=lambda size: rates[size]),
        "decode_ms": statistics.median(taken) * 1000,
        "decoding_per_second": asyncio.run(decoding_per_second(model, bodies, seconds)),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
