/* The decoder's work on the image side, in passes over its cells; `samserve/decoder/sam/kernel_decoder.py` has the algebra.

   Arithmetic is fp32; of the image, what is read once per prompt is kept as 16-bit integers with a scale per row, half the
   memory for the same masks. A tile is 64 neighbouring cells; an array of `rows` lies in memory as [tiles][rows][64], so that a
   tile is read in one piece and one kernel, C[rows][64] (+)= A[rows][k] B[k][64], does nearly all the arithmetic, on data
   that stay in the core's own cache from the attention's scores to the mask's logits. No state, no threads: callers split the
   cells among theirs. */

#include "decode_job.h"

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
    const Tokens *side = job->side;
    float scores[MOST_ROWS * TILE], rough[MOST_ROUGH * TILE], turned[TILE * PAD64(MOST_ROUGH)];
    start(job, out, width);
    for (long at = from; at < to; at += TILE) {
        against(job, scores, side->ask0, job->key0, at, 0);
        if (H) {
            memcpy(rough, job->rough_rows + at * H, H * TILE * sizeof(float));
            product(scores, side->ask0_rough, ROUGH_LINE, rough, rows, H, 1);
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
    const Tokens *side = job->side;
    const Weights *weights = job->weights;
    float scores[MOST_ROWS * TILE], other[MOST_ROWS * TILE], turned[TILE * PAD64(MOST_MIXED)];
    float s[MOST_MIXED * TILE], r1[TILE];
    start(job, out, width);
    for (long at = from; at < to; at += TILE) {
        memcpy(s + rows * TILE, job->rough_rows + at * H, H * TILE * sizeof(float));
        against(job, s, side->keys0, job->query0, at, 0);
        if (H) product(s, side->keys0_rough, ROUGH_LINE, s + rows * TILE, rows, H, 1);
        share(job, s, side->keys0_bias);
        memcpy(job->s1 + at * rows, s, rows * TILE * sizeof(float));

        against(job, other, side->values0, job->out0, at, 0);
        if (H) product(other, side->gram0 + rows, pad, s + rows * TILE, rows, H, 1);
        memcpy(r1, job->square0 + at, sizeof r1);
        measure(r1, s, side->gram0, pad, rows, other, 1);
        for (int j = 0; j < TILE; j++) r1[j] = 1.0f / sqrtf(r1[j] / CHANNELS + weights->epsilon1);
        memcpy(job->r1 + at, r1, sizeof r1);

        product(scores, side->ask1_mixed, pad, s, rows, mixed, 0);
        against(job, scores, side->ask1, job->key1, at, 1);
        scale(scores, scores, rows, r1);
        against_place(job, scores, side->ask1_place, weights->place_key1, at);
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
    long both = PAD64(mixed + rows), width = HEAD + pad + pad2;
    const Tokens *side = job->side;
    const Weights *weights = job->weights;
    float scores[MOST_ROWS * TILE], other[MOST_ROWS * TILE], turned[TILE * PAD64(MOST_MIXED)];
    float s[MOST_MIXED * TILE], t[MOST_ROWS * TILE], r1[TILE], r2[TILE], cross[TILE], own[TILE];
    start(job, out, width);
    for (long at = from; at < to; at += TILE) {
        memcpy(s, job->s1 + at * rows, rows * TILE * sizeof(float));
        memcpy(s + rows * TILE, job->rough_rows + at * H, H * TILE * sizeof(float));
        memcpy(r1, job->r1 + at, sizeof r1);
        product(t, side->keys1_mixed, pad, s, rows, mixed, 0);
        against(job, t, side->keys1, job->query1, at, 1);
        scale(t, t, rows, r1);
        against_place(job, t, side->keys1_place, weights->place_query1, at);
        share(job, t, side->keys1_bias);
        memcpy(job->s2 + at * rows, t, rows * TILE * sizeof(float));

        memcpy(r2, job->square1 + at, sizeof r2);
        against(job, other, side->values0_second, job->norm1, at, 0);
        if (H) product(other, side->gram1 + rows, pad, s + rows * TILE, rows, H, 1);
        measure(r2, s, side->gram1, pad, rows, other, 1);
        memcpy(cross, job->cross1 + at, sizeof cross);
        product(other, side->gram12, pad, s, rows, mixed, 0);
        against(job, other, side->values1, job->out1, at, 1);
        contract(cross, t, other, rows);
        memset(own, 0, sizeof own);
        measure(own, t, side->gram2, pad2, rows, other, 0);
        for (int j = 0; j < TILE; j++) {
            float variance = r1[j] * (r1[j] * r2[j] + cross[j]) + own[j];
            r2[j] = 1.0f / sqrtf(variance / CHANNELS + weights->epsilon2);
            r1[j] *= r2[j];
        }
        memcpy(job->r2 + at, r2, sizeof r2);

        product(scores, side->ask2_mixed, both, s, rows, mixed, 0);
        against(job, scores, side->ask2, job->key2, at, 1);
        scale(scores, scores, rows, r1);
        scale(other, t, rows, r2);
        product(scores, side->ask2_mixed + mixed, both, other, rows, rows, 1);
        against_place(job, scores, side->ask2_place, weights->place_key2, at);
        weigh(job, scores, out, width);
        transpose(turned, pad2, other, rows);
        correlate(job, scores, turned, pad2, out + 2 + HEAD + pad, 2 + width);
        scale(scores, scores, rows, r1);
        gather(job, scores, job->value2, at, out + 2, 2 + width);
        transpose(turned, pad, s, mixed);
        correlate(job, scores, turned, pad, out + 2 + HEAD, 2 + width);
    }
}

/* Of a finer map, if there is one. */
INLINE vec finer(const uint16_t *map, long at) { return map ? from_half(map + at) : all(0.0f); }

/* Norm over the 64 channels of each pixel, then GELU, in place: x[64][64 cells]. */
static void settle(const Weights *weights, float *x)
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
        store(spread, square * (1.0f / FINE) + weights->epsilon_fine);
        for (int k = 0; k < LANES; k++) spread[k] = 1.0f / sqrtf(spread[k]);
        vec by = load(spread);
        for (int c = 0; c < FINE; c++) {
            float *p = x + c * TILE + j;
            store(p, gelu((load(p) - mean) * by * weights->norm_weight[c] + weights->norm_bias[c]));
        }
    }
}

