/* The rolling windows of many accounts: fixed C structs, no Python object for an event.

Time is cut into slices of exactly W/n (slice number = time * n / W, integers only). A window at `now` is the slice that
holds `now` and the n slices before it:

    time     ──┬─────┬─────┬─────┬─────┬──►      n = 4
    slices     │  3  │  4  │  5  │  6  │ 7 now
    window     └──────────────────────────┘       covers more than W and at most W + W/n

so it may count a slice too much, never too little. Of each window an account keeps the running sums, and the slices that
are closed and not empty (a ring of cells, oldest first); the slice that is still open is the sums less the cells. An event
goes to the slice of its own time, whenever it arrives; one older than the window's reach is not in that window any more, and
one older than the longest window's is counted as late.

Memory: a cell has 20 bytes (40 in a window where one slice counted 2^32 of something), a window at most n cells.

Limits: each account points to a ladder of totals per window and unit. `room` is how much of each unit may still come before
any of them can be exceeded, whatever the window; it is renewed only when it is used up, so that an event costs four
subtractions. Sums only fall by themselves, so a room that is too small costs a check, and none is ever missed. */
#ifndef EXFILGUARD_STORE_H
#define EXFILGUARD_STORE_H

#include "_distinct.h"

#define MAX_WINDOWS 16
#define UNITS 4
#define SUM_FULL ((int64_t)1 << 62) /* absurd counts stop here instead of running over */
#define DELTA_MAX ((int64_t)1 << 48)
#define KNOWN 8         /* sources, and applications, remembered per account */
#define CONTRIBUTORS 32 /* accounts remembered per source or shape */
#define KEY_INLINE 40
#define LINE 64
#define HOUR_MS 3600000
#define DAY_MS 86400000
#define CHUNK 1024
#define GROW 8    /* beyond its ladder an account is reported again when it grew by a part in so many */
#define NO_ROOM_END INT64_MAX

enum { ROWS, PATIENTS, BYTES, QUERIES };
enum { USED = 1, DIRTY = 2, OVER = 4, ASKED_FOR = 8, REPORTED = 16, OVERFLOW_ACCOUNT = 32, MOVED = 64 };

typedef struct { uint32_t slice; uint32_t u[UNITS]; } Narrow;
typedef struct { uint32_t slice; uint32_t unused; uint64_t u[UNITS]; } Wide;

typedef struct {
    void *cells;
    uint16_t count, capacity;
    uint8_t wide;
} Ring;

typedef struct { uint8_t sources, applications; uint32_t hashes[2 * KNOWN]; } Known; /* most recent first */
typedef struct {
    uint32_t account[CONTRIBUTORS], count[CONTRIBUTORS], hash[CONTRIBUTORS], passed;
} Contributors;

typedef struct { /* by cache lines: what each event needs comes first */
    uint64_t hash;
    int64_t newest_ms;
    int64_t room[UNITS];
    int64_t recheck_ms; /* an account that is over something is reported again from then on. Of a sum: when it was looked at */
    uint32_t length, limits;

    int64_t applied; /* offset of the next record that is not in here yet, after a restore */
    int64_t hour;    /* UTC hour of the newest event; -1: none yet. Of a sum: its day */
    uint32_t generation, segment;
    uint32_t last_source, last_application;
    Exact exact;
    Sliding *sliding;
    uint8_t flags;

    char *key; /* "tenant/name" */
    char short_key[KEY_INLINE];
    Known *known;
    Contributors *contributors;

    uint8_t *profile;
    int64_t swept; /* slice of the longest window at the last removal of old digests */
    uint32_t profile_length;
    uint32_t pending, spare; /* of a sum that is followed: patients since its look; how many can change nothing yet */
    /* then: int64_t head[windows]; int64_t sums[windows][UNITS]; Ring rings[windows]; */
} __attribute__((aligned(64))) Account;

typedef struct { uint32_t uses; int64_t *values; uint32_t *starts; } Limits; /* of (window, unit): values[starts[i]..starts[i+1]] */

