"""The process that plays the emulator: it carries frames between pairs of tap devices.

Runs on its own (``python -I -S pump.py CONTROL_FD``) and imports nothing of the package. Each
message on the control socket brings the two open descriptors of a new pair. It ends when the other
end of the control socket closes, for whatever reason.
"""

import os
import select
import socket
import sys

_FRAMES_AT_ONCE = 64
_LONGEST_FRAME = 65536


def _carry(source: int, sink: int) -> bool:
    """Move what waits on ``source`` to ``sink``; return False when ``source``'s device is gone."""
    for _ in range(_FRAMES_AT_ONCE):
        try:
            frame = os.read(source, _LONGEST_FRAME)
        except BlockingIOError:
            return True
        except OSError:
            return False
        try:
            os.write(sink, frame)
        except OSError:
            # The sink is down, gone or full: a wire loses the frame, and so does this one.
            continue
    return True


def pump(control: socket.socket) -> None:
    """Serve ``control`` and carry frames until its other end closes."""
    partner: dict[int, int] = {}
    with select.epoll() as poll:
        poll.register(control.fileno(), select.EPOLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == control.fileno():
                    message, fds, _, _ = socket.recv_fds(control, 16, 2)
                    if not message:
                        return
                    one, other = fds
                    partner |= {one: other, other: one}
                    for new in fds:
                        poll.register(new, select.EPOLLIN)
                elif fd in partner and not _carry(fd, partner[fd]):
                    for old in (fd, partner.pop(fd)):
                        partner.pop(old, None)
                        poll.unregister(old)
                        os.close(old)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as given:
        given.send(b"ready")
        pump(given)
