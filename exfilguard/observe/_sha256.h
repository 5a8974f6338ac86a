/* SHA-256's compression function (FIPS 180-4, 6.2.2) for two independent blocks at once, with the CPU's SHA instructions.

One block alone waits for each instruction's result; two fill each other's waits, so that the pair costs little more than one.
Words are in the machine's order: a caller with bytes swaps them. Only x86-64 has it; `sha256_x2_usable` says whether it may be
called. Instructions: Intel SDM vol. 2, SHA256RNDS2, SHA256MSG1, SHA256MSG2. */

#ifndef EXFILGUARD_SHA256_H
#define EXFILGUARD_SHA256_H

#include <stdint.h>

#if defined(__x86_64__) && defined(__GNUC__)

#include <cpuid.h>
#include <immintrin.h>

static int sha256_x2_usable(void)
{
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & (1u << 19)) || !(c & (1u << 9))) /* SSE4.1, SSSE3 */
        return 0;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & (1u << 29)); /* SHA */
}

static const uint32_t SHA256_K[64] __attribute__((aligned(16))) = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

/* from[8] is the state before; the states after go to a[8] and b[8]. */
__attribute__((target("sha,sse4.1,ssse3"))) static void sha256_x2(
    const uint32_t *from, const uint32_t *block_a, const uint32_t *block_b, uint32_t *a, uint32_t *b)
{
    __m128i low = _mm_loadu_si128((const __m128i *)from);        /* d c b a, the highest lane first */
    __m128i high = _mm_loadu_si128((const __m128i *)(from + 4)); /* h g f e */
    __m128i t = _mm_shuffle_epi32(low, 0xB1), u = _mm_shuffle_epi32(high, 0x1B);
    __m128i abef = _mm_alignr_epi8(t, u, 8), cdgh = _mm_blend_epi16(u, t, 0xF0);
    __m128i abef_a = abef, cdgh_a = cdgh, abef_b = abef, cdgh_b = cdgh;
    __m128i wa[4], wb[4];
    int i;
#pragma GCC unroll 4
    for (i = 0; i < 4; i++) {
        wa[i] = _mm_loadu_si128((const __m128i *)(block_a + 4 * i));
        wb[i] = _mm_loadu_si128((const __m128i *)(block_b + 4 * i));
    }
#pragma GCC unroll 16
    for (i = 0; i < 16; i++) {
        const __m128i k = _mm_load_si128((const __m128i *)(SHA256_K + 4 * i));
        __m128i ma, mb;
        if (i >= 4) {
            const int w = i & 3;
            wa[w] = _mm_sha256msg2_epu32(
                _mm_add_epi32(_mm_sha256msg1_epu32(wa[w], wa[(w + 1) & 3]), _mm_alignr_epi8(wa[(w + 3) & 3], wa[(w + 2) & 3], 4)),
                wa[(w + 3) & 3]);
            wb[w] = _mm_sha256msg2_epu32(
                _mm_add_epi32(_mm_sha256msg1_epu32(wb[w], wb[(w + 1) & 3]), _mm_alignr_epi8(wb[(w + 3) & 3], wb[(w + 2) & 3], 4)),
                wb[(w + 3) & 3]);
        }
        ma = _mm_add_epi32(wa[i & 3], k);
        mb = _mm_add_epi32(wb[i & 3], k);
        cdgh_a = _mm_sha256rnds2_epu32(cdgh_a, abef_a, ma);
        cdgh_b = _mm_sha256rnds2_epu32(cdgh_b, abef_b, mb);
        abef_a = _mm_sha256rnds2_epu32(abef_a, cdgh_a, _mm_shuffle_epi32(ma, 0x0E));
        abef_b = _mm_sha256rnds2_epu32(abef_b, cdgh_b, _mm_shuffle_epi32(mb, 0x0E));
    }
    abef_a = _mm_add_epi32(abef_a, abef);
    cdgh_a = _mm_add_epi32(cdgh_a, cdgh);
    abef_b = _mm_add_epi32(abef_b, abef);
    cdgh_b = _mm_add_epi32(cdgh_b, cdgh);
    t = _mm_shuffle_epi32(abef_a, 0x1B);
    u = _mm_shuffle_epi32(cdgh_a, 0xB1);
    _mm_storeu_si128((__m128i *)a, _mm_blend_epi16(t, u, 0xF0));
    _mm_storeu_si128((__m128i *)(a + 4), _mm_alignr_epi8(u, t, 8));
    t = _mm_shuffle_epi32(abef_b, 0x1B);
    u = _mm_shuffle_epi32(cdgh_b, 0xB1);
    _mm_storeu_si128((__m128i *)b, _mm_blend_epi16(t, u, 0xF0));
    _mm_storeu_si128((__m128i *)(b + 4), _mm_alignr_epi8(u, t, 8));
}

#else

static int sha256_x2_usable(void) { return 0; }

static void sha256_x2(const uint32_t *from, const uint32_t *block_a, const uint32_t *block_b, uint32_t *a, uint32_t *b)
{
    (void)from; (void)block_a; (void)block_b; (void)a; (void)b;
}

#endif

#endif
