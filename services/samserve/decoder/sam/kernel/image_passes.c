/* The decoder's work on the image side, in passes over its cells;
   `samserve/decoder/sam/kernel_decoder.py` has the algebra.

   Arithmetic is fp32. The image's projections, which each prompt reads once, are 16-bit integers
   with
   a scale per row: half the memory for the same masks. A tile is 64 neighbouring cells. An array of
   `rows` lies in memory as [tiles][rows][64], so that a tile is read in one piece. One kind of
   product, C[rows][64] (+)= A[rows][k] B[k][64], does nearly all the arithmetic, on data that stay
   in
   the core's own cache from the attention's scores to the mask's logits. No state and no threads:
   callers divide the cells among their threads. */

#include "decode_job.h"

/* total[64] += 2 x the sum over rows of a x b */
static void add_products(float *total, const float *a, const float *b, long rows)
{
    for (int j = 0; j < TILE; j += LANES) {
        vec sum = broadcast(0.0f);
        for (long r = 0; r < rows; r++) sum += load(a + r * TILE + j) * load(b + r * TILE + j);
        store(total + j, load(total + j) + 2.0f * sum);
    }
}

/* total[64] += 2 s'(L s + U), where s is `rows` rows. This is s'G s + 2 s'U for a symmetric G whose
   lower half, with half the diagonal, is L. U comes in `products` if `add`. */
static void add_quadratic(float *total, const float *s, const float *lower, long lda, long rows,
    float *products, int add)
{
    for (long r = 0, count; r < rows; r += count) {
        count = rows - r < ROWS ? rows - r : ROWS;
        product(products + r * TILE, lower + r * lda, lda, s, count, r + count, add);
    }
    add_products(total, s, products, rows);
}

/* scores[T][64] (+)= each head's tokens on its 16 channels of a part */
INLINE void score(const Job *job, float *scores, const float *tokens, const int16_t *part,
    long at, int add)
{
    float channels[HEAD * TILE];
    for (int h = 0; h < HEADS; h++) {
        long row = h * job->tokens;
        const int16_t *own = part + (at * HEADS + h * TILE) * HEAD;
        for (int j = 0; j < HEAD * TILE; j += LANES) store(channels + j, widen(own + j));
        product(scores + row * TILE, tokens + row * HEAD, HEAD, channels, job->tokens, HEAD, add);
    }
}

/* The same on the projected positional encoding. */
INLINE void score_places(const Job *job, float *scores, const float *tokens, const float *place,
    long at)
{
    for (int h = 0; h < HEADS; h++) {
        long row = h * job->tokens;
        product(scores + row * TILE, tokens + row * HEAD, HEAD,
            place + (at * HEADS + h * TILE) * HEAD, job->tokens, HEAD, 1);
    }
}

