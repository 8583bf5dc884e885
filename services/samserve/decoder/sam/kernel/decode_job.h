/* What the kernel is given: SAM's weights, a prepared image, a prompt. Mirrored in structs.py.

   n tokens, T = 8 n rows, head by head; H rows of a mask prompt, or none; N cells. A row of more than 64 numbers is padded to
   a multiple of 64. */

#pragma once
#include "simd.h"

#define CHANNELS 256
#define HEADS 8
#define HEAD 16        /* channels of a head */
#define INNER (HEADS * HEAD)
#define WIDE 2048      /* channels within the layers' feed-forward */
#define SUBS 4         /* pixels of a cell after the first upscaling, and of such a pixel after the second */
#define FINE 64        /* channels after the first upscaling */
#define THIN 32        /* and after the second */
#define MOST_TOKENS 24
#define MOST_ROWS (HEADS * MOST_TOKENS)
#define MOST_ROUGH 17  /* channels of a mask prompt's features, and a constant */
#define ROUGH_LINE PAD64(MOST_ROUGH)
#define MOST_MIXED (MOST_ROWS + MOST_ROUGH)
#define MOST_LINE PAD64(MOST_MIXED)
#define MOST_BOTH PAD64(MOST_MIXED + MOST_ROWS)
#define MOST_MASKS 4

/* Numbers of 16 bits, half the memory to read: fp16 if that holds them exactly, else integers; each times its scale. */
typedef struct {
    const int16_t *numbers;
    const float *scale;
    int64_t half;
} Small;

/* y = x weight + bias; weight: [outer / 64][inner][64] with a scale per column, the last columns padded; bias padded likewise */
typedef struct {
    Small weight;
    const float *bias;
    int64_t inner, outer;
} Linear;

typedef struct {
    const float *weight, *bias;
    float epsilon;
} Norm;

typedef struct {
    Linear query, key, value, join;
} Among; /* attention of the tokens to each other */

typedef struct {
    Linear ask, join;
    Small key, value;        /* [128][256] with a scale per row, [8][256][16] with [8][16] */
    const float *value_bias; /* [8][16], with what the image's own bias adds */
} ToImage;

typedef struct {
    Linear key, value;
    Small query, out;        /* [128][256] each, with a scale per row */
    const float *query_bias; /* [8][16], likewise */
    const float *out_bias;   /* [256]: an eighth of it, centred */
} FromImage;

typedef struct {
    Among own;
    Norm norm1, norm2, norm3;
    ToImage to_image;
    Linear wide, narrow;
    FromImage from_image;
} Layer;

typedef struct {
    Layer first, second;
    ToImage last;
    Norm last_norm;
    Linear hyper[MOST_MASKS][3], iou[3];
    const float *gain1, *gain2;                         /* [256]: of the norms of the image side */
    const float *rough, *rough_turned;                  /* [17][256], [256][17]: what a mask prompt's rows stand for */
    const float *up;                                    /* [4 x 64][256]: the first upscaling, times gain2 */
    const float *fine_bias, *norm_weight, *norm_bias;   /* [4 x 64], [64], [64] */
    const float *thinner, *thinner_bias;                /* [4 x 32][64], [4 x 32]: the second upscaling */
    const float *place_key1, *place_query1, *place_key2; /* the positional encoding, projected: 128 rows */
    float epsilon1, epsilon2, epsilon_fine;
} Weights;

/* What token_steps.c makes for image_passes.c, and keeps from one step to the next. */
typedef struct {
    float queries[MOST_TOKENS * CHANNELS];
    /* first layer: [T][16], rough [T][H], mixed [T][T + H], bias [T] */
    float ask0[MOST_ROWS * HEAD], ask0_rough[MOST_ROWS * ROUGH_LINE];
    float keys0[MOST_ROWS * HEAD], keys0_rough[MOST_ROWS * ROUGH_LINE], keys0_bias[MOST_ROWS];
    float values0[MOST_ROWS * HEAD], values0_second[MOST_ROWS * HEAD], gram0[MOST_ROWS * MOST_LINE];
    float ask1[MOST_ROWS * HEAD], ask1_place[MOST_ROWS * HEAD], ask1_mixed[MOST_ROWS * MOST_LINE];
    /* second layer */
    float keys1[MOST_ROWS * HEAD], keys1_place[MOST_ROWS * HEAD], keys1_mixed[MOST_ROWS * MOST_LINE], keys1_bias[MOST_ROWS];
    float values1[MOST_ROWS * HEAD], gram1[MOST_ROWS * MOST_LINE], gram12[MOST_ROWS * MOST_LINE], gram2[MOST_ROWS * PAD64(MOST_ROWS)];
    /* last attention: [T][16]; [T][2 T + H]: of both layers' rows */
    float ask2[MOST_ROWS * HEAD], ask2_place[MOST_ROWS * HEAD], ask2_mixed[MOST_ROWS * MOST_BOTH];
    /* upscaling: [256][2 T + H], [masks][32] */
    float mix[CHANNELS * MOST_BOTH], hyper[MOST_MASKS * TILE];
    /* the rows that each layer adds to the image side, [T + H][256] and [T][256], and both layers' turned, [256][2 T + H] */
    float values[MOST_MIXED * CHANNELS], values_next[MOST_MIXED * CHANNELS], values_own[MOST_ROWS * CHANNELS];
    float turned[CHANNELS * MOST_BOTH + TILE];
} Tokens;

/* One prompt on one image. */
typedef struct {
    int64_t cells, tokens, rough, masks;
    int64_t wanted[MOST_MASKS]; /* numbers of the masks */
    const Weights *weights;
    const float *given; /* [n][256] */
    /* the image: 128 rows; value parts [cells][128]; fine 256 rows; squares and cross [cells] */
    const int16_t *key0, *value0, *query0, *out0, *key1, *value1, *query1, *norm1, *out1, *key2, *value2, *fine;
    const float *key0_scale, *value0_scale, *query0_scale, *out0_scale, *key1_scale, *value1_scale; /* [128] */
    const float *query1_scale, *norm1_scale, *out1_scale, *key2_scale, *value2_scale;
    const float *fine_scale;                  /* [256] */
    const uint16_t *fine_1, *fine_0;          /* SAM 2's finer maps, fp16: 4 x 64 and 16 x 32 rows; NULL: none */
    const float *square0, *square1, *cross1;
    const float *rough_rows;                  /* H rows */
    float *s1, *s2, *r1, *r2;                 /* what one pass leaves for the next: T rows, [cells] */
    float *logits, *ious;                     /* [masks][4 side][4 side]; of all four masks, padded to 64 */
    Tokens *side;
} Job;