/* Both upscalings and the masks. Writes the logits of the cells' pixels. */
void pass_masks(const Job *job, int64_t from, int64_t to)
{
    long rows = HEADS * job->tokens, H = job->rough, mixed = 2 * rows + H, masks = job->masks;
    long length = (long)(sqrt((double)job->cells) + 0.5), beside = 4 * length, line = PAD64(mixed);
    const Tokens *side = job->side;
    const Weights *weights = job->weights;
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
            place[j] = (at + j) / length * 4 * beside + (at + j) % length * 4;
        }
        scale(s, s, rows + H, r12);
        scale(s + (rows + H) * TILE, s + (rows + H) * TILE, rows, r2);
        for (int sub = 0; sub < SUBS; sub++) {
            long first = (at * SUBS + sub * TILE) * FINE, second = (at * SUBS + sub * TILE) * SUBS * THIN;
            const int16_t *own = job->fine + first;
            const uint16_t *fine_1 = job->fine_1 ? job->fine_1 + first : NULL, *fine_0 = job->fine_0 ? job->fine_0 + second : NULL;
            const float *bias = weights->fine_bias + sub * FINE, *size = job->fine_scale + sub * FINE;
            for (long c = 0; c < FINE; c++)
                for (int j = 0; j < TILE; j += LANES) {
                    vec more = finer(fine_1, c * TILE + j) + bias[c];
                    store(x + c * TILE + j, widen(own + c * TILE + j) * (load(r12 + j) * size[c]) + more);
                }
            product(x, side->mix + sub * FINE * line, line, s, FINE, mixed, 1);
            settle(weights, x);
            product(thin, weights->thinner, FINE, x, SUBS * THIN, FINE, 0);
            for (long c = 0; c < SUBS * THIN; c++)
                for (int j = 0; j < TILE; j += LANES) {
                    vec more = finer(fine_0, c * TILE + j) + weights->thinner_bias[c];
                    store(thin + c * TILE + j, gelu(load(thin + c * TILE + j) + more));
                }
            for (int part = 0; part < SUBS; part++) {
                product(pixels, side->hyper, TILE, thin + part * THIN * TILE, masks, THIN, 0);
                float *corner = job->logits + (2 * (sub / 2) + part / 2) * beside + 2 * (sub % 2) + part % 2;
                for (long m = 0; m < masks; m++)
                    for (int j = 0; j < TILE; j++) corner[m * beside * beside + place[j]] = pixels[m * TILE + j];
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
