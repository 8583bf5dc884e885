/* The decoder's work on the image side, in passes over its cells; `samserve/decoder/transformer.py` has the algebra.

   Arithmetic is fp32; of the image, what is read once per prompt is kept as 16-bit integers with a scale per row, half the
   memory for the same masks. A tile is 64 neighbouring cells; an array of `rows` lies in memory as [tiles][rows][64], so that a
   tile is read in one piece and one kernel, C[rows][64] (+)= A[rows][k] B[k][64], does nearly all the arithmetic, on data
   that stay in the core's own cache from the attention's scores to the mask's logits. Compiled once per instruction set (build.py); no state, no threads:
   callers split the cells among theirs. */

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#define TILE 64
#define CHANNELS 256
#define HEADS 8
#define HEAD 16        /* channels of a head */
#define SUBS 4         /* pixels of a cell after the first upscaling, and of such a pixel after the second */
#define FINE 64        /* channels after the first upscaling */
#define THIN 32        /* and after the second */
#define MOST_TOKENS 24
#define MOST_ROWS (HEADS * MOST_TOKENS)
#define MOST_ROUGH 17  /* channels of a mask prompt's features, and a constant */
#define MOST_MIXED (MOST_ROWS + MOST_ROUGH)
#define MOST_MASKS 4
#define PAD64(n) (((n) + 63) / 64 * 64)

#ifdef __AVX512F__
#define LANES 16
#define COLUMNS 4 /* vectors beside each other in a block of the kernel */
#else
#define LANES 8
#define COLUMNS 2
#endif
#define ROWS 6 /* and below each other: what the registers hold */
typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef int16_t narrow __attribute__((vector_size(2 * LANES), aligned(2), may_alias));
typedef float loose __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
#define INLINE static inline __attribute__((always_inline))

INLINE vec load(const float *p) { return *(const loose *)p; }
INLINE void store(float *p, vec v) { *(loose *)p = v; }
INLINE vec widen(const int16_t *p) { return __builtin_convertvector(*(const narrow *)p, vec); }
#ifdef __AVX512F__
INLINE vec from_half(const uint16_t *p) { return (vec)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
#else
INLINE vec from_half(const uint16_t *p) { return (vec)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }
#endif
INLINE vec all(float x) { return x - (vec){0}; }
INLINE vec larger(vec a, vec b)
{
    ivec m = a > b;
    return (vec)(((ivec)a & m) | ((ivec)b & ~m));
}

/* e^x for x <= 88, relative error 2e-7; Cephes' polynomial. */
INLINE vec exponential(vec x)
{
    x = larger(x, all(-87.0f));
    vec k = (x * 1.44269504f + 12582912.0f) - 12582912.0f;
    vec r = x - k * 0.693359375f + k * 2.12194440e-4f;
    vec y = r * 1.9875691500e-4f + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * r * r + r + 1.0f;
    ivec scale = (__builtin_convertvector(k, ivec) + 127) << 23;
    return y * (vec)scale;
}

/* Exact GELU, x Phi(x); the error function by Abramowitz and Stegun 7.1.26, absolute error 1.5e-7. */
INLINE vec gelu(vec x)
{
    vec z = x * 0.70710678f;
    vec a = (vec)((ivec)z & 0x7fffffff);
    vec t = 1.0f / (a * 0.3275911f + 1.0f);
    vec p = t * 1.061405429f - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    vec tail = p * t * exponential(-a * a); /* erfc(|z|) */
    vec half = x * 0.5f;
    vec mag = (vec)((ivec)half & 0x7fffffff);
    return half + mag - mag * tail;
}

/* C[rows][COLUMNS vectors] (+)= A[rows][k] B[k][...] */
INLINE void block(const int rows, float *c, long ldc, const float *a, long lda, const float *b, long ldb, long k, int add)
{
    vec sum[ROWS][COLUMNS];
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < COLUMNS; j++) sum[r][j] = add ? load(c + r * ldc + j * LANES) : all(0.0f);
    for (long i = 0; i < k; i++) {
        vec right[COLUMNS];
        for (int j = 0; j < COLUMNS; j++) right[j] = load(b + i * ldb + j * LANES);
        for (int r = 0; r < rows; r++) {
            vec left = all(a[r * lda + i]);
            for (int j = 0; j < COLUMNS; j++) sum[r][j] += left * right[j];
        }
    }
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < COLUMNS; j++) store(c + r * ldc + j * LANES, sum[r][j]);
}

