"""`serin run`: the controller."""

import asyncio
import sys
from importlib.metadata import version
from pathlib import Path

from controller.app import run
from controller.errors import SerinError
from controller.lab.replay import replay_log
from controller.settings import help_text, load_settings
from controller.telemetry import configure_logs

USAGE = """usage: serin run [--help]
       serin judge replay LOG
       serin version

Serin carries out changes of Kubernetes Deployments: held, approved, 10 % -> 50 % -> 100 %, and back by itself.
"""


def main() -> None:
    arguments = sys.argv[1:]
    if arguments == ["version"]:
        print(version("serin"))
    elif arguments[:1] == ["run"] and arguments[1:] in (["--help"], ["-h"]):
        print(USAGE)
        print(help_text())
    elif arguments[:2] == ["judge", "replay"] and len(arguments) == 3:
        sys.exit(replay_log(Path(arguments[2])))
    elif arguments == ["run"]:
        sys.exit(_run())
    else:
        asked = arguments in (["--help"], ["-h"])
        print(USAGE, file=sys.stdout if asked else sys.stderr)
        sys.exit(0 if asked else 2)


def _run() -> int:
    """The exit status; the reason is on stderr for people, and in the log."""
    try:
        settings = load_settings()
        configure_logs(settings.log_level, settings.log_format)
        asyncio.run(run(settings))
    except SerinError as error:
        print(f"serin: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    main()
