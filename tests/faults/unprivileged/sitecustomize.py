"""Has a Python process lose CAP_NET_ADMIN for good, and all that it starts, at SIGUSR1."""

import ctypes
import os
import signal

CAP_NET_ADMIN = 12
PR_CAPBSET_DROP = 24
VERSION = 0x20080522

libc = ctypes.CDLL(None, use_errno=True)


def lose(*_: object) -> None:
    """Drop it from every set of the calling thread, so that no program can bring it back."""
    header = (ctypes.c_uint32 * 2)(VERSION, 0)
    sets = (ctypes.c_uint32 * 6)()
    _done(libc.prctl(PR_CAPBSET_DROP, CAP_NET_ADMIN, 0, 0, 0))
    _done(libc.capget(header, sets))
    for at in range(3):
        sets[at] &= ~(1 << CAP_NET_ADMIN)
    _done(libc.capset(header, sets))


def _done(code: int) -> None:
    if code != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


signal.signal(signal.SIGUSR1, lose)