/* C[rows][64] (+)= A[rows][k] B[k][64] */
static void spread(float *c, long ldc, const float *a, long lda, const float *b, long ldb, long rows, long k, int add)
{
    for (int j = 0; j < TILE; j += COLUMNS * LANES)
        for (long r = 0, take; r < rows; r += take) {
            long left = rows - r;
            take = left <= ROWS ? left : left == ROWS + 1 ? ROWS / 2 + 1 : ROWS; /* a lone last row would wait for itself */
            float *to = c + r * ldc + j;
            const float *from = a + r * lda;
            switch (take) {
            case 6: block(6, to, ldc, from, lda, b + j, ldb, k, add); break;
            case 5: block(5, to, ldc, from, lda, b + j, ldb, k, add); break;
            case 4: block(4, to, ldc, from, lda, b + j, ldb, k, add); break;
            case 3: block(3, to, ldc, from, lda, b + j, ldb, k, add); break;
            case 2: block(2, to, ldc, from, lda, b + j, ldb, k, add); break;
            default: block(1, to, ldc, from, lda, b + j, ldb, k, add);
            }
        }
}

/* The same on tiles that lie in one piece. */
INLINE void product(float *c, const float *a, long lda, const float *b, long rows, long k, int add)
{
    spread(c, TILE, a, lda, b, TILE, rows, k, add);
}

/* total[64] += 2 x the sum over rows of a x b */
static void contract(float *total, const float *a, const float *b, long rows)
{
    for (int j = 0; j < TILE; j += LANES) {
        vec sum = all(0.0f);
        for (long r = 0; r < rows; r++) sum += load(a + r * TILE + j) * load(b + r * TILE + j);
        store(total + j, load(total + j) + 2.0f * sum);
    }
}

/* total[64] += 2 s'(L s + U), s being `rows` rows: s'G s + 2 s'U for G symmetric, of which L is the lower half with half
   the diagonal. U comes in `scratch` if `add`. */
static void measure(float *total, const float *s, const float *lower, long lda, long rows, float *scratch, int add)
{
    for (long r = 0, count; r < rows; r += count) {
        count = rows - r < ROWS ? rows - r : ROWS;
        product(scratch + r * TILE, lower + r * lda, lda, s, count, r + count, add);
    }
    contract(total, s, scratch, rows);
}

/* One prompt on one image. T = 8 x tokens rows, head by head; H rows of a mask prompt, or none. Mirrors cells.py. */
typedef struct {
    int64_t cells, tokens, rough, masks;
    /* the image: 128 rows; value parts [cells][128]; fine 256 rows; squares and cross [cells] */
    const int16_t *key0, *value0, *query0, *out0, *key1, *value1, *query1, *norm1, *out1, *key2, *value2, *fine;
    const float *fine_scale; /* [256]; the other parts' scales are in the tokens, or in what becomes of the sums */
    const float *square0, *square1, *cross1;
    const float *place_key1, *place_query1, *place_key2; /* the positional encoding, projected: 128 rows */
    const float *rough_rows;                             /* H rows */
    /* what one pass leaves for the next: T rows, [cells] */
    float *s1, *s2, *r1, *r2;
    /* the tokens of each pass: [T][16], mixed [T][T + H], rough [T][H], bias [T] */
    const float *ask0, *ask0_rough;
    const float *keys0, *keys0_rough, *keys0_bias, *values0, *values0_second, *gram0;
    const float *ask1, *ask1_place, *ask1_mixed;
    const float *keys1, *keys1_place, *keys1_mixed, *keys1_bias, *values1, *gram1, *gram12, *gram2;
    const float *ask2, *ask2_place, *ask2_mixed1, *ask2_mixed2;
    const float *mix;        /* [256][2 T + H]: what mixes into fine */
    const float *fine_bias;  /* [256] */
    const float *norm_weight, *norm_bias; /* [64] */
    const float *thinner, *thinner_bias;  /* [128][64], [128] */
    const float *hyper;                   /* [masks][32] */
    float *logits;                        /* [masks][4 side][4 side] */
    float epsilon1, epsilon2, epsilon_fine;
} Job;

/* scores[T][64] (+)= each head's tokens on its 16 channels of a part */
INLINE void against(const Job *job, float *scores, const float *tokens, const int16_t *part, long at, int add)
{
    float side[HEAD * TILE];
    for (int h = 0; h < HEADS; h++) {
        long row = h * job->tokens;
        const int16_t *own = part + (at * HEADS + h * TILE) * HEAD;
        for (int j = 0; j < HEAD * TILE; j += LANES) store(side + j, widen(own + j));
        product(scores + row * TILE, tokens + row * HEAD, HEAD, side, job->tokens, HEAD, add);
    }
}

