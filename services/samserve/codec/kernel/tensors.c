/* The q1 coding of a tensor; samserve/codec/tensors.py has the reasons and the layout.

   A tensor is `planes` planes of height x width fp16 values. Each plane has its own step and offset.
   A value becomes the integer q = round(value / step) - offset. It is predicted from its left, upper,
   upper left and upper right neighbours. What is left over, the residual, is coded by rANS.

   Words used below:
     left_over  magnitude of a residual
     level      of a plane: six times the mean magnitude of its residuals
     unrest     activity around a value: a weighted sum of the magnitudes nearby and of the level
     context    one of CONTEXTS ranges of unrest; each has its own frequency table
     symbol     residual + MIDDLE; symbol 0 is the escape
     apart      escapes: integers that no symbol stands for, stored by themselves

   Sixteen planes go side by side through the lanes of a vector, each with its own rANS state. Up to
   four vectors (a group) share one stream of 16-bit words in turn, so that the latency of one is
   hidden by the work of the others.

   All that the reader repeats is exact: integers in floats below 2^24, since weights are multiples of
   1/256 below 2 and integers are at most MOST. Reading is safe for any bytes. The file is compiled
   once per instruction set (native/build.py) and has no state. */

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define LANES 16
#define GROUP 4         /* vectors that share a stream */
#define BITS 11         /* of a frequency: a table adds up to 2^BITS */
#define STATE (1u << 16) /* least value of a coder's state */
#define MIDDLE 128      /* symbol of residual 0 */
#define CONTEXTS 22
#define LAST_UNREST 2047.0f /* in the last context */
#define FIRST_CONTEXT (127 << 1) /* exponent and first mantissa bit of 1.0f */
#define MOST 8191.0f
#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(64)));
typedef int32_t ivec __attribute__((vector_size(64)));
typedef uint32_t uvec __attribute__((vector_size(64)));
typedef float loose __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint32_t uloose __attribute__((vector_size(64), aligned(2), may_alias));

INLINE vec all(float x) { return x - (vec){0}; }
INLINE vec magnitude(vec x) { return (vec)((ivec)x & 0x7fffffff); }
INLINE vec nearest(vec x) { return (x + all(12582912.0f)) - all(12582912.0f); } /* 1.5 * 2^23; rounds to even, |x| < 2^22 */
INLINE uvec choose(ivec mask, uvec a, uvec b) { return (a & (uvec)mask) | (b & ~(uvec)mask); }

