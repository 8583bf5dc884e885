/* The decoder's work on the tokens: four steps between the passes over the cells;
   `samserve/decoder/sam/kernel_decoder.py` has the
   algebra. A few rows are multiplied by the weights. Reading these takes the time, so they are
   16-bit numbers. */

#include "decode_job.h"

#define LAST_SCALING 0.25f /* 1 / sqrt(HEAD) */

INLINE vec unscaled(const Packed16 *weight, long at)
{
    const int16_t *p = weight->numbers + at;
    return weight->half ? from_half((const uint16_t *)p) : widen(p);
}

/* y[n][outer] = x[n][inner] weight + bias */
static void linear(const Linear *l, const float *x, long n, float *y)
{
    float part[TILE * TILE];
    for (long o = 0; o < l->outer; o += TILE) {
        for (long i = 0; i < n; i++) memcpy(y + i * l->outer + o, l->bias + o,
            TILE * sizeof(float));
        for (long k = 0; k < l->inner; k += TILE) {
            for (long c = 0; c < TILE * TILE; c += LANES)
                store(part + c, unscaled(&l->weight,
                    o * l->inner + k * TILE + c) * load(l->weight.scale + o + c % TILE));
            multiply_tile(y + o, l->outer, x + k, l->inner, part, TILE, n, TILE, 1);
        }
    }
}

static void normalise(const Norm *norm, float *x, long n)
{
    for (float *row = x; row < x + n * CHANNELS; row += CHANNELS) {
        double sum = 0, square = 0;
        for (int c = 0; c < CHANNELS; c++) sum += row[c];
        float mean = (float)(sum / CHANNELS);
        for (int c = 0; c < CHANNELS; c++) square += (row[c] - mean) * (row[c] - mean);
        float by = 1.0f / sqrtf((float)(square / CHANNELS) + norm->epsilon);
        for (int c = 0; c < CHANNELS; c++) row[c] =
            (row[c] - mean) * by * norm->weight[c] + norm->bias[c];
    }
}

/* Rows less their mean, with `more` added: [rows][256]. */
static void centre(float *x, long rows, const float *more)
{
    for (float *row = x; row < x + rows * CHANNELS; row += CHANNELS) {
        vec sum = broadcast(0.0f);
        for (int c = 0; c < CHANNELS; c += LANES) sum += load(row + c);
        float mean = reduce(sum, 0) / CHANNELS;
        for (int c = 0; c < CHANNELS; c += LANES) store(row + c,
            load(row + c) - mean + (more ? load(more + c) : broadcast(0.0f)));
    }
}

static void add(float *to, const float *a, const float *b, long count)
{
    for (long i = 0; i < count; i += LANES) store(to + i, load(a + i) + load(b + i));
}

/* Each row times `by`: [rows][width]. */
static void scale_channels(float *to, const float *from, long rows, long width, const float *by)
{
    for (long r = 0; r < rows; r++)
        for (long c = 0; c < width; c += LANES) store(to + r * width + c,
            load(from + r * width + c) * load(by + c));
}

/* [n][128] -> [8][n][16], times `by` */
static void by_head(float *to, const float *from, long n, float by)
{
    for (long h = 0; h < HEADS; h++)
        for (long i = 0; i < n; i++)
            for (long c = 0; c < HEAD; c++) to[(h * n + i) * HEAD + c] =
                by * from[i * INNER + h * HEAD + c];
}

/* to[8][n][16] = tokens times each channel's number, [8][16] */
static void scaled(float *to, const float *tokens, long n, const float *by)
{
    for (long h = 0; h < HEADS; h++)
        for (long i = 0; i < n * HEAD; i++) to[h * n * HEAD + i] =
            tokens[h * n * HEAD + i] * by[h * HEAD + i % HEAD];
}

/* bias[T] = the sum of each token times the channels' numbers, [8][16] */
static void dot_by_head(float *bias, const float *tokens, long n, const float *by)
{
    for (long row = 0; row < HEADS * n; row++) {
        float sum = 0;
        for (long c = 0; c < HEAD; c++) sum += tokens[row * HEAD + c] * by[row / n * HEAD + c];
        bias[row] = sum;
    }
}

