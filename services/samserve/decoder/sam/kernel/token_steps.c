/* The decoder's work on the tokens: four steps between the passes over the cells; `samserve/decoder/sam/kernel_decoder.py` has the
   algebra. A few rows against the weights: what takes time is to read those, so they are numbers of 16 bits. */

#include "decode_job.h"

#define LAST_SCALING 0.25f /* 1 / sqrt(HEAD) */

INLINE vec unscaled(const Small *weight, long at)
{
    const int16_t *p = weight->numbers + at;
    return weight->half ? from_half((const uint16_t *)p) : widen(p);
}

/* y[n][outer] = x[n][inner] weight + bias */
static void linear(const Linear *l, const float *x, long n, float *y)
{
    float part[TILE * TILE];
    for (long o = 0; o < l->outer; o += TILE) {
        for (long i = 0; i < n; i++) memcpy(y + i * l->outer + o, l->bias + o, TILE * sizeof(float));
        for (long k = 0; k < l->inner; k += TILE) {
            for (long c = 0; c < TILE * TILE; c += LANES)
                store(part + c, unscaled(&l->weight, o * l->inner + k * TILE + c) * load(l->weight.scale + o + c % TILE));
            spread(y + o, l->outer, x + k, l->inner, part, TILE, n, TILE, 1);
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
        for (int c = 0; c < CHANNELS; c++) row[c] = (row[c] - mean) * by * norm->weight[c] + norm->bias[c];
    }
}

/* Rows less their mean, with `more` added: [rows][256]. */
static void centre(float *x, long rows, const float *more)
{
    for (float *row = x; row < x + rows * CHANNELS; row += CHANNELS) {
        vec sum = all(0.0f);
        for (int c = 0; c < CHANNELS; c += LANES) sum += load(row + c);
        float mean = folded(sum, 0) / CHANNELS;
        for (int c = 0; c < CHANNELS; c += LANES) store(row + c, load(row + c) - mean + (more ? load(more + c) : all(0.0f)));
    }
}

static void add(float *to, const float *a, const float *b, long count)
{
    for (long i = 0; i < count; i += LANES) store(to + i, load(a + i) + load(b + i));
}

/* Each row times `by`: [rows][width]. */
static void gain(float *to, const float *from, long rows, long width, const float *by)
{
    for (long r = 0; r < rows; r++)
        for (long c = 0; c < width; c += LANES) store(to + r * width + c, load(from + r * width + c) * load(by + c));
}

/* [n][128] -> [8][n][16], times `by` */
static void by_head(float *to, const float *from, long n, float by)
{
    for (long h = 0; h < HEADS; h++)
        for (long i = 0; i < n; i++)
            for (long c = 0; c < HEAD; c++) to[(h * n + i) * HEAD + c] = by * from[i * INNER + h * HEAD + c];
}

/* to[8][n][16] = tokens times each channel's number, [8][16] */
static void scaled(float *to, const float *tokens, long n, const float *by)
{
    for (long h = 0; h < HEADS; h++)
        for (long i = 0; i < n * HEAD; i++) to[h * n * HEAD + i] = tokens[h * n * HEAD + i] * by[h * HEAD + i % HEAD];
}

/* bias[T] = the sum of each token times the channels' numbers, [8][16] */
static void sums_with(float *bias, const float *tokens, long n, const float *by)
{
    for (long row = 0; row < HEADS * n; row++) {
        float sum = 0;
        for (long c = 0; c < HEAD; c++) sum += tokens[row * HEAD + c] * by[row / n * HEAD + c];
        bias[row] = sum;
    }
}

/* out[T][256] = each head's tokens [n][16] by its rows of weight [128][256] */
static void fold(float *out, const float *tokens, long n, const Small *weight)
{
    float part[HEAD * TILE];
    for (long h = 0; h < HEADS; h++)
        for (long o = 0; o < CHANNELS; o += TILE) {
            for (long c = 0; c < HEAD; c++)
                for (long j = 0; j < TILE; j += LANES)
                    store(part + c * TILE + j, unscaled(weight, (h * HEAD + c) * CHANNELS + o + j) * weight->scale[h * HEAD + c]);
            spread(out + h * n * CHANNELS + o, CHANNELS, tokens + h * n * HEAD, HEAD, part, TILE, n, HEAD, 0);
        }
}

/* out[T][16] += x[T][256] by each head's weight [256][16] */
static void project_back(float *out, const float *x, long n, const Small *weight)
{
    for (long h = 0; h < HEADS; h++)
        for (long i0 = 0; i0 < n; i0 += 8)
            for (long j = 0; j < HEAD; j += LANES) {
                const float *row[8];
                vec sum[8];
                for (long i = 0; i < 8; i++) {
                    row[i] = x + (h * n + (i0 + i < n ? i0 + i : i0)) * CHANNELS;
                    sum[i] = all(0.0f);
                }
                for (long k = 0; k < CHANNELS; k++) {
                    vec right = unscaled(weight, (h * CHANNELS + k) * HEAD + j);
                    for (long i = 0; i < 8; i++) sum[i] += all(row[i][k]) * right;
                }
                for (long i = 0; i < 8 && i0 + i < n; i++) {
                    float *to = out + (h * n + i0 + i) * HEAD + j;
                    store(to, load(to) + sum[i] * load(weight->scale + h * HEAD + j));
                }
            }
}

/* out[rows][columns], lines of `ldo`, = a[rows][inner] b[inner][columns]; columns in whole tiles */
static void times(float *out, long ldo, const float *a, long lda, const float *b, long ldb, long rows, long inner, long columns)
{
    for (long o = 0; o < columns; o += TILE) spread(out + o, ldo, a, lda, b + o, ldb, rows, inner, 0);
}

/* from[rows][256] -> to[256][line], the columns from `at` on */
static void turn(float *to, long line, long at, const float *from, long rows)
{
    for (long r0 = 0; r0 < rows; r0 += 8)
        for (long c = 0; c < CHANNELS; c++)
            for (long r = r0; r < r0 + 8 && r < rows; r++) to[c * line + at + r] = from[r * CHANNELS + c];
}

/* A symmetric matrix's lower half, with half its diagonal: the rest of the leading rows x rows is zero. */
static void lower_half(float *gram, long line, long rows)
{
    for (long r = 0; r < rows; r++) {
        gram[r * line + r] *= 0.5f;
        memset(gram + r * line + r + 1, 0, (rows - r - 1) * sizeof(float));
    }
}

/* queries = norm(the attention of `asking` to itself, with the values of `valued` (+ kept)) */
static void among(const Layer *layer, const float *asking, const float *valued, const float *kept, long n, float *queries)
{
    float q[MOST_TOKENS * CHANNELS], k[MOST_TOKENS * CHANNELS], v[MOST_TOKENS * CHANNELS], mean[MOST_TOKENS * CHANNELS] = {0};
    const long head = CHANNELS / HEADS;
    const float scaling = 1.0f / sqrtf((float)head);
    linear(&layer->own.query, asking, n, q);
    linear(&layer->own.key, asking, n, k);
    linear(&layer->own.value, valued, n, v);
    for (long h = 0; h < CHANNELS; h += head)
        for (long i = 0; i < n; i++) {
            float w[MOST_TOKENS], top = -3e38f, total = 0;
            for (long j = 0; j < n; j++) {
                vec sum = all(0.0f);
                for (long c = h; c < h + head; c += LANES) sum += load(q + i * CHANNELS + c) * load(k + j * CHANNELS + c);
                w[j] = folded(sum, 0) * scaling;
                top = w[j] > top ? w[j] : top;
            }
            for (long j = 0; j < n; j++) total += w[j] = expf(w[j] - top);
            for (long c = h; c < h + head; c += LANES) {
                vec sum = all(0.0f);
                for (long j = 0; j < n; j++) sum += all(w[j] / total) * load(v + j * CHANNELS + c);
                store(mean + i * CHANNELS + c, sum);
            }
        }
    linear(&layer->own.join, mean, n, q);
    if (kept) add(q, q, kept, n * CHANNELS);
    memcpy(queries, q, n * CHANNELS * sizeof(float));
    normalise(&layer->norm1, queries, n);
}

/* The weighted means of a pass from what its callers summed, outs[count] of [T][2 + width]: -> [T][width]. */
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
            for (long j = 0; j < width; j += LANES) store(means + t * width + j, load(means + t * width + j) + by * load(o + 2 + j));
        }
        for (long j = 0; j < width; j += LANES) store(means + t * width + j, load(means + t * width + j) * (1.0f / total));
    }
}

