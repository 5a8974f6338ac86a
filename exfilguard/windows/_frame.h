/* A strict scanner for one frame of the queries topic (docs/EVENTS.md), and the loop that counts its events.

It reads exactly what sidecars write: the head in its order, events with known fields, each at most once, in any order, no
white space, strings without escapes, whole numbers. Whatever else comes (and everything wrong) is left to the decoder in
events/codec.py, which accepts it or names the fault: this one never refuses, it only says that it cannot. What it accepts the
decoder accepts too, with the same result (tests/windows/test_frame.py).

Nothing is counted before the whole frame was read. */
#ifndef EXFILGUARD_FRAME_H
#define EXFILGUARD_FRAME_H

#include <stddef.h>

#include "_store.h"
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#define COUNT_END ((int64_t)1 << 53)
#define NAME_BYTES 1000 /* events/codec.py has as many characters: a longer name is for the decoder to judge */
#define HASH_SEED 0x45F1D9E2B35C7A19ull /* of sources and applications: kept in snapshots, so it must not change */

enum { K_QUERY, K_PROGRESS, K_FINDING, K_OTHER };
enum { WHY_OVER = 1, WHY_HONEYTOKEN = 2, WHY_ASKED = 4, WHY_FLAGS = 8, WHY_FINDING = 16, WHY_SOURCE = 32, WHY_APPLICATION = 64 };

typedef struct { const char *at; uint32_t length; } Text;

typedef struct {
    int64_t time_ms; /* once counted: corrected */
    int64_t rows, hidden, bytes, estimated;
    int64_t delta[UNITS]; /* once counted */
    Text principal, source, application, fingerprint;
    uint32_t patients, patient_count, asked, asked_count; /* into Frame.digests */
    const char *start;
    uint32_t length;
    uint8_t kind, flagged, visible; /* visible: the patients come from an identifier column */
} Event;

typedef struct {
    Text tenant, sidecar, epoch;
    int64_t seq;
    Event *events;
    uint32_t count, capacity;
    uint64_t *digests;
    uint32_t digest_count, digest_capacity;
    const char *p, *end;
    unsigned char high; /* bits of every byte of every string: 0x80 set means that UTF-8 must be checked */
} Frame;

/* patients_by: an estimate or nothing is no identifier. */
static inline int is_visible(const Text *by) { return by->length && by->at[0] != 'e'; }

/* A statement that shows no identifier but asked for patients by theirs (a COUNT, an EXISTS, a file without its number) is about
   these: they count in place of digests of rows, where there are not fewer of them. */
static inline void about_whom(Event *e) {
    if (e->visible || !e->asked_count || e->asked_count < e->patient_count) return;
    e->patients = e->asked;
    e->patient_count = e->asked_count;
}

typedef struct { uint32_t account, event; uint8_t why; } Report;
typedef struct { uint32_t account; int64_t hour, totals[MAX_WINDOWS * UNITS]; } Hour; /* the windows at its end */

typedef struct {
    Report *reports, *single; /* accounts over a limit, once a frame; events that matter by themselves */
    uint32_t *fresh;          /* accounts whose limits must be asked for */
    Hour *hours;
    uint32_t report_count, single_count, fresh_count, hour_count, capacity, single_capacity;
    uint64_t future, jumped, counted;
} Outcome;

typedef struct { int64_t newest_ms, shift_ms; } SourceClock;

typedef struct { uint64_t *digests; uint32_t mask; } Tokens; /* open addressing; mask 0: none */

/* -- reading -------------------------------------------------------------------------------------------------------- */

/* A string's end (its closing quote), from behind the opening one; NULL when it is not simple. */
static inline const char *string_end(Frame *f, const char *p) {
#ifdef __SSE2__
    const __m128i quote = _mm_set1_epi8('"'), back = _mm_set1_epi8('\\'), space = _mm_set1_epi8(0x1F);
    while (p + 16 <= f->end) {
        __m128i v = _mm_loadu_si128((const __m128i *)p);
        __m128i odd = _mm_or_si128(_mm_or_si128(_mm_cmpeq_epi8(v, quote), _mm_cmpeq_epi8(v, back)), _mm_cmpeq_epi8(_mm_min_epu8(v, space), v));
        int found = _mm_movemask_epi8(odd), high = _mm_movemask_epi8(v);
        if (found) {
            int i = __builtin_ctz((unsigned)found);
            if (high & ((1 << i) - 1)) f->high = 0x80;
            return p[i] == '"' ? p + i : NULL;
        }
        if (high) f->high = 0x80;
        p += 16;
    }
#endif
    for (; p < f->end; p++) {
        unsigned char c = (unsigned char)*p;
        if (c == '"') return p;
        if (c == '\\' || c < 0x20) return NULL;
        f->high |= c & 0x80;
    }
    return NULL;
}

