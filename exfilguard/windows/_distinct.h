/* Distinct patients of one account: an exact table of (digest, last seen), and beyond its bound a sliding HyperLogLog.

Times are the low 32 bits of milliseconds; they are read back against the account's newest event, from which nothing kept is
ever further than 2^32 ms (49.7 days): the longest window is at most 35 days, and what it no longer reaches is swept.

Exact: open addressing, linear probing; `digest` 0 marks an empty place (a digest of 0 is kept as another constant).

Sliding: Y. Chabchoub, G. Hebrail, "Sliding HyperLogLog" (ICDMW 2010): each register keeps the possible maxima of any window
that ends now: newest first, each older one with a higher rank. Estimator: O. Ertl, "New cardinality estimation algorithms
for HyperLogLog sketches" (arXiv 1702.01284), algorithm 6, without bias tables. The standard error is 1.04 / sqrt(2^p):
0.57 % at p = 15, 1.15 % at p = 13. A register holds HLL_KEPT maxima; one more and the two nearest in time become one with
the higher rank and the newer time: too many, never too few. Sightings are dated at the start of their slice of the shortest
window (10 s / 32), so that a register that is hit often changes seldom. */
#ifndef EXFILGUARD_DISTINCT_H
#define EXFILGUARD_DISTINCT_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define ZERO_DIGEST 0x9E3779B97F4A7C15ull
#define HLL_KEPT 8

typedef struct __attribute__((packed)) { uint64_t digest; uint32_t time; } Place;

typedef struct {
    Place *places;
    uint32_t count;
    uint32_t capacity; /* a power of two, or 0 */
} Exact;

typedef struct {
    uint32_t times[HLL_KEPT];
    uint8_t ranks[HLL_KEPT]; /* 0: empty */
} Register;

typedef struct {
    uint8_t p;
    Register registers[1]; /* 2^p */
} Sliding;

static inline uint64_t mix64(uint64_t x) { /* splitmix64's finaliser */
    x ^= x >> 30;
    x *= 0xBF58476D1CE4E5B9ull;
    x ^= x >> 27;
    x *= 0x94D049BB133111EBull;
    return x ^ (x >> 31);
}

static inline int64_t seen_at(uint32_t low, int64_t newest) { return newest - (uint32_t)((uint32_t)newest - low); }

/* The place of a digest, or the empty place where it belongs. The table must have an empty place. */
static inline uint32_t exact_find(const Exact *e, uint64_t digest) {
    uint32_t mask = e->capacity - 1, at = (uint32_t)mix64(digest) & mask;
    while (e->places[at].digest && e->places[at].digest != digest) at = (at + 1) & mask;
    return at;
}

/* Another capacity, leaving out what was last seen before `low_ms`. 0, or -1 without memory. */
static int exact_resize(Exact *e, uint32_t capacity, int64_t newest, int64_t low_ms) {
    Exact made = {NULL, 0, capacity};
    if (capacity) {
        made.places = calloc(capacity, sizeof(Place));
        if (!made.places) return -1;
        for (uint32_t i = 0; i < e->capacity; i++) {
            if (!e->places[i].digest || seen_at(e->places[i].time, newest) < low_ms) continue;
            made.places[exact_find(&made, e->places[i].digest)] = e->places[i];
            made.count++;
        }
    }
    free(e->places);
    *e = made;
    return 0;
}

static uint32_t exact_older(const Exact *e, int64_t newest, int64_t low_ms) {
    uint32_t old = 0;
    for (uint32_t i = 0; i < e->capacity; i++)
        old += e->places[i].digest && seen_at(e->places[i].time, newest) < low_ms;
    return old;
}

/* Smallest capacity that holds so many at a load of at most 3/4. */
static uint32_t exact_capacity(uint32_t count) {
    uint32_t capacity = 4;
    while ((uint64_t)capacity * 3 < (uint64_t)count * 4) capacity *= 2;
    return count ? capacity : 0;
}

static int exact_sweep(Exact *e, int64_t newest, int64_t low_ms) {
    uint32_t old = exact_older(e, newest, low_ms);
    return old ? exact_resize(e, exact_capacity(e->count - old), newest, low_ms) : 0;
}

/* -- sliding -------------------------------------------------------------------------------------------------------- */

static Sliding *hll_new(int p) {
    Sliding *h = calloc(1, sizeof(Sliding) + (((size_t)1 << p) - 1) * sizeof(Register));
    if (h) h->p = (uint8_t)p;
    return h;
}

static inline void hll_place(uint64_t digest, int p, uint32_t *reg, uint8_t *rank) {
    uint64_t x = mix64(digest ^ 0xA0761D6478BD642Full);
    *reg = (uint32_t)(x >> (64 - p));
    uint64_t rest = x << p;
    *rank = rest ? (uint8_t)(__builtin_clzll(rest) + 1) : (uint8_t)(64 - p + 1);
}

