cpdef bytes query_event(
    long long time_ms, bint final, bytes constant, long long statement, str fingerprint, bytes told, long long rows,
    long long hidden_rows, long long size, bytes patients, long long estimated, str patients_by, long long duration_us,
    str error,
)