/* The tokens' scaled queries on the image: [8][n][16]. */
static void asks(const Job *job, const Linear *l, float *ask)
{
    float y[MOST_TOKENS * CHANNELS] = {0};
    add(y, job->side->queries, job->given, job->tokens * CHANNELS);
    float asked[MOST_TOKENS * INNER];
    linear(l, y, job->tokens, asked);
    by_head(ask, asked, job->tokens, LAST_SCALING);
}

/* What the tokens hear of the image, [n][256], added to the queries: from `means` [T][width], which begin with the sums of the
   value part, and from `mixed` [T][256], what they have of the rows that the layers added (NULL: nothing). */
static void hear(const Job *job, const ToImage *to, const float *value_scale, const float *means, long width, const float *mixed)
{
    long n = job->tokens;
    float sums[MOST_ROWS * HEAD], flat[MOST_TOKENS * INNER], heard[MOST_TOKENS * CHANNELS];
    for (long h = 0; h < HEADS; h++)
        for (long row = h * n; row < (h + 1) * n; row++)
            for (long c = 0; c < HEAD; c++)
                sums[row * HEAD + c] = means[row * width + c] * value_scale[h * HEAD + c] + to->value_bias[h * HEAD + c];
    if (mixed) project_back(sums, mixed, n, &to->value);
    for (long row = 0; row < HEADS * n; row++) memcpy(flat + row % n * INNER + row / n * HEAD, sums + row * HEAD, HEAD * sizeof(float));
    linear(&to->join, flat, n, heard);
    add(job->side->queries, job->side->queries, heard, n * CHANNELS);
}

