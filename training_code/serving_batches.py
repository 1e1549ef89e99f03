"""From bytes to the network's outputs, for many callers at once.

Files are decoded in a few threads; one more thread runs the network on whatever has been decoded by the time it
is free. So a single caller never waits for others, and under load batches form by themselves ("continuous
batching"). Images taken in and not answered yet are bounded in number and in bytes; what is over is refused
at once instead of waiting for longer than anybody listens.
"""

from __future__ import annotations

import asyncio
import io
import queue
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import images
import numpy as np
from numpy.typing import NDArray
from serving_engine import MAX_BATCH, Engine, Outputs, available_cores
from serving_requests import Refused

# A second's work for a ResNet50 on two cores, ten for the slowest networks.
MAX_WAITING = 64
MAX_WAITING_BYTES = 64 * 1024**2
# Files that decode within this (about a 4-megapixel PNG) are decoded side by side, larger ones one at a time:
# with the 128 MiB that one may take, the process stays below 512 MB.
SIDE_BY_SIDE_BYTES = 16 * 1024**2
RETRY_SECONDS = 1


@dataclass(frozen=True)
class _Task:
    square: NDArray[np.uint8]
    with_map: bool
    future: Future[Outputs]


class Admission:
    """A request's place among those that wait, and the body that it brings.

    The body of a request that is refused is read and dropped: its caller, still sending, would not see an answer.
    """

    def __init__(self, pipeline: Pipeline, refusal: str | None) -> None:
        self._pipeline = pipeline
        self._refusal = refusal
        self._chunks: list[bytes] = []
        self._held = 0

    def add(self, chunk: bytes) -> None:
        others = self._pipeline.waiting_bytes - self._held
        if self._refusal is None and others and others + self._held + len(chunk) > MAX_WAITING_BYTES:
            self._refusal = f"{others:,} bytes of images are waiting already."
            self.drop()
        if self._refusal is None:
            self._chunks.append(chunk)
            self._held += len(chunk)
            self._pipeline.waiting_bytes += len(chunk)

    def drop(self) -> None:
        self._pipeline.waiting_bytes -= self._held
        self._chunks, self._held = [], 0

    def body(self) -> bytes:
        """The whole body. Raises Refused 429 `Overloaded`."""
        if self._refusal is not None:
            headers = {"Retry-After": str(RETRY_SECONDS)}
            raise Refused(429, "Overloaded", self._refusal, "Try again in a second.", headers)
        return b"".join(self._chunks)


class Pipeline:
    """The model's engine and the threads around it. Made and used in one event loop; `close` ends the threads."""

    def __init__(self, engine: Engine, image_size: int) -> None:
        self._engine = engine
        self._size = image_size
        self._decoders = ThreadPoolExecutor(max_workers=available_cores(), thread_name_prefix="decode")
        self._large = threading.Lock()
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)
        self._thread.start()
        self.waiting = 0
        self.waiting_bytes = 0

    @contextmanager
    def admission(self, images_at_once: int = 1) -> Iterator[Admission]:
        """Holds places for images, and counts their bytes, from arrival to answer."""
        # An idle server takes any single request.
        full = self.waiting > 0 and self.waiting + images_at_once > MAX_WAITING
        admission = Admission(self, f"{self.waiting} images are waiting already." if full else None)
        taken = 0 if full else images_at_once
        self.waiting += taken
        try:
            yield admission
        finally:
            self.waiting -= taken
            admission.drop()

    async def outputs(self, data: bytes, with_map: bool) -> Outputs:
        """What the network says about one image file, N being 1.

        Raises BadImage for a file that is no usable image.
        """
        future: Future[Outputs] = Future()
        self._decoders.submit(self._decode, data, with_map, future)
        return await asyncio.wrap_future(future)

    async def in_thread(self, function: Any, *arguments: Any) -> Any:
        """Runs what takes more than a moment beside the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._decoders, function, *arguments)

    def close(self) -> None:
        """Ends the threads; what was taken in is finished first."""
        self._decoders.shutdown()
        self._tasks.put(None)
        self._thread.join()

    def _decode(self, data: bytes, with_map: bool, future: Future[Outputs]) -> None:
        try:
            square = self._square(data)
        except BaseException as error:  # noqa: BLE001 - whoever waits has to hear of it, whatever it is
            future.set_exception(error)
        else:
            self._tasks.put(_Task(square, with_map, future))

    def _square(self, data: bytes) -> NDArray[np.uint8]:
        try:
            picture = images.decode(io.BytesIO(data), self._size, SIDE_BY_SIDE_BYTES)
        except images.NeedsMoreMemory:
            with self._large:
                picture = images.decode(io.BytesIO(data), self._size)
        return images.letterbox(picture.scaled(self._size), self._size)

    def _run(self) -> None:
        while (first := self._tasks.get()) is not None:
            batch = [first, *self._more(MAX_BATCH - 1)]
            try:
                outputs = self._engine.infer(
                    np.stack([task.square for task in batch]), any(task.with_map for task in batch)
                )
            except BaseException as error:  # noqa: BLE001 - as above; the thread has to live on
                for task in batch:
                    task.future.set_exception(error)
                continue
            for row, task in enumerate(batch):
                task.future.set_result(_row(outputs, row, task.with_map))

    def _more(self, wanted: int) -> Iterator[_Task]:
        for _ in range(wanted):
            try:
                task = self._tasks.get_nowait()
            except queue.Empty:
                return
            if task is None:
                # For the loop outside, which ends when it comes again.
                self._tasks.put(None)
                return
            yield task


def _row(outputs: Outputs, row: int, with_map: bool) -> Outputs:
    place = slice(row, row + 1)
    # A copy of the map: a view would keep the whole batch's.
    chosen = outputs.feature_map[place].copy() if with_map and outputs.feature_map is not None else None
    return Outputs(outputs.probabilities[place], outputs.features[place], chosen)