/* out[T][256] = each head's tokens [n][16] by its rows of weight [128][256] */
static void fold_heads(float *out, const float *tokens, long n, const Packed16 *weight)
{
    float part[HEAD * TILE];
    for (long h = 0; h < HEADS; h++)
        for (long o = 0; o < CHANNELS; o += TILE) {
            for (long c = 0; c < HEAD; c++)
                for (long j = 0; j < TILE; j += LANES)
                    store(part + c * TILE + j, unscaled(weight,
                        (h * HEAD + c) * CHANNELS + o + j) * weight->scale[h * HEAD + c]);
            multiply_tile(out + h * n * CHANNELS + o, CHANNELS, tokens + h * n * HEAD, HEAD, part,
                TILE, n, HEAD, 0);
        }
}

/* out[T][16] += x[T][256] by each head's weight [256][16] */
static void project_values(float *out, const float *x, long n, const Packed16 *weight)
{
    for (long h = 0; h < HEADS; h++)
        for (long i0 = 0; i0 < n; i0 += 8)
            for (long j = 0; j < HEAD; j += LANES) {
                const float *row[8];
                vec sum[8];
                for (long i = 0; i < 8; i++) {
                    row[i] = x + (h * n + (i0 + i < n ? i0 + i : i0)) * CHANNELS;
                    sum[i] = broadcast(0.0f);
                }
                for (long k = 0; k < CHANNELS; k++) {
                    vec right = unscaled(weight, (h * CHANNELS + k) * HEAD + j);
                    for (long i = 0; i < 8; i++) sum[i] += broadcast(row[i][k]) * right;
                }
                for (long i = 0; i < 8 && i0 + i < n; i++) {
                    float *to = out + (h * n + i0 + i) * HEAD + j;
                    store(to, load(to) + sum[i] * load(weight->scale + h * HEAD + j));
                }
            }
}

/* out[rows][columns], lines of `ldo`, = a[rows][inner] b[inner][columns]; columns in whole tiles */
static void multiply(float *out, long ldo, const float *a, long lda, const float *b, long ldb,
    long rows, long inner, long columns)
{
    for (long o = 0; o < columns; o += TILE) multiply_tile(out + o, ldo, a, lda, b + o, ldb, rows,
        inner, 0);
}

/* from[rows][256] -> to[256][line], the columns from `at` on */
static void transpose_into(float *to, long line, long at, const float *from, long rows)
{
    for (long r0 = 0; r0 < rows; r0 += 8)
        for (long c = 0; c < CHANNELS; c++)
            for (long r = r0; r < r0 + 8 && r < rows; r++) to[c * line + at + r] =
                from[r * CHANNELS + c];
}

/* Keep the lower half of a symmetric matrix, with half its diagonal; the rest of rows x rows is
   zero. */
static void lower_half(float *gram, long line, long rows)
{
    for (long r = 0; r < rows; r++) {
        gram[r * line + r] *= 0.5f;
        memset(gram + r * line + r + 1, 0, (rows - r - 1) * sizeof(float));
    }
}

/* queries = norm(the attention of `asking` to itself, with the values of `valued` (+ kept)) */
static void attend_each_other(const Layer *layer, const float *asking, const float *valued,
    const float *kept, long n, float *queries)
{
    float q[MOST_TOKENS * CHANNELS], k[MOST_TOKENS * CHANNELS], v[MOST_TOKENS * CHANNELS],
        mean[MOST_TOKENS * CHANNELS] = {0};
    const long head = CHANNELS / HEADS;
    const float scaling = 1.0f / sqrtf((float)head);
    linear(&layer->self_attention.query, asking, n, q);
    linear(&layer->self_attention.key, asking, n, k);
    linear(&layer->self_attention.value, valued, n, v);
    for (long h = 0; h < CHANNELS; h += head)
        for (long i = 0; i < n; i++) {
            float w[MOST_TOKENS], top = -3e38f, total = 0;
            for (long j = 0; j < n; j++) {
                vec sum = broadcast(0.0f);
                for (long c = h; c < h + head;
                    c += LANES) sum += load(q + i * CHANNELS + c) * load(k + j * CHANNELS + c);
                w[j] = reduce(sum, 0) * scaling;
                top = w[j] > top ? w[j] : top;
            }
            for (long j = 0; j < n; j++) total += w[j] = expf(w[j] - top);
            for (long c = h; c < h + head; c += LANES) {
                vec sum = broadcast(0.0f);
                for (long j = 0; j < n;
                    j++) sum += broadcast(w[j] / total) * load(v + j * CHANNELS + c);
                store(mean + i * CHANNELS + c, sum);
            }
        }
    linear(&layer->self_attention.out, mean, n, q);
    if (kept) add(q, q, kept, n * CHANNELS);
    memcpy(queries, q, n * CHANNELS * sizeof(float));
    normalise(&layer->norm1, queries, n);
}

