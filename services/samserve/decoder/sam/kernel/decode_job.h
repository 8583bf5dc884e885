/* The kernel's input: SAM's weights, a prepared image, a prompt. Mirrored in structs.py.

   Shapes: n tokens; T = 8 n rows, head by head; H rows of a mask prompt ("dense"), or 0; N cells.
   A row of more than 64 numbers is padded to a multiple of 64. */

#pragma once
#include "simd.h"

#define CHANNELS 256
#define HEADS 8
#define HEAD 16        /* channels of a head */
#define INNER (HEADS * HEAD)
#define WIDE 2048      /* channels inside the layers' MLPs */
#define SUBS 4         /* each upscaling makes so many pixels of one */
#define FINE 64        /* channels after the first upscaling */
#define THIN 32        /* channels after the second upscaling */
#ifndef MOST_TOKENS /* services/web/decoder/kernel sets its own */
#define MOST_TOKENS 24
#endif
#define MOST_ROWS (HEADS * MOST_TOKENS)
#define MOST_DENSE 17  /* channels of a mask prompt's features, and a constant */
#define DENSE_LINE PAD64(MOST_DENSE)
#define MOST_MIXED (MOST_ROWS + MOST_DENSE)
#define MOST_LINE PAD64(MOST_MIXED)
#define MOST_BOTH PAD64(MOST_MIXED + MOST_ROWS)
#define MOST_MASKS 4

/* 16-bit numbers, half the memory to read: fp16 if that is exact (`half`), otherwise integers.
   Each is multiplied by its scale. */
typedef struct {
    const int16_t *numbers;
    const float *scale;
    int64_t half;
} Packed16;

/* y = x weight + bias. weight: [outer / 64][inner][64] with a scale per column; its last columns
   and
   the bias are padded. */
typedef struct {
    Packed16 weight;
    const float *bias;
    int64_t inner, outer;
} Linear;

/* LayerNorm over the channels. */
typedef struct {
    const float *weight, *bias;
    float epsilon;
} Norm;

/* The attention of the tokens to each other. */
typedef struct {
    Linear query, key, value, out;
} SelfAttention;

/* The attention of the tokens to the image. */
typedef struct {
    Linear query, out;
    Packed16 key, value;     /* [128][256] with a scale per row, [8][256][16] with [8][16] */
    const float *value_bias; /* [8][16], includes the part of the image side's constant */
} ToImage;

/* The attention of the image to the tokens. */
typedef struct {
    Linear key, value;
    Packed16 query, out;     /* [128][256] each, with a scale per row */
    const float *query_bias; /* [8][16], likewise */
    const float *out_bias;   /* [256], an eighth of it, centred: each head adds it */
} FromImage;

typedef struct {
    SelfAttention self_attention;
    Norm norm1, norm2, norm3;
    ToImage to_image;
    Linear mlp_in, mlp_out;
    FromImage from_image;
} Layer;

typedef struct {
    Layer first, second;
    ToImage last;
    Norm last_norm;
    Linear hyper[MOST_MASKS][3], iou[3];
    const float *gain1, *gain2;              /* [256], of the LayerNorms of the image side */
    /* [17][256], [256][17]: what a mask prompt's rows add */
    const float *dense, *dense_transposed;
    const float *upscale1, *upscale1_bias;   /* [4 x 64][256], times gain2; [4 x 64] */
    const float *upscale_norm_weight, *upscale_norm_bias; /* [64] */
    const float *upscale2, *upscale2_bias;   /* [4 x 32][64], [4 x 32] */
    /* projected positional encoding, 128 rows */
    const float *place_key1, *place_query1, *place_key2;
    float epsilon1, epsilon2, upscale_epsilon;
} Weights;

/* Written by token_steps.c, read by image_passes.c and by the next step. Suffixes: _dense, against
   the
   rows of a mask prompt, [T][H]; _mixed, against all rows that were added to the image side,
   [T][T + H]; _place, against the positional encoding, [T][16]; _bias, [T]; none, against the
   image,
   [T][16]. gram: products of the rows that were added, for the variances. */
typedef struct {
    float state[MOST_TOKENS * CHANNELS]; /* the tokens between the layers, [n][256] */
    /* first layer */
    float queries0[MOST_ROWS * HEAD], queries0_dense[MOST_ROWS * DENSE_LINE];
    float keys0[MOST_ROWS * HEAD], keys0_dense[MOST_ROWS * DENSE_LINE], keys0_bias[MOST_ROWS];
    float values0[MOST_ROWS * HEAD], values0_second[MOST_ROWS * HEAD], gram0[MOST_ROWS * MOST_LINE];
    float queries1[MOST_ROWS * HEAD], queries1_place[MOST_ROWS * HEAD];
    float queries1_mixed[MOST_ROWS * MOST_LINE];
    /* second layer */
    float keys1[MOST_ROWS * HEAD], keys1_place[MOST_ROWS * HEAD];
    float keys1_mixed[MOST_ROWS * MOST_LINE], keys1_bias[MOST_ROWS];
    float values1[MOST_ROWS * HEAD], gram1[MOST_ROWS * MOST_LINE], gram12[MOST_ROWS * MOST_LINE];
    float gram2[MOST_ROWS * PAD64(MOST_ROWS)];
    /* last attention; mixed: [T][2 T + H], of both layers' rows */
    float queries2[MOST_ROWS * HEAD], queries2_place[MOST_ROWS * HEAD];
    float queries2_mixed[MOST_ROWS * MOST_BOTH];
    /* upscaling: [256][2 T + H], [masks][32] */
    float mix[CHANNELS * MOST_BOTH], hyper[MOST_MASKS * TILE];
    /* the rows that each layer adds to the image side: of the first [T + H][256], before and after
       the
       second layer's LayerNorm; of the second [T][256]; and all of them transposed, [256][2 T + H]
       */
    float values[MOST_MIXED * CHANNELS], values_next[MOST_MIXED * CHANNELS];
    float values_own[MOST_ROWS * CHANNELS];
    float turned[CHANNELS * MOST_BOTH + TILE];
} Scratch;

/* One prompt on one image. */
typedef struct {
    int64_t cells, tokens, dense, masks; /* N, n, H, how many masks are wanted */
    int64_t wanted[MOST_MASKS];          /* numbers of the masks */
    const Weights *weights;
    const float *prompt_tokens;          /* [n][256] */
    /* the image's projections: 128 rows; values [cells][128]; upscaled 256 rows; scales per row */
    const int16_t *key0, *value0, *query0, *out0, *key1, *value1, *query1, *norm1, *out1;
    const int16_t *key2, *value2, *upscaled;
    const float *key0_scale, *value0_scale, *query0_scale, *out0_scale, *key1_scale, *value1_scale;
    const float *query1_scale, *norm1_scale, *out1_scale, *key2_scale, *value2_scale;
    const float *upscaled_scale;
    /* SAM 2's finer maps, fp16: 4 x 64 and 16 x 32 rows, or NULL */
    const uint16_t *fine_1, *fine_0;
    const float *square0, *square1, *cross1; /* [cells], the image's part of the variances */
    const float *dense_rows;                 /* H rows */
    float *s1, *s2, *r1, *r2;    /* from one pass for the next: T rows each, [cells] each */
    float *logits, *ious;        /* [masks][4 side][4 side]; all four IoUs, padded to 64 */
    Scratch *scratch;
} Job;
