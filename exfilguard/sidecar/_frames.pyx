# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""From a spool segment to the frames of a batch as they are sent, without an object per record: _records.take, _records.group and
codec.encode_frame in one, which are the definition (tests/sidecar/test_records.py)."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from ._segment cimport crc32

cdef extern from *:
    """
    static inline void spool_seen(void) { __atomic_thread_fence(__ATOMIC_ACQUIRE); } /* a length: see _segment.pyx */
    """
    void seen "spool_seen"() noexcept nogil

cdef enum:
    HEADER = 20

cdef struct Found:
    const uint8_t *payload
    uint32_t length
    uint32_t hashed
    int following  # the next one of its frame; -1: none

cdef struct Frame:
    # One partition's open frame.
    int first
    int last
    int count
    Py_ssize_t size


cdef inline uint32_t le32(const uint8_t *at) noexcept nogil:
    return at[0] | <uint32_t>at[1] << 8 | <uint32_t>at[2] << 16 | <uint32_t>at[3] << 24


cdef bytes _value(Found *found, Frame *frame, bytes head):
    # head, the events with a comma between them, `]}`
    cdef Py_ssize_t begin = PyBytes_GET_SIZE(head)
    cdef bytes out = PyBytes_FromStringAndSize(NULL, begin + frame.size + frame.count + 1)
    cdef char *at = PyBytes_AS_STRING(out)
    cdef int i = frame.first
    memcpy(at, PyBytes_AS_STRING(head), begin)
    at += begin
    while True:
        memcpy(at, found[i].payload, found[i].length)
        at += found[i].length
        i = found[i].following
        if i < 0:
            at[0] = 93
            at[1] = 125
            return out
        at[0] = 44
        at += 1


cdef tuple _frame(Found *found, Frame *frame, int partition, bytes prefix, list seqs):
    seq = seqs[partition]
    seqs[partition] = seq + 1
    return partition, _value(found, frame, b'%b%d,"events":[' % (prefix, seq)), frame.count


def frames(
    const uint8_t[::1] data, Py_ssize_t at, Py_ssize_t until, int most, Py_ssize_t most_bytes, int partitions, int most_events,
    Py_ssize_t frame_bytes, bytes prefix, list seqs,
):
    """(position behind the last record, damaged ones, whether there may be more, time of the first in ms, frames): each frame is
    (partition, its bytes, events). Arguments as of `take`, `group` and `encode_frame`; `seqs` of the partitions are counted on."""
    cdef Py_ssize_t size = data.shape[0], taken = 0, damaged = 0
    cdef const uint8_t *start
    cdef const uint8_t *record
    cdef uint64_t time_ms, oldest_ms = 0
    cdef uint32_t length
    cdef int count = 0, i, partition, slots = 0
    cdef bint more = True
    cdef Found *found
    cdef Frame *opened
    cdef Frame *frame
    cdef int *order
    cdef list out = []
    if not size or most <= 0:
        return at, 0, most <= 0 or most_bytes <= 0 or at >= until, 0, out
    start = &data[0]
    found = <Found *>malloc(most * sizeof(Found))
    opened = <Frame *>malloc(partitions * sizeof(Frame))
    order = <int *>malloc(partitions * sizeof(int))
    try:
        if found == NULL or opened == NULL or order == NULL:
            raise MemoryError
        with nogil:
            while count < most and taken < most_bytes and at < until:
                record = start + at
                length = le32(record) if at + 4 <= size else 0
                if not length or length > size or at + HEADER + length > size:
                    more = False
                    break
                seen()
                time_ms = le32(record + 12) | <uint64_t>le32(record + 16) << 32
                found[count].payload = record + HEADER
                found[count].length = length
                found[count].hashed = le32(record + 8)
                if le32(record + 4) != crc32(record + HEADER, length, <uint32_t>(found[count].hashed ^ time_ms)):
                    if length != le32(record):
                        continue  # see _records.take
                    damaged += 1
                    at += HEADER + length
                    continue
                at += HEADER + length
                if not count:
                    oldest_ms = time_ms
                taken += length
                count += 1
        for partition in range(partitions):
            opened[partition].count = -1  # not seen yet
        for i in range(count):
            partition = <int>(found[i].hashed % <uint32_t>partitions)
            frame = &opened[partition]
            if frame.count < 0:
                order[slots] = partition
                slots += 1
                frame.count, frame.size = 0, 0
            elif frame.count and (frame.count >= most_events or frame.size + found[i].length > frame_bytes):
                out.append(_frame(found, frame, partition, prefix, seqs))
                frame.count, frame.size = 0, 0
            found[i].following = -1
            if frame.count:
                found[frame.last].following = i
            else:
                frame.first = i
            frame.last = i
            frame.count += 1
            frame.size += found[i].length
        for i in range(slots):
            frame = &opened[order[i]]
            out.append(_frame(found, frame, order[i], prefix, seqs))
        return at, damaged, more, oldest_ms, out
    finally:
        free(found)
        free(opened)
        free(order)
