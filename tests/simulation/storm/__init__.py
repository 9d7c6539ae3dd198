"""Whatever may go wrong, by seed: the real loop over a cluster in virtual time, with every invariant looked at.

    python -m tests.simulation.storm --seeds 200000

`plans` says what happens when, `cluster` is the truth, `process` is a controller with its lagging view of it,
`invariants` what has to hold, `run` plays a plan and shrinks it when something breaks.
"""
