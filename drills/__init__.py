"""Drills: what a cluster promises when something goes wrong or is changed, tried on real processes by anyone.

`tailrace drill run leader-kill` starts three brokers of its own, puts load on them, kills one, and says for how long
which partition was not acknowledged, how old records got until a reader had them, whether anything was lost, and
whether that is what was promised. `scenarios/` are the drills, each a short script; `run.py` is what they have at hand.
Drills know the broker from outside only: its processes, its protocol, its commands.
"""
