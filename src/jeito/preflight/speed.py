"""How fast a model can be at most: the bytes of a token over the bandwidth of memory. Knows nothing of engines."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from jeito.engines.devices import find_driver
from jeito.engines.llamacpp import usable_cores
from jeito.engines.meter import free_memory
from jeito.types import Value

# Bytes of one thread's share of the measurement, and of all: beyond any cache, and not too much to ask for.
SHARE, MOST = 64 << 20, 1 << 30
# Seconds; the best pass counts, since a neighbour's work only ever slows one.
MEASURING = 0.5


class Bandwidth(Value):
    """Bytes a second, and how that is known."""

    bytes: float
    how: str

    def bound(self, read: int) -> float | None:
        """Tokens a second at most, of one reply, where each token reads so many bytes."""
        return self.bytes / read if read else None


def bandwidth(device: str = "cpu") -> Bandwidth:
    """Of a GPU as its driver states it, where it does; of the machine's memory as measured now."""
    driver = find_driver() if device.startswith("cuda") else None
    number = int(device.partition(":")[2] or 0)
    stated = driver.gpus[number].bandwidth if driver and number < len(driver.gpus) else None
    if stated:
        return Bandwidth(bytes=stated, how="as the driver states it")
    return Bandwidth(bytes=measure(), how="as measured now")


def measure() -> float:
    """Bytes a second that all usable cores together read from memory; takes half a second, and up to a GB of it."""
    threads = usable_cores()
    free = free_memory("cpu") or MOST
    share = max(1 << 20, min(SHARE, MOST // threads, free // 4 // threads))
    # Written once, so that each page is there: zeros of the system are all one page.
    parts = [np.full(share // 8, thread, np.int64) for thread in range(threads)]
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        end = time.perf_counter() + MEASURING
        while not best or time.perf_counter() < end:
            start = time.perf_counter()
            list(pool.map(np.max, parts))
            best = max(best, threads * share / (time.perf_counter() - start))
    return best
