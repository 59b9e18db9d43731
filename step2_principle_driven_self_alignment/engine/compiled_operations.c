/* What a step does between its matrix products, each in one pass over memory.

   Compiled when the engine starts, for one model and one processor: HEAD_DIM, QUERIES (heads to a
   key/value head) and BFLOAT16 are given on the command line. operations.py says the same in
   PyTorch; shapes are row-major, and every sum is taken in float32. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if BFLOAT16
typedef uint16_t element;

static inline float load(element x)
{
    uint32_t bits = (uint32_t)x << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline element store(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16; /* to the nearest, ties to even */
}
#else
typedef float element;
static inline float load(element x) { return x; }
static inline element store(float x) { return x; }
#endif

/* One instruction, unlike fmaxf; b, if either is no number. */
static inline float larger(float a, float b) { return a > b ? a : b; }

/* 2 to the power of x: a polynomial, within 1e-7, for the part behind the point, whose exponent is
   raised by the whole part. Written out because compilers vectorise the library's function only
   where they may reorder all sums. What is no number stays none. */
static inline float power_of_two(float x)
{
    x = larger(-126, x);
    float whole = rintf(x), rest = x - whole;
    float power = 1.32764614e-3f;
    power = power * rest + 9.67554171e-3f;
    power = power * rest + 5.55071332e-2f;
    power = power * rest + 2.40221197e-1f;
    power = power * rest + 6.93146967e-1f;
    power = power * rest + 1;
    int32_t bits;
    memcpy(&bits, &power, sizeof bits);
    bits += (int32_t)whole << 23;
    memcpy(&power, &bits, sizeof bits);
    return power;
}

static const float LOG2_E = 1.44269504f;

static inline float exponential(float x) { return power_of_two(x * LOG2_E); }

/* stream += delta (unless it is null); outputs = stream / rms(stream) * weight. */
void add_norm(element *stream, const element *delta, const element *weight, element *outputs,
              int64_t rows, int64_t width, float epsilon)
{
#pragma omp parallel for
    for (int64_t row = 0; row < rows; row++) {
        element *x = stream + row * width;
        float squares = 0;
        if (delta) {
            const element *added = delta + row * width;
#pragma omp simd
            for (int64_t i = 0; i < width; i++)
                x[i] = store(load(x[i]) + load(added[i]));
        }
#pragma omp simd reduction(+ : squares)
        for (int64_t i = 0; i < width; i++)
            squares += load(x[i]) * load(x[i]);
        float factor = 1 / sqrtf(squares / width + epsilon);
#pragma omp simd
        for (int64_t i = 0; i < width; i++)
            outputs[row * width + i] = store(load(x[i]) * factor * load(weight[i]));
    }
}

/* gate_up [rows, 2, width] -> outputs [rows, width]: gate / (1 + exp(-gate)) * up. */
void swiglu(const element *gate_up, element *outputs, int64_t rows, int64_t width)
{
#pragma omp parallel for
    for (int64_t row = 0; row < rows; row++) {
        const element *gate = gate_up + 2 * row * width, *up = gate + width;
#pragma omp simd
        for (int64_t i = 0; i < width; i++) {
            float x = load(gate[i]);
            outputs[row * width + i] = store(x / (1 + exponential(-larger(x, -87))) * load(up[i]));
        }
    }
}

/* Rotates the queries and keys of heads [tokens, (QUERIES + 2) * kv_heads, HEAD_DIM] by cosines and
   sines [tokens, HEAD_DIM], the latter negative in their first half. Queries go to [kv_heads,
   tokens * QUERIES, HEAD_DIM]; keys and values to their slot's place in [slots, kv_heads,
   own_tokens, HEAD_DIM]. */