/* The rest of a layer's own work on the tokens, then what they offer the image: keys and values, [8][n][16] each. */
static void offer(const Job *job, const Layer *layer, float *keys, float *values)
{
    long n = job->tokens;
    float *queries = job->side->queries, wide[MOST_TOKENS * WIDE], more[MOST_TOKENS * CHANNELS], flat[MOST_TOKENS * INNER];
    normalise(&layer->norm2, queries, n);
    linear(&layer->wide, queries, n, wide);
    for (long i = 0; i < n * WIDE; i += LANES) store(wide + i, larger(load(wide + i), all(0.0f)));
    linear(&layer->narrow, wide, n, more);
    add(queries, queries, more, n * CHANNELS);
    normalise(&layer->norm3, queries, n);
    add(more, queries, job->given, n * CHANNELS);
    linear(&layer->from_image.key, more, n, flat);
    by_head(keys, flat, n, LAST_SCALING);
    linear(&layer->from_image.value, queries, n, flat);
    by_head(values, flat, n, 1.0f);
}

/* The tokens themselves, and what they ask the image first. */
void tokens_begin(const Job *job)
{
    const Weights *weights = job->weights;
    Tokens *side = job->side;
    long n = job->tokens, rows = HEADS * n;
    float ask[MOST_ROWS * HEAD], folded[MOST_ROWS * CHANNELS];
    among(&weights->first, job->given, job->given, NULL, n, side->queries);
    asks(job, &weights->first.to_image.ask, ask);
    scaled(side->ask0, ask, n, job->key0_scale);
    if (job->rough) {
        fold(folded, ask, n, &weights->first.to_image.key);
        times(side->ask0_rough, ROUGH_LINE, folded, CHANNELS, weights->rough_turned, ROUGH_LINE, rows, CHANNELS, ROUGH_LINE);
    }
}