typedef struct {
    int windows, slices, longest, shortest, precision;
    int64_t width[MAX_WINDOWS];
    int64_t time_ms, number[MAX_WINDOWS], from[MAX_WINDOWS], until[MAX_WINDOWS]; /* the slices of the last time looked at */
    uint32_t max_patients, max_accounts;
    size_t stride;
    uint64_t seed;
    char **chunks;
    uint32_t chunk_count, accounts, next, free_count, free_capacity, *free_list;
    uint64_t *slots; /* hash's high half | index + 1 */
    uint32_t slot_mask, filled;
    uint32_t *dirty, dirty_count, dirty_capacity;
    Limits *limits;
    uint32_t limits_count, limits_capacity;
    uint32_t generation;
    uint64_t late, refused;
    int failed; /* memory ran out: everything after this is void */
} Store;

static inline Account *account_at(const Store *s, uint32_t i) { return (Account *)(s->chunks[i / CHUNK] + (size_t)(i % CHUNK) * s->stride); }
static inline int64_t *heads(Account *a) { return (int64_t *)(a + 1); }
static inline int64_t *sums_of(const Store *s, Account *a) { return heads(a) + s->windows; }
static inline Ring *rings(const Store *s, Account *a) { return (Ring *)(sums_of(s, a) + s->windows * UNITS); }

static inline int64_t low_ms(const Store *s, int window, int64_t head) { /* first millisecond the window reaches */
    int64_t w = s->width[window];
    int64_t low = head - s->slices;
    return low <= 0 ? 0 : (low * w + s->slices - 1) / s->slices;
}

static inline void slices_of(Store *s, int64_t t) {
    if (t == s->time_ms) return;
    s->time_ms = t;
    for (int w = 0; w < s->windows; w++) {
        if (t >= s->from[w] && t < s->until[w]) continue;
        int64_t width = s->width[w], n = s->slices, number = t * n / width;
        s->number[w] = number;
        s->from[w] = (number * width + n - 1) / n;
        s->until[w] = ((number + 1) * width + n - 1) / n;
    }
}

/* -- cells ---------------------------------------------------------------------------------------------------------- */

static inline uint32_t cell_slice(const Ring *r, int i) { return r->wide ? ((Wide *)r->cells)[i].slice : ((Narrow *)r->cells)[i].slice; }
static inline int64_t cell_get(const Ring *r, int i, int u) { return r->wide ? (int64_t)((Wide *)r->cells)[i].u[u] : ((Narrow *)r->cells)[i].u[u]; }

static int ring_widen(Ring *r) {
    Wide *made = malloc((r->capacity ? r->capacity : 1) * sizeof(Wide));
    if (!made) return -1;
    for (int i = 0; i < r->count; i++) {
        Narrow *old = (Narrow *)r->cells + i;
        made[i] = (Wide){old->slice, 0, {old->u[0], old->u[1], old->u[2], old->u[3]}};
    }
    free(r->cells);
    r->cells = made;
    r->wide = 1;
    if (!r->capacity) r->capacity = 1;
    return 0;
}

/* Adds to cell `i`; the caller has made sure that it does not become negative. */
static int cell_add(Ring *r, int i, int u, int64_t delta) {
    int64_t value = cell_get(r, i, u) + delta;
    if (!r->wide && value > UINT32_MAX && ring_widen(r)) return -1;
    if (r->wide) ((Wide *)r->cells)[i].u[u] = (uint64_t)value;
    else ((Narrow *)r->cells)[i].u[u] = (uint32_t)value;
    return 0;
}