void rotary_cache_write(const element *heads, const element *cosines, const element *sines,
                        const int64_t *slots, const int64_t *positions, element *queries,
                        element *own_keys, element *own_values, int64_t tokens, int64_t kv_heads,
                        int64_t own_tokens)
{
    int64_t query_heads = QUERIES * kv_heads, all_heads = query_heads + 2 * kv_heads;
#pragma omp parallel for
    for (int64_t token = 0; token < tokens; token++) {
        const element *cosine = cosines + token * HEAD_DIM, *sine = sines + token * HEAD_DIM;
        for (int64_t head = 0; head < all_heads; head++) {
            const element *from = heads + (token * all_heads + head) * HEAD_DIM;
            int64_t kv_head = (head - query_heads) % kv_heads;
            int64_t own = ((slots[token] * kv_heads + kv_head) * own_tokens + positions[token]);
            if (head >= query_heads + kv_heads) {
                memcpy(own_values + own * HEAD_DIM, from, HEAD_DIM * sizeof *from);
                continue;
            }
            int64_t row = (head / QUERIES * tokens + token) * QUERIES + head % QUERIES;
            element *to = head < query_heads ? queries + row * HEAD_DIM : own_keys + own * HEAD_DIM;
#pragma omp simd
            for (int64_t i = 0; i < HEAD_DIM / 2; i++) {
                float first = load(from[i]), second = load(from[i + HEAD_DIM / 2]);
                to[i] = store(first * load(cosine[i]) + second * load(sine[i]));
                to[i + HEAD_DIM / 2] = store(second * load(cosine[i + HEAD_DIM / 2]) +
                                             first * load(sine[i + HEAD_DIM / 2]));
            }
        }
    }
}

/* scores [rows, columns] become exp(scale * (score - highest)) in their first `used` columns and
   zero beyond; highest [rows], scaled, and total [rows] are each row's maximum and sum. */
void unnormalised_softmax(element *scores, float *highest, float *total, int64_t rows,
                          int64_t columns, int64_t used, float scale)
{
#pragma omp parallel for
    for (int64_t row = 0; row < rows; row++) {
        element *x = scores + row * columns;
        float top = -INFINITY, sum = 0, factor = scale * LOG2_E;
#pragma omp simd reduction(max : top)
        for (int64_t i = 0; i < used; i++)
            top = larger(top, load(x[i]));
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < used; i++) {
            float weight = power_of_two(factor * (load(x[i]) - top));
            x[i] = store(weight);
            sum += weight;
        }
        memset(x + used, 0, (columns - used) * sizeof *x);
        highest[row] = scale * top;
        total[row] = sum;
    }
}

/* Sixteen numbers that the compiler is to keep in registers. */
typedef float lanes __attribute__((vector_size(64)));
enum { LANES = 16, PARTS = HEAD_DIM / LANES, CACHE_LINE = 64 / sizeof(element) };

static inline lanes load_lanes(const element *from)
{
#if BFLOAT16
    typedef uint16_t halves __attribute__((vector_size(2 * LANES)));
    typedef uint32_t words __attribute__((vector_size(4 * LANES)));
    halves bits;
    memcpy(&bits, from, sizeof bits);
    return (lanes)(__builtin_convertvector(bits, words) << 16);
#else
    lanes values;
    memcpy(&values, from, sizeof values);
    return values;
#endif
}

static inline float sum_lanes(lanes x)
{
    typedef float eight __attribute__((vector_size(32)));
    typedef float four __attribute__((vector_size(16)));
    eight halves[2];
    four quarters[2];
    memcpy(halves, &x, sizeof x);
    halves[0] += halves[1];
    memcpy(quarters, halves, sizeof quarters);
    quarters[0] += quarters[1];
    return quarters[0][0] + quarters[0][1] + (quarters[0][2] + quarters[0][3]);
}

/* Attention of one key/value head's queries [QUERIES, HEAD_DIM] over `length` own keys, joined with
   what the prefix came to: outputs before division by their total, and the highest score. */
