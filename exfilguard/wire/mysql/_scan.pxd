cimport cython


@cython.locals(end=Py_ssize_t, count=Py_ssize_t, size=Py_ssize_t, length=Py_ssize_t)
cpdef tuple skip_rows(bytes data, Py_ssize_t pos, long long most)

@cython.locals(length=Py_ssize_t)
cdef Py_ssize_t row_length(bytes data, Py_ssize_t pos, Py_ssize_t end) noexcept

cdef Py_ssize_t prefix_bytes(bytes data, Py_ssize_t pos, Py_ssize_t end, int size) noexcept

@cython.locals(first=int, found=cython.longlong, more=Py_ssize_t, i=Py_ssize_t)
cdef long long value_bytes(bytes data, Py_ssize_t pos, Py_ssize_t end, int size, bint text) noexcept

@cython.locals(start=Py_ssize_t)
cdef Py_ssize_t values_at(bytes data, Py_ssize_t pos, Py_ssize_t end, Py_ssize_t columns) noexcept

@cython.locals(columns=Py_ssize_t, at=Py_ssize_t, i=Py_ssize_t, size=int, found=cython.longlong)
cpdef list row_values(bytes data, Py_ssize_t pos, Py_ssize_t end, Py_ssize_t last, bytes sizes)

@cython.locals(end=Py_ssize_t, count=Py_ssize_t, total=Py_ssize_t, columns=Py_ssize_t, length=Py_ssize_t, start=Py_ssize_t,
               row_end=Py_ssize_t, at=Py_ssize_t, i=Py_ssize_t, size=int, found=cython.longlong)
cpdef tuple column_values(bytes data, Py_ssize_t pos, long long most, Py_ssize_t column, bytes sizes, list out)

@cython.locals(at=Py_ssize_t, found=cython.longlong, length=cython.longlong, i=Py_ssize_t, size=int, prefix=Py_ssize_t)
cpdef long long computed_bytes(bytes data, Py_ssize_t start, Py_ssize_t end, Py_ssize_t total, tuple columns, bytes sizes) except -1