/* The same on the projected positional encoding. */
INLINE void against_place(const Job *job, float *scores, const float *tokens, const float *place, long at)
{
    for (int h = 0; h < HEADS; h++) {
        long row = h * job->tokens;
        product(scores + row * TILE, tokens + row * HEAD, HEAD, place + (at * HEADS + h * TILE) * HEAD, job->tokens, HEAD, 1);
    }
}

/* Softmax of each cell over the tokens of each head, in place. */
static void share(const Job *job, float *scores, const float *bias)
{
    long n = job->tokens;
    for (int h = 0; h < HEADS; h++)
        for (int j = 0; j < TILE; j += LANES) {
            float *s = scores + h * n * TILE + j;
            vec top = all(-3e38f), total = all(0.0f);
            for (long i = 0; i < n; i++) {
                vec x = load(s + i * TILE) + bias[h * n + i];
                store(s + i * TILE, x);
                top = larger(top, x);
            }
            for (long i = 0; i < n; i++) {
                vec x = exponential(load(s + i * TILE) - top);
                store(s + i * TILE, x);
                total += x;
            }
            total = 1.0f / total;
            for (long i = 0; i < n; i++) store(s + i * TILE, load(s + i * TILE) * total);
        }
}

/* Over the lanes, by halves. */
INLINE float folded(vec v, int largest)
{
    float x[LANES];
    store(x, v);
    for (int half = LANES / 2; half; half /= 2)
        for (int j = 0; j < half; j++) x[j] = !largest ? x[j] + x[j + half] : x[j] > x[j + half] ? x[j] : x[j + half];
    return x[0];
}

INLINE float largest(const float *p)
{
    vec top = load(p);
    for (int j = LANES; j < TILE; j += LANES) top = larger(top, load(p + j));
    return folded(top, 1);
}

/* A softmax over all cells, tile by tile: per row the largest score so far, the total of the weights against it, and
   `width` sums. out[T][2 + width]. Turns the tile's scores into weights. */
static void weigh(const Job *job, float *scores, float *out, long width)
{
    for (long t = 0; t < HEADS * job->tokens; t++) {
        float *s = scores + t * TILE, *o = out + t * (2 + width), top = largest(s);
        if (top > o[0]) {
            float fade = expf(o[0] - top);
            o[0] = top;
            for (long j = 1; j < 2 + width; j++) o[j] *= fade;
        }
        vec total = all(0.0f);
        for (int j = 0; j < TILE; j += LANES) {
            vec w = exponential(load(s + j) - o[0]);
            store(s + j, w);
            total += w;
        }
        o[1] += folded(total, 0);
    }
}

static void start(const Job *job, float *out, long width)
{
    for (long t = 0; t < HEADS * job->tokens; t++) {
        memset(out + t * (2 + width), 0, (2 + width) * sizeof(float));
        out[t * (2 + width)] = -3e38f;
    }
}

/* sums[row][16] += weights[row][64] part[cells][128], each head its own channels */
#define BESIDE 8 /* rows whose sums are under way together, so that none waits for its last addition */
static void gather(const Job *job, const float *weights, const int16_t *part, long at, float *sums, long stride)
{
    long n = job->tokens;
    for (int h = 0; h < HEADS; h++)
        for (int k = 0; k < HEAD; k += LANES)
            for (long i0 = 0; i0 < n; i0 += BESIDE) {
                const int16_t *v = part + at * HEADS * HEAD + h * HEAD + k;
                const float *w[BESIDE];
                vec sum[BESIDE];
                for (long i = 0; i < BESIDE; i++) {
                    w[i] = weights + (h * n + (i0 + i < n ? i0 + i : i0)) * TILE;
                    sum[i] = all(0.0f);
                }
                for (int c = 0; c < TILE; c++) {
                    vec right = widen(v + c * HEADS * HEAD);
                    for (long i = 0; i < BESIDE; i++) sum[i] += all(w[i][c]) * right;
                }
                for (long i = 0; i < BESIDE && i0 + i < n; i++) {
                    float *o = sums + (h * n + i0 + i) * stride + k;
                    store(o, load(o) + sum[i]);
                }
            }
}