/* Index of the cell of this slice, made when it is missing; -1 without memory. Looked for from the newest. */
static int ring_cell(Ring *r, uint32_t slice, int most, int make) {
    int i = r->count;
    while (i > 0 && (int32_t)(cell_slice(r, i - 1) - slice) > 0) i--;
    if (i > 0 && cell_slice(r, i - 1) == slice) return i - 1;
    if (!make) return -1;
    size_t size = r->wide ? sizeof(Wide) : sizeof(Narrow);
    if (r->count == r->capacity) {
        int capacity = r->capacity ? r->capacity * 2 : 1;
        if (capacity > most) capacity = most;
        if (capacity <= r->count) return -1;
        void *grown = realloc(r->cells, (size_t)capacity * size);
        if (!grown) return -1;
        r->cells = grown;
        r->capacity = (uint16_t)capacity;
    }
    char *at = (char *)r->cells + (size_t)i * size;
    memmove(at + size, at, (size_t)(r->count - i) * size);
    memset(at, 0, size);
    *(uint32_t *)at = slice;
    r->count++;
    return i;
}

static void ring_expire(Ring *r, uint32_t low, int64_t *sums) {
    int gone = 0;
    while (gone < r->count && (int32_t)(cell_slice(r, gone) - low) < 0) {
        for (int u = 0; u < UNITS; u++) sums[u] -= cell_get(r, gone, u);
        gone++;
    }
    if (!gone) return;
    size_t size = r->wide ? sizeof(Wide) : sizeof(Narrow);
    r->count -= (uint16_t)gone;
    memmove(r->cells, (char *)r->cells + (size_t)gone * size, (size_t)r->count * size);
    if (!r->count) { /* an account that was loud once gives its memory back */
        free(r->cells);
        *r = (Ring){0};
    }
}

static void ring_open(const Ring *r, const int64_t *sums, int64_t *out) { /* the open slice: sums less cells */
    for (int u = 0; u < UNITS; u++) out[u] = sums[u];
    for (int i = 0; i < r->count; i++)
        for (int u = 0; u < UNITS; u++) out[u] -= cell_get(r, i, u);
}

/* Moves a window's head to a later slice. */
static void advance(Store *s, Account *a, int w, int64_t number) {
    int64_t *head = heads(a) + w, *sums = sums_of(s, a) + w * UNITS;
    Ring *r = rings(s, a) + w;
    int64_t low = number - s->slices;
    if (*head < 0 || low > *head) {
        free(r->cells);
        *r = (Ring){0};
        memset(sums, 0, UNITS * sizeof *sums);
    } else {
        ring_expire(r, (uint32_t)low, sums);
        int64_t open[UNITS];
        ring_open(r, sums, open);
        if (open[0] | open[1] | open[2] | open[3]) {
            int i = ring_cell(r, (uint32_t)*head, s->slices, 1);
            if (i < 0) s->failed = 1;
            for (int u = 0; i >= 0 && u < UNITS; u++)
                if (open[u] && cell_add(r, i, u, open[u])) s->failed = 1;
        }
    }
    *head = number;
}

/* -- patients ------------------------------------------------------------------------------------------------------- */

static inline void count_patient(Store *s, Account *a, int w, int64_t number, int64_t delta) {
    int64_t head = heads(a)[w];
    if (number > head || number < head - s->slices) return;
    if (number < head) {
        Ring *r = rings(s, a) + w;
        int i = ring_cell(r, (uint32_t)number, s->slices, delta > 0);
        if (i < 0 || cell_get(r, i, PATIENTS) + delta < 0) {
            if (delta > 0) s->failed = 1;
            return;
        }
        if (cell_add(r, i, PATIENTS, delta)) s->failed = 1;
    }
    sums_of(s, a)[w * UNITS + PATIENTS] += delta;
}

static int to_sliding(Store *s, Account *a) {
    Sliding *h = hll_new(s->precision);
    if (!h) return -1;
    for (uint32_t i = 0; i < a->exact.capacity; i++) {
        if (!a->exact.places[i].digest) continue;
        int64_t t = seen_at(a->exact.places[i].time, a->newest_ms);
        hll_add(h, a->exact.places[i].digest, t, a->newest_ms);
        for (int w = 0; w < s->windows; w++) count_patient(s, a, w, t * s->slices / s->width[w], -1);
    }
    exact_resize(&a->exact, 0, 0, 0);
    a->sliding = h;
    return 0;
}

