"""The chart in serin/, and what writes it."""
