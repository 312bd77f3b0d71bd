"""Resident memory of a fresh process: text for scripts that tests of memory run, and when they can."""

import os

import pytest

PRELUDE = """
def kilobytes(of):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(of))

def start():
    '''From here on, VmHWM is the peak of what follows.'''
    with open("/proc/self/clear_refs", "w") as control:
        control.write("5")
    return kilobytes("VmRSS")
"""

needs_linux = pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="only Linux resets the peak of resident memory"
)
