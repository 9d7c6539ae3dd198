"""`serin`: the controller, and what SREs try a policy with."""

import asyncio
import sys

from controller.errors import SerinError


def main() -> None:
    """`serin run` does without what the commands for people import: it starts no later and grows no larger by them."""
    match sys.argv[1:]:
        case ["run"]:
            run()
        case ["run", "--help" | "-h"]:
            from controller.settings import help_text

            print(f"usage: serin run\n\n{run.__doc__}\n")
            print(help_text())
        case _:
            _command()


def run() -> None:
    """Run the controller. Its settings are variables of the environment: serin run --help"""
    from controller.app import run
    from controller.settings import load_settings
    from controller.telemetry import configure_logs

    try:
        settings = load_settings()
        configure_logs(settings.log_level, settings.log_format)
        asyncio.run(run(settings))
    except SerinError as error:  # the reason is on stderr for people, and in the log
        sys.exit(f"serin: {error}")


def _command() -> None:
    from controller.lab import LabError
    from controller.lab.commands import app

    app.command()(run)
    try:
        app(prog_name="serin")
    except LabError as error:
        sys.exit(f"serin: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