/* Merge the sums of a pass's threads, outs[count] of [T][2 + width], to weighted means [T][width].
   */
static void merge(float *const *outs, long count, long rows, long width, float *means)
{
    for (long t = 0; t < rows; t++) {
        float top = -3e38f, total = 0;
        for (long k = 0; k < count; k++) top = fmaxf(top, outs[k][t * (2 + width)]);
        memset(means + t * width, 0, width * sizeof(float));
        for (long k = 0; k < count; k++) {
            const float *o = outs[k] + t * (2 + width);
            float by = expf(o[0] - top);
            total += by * o[1];
            for (long j = 0; j < width; j += LANES) store(means + t * width + j,
                load(means + t * width + j) + by * load(o + 2 + j));
        }
        for (long j = 0; j < width; j += LANES) store(means + t * width + j,
            load(means + t * width + j) * (1.0f / total));
    }
}

/* The tokens' scaled queries on the image: [8][n][16]. */
static void image_queries(const Job *job, const Linear *l, float *ask)
{
    float y[MOST_TOKENS * CHANNELS] = {0};
    add(y, job->scratch->state, job->prompt_tokens, job->tokens * CHANNELS);
    float asked[MOST_TOKENS * INNER];
    linear(l, y, job->tokens, asked);
    by_head(ask, asked, job->tokens, LAST_SCALING);
}

/* Add the result of the attention to the image to the state, [n][256]. means [T][width] begin with
   the
   means of the image's values; mixed [T][256] are the means of the rows that the layers added, or
   NULL. */
static void attend_image(const Job *job, const ToImage *to, const float *value_scale,
    const float *means, long width, const float *mixed)
{
    long n = job->tokens;
    float sums[MOST_ROWS * HEAD], flat[MOST_TOKENS * INNER], heard[MOST_TOKENS * CHANNELS];
    for (long h = 0; h < HEADS; h++)
        for (long row = h * n; row < (h + 1) * n; row++)
            for (long c = 0; c < HEAD; c++)
                sums[row * HEAD + c] =
                    means[row * width + c] * value_scale[h * HEAD + c] + to->value_bias[h
                        * HEAD + c];
    if (mixed) project_values(sums, mixed, n, &to->value);
    for (long row = 0; row < HEADS * n; row++) memcpy(flat + row % n * INNER + row / n * HEAD,
        sums + row * HEAD, HEAD * sizeof(float));
    linear(&to->out, flat, n, heard);
    add(job->scratch->state, job->scratch->state, heard, n * CHANNELS);
}

/* The rest of a layer's work on the tokens, then their keys and values for the image, [8][n][16]
   each. */
static void keys_and_values(const Job *job, const Layer *layer, float *keys, float *values)
{
    long n = job->tokens;
    float *queries = job->scratch->state, wide[MOST_TOKENS * WIDE], more[MOST_TOKENS * CHANNELS],
        flat[MOST_TOKENS * INNER];
    normalise(&layer->norm2, queries, n);
    linear(&layer->mlp_in, queries, n, wide);
    for (long i = 0; i < n * WIDE; i += LANES) store(wide + i, maximum(load(wide + i),
        broadcast(0.0f)));
    linear(&layer->mlp_out, wide, n, more);
    add(queries, queries, more, n * CHANNELS);
    normalise(&layer->norm3, queries, n);
    add(more, queries, job->prompt_tokens, n * CHANNELS);
    linear(&layer->from_image.key, more, n, flat);
    by_head(keys, flat, n, LAST_SCALING);
    linear(&layer->from_image.value, queries, n, flat);
    by_head(values, flat, n, 1.0f);
}

/* The first layer's self-attention, and the queries of its attention to the image. */
void tokens_begin(const Job *job)
{
    const Weights *weights = job->weights;
    Scratch *scratch = job->scratch;
    long n = job->tokens, rows = HEADS * n;
    float ask[MOST_ROWS * HEAD], folded[MOST_ROWS * CHANNELS];
    attend_each_other(&weights->first, job->prompt_tokens, job->prompt_tokens, NULL, n,
        scratch->state);
    image_queries(job, &weights->first.to_image.query, ask);
    scaled(scratch->queries0, ask, n, job->key0_scale);
    if (job->dense) {
        fold_heads(folded, ask, n, &weights->first.to_image.key);
        multiply(scratch->queries0_dense, DENSE_LINE, folded, CHANNELS, weights->dense_transposed,
            DENSE_LINE, rows, CHANNELS, DENSE_LINE);
    }
}

