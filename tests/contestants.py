"""Contestants of made-up races, which each start in a process of their own."""

import time
from itertools import count

import torch


def work(seconds: float = 0.0, value: float = 0.0):
    """A contestant that waits, and makes a tensor of ``value``, or else of how often it has worked."""
    times = count(1)

    def once():
        time.sleep(seconds)
        return torch.full((2,), value or next(times))

    return once


def broken():
    raise RuntimeError("no engine")
