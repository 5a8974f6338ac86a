# cython: language_level=3
"""How a relay wakes the shipper: two words that all of them have mapped, and a futex on the first (futex(2)).

    0       4       8
    ├───────┼───────┤   little endian
    │ rings │ least │   least: an event of so many bytes is waited for; 0xFFFFFFFF: nobody sleeps
    └───────┴───────┘

Who sleeps says first what for (`arm`), then looks whether it is there already, and then sleeps unless there was a ring meanwhile:
no ring is lost. Who appends pays for a look at `least`, and for a system call only where somebody waits for just this.
bell.py has what a machine without a compiler does instead.
"""

import mmap
import os

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint32_t

cdef enum:
    SIZE = 8


cdef class Bell:
    def __cinit__(self):
        self.held = False
        self.words = NULL

    def __init__(self, path):
        """Made when it is missing. Raises OSError."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if os.fstat(descriptor).st_size < SIZE:
                os.posix_fallocate(descriptor, 0, SIZE)  # a full disk is met here, not as a signal when the words are written
            self._map = mmap.mmap(descriptor, SIZE)
        finally:
            os.close(descriptor)
        PyObject_GetBuffer(self._map, &self.buffer, PyBUF_SIMPLE | PyBUF_WRITABLE)
        self.held = True
        self.words = <uint32_t *>self.buffer.buf

    def arm(self, uint32_t least):
        """From now on an event of `least` bytes or more rings. Returns what `sleep` is told."""
        return bell_arm(self.words, least)

    def disarm(self):
        bell_arm(self.words, <uint32_t>0xFFFFFFFF)

    def sleep(self, uint32_t seen, double seconds):
        """Until it rings, a signal comes, or the time is over."""
        with nogil:
            bell_wait(self.words, seen, seconds)

    def heard(self, uint32_t length):
        """For who appends: an event of so many bytes can be read."""
        if bell_is_for(self.words, length):
            bell_ring(self.words)

    def __dealloc__(self):
        if self.held:
            PyBuffer_Release(&self.buffer)