static void attend(const element *queries, const element *keys, const element *values,
                   int64_t length, const element *prefix, const float *highest,
                   const float *total, float scale, element *outputs)
{
    float scores[QUERIES][length], divisors[QUERIES], kept[QUERIES];
    lanes query[QUERIES][PARTS];
    for (int g = 0; g < QUERIES; g++)
        for (int part = 0; part < PARTS; part++)
            query[g][part] = scale * load_lanes(queries + g * HEAD_DIM + part * LANES);
    for (int64_t t = 0; t < length; t++) {
        lanes products[QUERIES] = {{0}};
        /* What the second loop reads comes from memory while the first one computes. */
        for (int i = 0; i < HEAD_DIM; i += CACHE_LINE)
            __builtin_prefetch(values + t * HEAD_DIM + i);
        for (int part = 0; part < PARTS; part++) {
            lanes key = load_lanes(keys + t * HEAD_DIM + part * LANES);
            for (int g = 0; g < QUERIES; g++)
                products[g] += query[g][part] * key;
        }
        for (int g = 0; g < QUERIES; g++)
            scores[g][t] = sum_lanes(products[g]);
    }
    for (int g = 0; g < QUERIES; g++) {
        float top = highest[g], sum = 0;
#pragma omp simd reduction(max : top)
        for (int64_t t = 0; t < length; t++)
            top = larger(top, scores[g][t]);
#pragma omp simd reduction(+ : sum)
        for (int64_t t = 0; t < length; t++)
            sum += scores[g][t] = exponential(scores[g][t] - top);
        kept[g] = exponential(highest[g] - top);
        divisors[g] = sum + kept[g] * total[g];
    }
    for (int part = 0; part < PARTS; part++) {
        lanes sums[QUERIES];
        for (int g = 0; g < QUERIES; g++)
            sums[g] = kept[g] * load_lanes(prefix + g * HEAD_DIM + part * LANES);
        for (int64_t t = 0; t < length; t++) {
            lanes value = load_lanes(values + t * HEAD_DIM + part * LANES);
            for (int g = 0; g < QUERIES; g++)
                sums[g] += scores[g][t] * value;
        }
        for (int g = 0; g < QUERIES; g++)
            for (int i = 0; i < LANES; i++)
                outputs[g * HEAD_DIM + part * LANES + i] = store(sums[g][i] / divisors[g]);
    }
}

/* Each token sees its slot's own keys up to its position, and the prefix. queries, prefix:
   [kv_heads, tokens * QUERIES, HEAD_DIM]; highest, total: [kv_heads, tokens * QUERIES]; own_keys,
   own_values: [slots, kv_heads, own_tokens, HEAD_DIM]; outputs: [tokens, kv_heads * QUERIES,
   HEAD_DIM]. */
void own_attention(const element *queries, const element *own_keys, const element *own_values,
                   const int64_t *slots, const int64_t *positions, const element *prefix,
                   const float *highest, const float *total, element *outputs, int64_t tokens,
                   int64_t kv_heads, int64_t own_tokens, float scale)
{
#pragma omp parallel for collapse(2) schedule(dynamic, 4)
    for (int64_t token = 0; token < tokens; token++)
        for (int64_t head = 0; head < kv_heads; head++) {
            int64_t row = (head * tokens + token) * QUERIES;
            int64_t own = (slots[token] * kv_heads + head) * own_tokens * HEAD_DIM;
            attend(queries + row * HEAD_DIM, own_keys + own, own_values + own,
                   positions[token] + 1, prefix + row * HEAD_DIM, highest + row, total + row, scale,
                   outputs + (token * kv_heads + head) * QUERIES * HEAD_DIM);
        }
}

/* A bucket for each sixteenth of an octave of weights up to 1: positive numbers are ordered like
   their bits, so the upper ones tell it. */
enum { LOWER_BITS = 19, BUCKETS = 128 << (23 - LOWER_BITS), BLOCK = 512 };

/* The weights exp((x - top) * factor / LOG2_E) of up to BLOCK logits, and their buckets. */
static void weights_of_block(const element *x, int64_t count, float top, float factor,
                             float *weights, int32_t *buckets)
{
#pragma omp simd
    for (int64_t i = 0; i < count; i++) {
        /* A logit that is no number gets the least weight, as there is no bucket for it. */
        weights[i] = power_of_two(larger(factor * (load(x[i]) - top), -126));
        int32_t bits;
        memcpy(&bits, weights + i, sizeof bits);
        buckets[i] = bits >> LOWER_BITS;
    }
}