static inline int text(Frame *f, Text *out) {
    if (f->p >= f->end || *f->p != '"') return -1;
    const char *end = string_end(f, f->p + 1);
    if (!end) return -1;
    *out = (Text){f->p + 1, (uint32_t)(end - f->p - 1)};
    f->p = end + 1;
    return 0;
}

/* What something is counted under. */
static inline int name_of(Frame *f, Text *out) { return text(f, out) || out->length > NAME_BYTES ? -1 : 0; }

static inline int literal(Frame *f, const char *what, size_t length) {
    if ((size_t)(f->end - f->p) < length || memcmp(f->p, what, length)) return -1;
    f->p += length;
    return 0;
}
#define LITERAL(f, what) literal(f, what, sizeof(what) - 1)

static inline int number(Frame *f, int64_t *out) {
    const char *p = f->p, *start = p;
    int64_t value = 0;
    while (p < f->end && (unsigned char)(*p - '0') < 10) {
        if (p - start > 16) return -1;
        value = value * 10 + (*p++ - '0');
    }
    if (p == start || (*start == '0' && p - start > 1) || value >= COUNT_END) return -1;
    if (p >= f->end || (*p != ',' && *p != '}')) return -1; /* a fraction, an exponent .. */
    f->p = p;
    *out = value;
    return 0;
}

/* 16 hex digits. Eight at a time: a digit's low nibble, and 9 more for a letter. */
static inline int hex8(const char *p, uint64_t *out) {
    uint64_t x, letter, low;
    memcpy(&x, p, 8);
    const uint64_t ones = 0x0101010101010101ull;
    if (x & (0x80 * ones)) return -1;
    uint64_t lower = x | (0x20 * ones); /* digits are not changed by this, except 0x10..0x19, excluded below */
    uint64_t digit_ok = ((x + (0x80 - '0') * ones) & ~(x + (0x80 - '9' - 1) * ones)) & (0x80 * ones);
    letter = ((lower + (0x80 - 'a') * ones) & ~(lower + (0x80 - 'f' - 1) * ones)) & (x << 1) & (0x80 * ones);
    if ((digit_ok | letter) != 0x80 * ones) return -1;
    low = (x & (0x0F * ones)) + (letter >> 7) * 9;
    low = __builtin_bswap64(low);
    low = (low & 0x000F000F000F000Full) | ((low & 0x0F000F000F000F00ull) >> 4);
    low = (low & 0x000000FF000000FFull) | ((low & 0x00FF000000FF0000ull) >> 8);
    *out = (low & 0xFFFF) | ((low >> 16) & 0xFFFF0000ull);
    return 0;
}

static inline int hex16(const char *p, uint64_t *out) {
    uint64_t high, low;
    if (hex8(p, &high) || hex8(p + 8, &low)) return -1;
    *out = high << 32 | low;
    return 0;
}

static inline int room_for_digest(Frame *f) {
    if (f->digest_count < f->digest_capacity) return 0;
    uint32_t capacity = f->digest_capacity ? f->digest_capacity * 2 : 1024;
    uint64_t *grown = realloc(f->digests, capacity * sizeof *grown);
    if (!grown) return -1;
    f->digests = grown;
    f->digest_capacity = capacity;
    return 0;
}

static int digests(Frame *f, uint32_t *first, uint32_t *count) {
    if (LITERAL(f, "[")) return -1;
    *first = f->digest_count;
    if (f->p < f->end && *f->p == ']') {
        f->p++;
        return 0;
    }
    do {
        if (f->end - f->p < 19 || f->p[0] != '"' || f->p[17] != '"' || room_for_digest(f)) return -1;
        if (hex16(f->p + 1, f->digests + f->digest_count)) return -1;
        f->digest_count++;
        f->p += 19;
    } while (f->p[-1] == ',');
    *count = f->digest_count - *first;
    return f->p[-1] == ']' ? 0 : -1;
}

static int texts(Frame *f, uint8_t *any) {
    Text ignored;
    if (LITERAL(f, "[")) return -1;
    if (f->p < f->end && *f->p == ']') {
        f->p++;
        return 0;
    }
    do {
        if (text(f, &ignored) || f->p >= f->end) return -1;
        f->p++;
    } while (f->p[-1] == ',');
    *any = 1;
    return f->p[-1] == ']' ? 0 : -1;
}

