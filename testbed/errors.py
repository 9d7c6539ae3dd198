"""The one error of the testbed; its message says what to do."""


class BedError(RuntimeError):
    """The bed cannot be brought up, or one of its processes died. The message names the mend or shows the log."""
