from libc.stdint cimport uint32_t


cdef extern from *:
    """
    #include <stdint.h>
    #include <time.h>
    #ifdef __linux__
    #include <limits.h>
    #include <linux/futex.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    static inline void bell_wake(uint32_t *word) { syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0); }
    static inline void bell_wait(uint32_t *word, uint32_t seen, double seconds)
    {
        struct timespec limit;
        limit.tv_sec = (time_t)seconds;
        limit.tv_nsec = (long)((seconds - (double)limit.tv_sec) * 1e9);
        syscall(SYS_futex, word, FUTEX_WAIT, seen, &limit, NULL, 0);
    }
    #else
    static inline void bell_wake(uint32_t *word) { (void)word; }
    static inline void bell_wait(uint32_t *word, uint32_t seen, double seconds)
    {
        struct timespec limit = {0, seconds < 0.008 ? (long)(seconds * 1e9) : 8000000};
        if (__atomic_load_n(word, __ATOMIC_SEQ_CST) == seen)
            nanosleep(&limit, NULL);
    }
    #endif
    static inline int bell_is_for(uint32_t *words, uint32_t length)
    {
        __atomic_thread_fence(__ATOMIC_SEQ_CST); /* the record is there before the sleeper is looked for */
        return length >= __atomic_load_n(words + 1, __ATOMIC_RELAXED);
    }
    static inline void bell_ring(uint32_t *words)
    {
        if (__atomic_exchange_n(words + 1, UINT32_MAX, __ATOMIC_SEQ_CST) == UINT32_MAX)
            return; /* another relay was first */
        __atomic_fetch_add(words, 1, __ATOMIC_SEQ_CST);
        bell_wake(words);
    }
    static inline uint32_t bell_arm(uint32_t *words, uint32_t least)
    {
        uint32_t seen = __atomic_load_n(words, __ATOMIC_SEQ_CST);
        __atomic_store_n(words + 1, least, __ATOMIC_SEQ_CST);
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        return seen;
    }
    """
    void bell_wait(uint32_t *word, uint32_t seen, double seconds) noexcept nogil
    bint bell_is_for(uint32_t *words, uint32_t length) noexcept nogil
    void bell_ring(uint32_t *words) noexcept nogil
    uint32_t bell_arm(uint32_t *words, uint32_t least) noexcept nogil


cdef class Bell:
    cdef Py_buffer buffer
    cdef bint held
    cdef uint32_t *words
    cdef object _map
