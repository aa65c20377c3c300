/* The loops of a network in C, written out by bbinn_jax.export.c: each part goes into a file that needs it. */

/* kernel: product */
/* The product of a row of inputs with a matrix of weights that are +1 or -1, one bit a weight (1 is +1).
 *
 * Of the inputs 32 are taken at a time, of the last ones as many as 8 or 16 bits hold. Their bits lie output by
 * output: bit k of the word of an output belongs to input k. The outputs are filled up to a multiple of 8 with zeros.
 * (bbinn_jax.packing has another order, the one in which the weights lie in their array.)
 *
 * No weight is ever unpacked. All sums that a few inputs can have, a sign for each, are made once, and every output
 * looks up those that its bits name. For 2048 x 2048 on one core of an AMD EPYC, in microseconds: with AVX2 sums of 3
 * inputs 60, sums of 4 up to a sign 66 (the sign takes more instructions than the fourth input saves); without AVX2
 * these sums of 4 222, signs flipped by masks 2500; a product of floats 430 to 2400, by compiler and flags. */
#if defined(__AVX2__)
#include <immintrin.h>

/* The 8 sums of 3 inputs. */
static __m256 bbinn_sums(const float *x)
{
    const __m256 s0 = _mm256_setr_ps(-0.0f, 0.0f, -0.0f, 0.0f, -0.0f, 0.0f, -0.0f, 0.0f);
    const __m256 s1 = _mm256_setr_ps(-0.0f, -0.0f, 0.0f, 0.0f, -0.0f, -0.0f, 0.0f, 0.0f);
    const __m256 s2 = _mm256_setr_ps(-0.0f, -0.0f, -0.0f, -0.0f, 0.0f, 0.0f, 0.0f, 0.0f);
    return _mm256_add_ps(_mm256_add_ps(_mm256_xor_ps(_mm256_set1_ps(x[0]), s0), _mm256_xor_ps(_mm256_set1_ps(x[1]), s1)),
                         _mm256_xor_ps(_mm256_set1_ps(x[2]), s2));
}

/* Looks up 8 outputs at a time: the instruction reads the lowest 3 bits of each of the 8 words. */
#define BBINN_LOOKUP(g) _mm256_permutevar8x32_ps(t##g, _mm256_srli_epi32(w, 3 * g))

static inline const uint8_t *bbinn_chunk(const float *x, const uint8_t *bits, int bytes, long outputs, float *y)
{
    const __m256 t0 = bbinn_sums(x), t1 = bbinn_sums(x + 3), t2 = bbinn_sums(x + 6), t3 = bbinn_sums(x + 9);
    const __m256 t4 = bbinn_sums(x + 12), t5 = bbinn_sums(x + 15), t6 = bbinn_sums(x + 18), t7 = bbinn_sums(x + 21);
    const float last_two[3] = {x[30], x[31], 0.0f};
    const __m256 t8 = bbinn_sums(x + 24), t9 = bbinn_sums(x + 27), t10 = bbinn_sums(last_two);
    long n;
    for (n = 0; n < outputs; n += 8, bits += 8 * bytes) {
        const __m256i w = bytes == 4   ? _mm256_loadu_si256((const __m256i *)bits)
                          : bytes == 2 ? _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)bits))
                                       : _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)bits));
        __m256 a = BBINN_LOOKUP(0), b = BBINN_LOOKUP(1);
        a = _mm256_add_ps(a, BBINN_LOOKUP(2)), b = _mm256_add_ps(b, BBINN_LOOKUP(3));
        a = _mm256_add_ps(a, BBINN_LOOKUP(4)), b = _mm256_add_ps(b, BBINN_LOOKUP(5));
        a = _mm256_add_ps(a, BBINN_LOOKUP(6)), b = _mm256_add_ps(b, BBINN_LOOKUP(7));
        a = _mm256_add_ps(a, BBINN_LOOKUP(8)), b = _mm256_add_ps(b, BBINN_LOOKUP(9));
        a = _mm256_add_ps(_mm256_add_ps(a, BBINN_LOOKUP(10)), b);
        if (outputs - n >= 8) {
            _mm256_storeu_ps(y + n, _mm256_add_ps(_mm256_loadu_ps(y + n), a));
        } else {
            float last[8];
            long i;
            _mm256_storeu_ps(last, a);
            for (i = 0; i < outputs - n; ++i) {
                y[n + i] += last[i];
            }
        }
    }
    return bits;
}
#undef BBINN_LOOKUP
#else

/* The 16 sums of 4 inputs. */
static void bbinn_sums(const float *x, float *t)
{
    const float a[4] = {-x[0] - x[1], x[0] - x[1], x[1] - x[0], x[0] + x[1]};
    const float b[4] = {-x[2] - x[3], x[2] - x[3], x[3] - x[2], x[2] + x[3]};
    int i;
    for (i = 0; i < 16; ++i) {
        t[i] = a[i & 3] + b[i >> 2];
    }
}

static inline const uint8_t *bbinn_chunk(const float *x, const uint8_t *bits, int bytes, long outputs, float *y)
{
    float t[8][16];
    long n;
    int i;
    for (i = 0; i < 2 * bytes; ++i) {
        bbinn_sums(x + 4 * i, t[i]);
    }
    for (n = 0; n < outputs; ++n, bits += bytes) {
        float sum = t[0][bits[0] & 15] + t[1][bits[0] >> 4];
        if (bytes > 1) {
            sum += t[2][bits[1] & 15] + t[3][bits[1] >> 4];
        }
        if (bytes > 2) {
            sum += (t[4][bits[2] & 15] + t[5][bits[2] >> 4]) + (t[6][bits[3] & 15] + t[7][bits[3] >> 4]);
        }
        y[n] += sum;
    }
    return bits + bytes * (-outputs & 7);
}
#endif

static void bbinn_product(const float *x, long stride, const uint8_t *bits, long inputs, long outputs, float *y)
{
    float filled[32];
    long c, k;
    for (k = 0; k < outputs; ++k) {
        y[k] = 0.0f;
    }
    for (c = 0; c < inputs; c += 32) {
        const long left = inputs - c;
        const float *chunk = x + c;
        if (stride != 1 || left < 32) {
            for (k = 0; k < 32; ++k) {
                filled[k] = k < left ? x[(c + k) * stride] : 0.0f;
            }
            chunk = filled;
        }
        if (left > 16) {
            bits = bbinn_chunk(chunk, bits, 4, outputs, y);
        } else if (left > 8) {
            bits = bbinn_chunk(chunk, bits, 2, outputs, y);
        } else {
            bits = bbinn_chunk(chunk, bits, 1, outputs, y);
        }
    }
}

/* kernel: real_product */
/* The product of a row of inputs with a matrix of real numbers. */
static void bbinn_real_product(const float *x, long stride, const float *w, long down, long across, long inputs,
                               long outputs, float *y)
{
    long k, n;
    for (n = 0; n < outputs; ++n) {
        y[n] = 0.0f;
    }
    for (k = 0; k < inputs; ++k) {
        for (n = 0; n < outputs; ++n) {
            y[n] += x[k * stride] * w[k * down + n * across];
        }
    }
}

/* kernel: weight */
/* A weight that is no part of a matrix product. */
static float bbinn_weight(const uint8_t *bits, long i)
{
    return bits[i / 8] >> i % 8 & 1 ? 1.0f : -1.0f;
}

/* kernel: max */
static float bbinn_max(float a, float b)
{
    return a > b || a != a ? a : b; /* NaN if one is */
}

/* kernel: min */
static float bbinn_min(float a, float b)
{
    return a < b || a != a ? a : b; /* NaN if one is */
}