static inline int same(const Text *t, const char *what, size_t length) { return t->length == length && !memcmp(t->at, what, length); }
#define SAME(t, what) same(t, what, sizeof(what) - 1)
#define FIELD(length, first) ((length) << 8 | (first))
/* A field's name was recognised by its length and first letter; the rest must agree, and it must be the first of its name. */
#define IS(what, bit) if (memcmp(name, what, sizeof(what) - 1) || (seen & (1u << (bit)))) return -1; seen |= 1u << (bit)

static int kind_of(const Text *t) {
    if (SAME(t, "query")) return K_QUERY;
    if (SAME(t, "progress")) return K_PROGRESS;
    if (SAME(t, "finding")) return K_FINDING;
    if (SAME(t, "login") || SAME(t, "login_failed") || SAME(t, "logout") || SAME(t, "refused") || SAME(t, "desynced") || SAME(t, "gap")) return K_OTHER;
    return -1;
}

static int event(Frame *f, Event *e) {
    memset(e, 0, sizeof *e);
    e->start = f->p;
    if (LITERAL(f, "{")) return -1;
    uint32_t seen = 0;
    Text value;
    int64_t count;
    uint8_t ignored = 0;
    do {
        if (f->p >= f->end || *f->p != '"') return -1;
        const char *name = ++f->p;
        while (f->p < f->end && *f->p != '"') f->p++;
        size_t length = (size_t)(f->p - name);
        if (f->end - f->p < 3 || f->p[1] != ':' || length > 18) return -1;
        f->p += 2;
        switch (FIELD(length, name[0])) {
        case FIELD(7, 't'): IS("time_ms", 0); if (number(f, &e->time_ms)) return -1; break;
        case FIELD(4, 'k'): {
            IS("kind", 1);
            if (text(f, &value)) return -1;
            int kind = kind_of(&value);
            if (kind < 0) return -1;
            e->kind = (uint8_t)kind;
            break;
        }
        case FIELD(8, 'l'): IS("listener", 2); if (text(f, &value) || !value.length) return -1; break;
        case FIELD(7, 's'): IS("session", 3); if (text(f, &value) || !value.length) return -1; break;
        case FIELD(9, 'p'): IS("principal", 4); if (name_of(f, &e->principal) || !e->principal.length) return -1; break;
        case FIELD(8, 'e'): IS("evidence", 5); if (text(f, &value)) return -1; break;
        case FIELD(6, 'e'): IS("engine", 6); if (text(f, &value)) return -1; break;
        case FIELD(5, 'l'): IS("login", 7); if (text(f, &value)) return -1; break;
        case FIELD(8, 'd'): IS("database", 8); if (text(f, &value)) return -1; break;
        case FIELD(6, 's'): IS("source", 9); if (name_of(f, &e->source)) return -1; break;
        case FIELD(11, 'a'): IS("application", 10); if (text(f, &e->application)) return -1; break;
        case FIELD(9, 's'): IS("statement", 11); if (number(f, &count)) return -1; break;
        case FIELD(11, 'f'): IS("fingerprint", 12); if (name_of(f, &e->fingerprint)) return -1; break;
        case FIELD(5, 'q'): IS("query", 13); if (text(f, &value)) return -1; break;
        case FIELD(7, 'c'): IS("columns", 14); if (texts(f, &ignored)) return -1; break;
        case FIELD(4, 'r'): IS("rows", 15); if (number(f, &e->rows)) return -1; break;
        case FIELD(11, 'h'): IS("hidden_rows", 16); if (number(f, &e->hidden)) return -1; break;
        case FIELD(5, 'b'): IS("bytes", 17); if (number(f, &e->bytes)) return -1; break;
        case FIELD(8, 'p'): IS("patients", 18); if (digests(f, &e->patients, &e->patient_count)) return -1; break;
        case FIELD(18, 'p'): IS("patients_estimated", 19); if (number(f, &e->estimated)) return -1; break;
        case FIELD(11, 'p'): IS("patients_by", 20); if (text(f, &value)) return -1; e->visible = is_visible(&value); break;
        case FIELD(5, 'a'): IS("asked", 21); if (digests(f, &e->asked, &e->asked_count)) return -1; break;
        case FIELD(5, 'f'): IS("flags", 22); if (texts(f, &e->flagged)) return -1; break;
        case FIELD(11, 'd'): IS("duration_us", 23); if (number(f, &count)) return -1; break;
        case FIELD(5, 'e'): IS("error", 24); if (text(f, &value)) return -1; break;
        case FIELD(6, 'd'): IS("detail", 25); if (text(f, &value)) return -1; break;
        default: return -1;
        }
        if (f->p >= f->end) return -1;
    } while (*f->p++ == ',');
    if (f->p[-1] != '}' || (seen & 31) != 31) return -1;
    e->length = (uint32_t)(f->p - e->start);
    return 0;
}

