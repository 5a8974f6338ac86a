/* An account as bytes, and back. Layout of version 2 (all numbers are LEB128 varints unless their size is given):

    account   key length, key, body length (uint32), body
    body      flags (1 byte: 1 sliding)  newest_ms  hour + 1
              sources n (1 byte), applications n (1 byte), their hashes (uint32 each)
              profile length, profile     contributors n, each: key length, key, count
              per window: cells n, each: age in slices (0: the open one), rows, patients, bytes, queries; newest first
              exact:   patients n, each: digest (uint64), age in ms
              sliding: p (1 byte), registers n, each: distance from the register before, maxima n (1 byte),
                       each: rank (1 byte), age in ms; newest first

Ages are counted back from newest_ms. What a body says is checked before the account is replaced. Windows other than the
store's (a policy that changed, an older version) are converted: each window takes the cells of the shortest old window that
is at least as long, at the end of their slices: too many, never too few. */
#ifndef EXFILGUARD_SNAPSHOT_H
#define EXFILGUARD_SNAPSHOT_H

#include "_store.h"

typedef struct { uint8_t *at; size_t length, capacity; int failed; } Out;
typedef struct { const uint8_t *p, *end; int bad; } In;

static inline void out_room(Out *o, size_t more) {
    if (o->length + more <= o->capacity) return;
    size_t capacity = (o->length + more) * 2 + 4096;
    uint8_t *grown = realloc(o->at, capacity);
    if (!grown) {
        o->failed = 1;
        o->length = 0;
        return;
    }
    o->at = grown;
    o->capacity = capacity;
}

static inline void put_varint(Out *o, uint64_t v) { /* room for 10 bytes was made */
    while (v >= 0x80) {
        o->at[o->length++] = (uint8_t)(v | 0x80);
        v >>= 7;
    }
    o->at[o->length++] = (uint8_t)v;
}

static inline void put_bytes(Out *o, const void *p, size_t length) {
    out_room(o, length + 10);
    if (o->failed) return;
    put_varint(o, length);
    if (length) memcpy(o->at + o->length, p, length);
    o->length += length;
}

static inline uint64_t varint(In *in) {
    uint64_t v = 0;
    for (int shift = 0; shift < 64 && in->p < in->end; shift += 7) {
        uint8_t c = *in->p++;
        v |= (uint64_t)(c & 0x7F) << shift;
        if (c < 0x80) return v;
    }
    in->bad = 1;
    return 0;
}

static inline const uint8_t *take(In *in, size_t length) {
    if ((size_t)(in->end - in->p) < length) {
        in->bad = 1;
        return NULL;
    }
    in->p += length;
    return in->p - length;
}

static inline uint8_t byte_of(In *in) {
    const uint8_t *at = take(in, 1);
    return at ? *at : 0;
}

/* -- out ------------------------------------------------------------------------------------------------------------ */

static void put_cell(Out *o, uint64_t age, const int64_t *u) {
    out_room(o, 50);
    if (o->failed) return;
    put_varint(o, age);
    for (int i = 0; i < UNITS; i++) put_varint(o, (uint64_t)u[i]);
}

