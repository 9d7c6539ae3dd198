"""What SREs try a policy with before they trust it, and look a judgement over with afterwards."""


class LabError(Exception):
    """What was asked for cannot be done; the message says why, and the mend."""