static void sweep_patients(Store *s, Account *a, int64_t head) { /* before newest_ms moves on */
    if (head - a->swept < (s->slices >= 8 ? s->slices / 8 : 1)) return;
    a->swept = head;
    int64_t low = low_ms(s, s->longest, head);
    if (a->sliding) hll_sweep(a->sliding, a->newest_ms, low);
    else if (a->exact.count && exact_sweep(&a->exact, a->newest_ms, low)) s->failed = 1;
}

/* One sighting at `t` (whose slices are in s->number). Returns how many patients the room shrinks by. */
static inline int see_patient(Store *s, Account *a, uint64_t digest, int64_t t) {
    if (!digest) digest = ZERO_DIGEST;
    if (a->sliding) {
        hll_add(a->sliding, digest, s->from[s->shortest], a->newest_ms);
        return 1;
    }
    Exact *e = &a->exact;
    if ((uint64_t)(e->count + 1) * 4 > (uint64_t)e->capacity * 3) {
        int64_t low = low_ms(s, s->longest, heads(a)[s->longest]);
        uint32_t old = e->capacity ? exact_older(e, a->newest_ms, low) : 0;
        uint32_t capacity = exact_capacity(e->count - old + 1);
        if (exact_resize(e, capacity < 4 ? 4 : capacity, a->newest_ms, low)) {
            s->failed = 1;
            return 0;
        }
    }
    Place *place = e->places + exact_find(e, digest);
    int64_t before = -1;
    if (place->digest) {
        before = seen_at(place->time, a->newest_ms);
        if (before >= t) return 0; /* seen later already: this sighting changes no window */
    } else {
        if (e->count >= s->max_patients) {
            if (to_sliding(s, a)) s->failed = 1;
            else hll_add(a->sliding, digest, t, a->newest_ms);
            return 1;
        }
        place->digest = digest;
        e->count++;
    }
    place->time = (uint32_t)t;
    int more = 0;
    for (int w = 0; w < s->windows; w++) {
        int64_t now = s->number[w], head = heads(a)[w];
        if (before >= s->from[w] && before < s->until[w]) continue;
        if (before >= 0) {
            int64_t old = before * s->slices / s->width[w];
            if (old >= head - s->slices) {
                count_patient(s, a, w, old, -1);
                count_patient(s, a, w, now, 1);
                continue;
            }
        }
        count_patient(s, a, w, now, 1);
        more = 1;
    }
    return more;
}

/* -- one event ------------------------------------------------------------------------------------------------------ */

/* Counts one event. Returns 1 when the account used up its room, -1 when the event is older than the longest window. */
static int account_add(Store *s, Account *a, int64_t t, const int64_t *delta, const uint64_t *digests, uint32_t digest_count) {
    slices_of(s, t);
    int64_t *head = heads(a), *sums = sums_of(s, a);
    if (t > a->newest_ms) {
        sweep_patients(s, a, s->number[s->longest]);
        a->newest_ms = t;
    } else if (s->number[s->longest] < head[s->longest] - s->slices) {
        s->late++;
        return -1;
    }
    for (int w = 0; w < s->windows; w++) {
        int64_t number = s->number[w];
        int64_t *sum = sums + w * UNITS;
        int at = -1;
        if (number != head[w]) {
            if (number > head[w]) advance(s, a, w, number);
            else if (number < head[w] - s->slices) continue;
            else if (delta[0] | delta[1] | delta[2] | delta[3]) {
                at = ring_cell(rings(s, a) + w, (uint32_t)number, s->slices, 1);
                if (at < 0) s->failed = 1;
            }
        }
        for (int u = 0; u < UNITS; u++) {
            if (!delta[u] || sum[u] > SUM_FULL) continue;
            sum[u] += delta[u];
            if (at >= 0 && cell_add(rings(s, a) + w, at, u, delta[u])) s->failed = 1;
        }
    }
    int64_t patients = delta[PATIENTS];
    for (uint32_t i = 0; i < digest_count; i++) patients += see_patient(s, a, digests[i], t);
    int used = 0;
    const int64_t by[UNITS] = {delta[ROWS], patients, delta[BYTES], delta[QUERIES]};
    for (int u = 0; u < UNITS; u++) {
        if (a->room[u] == NO_ROOM_END) continue;
        a->room[u] -= by[u];
        used |= a->room[u] < 0;
    }
    return used;
}