/* Unicode 15, table 3-7: no overlong forms, no surrogates, nothing beyond U+10FFFF. */
static int valid_utf8(const unsigned char *p, const unsigned char *end) {
    while (p < end) {
        unsigned char c = *p++;
        if (c < 0x80) continue;
        int more = c >= 0xF0 ? 3 : c >= 0xE0 ? 2 : 1;
        if (c < 0xC2 || c > 0xF4 || end - p < more) return 0;
        if ((c == 0xE0 && p[0] < 0xA0) || (c == 0xED && p[0] > 0x9F) || (c == 0xF0 && p[0] < 0x90) || (c == 0xF4 && p[0] > 0x8F)) return 0;
        for (; more; more--, p++)
            if ((*p & 0xC0) != 0x80) return 0;
    }
    return 1;
}

static Event *next_event(Frame *f) {
    if (f->count == f->capacity) {
        uint32_t capacity = f->capacity ? f->capacity * 2 : 512;
        Event *grown = realloc(f->events, capacity * sizeof *grown);
        if (!grown) return NULL;
        f->events = grown;
        f->capacity = capacity;
    }
    return f->events + f->count;
}

/* 0 when the frame was read, -1 when it must go to the decoder. */
static int read_frame(Frame *f, const char *data, size_t length) {
    f->p = data;
    f->end = data + length;
    f->count = f->digest_count = 0;
    f->high = 0;
    if (LITERAL(f, "{\"v\":1,\"tenant\":") || name_of(f, &f->tenant) || LITERAL(f, ",\"sidecar\":") || name_of(f, &f->sidecar) ||
        LITERAL(f, ",\"epoch\":") || name_of(f, &f->epoch) || LITERAL(f, ",\"seq\":") || number(f, &f->seq) || LITERAL(f, ",\"events\":["))
        return -1;
    if (!f->tenant.length || !f->sidecar.length || !f->epoch.length) return -1;
    if (f->p < f->end && *f->p == ']') f->p++;
    else
        do {
            Event *e = next_event(f);
            if (!e || event(f, e) || f->p >= f->end) return -1;
            f->count++;
        } while (*f->p++ == ',');
    if (f->p[-1] != ']' || f->end - f->p != 1 || *f->p != '}') return -1;
    if (f->high && !valid_utf8((const unsigned char *)data, (const unsigned char *)f->end)) return -1;
    return 0;
}

/* -- counting ------------------------------------------------------------------------------------------------------- */

static int room_for_outcome(Outcome *o, uint32_t events) {
    if (o->capacity < events) {
        uint32_t capacity = events + 512;
        void *a = realloc(o->reports, capacity * sizeof *o->reports), *b, *c, *d;
        if (a) o->reports = a;
        if ((b = realloc(o->fresh, capacity * sizeof *o->fresh))) o->fresh = b;
        if ((c = realloc(o->hours, capacity * sizeof *o->hours))) o->hours = c;
        if ((d = realloc(o->single, capacity * sizeof *o->single))) o->single = d;
        if (!a || !b || !c || !d) return -1;
        o->capacity = capacity;
    }
    o->report_count = o->single_count = o->fresh_count = o->hour_count = 0;
    return 0;
}

static inline int is_token(const Tokens *t, uint64_t digest) {
    if (!digest) digest = ZERO_DIGEST;
    uint32_t at = (uint32_t)mix64(digest) & t->mask;
    for (; t->digests[at]; at = (at + 1) & t->mask)
        if (t->digests[at] == digest) return 1;
    return 0;
}

/* A sidecar's clock. An event further ahead than `ahead_ms` is counted as of now: it must not wipe the windows. A clock that
   was set back by more than `back_ms` goes on from where it stood: its events would else be in no short window. */
static inline int64_t corrected(SourceClock *c, Outcome *o, int64_t t, int64_t now, int64_t ahead_ms, int64_t back_ms) {
    int64_t at = t + c->shift_ms;
    if (at > now + ahead_ms && c->shift_ms > 0) {
        c->shift_ms = 0;
        at = t;
    }
    if (at > now + ahead_ms) {
        o->future++;
        return now;
    }
    if (at < c->newest_ms - back_ms) {
        o->jumped++;
        c->shift_ms += c->newest_ms - at;
        at = c->newest_ms;
    }
    if (at > c->newest_ms) c->newest_ms = at;
    return at;
}

static inline int64_t limited(int64_t value) { return value > DELTA_MAX ? DELTA_MAX : value; }

typedef struct {
    char *at;
    size_t capacity;
} KeyBuffer;