#ifdef __AVX512F__
INLINE vec from_half(const uint16_t *p) { return (vec)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
INLINE void to_half(uint16_t *p, vec v) { _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph((__m512)v, 0)); }
INLINE uvec gather(const uint32_t *table, ivec at) { return (uvec)_mm512_i32gather_epi32((__m512i)at, table, 4); }
INLINE unsigned zeros_of(uvec x) { return _mm512_testn_epi32_mask((__m512i)x, (__m512i)x); }
INLINE vec at_most(vec x, float most) { return (vec)_mm512_min_ps((__m512)x, _mm512_set1_ps(most)); } /* NaN: most */
INLINE uvec blend_bits(uvec a, uvec b, uint32_t of_b)
{
    return (uvec)_mm512_ternarylogic_epi32(_mm512_set1_epi32((int)of_b), (__m512i)b, (__m512i)a, 0xca);
}
INLINE vec rough_inverse(vec x) { return (vec)_mm512_rcp14_ps((__m512)x); }
/* Lanes whose state is too small take the next words, in order; the others keep theirs. */
INLINE uvec refill(uvec x, const uint16_t **from)
{
    __mmask16 need = _mm512_cmplt_epu32_mask((__m512i)x, _mm512_set1_epi32((int)STATE));
    __m512i words = _mm512_maskz_expand_epi32(need, _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)*from)));
    *from += __builtin_popcount(need);
    return (uvec)_mm512_mask_or_epi32((__m512i)x, need, _mm512_slli_epi32((__m512i)x, 16), words);
}
/* Lanes whose state is too large write their low word before `to`, in order. */
INLINE uvec spill(uvec x, uvec most, uint16_t **to)
{
    __mmask16 full = _mm512_cmpge_epu32_mask((__m512i)x, (__m512i)most);
    int count = __builtin_popcount(full);
    *to -= count;
    __m256i words = _mm512_cvtepi32_epi16(_mm512_maskz_compress_epi32(full, (__m512i)x));
    _mm256_mask_storeu_epi16(*to, (__mmask16)((1u << count) - 1), words);
    return (uvec)_mm512_mask_srli_epi32((__m512i)x, full, (__m512i)x, 16);
}
#else
typedef union { vec f; ivec i; uvec u; __m256 h[2]; __m256i w[2]; uint32_t one[LANES]; } whole;
INLINE vec from_half(const uint16_t *p)
{
    whole v;
    for (int k = 0; k < 2; k++) v.h[k] = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 8 * k)));
    return v.f;
}
INLINE void to_half(uint16_t *p, vec x)
{
    whole v = {.f = x};
    for (int k = 0; k < 2; k++) _mm_storeu_si128((__m128i *)(p + 8 * k), _mm256_cvtps_ph(v.h[k], 0));
}
INLINE uvec gather(const uint32_t *table, ivec at)
{
    whole v = {.i = at};
    for (int k = 0; k < 2; k++) v.w[k] = _mm256_i32gather_epi32((const int *)table, v.w[k], 4);
    return v.u;
}
INLINE unsigned zeros_of(uvec x)
{
    whole v = {.i = x == 0};
    return (unsigned)_mm256_movemask_ps(v.h[0]) | (unsigned)_mm256_movemask_ps(v.h[1]) << 8;
}
INLINE vec at_most(vec x, float most)
{
    whole v = {.f = x};
    for (int k = 0; k < 2; k++) v.h[k] = _mm256_min_ps(v.h[k], _mm256_set1_ps(most)); /* NaN: most */
    return v.f;
}
INLINE uvec blend_bits(uvec a, uvec b, uint32_t of_b) { return (a & ~of_b) | (b & of_b); }
INLINE vec rough_inverse(vec x)
{
    whole v = {.f = x};
    for (int k = 0; k < 2; k++) v.h[k] = _mm256_rcp_ps(v.h[k]);
    return v.f;
}
INLINE uvec refill(uvec x, const uint16_t **from)
{
    whole v = {.u = x};
    const uint16_t *p = *from;
    for (int k = 0; k < LANES; k++) {
        uint32_t need = v.one[k] < STATE, filled = v.one[k] << 16 | *p;
        v.one[k] = need ? filled : v.one[k];
        p += need;
    }
    *from = p;
    return v.u;
}
INLINE uvec spill(uvec x, uvec most, uint16_t **to)
{
    whole v = {.u = x}, limit = {.u = most};
    uint16_t *p = *to;
    for (int k = LANES - 1; k >= 0; k--) {
        uint32_t full = v.one[k] >= limit.one[k];
        p[-1] = (uint16_t)v.one[k]; /* overwritten by the next lane if this one is not full */
        v.one[k] = full ? v.one[k] >> 16 : v.one[k];
        p -= full;
    }
    *to = p;
    return v.u;
}
#endif

