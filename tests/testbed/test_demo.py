"""The first thing that a new user runs."""

import subprocess
import sys

from testbed.stage import ROOT


def test_the_story_of_the_demo_holds(in_namespace: None) -> None:
    command = [sys.executable, "-m", "testbed", "demo"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "The story holds." in done.stdout
    assert "✘ not so" not in done.stdout