/* Hash of "tenant/name", as of the whole key. */
static uint64_t key_hash(Store *s, KeyBuffer *b, const Text *tenant, const Text *name) {
    size_t length = (size_t)tenant->length + 1 + name->length;
    if (length > b->capacity) {
        char *grown = realloc(b->at, length * 2);
        if (!grown) {
            s->failed = 1;
            return 0;
        }
        b->at = grown;
        b->capacity = length * 2;
    }
    memcpy(b->at, tenant->at, tenant->length);
    b->at[tenant->length] = '/';
    if (name->length) memcpy(b->at + tenant->length + 1, name->at, name->length);
    return hash_bytes(b->at, (uint32_t)length, s->seed);
}

/* The account of this key, made when it is new; UINT32_MAX without memory. */
static uint32_t account_of(Store *s, KeyBuffer *b, const Text *tenant, const Text *name, uint64_t hash) {
    uint32_t at = (uint32_t)hash & s->slot_mask, length = tenant->length + 1 + name->length;
    for (uint64_t slot; (slot = s->slots[at]); at = (at + 1) & s->slot_mask) {
        if ((slot ^ hash) >> 32) continue;
        Account *a = account_at(s, (uint32_t)slot - 1);
        if (a->hash == hash && a->length == length && !memcmp(a->key, tenant->at, tenant->length) && a->key[tenant->length] == '/' &&
            (!name->length || !memcmp(a->key + tenant->length + 1, name->at, name->length)))
            return (uint32_t)slot - 1;
    }
    static const Text others = {"(others)", 8};
    if (s->accounts >= s->max_accounts && !same(name, others.at, others.length)) {
        s->refused++; /* a flood of names: counted together, and alarmed */
        return account_of(s, b, tenant, &others, key_hash(s, b, tenant, &others));
    }
    if (key_hash(s, b, tenant, name) != hash) return UINT32_MAX;
    return make_account(s, b->at, length, hash);
}

static void close_hour(Store *s, Account *a, uint32_t i, int64_t hour, Outcome *o, uint8_t *scratch) {
    if (a->hour >= 0) {
        Hour *h = o->hours + o->hour_count++;
        h->account = i;
        h->hour = a->hour;
        for (int w = 0; w < s->windows; w++) window_totals(s, a, w, (a->hour + 1) * HOUR_MS - 1, h->totals + w * UNITS, scratch);
    }
    a->hour = hour;
}

/* Sums of one source, shape or tenant within one frame: its windows are touched once for many events of the same slices. */
typedef struct {
    uint64_t hash;
    uint32_t account;
    int64_t from, until, time_ms, delta[UNITS];
} Pending;
#define PENDING 64

typedef struct {
    uint32_t *numbers, *due; /* the sums that patients came to since the last look, each once; those to be looked at, of the same room */
    uint32_t count, due_count, capacity;
    int fewest, most;        /* accounts behind a sum */
    int64_t floors[MAX_WINDOWS * UNITS];
} Followed;

typedef struct {
    Store *accounts, *sources, *shapes, *tenants; /* the last three may be NULL */
    KeyBuffer key;
    uint64_t *hashes;  /* of the frame's principals */
    uint32_t *guesses; /* which account it will be, as far as its hash says */
    Tokens tokens;
    Outcome out;
    uint8_t *scratch; /* 2^precision */
    int64_t ahead_ms, back_ms;
    uint32_t room; /* of hashes and guesses */
    uint32_t look_patients; /* a look at a sum is due after so many, or after look_ms, but not within least_ms; 0: sums are not followed */
    int64_t least_ms, look_ms;
    Followed followed[2]; /* of sources, of shapes */
    Pending pending[3][PENDING];
} Counter;

static void settle(Store *s, Pending *p) {
    if (!p->hash) return;
    account_add(s, account_at(s, p->account), p->time_ms, p->delta, NULL, 0);
    p->hash = 0;
}

static void follow(Store *s, Followed *f, Account *a, uint32_t number, int64_t patients) {
    a->pending = patients < UINT32_MAX - a->pending ? a->pending + (uint32_t)patients : UINT32_MAX;
    if (a->flags & MOVED) return;
    if (f->count == f->capacity) {
        uint32_t capacity = f->capacity ? f->capacity * 2 : 256;
        uint32_t *grown = realloc(f->numbers, capacity * sizeof *grown), *due;
        if (grown) f->numbers = grown;
        if (!grown || !(due = realloc(f->due, capacity * sizeof *due))) {
            s->failed = 1;
            return;
        }
        f->due = due;
        f->capacity = capacity;
    }
    a->flags |= MOVED;
    f->numbers[f->count++] = number;
}