/* Softmax of each cell over the tokens of each head, in place. */
static void softmax_tokens(const Job *job, float *scores, const float *bias)
{
    long n = job->tokens;
    for (int h = 0; h < HEADS; h++)
        for (int j = 0; j < TILE; j += LANES) {
            float *s = scores + h * n * TILE + j;
            vec top = broadcast(-3e38f), total = broadcast(0.0f);
            for (long i = 0; i < n; i++) {
                vec x = load(s + i * TILE) + bias[h * n + i];
                store(s + i * TILE, x);
                top = maximum(top, x);
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

INLINE float largest(const float *p)
{
    vec top = load(p);
    for (int j = LANES; j < TILE; j += LANES) top = maximum(top, load(p + j));
    return reduce(top, 1);
}

/* One tile of a softmax over all cells. For each row `out` has the largest score so far, the total
   of
   the weights relative to it, and `width` weighted sums: [T][2 + width]. Turns the tile's scores
   into
   weights. */
static void weigh(const Job *job, float *scores, float *out, long width)
{
    for (long t = 0; t < HEADS * job->tokens; t++) {
        float *s = scores + t * TILE, *o = out + t * (2 + width), top = largest(s);
        if (top > o[0]) {
            float fade = expf(o[0] - top);
            o[0] = top;
            for (long j = 1; j < 2 + width; j++) o[j] *= fade;
        }
        vec total = broadcast(0.0f);
        for (int j = 0; j < TILE; j += LANES) {
            vec w = exponential(load(s + j) - o[0]);
            store(s + j, w);
            total += w;
        }
        o[1] += reduce(total, 0);
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
/* rows that are summed together, so that no addition waits for the one before it */
#define BESIDE 8
static void sum_values(const Job *job, const float *weights, const int16_t *part, long at,
    float *sums, long stride)
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
                    sum[i] = broadcast(0.0f);
                }
                for (int c = 0; c < TILE; c++) {
                    vec right = widen(v + c * HEADS * HEAD);
                    for (long i = 0; i < BESIDE; i++) sum[i] += broadcast(w[i][c]) * right;
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
                for (long r = r0; r < r0 + 8; r++) to[c * width + r] =
                    r < rows ? from[r * TILE + c] : 0.0f;
}

/* sums[T][width] += weights[T][64] turned[64][width]; width is a multiple of 64 */
static void sum_rows(const Job *job, const float *weights, const float *turned, long width,
    float *sums, long stride)
{
    for (long j = 0; j < width; j += TILE)
        multiply_tile(sums + j, stride, weights, TILE, turned + j, width, HEADS * job->tokens,
            TILE, 1);
}

static void scale(float *to, const float *from, long rows, const float *by)
{
    for (long r = 0; r < rows; r++)
        for (int j = 0; j < TILE; j += LANES) store(to + r * TILE + j,
            load(from + r * TILE + j) * load(by + j));
}


/* First layer, tokens to image. out[T][2 + 16 + PAD64(H)]: top, total, sums of value0, sums of the
   dense rows. */
void pass_first(const Job *job, int64_t from, int64_t to, float *out)
{
    long rows = HEADS * job->tokens, H = job->dense, pad = PAD64(H), width = HEAD + pad;
    const Scratch *scratch = job->scratch;
    float scores[MOST_ROWS * TILE], dense[MOST_DENSE * TILE], turned[TILE * PAD64(MOST_DENSE)];
    start(job, out, width);
    for (long at = from; at < to; at += TILE) {
        score(job, scores, scratch->queries0, job->key0, at, 0);
        if (H) {
            memcpy(dense, job->dense_rows + at * H, H * TILE * sizeof(float));
            product(scores, scratch->queries0_dense, DENSE_LINE, dense, rows, H, 1);
        }
        weigh(job, scores, out, width);
        sum_values(job, scores, job->value0, at, out + 2, 2 + width);
        if (H) {
            transpose(turned, pad, dense, H);
            sum_rows(job, scores, turned, pad, out + 2 + HEAD, 2 + width);
        }
    }
}

/* First layer, image to tokens; then the second's tokens to image. Leaves s1, r1.
   out[T][2 + 16 + PAD64(T + H)]: top, total, sums of r1 value1, sums of r1 (s1, dense). */
void pass_second(const Job *job, int64_t from, int64_t to, float *out)
{
    long rows = HEADS * job->tokens, H = job->dense, mixed = rows + H, pad = PAD64(mixed),
        width = HEAD + pad;
    const Scratch *scratch = job->scratch;
    const Weights *weights = job->weights;
    float scores[MOST_ROWS * TILE], other[MOST_ROWS * TILE], turned[TILE * PAD64(MOST_MIXED)];
    float s[MOST_MIXED * TILE], r1[TILE];
    start(job, out, width);
    for (long at = from; at < to; at += TILE) {
        memcpy(s + rows * TILE, job->dense_rows + at * H, H * TILE * sizeof(float));
        score(job, s, scratch->keys0, job->query0, at, 0);
        if (H) product(s, scratch->keys0_dense, DENSE_LINE, s + rows * TILE, rows, H, 1);
        /* s1: the attention of the cells to the tokens */
        softmax_tokens(job, s, scratch->keys0_bias);
        memcpy(job->s1 + at * rows, s, rows * TILE * sizeof(float));

        /* r1: one over the deviation of X + s1'm1 */
        score(job, other, scratch->values0, job->out0, at, 0);
        if (H) product(other, scratch->gram0 + rows, pad, s + rows * TILE, rows, H, 1);
        memcpy(r1, job->square0 + at, sizeof r1);
        add_quadratic(r1, s, scratch->gram0, pad, rows, other, 1);
        for (int j = 0; j < TILE; j++) r1[j] = 1.0f / sqrtf(r1[j] / CHANNELS + weights->epsilon1);
        memcpy(job->r1 + at, r1, sizeof r1);

        /* the second layer's scores on r1 (X + s1'm1) g1 + place, and the sums of a softmax over
           them */
        product(scores, scratch->queries1_mixed, pad, s, rows, mixed, 0);
        score(job, scores, scratch->queries1, job->key1, at, 1);
        scale(scores, scores, rows, r1);
        score_places(job, scores, scratch->queries1_place, weights->place_key1, at);
        weigh(job, scores, out, width);
        scale(scores, scores, rows, r1);
        sum_values(job, scores, job->value1, at, out + 2, 2 + width);
        transpose(turned, pad, s, mixed);
        sum_rows(job, scores, turned, pad, out + 2 + HEAD, 2 + width);
    }
}

/* Second layer, image to tokens; then the last tokens to image. Leaves s2, r2.
   out[T][2 + 16 + PAD64(T + H) + PAD64(T)]: top, total, sums of r1 r2 value2, of r1 r2 (s1,
   dense), of r2 s2. */
void pass_third(const Job *job, int64_t from, int64_t to, float *out)
{
    long rows = HEADS * job->tokens, H = job->dense, mixed = rows + H, pad = PAD64(mixed),
        pad2 = PAD64(rows);
    long both = PAD64(mixed + rows), width = HEAD + pad + pad2;
    const Scratch *scratch = job->scratch;
    const Weights *weights = job->weights;
    float scores[MOST_ROWS * TILE], other[MOST_ROWS * TILE], turned[TILE * PAD64(MOST_MIXED)];
    float s[MOST_MIXED * TILE], t[MOST_ROWS * TILE], r1[TILE], r2[TILE], cross[TILE], own[TILE];
    start(job, out, width);
    for (long at = from; at < to; at += TILE) {
        /* s2, in t: the attention of the cells to the tokens, whose image side is r1 (X + s1'm1)
           g1 */
        memcpy(s, job->s1 + at * rows, rows * TILE * sizeof(float));
        memcpy(s + rows * TILE, job->dense_rows + at * H, H * TILE * sizeof(float));
        memcpy(r1, job->r1 + at, sizeof r1);
        product(t, scratch->keys1_mixed, pad, s, rows, mixed, 0);
        score(job, t, scratch->keys1, job->query1, at, 1);
        scale(t, t, rows, r1);
        score_places(job, t, scratch->keys1_place, weights->place_query1, at);
        softmax_tokens(job, t, scratch->keys1_bias);
        memcpy(job->s2 + at * rows, t, rows * TILE * sizeof(float));

        /* the parts of the variance: r2 = |(X + s1'm1) g1|^2, cross = its product with s2'm2, own
           = |s2'm2|^2 */
        memcpy(r2, job->square1 + at, sizeof r2);
        score(job, other, scratch->values0_second, job->norm1, at, 0);
        if (H) product(other, scratch->gram1 + rows, pad, s + rows * TILE, rows, H, 1);
        add_quadratic(r2, s, scratch->gram1, pad, rows, other, 1);
        memcpy(cross, job->cross1 + at, sizeof cross);
        product(other, scratch->gram12, pad, s, rows, mixed, 0);
        score(job, other, scratch->values1, job->out1, at, 1);
        add_products(cross, t, other, rows);
        memset(own, 0, sizeof own);
        add_quadratic(own, t, scratch->gram2, pad2, rows, other, 0);
        /* r2 becomes one over the deviation, and r1 the product of both */
        for (int j = 0; j < TILE; j++) {
            float variance = r1[j] * (r1[j] * r2[j] + cross[j]) + own[j];
            r2[j] = 1.0f / sqrtf(variance / CHANNELS + weights->epsilon2);
            r1[j] *= r2[j];
        }
        memcpy(job->r2 + at, r2, sizeof r2);

        /* the last attention's scores on keys2 + place, and the sums of a softmax over them */
        product(scores, scratch->queries2_mixed, both, s, rows, mixed, 0);
        score(job, scores, scratch->queries2, job->key2, at, 1);
        scale(scores, scores, rows, r1);
        scale(other, t, rows, r2);
        product(scores, scratch->queries2_mixed + mixed, both, other, rows, rows, 1);
        score_places(job, scores, scratch->queries2_place, weights->place_key2, at);
        weigh(job, scores, out, width);
        transpose(turned, pad2, other, rows);
        sum_rows(job, scores, turned, pad2, out + 2 + HEAD + pad, 2 + width);
        scale(scores, scores, rows, r1);
        sum_values(job, scores, job->value2, at, out + 2, 2 + width);
        transpose(turned, pad, s, mixed);
        sum_rows(job, scores, turned, pad, out + 2 + HEAD, 2 + width);
    }
}

/* Numbers of a finer map, or zeros. */
INLINE vec finer(const uint16_t *map,
    long at) { return map ? from_half(map + at) : broadcast(0.0f); }

/* Norm over the 64 channels of each pixel, then GELU, in place: x[64][64 cells]. */
static void norm_and_gelu(const Weights *weights, float *x)
{
    for (int j = 0; j < TILE; j += LANES) {
        vec sum = broadcast(0.0f), square = broadcast(0.0f);
        for (int c = 0; c < FINE; c++) sum += load(x + c * TILE + j);
        vec mean = sum * (1.0f / FINE);
        for (int c = 0; c < FINE; c++) {
            vec apart = load(x + c * TILE + j) - mean;
            square += apart * apart;
        }
        float spread[LANES];
        store(spread, square * (1.0f / FINE) + weights->upscale_epsilon);
        for (int k = 0; k < LANES; k++) spread[k] = 1.0f / sqrtf(spread[k]);
        vec by = load(spread);
        for (int c = 0; c < FINE; c++) {
            float *p = x + c * TILE + j;
            store(p, gelu((load(p) - mean) * by * weights->upscale_norm_weight[c]
                + weights->upscale_norm_bias[c]));
        }
    }
}

/* Both upscalings and the masks. Writes the logits of the cells' pixels. */
void pass_masks(const Job *job, int64_t from, int64_t to)
{
    long rows = HEADS * job->tokens, H = job->dense, mixed = 2 * rows + H, masks = job->masks;
    long length = (long)(sqrt((double)job->cells) + 0.5), beside = 4 * length, line = PAD64(mixed);
    const Scratch *scratch = job->scratch;
    const Weights *weights = job->weights;
    float s[(MOST_MIXED + MOST_ROWS) * TILE], x[FINE * TILE], thin[SUBS * THIN * TILE], r2[TILE],
        r12[TILE];
    float pixels[MOST_MASKS * TILE];
    long place[TILE];
    for (long at = from; at < to; at += TILE) {
        memcpy(s, job->s1 + at * rows, rows * TILE * sizeof(float));
        memcpy(s + rows * TILE, job->dense_rows + at * H, H * TILE * sizeof(float));
        memcpy(s + (rows + H) * TILE, job->s2 + at * rows, rows * TILE * sizeof(float));
        for (int j = 0; j < TILE; j++) {
            r2[j] = job->r2[at + j];
            r12[j] = job->r1[at + j] * r2[j];
            place[j] = (at + j) / length * 4 * beside + (at + j) % length * 4;
        }
        /* the rows as they count in keys2 */
        scale(s, s, rows + H, r12);
        scale(s + (rows + H) * TILE, s + (rows + H) * TILE, rows, r2);
        for (int sub = 0; sub < SUBS; sub++) {
            long first = (at * SUBS + sub * TILE) * FINE,
                second = (at * SUBS + sub * TILE) * SUBS * THIN;
            const int16_t *own = job->upscaled + first;
            const uint16_t *fine_1 = job->fine_1 ? job->fine_1 + first : NULL,
                *fine_0 = job->fine_0 ? job->fine_0 + second : NULL;
            const float *bias = weights->upscale1_bias + sub * FINE,
                *size = job->upscaled_scale + sub * FINE;
            /* first upscaling of one pixel in four: the image's part, then the rows' part */
            for (long c = 0; c < FINE; c++)
                for (int j = 0; j < TILE; j += LANES) {
                    vec more = finer(fine_1, c * TILE + j) + bias[c];
                    store(x + c * TILE + j,
                        widen(own + c * TILE + j) * (load(r12 + j) * size[c]) + more);
                }
            product(x, scratch->mix + sub * FINE * line, line, s, FINE, mixed, 1);
            norm_and_gelu(weights, x);
            /* second upscaling, all four pixels at once */
            product(thin, weights->upscale2, FINE, x, SUBS * THIN, FINE, 0);
            for (long c = 0; c < SUBS * THIN; c++)
                for (int j = 0; j < TILE; j += LANES) {
                    vec more = finer(fine_0, c * TILE + j) + weights->upscale2_bias[c];
                    store(thin + c * TILE + j, gelu(load(thin + c * TILE + j) + more));
                }
            /* the masks, pixel by pixel to its place in the logits */
            for (int part = 0; part < SUBS; part++) {
                product(pixels, scratch->hyper, TILE, thin + part * THIN * TILE, masks, THIN, 0);
                float *corner =
                    job->logits + (2 * (sub / 2) + part / 2) * beside + 2 * (sub % 2) + part % 2;
                for (long m = 0; m < masks; m++)
                    for (int j = 0; j < TILE; j++) corner[m * beside * beside + place[j]] =
                        pixels[m * TILE + j];
            }
        }
    }
}

/* Exact GELU in place, for the features of a mask prompt. */
void activate(float *x, int64_t count)
{
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) store(x + i, gelu(load(x + i)));
    for (; i < count; i++) x[i] *= 0.5f * (1.0f + erff(x[i] * 0.70710678f));
}

/* out, of `rows` rows, = weight[rows][inner] x, x being `inner` rows; for columns `from` to `to`.
   */
void project(const float *weight, const float *x, float *out, int64_t rows, int64_t inner,
    int64_t from, int64_t to)
{
    for (long at = from; at < to; at += TILE) product(out + at * rows, weight, inner,
        x + at * inner, rows, inner, 0);
}

/* Rows of floats as 16-bit integers, each row with its own scale. `turned`: written as
   [cells][rows]. */
void quantise(const float *from, int64_t rows, int64_t cells, int turned, int16_t *to, float *scale)
{
    float by[SUBS * FINE];
    for (long r = 0; r < rows; r++) {
        vec top = broadcast(0.0f);
        for (long at = 0; at < cells; at += TILE)
            for (int j = 0; j < TILE; j += LANES) {
                vec x = load(from + at * rows + r * TILE + j);
                top = maximum(top, (vec)((ivec)x & 0x7fffffff));
            }
        float most = reduce(top, 1);
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
