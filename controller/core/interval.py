"""What a share, and the ratio of two shares, may really be: intervals for people. Verdicts do not use them."""

import math
from statistics import NormalDist

from controller.core.blocks import Counts


def share_interval(counts: Counts, confidence: float = 0.95) -> tuple[float, float]:
    """The share of bad requests, between 0 and 1. Source: Wilson's score interval (1927)."""
    if not counts.total:
        return 0.0, 1.0
    z, n, share = _z(confidence), counts.total, min(counts.ratio, 1.0)
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def ratio_interval(canary: Counts, stable: Counts, confidence: float = 0.95) -> tuple[float, float]:
    """How many times as often the canary fails as stable; (0, inf) when neither fails or one has no requests.

    Given how many requests are bad in all, the canary's part of them is binomial, and its odds are the ratio times the
    odds of the canary's part of the requests. Source: Graham, Mengersen and Morton, "Confidence limits for the ratio of
    two rates based on likelihood scores: non-iterative method", Statistics in Medicine 22 (2003).
    """
    if not (canary.bad + stable.bad and canary.total and stable.total):
        return 0.0, math.inf
    low, high = share_interval(Counts(canary.bad, canary.bad + stable.bad), confidence)
    odds = stable.total / canary.total
    return (
        odds * low / (1 - low) if canary.bad else 0.0,
        odds * high / (1 - high) if stable.bad else math.inf,
    )


def _z(confidence: float) -> float:
    return NormalDist().inv_cdf((1 + confidence) / 2)