/* `dimension`: 0 sources, 1 shapes, whose accounts are remembered; 2 tenants. */
static void count_sum(Counter *c, Store *s, Pending *pending, const Text *tenant, const Text *value, uint64_t hash, uint32_t account, int64_t offset, const Event *e, const uint64_t *seen, int dimension) {
    Pending *p = pending + (hash >> 8) % PENDING;
    const int64_t t = e->time_ms;
    if (p->hash != (hash | 1) || t < p->from || t >= p->until) {
        settle(s, p);
        uint32_t i = account_of(s, &c->key, tenant, value, hash);
        if (i == UINT32_MAX) return;
        Account *a = account_at(s, i);
        if (offset < a->applied) return;
        slices_of(s, t);
        *p = (Pending){hash | 1, i, s->from[0], s->until[0], t, {0}};
        for (int w = 1; w < s->windows; w++) {
            if (s->from[w] > p->from) p->from = s->from[w];
            if (s->until[w] < p->until) p->until = s->until[w];
        }
        account_add(s, a, t, p->delta, NULL, 0); /* the windows move on now: the patients below need them there */
        mark_dirty(s, a, i);
        if (t / DAY_MS > a->hour) {
            fade_contributors(a, a->hour < 0 ? 0 : t / DAY_MS - a->hour);
            a->hour = t / DAY_MS;
        }
    }
    Account *a = account_at(s, p->account);
    if (t > a->newest_ms) a->newest_ms = t;
    if (t > p->time_ms) p->time_ms = t;
    for (int u = 0; u < UNITS; u++) p->delta[u] += e->delta[u];
    if (e->patient_count) {
        slices_of(s, t);
        if (s->number[s->longest] >= heads(a)[s->longest] - s->slices)
            for (uint32_t k = 0; k < e->patient_count; k++) see_patient(s, a, seen[k], t);
    }
    if (dimension < 2) {
        int64_t patients = e->delta[PATIENTS] + e->patient_count;
        if (c->look_patients && patients) follow(s, c->followed + dimension, a, p->account, patients);
        contributed(s, a, account, (uint32_t)(account_at(c->accounts, account)->hash >> 32), patients > 0xFFFF ? 0xFFFF : (uint32_t)patients);
    }
}

/* The account whose hash looks like this one, for prefetching. */
static inline uint32_t guess(const Store *s, uint64_t hash) {
    uint32_t at = (uint32_t)hash & s->slot_mask;
    for (int tries = 0; tries < 4 && s->slots[at]; tries++, at = (at + 1) & s->slot_mask)
        if (!((s->slots[at] ^ hash) >> 32)) return (uint32_t)s->slots[at] - 1;
    return UINT32_MAX;
}

/* Memory is asked for ahead of its use: an account is a dozen cache lines, and few of a large installation's are in the cache. */
/* GCC takes a function that only prefetches for one without effect, and leaves its calls out. */
#define ALWAYS inline __attribute__((always_inline))
#define FAR 12
#define NEAR 6
#define SUM_NEAR 12
static ALWAYS void fetch_far(Counter *c, const Frame *f, uint32_t n) {
    if (n >= f->count) return;
    Store *s = c->accounts;
    uint32_t i = c->guesses[n] = f->events[n].kind <= K_PROGRESS ? guess(s, c->hashes[n]) : UINT32_MAX;
    if (i == UINT32_MAX) return;
    const char *a = (const char *)account_at(s, i), *end = (const char *)rings(s, account_at(s, i));
    for (; a < end; a += LINE) __builtin_prefetch(a, 1);
}

static ALWAYS void fetch_patient(const Account *a, uint64_t digest) {
    if (a->sliding) {
        uint32_t reg;
        uint8_t rank;
        hll_place(digest, a->sliding->p, &reg, &rank);
        __builtin_prefetch(a->sliding->registers + reg, 1);
        __builtin_prefetch((const char *)(a->sliding->registers + reg + 1) - 1, 1);
    } else if (a->exact.capacity) __builtin_prefetch(a->exact.places + ((uint32_t)mix64(digest) & (a->exact.capacity - 1)), 1);
}

static ALWAYS void fetch_near(Counter *c, const Frame *f, uint32_t n) {
    if (n >= f->count || c->guesses[n] == UINT32_MAX || !f->events[n].patient_count) return;
    fetch_patient(account_at(c->accounts, c->guesses[n]), f->digests[f->events[n].patients]);
}