static void transpose(float *restrict to, long width, const float *restrict from, long rows)
{
    for (long r0 = 0; r0 < width; r0 += 8)
        for (int c0 = 0; c0 < TILE; c0 += 8)
            for (int c = c0; c < c0 + 8; c++)
                for (long r = r0; r < r0 + 8; r++) to[c * width + r] = r < rows ? from[r * TILE + c] : 0.0f;
}

/* sums[T][width] += weights[T][64] turned[64][width]; width is a multiple of 64 */
static void correlate(const Job *job, const float *weights, const float *turned, long width, float *sums, long stride)
{
    for (long j = 0; j < width; j += TILE)
        spread(sums + j, stride, weights, TILE, turned + j, width, HEADS * job->tokens, TILE, 1);
}

static void scale(float *to, const float *from, long rows, const float *by)
{
    for (long r = 0; r < rows; r++)
        for (int j = 0; j < TILE; j += LANES) store(to + r * TILE + j, load(from + r * TILE + j) * load(by + j));
}


/* First layer, tokens to image. out[T][2 + 16 + PAD64(H)]: top, total, sums of value0, sums of the rough rows. */
void pass_first(const Job *job, int64_t from, int64_t to, float *out)
{
    long rows = HEADS * job->tokens, H = job->rough, pad = PAD64(H), width = HEAD + pad;
    float scores[MOST_ROWS * TILE], rough[MOST_ROUGH * TILE], turned[TILE * PAD64(MOST_ROUGH)];
    start(job, out, width);
    for (long at = from; at < to; at += TILE) {
        against(job, scores, job->ask0, job->key0, at, 0);
        if (H) {
            memcpy(rough, job->rough_rows + at * H, H * TILE * sizeof(float));
            product(scores, job->ask0_rough, H, rough, rows, H, 1);
        }
        weigh(job, scores, out, width);
        gather(job, scores, job->value0, at, out + 2, 2 + width);
        if (H) {
            transpose(turned, pad, rough, H);
            correlate(job, scores, turned, pad, out + 2 + HEAD, 2 + width);
        }
    }
}

/* First layer, image to tokens; then the second's tokens to image. Leaves s1, r1.
   out[T][2 + 16 + PAD64(T + H)]: top, total, sums of r1 value1, sums of r1 (s1, rough). */
void pass_second(const Job *job, int64_t from, int64_t to, float *out)
{
    long rows = HEADS * job->tokens, H = job->rough, mixed = rows + H, pad = PAD64(mixed), width = HEAD + pad;
    float scores[MOST_ROWS * TILE], other[MOST_ROWS * TILE], turned[TILE * PAD64(MOST_MIXED)];
    float s[MOST_MIXED * TILE], r1[TILE];
    start(job, out, width);
    for (long at = from; at < to; at += TILE) {
        memcpy(s + rows * TILE, job->rough_rows + at * H, H * TILE * sizeof(float));
        against(job, s, job->keys0, job->query0, at, 0);
        if (H) product(s, job->keys0_rough, H, s + rows * TILE, rows, H, 1);
        share(job, s, job->keys0_bias);
        memcpy(job->s1 + at * rows, s, rows * TILE * sizeof(float));

        against(job, other, job->values0, job->out0, at, 0);
        if (H) product(other, job->gram0 + rows, mixed, s + rows * TILE, rows, H, 1);
        memcpy(r1, job->square0 + at, sizeof r1);
        measure(r1, s, job->gram0, mixed, rows, other, 1);
        for (int j = 0; j < TILE; j++) r1[j] = 1.0f / sqrtf(r1[j] / CHANNELS + job->epsilon1);
        memcpy(job->r1 + at, r1, sizeof r1);

        product(scores, job->ask1_mixed, mixed, s, rows, mixed, 0);
        against(job, scores, job->ask1, job->key1, at, 1);
        scale(scores, scores, rows, r1);
        against_place(job, scores, job->ask1_place, job->place_key1, at);
        weigh(job, scores, out, width);
        scale(scores, scores, rows, r1);
        gather(job, scores, job->value1, at, out + 2, 2 + width);
        transpose(turned, pad, s, mixed);
        correlate(job, scores, turned, pad, out + 2 + HEAD, 2 + width);
    }
}

/* Second layer, image to tokens; then the last tokens to image. Leaves s2, r2.
   out[T][2 + 16 + PAD64(T + H) + PAD64(T)]: top, total, sums of r1 r2 value2, of r1 r2 (s1, rough), of r2 s2. */
