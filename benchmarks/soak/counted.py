"""The controller as `serin run`, which writes a census of its memory to $SERIN_CENSUS whenever it gets SIGUSR1."""

import gc
import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path

from controller.__main__ import run


def census(path: Path) -> None:
    """Blocks before the counting itself takes some."""
    gc.collect()
    blocks = sys.getallocatedblocks()
    kinds = Counter(f"{type(each).__module__}.{type(each).__qualname__}" for each in gc.get_objects())
    part = path.with_suffix(".part")
    part.write_text(json.dumps({"blocks": blocks, "kinds": kinds}))
    part.replace(path)


if __name__ == "__main__":
    target = Path(os.environ["SERIN_CENSUS"])
    signal.signal(signal.SIGUSR1, lambda number, frame: census(target))
    run()
