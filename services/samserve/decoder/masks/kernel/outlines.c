// Passes over logits and rings of corners.

#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

// Outputs of a cell, between the input's values before, of and after it.
INLINE void scale_cell(float before, float own, float after, int64_t cell, const float *weight,
                       float *restrict out) {
    for (int64_t k = 0; k < cell / 2; k++)
        out[k] = before * (1 - weight[k]) + own * weight[k];
    for (int64_t k = cell / 2; k < cell; k++)
        out[k] = own * (1 - weight[k]) + after * weight[k];
}

// Scale a row by `cell`: bilinear, the outermost values continued.
INLINE void scale_row(const float *restrict in, int64_t columns, int64_t cell,
                      const float *restrict weight, float *restrict out) {
    if (columns == 1) {
        scale_cell(in[0], in[0], in[0], cell, weight, out);
        return;
    }
    scale_cell(in[0], in[0], in[1], cell, weight, out);
    for (int64_t c = 1; c < columns - 1; c++)
        scale_cell(in[c - 1], in[c], in[c + 1], cell, weight, out + c * cell);
    int64_t last = columns - 1;
    scale_cell(in[last - 1], in[last], in[last], cell, weight, out + last * cell);
}

static void scale_any_row(const float *in, int64_t columns, int64_t cell, const float *weight,
                          float *out) {
    if (cell == 4) // SAM's, unrolled
        scale_row(in, columns, 4, weight, out);
    else
        scale_row(in, columns, cell, weight, out);
}

// Scale logits by `cell` in both directions, as torch's bilinear with align_corners=False.
//   in:      [rows, columns], rows `stride` floats apart
//   scratch: [2, columns * cell]
//   out:     [rows * cell, columns * cell]
// cell is 64 at most.
void scale_bilinear(const float *in, int64_t rows, int64_t columns, int64_t stride, int64_t cell,
                    float *scratch, float *out) {
    float weight[64]; // of the later one of two neighbours
    for (int64_t k = 0; k < cell; k++)
        weight[k] = (k + 0.5f) / cell + (k < cell / 2 ? 0.5f : -0.5f);

    int64_t width = columns * cell;
    float *upper = scratch, *lower = scratch + width;
    scale_any_row(in, columns, cell, weight, upper);
    memcpy(lower, upper, width * sizeof(float));

    // The rows between the centres of rows r - 1 and r of the input.
    int64_t y = 0;
    for (int64_t r = 0; r <= rows; r++) {
        if (r > 0) {
            float *swapped = upper;
            upper = lower;
            lower = swapped;
            int64_t row = r < rows ? r : rows - 1;
            scale_any_row(in + row * stride, columns, cell, weight, lower);
        }
        for (; y < rows * cell && y / cell + (y % cell >= cell / 2) == r; y++) {
            float share = weight[y % cell];
            float *restrict target = out + y * width;
            const float *restrict a = upper, *restrict b = lower;
            for (int64_t x = 0; x < width; x++)
                target[x] = a[x] * (1 - share) + b[x] * share;
        }
    }
}

static double squared_distance(const float *a, const float *b) {
    double x = (double)a[0] - b[0], y = (double)a[1] - b[1];
    return x * x + y * y;
}

// The corner of a ring that is farthest from one of its corners.
static int64_t farthest(const float *ring, int64_t count, int64_t from) {
    int64_t best = from;
    double most = 0;
    for (int64_t i = 0; i < count; i++) {
        double distance = squared_distance(ring + 2 * i, ring + 2 * from);
        if (distance > most) {
            most = distance;
            best = i;
        }
    }
    return best;
}

// Keep the corners of a chain from `first` to `last` (over the ring's end) that the line needs.
// Source: Douglas and Peucker, 1973, with distances to the segment. stack: [2 * count]
static void simplify_chain(const float *ring, int64_t count, int64_t first, int64_t last,
                           double most, uint8_t *kept, int64_t *stack) {
    int64_t depth = 0;
    stack[depth++] = first;
    stack[depth++] = last;
    while (depth) {
        int64_t end = stack[--depth], begin = stack[--depth];
        const float *a = ring + 2 * (begin % count), *b = ring + 2 * (end % count);
        double dx = (double)b[0] - a[0], dy = (double)b[1] - a[1];
        double length = dx * dx + dy * dy;
        double worst = most;
        int64_t split = -1;
        for (int64_t i = begin + 1; i < end; i++) {
            const float *p = ring + 2 * (i < count ? i : i - count);
            double x = (double)p[0] - a[0], y = (double)p[1] - a[1];
            double along = x * dx + y * dy, across = x * dy - y * dx;
            double distance = along <= 0        ? x * x + y * y
                              : along >= length ? squared_distance(p, b)
                                                : across * across / length;
            if (distance > worst) {
                worst = distance;
                split = i;
            }
        }
        if (split >= 0) {
            kept[split % count] = 1;
            stack[depth++] = begin;
            stack[depth++] = split;
            stack[depth++] = split;
            stack[depth++] = end;
        }
    }
}

// Mark the corners of closed rings that remain if lines may stray by `slack`.
//   corners: [N, 2], the rings one after the other
//   ends:    [rings], where each one ends
//   kept:    [N], 0 before the call
//   stack:   [2 * (longest ring + 1)]
void simplify(const float *corners, const int64_t *ends, int64_t rings, double slack,
              uint8_t *kept, int64_t *stack) {
    for (int64_t r = 0, start = 0; r < rings; start = ends[r++]) {
        const float *ring = corners + 2 * start;
        int64_t count = ends[r] - start;
        if (count == 0)
            continue;

        // Two corners far apart, which any simplification has.
        int64_t first = farthest(ring, count, 0), second = farthest(ring, count, first);
        int64_t low = first < second ? first : second, high = first < second ? second : first;
        kept[start + low] = kept[start + high] = 1;
        simplify_chain(ring, count, low, high, slack * slack, kept + start, stack);
        simplify_chain(ring, count, high, low + count, slack * slack, kept + start, stack);
    }
}