/* After pass_first: the image side is still X. */
void tokens_first(const Job *job, float *const *outs, int64_t count)
{
    const Weights *weights = job->weights;
    const FromImage *from = &weights->first.from_image;
    Scratch *scratch = job->scratch;
    long n = job->tokens, rows = HEADS * n, H = job->dense, mixed = rows + H,
        width = HEAD + PAD64(H), line = PAD64(mixed);
    float means[MOST_ROWS * (HEAD + DENSE_LINE)], wide[MOST_ROWS * CHANNELS],
        keys[MOST_ROWS * HEAD], values[MOST_ROWS * HEAD];
    merge(outs, count, rows, width, means);
    if (H) multiply(wide, CHANNELS, means + HEAD, width, weights->dense, CHANNELS, rows, H,
        CHANNELS);
    attend_image(job, &weights->first.to_image, job->value0_scale, means, width, H ? wide : NULL);
    keys_and_values(job, &weights->first, keys, values);

    scaled(scratch->keys0, keys, n, job->query0_scale);
    dot_by_head(scratch->keys0_bias, keys, n, from->query_bias);
    if (H) {
        fold_heads(wide, keys, n, &from->query);
        multiply(scratch->keys0_dense, DENSE_LINE, wide, CHANNELS, weights->dense_transposed,
            DENSE_LINE, rows, CHANNELS, DENSE_LINE);
    }
    scaled(scratch->values0, values, n, job->out0_scale);
    scaled(scratch->values0_second, values, n, job->norm1_scale);
    fold_heads(scratch->values, values, n, &from->out);
    centre(scratch->values, rows, from->out_bias);
    memcpy(scratch->values + rows * CHANNELS, weights->dense, H * CHANNELS * sizeof(float));
    centre(scratch->values + rows * CHANNELS, H, NULL);
    transpose_into(scratch->turned, line, 0, scratch->values, mixed);
    multiply(scratch->gram0, line, scratch->values, CHANNELS, scratch->turned, line, rows,
        CHANNELS, line);
    lower_half(scratch->gram0, line, rows);

    /* second layer: the image side is r1 (X + s1'm1) g1 + b1 */
    float asking[MOST_TOKENS * CHANNELS];
    add(asking, scratch->state, job->prompt_tokens, n * CHANNELS);
    attend_each_other(&weights->second, asking, scratch->state, scratch->state, n, scratch->state);
    image_queries(job, &weights->second.to_image.query, scratch->queries1_place);
    scaled(scratch->queries1, scratch->queries1_place, n, job->key1_scale);
    fold_heads(wide, scratch->queries1_place, n, &weights->second.to_image.key);
    scale_channels(wide, wide, rows, CHANNELS, weights->gain1);
    multiply(scratch->queries1_mixed, line, wide, CHANNELS, scratch->turned, line, rows, CHANNELS,
        line);
}