void pass_third(const Job *job, int64_t from, int64_t to, float *out)
{
    long rows = HEADS * job->tokens, H = job->rough, mixed = rows + H, pad = PAD64(mixed), pad2 = PAD64(rows);
    long width = HEAD + pad + pad2;
    float scores[MOST_ROWS * TILE], other[MOST_ROWS * TILE], turned[TILE * PAD64(MOST_MIXED)];
    float s[MOST_MIXED * TILE], t[MOST_ROWS * TILE], r1[TILE], r2[TILE], cross[TILE], own[TILE];
    start(job, out, width);
    for (long at = from; at < to; at += TILE) {
        memcpy(s, job->s1 + at * rows, rows * TILE * sizeof(float));
        memcpy(s + rows * TILE, job->rough_rows + at * H, H * TILE * sizeof(float));
        memcpy(r1, job->r1 + at, sizeof r1);
        product(t, job->keys1_mixed, mixed, s, rows, mixed, 0);
        against(job, t, job->keys1, job->query1, at, 1);
        scale(t, t, rows, r1);
        against_place(job, t, job->keys1_place, job->place_query1, at);
        share(job, t, job->keys1_bias);
        memcpy(job->s2 + at * rows, t, rows * TILE * sizeof(float));

        memcpy(r2, job->square1 + at, sizeof r2);
        against(job, other, job->values0_second, job->norm1, at, 0);
        if (H) product(other, job->gram1 + rows, mixed, s + rows * TILE, rows, H, 1);
        measure(r2, s, job->gram1, mixed, rows, other, 1);
        memcpy(cross, job->cross1 + at, sizeof cross);
        product(other, job->gram12, mixed, s, rows, mixed, 0);
        against(job, other, job->values1, job->out1, at, 1);
        contract(cross, t, other, rows);
        memset(own, 0, sizeof own);
        measure(own, t, job->gram2, rows, rows, other, 0);
        for (int j = 0; j < TILE; j++) {
            float variance = r1[j] * (r1[j] * r2[j] + cross[j]) + own[j];
            r2[j] = 1.0f / sqrtf(variance / CHANNELS + job->epsilon2);
            r1[j] *= r2[j];
        }
        memcpy(job->r2 + at, r2, sizeof r2);

        product(scores, job->ask2_mixed1, mixed, s, rows, mixed, 0);
        against(job, scores, job->ask2, job->key2, at, 1);
        scale(scores, scores, rows, r1);
        scale(other, t, rows, r2);
        product(scores, job->ask2_mixed2, rows, other, rows, rows, 1);
        against_place(job, scores, job->ask2_place, job->place_key2, at);
        weigh(job, scores, out, width);
        transpose(turned, pad2, other, rows);
        correlate(job, scores, turned, pad2, out + 2 + HEAD + pad, 2 + width);
        scale(scores, scores, rows, r1);
        gather(job, scores, job->value2, at, out + 2, 2 + width);
        transpose(turned, pad, s, mixed);
        correlate(job, scores, turned, pad, out + 2 + HEAD, 2 + width);
    }
}

/* Norm over the 64 channels of each pixel, then GELU, in place: x[64][64 cells]. */
static void settle(const Job *job, float *x)
{
    for (int j = 0; j < TILE; j += LANES) {
        vec sum = all(0.0f), square = all(0.0f);
        for (int c = 0; c < FINE; c++) sum += load(x + c * TILE + j);
        vec mean = sum * (1.0f / FINE);
        for (int c = 0; c < FINE; c++) {
            vec apart = load(x + c * TILE + j) - mean;
            square += apart * apart;
        }
        float spread[LANES];
        store(spread, square * (1.0f / FINE) + job->epsilon_fine);
        for (int k = 0; k < LANES; k++) spread[k] = 1.0f / sqrtf(spread[k]);
        vec by = load(spread);
        for (int c = 0; c < FINE; c++) {
            float *p = x + c * TILE + j;
            store(p, gelu((load(p) - mean) * by * job->norm_weight[c] + job->norm_bias[c]));
        }
    }
}

