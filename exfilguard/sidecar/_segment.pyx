# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""A spool segment's memory map, written in C. spool.py has the layout; its plain twin is what a machine without a compiler runs."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from ._bell cimport Bell, bell_is_for, bell_ring

cdef extern from "_crc32.h":
    bint crc32_folds() noexcept nogil
    uint32_t crc32_fold(const uint8_t *p, size_t n, uint32_t crc) noexcept nogil

cdef extern from *:
    """
    static inline void spool_publish(uint8_t *at, uint32_t length)
    {
        __atomic_thread_fence(__ATOMIC_RELEASE); /* whoever sees the length sees what it is the length of */
        __builtin_memcpy(at, &length, 4);
    }
    """
    void publish "spool_publish"(uint8_t *at, uint32_t length) noexcept nogil

cdef uint32_t TABLES[8][256]
cdef bint FOLDS = crc32_folds()


cdef void _fill() noexcept:
    # CRC-32 of zlib (reflected 0xEDB88320), eight bytes at a time
    cdef uint32_t c
    cdef int i, j
    for i in range(256):
        c = i
        for j in range(8):
            c = (c >> 1) ^ (0xEDB88320 if c & 1 else 0)
        TABLES[0][i] = c
    for i in range(256):
        for j in range(1, 8):
            TABLES[j][i] = (TABLES[j - 1][i] >> 8) ^ TABLES[0][TABLES[j - 1][i] & 255]


_fill()


cdef uint32_t crc32(const uint8_t *p, Py_ssize_t n, uint32_t crc) noexcept nogil:
    cdef uint64_t word
    cdef Py_ssize_t whole
    crc = ~crc
    if FOLDS and n >= 64:
        whole = n & ~<Py_ssize_t>15
        crc = crc32_fold(p, whole, crc)
        p += whole
        n -= whole
    while n >= 8:
        memcpy(&word, p, 8)
        word ^= crc
        crc = (
            TABLES[7][word & 255] ^ TABLES[6][(word >> 8) & 255] ^ TABLES[5][(word >> 16) & 255]
            ^ TABLES[4][(word >> 24) & 255] ^ TABLES[3][(word >> 32) & 255] ^ TABLES[2][(word >> 40) & 255]
            ^ TABLES[1][(word >> 48) & 255] ^ TABLES[0][word >> 56]
        )
        p += 8
        n -= 8
    while n > 0:
        crc = (crc >> 8) ^ TABLES[0][(crc ^ p[0]) & 255]
        p += 1
        n -= 1
    return ~crc


cdef class Segment:
    """Holds the map's buffer: `release` before the map is closed."""

    def __init__(self, target, Bell bell=None):
        self.held = False
        self.bell = bell
        PyObject_GetBuffer(target, &self.buffer, PyBUF_SIMPLE | PyBUF_WRITABLE)
        self.held = True

    cpdef Py_ssize_t append(self, Py_ssize_t at, uint32_t hashed, uint64_t time_ms, bytes payload) except -1:
        """Offset behind the record; 0 when it does not fit. The length is written last."""
        cdef Py_ssize_t n = PyBytes_GET_SIZE(payload)
        cdef uint8_t *start
        cdef uint32_t length = <uint32_t>n
        cdef uint32_t crc
        if not self.held or at + 20 + n + 4 > self.buffer.len:
            return 0
        start = <uint8_t *>self.buffer.buf + at
        memcpy(start + 20, PyBytes_AS_STRING(payload), n)
        crc = crc32(<uint8_t *>PyBytes_AS_STRING(payload), n, <uint32_t>(hashed ^ time_ms))
        memcpy(start + 4, &crc, 4)
        memcpy(start + 8, &hashed, 4)
        memcpy(start + 12, &time_ms, 8)
        publish(start, length)
        if self.bell is not None and bell_is_for(self.bell.words, length):
            bell_ring(self.bell.words)
        return at + 20 + n

    def release(self):
        if self.held:
            self.held = False
            PyBuffer_Release(&self.buffer)

    def __dealloc__(self):
        if self.held:
            PyBuffer_Release(&self.buffer)