/* After pass_first: the image side is still X. */
void tokens_first(const Job *job, float *const *outs, int64_t count)
{
    const Weights *weights = job->weights;
    const FromImage *from = &weights->first.from_image;
    Tokens *side = job->side;
    long n = job->tokens, rows = HEADS * n, H = job->rough, mixed = rows + H, width = HEAD + PAD64(H), line = PAD64(mixed);
    float means[MOST_ROWS * (HEAD + ROUGH_LINE)], wide[MOST_ROWS * CHANNELS], keys[MOST_ROWS * HEAD], values[MOST_ROWS * HEAD];
    merge(outs, count, rows, width, means);
    if (H) times(wide, CHANNELS, means + HEAD, width, weights->rough, CHANNELS, rows, H, CHANNELS);
    hear(job, &weights->first.to_image, job->value0_scale, means, width, H ? wide : NULL);
    offer(job, &weights->first, keys, values);

    scaled(side->keys0, keys, n, job->query0_scale);
    sums_with(side->keys0_bias, keys, n, from->query_bias);
    if (H) {
        fold(wide, keys, n, &from->query);
        times(side->keys0_rough, ROUGH_LINE, wide, CHANNELS, weights->rough_turned, ROUGH_LINE, rows, CHANNELS, ROUGH_LINE);
    }
    scaled(side->values0, values, n, job->out0_scale);
    scaled(side->values0_second, values, n, job->norm1_scale);
    fold(side->values, values, n, &from->out);
    centre(side->values, rows, from->out_bias);
    memcpy(side->values + rows * CHANNELS, weights->rough, H * CHANNELS * sizeof(float));
    centre(side->values + rows * CHANNELS, H, NULL);
    turn(side->turned, line, 0, side->values, mixed);
    times(side->gram0, line, side->values, CHANNELS, side->turned, line, rows, CHANNELS, line);
    lower_half(side->gram0, line, rows);

    /* second layer: the image side is r1 (X + s1'm1) g1 + b1 */
    float asking[MOST_TOKENS * CHANNELS];
    add(asking, side->queries, job->given, n * CHANNELS);
    among(&weights->second, asking, side->queries, side->queries, n, side->queries);
    asks(job, &weights->second.to_image.ask, side->ask1_place);
    scaled(side->ask1, side->ask1_place, n, job->key1_scale);
    fold(wide, side->ask1_place, n, &weights->second.to_image.key);
    gain(wide, wide, rows, CHANNELS, weights->gain1);
    times(side->ask1_mixed, line, wide, CHANNELS, side->turned, line, rows, CHANNELS, line);
}

