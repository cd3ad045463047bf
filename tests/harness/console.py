# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest's console as a conversation: expect text, send text."""

import os
import re
import select
import socket
import time

from .context import PATIENCE, TimedOut


class Console:
    """Reads and writes a descriptor, keeping all that came. LOG, if given, gets a copy of it."""

    def __init__(self, descriptor, log=None):
        self.descriptor = descriptor
        os.set_blocking(descriptor, False)
        self.log = open(log, "ab", buffering=0) if log else None
        self.seen = ""
        self.position = 0

    @classmethod
    def from_path(cls, path, log=None):
        """A pty slave or other character device, in raw mode when it is a terminal."""
        descriptor = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        if os.isatty(descriptor):
            import tty
            tty.setraw(descriptor)
        return cls(descriptor, log)

    @classmethod
    def from_socket(cls, path, log=None):
        """A UNIX socket on which the other side listens."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.connect(path)
            return cls(connection.detach(), log)

    def reopen_socket(self, path):
        """Goes on with another process that listens on PATH."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.connect(path)
            os.close(self.descriptor)
            self.descriptor = connection.detach()
        os.set_blocking(self.descriptor, False)

    def close(self):
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
        if self.log:
            self.log.close()
            self.log = None

    def _read(self, seconds):
        """Waits for bytes for a while; False at the end of the stream."""
        ready, _, _ = select.select([self.descriptor], [], [], max(0, seconds))
        if not ready:
            return True
        try:
            data = os.read(self.descriptor, 65536)
        except BlockingIOError:
            return True
        except OSError:  # a pty whose other side has gone
            return False
        if self.log:
            self.log.write(data)
        self.seen += data.decode(errors="replace").replace("\r", "")
        return bool(data)

    def ended(self, seconds=30.0):
        """Waits for the end of the stream; False if it goes on."""
        end = time.monotonic() + seconds * PATIENCE
        while (left := end - time.monotonic()) > 0:
            if not self._read(left):
                return True
        return False

    def expect(self, pattern, seconds=30.0):
        """Waits until the regular expression is found after the last find; returns the match."""
        seconds *= PATIENCE
        end = time.monotonic() + seconds
        expression = re.compile(pattern, re.MULTILINE)
        while True:
            match = expression.search(self.seen, self.position)
            if match:
                self.position = match.end()
                return match
            left = end - time.monotonic()
            if left <= 0 or not self._read(left):
                why = f"within {seconds:g} s" if left <= 0 else "before the console ended"
                tail = self.seen[self.position:][-600:]
                raise TimedOut(f"the console did not say /{pattern}/ {why}; after the last find it said: {tail!r}")

    def send(self, text):
        """Writes all of the text."""
        data = text.encode()
        while data:
            _, ready, _ = select.select([], [self.descriptor], [], 10)
            if not ready:
                raise TimedOut("the console takes no input")
            data = data[os.write(self.descriptor, data):]

    def drain(self):
        """Reads what is there now."""
        while select.select([self.descriptor], [], [], 0)[0]:
            if not self._read(0):
                break
        return self.seen