INLINE void transpose(vec *a)
{
#ifdef __AVX512F__
    for (int stage = 0; stage < 4; stage++) { /* four perfect shuffles of the joint index (row, lane) */
        vec b[LANES];
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
            b[2 * i] = __builtin_shufflevector(a[i], a[i + 8], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            b[2 * i + 1] =
                __builtin_shufflevector(a[i], a[i + 8], 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
        }
        memcpy(a, b, sizeof b);
    }
#else
    float from[LANES][LANES], to[LANES][LANES];
    memcpy(from, a, sizeof from);
    for (int i = 0; i < LANES; i++)
        for (int j = 0; j < LANES; j++) to[i][j] = from[j][i];
    memcpy(a, to, sizeof to);
#endif
}

/* Load up to 16 values at p; fill with zeros. */
INLINE vec some_halves(const uint16_t *p, int64_t count)
{
    if (count >= LANES) return from_half(p);
    uint16_t part[LANES] = {0};
    memcpy(part, p, 2 * (size_t)count);
    return from_half(part);
}

/* For each plane, of the values less the plane's first one: sum, sum of squares, least, greatest. The sum of squares is
   not finite if a value is infinite or NaN. */
void measure(const uint16_t *x, int64_t planes, int64_t size, float *sums)
{
    for (int64_t plane = 0; plane < planes; plane++, x += size, sums += 4) {
        vec first = all(some_halves(x, 1)[0]), sum = all(0), squares = all(0), least = all(0), most = all(0);
        for (int64_t at = 0; at < size; at += LANES) {
            vec v = some_halves(x + at, size - at) - first;
            for (int64_t k = size - at; k < LANES; k++) v[k] = 0;
            sum += v;
            squares += v * v;
            least = (vec)choose(v < least, (uvec)v, (uvec)least);
            most = (vec)choose(v > most, (uvec)v, (uvec)most);
        }
        for (int k = 0; k < LANES; k++) {
            sums[0] += sum[k];
            sums[1] += squares[k];
            sums[2] = least[k] < sums[2] ? least[k] : sums[2];
            sums[3] = most[k] > sums[3] ? most[k] : sums[3];
        }
    }
}

/* For each plane: the sums of products of (left, upper, upper left, upper right, value) with each other, 15 in a lower
   triangle. Values are taken less the plane's mean, in the inner columns of every fourth row. */
void correlate(const uint16_t *x, int64_t planes, int64_t height, int64_t width, const float *mean, float *products)
{
    for (int64_t plane = 0; plane < planes; plane++, x += height * width, products += 15) {
        vec total[15] = {0};
        for (int64_t y = 1; y < height; y += 4) {
            const uint16_t *row = x + y * width, *upper = row - width;
            for (int64_t at = 1; at + LANES < width; at += LANES) {
                vec v[5] = {from_half(row + at - 1), from_half(upper + at), from_half(upper + at - 1),
                            from_half(upper + at + 1), from_half(row + at)};
                for (int i = 0; i < 5; i++) v[i] -= all(mean[plane]);
                int place = 0;
                for (int i = 0; i < 5; i++)
                    for (int j = 0; j <= i; j++) total[place++] += v[i] * v[j];
            }
        }
        for (int i = 0; i < 15; i++)
            for (int k = 0; k < LANES; k++) products[i] += total[i][k];
    }
}

/* Sixteen planes' current row and the row above, when writing: integers and magnitudes of residuals, [width + 2]. The first
   and last elements stand for the values outside the plane. */
typedef struct {
    vec *row, *upper, *left_over, *upper_left_over;
} Rows;

INLINE void next_row(Rows *rows, int64_t width)
{
    vec *row = rows->row, *left_over = rows->left_over;
    rows->row = rows->upper, rows->upper = row;
    rows->left_over = rows->upper_left_over, rows->upper_left_over = left_over;
    row[0] = rows->row[0] = row[1];
    row[width + 1] = row[width];
    left_over[0] = rows->left_over[0] = left_over[1];
    left_over[width + 1] = left_over[width];
}

/* Mean magnitude of a plane's residuals, which stands in before the first row. */
INLINE vec usual(vec level) { return __builtin_convertvector(__builtin_convertvector(level, ivec) / 6, vec); }

INLINE Rows first_row(vec *memory, int64_t width, vec level)
{
    int64_t each = width + 2;
    Rows rows = {memory, memory + each, memory + 2 * each, memory + 3 * each};
    for (int64_t at = 0; at < each; at++) {
        rows.row[at] = rows.upper[at] = all(0);
        rows.left_over[at] = rows.upper_left_over[at] = usual(level);
    }
    return rows;
}

/* The first row has no row above: its left neighbour gets the weights of the upper ones, too. */
INLINE void weights_of(const float *weights, int64_t y, vec *out)
{
    float sum = weights[0] + weights[1] + weights[2] + weights[3];
    for (int k = 0; k < 4; k++) out[k] = all(y ? weights[k] : k ? 0 : sum);
}

INLINE vec predicted_above(const Rows *rows, int64_t at, const vec *weights)
{
    return weights[1] * rows->upper[at] + weights[2] * rows->upper[at - 1] + weights[3] * rows->upper[at + 1];
}

INLINE vec unrest_above(const Rows *rows, int64_t at, vec level)
{
    const vec *upper = rows->upper_left_over;
    return upper[at] + upper[at] + upper[at - 1] + upper[at + 1] + level;
}

/* Two contexts to the octave of unrest, which is at least 1. NaN (in damaged data only) gets the last context. */
INLINE ivec context_of(vec unrest) { return (((ivec)at_most(unrest, LAST_UNREST) >> 22) - FIRST_CONTEXT) << 8; }

/* Index into the reader's table, by context and the low BITS of the state. */
INLINE ivec slot_of(vec unrest, uvec state)
{
    ivec context = (ivec)at_most(unrest, LAST_UNREST) >> (22 - BITS);
    return (ivec)blend_bits((uvec)context, state, (1u << BITS) - 1) - (FIRST_CONTEXT << BITS);
}

INLINE vec level_of(const float *levels, int64_t vector) { return *(const loose *)(levels + vector * LANES); }

typedef struct {
    int64_t planes, height, width, size;
    const uint16_t *values;
    const float *inverses, *offsets, *levels, *weights; /* 1 / step, offset, level: [vectors * 16]; weights [4] */
    const uint32_t *codes;                           /* [CONTEXTS][256]: first slot << 16 | frequency; 0: escape */
    float *memory;                                   /* scratch of 4 * (width + 2) vectors */
    uint32_t *chosen;                                /* [GROUP][size][16]: the codes of a group */
    int16_t *apart;                                  /* [most_apart]: the escapes */
    int64_t most_apart;
    int32_t *counts; /* [vectors]: number of escapes */
    uint16_t *words; /* [most_words] */
    int64_t most_words;
} Writing;

INLINE void read_row(const Writing *job, Rows *rows, int64_t vector, int64_t y)
{
    vec inverse = level_of(job->inverses, vector), offset = level_of(job->offsets, vector);
    for (int64_t from = 0; from < job->width; from += LANES) {
        vec block[LANES];
        int64_t count = job->width - from < LANES ? job->width - from : LANES;
        for (int k = 0; k < LANES; k++) {
            int64_t plane = vector * LANES + k;
            const uint16_t *at = job->values + plane * job->size + y * job->width + from;
            block[k] = plane < job->planes ? some_halves(at, count) : all(0);
        }
        transpose(block);
        for (int64_t k = 0; k < count; k++) rows->row[1 + from + k] = nearest(block[k] * inverse) - offset;
    }
}

/* Turn sixteen planes into codes and escapes. `used` escapes exist already. Returns their number afterwards, or -1 if
   they do not fit. */
static int64_t to_codes(const Writing *job, int64_t vector, uint32_t *chosen, int64_t used)
{
    vec level = level_of(job->levels, vector), share[4];
    Rows rows = first_row((vec *)job->memory, job->width, level);
    for (int64_t y = 0; y < job->height; y++) {
        weights_of(job->weights, y, share);
        read_row(job, &rows, vector, y);
        for (int64_t at = 1; at <= job->width; at++, chosen += LANES) {
            vec predicted = nearest(predicted_above(&rows, at, share) + share[0] * rows.row[at - 1]);
            vec unrest = unrest_above(&rows, at, level) + rows.left_over[at - 1] + rows.left_over[at - 1];
            vec rest = rows.row[at] - predicted;
            rows.left_over[at] = magnitude(rest);
            ivec symbol = __builtin_convertvector(rest, ivec) + MIDDLE, context = context_of(unrest);
            symbol &= (symbol > 0) & (symbol < 2 * MIDDLE);
            uvec code = gather(job->codes, context | symbol);
            unsigned strange = zeros_of(code) | zeros_of((uvec)symbol);
            if (__builtin_expect(strange != 0, 0)) {
                if (used + LANES > job->most_apart) return -1;
                for (int k = 0; k < LANES; k++)
                    if (strange >> k & 1) job->apart[used++] = (int16_t)rows.row[at][k];
                code = choose((ivec)(code == 0), gather(job->codes, context), code);
            }
            *(uloose *)chosen = code;
        }
        next_row(&rows, job->width);
    }
    return used;
}

/* Write the codes of up to GROUP vectors before `to`, from the last to the first, since rANS reads in reverse. Returns
   where they begin, or NULL if they do not fit. */
INLINE uint16_t *write_group(const Writing *job, uint16_t *to, int group)
{
    uvec state[GROUP];
    for (int v = 0; v < group; v++) state[v] = STATE - (uvec){0};
    for (int64_t at = job->size - 1; at >= 0; at--) {
        if (to - job->words < 4 * GROUP * LANES) return NULL;
#pragma GCC unroll 4
        for (int v = group - 1; v >= 0; v--) {
            uvec code = *(const uloose *)(job->chosen + LANES * (v * job->size + at));
            uvec often = code & 0xffff, first = code >> 16;
            uvec x = spill(state[v], often << (32 - BITS), &to);
            /* x / often < 2^21, so a quotient by an inverse of 22 bits is off by at most one */
            vec divisor = __builtin_convertvector((ivec)often, vec), inverse = rough_inverse(divisor);
            inverse *= 2.0f - divisor * inverse;
            vec ratio = __builtin_convertvector(x, vec) * inverse;
            uvec whole = (uvec)__builtin_convertvector(ratio, ivec), rest = x - whole * often;
            ivec under = (ivec)rest < 0;
            whole += (uvec)under, rest += often & (uvec)under;
            ivec over = (ivec)rest >= (ivec)often;
            whole -= (uvec)over, rest -= often & (uvec)over;
            state[v] = (whole << BITS) + rest + first;
        }
    }
    for (int v = group - 1; v >= 0; v--) {
        to -= 2 * LANES;
        *(uloose *)to = state[v];
    }
    return to;
}

/* Code planes as words at the end of job->words; the first group comes last. Returns the number of words, or -1 if
   something does not fit. */
int64_t to_words(const Writing *job)
{
    int64_t vectors = (job->planes + LANES - 1) / LANES, used = 0;
    uint16_t *end = job->words + job->most_words, *to = end;
    for (int64_t vector = 0; vector < vectors && to; vector += GROUP) {
        int group = vectors - vector < GROUP ? (int)(vectors - vector) : GROUP;
        for (int v = 0; v < group; v++) {
            int64_t now = to_codes(job, vector + v, job->chosen + LANES * job->size * v, used);
            if (now < 0) return -1;
            job->counts[vector + v] = (int32_t)(now - used);
            used = now;
        }
        switch (group) {
        case 1: to = write_group(job, to, 1); break;
        case 2: to = write_group(job, to, 2); break;
        case 3: to = write_group(job, to, 3); break;
        default: to = write_group(job, to, 4);
        }
    }
    return to ? end - to : -1;
}

typedef struct {
    int64_t planes, height, width, size;
    const float *steps, *offsets, *levels, *weights;
    const uint32_t *table; /* [CONTEXTS][2048]: (symbol - MIDDLE) << 24 | frequency << 12 | slot's place in the symbol */
    const int16_t *apart;
    const int64_t *bounds; /* [vectors + 1]: where each vector's escapes begin */
    float *memory;         /* scratch of GROUP * 2 * (width + 1) vectors */
    uint16_t *out;
    const uint16_t *words; /* with LANES * GROUP at the end that vectors may read past the others */
    int64_t count;
} Reading;

/* Sixteen planes' row above, when reading, overwritten from the left by the current row. The last element stands for the
   value outside the plane. */
typedef struct {
    vec *row, *left_over; /* [width + 1] */
} Above;

INLINE void write_row(const Reading *job, const Above *above, int64_t vector, int64_t y)
{
    vec step = level_of(job->steps, vector), offset = level_of(job->offsets, vector);
    int64_t lanes = job->planes - vector * LANES < LANES ? job->planes - vector * LANES : LANES;
    /* Two blocks at a time: the planes' cache lines map to the same sets, so write each line whole. */
    for (int64_t from = 0; from < job->width; from += 2 * LANES) {
        vec block[2][LANES];
        int64_t count = job->width - from < 2 * LANES ? job->width - from : 2 * LANES;
        for (int half = 0; half < 2; half++) {
            for (int64_t k = 0; k < LANES; k++) {
                int64_t at = from + half * LANES + k;
                block[half][k] = at < job->width ? (above->row[at] + offset) * step : all(0);
            }
            transpose(block[half]);
        }
        uint16_t *out = job->out + vector * LANES * job->size + y * job->width + from;
        for (int64_t k = 0; k < lanes; k++, out += job->size) {
            if (count == 2 * LANES) {
                to_half(out, block[0][k]);
                to_half(out + LANES, block[1][k]);
            } else {
                uint16_t part[2 * LANES];
                to_half(part, block[0][k]);
                to_half(part + LANES, block[1][k]);
                memcpy(out, part, 2 * (size_t)count);
            }
        }
    }
}

INLINE const uint16_t *read_group(const Reading *job, int64_t vector, const uint16_t *from, const uint16_t *end,
                                  int group)
{
    Above above[GROUP];
    uvec state[GROUP];
    vec level[GROUP], share[4];
    int64_t next[GROUP], last[GROUP];
    if (end - from < 2 * LANES * group + LANES * GROUP) return NULL;
    for (int v = 0; v < group; v++, from += 2 * LANES) {
        state[v] = *(const uloose *)from;
        level[v] = level_of(job->levels, vector + v);
        above[v].row = (vec *)job->memory + 2 * (job->width + 1) * v;
        above[v].left_over = above[v].row + job->width + 1;
        for (int64_t at = 0; at <= job->width; at++) {
            above[v].row[at] = all(0);
            above[v].left_over[at] = usual(level[v]);
        }
        next[v] = job->bounds[vector + v], last[v] = job->bounds[vector + v + 1];
    }
    for (int64_t y = 0; y < job->height; y++) {
        vec left[GROUP], corner[GROUP], upper[GROUP], left_over[GROUP], corner_over[GROUP], upper_over[GROUP];
        weights_of(job->weights, y, share);
        for (int v = 0; v < group; v++) {
            left[v] = corner[v] = upper[v] = above[v].row[0];
            left_over[v] = corner_over[v] = upper_over[v] = above[v].left_over[0];
        }
        for (int64_t at = 0; at < job->width; at++) {
            if (end - from < LANES * GROUP) return NULL;
#pragma GCC unroll 4
            for (int v = 0; v < group; v++) {
                vec right = above[v].row[at + 1], right_over = above[v].left_over[at + 1];
                vec unrest = upper_over[v] + upper_over[v] + corner_over[v] + right_over + level[v];
                vec predicted = share[1] * upper[v] + share[2] * corner[v] + share[3] * right;
                unrest += left_over[v] + left_over[v];
                predicted = nearest(predicted + share[0] * left[v]);
                uvec entry = gather(job->table, slot_of(unrest, state[v]));
                uvec x = (entry >> 12 & 0xfff) * (state[v] >> BITS) + (entry & 0xfff);
                state[v] = refill(x, &from);
                ivec symbol = (ivec)entry >> 24;
                vec rest = __builtin_convertvector(symbol, vec), q = predicted + rest;
                unsigned strange = zeros_of((uvec)(symbol + MIDDLE));
                if (__builtin_expect(strange != 0, 0)) {
                    for (int k = 0; k < LANES; k++) {
                        if (!(strange >> k & 1)) continue;
                        if (next[v] == last[v]) return NULL;
                        q[k] = job->apart[next[v]++];
                    }
                    rest = q - predicted;
                }
                corner[v] = upper[v], upper[v] = right;
                corner_over[v] = upper_over[v], upper_over[v] = right_over;
                above[v].row[at] = left[v] = q;
                above[v].left_over[at] = left_over[v] = magnitude(rest);
            }
        }
        for (int v = 0; v < group; v++) {
            above[v].row[job->width] = left[v];
            above[v].left_over[job->width] = left_over[v];
            write_row(job, &above[v], vector + v, y);
        }
    }
    for (int v = 0; v < group; v++)
        if (next[v] != last[v] || zeros_of(state[v] - STATE) != 0xffff) return NULL;
    return from;
}

/* Decode words to planes. Returns 0, or -1 if the words are invalid for this shape. */
int64_t from_words(const Reading *job)
{
    const uint16_t *from = job->words, *end = job->words + job->count;
    int64_t vectors = (job->planes + LANES - 1) / LANES;
    for (int64_t vector = (vectors - 1) / GROUP * GROUP; vector >= 0 && from; vector -= GROUP) {
        switch (vectors - vector) {
        case 1: from = read_group(job, vector, from, end, 1); break;
        case 2: from = read_group(job, vector, from, end, 2); break;
        case 3: from = read_group(job, vector, from, end, 3); break;
        default: from = read_group(job, vector, from, end, 4);
        }
    }
    return from && end - from == LANES * GROUP ? 0 : -1;
}
