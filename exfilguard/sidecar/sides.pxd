from ._pump cimport PumpTransport
from .receiver cimport Receiver


cdef class Talk:
    cpdef from_client(self, bytes data)
    cpdef from_server(self, bytes data, bint opened=*)


cdef class Side(Receiver):
    cdef public object transport, divert
    cdef public set paused_by
    cdef public PumpTransport direct
    cpdef write(self, data)


cdef class ClientSide(Side):
    cdef public object guard, timer, addresses
    cdef public Talk session
    cdef public bint lingers, gone, crowded


cdef class ServerSide(Side):
    cdef public object session, lost, throttle_timer, turn
    cdef public Talk plain
    cdef public bytes rest
    cdef public Py_ssize_t rest_at
    cdef public bint over
