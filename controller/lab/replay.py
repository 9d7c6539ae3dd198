"""`serin judge replay LOG`: the verdicts of a controller's log, made again from the samples that it logged."""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from controller.core.change import printable
from controller.core.codec import JSON
from controller.core.replay import Replayed, replay


def replay_log(path: Path) -> int:
    """Prints each verdict that is new, and how many were made again; the exit status: 0 all the same, 1 one is not."""
    counts: Counter[str] = Counter()
    shown: dict[tuple[str, str, str], str] = {}
    try:
        for line in judgements(path):
            change = printable(str(line.get("change")), 20)
            for each in replay(line["judgement"]):
                counts["differ" if each.differs else "same"] += 1
                key = (change, each.rule, each.target)
                if each.differs or shown.get(key) != each.verdict:
                    print(_row(str(line.get("at")), change, each), file=sys.stderr if each.differs else sys.stdout)
                shown[key] = each.verdict
    except (OSError, ValueError) as error:
        print(f"serin: {path}: {error}", file=sys.stderr)
        return 1
    if not counts:
        print(f"serin: {path}: no line of it is a judgement; take the log of `serin run`, as JSON", file=sys.stderr)
        return 1
    print(f"{counts['same']} judgements are the same when they are made again, {counts['differ']} are not")
    return 1 if counts["differ"] else 0


def judgements(path: Path) -> Iterator[JSON]:
    """The lines that hold one; other lines, and those of other programs, are passed over."""
    with path.open(errors="replace") as lines:
        for number, text in enumerate(lines, 1):
            if '"judged"' in text:
                try:
                    line = json.loads(text)
                except ValueError as error:
                    raise ValueError(f"line {number} is cut: {error}") from error
                if isinstance(line, dict) and line.get("event") == "judged":
                    yield line


def _row(at: str, change: str, each: Replayed) -> str:
    differs = f"  DIFFERS: {each.differs}" if each.differs else ""
    return f"{printable(at, 30)}  {change}  {each.rule} of {each.target}: {each.verdict}: {each.found}{differs}"
