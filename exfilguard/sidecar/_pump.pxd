from libc.stdint cimport uint32_t, uint64_t

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


cdef class Pump:
    cdef object keys
    cdef int epfd
    cdef dict transports
    cdef char *buffer
    cdef epoll_event ready[READY]
    cdef bint called  # Python ran: asyncio must look what it has planned
    cdef object loop


cdef class PumpTransport:
    cdef Pump pump
    cdef object loop, sock, extra, server, protocol
    cdef object receive  # protocol.data_received; None for a buffered protocol (TLS)
    cdef int fd
    cdef uint32_t mask  # what epoll was asked for; 0: not registered
    cdef bint reading, closing, lost, asked_to_wait, broken, finished
    cdef bytes backlog
    cdef Py_ssize_t sent, high, low
    cdef object __weakref__
    cpdef write(self, data)
    cdef shut(self)
    cdef keep(self, bytes data, Py_ssize_t begin)
    cdef ask(self)
    cdef handle(self, uint32_t events)
    cdef read(self)
    cdef flush(self)
    cdef fail(self, int code)
