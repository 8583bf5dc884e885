/* Vectors, and the products that do nearly all the arithmetic: C[rows][64] (+)= A[rows][k]
   B[k][64].
   Independent of SAM. */

#pragma once
#ifdef __wasm__
#include <wasm_simd128.h>
#else
#include <immintrin.h>
#endif
#include <math.h>
#include <stdint.h>
#include <string.h>

#define TILE 64
#define PAD64(n) (((n) + 63) / 64 * 64)

#ifdef __AVX512F__
#define LANES 16
#define ROWS 6    /* rows of a block of a product: as many as the registers hold */
#define COLUMNS 4 /* vectors side by side in a block of a product */
#elif defined(__wasm__)
#define LANES 4
#define ROWS 4
#define COLUMNS 2
#else
#define LANES 8
#define ROWS 6
#define COLUMNS 2
#endif
typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef int16_t narrow __attribute__((vector_size(2 * LANES), aligned(2), may_alias));
typedef float loose __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
#define INLINE static inline __attribute__((always_inline))

INLINE vec load(const float *p) { return *(const loose *)p; }
INLINE void store(float *p, vec v) { *(loose *)p = v; }
INLINE vec widen(const int16_t *p) { return __builtin_convertvector(*(const narrow *)p, vec); }
#ifdef __AVX512F__
INLINE vec from_half(const uint16_t *p)
    { return (vec)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
#elif defined(__wasm__)
INLINE vec from_half(const uint16_t *p)
{
    ivec bits = (ivec)wasm_u32x4_load16x4(p);
    vec size = (vec)((bits & 0x7fff) << 13) * 0x1p112f;
    return (vec)((ivec)size | (bits & 0x8000) << 16);
}
#else
INLINE vec from_half(const uint16_t *p)
    { return (vec)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }
#endif
INLINE vec broadcast(float x) { return x - (vec){0}; }
INLINE vec maximum(vec a, vec b)
{
    ivec m = a > b;
    return (vec)(((ivec)a & m) | ((ivec)b & ~m));
}

/* The sum of the lanes, or the largest lane; by halves. */
INLINE float reduce(vec v, int largest)
{
    float x[LANES];
    store(x, v);
    for (int half = LANES / 2; half; half /= 2)
        for (int j = 0; j < half; j++) x[j] =
            !largest ? x[j] + x[j + half] : x[j] > x[j + half] ? x[j] : x[j + half];
    return x[0];
}

/* e^x for x <= 88, relative error 2e-7; Cephes' polynomial. */
INLINE vec exponential(vec x)
{
    x = maximum(x, broadcast(-87.0f));
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

/* Exact GELU, x Phi(x); the error function by Abramowitz and Stegun 7.1.26, absolute error 1.5e-7.
   */
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
INLINE void block(const int rows, float *c, long ldc, const float *a, long lda, const float *b,
    long ldb, long k, int add)
{
    vec sum[ROWS][COLUMNS];
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < COLUMNS; j++) sum[r][j] =
            add ? load(c + r * ldc + j * LANES) : broadcast(0.0f);
    for (long i = 0; i < k; i++) {
        vec right[COLUMNS];
        for (int j = 0; j < COLUMNS; j++) right[j] = load(b + i * ldb + j * LANES);
        for (int r = 0; r < rows; r++) {
            vec left = broadcast(a[r * lda + i]);
            for (int j = 0; j < COLUMNS; j++) sum[r][j] += left * right[j];
        }
    }
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < COLUMNS; j++) store(c + r * ldc + j * LANES, sum[r][j]);
}

/* C[rows][64] (+)= A[rows][k] B[k][64] */
static void multiply_tile(float *c, long ldc, const float *a, long lda, const float *b, long ldb,
    long rows, long k, int add)
{
    for (int j = 0; j < TILE; j += COLUMNS * LANES)
        for (long r = 0, take; r < rows; r += take) {
            long left = rows - r;
            /* a single last row would wait for its own sums */
            take = left <= ROWS ? left : left == ROWS + 1 ? ROWS / 2 + 1 : ROWS;
            float *to = c + r * ldc + j;
            const float *from = a + r * lda;
            switch (take) {
#if ROWS > 4
            case 6: block(6, to, ldc, from, lda, b + j, ldb, k, add); break;
            case 5: block(5, to, ldc, from, lda, b + j, ldb, k, add); break;
#endif
            case 4: block(4, to, ldc, from, lda, b + j, ldb, k, add); break;
            case 3: block(3, to, ldc, from, lda, b + j, ldb, k, add); break;
            case 2: block(2, to, ldc, from, lda, b + j, ldb, k, add); break;
            default: block(1, to, ldc, from, lda, b + j, ldb, k, add);
            }
        }
}

/* The same on contiguous tiles. */
INLINE void product(float *c, const float *a, long lda, const float *b, long rows, long k, int add)
{
    multiply_tile(c, TILE, a, lda, b, TILE, rows, k, add);
}