static void dump_account(Store *s, Account *a, const Store *principals, Out *o) {
    put_bytes(o, a->key, a->length);
    out_room(o, 256 + (a->known ? 8 * KNOWN : 0));
    if (o->failed) return;
    size_t sized = o->length;
    o->length += 4;
    o->at[o->length++] = a->sliding ? 1 : 0;
    put_varint(o, (uint64_t)a->newest_ms);
    put_varint(o, (uint64_t)(a->hour + 1));
    int sources = a->known ? a->known->sources : 0, applications = a->known ? a->known->applications : 0;
    o->at[o->length++] = (uint8_t)sources;
    o->at[o->length++] = (uint8_t)applications;
    if (a->known) {
        memcpy(o->at + o->length, a->known->hashes, 4u * (size_t)sources);
        memcpy(o->at + o->length + 4 * sources, a->known->hashes + KNOWN, 4u * (size_t)applications);
        o->length += 4u * (size_t)(sources + applications);
    }
    put_bytes(o, a->profile, a->profile_length);
    out_room(o, 16);
    if (o->failed) return;
    size_t counted = o->length++;
    o->at[counted] = 0;
    if (a->contributors && principals)
        for (int i = 0; i < CONTRIBUTORS; i++) {
            Contributors *c = a->contributors;
            if (!c->count[i] || c->account[i] >= principals->next) continue;
            Account *who = account_at(principals, c->account[i]);
            if (!(who->flags & USED) || (uint32_t)(who->hash >> 32) != c->hash[i]) continue;
            put_bytes(o, who->key, who->length);
            out_room(o, 16);
            if (o->failed) return;
            put_varint(o, c->count[i]);
            o->at[counted]++;
        }
    for (int w = 0; w < s->windows; w++) {
        Ring *r = rings(s, a) + w;
        int64_t open[UNITS], head = heads(a)[w];
        ring_open(r, sums_of(s, a) + w * UNITS, open);
        int is_open = (open[0] | open[1] | open[2] | open[3]) != 0;
        out_room(o, 16);
        if (o->failed) return;
        put_varint(o, (uint64_t)(r->count + is_open));
        if (is_open) put_cell(o, 0, open);
        for (int i = r->count - 1; i >= 0; i--) {
            for (int u = 0; u < UNITS; u++) open[u] = cell_get(r, i, u);
            put_cell(o, (uint32_t)head - cell_slice(r, i), open);
            if (o->failed) return;
        }
    }
    if (a->sliding) {
        Sliding *h = a->sliding;
        out_room(o, 16);
        if (o->failed) return;
        o->at[o->length++] = h->p;
        size_t registers = (size_t)1 << h->p, used = 0, before = 0;
        for (size_t reg = 0; reg < registers; reg++) used += h->registers[reg].ranks[0] != 0;
        put_varint(o, used);
        for (size_t reg = 0; reg < registers; reg++) {
            const Register *r = h->registers + reg;
            int count = 0;
            while (count < HLL_KEPT && r->ranks[count]) count++;
            if (!count) continue;
            out_room(o, 16 + (size_t)count * 12);
            if (o->failed) return;
            put_varint(o, reg - before);
            before = reg;
            o->at[o->length++] = (uint8_t)count;
            for (int i = 0; i < count; i++) {
                o->at[o->length++] = r->ranks[i];
                put_varint(o, (uint32_t)((uint32_t)a->newest_ms - r->times[i]));
            }
        }
    } else {
        out_room(o, 16 + (size_t)a->exact.count * 13);
        if (o->failed) return;
        put_varint(o, a->exact.count);
        for (uint32_t i = 0; i < a->exact.capacity; i++) {
            const Place *place = a->exact.places + i;
            if (!place->digest) continue;
            memcpy(o->at + o->length, &place->digest, 8);
            o->length += 8;
            put_varint(o, (uint32_t)((uint32_t)a->newest_ms - place->time));
        }
    }
    uint32_t body = (uint32_t)(o->length - sized - 4);
    memcpy(o->at + sized, &body, 4);
}

/* -- in ------------------------------------------------------------------------------------------------------------- */

typedef struct { int windows, slices; int64_t width[MAX_WINDOWS]; } Shape;

/* A dumped contributor, if its account is there: the accounts' own records are loaded first. */
static void take_contributor(In *in, Account *a, Store *principals, int *slot) {
    uint64_t length = varint(in);
    const uint8_t *key = take(in, length);
    uint64_t count = varint(in);
    if (in->bad || !principals || *slot >= CONTRIBUTORS) return;
    uint64_t hash = hash_bytes((const char *)key, (uint32_t)length, principals->seed);
    uint32_t i = find_account(principals, (const char *)key, (uint32_t)length, hash);
    if (i == UINT32_MAX) return;
    if (!a->contributors && !(a->contributors = calloc(1, sizeof(Contributors)))) return;
    a->contributors->account[*slot] = i;
    a->contributors->hash[*slot] = (uint32_t)(hash >> 32);
    a->contributors->count[(*slot)++] = count > UINT32_MAX / 2 ? UINT32_MAX / 2 : (uint32_t)count;
}