/* Both upscalings and the masks. Writes the logits of the cells' pixels. */
void pass_masks(const Job *job, int64_t from, int64_t to)
{
    long rows = HEADS * job->tokens, H = job->rough, mixed = 2 * rows + H, masks = job->masks;
    long side = (long)(sqrt((double)job->cells) + 0.5), line = 4 * side;
    float s[(MOST_MIXED + MOST_ROWS) * TILE], x[FINE * TILE], thin[SUBS * THIN * TILE], r2[TILE], r12[TILE];
    float pixels[MOST_MASKS * TILE];
    long place[TILE];
    for (long at = from; at < to; at += TILE) {
        memcpy(s, job->s1 + at * rows, rows * TILE * sizeof(float));
        memcpy(s + rows * TILE, job->rough_rows + at * H, H * TILE * sizeof(float));
        memcpy(s + (rows + H) * TILE, job->s2 + at * rows, rows * TILE * sizeof(float));
        for (int j = 0; j < TILE; j++) {
            r2[j] = job->r2[at + j];
            r12[j] = job->r1[at + j] * r2[j];
            place[j] = (at + j) / side * 4 * line + (at + j) % side * 4;
        }
        scale(s, s, rows + H, r12);
        scale(s + (rows + H) * TILE, s + (rows + H) * TILE, rows, r2);
        for (int sub = 0; sub < SUBS; sub++) {
            const int16_t *own = job->fine + (at * SUBS + sub * TILE) * FINE;
            const float *bias = job->fine_bias + sub * FINE, *size = job->fine_scale + sub * FINE;
            for (long c = 0; c < FINE; c++)
                for (int j = 0; j < TILE; j += LANES)
                    store(x + c * TILE + j, widen(own + c * TILE + j) * (load(r12 + j) * size[c]) + bias[c]);
            product(x, job->mix + sub * FINE * mixed, mixed, s, FINE, mixed, 1);
            settle(job, x);
            product(thin, job->thinner, FINE, x, SUBS * THIN, FINE, 0);
            for (long c = 0; c < SUBS * THIN; c++)
                for (int j = 0; j < TILE; j += LANES)
                    store(thin + c * TILE + j, gelu(load(thin + c * TILE + j) + job->thinner_bias[c]));
            for (int part = 0; part < SUBS; part++) {
                product(pixels, job->hyper, THIN, thin + part * THIN * TILE, masks, THIN, 0);
                float *corner = job->logits + (2 * (sub / 2) + part / 2) * line + 2 * (sub % 2) + part % 2;
                for (long m = 0; m < masks; m++)
                    for (int j = 0; j < TILE; j++) corner[m * line * line + place[j]] = pixels[m * TILE + j];
            }
        }
    }
}

/* Exact GELU, in place; for the features of a mask prompt. */
void activate(float *x, int64_t count)
{
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) store(x + i, gelu(load(x + i)));
    for (; i < count; i++) x[i] *= 0.5f * (1.0f + erff(x[i] * 0.70710678f));
}

/* out, of `rows` rows, = weight[rows][inner] x, x being `inner` rows; for columns `from` to `to`. */
void project(const float *weight, const float *x, float *out, int64_t rows, int64_t inner, int64_t from, int64_t to)
{
    for (long at = from; at < to; at += TILE) product(out + at * rows, weight, inner, x + at * inner, rows, inner, 0);
}

/* Rows of floats as 16-bit integers, each row with its own scale. `turned`: written as [cells][rows]. */
void quantise(const float *from, int64_t rows, int64_t cells, int turned, int16_t *to, float *scale)
{
    float by[SUBS * FINE];
    for (long r = 0; r < rows; r++) {
        vec top = all(0.0f);
        for (long at = 0; at < cells; at += TILE)
            for (int j = 0; j < TILE; j += LANES) {
                vec x = load(from + at * rows + r * TILE + j);
                top = larger(top, (vec)((ivec)x & 0x7fffffff));
            }
        float most = folded(top, 1);
        scale[r] = most > 0 ? most / 32767.0f : 1.0f;
        by[r] = 1.0f / scale[r];
    }
    for (long at = 0; at < cells; at += TILE)
        for (long r = 0; r < rows; r++)
            for (int j = 0; j < TILE; j++) {
                int16_t x = (int16_t)lrintf(from[at * rows + r * TILE + j] * by[r]);
                to[turned ? (at + j) * rows + r : at * rows + r * TILE + j] = x;
            }
}

/* The same, x being fp16 and `inner` a multiple of 64. */
void project_half(
    const float *weight, const uint16_t *x, float *out, int64_t rows, int64_t inner, int64_t from, int64_t to)
{
    float part[TILE * TILE];
    for (long at = from; at < to; at += TILE)
        for (long k = 0; k < inner; k += TILE) {
            const uint16_t *own = x + at * inner + k * TILE;
            for (int j = 0; j < TILE * TILE; j += LANES) store(part + j, from_half(own + j));
            product(out + at * rows, weight + k, inner, part, rows, TILE, k > 0);
        }
}
