/* CRC-32 as zlib's crc32() has it (reflected polynomial 0xEDB88320), by carry-less multiplication where the CPU has it.

Four accumulators of 128 bits are multiplied forward over the bytes that come next, so that they do not wait for each other; at
the end they are folded into one, and that one is reduced to 32 bits. The constants are powers of x modulo the polynomial, bits
reversed (V. Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction", Intel 2009). Only x86-64;
`crc32_folds` says whether it may be called. tests/sidecar/test_spool.py compares it with zlib. */

#ifndef EXFILGUARD_CRC32_H
#define EXFILGUARD_CRC32_H

#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__) && defined(__GNUC__)

#include <cpuid.h>
#include <immintrin.h>

static int crc32_folds(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & (1u << 1)) && (c & (1u << 19)); /* PCLMULQDQ, SSE4.1 */
}

#define CRC32_TARGET __attribute__((target("pclmul,sse4.1")))

CRC32_TARGET static inline __m128i crc32_forward(__m128i value, __m128i by, __m128i next)
{
    __m128i low = _mm_clmulepi64_si128(value, by, 0x00);
    __m128i high = _mm_clmulepi64_si128(value, by, 0x11);
    return _mm_xor_si128(_mm_xor_si128(low, high), next);
}

/* n: a multiple of 16, at least 64. `crc` as it is within the computation, before the last complement. */
CRC32_TARGET static uint32_t crc32_fold(const uint8_t *p, size_t n, uint32_t crc)
{
    const __m128i by_64 = _mm_set_epi64x(0x01c6e41596, 0x0154442bd4);
    const __m128i by_16 = _mm_set_epi64x(0x00ccaa009e, 0x01751997d0);
    const __m128i by_8 = _mm_set_epi64x(0, 0x0163cd6124);
    const __m128i barrett = _mm_set_epi64x(0x01f7011641, 0x01db710641);
    const __m128i low_32 = _mm_set_epi32(0, -1, 0, -1);
    const __m128i *from = (const __m128i *)p;
    __m128i a = _mm_xor_si128(_mm_loadu_si128(from), _mm_cvtsi32_si128((int)crc));
    __m128i b = _mm_loadu_si128(from + 1);
    __m128i c = _mm_loadu_si128(from + 2);
    __m128i d = _mm_loadu_si128(from + 3);
    __m128i left;

    from += 4;
    for (n -= 64; n >= 64; n -= 64, from += 4) {
        a = crc32_forward(a, by_64, _mm_loadu_si128(from));
        b = crc32_forward(b, by_64, _mm_loadu_si128(from + 1));
        c = crc32_forward(c, by_64, _mm_loadu_si128(from + 2));
        d = crc32_forward(d, by_64, _mm_loadu_si128(from + 3));
    }
    a = crc32_forward(a, by_16, b);
    a = crc32_forward(a, by_16, c);
    a = crc32_forward(a, by_16, d);
    for (; n >= 16; n -= 16, from++)
        a = crc32_forward(a, by_16, _mm_loadu_si128(from));

    /* 128 bits to 96, to 64, and by Barrett's reduction to 32 */
    a = _mm_xor_si128(_mm_srli_si128(a, 8), _mm_clmulepi64_si128(a, by_16, 0x10));
    left = _mm_srli_si128(a, 4);
    a = _mm_xor_si128(_mm_clmulepi64_si128(_mm_and_si128(a, low_32), by_8, 0x00), left);
    left = _mm_and_si128(_mm_clmulepi64_si128(_mm_and_si128(a, low_32), barrett, 0x10), low_32);
    a = _mm_xor_si128(a, _mm_clmulepi64_si128(left, barrett, 0x00));
    return (uint32_t)_mm_extract_epi32(a, 1);
}

#else

static int crc32_folds(void) { return 0; }
static uint32_t crc32_fold(const uint8_t *p, size_t n, uint32_t crc) { (void)p; (void)n; return crc; }

#endif
#endif
