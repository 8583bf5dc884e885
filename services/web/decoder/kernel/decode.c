/* What WebAssembly has beside the server's passes and steps, which are in
   services/samserve/decoder/sam/kernel; services/web/build.py compiles them together with this file.

   Shapes: N cells in tiles of 64; an array of `rows` lies as [tiles][rows][64]. */

#include "decode_job.h"

void pass_first(const Job *job, int64_t from, int64_t to, float *out);
void pass_second(const Job *job, int64_t from, int64_t to, float *out);
void pass_third(const Job *job, int64_t from, int64_t to, float *out);
void pass_masks(const Job *job, int64_t from, int64_t to);
void tokens_begin(const Job *job);
void tokens_first(const Job *job, float *const *outs, int64_t count);
void tokens_second(const Job *job, float *const *outs, int64_t count);
void tokens_last(const Job *job, float *const *outs, int64_t count);

/* The whole decoding of a prompt: there is one thread. `sums` has room for what a pass sums up. */
void decode(const Job *job, float *sums)
{
    tokens_begin(job);
    pass_first(job, 0, job->cells, sums);
    tokens_first(job, &sums, 1);
    pass_second(job, 0, job->cells, sums);
    tokens_second(job, &sums, 1);
    pass_third(job, 0, job->cells, sums);
    tokens_last(job, &sums, 1);
    pass_masks(job, 0, job->cells);
}

/* x = the image [256][N], fp16, as SAM's transformer gets it from a prompt without a mask; placed = the
   same with its positional encoding. */
void lay_out(const uint16_t *image, const float *no_mask, const float *place, float *x, float *placed,
    int64_t cells)
{
    for (long at = 0; at < cells; at += TILE)
        for (long c = 0; c < CHANNELS; c++)
            for (long j = 0; j < TILE; j += LANES) {
                long to = at * CHANNELS + c * TILE + j;
                vec value = from_half(image + c * cells + at + j) + no_mask[c];
                store(x + to, value);
                store(placed + to, value + load(place + to));
            }
}

/* The part of the cells' variances that depends on the image alone, [N] each. With C for centring:
   square0 = |CX|^2, square1 = |C(g CX)|^2, each with its linear term; cross1 is the linear term of the
   second layer's constant. */
void squares(const float *x, const float *gain, const float *first, const float *second,
    const float *cross, float *square0, float *square1, float *cross1, int64_t cells)
{
    for (long at = 0; at < cells; at += TILE)
        for (long j = 0; j < TILE; j += LANES) {
            const float *cell = x + at * CHANNELS + j;
            vec mean = broadcast(0.0f), scaled_mean = broadcast(0.0f);
            for (long c = 0; c < CHANNELS; c++) mean += load(cell + c * TILE);
            mean *= 1.0f / CHANNELS;
            for (long c = 0; c < CHANNELS; c++)
                scaled_mean += (load(cell + c * TILE) - mean) * gain[c];
            scaled_mean *= 1.0f / CHANNELS;

            vec once_squared = broadcast(0.0f), twice_squared = broadcast(0.0f);
            vec product = broadcast(0.0f);
            for (long c = 0; c < CHANNELS; c++) {
                vec once = load(cell + c * TILE) - mean, twice = once * gain[c] - scaled_mean;
                once_squared += once * (once + first[c]);
                twice_squared += twice * twice + once * second[c];
                product += twice * cross[c];
            }
            store(square0 + at + j, once_squared);
            store(square1 + at + j, twice_squared);
            store(cross1 + at + j, product);
        }
}
