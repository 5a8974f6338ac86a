"""Kinds of the ASCII characters, for the readers of both engines' statements; of other bytes there are none."""

from libc.stdint cimport uint8_t

cdef extern from *:
    """
    #define CHARS_SPACE 1
    #define CHARS_DIGIT 2
    #define CHARS_WORD 4
    #define CHARS_START 8
    #define CHARS_HEX 16
    #define CHARS_DOLLAR 32
    static const unsigned char CHARS_KINDS[256] = {
        [9] = 1, [10] = 1, [11] = 1, [12] = 1, [13] = 1, [28] = 1, [29] = 1, [30] = 1, [31] = 1, [32] = 1, [36] = 32,
        [48] = 22, [49] = 22, [50] = 22, [51] = 22, [52] = 22, [53] = 22, [54] = 22, [55] = 22, [56] = 22, [57] = 22,
        [65] = 28, [66] = 28, [67] = 28, [68] = 28, [69] = 28, [70] = 28, [71] = 12, [72] = 12, [73] = 12, [74] = 12,
        [75] = 12, [76] = 12, [77] = 12, [78] = 12, [79] = 12, [80] = 12, [81] = 12, [82] = 12, [83] = 12, [84] = 12,
        [85] = 12, [86] = 12, [87] = 12, [88] = 12, [89] = 12, [90] = 12, [95] = 12,
        [97] = 28, [98] = 28, [99] = 28, [100] = 28, [101] = 28, [102] = 28, [103] = 12, [104] = 12, [105] = 12, [106] = 12,
        [107] = 12, [108] = 12, [109] = 12, [110] = 12, [111] = 12, [112] = 12, [113] = 12, [114] = 12, [115] = 12, [116] = 12,
        [117] = 12, [118] = 12, [119] = 12, [120] = 12, [121] = 12, [122] = 12,
    };
    """
    const uint8_t KINDS "CHARS_KINDS"[256]
    const int SPACE "CHARS_SPACE"
    const int DIGIT "CHARS_DIGIT"
    const int WORD "CHARS_WORD"  # letters, digits, underscore
    const int START "CHARS_START"  # letters, underscore
    const int HEX "CHARS_HEX"
    const int DOLLAR "CHARS_DOLLAR"


cdef inline bint plain_identifier(
    const uint8_t *s, Py_ssize_t start, Py_ssize_t end, uint8_t quote, Py_ssize_t most
) noexcept nogil:
    """A quoted name of at most `most` characters that holds nothing but what a name without quotes may."""
    cdef Py_ssize_t i
    if end - start < 3 or end - start > most + 2 or s[start] != quote or s[end - 1] != quote or not KINDS[s[start + 1]] & START:
        return False
    for i in range(start + 2, end - 1):
        if not KINDS[s[i]] & (WORD | DOLLAR):
            return False
    return True