/* After pass_second. */
void tokens_second(const Job *job, float *const *outs, int64_t count)
{
    const Weights *weights = job->weights;
    const FromImage *from = &weights->second.from_image;
    Tokens *side = job->side;
    long n = job->tokens, rows = HEADS * n, mixed = rows + job->rough, line = PAD64(mixed), width = HEAD + line;
    long both = PAD64(mixed + rows);
    float means[MOST_ROWS * (HEAD + MOST_LINE)], wide[MOST_ROWS * CHANNELS], values[MOST_ROWS * HEAD];
    merge(outs, count, rows, width, means);
    times(wide, CHANNELS, means + HEAD, width, side->values, CHANNELS, rows, mixed, CHANNELS);
    gain(wide, wide, rows, CHANNELS, weights->gain1);
    hear(job, &weights->second.to_image, job->value1_scale, means, width, wide);
    offer(job, &weights->second, side->keys1_place, values);

    scaled(side->keys1, side->keys1_place, n, job->query1_scale);
    sums_with(side->keys1_bias, side->keys1_place, n, from->query_bias);
    fold(wide, side->keys1_place, n, &from->query);
    gain(wide, wide, rows, CHANNELS, weights->gain1);
    times(side->keys1_mixed, line, wide, CHANNELS, side->turned, line, rows, CHANNELS, line);
    scaled(side->values1, values, n, job->out1_scale);
    fold(side->values_own, values, n, &from->out);
    centre(side->values_own, rows, from->out_bias);
    gain(side->values_next, side->values, mixed, CHANNELS, weights->gain1);
    centre(side->values_next, mixed, NULL);
    turn(side->turned, both, 0, side->values_next, mixed);
    turn(side->turned, both, mixed, side->values_own, rows);
    times(side->gram1, line, side->values_next, CHANNELS, side->turned, both, rows, CHANNELS, line);
    lower_half(side->gram1, line, rows);
    times(side->gram12, line, side->values_own, CHANNELS, side->turned, both, rows, CHANNELS, line);
    times(side->gram2, PAD64(rows), side->values_own, CHANNELS, side->turned + mixed, both, rows, CHANNELS, PAD64(rows));
    lower_half(side->gram2, PAD64(rows), rows);

    /* last attention: the image side is r2 (r1 (X g1 + s1'm1) + s2'm2) g2 + b2 */
    asks(job, &weights->last.ask, side->ask2_place);
    scaled(side->ask2, side->ask2_place, n, job->key2_scale);
    fold(wide, side->ask2_place, n, &weights->last.key);
    gain(wide, wide, rows, CHANNELS, weights->gain2);
    times(side->ask2_mixed, both, wide, CHANNELS, side->turned, both, rows, CHANNELS, both);
}

/* Three linear layers with ReLUs between, for one row. */
static void forward(const Linear *steps, const float *x, float *y)
{
    float a[CHANNELS], b[CHANNELS];
    linear(&steps[0], x, 1, a);
    for (int c = 0; c < CHANNELS; c += LANES) store(a + c, larger(load(a + c), all(0.0f)));
    linear(&steps[1], a, 1, b);
    for (int c = 0; c < CHANNELS; c += LANES) store(b + c, larger(load(b + c), all(0.0f)));
    linear(&steps[2], b, 1, y);
}

/* After pass_third: the predicted IoUs, and what the masks are made with. */
void tokens_last(const Job *job, float *const *outs, int64_t count)
{
    const Weights *weights = job->weights;
    Tokens *side = job->side;
    long n = job->tokens, rows = HEADS * n, mixed = rows + job->rough, line = PAD64(mixed), both = PAD64(mixed + rows);
    long width = HEAD + line + PAD64(rows);
    float means[MOST_ROWS * (HEAD + MOST_LINE + PAD64(MOST_ROWS))], wide[MOST_ROWS * CHANNELS];
    merge(outs, count, rows, width, means);
    for (long o = 0; o < CHANNELS; o += TILE) {
        spread(wide + o, CHANNELS, means + HEAD, width, side->values_next + o, CHANNELS, rows, mixed, 0);
        spread(wide + o, CHANNELS, means + HEAD + line, width, side->values_own + o, CHANNELS, rows, rows, 1);
    }
    gain(wide, wide, rows, CHANNELS, weights->gain2);
    hear(job, &weights->last, job->value2_scale, means, width, wide);
    normalise(&weights->last_norm, side->queries, n);
    times(side->mix, both, weights->up, CHANNELS, side->turned, both, CHANNELS, CHANNELS, both);
    for (long m = 0; m < job->masks; m++)
        forward(weights->hyper[job->wanted[m]], side->queries + (1 + job->wanted[m]) * CHANNELS, side->hyper + m * TILE);
    forward(weights->iou, side->queries, job->ious);
}

int64_t tokens_bytes(void) { return sizeof(Tokens); }
int64_t weights_bytes(void) { return sizeof(Weights); }
int64_t job_bytes(void) { return sizeof(Job); }