/* After pass_second. */
void tokens_second(const Job *job, float *const *outs, int64_t count)
{
    const Weights *weights = job->weights;
    const FromImage *from = &weights->second.from_image;
    Scratch *scratch = job->scratch;
    long n = job->tokens, rows = HEADS * n, mixed = rows + job->dense, line = PAD64(mixed),
        width = HEAD + line;
    long both = PAD64(mixed + rows);
    float means[MOST_ROWS * (HEAD + MOST_LINE)], wide[MOST_ROWS * CHANNELS],
        values[MOST_ROWS * HEAD];
    merge(outs, count, rows, width, means);
    multiply(wide, CHANNELS, means + HEAD, width, scratch->values, CHANNELS, rows, mixed, CHANNELS);
    scale_channels(wide, wide, rows, CHANNELS, weights->gain1);
    attend_image(job, &weights->second.to_image, job->value1_scale, means, width, wide);
    keys_and_values(job, &weights->second, scratch->keys1_place, values);

    scaled(scratch->keys1, scratch->keys1_place, n, job->query1_scale);
    dot_by_head(scratch->keys1_bias, scratch->keys1_place, n, from->query_bias);
    fold_heads(wide, scratch->keys1_place, n, &from->query);
    scale_channels(wide, wide, rows, CHANNELS, weights->gain1);
    multiply(scratch->keys1_mixed, line, wide, CHANNELS, scratch->turned, line, rows, CHANNELS,
        line);
    scaled(scratch->values1, values, n, job->out1_scale);
    fold_heads(scratch->values_own, values, n, &from->out);
    centre(scratch->values_own, rows, from->out_bias);
    scale_channels(scratch->values_next, scratch->values, mixed, CHANNELS, weights->gain1);
    centre(scratch->values_next, mixed, NULL);
    transpose_into(scratch->turned, both, 0, scratch->values_next, mixed);
    transpose_into(scratch->turned, both, mixed, scratch->values_own, rows);
    multiply(scratch->gram1, line, scratch->values_next, CHANNELS, scratch->turned, both, rows,
        CHANNELS, line);
    lower_half(scratch->gram1, line, rows);
    multiply(scratch->gram12, line, scratch->values_own, CHANNELS, scratch->turned, both, rows,
        CHANNELS, line);
    multiply(scratch->gram2, PAD64(rows), scratch->values_own, CHANNELS, scratch->turned + mixed,
        both, rows, CHANNELS, PAD64(rows));
    lower_half(scratch->gram2, PAD64(rows), rows);

    /* last attention: the image side is r2 (r1 (X g1 + s1'm1) + s2'm2) g2 + b2 */
    image_queries(job, &weights->last.query, scratch->queries2_place);
    scaled(scratch->queries2, scratch->queries2_place, n, job->key2_scale);
    fold_heads(wide, scratch->queries2_place, n, &weights->last.key);
    scale_channels(wide, wide, rows, CHANNELS, weights->gain2);
    multiply(scratch->queries2_mixed, both, wide, CHANNELS, scratch->turned, both, rows, CHANNELS,
        both);
}

/* Three linear layers with ReLUs between, for one row. */
static void mlp(const Linear *steps, const float *x, float *y)
{
    float a[CHANNELS], b[CHANNELS];
    linear(&steps[0], x, 1, a);
    for (int c = 0; c < CHANNELS; c += LANES) store(a + c, maximum(load(a + c), broadcast(0.0f)));
    linear(&steps[1], a, 1, b);
    for (int c = 0; c < CHANNELS; c += LANES) store(b + c, maximum(load(b + c), broadcast(0.0f)));
    linear(&steps[2], b, 1, y);
}

/* After pass_third: the predicted IoUs, and the factors of the masks. */
void tokens_last(const Job *job, float *const *outs, int64_t count)
{
    const Weights *weights = job->weights;
    Scratch *scratch = job->scratch;
    long n = job->tokens, rows = HEADS * n, mixed = rows + job->dense, line = PAD64(mixed),
        both = PAD64(mixed + rows);
    long width = HEAD + line + PAD64(rows);
    float means[MOST_ROWS * (HEAD + MOST_LINE + PAD64(MOST_ROWS))], wide[MOST_ROWS * CHANNELS];
    merge(outs, count, rows, width, means);
    for (long o = 0; o < CHANNELS; o += TILE) {
        multiply_tile(wide + o, CHANNELS, means + HEAD, width, scratch->values_next + o, CHANNELS,
            rows, mixed, 0);
        multiply_tile(wide + o, CHANNELS, means + HEAD + line, width, scratch->values_own + o,
            CHANNELS, rows, rows, 1);
    }
    scale_channels(wide, wide, rows, CHANNELS, weights->gain2);
    attend_image(job, &weights->last, job->value2_scale, means, width, wide);
    normalise(&weights->last_norm, scratch->state, n);
    multiply(scratch->mix, both, weights->upscale1, CHANNELS, scratch->turned, both, CHANNELS,
        CHANNELS, both);
    for (long m = 0; m < job->masks; m++)
        mlp(weights->hyper[job->wanted[m]], scratch->state + (1 + job->wanted[m]) * CHANNELS,
            scratch->hyper + m * TILE);
    mlp(weights->iou, scratch->state, job->ious);
}

int64_t tokens_bytes(void) { return sizeof(Scratch); }
int64_t weights_bytes(void) { return sizeof(Weights); }
int64_t job_bytes(void) { return sizeof(Job); }
