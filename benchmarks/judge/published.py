"""The figures to reach: what the method gave when it was worked out, and what the peers' rules gave beside it.

None stands for never, or for more than the rollout.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """Seconds from the onset until half, and nine of ten, are taken back; bad requests of the canary by then (mean)."""

    p50: float | None
    p90: float | None = None
    failed: float | None = None


CASES = (
    (0.5, 0.2), (5, 0.015), (5, 0.05), (5, 0.2), (50, 0.015), (50, 0.05), (50, 1.0), (500, 0.005), (500, 0.05),
    (2000, 0.2),
)  # fmt: skip
"""(requests/s, bad share of the canary): stable 0.1 %, bursty, 30 s lag, bad from the start."""

NEVER = Figure(None)
DETECTION: Mapping[str, tuple[Figure, ...]] = {
    "the process's rule": (
        Figure(980, 1475, 34), NEVER, Figure(845, 965, 42), Figure(350, 395, 37), Figure(875, 1190, 172),
        Figure(350, 365, 92), Figure(350, 350, 1740), NEVER, Figure(350, 350, 922), Figure(350, 350, 14445),
    ),
    "Flagger 60s x5": (
        Figure(605, 845, 9), Figure(785, 1025, 12), Figure(485, 605, 13), Figure(365, 425, 38), Figure(425, 605, 40),
        Figure(365, 365, 96), Figure(365, 365, 1813), NEVER, Figure(365, 365, 960), Figure(365, 365, 15054),
    ),
    "Flagger 10s x10": (
        Figure(175, 305, 2), Figure(255, 555, 3), Figure(155, 235, 4), Figure(115, 145, 12), Figure(135, 205, 13),
        Figure(115, 135, 31), Figure(115, 115, 563), Figure(675, None, 989), Figure(115, 115, 294),
        Figure(115, 115, 4775),
    ),
    "Argo docs": (
        Figure(1265, None, 58), NEVER, NEVER, Figure(965, 1265, 292), NEVER, NEVER, Figure(965, 965, 12153), NEVER,
        NEVER, Figure(965, 965, 99125),
    ),
    "Argo tuned": (
        Figure(365, 545, 4), Figure(425, 725, 5), Figure(305, 365, 8), Figure(245, 305, 26), Figure(305, 425, 26),
        Figure(245, 245, 64), Figure(245, 245, 1212), Figure(1805, None, 2256), Figure(245, 245, 639),
        Figure(245, 245, 10137),
    ),
    "Kayenta 5 min": (
        Figure(1505, None, 64), NEVER, Figure(905, 1205, 63), Figure(305, 605, 40), Figure(605, 905, 85),
        Figure(305, 605, 91), Figure(305, 305, 1513), Figure(305, 905, 279), Figure(305, 305, 809),
        Figure(305, 305, 12571),
    ),
    "plain mSPRT": (
        Figure(425, 845, 5), Figure(710, 1175, 14), Figure(200, 410, 6), Figure(80, 125, 8), Figure(110, 215, 11),
        Figure(65, 80, 17), Figure(50, 50, 246), Figure(95, 155, 33), Figure(50, 50, 132), Figure(50, 50, 2121),
    ),
    "Serin": (
        Figure(590, 1085, 7), Figure(965, 2105, 24), Figure(290, 545, 8), Figure(110, 170, 12), Figure(185, 350, 18),
        Figure(95, 140, 28), Figure(95, 110, 463), Figure(155, 305, 64), Figure(80, 95, 226), Figure(80, 95, 3505),
    ),
}  # fmt: skip

GOOD: Mapping[str, Mapping[str, float]] = {
    "clean": {
        "the process's rule": 0.1, "Flagger 60s x5": 18, "Flagger's own schedule": 2, "Flagger 10s x10": 41,
        "Argo tuned": 23, "Kayenta 5 min": 0.2, "plain mSPRT": 0.2, "Serin": 0.05, "statistics": 0.005, "worst": 0.05,
    },
    "bursty": {
        "the process's rule": 1.4, "Flagger 60s x5": 41, "Flagger's own schedule": 5, "Flagger 10s x10": 87,
        "Argo tuned": 56, "Kayenta 5 min": 0.1, "plain mSPRT": 3.9, "Serin": 1.3, "statistics": 0.005, "worst": 0.05,
    },
    "cluster": {
        "the process's rule": 0.0, "Flagger 60s x5": 20, "Flagger's own schedule": 2, "Flagger 10s x10": 45,
        "Argo tuned": 24, "Kayenta 5 min": 0.1, "plain mSPRT": 17, "Serin": 0.2, "statistics": 0.06, "worst": 0.4,
    },
    "hiccup": {
        "the process's rule": 0.6, "Flagger 60s x5": 26, "Flagger's own schedule": 5, "Flagger 10s x10": 50,
        "Argo tuned": 32, "Kayenta 5 min": 0.5, "plain mSPRT": 15, "Serin": 1.0, "statistics": 0.4, "worst": 1.75,
    },
    "blip": {
        "the process's rule": 0.0, "Flagger 60s x5": 20, "Flagger's own schedule": 3, "Flagger 10s x10": 78,
        "Argo tuned": 26, "Kayenta 5 min": 0.5, "plain mSPRT": 52, "Serin": 0.1, "statistics": 0.04, "worst": 0.35,
    },
}  # fmt: skip
"""Percent of good canaries that are taken back, mean over rates and stable shares; `worst`: of statistics, one cell."""

RANDOM: Mapping[str, float] = {
    "the process's rule": 0.4, "Flagger 60s x5": 13.6, "Flagger's own schedule": 0.75, "Flagger 10s x10": 60,
    "Argo tuned": 13.5, "Kayenta 5 min": 0.2, "plain mSPRT": 9.8, "Serin": 0.9,
}  # fmt: skip
"""Percent of good canaries of services at random; of Serin's, 0.08 by statistics."""

SUITES: Mapping[str, Figure] = {
    "5 % from 12 min on, 500/s": Figure(95, 125),
    "100 % from 21 min on, 500/s": Figure(50, 65),
    "20 % from 21 min on, 500/s": Figure(95, 95),
    "5 % from 21 min on, 500/s": Figure(230, 275),
    "1.5 % from 21 min on, 500/s": Figure(380, 530),
    "clusters, 5 %, 50/s, stable 0.1 %": Figure(155, 275),
    "clusters, 5 %, 50/s, stable 0.5 %": Figure(275, 515),
    "clusters, 20 %, 50/s, stable 0.1 %": Figure(95, 110),
    "no lag, 5 %, 500/s": Figure(50, 65),
}
LATENCY: Mapping[str, Figure] = {
    "x2 at 50/s": Figure(120),
    "x4 at 5/s": Figure(105),
    "x1.5 at 500/s": Figure(210),
    "10 % of requests +1 s, 50/s": Figure(90),
}