/* The sums of one window at `now`, which changes nothing. `scratch`: 2^precision bytes for an account beyond the exact bound. */
static void window_totals(Store *s, Account *a, int w, int64_t now, int64_t *out, uint8_t *scratch) {
    int64_t *sums = sums_of(s, a) + w * UNITS, head = heads(a)[w];
    if (now < a->newest_ms) now = a->newest_ms;
    int64_t number = now * s->slices / s->width[w], low = number - s->slices;
    for (int u = 0; u < UNITS; u++) out[u] = 0;
    if (head >= low && head >= 0) {
        for (int u = 0; u < UNITS; u++) out[u] = sums[u];
        Ring *r = rings(s, a) + w;
        for (int i = 0; i < r->count && (int32_t)(cell_slice(r, i) - (uint32_t)low) < 0; i++)
            for (int u = 0; u < UNITS; u++) out[u] -= cell_get(r, i, u);
    }
    if (a->sliding) {
        hll_registers(a->sliding, a->newest_ms, low_ms(s, w, number), scratch);
        out[PATIENTS] += hll_estimate(scratch, a->sliding->p);
    }
}

/* -- sums that are followed ----------------------------------------------------------------------------------------- */

/* By how much one sighting can raise an estimate that is below `limit`: it changes one register, and z of Ertl's estimate
   m * m / (2 ln 2 z) by no more than sigma'(e^(-n/m)), which makes 1.39 (n/m)^2 sigma' patients: 1.1 of few, 1.8 at half as many
   patients as registers, 3 at as many, 1.4 (n/m)^2 of many. Taken twice, for chance moves the share of empty registers. */
static inline double most_a_sighting(int64_t limit, int precision) {
    double n = (double)limit / (double)((int64_t)1 << precision);
    return 2.0 + 2.8 * n * n;
}

/* 1 when a sum is beyond one of `floors` (a total per window and unit; 0: none) in its windows as of its newest event. Where it is not,
   `spare` says how many more patients it takes at least, so that a sketch is not read at each look. */
static int beyond_floors(Store *s, Account *a, const int64_t *floors, uint8_t *scratch) {
    int64_t totals[UNITS], spare = UINT32_MAX;
    if (a->spare > a->pending && a->sliding) {
        a->spare -= a->pending;
        return 0;
    }
    a->spare = 0;
    for (int w = 0; w < s->windows; w++, floors += UNITS) {
        if (!(floors[ROWS] | floors[PATIENTS] | floors[BYTES] | floors[QUERIES])) continue;
        window_totals(s, a, w, 0, totals, scratch);
        for (int u = 0; u < UNITS; u++) {
            if (!floors[u]) continue;
            if (totals[u] > floors[u]) return 1;
            /* Of what is no sketch's, only patients are bounded by the patients that come. */
            double left = u == PATIENTS ? (double)(floors[u] - totals[u]) / most_a_sighting(floors[u], s->precision) : 0;
            if (left < (double)spare) spare = (int64_t)left;
        }
    }
    if (a->sliding) a->spare = (uint32_t)spare;
    return 0;
}

/* -- limits --------------------------------------------------------------------------------------------------------- */

