cdef enum:
    MOST_FIXED = 400  # bytes of an event's names, numbers and short texts


cdef char *write_query(
    char *at, long long time_ms, bint final, const char *constant, Py_ssize_t constant_bytes, long long statement,
    const char *fingerprint, Py_ssize_t fingerprint_bytes, const char *told, Py_ssize_t told_bytes, long long rows,
    long long hidden_rows, long long size, const char *patients, Py_ssize_t patients_bytes, long long estimated,
    const char *patients_by, Py_ssize_t by_bytes, long long duration_us, const char *error, Py_ssize_t error_bytes,
) noexcept nogil
cpdef bytes query_event(
    long long time_ms, bint final, bytes constant, long long statement, str fingerprint, bytes told, long long rows,
    long long hidden_rows, long long size, bytes patients, long long estimated, str patients_by, long long duration_us,
    str error,
)
