"""The command line in a pseudo-terminal, as a reader has it."""

import os
import select
import struct
import subprocess
import sys
import time


class Terminal:
    """`cbdm ARGUMENTS` in a pseudo-terminal of its own.

    Args:
        arguments: of `cbdm`.
        columns: of the terminal; its rows are 30.
    """

    def __init__(self, arguments, columns):
        import fcntl  # neither is there on Windows
        import termios

        self.seen, own, theirs = "", *os.openpty()
        self._own, self._bytes = own, b""
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
        environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"{_OWN_TERMINAL}; main({list(map(str, arguments))!r})"],
            stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
            env=environment | {"TERM": "xterm-256color"},
        )  # fmt: skip
        os.close(theirs)

    def wait_for(self, text, seconds=60.0):
        """Read on until the text was drawn."""
        end = time.monotonic() + seconds
        while text not in self.seen:
            assert self._read(0.05) and time.monotonic() < end, self.seen[-2000:]

    def type(self, keys):
        """Press keys: b"\\x03" is Ctrl-C."""
        os.write(self._own, keys)

    def end(self, seconds=60.0):
        """Read to the end; gives the exit code."""
        end = time.monotonic() + seconds
        while self._read(0.05):
            assert time.monotonic() < end, self.seen[-2000:]
        return self._process.wait(seconds)

    def close(self):
        """End the process, where it has not ended, and let go of the terminal."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        os.close(self._own)

    def _read(self, seconds):
        """Read what there is; False once the other side is closed."""
        if not select.select([self._own], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self._own, 65536)
        except OSError:  # what Linux says of a terminal that nobody holds any more; elsewhere nothing is read
            return False
        self._bytes += data
        self.seen = self._bytes.decode(errors="ignore")
        return bool(data)


# Ctrl-C goes to the processes of the terminal that a session was given, and is ignored by what ran in the background.
_OWN_TERMINAL = (
    "import fcntl, signal, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "signal.signal(signal.SIGINT, signal.default_int_handler); from cbdm_cli.__main__ import main"
)