/* Renews the room from the ladder. Returns 1 when a total is over a limit. `now`: wall clock, for the next look at it. */
static int check_limits(Store *s, Account *a, int64_t now, uint8_t *scratch) {
    for (int u = 0; u < UNITS; u++) a->room[u] = NO_ROOM_END;
    a->flags &= (uint8_t)~OVER;
    if (!a->limits) return 0;
    Limits *l = s->limits + a->limits;
    int over = 0;
    for (int w = 0; w < s->windows; w++) {
        int64_t totals[UNITS];
        int64_t *sums = sums_of(s, a) + w * UNITS;
        memcpy(totals, sums, sizeof totals);
        if (a->sliding && l->starts[w * UNITS + PATIENTS] < l->starts[w * UNITS + PATIENTS + 1]) window_totals(s, a, w, 0, totals, scratch);
        for (int u = 0; u < UNITS; u++) {
            uint32_t i = l->starts[w * UNITS + u], end = l->starts[w * UNITS + u + 1];
            if (i == end) continue;
            int64_t next = NO_ROOM_END;
            over |= totals[u] > l->values[i];
            while (i < end && totals[u] > l->values[i]) i++;
            if (i < end) next = l->values[i];
            if (totals[u] > l->values[l->starts[w * UNITS + u]]) {
                int64_t grown = totals[u] + totals[u] / GROW + 1;
                if (grown < next) next = grown;
            }
            int64_t room = next - totals[u];
            if (u == PATIENTS && a->sliding && room < totals[u] / 256) room = totals[u] / 256; /* finer than its error is no use */
            if (room < a->room[u]) a->room[u] = room;
        }
    }
    if (over) {
        a->flags |= OVER;
        a->recheck_ms = now + 1000;
    }
    return over;
}

static void limits_release(Store *s, uint32_t id) {
    if (!id || --s->limits[id].uses) return;
    free(s->limits[id].values);
    free(s->limits[id].starts);
    s->limits[id].values = NULL;
    s->limits[id].starts = NULL;
}

/* -- accounts ------------------------------------------------------------------------------------------------------- */

static inline uint64_t hash_bytes(const char *p, uint32_t length, uint64_t seed) {
    uint64_t h = seed ^ (length * 0x9E3779B97F4A7C15ull), x;
    while (length >= 8) {
        memcpy(&x, p, 8);
        h = (h ^ x) * 0xD6E8FEB86659FD93ull;
        h ^= h >> 32;
        p += 8;
        length -= 8;
    }
    x = 0;
    memcpy(&x, p, length);
    h = (h ^ x) * 0xD6E8FEB86659FD93ull;
    return mix64(h);
}

static int slots_grow(Store *s, uint32_t capacity) {
    uint64_t *made = calloc(capacity, sizeof *made);
    if (!made) return -1;
    for (uint32_t i = 0; i < s->next; i++) {
        Account *a = account_at(s, i);
        if (!(a->flags & USED)) continue;
        uint32_t at = (uint32_t)a->hash & (capacity - 1);
        while (made[at]) at = (at + 1) & (capacity - 1);
        made[at] = (a->hash & 0xFFFFFFFF00000000ull) | (i + 1);
    }
    free(s->slots);
    s->slots = made;
    s->slot_mask = capacity - 1;
    return 0;
}

/* Index of an account, or UINT32_MAX. */
static inline uint32_t find_account(const Store *s, const char *key, uint32_t length, uint64_t hash) {
    uint32_t at = (uint32_t)hash & s->slot_mask;
    for (uint64_t slot; (slot = s->slots[at]); at = (at + 1) & s->slot_mask) {
        if ((slot ^ hash) >> 32) continue;
        Account *a = account_at(s, (uint32_t)slot - 1);
        if (a->hash == hash && a->length == length && !memcmp(a->key, key, length)) return (uint32_t)slot - 1;
    }
    return UINT32_MAX;
}

