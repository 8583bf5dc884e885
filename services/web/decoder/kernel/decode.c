/* The whole decoding of a prompt in one call, for WebAssembly, which has one thread.

   The passes and steps are the server's, in services/samserve/decoder/sam/kernel; services/web/build.py
   compiles them together with this file. `sums` has room for what a pass sums up. */

#include "decode_job.h"

void pass_first(const Job *job, int64_t from, int64_t to, float *out);
void pass_second(const Job *job, int64_t from, int64_t to, float *out);
void pass_third(const Job *job, int64_t from, int64_t to, float *out);
void pass_masks(const Job *job, int64_t from, int64_t to);
void tokens_begin(const Job *job);
void tokens_first(const Job *job, float *const *outs, int64_t count);
void tokens_second(const Job *job, float *const *outs, int64_t count);
void tokens_last(const Job *job, float *const *outs, int64_t count);

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