static int descending(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

/* The lowest logit in the nucleus, before which the mass is at most top_p. Weights are summed by
   bucket; the values of the bucket in which the nucleus ends go to `members` and are sorted. */
static float lowest_kept(const element *x, int64_t count, float top, float factor, float top_p,
                         float *members)
{
    float weights[BLOCK], mass[BUCKETS] = {0}, total = 0, before = 0;
    int32_t buckets[BLOCK], last = BUCKETS - 1;
    for (int64_t start = 0; start < count; start += BLOCK) {
        int64_t size = count - start < BLOCK ? count - start : BLOCK;
        weights_of_block(x + start, size, top, factor, weights, buckets);
        for (int64_t i = 0; i < size; i++)
            mass[buckets[i]] += weights[i];
    }
    for (int bucket = BUCKETS - 1; bucket >= 0; bucket--)
        total += mass[bucket];
    while (last >= 0 && before + mass[last] <= top_p * total)
        before += mass[last--];
    if (last < 0)
        return -INFINITY;
    int64_t found = 0;
    for (int64_t start = 0; start < count; start += BLOCK) {
        int64_t size = count - start < BLOCK ? count - start : BLOCK;
        int32_t matches = 0;
        weights_of_block(x + start, size, top, factor, weights, buckets);
#pragma omp simd reduction(+ : matches)
        for (int64_t i = 0; i < size; i++)
            matches += buckets[i] == last;
        for (int64_t i = 0; matches; i++)
            if (buckets[i] == last) {
                members[found++] = load(x[start + i]);
                matches--;
            }
    }
    qsort(members, found, sizeof *members, descending);
    int64_t end = 0;
    for (float sum = before; end < found && sum <= top_p * total;) {
        float value = members[end]; /* what is equal is kept together */
        do
            sum += power_of_two(factor * (value - top));
        while (++end < found && members[end] == value);
    }
    return members[end - 1];
}

/* splitmix64's output function (Steele et al. 2014). */
static inline uint64_t mix(uint64_t state)
{
    state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9;
    state = (state ^ state >> 27) * 0x94D049BB133111EB;
    return state ^ state >> 31;
}

static const uint64_t GOLDEN_GAMMA = 0x9E3779B97F4A7C15;

/* Standard Gumbel noise of a token; 23 bits and a half are neither 0 nor 1. */
static inline float gumbel(uint64_t row_state, uint64_t token)
{
    float uniform = ((float)(mix(row_state ^ token * GOLDEN_GAMMA) >> 41) + 0.5f) * 0x1p-23f;
    return -logf(-logf(uniform));
}

/* Nucleus sampling as in sampler.py, one token for each row of logits [rows, vocabulary]; scratch:
   as many numbers as logits, of which few are touched. */
void sample(const element *logits, const int64_t *keys, const int64_t *positions, int64_t *tokens,
            float *scratch, int64_t rows, int64_t vocabulary, float temperature, float top_p)
{
#pragma omp parallel for schedule(dynamic)
    for (int64_t row = 0; row < rows; row++) {
        const element *x = logits + row * vocabulary;
        float top = -INFINITY, best = -INFINITY;
#pragma omp simd reduction(max : top)
        for (int64_t i = 0; i < vocabulary; i++)
            top = larger(load(x[i]), top);
        float lowest = lowest_kept(x, vocabulary, top, LOG2_E / temperature, top_p,
                                   scratch + row * vocabulary);
        uint64_t state = mix((uint64_t)keys[row] + (uint64_t)positions[row] * GOLDEN_GAMMA);
        tokens[row] = 0;
        for (int64_t start = 0; start < vocabulary; start += BLOCK) {
            int64_t end = start + BLOCK < vocabulary ? start + BLOCK : vocabulary;
            int32_t kept = 0;
#pragma omp simd reduction(+ : kept)
            for (int64_t i = start; i < end; i++)
                kept += load(x[i]) >= lowest;
            for (int64_t i = start; kept; i++)
                if (load(x[i]) >= lowest) {
                    float noisy = load(x[i]) / temperature + gumbel(state, i);
                    if (noisy > best) {
                        best = noisy;
                        tokens[row] = i;
                    }
                    kept--;
                }
        }
    }
}