static uint32_t make_account(Store *s, const char *key, uint32_t length, uint64_t hash) {
    if ((uint64_t)(s->accounts + 1) * 3 > (uint64_t)s->slot_mask * 2 && slots_grow(s, (s->slot_mask + 1) * 2)) goto failed;
    uint32_t i;
    if (s->free_count) i = s->free_list[--s->free_count];
    else {
        i = s->next;
        if (i / CHUNK == s->chunk_count) {
            char **chunks = realloc(s->chunks, (s->chunk_count + 1) * sizeof *chunks);
            if (!chunks) goto failed;
            s->chunks = chunks;
            if (!(chunks[s->chunk_count] = aligned_alloc(LINE, CHUNK * s->stride))) goto failed;
            memset(chunks[s->chunk_count], 0, CHUNK * s->stride);
            s->chunk_count++;
        }
        s->next++;
    }
    Account *a = account_at(s, i);
    memset(a, 0, s->stride);
    a->key = length < KEY_INLINE ? a->short_key : malloc(length + 1u);
    if (!a->key) goto failed;
    memcpy(a->key, key, length);
    a->key[length] = 0;
    a->length = length;
    a->hash = hash;
    a->hour = -1;
    a->generation = s->generation - 1;
    a->flags = USED;
    for (int u = 0; u < UNITS; u++) a->room[u] = NO_ROOM_END;
    for (int w = 0; w < s->windows; w++) heads(a)[w] = -1;
    uint32_t at = (uint32_t)hash & s->slot_mask;
    while (s->slots[at]) at = (at + 1) & s->slot_mask;
    s->slots[at] = (hash & 0xFFFFFFFF00000000ull) | (i + 1);
    s->accounts++;
    return i;
failed:
    s->failed = 1;
    return UINT32_MAX;
}

static void clear_windows(Store *s, Account *a) { /* what load replaces */
    for (int w = 0; w < s->windows; w++) {
        free(rings(s, a)[w].cells);
        rings(s, a)[w] = (Ring){0};
        heads(a)[w] = -1;
    }
    memset(sums_of(s, a), 0, sizeof(int64_t) * UNITS * (size_t)s->windows);
    exact_resize(&a->exact, 0, 0, 0);
    free(a->sliding);
    free(a->known);
    free(a->contributors);
    free(a->profile);
    a->sliding = NULL;
    a->known = NULL;
    a->contributors = NULL;
    a->profile = NULL;
    a->profile_length = 0;
    a->last_source = a->last_application = 0;
    a->newest_ms = 0;
    a->swept = 0;
    a->hour = -1;
}

static void drop_account(Store *s, uint32_t i) {
    Account *a = account_at(s, i);
    uint32_t at = (uint32_t)a->hash & s->slot_mask;
    while ((uint32_t)s->slots[at] != i + 1) at = (at + 1) & s->slot_mask;
    /* Backward shift: no tombstones. */
    for (uint32_t next = (at + 1) & s->slot_mask; s->slots[next]; next = (next + 1) & s->slot_mask) {
        uint32_t home = (uint32_t)account_at(s, (uint32_t)s->slots[next] - 1)->hash & s->slot_mask;
        if (((next - home) & s->slot_mask) >= ((next - at) & s->slot_mask)) {
            s->slots[at] = s->slots[next];
            at = next;
        }
    }
    s->slots[at] = 0;
    clear_windows(s, a);
    limits_release(s, a->limits);
    if (a->key != a->short_key) free(a->key);
    if (a->flags & DIRTY)
        for (uint32_t d = 0; d < s->dirty_count; d++)
            if (s->dirty[d] == i) s->dirty[d] = UINT32_MAX;
    memset(a, 0, sizeof *a);
    s->accounts--;
    if (s->free_count == s->free_capacity) {
        uint32_t capacity = s->free_capacity ? s->free_capacity * 2 : 64;
        uint32_t *grown = realloc(s->free_list, capacity * sizeof *grown);
        if (!grown) {
            s->failed = 1;
            return;
        }
        s->free_list = grown;
        s->free_capacity = capacity;
    }
    s->free_list[s->free_count++] = i;
}

static inline void mark_dirty(Store *s, Account *a, uint32_t i) {
    if (a->flags & DIRTY) return;
    if (s->dirty_count == s->dirty_capacity) {
        uint32_t capacity = s->dirty_capacity ? s->dirty_capacity * 2 : 1024;
        uint32_t *grown = realloc(s->dirty, capacity * sizeof *grown);
        if (!grown) {
            s->failed = 1;
            return;
        }
        s->dirty = grown;
        s->dirty_capacity = capacity;
    }
    a->flags |= DIRTY;
    s->dirty[s->dirty_count++] = i;
}