/* The sums of one dimension over a frame whose events were counted; c->guesses holds their accounts. */
static void count_sums(Counter *c, Store *s, Pending *pending, const Frame *f, size_t value, int64_t offset, int dimension) {
    static const Text none = {"", 0};
    Account *last = NULL;
    for (uint32_t n = 0; n < f->count + SUM_NEAR; n++) {
        if (n < f->count && c->guesses[n] != UINT32_MAX) {
            const Text *v = value ? (const Text *)((const char *)(f->events + n) + value) : &none;
            if (value && !v->length) c->hashes[n] = 0;
            else {
                if (value || !n) c->hashes[n] = key_hash(s, &c->key, &f->tenant, v);
                else c->hashes[n] = c->hashes[0];
                if (f->events[n].patient_count) {
                    Pending *p = pending + (c->hashes[n] >> 8) % PENDING;
                    if (p->hash == (c->hashes[n] | 1)) last = account_at(s, p->account);
                    else {
                        uint32_t i = guess(s, c->hashes[n]);
                        last = i == UINT32_MAX ? NULL : account_at(s, i);
                    }
                    if (last) fetch_patient(last, f->digests[f->events[n].patients]);
                }
            }
        }
        if (n < SUM_NEAR || c->guesses[n - SUM_NEAR] == UINT32_MAX) continue;
        const Event *e = f->events + n - SUM_NEAR;
        const Text *v = value ? (const Text *)((const char *)e + value) : &none;
        if (!value || v->length) count_sum(c, s, pending, &f->tenant, v, c->hashes[n - SUM_NEAR], c->guesses[n - SUM_NEAR], offset, e, f->digests + e->patients, dimension);
    }
    for (int p = 0; p < PENDING; p++) settle(s, pending + p);
}

/* Counts a frame that was read. `offset`: of its record. 0, or -1 without memory. */
static int count_frame(Counter *c, Frame *f, int64_t offset, int64_t now, SourceClock *clock) {
    Store *s = c->accounts;
    Outcome *o = &c->out;
    Store *const sums[3] = {c->sources, c->shapes, c->tenants};
    if (room_for_outcome(o, f->count)) return -1;
    if (c->room < f->count) {
        void *a = realloc(c->hashes, f->count * sizeof *c->hashes), *b;
        if (a) c->hashes = a;
        if ((b = realloc(c->guesses, f->count * sizeof *c->guesses))) c->guesses = b;
        if (!a || !b) return -1;
        c->room = f->count;
    }
    for (uint32_t n = 0; n < f->count; n++) {
        if (f->events[n].kind > K_PROGRESS) continue;
        c->hashes[n] = key_hash(s, &c->key, &f->tenant, &f->events[n].principal);
        __builtin_prefetch(s->slots + ((uint32_t)c->hashes[n] & s->slot_mask));
    }
    for (uint32_t n = 0; n < FAR; n++) fetch_far(c, f, n);
    for (uint32_t n = 0; n < NEAR; n++) fetch_near(c, f, n);
    for (uint32_t n = 0; n < f->count; n++) {
        fetch_far(c, f, n + FAR);
        fetch_near(c, f, n + NEAR);
        Event *e = f->events + n;
        uint8_t why = (e->kind == K_FINDING ? WHY_FINDING : 0) | (e->flagged ? WHY_FLAGS : 0);
        if (c->tokens.mask) {
            for (uint32_t i = 0; i < e->patient_count; i++) why |= is_token(&c->tokens, f->digests[e->patients + i]) ? WHY_HONEYTOKEN : 0;
            for (uint32_t i = 0; i < e->asked_count; i++) why |= is_token(&c->tokens, f->digests[e->asked + i]) ? WHY_ASKED : 0;
        }
        about_whom(e);
        const uint64_t *seen = f->digests + e->patients;
        int64_t t = corrected(clock, o, e->time_ms, now, c->ahead_ms, c->back_ms);
        if (e->kind > K_PROGRESS) {
            if (why) o->single[o->single_count++] = (Report){UINT32_MAX, n, why};
            continue;
        }
        uint32_t i = account_of(s, &c->key, &f->tenant, &e->principal, c->hashes[n]);
        if (i == UINT32_MAX) return -1;
        Account *a = account_at(s, i);
        e->delta[ROWS] = limited(limited(e->rows) + limited(e->hidden));
        e->delta[PATIENTS] = limited(e->estimated);
        e->delta[BYTES] = limited(e->bytes);
        e->delta[QUERIES] = e->kind == K_QUERY;
        e->time_ms = t;
        c->guesses[n] = i;
        if (offset >= a->applied) { /* else it is in here already, by an interrupted checkpoint */
            o->counted++;
            if (a->generation != s->generation) {
                a->generation = s->generation;
                o->fresh[o->fresh_count++] = i;
            }
            int64_t hour = t / HOUR_MS;
            if (hour > a->hour) close_hour(s, a, i, hour, o, c->scratch);
            int used = account_add(s, a, t, e->delta, seen, e->patient_count);
            mark_dirty(s, a, i);
            if (used > 0 || ((a->flags & OVER) && now >= a->recheck_ms)) {
                if (check_limits(s, a, now, c->scratch) && !(a->flags & REPORTED)) {
                    a->flags |= REPORTED;
                    o->reports[o->report_count++] = (Report){i, n, WHY_OVER};
                }
            }
            if (e->source.length && first_seen(s, a, (uint32_t)hash_bytes(e->source.at, e->source.length, HASH_SEED), 0)) why |= WHY_SOURCE;
            if (e->application.length && first_seen(s, a, (uint32_t)hash_bytes(e->application.at, e->application.length, HASH_SEED), 1)) why |= WHY_APPLICATION;
            if (why) o->single[o->single_count++] = (Report){i, n, why};
        }
    }
    int failed = s->failed;
    const size_t values[3] = {offsetof(Event, source), offsetof(Event, fingerprint), 0};
    for (int k = 0; k < 3; k++) {
        if (!sums[k]) continue;
        count_sums(c, sums[k], c->pending[k], f, values[k], offset, k);
        failed |= sums[k]->failed;
    }
    for (uint32_t r = 0; r < o->report_count; r++) account_at(s, o->reports[r].account)->flags &= (uint8_t)~REPORTED;
    return failed ? -1 : 0;
}