static int put_at(Store *s, Account *a, int w, int64_t number, const int64_t *u) {
    int64_t head = heads(a)[w], *sums = sums_of(s, a) + w * UNITS;
    if (number < head - s->slices || !(u[0] | u[1] | u[2] | u[3])) return 0;
    if (number > head) number = head;
    int i = -1;
    if (number < head && (i = ring_cell(rings(s, a) + w, (uint32_t)number, s->slices, 1)) < 0) return -1;
    for (int k = 0; k < UNITS; k++) {
        if (!u[k]) continue;
        sums[k] += u[k];
        if (i >= 0 && cell_add(rings(s, a) + w, i, k, u[k])) return -1;
    }
    return 0;
}

/* Reads a body into `a`, an account of this store whose windows are clear. -1 when it is damaged (`a` is then void). */
static int load_body(Store *s, Account *a, Store *principals, const Shape *shape, const uint8_t *data, size_t length) {
    In in = {data, data + length, 0};
    int sliding = byte_of(&in), other = shape->windows != s->windows || shape->slices != s->slices;
    for (int w = 0; !other && w < s->windows; w++) other = shape->width[w] != s->width[w];
    if (sliding > 1) return -1;
    int64_t newest = a->newest_ms = (int64_t)varint(&in);
    if (newest < 0 || newest >= (int64_t)1 << 54) return -1;
    a->hour = (int64_t)varint(&in) - 1;
    if (a->hour < -1 || a->hour > newest / HOUR_MS + 1) return -1;
    int sources = byte_of(&in), applications = byte_of(&in);
    if (sources > KNOWN || applications > KNOWN) return -1;
    if (sources || applications) {
        const uint8_t *hashes = take(&in, 4u * (size_t)(sources + applications));
        if (!hashes || !(a->known = calloc(1, sizeof(Known)))) return -1;
        a->known->sources = (uint8_t)sources;
        a->known->applications = (uint8_t)applications;
        if (sources) memcpy(&a->last_source, hashes, 4);
        if (applications) memcpy(&a->last_application, hashes + 4 * sources, 4);
        memcpy(a->known->hashes, hashes, 4u * (size_t)sources);
        memcpy(a->known->hashes + KNOWN, hashes + 4 * sources, 4u * (size_t)applications);
    }
    uint64_t profile = varint(&in);
    const uint8_t *at = take(&in, profile);
    if (in.bad || profile > UINT32_MAX) return -1;
    if (profile) {
        if (!(a->profile = malloc(profile))) return -1;
        memcpy(a->profile, at, profile);
        a->profile_length = (uint32_t)profile;
    }
    int contributors = byte_of(&in), slot = 0;
    for (int i = 0; i < contributors && !in.bad; i++) take_contributor(&in, a, principals, &slot);
    if (in.bad) return -1;
    for (int w = 0; w < s->windows; w++) heads(a)[w] = newest * s->slices / s->width[w];
    a->swept = heads(a)[s->longest];

    /* Cells: kept aside until the patients are known, who must be taken out of them where the windows differ. */
    size_t total = 0, from[MAX_WINDOWS + 1];
    typedef struct { int64_t slice, u[UNITS], last; } Cell;
    Cell *cells = malloc(sizeof(Cell) * (size_t)shape->windows * (size_t)(shape->slices + 1));
    if (!cells) return -1;
    for (int w = 0; w < shape->windows; w++) {
        uint64_t count = varint(&in);
        int64_t head = newest * shape->slices / shape->width[w], before = -1;
        from[w] = total;
        if (in.bad || count > (uint64_t)shape->slices + 1) goto bad;
        for (uint64_t i = 0; i < count; i++) {
            int64_t age = (int64_t)varint(&in);
            if (in.bad || age <= before || age > shape->slices || age > head) goto bad;
            before = age;
            Cell *c = cells + total++;
            c->slice = head - age;
            c->last = ((c->slice + 1) * shape->width[w] + shape->slices - 1) / shape->slices - 1;
            for (int u = 0; u < UNITS; u++) {
                c->u[u] = (int64_t)varint(&in);
                if (c->u[u] < 0 || c->u[u] > SUM_FULL) goto bad;
            }
        }
    }
    from[shape->windows] = total;
    if (in.bad) goto bad;
    int longest = 0;
    for (int w = 1; w < shape->windows; w++)
        if (shape->width[w] > shape->width[longest]) longest = w;

    if (sliding) {
        int p = byte_of(&in);
        uint64_t used = varint(&in), reg = 0;
        if (in.bad || p < s->precision || p > 18 || used > (uint64_t)1 << p || !(a->sliding = hll_new(s->precision))) goto bad;
        int fold = p - s->precision; /* a finer sketch: its low register bits belong to the rank */
        for (uint64_t i = 0; i < used; i++) {
            uint64_t distance = varint(&in);
            int count = byte_of(&in);
            reg += distance;
            if (in.bad || (i && !distance) || reg >= (uint64_t)1 << p || !count || count > HLL_KEPT) goto bad;
            uint64_t age_before = 0;
            int rank_before = 0;
            for (int k = 0; k < count; k++) {
                int rank = byte_of(&in);
                uint64_t age = varint(&in);
                if (in.bad || rank < 1 || rank > 64 - p + 1 || age > UINT32_MAX || age < age_before || rank <= rank_before) goto bad;
                age_before = age;
                rank_before = rank;
                uint32_t low = (uint32_t)reg & ((1u << fold) - 1);
                uint8_t folded = (uint8_t)(low ? fold - (31 - __builtin_clz(low)) : fold + rank);
                hll_put(a->sliding, (uint32_t)(reg >> fold), folded, newest - (int64_t)age, newest);
            }
        }
    } else {
        uint64_t count = varint(&in);
        if (in.bad || count > (uint64_t)(in.end - in.p) / 9) goto bad;
        if (count && exact_resize(&a->exact, exact_capacity((uint32_t)count), newest, 0)) goto bad;
        int64_t reach = shape->width[longest] + shape->width[longest] / shape->slices + shape->width[longest] / 4 + 2;
        for (uint64_t i = 0; i < count; i++) {
            uint64_t digest, age;
            const uint8_t *raw = take(&in, 8);
            if (!raw) goto bad;
            memcpy(&digest, raw, 8);
            age = varint(&in);
            if (in.bad || !digest || age > (uint64_t)newest || (int64_t)age > reach || age > UINT32_MAX) goto bad;
            Place *place = a->exact.places + exact_find(&a->exact, digest);
            if (place->digest) goto bad;
            *place = (Place){digest, (uint32_t)newest - (uint32_t)age};
            a->exact.count++;
            int64_t t = newest - (int64_t)age;
            for (int w = 0; w < shape->windows; w++) { /* a digest's last sighting must find its slice when it moves on */
                int64_t number = t * shape->slices / shape->width[w];
                if (number < newest * shape->slices / shape->width[w] - shape->slices) continue;
                size_t k = from[w];
                while (k < from[w + 1] && cells[k].slice != number) k++;
                if (k == from[w + 1] || --cells[k].u[PATIENTS] < 0) goto bad;
            }
        }
    }
    if (in.p != in.end) goto bad;
    for (int w = 0; w < s->windows; w++) {
        int source = longest;
        for (int k = 0; k < shape->windows; k++)
            if (shape->width[k] >= s->width[w] && shape->width[k] < shape->width[source]) source = k;
        for (size_t k = from[source]; k < from[source + 1]; k++) {
            int64_t last = cells[k].last < newest ? cells[k].last : newest;
            if (put_at(s, a, w, other ? last * s->slices / s->width[w] : cells[k].slice, cells[k].u)) goto bad;
        }
    }
    for (uint32_t i = 0; i < a->exact.capacity; i++) {
        if (!a->exact.places[i].digest) continue;
        int64_t t = seen_at(a->exact.places[i].time, newest);
        for (int w = 0; w < s->windows; w++) count_patient(s, a, w, t * s->slices / s->width[w], 1);
    }
    free(cells);
    if (a->exact.count > s->max_patients && to_sliding(s, a)) return -1;
    return s->failed ? -1 : 0;
bad:
    free(cells);
    return -1;
}

#endif