/* 1 when this hash was not among the known sources (or applications) of an account that knew some; it is now. */
static int first_seen(Store *s, Account *a, uint32_t hash, int application) {
    uint32_t *last = application ? &a->last_application : &a->last_source;
    if (*last == hash && a->known) return 0;
    *last = hash;
    Known *k = a->known;
    if (!k) {
        if (!(k = a->known = calloc(1, sizeof *k))) {
            s->failed = 1;
            return 0;
        }
    }
    uint32_t *list = k->hashes + application * KNOWN;
    uint8_t *count = application ? &k->applications : &k->sources;
    if (*count && list[0] == hash) return 0;
    for (int i = 1; i < *count; i++) {
        if (list[i] != hash) continue;
        memmove(list + 1, list, (size_t)i * sizeof *list); /* most recent first */
        list[0] = hash;
        return 0;
    }
    int known = *count;
    if (known < KNOWN) (*count)++;
    memmove(list + 1, list, (size_t)(*count - 1) * sizeof *list);
    list[0] = hash;
    return known > 0;
}

/* The accounts behind a source or shape: space-saving (Metwally 2005), where the smallest gives way. Once there are more than fit,
   who is new is looked at every eighth time only: so many accounts behind one value are an application server. */
static void contributed(Store *s, Account *a, uint32_t account, uint32_t hash, uint32_t patients) {
    if (!patients) return;
    if (!a->contributors && !(a->contributors = calloc(1, sizeof(Contributors)))) {
        s->failed = 1;
        return;
    }
    Contributors *c = a->contributors;
    int there = 0; /* nearly never, behind an application server: looked at in one sweep without a branch */
    for (int i = 0; i < CONTRIBUTORS; i++) there |= c->account[i] == account;
    for (int i = 0; there && i < CONTRIBUTORS; i++) {
        if (c->account[i] != account || c->hash[i] != hash || !c->count[i]) continue;
        if (c->count[i] < UINT32_MAX / 2) c->count[i] += patients;
        return;
    }
    if (c->count[CONTRIBUTORS - 1] && c->passed++ % 8) return;
    int least = 0;
    for (int i = 1; i < CONTRIBUTORS; i++)
        if (c->count[i] < c->count[least]) least = i;
    c->account[least] = account;
    c->hash[least] = hash;
    if (c->count[least] < UINT32_MAX / 2) c->count[least] += patients;
}

static void fade_contributors(Account *a, int64_t days) { /* those of today weigh more than those of yesterday */
    if (!a->contributors) return;
    for (int i = 0; i < CONTRIBUTORS; i++) a->contributors->count[i] >>= days > 31 ? 31 : days;
}

/* -- a store -------------------------------------------------------------------------------------------------------- */

static void store_free(Store *s) {
    for (uint32_t i = 0; i < s->next; i++)
        if (account_at(s, i)->flags & USED) {
            Account *a = account_at(s, i);
            clear_windows(s, a);
            if (a->key != a->short_key) free(a->key);
        }
    for (uint32_t i = 0; i < s->chunk_count; i++) free(s->chunks[i]);
    for (uint32_t i = 1; i < s->limits_count; i++) {
        free(s->limits[i].values);
        free(s->limits[i].starts);
    }
    free(s->chunks);
    free(s->free_list);
    free(s->slots);
    free(s->dirty);
    free(s->limits);
}

static int store_init(Store *s) { /* windows, slices, width, bounds and seed are set */
    s->time_ms = -1;
    for (int w = 0; w < s->windows; w++) {
        s->until[w] = s->from[w] = -1;
        if (s->width[w] > s->width[s->longest]) s->longest = w;
        if (s->width[w] < s->width[s->shortest]) s->shortest = w;
    }
    s->stride = (sizeof(Account) + (size_t)s->windows * (sizeof(int64_t) * (1 + UNITS) + sizeof(Ring)) + LINE - 1) / LINE * LINE;
    s->limits_count = s->limits_capacity = 1;
    s->generation = 1;
    s->limits = calloc(1, sizeof *s->limits);
    return s->limits && !slots_grow(s, 64) ? 0 : -1;
}

#endif