/* -- sums that are followed, and frames that are many -------------------------------------------------------------------- */

/* How many accounts are remembered behind a sum. */
static int behind(const Store *accounts, const Account *a) {
    int found = 0;
    for (int n = 0; a->contributors && n < CONTRIBUTORS; n++) {
        if (!a->contributors->count[n] || a->contributors->account[n] >= accounts->next) continue;
        const Account *who = account_at(accounts, a->contributors->account[n]);
        found += (who->flags & USED) && (uint32_t)(who->hash >> 32) == a->contributors->hash[n];
    }
    return found;
}

/* 1 when the sum can say something. It counts as looked at. */
static int looked(const Counter *c, Store *s, const Followed *f, Account *a, int64_t now, uint8_t *scratch) {
    int people = behind(c->accounts, a), says = 0;
    if (f->fewest <= people && people <= f->most) says = beyond_floors(s, a, f->floors, scratch);
    else a->spare = 0; /* nobody has looked: when it can say something again, it is read anew */
    a->pending = 0;
    a->recheck_ms = now;
    return says;
}

/* Of the sums that moved: those that a look is due and that can say something into f->due. */
static void look(Counter *c, Store *s, Followed *f, int64_t now, uint8_t *scratch) {
    f->due_count = 0;
    for (uint32_t n = 0; n < f->count; n++) {
        Account *a = account_at(s, f->numbers[n]);
        if (!(a->flags & USED)) continue;
        a->flags &= (uint8_t)~MOVED;
        int64_t since = now - a->recheck_ms;
        if (since < c->least_ms || (a->pending < c->look_patients && since < c->look_ms)) continue;
        if (looked(c, s, f, a, now, scratch)) f->due[f->due_count++] = f->numbers[n];
    }
    f->count = 0;
}

typedef struct { uint32_t from, to, frames; int64_t now; } Run; /* the last frame's events, and how many frames there were */

/* Counts the events from `start` on as frames of their own, each with at most `most` events and less than `span_ms`, where `now` is the
   time of its last event. Stops behind the frame in which something came up, a sum is to be looked at, or `until` was reached. */
static int count_run(Counter *c, Frame *f, uint32_t start, int64_t span_ms, uint32_t most, int64_t until, int64_t offset, SourceClock *clock, Run *run) {
    Store *const sums[2] = {c->sources, c->shapes};
    *run = (Run){start, start, 0, 0};
    while (run->to < f->count) {
        uint32_t a = run->to, b = a + 1;
        while (b < f->count && b - a < most && f->events[b].time_ms >= f->events[a].time_ms && f->events[b].time_ms - f->events[a].time_ms < span_ms) b++;
        Frame part = *f;
        part.events += a;
        part.count = b - a;
        run->from = a;
        run->to = b;
        run->frames++;
        run->now = f->events[b - 1].time_ms;
        if (count_frame(c, &part, offset, run->now, clock)) return -1;
        int stop = run->now >= until || c->out.fresh_count || c->out.hour_count || c->out.report_count || c->out.single_count;
        for (int k = 0; c->look_patients && k < 2; k++) {
            if (!sums[k]) continue;
            look(c, sums[k], c->followed + k, run->now, c->scratch);
            stop |= c->followed[k].due_count > 0;
        }
        if (stop) break;
    }
    return 0;
}

#endif
