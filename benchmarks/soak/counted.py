"""The controller as `serin run`, which writes a census of its memory to $SERIN_CENSUS whenever it gets SIGUSR1."""

import ctypes
import gc
import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path

from controller.__main__ import run


class _Heap(ctypes.Structure):
    """struct mallinfo2 of glibc."""

    _fields_ = [(f"_{n}", ctypes.c_size_t) for n in range(4)] + [
        (name, ctypes.c_size_t) for name in ("hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    ]


def census(path: Path) -> None:
    """Blocks and bytes before the counting itself takes some."""
    gc.collect()
    blocks = sys.getallocatedblocks()
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = _Heap
    heap = mallinfo2()
    large = {"used": heap.uordblks + heap.hblkhd, "free": heap.fordblks}
    kinds = Counter(f"{type(each).__module__}.{type(each).__qualname__}" for each in gc.get_objects())
    part = path.with_suffix(".part")
    part.write_text(json.dumps({"blocks": blocks, **large, "kinds": kinds}))
    part.replace(path)


if __name__ == "__main__":
    target = Path(os.environ["SERIN_CENSUS"])
    signal.signal(signal.SIGUSR1, lambda number, frame: census(target))
    run()
