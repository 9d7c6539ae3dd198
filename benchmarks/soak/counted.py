"""The controller as `serin run`, which writes a census of its memory to $SERIN_CENSUS whenever it gets SIGUSR1."""

import ctypes
import gc
import json
import os
import re
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path

from controller.__main__ import run


class _Heap(ctypes.Structure):
    """struct mallinfo2 of glibc."""

    _fields_ = [(f"_{n}", ctypes.c_size_t) for n in range(4)] + [
        (name, ctypes.c_size_t) for name in ("hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    ]


def arenas() -> int:
    """Bytes that Python keeps for its small objects."""
    with tempfile.TemporaryFile() as told:
        kept = os.dup(2)
        os.dup2(told.fileno(), 2)
        try:
            sys._debugmallocstats()
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        told.seek(0)
        found = re.search(rb"(\d+) arenas \* (\d+) bytes/arena", told.read())
    assert found
    return int(found[1]) * int(found[2])


def census(path: Path) -> None:
    """Blocks and bytes before the counting itself takes some."""
    kept = arenas()
    rings = gc.collect()
    blocks = sys.getallocatedblocks()
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = _Heap
    heap = mallinfo2()
    sizes = {"used": heap.uordblks + heap.hblkhd, "free": heap.fordblks, "arenas": kept, "rings": rings}
    kinds = Counter(f"{type(each).__module__}.{type(each).__qualname__}" for each in gc.get_objects())
    part = path.with_suffix(".part")
    part.write_text(json.dumps({"blocks": blocks, **sizes, "kinds": kinds}))
    part.replace(path)


if __name__ == "__main__":
    target = Path(os.environ["SERIN_CENSUS"])
    signal.signal(signal.SIGUSR1, lambda number, frame: census(target))
    run()
