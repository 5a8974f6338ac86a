cpdef long long now_ms() except? -1
cpdef double elapsed_s() except? -1.0
