cpdef long long now_ms() noexcept
cpdef double elapsed_s() noexcept