/* One maximum into one register. `newest` must not be older than `t`. */
static void hll_put(Sliding *h, uint32_t reg, uint8_t rank, int64_t t, int64_t newest) {
    uint32_t *times = h->registers[reg].times;
    uint8_t *ranks = h->registers[reg].ranks;
    if (!ranks[0] || seen_at(times[0], newest) < t) { /* the newest of all, nearly always: it replaces those that are no higher */
        int gone = 0;
        while (gone < HLL_KEPT && ranks[gone] && ranks[gone] <= rank) gone++;
        if (gone) {
            for (int i = 1; gone > 1 && i < HLL_KEPT; i++) {
                int from = i + gone - 1;
                ranks[i] = from < HLL_KEPT ? ranks[from] : 0;
                times[i] = from < HLL_KEPT ? times[from] : 0;
            }
            times[0] = (uint32_t)t;
            ranks[0] = rank;
            return;
        }
    }
    uint32_t out_times[HLL_KEPT + 1];
    uint8_t out_ranks[HLL_KEPT + 1];
    int count = 0, placed = 0;
    for (int i = 0; i < HLL_KEPT && ranks[i]; i++) {
        int64_t at = seen_at(times[i], newest);
        if (at >= t) {
            if (ranks[i] >= rank) return; /* a newer one is as high: this changes no window */
        } else {
            if (!placed) {
                out_times[count] = (uint32_t)t;
                out_ranks[count++] = rank;
                placed = 1;
            }
            if (ranks[i] <= rank) continue; /* an older one that is no higher */
        }
        out_times[count] = times[i];
        out_ranks[count++] = ranks[i];
    }
    if (!placed) {
        out_times[count] = (uint32_t)t;
        out_ranks[count++] = rank;
    }
    if (count > HLL_KEPT) {
        int best = 0;
        uint32_t gap = UINT32_MAX;
        for (int i = 0; i + 1 < count; i++)
            if (out_times[i] - out_times[i + 1] < gap) gap = out_times[i] - out_times[i + 1], best = i;
        out_ranks[best] = out_ranks[best + 1];
        for (int i = best + 1; i + 1 < count; i++) out_times[i] = out_times[i + 1], out_ranks[i] = out_ranks[i + 1];
        count--;
    }
    memcpy(times, out_times, (size_t)count * sizeof *times);
    memset(ranks, 0, HLL_KEPT);
    memcpy(ranks, out_ranks, (size_t)count);
}

static inline void hll_add(Sliding *h, uint64_t digest, int64_t t, int64_t newest) {
    uint32_t reg;
    uint8_t rank;
    hll_place(digest, h->p, &reg, &rank);
    if (h->registers[reg].ranks[0] >= rank && h->registers[reg].times[0] == (uint32_t)t) return;
    hll_put(h, reg, rank, t, newest);
}

static void hll_sweep(Sliding *h, int64_t newest, int64_t low_ms) {
    for (Register *r = h->registers; r < h->registers + ((size_t)1 << h->p); r++)
        for (int i = 0; i < HLL_KEPT; i++) /* oldest last: no hole appears */
            if (r->ranks[i] && seen_at(r->times[i], newest) < low_ms) r->ranks[i] = 0;
}

/* The plain registers of the window that begins at `low_ms`, one byte each. */
static void hll_registers(Sliding *h, int64_t newest, int64_t low_ms, uint8_t *out) {
    for (size_t reg = 0; reg < (size_t)1 << h->p; reg++) {
        const Register *r = h->registers + reg;
        uint8_t highest = 0;
        for (int i = 0; i < HLL_KEPT && r->ranks[i] && seen_at(r->times[i], newest) >= low_ms; i++) highest = r->ranks[i];
        out[reg] = highest;
    }
}

static double hll_sigma(double x) {
    if (x == 1.0) return INFINITY;
    double y = 1.0, z = x, before;
    do {
        x *= x;
        before = z;
        z += x * y;
        y += y;
    } while (before != z);
    return z;
}

static double hll_tau(double x) {
    if (x == 0.0 || x == 1.0) return 0.0;
    double y = 1.0, z = 1.0 - x, before;
    do {
        x = sqrt(x);
        before = z;
        y *= 0.5;
        z -= (1.0 - x) * (1.0 - x) * y;
    } while (before != z);
    return z / 3.0;
}

/* Ertl's estimate from plain registers. */
static int64_t hll_estimate(const uint8_t *registers, int p) {
    uint32_t counts[66] = {0};
    int q = 64 - p;
    double m = (double)((size_t)1 << p);
    for (size_t i = 0; i < (size_t)1 << p; i++) counts[registers[i] <= q + 1 ? registers[i] : q + 1]++;
    double z = m * hll_tau(1.0 - counts[q + 1] / m);
    for (int k = q; k >= 1; k--) z = 0.5 * (z + counts[k]);
    z += m * hll_sigma(counts[0] / m);
    return (int64_t)(m * m / (2.0 * 0.6931471805599453 * z) + 0.5);
}

#endif
