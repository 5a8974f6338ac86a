# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The relay's sockets, read and written in C: an asyncio event loop whose sessions cost no callback and no object per read.

One epoll set holds the sessions' sockets and asyncio's own file descriptors. `Pump.select` is what asyncio's loop calls to
wait: it works on sockets that are ready by itself, and returns to asyncio when something of asyncio's is ready, when a timer
is due, or when it called into Python, which may have planned something.

`PumpTransport` is a transport as asyncio's, for the protocols of the relay: one read of at most READ_BYTES each time its socket
is ready, so that every other session has its turn in between; a write goes to the socket at once, and what does not fit is
kept and counts as back-pressure. TLS runs on top of it by asyncio's own `start_tls`.

Sockets that are only read are watched edge-triggered, so the kernel looks at each once and not twice: a read that may have left
something asks again (`again`).

A large result arrives in pieces of the database's send buffer (8 kB). Whoever sleeps until the next piece makes the database wake
it for each, which costs the database more than the piece. So a socket that has brought many full pieces in a row, and has been read
empty, rests for REST_S before it is looked at again, unless something is written to it; all others are served meanwhile.
"""

import asyncio
import errno
import os
import selectors
import socket

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport EAGAIN, ECONNRESET, EINTR, EPIPE, errno as c_errno
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memset

from ..runtime.clock cimport elapsed_s, now_ms

cdef extern from "sys/epoll.h" nogil:
    int epoll_wait(int epfd, epoll_event *events, int most, int timeout_ms)
    int epoll_ctl(int epfd, int op, int fd, epoll_event *event)
    enum:
        EPOLLIN, EPOLLPRI, EPOLLOUT, EPOLLERR, EPOLLHUP, EPOLLRDHUP, EPOLLET, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD

cdef extern from "sys/socket.h" nogil:
    ssize_t recv(int fd, void *buffer, size_t length, int flags)
    ssize_t send(int fd, const void *buffer, size_t length, int flags)
    enum:
        MSG_NOSIGNAL

cdef extern from "time.h" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec

cdef extern from "unistd.h" nogil:
    long syscall(long number, ...)

cdef extern from "sys/syscall.h" nogil:
    """
    #ifndef SYS_epoll_pwait2  /* Linux 5.11 */
    #define SYS_epoll_pwait2 441
    #endif
    """
    long SYS_epoll_pwait2

READ_BYTES = 64 << 10


REST_S = 50e-6
"""Seconds; the kernel adds up to as much again (its timers' slack). At 300 MB/s that is 15 to 30 kB: less than the smallest receive
window, so the database never waits."""
cdef double _REST_S = REST_S
KEEP_IDLE_S = 60
"""A client that says no more but may still read is asked after this time whether it is there. Nothing else tells, as long as
nothing is written to it, and a throttled one may wait for hours."""
cdef enum:
    OTHER = 0x10000000


cdef class Pump:
    """A selector for asyncio (selectors.BaseSelector) that also drives PumpTransports."""

    def __cinit__(self):
        self.buffer = <char *>malloc(READ)
        if self.buffer == NULL:
            raise MemoryError

    def __init__(self):
        self.most_driven = 0
        self.resting = []
        self.now_s = elapsed_s()
        self.now_ms = now_ms()
        self.keys = selectors.EpollSelector()
        self.epfd = self.keys._selector.fileno()
        self.transports = {}
        self.loop = None

    def drive(self, loop):
        """The loop that waits here."""
        self.loop = loop

    def __dealloc__(self):
        free(self.buffer)
        free(self.driven)

    cdef admit(self, PumpTransport transport):
        cdef int most
        cdef void **more
        if transport.fd >= self.most_driven:
            most = 2 * transport.fd + 64
            more = <void **>realloc(self.driven, most * sizeof(void *))
            if more == NULL:
                raise MemoryError
            memset(more + self.most_driven, 0, (most - self.most_driven) * sizeof(void *))
            self.driven, self.most_driven = more, most
        self.transports[transport.fd] = transport
        self.driven[transport.fd] = <void *>transport

    cdef forget(self, PumpTransport transport):
        self.driven[transport.fd] = NULL
        del self.transports[transport.fd]

    def register(self, fileobj, events, data=None):
        return self.keys.register(fileobj, events, data)

    def unregister(self, fileobj):
        return self.keys.unregister(fileobj)

    def modify(self, fileobj, events, data=None):
        return self.keys.modify(fileobj, events, data)

    def get_key(self, fileobj):
        return self.keys.get_key(fileobj)

    def get_map(self):
        return self.keys.get_map()

    def close(self):
        self.keys.close()

    def select(self, timeout=None):
        """[(key, events)] of what asyncio registered. Seconds; None waits for as long as it takes."""
        cdef int n, i, fd
        cdef double deadline = 0.0, left
        cdef bint forever = timeout is None
        cdef uint32_t events
        cdef list out = []
        cdef Py_ssize_t timers_before
        self.now_s = elapsed_s()
        if not forever:
            deadline = self.now_s + max(0.0, <double>timeout)
        self.called = False
        planned, timers = self.loop._ready, self.loop._scheduled
        timers_before = len(timers)
        while True:
            left = -1.0
            if not forever:
                left = max(0.0, deadline - self.now_s)
                if 0.0 < left < 0.05:  # what was handled since may have taken as long
                    left = max(0.0, deadline - elapsed_s())
            n = self.wait(left)
            if n < 0:
                return out  # a signal: its handler runs in Python
            self.now_s = elapsed_s()
            self.now_ms = now_ms()
            for i in range(n):
                fd = self.ready[i].data.fd
                events = self.ready[i].events
                if fd < self.most_driven and self.driven[fd] != NULL:
                    (<PumpTransport>self.driven[fd]).handle(events)
                else:
                    key = self.keys._fd_to_key.get(fd)
                    if key is not None:
                        mask = 0
                        if events & ~<uint32_t>EPOLLIN:
                            mask |= selectors.EVENT_WRITE
                        if events & ~<uint32_t>EPOLLOUT:
                            mask |= selectors.EVENT_READ
                        mask &= key.events
                        if mask:
                            out.append((key, mask))
            if self.resting and self.now_s >= self.rest_until:
                self.wake()
            if out or self.called or left == 0.0 or planned or len(timers) != timers_before:
                return out

    cdef int wait(self, double left_s) except -2:
        """epoll_wait: how many are ready; -1: a signal came. Seconds; negative: for as long as it takes."""
        cdef int n
        cdef timespec span
        cdef double rest_s
        if left_s == 0.0:
            n = epoll_wait(self.epfd, self.ready, READY, 0)
        else:
            n = -1
            if self.resting:
                rest_s = max(1e-6, self.rest_until - self.now_s)
                if left_s < 0.0 or rest_s < left_s:
                    span.tv_sec = 0
                    span.tv_nsec = <long>(rest_s * 1e9)
                    with nogil:
                        n = syscall(SYS_epoll_pwait2, self.epfd, self.ready, <int>READY, &span, NULL, <size_t>0)
                    if n >= 0:
                        return n
                    if c_errno == EINTR:
                        return -1
                    self.wake()  # nothing can be waited for as short as that: ENOSYS, or EPERM in a sandbox that does not know it
                    left_s = 0.0
            with nogil:
                n = epoll_wait(self.epfd, self.ready, READY, -1 if left_s < 0.0 else <int>(left_s * 1e3 + 1))
        if n < 0 and c_errno != EINTR:
            raise OSError(c_errno, os.strerror(c_errno))
        return n

    cdef wake(self):
        """The rest is over."""
        cdef list rested = self.resting
        cdef PumpTransport transport
        self.resting = []
        for transport in rested:
            if transport.resting:
                transport.resting = False
                if transport.reading and not transport.closing:
                    transport.handle(EPOLLIN)
                else:
                    transport.ask()


cdef class PumpTransport:
    """See asyncio.Transport."""

    _start_tls_compatible = True

    @property
    def itself(self):
        """For whoever would rather call C than Python; other transports have none."""
        return self

    def __init__(self, Pump pump, loop, sock, protocol, waiter, extra, server):
        self.pump, self.loop, self.sock, self.server = pump, loop, sock, server
        self.extra = dict(extra or {})
        self.extra["socket"] = sock
        self.extra.setdefault("sockname", _name(sock.getsockname))
        self.extra.setdefault("peername", _name(sock.getpeername))
        self.fd = sock.fileno()
        self.backlog = b""
        self.high, self.low = 64 << 10, 16 << 10
        self.set_protocol(protocol)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if server is not None:
            _attach(server, self)
        pump.admit(self)
        loop.call_soon(self.begin, waiter)

    def begin(self, waiter):
        if not self.closing:
            self.protocol.connection_made(self)
            if not self.closing and not self.lost:
                self.reading = True
                self.ask()
        if waiter is not None and not waiter.cancelled():
            waiter.set_result(None)

    # -- what asyncio's transports offer ------------------------------------------------------------------------------

    def get_extra_info(self, name, default=None):
        return self.extra.get(name, default)

    def set_protocol(self, protocol):
        self.protocol = protocol
        buffered = isinstance(protocol, asyncio.BufferedProtocol)
        self.receive = None if buffered else protocol.data_received
        self.receiver = protocol if isinstance(protocol, Receiver) else None

    def get_protocol(self):
        return self.protocol

    def is_closing(self):
        return self.closing

    def is_reading(self):
        return self.reading and not self.closing

    def pause_reading(self):
        if self.reading:
            self.reading = False
            self.ask()

    def resume_reading(self):
        if not self.reading and not self.closing:
            self.reading = True
            self.ask()

    def set_write_buffer_limits(self, high=None, low=None):
        if high is None:
            high = 64 << 10 if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError("high must be >= low must be >= 0")
        self.high, self.low = high, low

    def get_write_buffer_limits(self):
        return self.low, self.high

    def get_write_buffer_size(self):
        return PyBytes_GET_SIZE(self.backlog) - self.sent

    def can_write_eof(self):
        return True

    def write_eof(self):
        """Nothing more is written: said to the other end when the backlog has left."""
        if self.lost or self.closing or self.finished:
            return
        self.finished = True
        if not PyBytes_GET_SIZE(self.backlog):
            self.shut()

    cdef shut(self):
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the other end was faster

    def writelines(self, pieces):
        self.write(b"".join(pieces))

    cpdef write(self, data):
        cdef ssize_t n
        cdef bytes whole
        if self.lost or self.closing or self.finished or self.broken:
            return
        whole = data if type(data) is bytes else bytes(data)
        self.full_reads = 0
        if self.resting:
            self.rouse()
        if PyBytes_GET_SIZE(self.backlog):
            self.keep(whole, 0)
            return
        n = send(self.fd, PyBytes_AS_STRING(whole), PyBytes_GET_SIZE(whole), MSG_NOSIGNAL)
        if n == PyBytes_GET_SIZE(whole):
            return
        if n < 0:
            if c_errno not in (EAGAIN, EINTR):
                self.refused(c_errno)
                return
            n = 0
        self.keep(whole, n)

    def close(self):
        if self.closing:
            return
        self.closing = True
        self.reading = False
        if PyBytes_GET_SIZE(self.backlog):
            self.ask()
        else:
            self.end(None)

    def abort(self):
        self.end(None)

    def _force_close(self, error):
        """asyncio's TLS calls this when the handshake or the shutdown fails."""
        self.end(error)

    # -- the work -----------------------------------------------------------------------------------------------------

    cdef keep(self, bytes data, Py_ssize_t begin):
        """What the socket did not take."""
        self.backlog = self.backlog[self.sent:] + data[begin:]
        self.sent = 0
        self.ask()
        if not self.asked_to_wait and PyBytes_GET_SIZE(self.backlog) > self.high:
            self.asked_to_wait = True
            self.pump.called = True
            self.protocol.pause_writing()

    cdef ask(self):
        """Tell epoll what is waited for."""
        cdef epoll_event event
        cdef uint32_t wanted = 0
        cdef int op
        if self.lost:
            return
        if self.reading:
            wanted |= EPOLLIN
        if PyBytes_GET_SIZE(self.backlog):
            wanted |= EPOLLOUT
        if not wanted and self.heard_all and not self.closing and self.receive is not None:
            wanted = EPOLLET  # nothing but that it is gone; TLS may still have something to hand on, and is left alone
        if self.resting or wanted == self.mask:
            return
        # A socket that is only hung up would be reported again and again: without a wish it is not in the set at all.
        op = EPOLL_CTL_DEL if not wanted else EPOLL_CTL_MOD if self.mask else EPOLL_CTL_ADD
        event.events = wanted | EPOLLPRI | EPOLLRDHUP | EPOLLET if wanted == EPOLLIN else wanted
        event.data.u64 = 0
        event.data.fd = self.fd
        self.mask = wanted
        if epoll_ctl(self.pump.epfd, op, self.fd, &event) < 0:
            raise OSError(c_errno, os.strerror(c_errno))

    cdef handle(self, uint32_t events):
        try:
            if events & (EPOLLOUT | EPOLLERR | EPOLLHUP) and PyBytes_GET_SIZE(self.backlog):
                self.flush()
            if events & (EPOLLIN | EPOLLERR | EPOLLHUP | EPOLLRDHUP) and self.reading and not self.closing:
                self.read(events)
            elif self.mask == <uint32_t>EPOLLET and events & (EPOLLERR | EPOLLHUP):
                self.fail(ECONNRESET)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.pump.called = True
            self.loop.call_exception_handler(
                {"message": "error in a relayed connection", "exception": error, "transport": self}
            )
            self.end(error)

    cdef again(self):
        """Have epoll look whether there is something to read: its edge has passed."""
        if self.mask == EPOLLIN:
            self.mask = OTHER
        self.ask()

    cdef rest(self):
        """Not looked at for a while. Only what is said in any case, an error or an end of both directions, interrupts it."""
        cdef epoll_event event
        cdef Pump pump = self.pump
        if self.mask != OTHER:
            event.events = 0
            event.data.u64 = 0
            event.data.fd = self.fd
            if epoll_ctl(pump.epfd, EPOLL_CTL_MOD, self.fd, &event) < 0:
                raise OSError(c_errno, os.strerror(c_errno))
            self.mask = OTHER
        if not pump.resting:
            pump.rest_until = elapsed_s() + _REST_S
        pump.resting.append(self)
        self.resting = True

    cdef rouse(self):
        """Something was asked, whose answer is not kept waiting, or this is the end."""
        self.resting = False
        if self in self.pump.resting:  # else `wake` has the list, and will find that it rests no more
            self.pump.resting.remove(self)
        self.ask()

    cdef read(self, uint32_t events):
        cdef ssize_t n = recv(self.fd, self.pump.buffer, READ, 0)
        cdef bytes data
        if n > 0:
            self.full_reads = 0 if n < FULL_FROM else self.full_reads + 1
            data = PyBytes_FromStringAndSize(self.pump.buffer, n)
            if self.receiver is not None:
                self.receiver.data_received(data)
            elif self.receive is not None:
                self.receive(data)
            else:
                self.pump.called = True
                while data:
                    room = self.protocol.get_buffer(len(data))
                    taken = min(len(room), len(data))
                    room[:taken] = data[:taken]
                    self.protocol.buffer_updated(taken)
                    data = data[taken:]
            if self.lost or self.closing or not self.reading or self.resting:
                return
            if events & (EPOLLPRI | EPOLLERR | EPOLLHUP | EPOLLRDHUP) or n == READ:
                self.again()  # a read also ends before TCP's urgent byte
            elif self.full_reads >= FULL_READS and FULL_FROM <= n < FULL_BELOW and not PyBytes_GET_SIZE(self.backlog):
                self.rest()
            elif self.mask == OTHER:
                self.ask()
        elif n == 0:
            self.pump.called = True
            self.heard_all = True
            # Whoever takes no more does not wait for an answer; TLS may still have to hand on what it has read.
            if self.protocol.eof_received() and (not self.broken or self.receive is None):
                self.pause_reading()
                self.probe()
            else:
                self.close()
        elif c_errno not in (EAGAIN, EINTR):
            self.fail(c_errno)
        else:
            self.again()

    cdef probe(self):
        if self.lost or self.sock.family not in (socket.AF_INET, socket.AF_INET6):
            return
        try:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEP_IDLE_S)
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEP_IDLE_S)
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        except OSError:
            pass  # it is gone already

    cdef flush(self):
        cdef ssize_t n = send(
            self.fd, PyBytes_AS_STRING(self.backlog) + self.sent, PyBytes_GET_SIZE(self.backlog) - self.sent, MSG_NOSIGNAL
        )
        if n < 0:
            if c_errno not in (EAGAIN, EINTR):
                self.refused(c_errno)
            return
        self.sent += n
        if self.sent == PyBytes_GET_SIZE(self.backlog):
            self.backlog, self.sent = b"", 0
            if self.closing:
                self.end(None)
                return
            if self.finished:
                self.shut()
            self.ask()
        self.drained()

    cdef drained(self):
        """Less of the backlog is left, perhaps little enough for more to be written."""
        if self.asked_to_wait and PyBytes_GET_SIZE(self.backlog) - self.sent <= self.low:
            self.asked_to_wait = False
            self.pump.called = True
            self.protocol.resume_writing()

    cdef refused(self, int code):
        """A write failed. Who closed may have said why before, a database its error, and that is still to be read: the end comes
        when it has been. (asyncio's and uvloop's own transports throw it away.)"""
        if code not in (EPIPE, ECONNRESET) or self.closing or self.heard_all:
            self.fail(code)
            return
        self.broken = True
        self.backlog, self.sent = b"", 0
        if self.reading:
            self.again()
        else:
            self.ask()
        self.drained()

    cdef fail(self, int code):
        self.end(OSError(code, os.strerror(code)))

    def end(self, error):
        """No more of this connection; the protocol is told in a callback of its own."""
        if self.lost:
            return
        self.reading = False
        self.closing = True
        self.backlog, self.sent = b"", 0
        if self.resting:
            self.rouse()
        else:
            self.ask()
        self.lost = True
        self.pump.forget(self)
        self.pump.called = True
        self.loop.call_soon(self.farewell, error)

    def farewell(self, error):
        try:
            self.protocol.connection_lost(error)
        finally:
            self.sock.close()
            server, self.server = self.server, None
            if server is not None:
                _detach(server, self)
            self.protocol = self.receive = self.receiver = None


def _name(call):
    try:
        return call()
    except OSError:
        return None


def _attach(server, transport):
    try:
        server._attach()
    except TypeError:  # Python 3.13
        server._attach(transport)


def _detach(server, transport):
    try:
        server._detach()
    except TypeError:
        server._detach(transport)


class PumpLoop(asyncio.SelectorEventLoop):
    """asyncio's loop on a Pump: protocols with a true `pumped` get its transports, all others asyncio's own."""

    def __init__(self):
        self._pump = Pump()
        super().__init__(self._pump)
        self._pump.drive(self)

    def _make_socket_transport(self, sock, protocol, waiter=None, *, extra=None, server=None):
        if getattr(protocol, "pumped", False):
            return PumpTransport(self._pump, self, sock, protocol, waiter, extra, server)
        return super()._make_socket_transport(sock, protocol, waiter, extra=extra, server=server)
