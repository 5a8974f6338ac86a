from libc.stdint cimport uint32_t, uint64_t

from .receiver cimport Receiver

cdef extern from "sys/epoll.h" nogil:
    ctypedef union epoll_data_t:
        int fd
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_data_t data

cdef enum:
    READ = 65536
    READY = 256
    FULL_FROM = 8192
    FULL_BELOW = 32768
    FULL_READS = 8


cdef class Pump:
    cdef object keys
    cdef int epfd
    cdef dict transports
    cdef char *buffer
    cdef epoll_event ready[READY]
    cdef bint called  # Python ran: asyncio must look what it has planned
    cdef object loop
    cdef void **driven  # transports by their descriptor: what `transports` holds
    cdef int most_driven
    cdef readonly double now_s  # when epoll last returned, of a clock that only goes forward
    cdef readonly long long now_ms  # the same moment by the wall clock
    cdef list resting
    cdef double rest_until
    cdef int wait(self, double left_s) except -2
    cdef wake(self)
    cdef admit(self, PumpTransport transport)
    cdef forget(self, PumpTransport transport)


cdef class PumpTransport:
    cdef readonly Pump pump
    cdef object loop, sock, extra, server, protocol
    cdef Receiver receiver  # the protocol, where it can be called in C
    cdef object receive  # protocol.data_received; None for a buffered protocol (TLS)
    cdef int fd
    cdef uint32_t mask  # what epoll was asked for; 0: not registered; OTHER: it is to be asked anew
    cdef bint reading, closing, lost, asked_to_wait, finished, resting
    cdef bint heard_all  # the other end says no more
    cdef bint broken  # the other end takes no more
    cdef int full_reads  # one after the other, since something was written here
    cdef bytes backlog
    cdef Py_ssize_t sent, high, low
    cdef object __weakref__
    cpdef write(self, data)
    cdef shut(self)
    cdef keep(self, bytes data, Py_ssize_t begin)
    cdef ask(self)
    cdef handle(self, uint32_t events)
    cdef read(self, uint32_t events)
    cdef again(self)
    cdef rest(self)
    cdef rouse(self)
    cdef probe(self)
    cdef flush(self)
    cdef drained(self)
    cdef fail(self, int code)
    cdef refused(self, int code)
