# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""words.py in one pass over the bytes, however many words there are: Aho and Corasick's automaton, with all its ways worked out."""

from collections import deque

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc, free

from ._chars cimport KINDS, WORD


cdef class Words:
    """words.PlainWords."""

    def __cinit__(self):
        self._next = self._ends = self._sizes = NULL

    def __init__(self, words):
        cdef bytes low
        cdef Py_ssize_t state, following, kind, at = 1
        names = {word.encode().lower(): word for word in words}
        names.pop(b"", None)
        self.least = min(map(len, names), default=0)
        kinds = {c: n for n, c in enumerate(sorted({c for low in names for c in low}), 1)}
        for c, kind in kinds.items():
            self._kinds[c] = kind
            if 97 <= c <= 122:
                self._kinds[c - 32] = kind
        self._width = len(kinds) + 1
        trie, ends = [{}], [set()]
        for low, word in names.items():
            state = 0
            for c in low:
                following = trie[state].setdefault(kinds[c], len(trie))
                if following == len(trie):
                    trie.append({})
                    ends.append(set())
                state = following
            ends[state].add(low)
        self._free()
        self._next = <uint32_t *>calloc(len(trie) * self._width, sizeof(uint32_t))
        self._ends = <uint32_t *>calloc(len(trie), sizeof(uint32_t))
        if self._next == NULL or self._ends == NULL:
            raise MemoryError
        back = [0] * len(trie)
        queue = deque([0])
        while queue:
            state = queue.popleft()
            for kind in range(1, self._width):
                otherwise = self._next[<Py_ssize_t>back[state] * self._width + kind] if state else 0
                following = trie[state].get(kind, -1)
                if following >= 0:
                    back[following] = otherwise
                    ends[following] |= ends[otherwise]
                    queue.append(following)
                    self._next[state * self._width + kind] = <uint32_t>following
                else:
                    self._next[state * self._width + kind] = <uint32_t>otherwise
        self._sizes = <uint32_t *>calloc(1 + sum([len(found) + 1 for found in ends if found]), sizeof(uint32_t))
        if self._sizes == NULL:
            raise MemoryError
        for state in range(len(ends)):
            if ends[state]:
                self._ends[state] = <uint32_t>at
                for low in ends[state]:
                    self._sizes[at] = <uint32_t>PyBytes_GET_SIZE(low)
                    at += 1
                at += 1
        self._words = [{names[low] for low in found} for found in ends]

    cdef _free(self):
        free(self._next)
        free(self._ends)
        free(self._sizes)
        self._next = self._ends = self._sizes = NULL

    def __dealloc__(self):
        self._free()

    cdef bint any(self, const uint8_t *s, Py_ssize_t n) noexcept nogil:
        """`has_any`."""
        cdef uint32_t state = 0
        cdef Py_ssize_t i, start
        cdef uint32_t *at
        if n < self.least:
            return False
        for i in range(n):
            state = self._next[state * self._width + self._kinds[s[i]]]
            if self._ends[state] and (i + 1 == n or not (KINDS[s[i]] & WORD and KINDS[s[i + 1]] & WORD)):
                at = self._sizes + self._ends[state]
                while at[0]:
                    start = i + 1 - <Py_ssize_t>at[0]
                    if not start or not (KINDS[s[start - 1]] & WORD and KINDS[s[start]] & WORD):
                        return True
                    at += 1
        return False

    cdef bint within(self, const uint8_t *s, Py_ssize_t n) noexcept nogil:
        """True when there is one of them, be it within another."""
        cdef uint32_t state = 0
        cdef Py_ssize_t i
        for i in range(n):
            state = self._next[state * self._width + self._kinds[s[i]]]
            if self._ends[state]:
                return True
        return False

    def has_any(self, bytes data not None):
        """words.PlainWords.has_any."""
        return self.any(<const uint8_t *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))

    def found(self, bytes data not None):
        """words.PlainWords.found."""
        cdef const uint8_t *s = <const uint8_t *>PyBytes_AS_STRING(data)
        cdef Py_ssize_t i, n = PyBytes_GET_SIZE(data)
        cdef uint32_t state = 0
        cdef uint32_t last = 0
        cdef set out = set()
        for i in range(n):
            state = self._next[state * self._width + self._kinds[s[i]]]
            if self._ends[state] and state != last:
                last = state
                out |= self._words[state]
        return out
