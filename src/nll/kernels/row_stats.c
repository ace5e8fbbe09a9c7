/* Statistics of rows of float32 logits: two passes over each row while it lies in the cache.
 *
 * Exactness: nothing here is compiled with -ffast-math, so nan and -inf keep their meaning. Partial
 * sums are float within 512 numbers and double beyond. Terms equal to the maximum are counted, not
 * summed: a confident row then keeps all digits of its small entropy.
 */
#include <math.h>
#include <string.h>

#ifdef __AVX512F__
#define LANES 16
#else
#define LANES 8
#endif
#define CHUNK 512
#define SEGMENT 128
#define MAX_V (1 << 20)
#define MAX_K 64
#define LOWEST (-87.0f) /* exp of less is no normal float; such terms count as 0 */

typedef float vf __attribute__((vector_size(4 * LANES)));
typedef int vi __attribute__((vector_size(4 * LANES)));

enum { MAX, LOG_S, LSE, LOGP, ENTROPY, VARENTROPY, KL_UNIFORM, N_REAL };
enum { RANK, TIES, FINITE, N_COUNT };

static inline vf all(float x) { return x - (vf){0}; }
static inline vf pick(vi mask, vf a, vf b) { return (vf)((mask & (vi)a) | (~mask & (vi)b)); }
static inline vf keep(vi mask, vf a) { return (vf)(mask & (vi)a); }

static inline vf load(const float *z) {
    vf x;
    memcpy(&x, z, sizeof x);
    return x;
}

/* CHUNK numbers from z[start]; past the end of the row they are -inf, which weighs nothing. */
static inline const float *chunk(const float *z, long start, long V, float *room) {
    if (start + CHUNK <= V) return z + start;
    for (long i = 0; i < CHUNK; i++) room[i] = start + i < V ? z[start + i] : -INFINITY;
    return room;
}

static inline float hmax(vf x) {
    float m = x[0];
    for (int l = 1; l < LANES; l++) m = x[l] > m ? x[l] : m;
    return m;
}

static inline double hsum(vf x) {
    double s = 0;
    for (int l = 0; l < LANES; l++) s += x[l];
    return s;
}

static inline long hcount(vi x) {
    long s = 0;
    for (int l = 0; l < LANES; l++) s += x[l];
    return s;
}

/* exp on [-87, 0]: 2^n times the Taylor series on [-ln 2 / 2, ln 2 / 2]; nan stays nan. */
static inline vf exp_lanes(vf x) {
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
    vf shifted = x * 1.44269504088896341f + magic;
    vf n = shifted - magic;
    vf r = x - n * 0.693359375f; /* ln 2 in two parts: n times the first is exact */
    r = r + n * 2.12194440054690583e-4f;
    vf p = r * (1.0f / 5040) + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    vi power = ((vi)shifted - (vi)all(magic) + 127) << 23;
    return p * (vf)power;
}

/* Insert into a descending list; among equals the one that came first stays in front. */
static inline int insert(float x, int id, float *value, int *ids, int n, int k) {
    if (n == k && !(x > value[n - 1])) return n;
    int at = n < k ? n : n - 1;
    for (; at > 0 && x > value[at - 1]; at--) {
        value[at] = value[at - 1];
        ids[at] = ids[at - 1];
    }
    value[at] = x;
    ids[at] = id;
    return n < k ? n + 1 : n;
}

/* The k largest: the k-th largest segment maximum bounds the k-th largest number from below. */
static void top_k(const float *z, long V, const float *seg_max, int k, float *value, int *ids) {
    long segments = (V + SEGMENT - 1) / SEGMENT;
    float bound = -INFINITY;
    int n = 0;
    if (segments >= k) {
        for (long s = 0; s < segments; s++) n = insert(seg_max[s], 0, value, ids, n, k);
        bound = value[k - 1];
    }
    n = 0;
    for (long s = 0; s < segments; s++) {
        if (seg_max[s] < bound || (n == k && !(seg_max[s] > value[k - 1]))) continue;
        long end = (s + 1) * SEGMENT < V ? (s + 1) * SEGMENT : V;
        for (long i = s * SEGMENT; i < end; i++)
            if (z[i] >= bound) n = insert(z[i], (int)i, value, ids, n, k);
    }
}

static void undefined(double *real, int *count, int k, int *ids, float *top_logp) {
    for (int j = 0; j < N_REAL; j++) real[j] = NAN;
    for (int j = 0; j < N_COUNT; j++) count[j] = -1;
    for (int j = 0; j < k; j++) ids[j] = -1, top_logp[j] = NAN;
}

static void one_row(const float *z, long V, long y, int k, double *real, int *count, int *ids,
                    float *top_logp) {
    float room[CHUNK], seg_max[MAX_V / SEGMENT], m = -INFINITY, zy = y < 0 ? INFINITY : z[y];
    vi above = {0}, equal = {0}, finite = {0}, at_max = {0};
    for (long start = 0; start < V; start += CHUNK) {
        const float *part = chunk(z, start, V, room);
        for (long segment = 0; segment < CHUNK; segment += SEGMENT) {
            vf top = all(-INFINITY);
            for (long i = 0; i < SEGMENT; i += LANES) {
                vf x = load(part + segment + i);
                above -= (vi)(x > zy);
                equal -= (vi)(x == zy);
                top = pick(x > top, x, top);
            }
            float highest = hmax(top);
            seg_max[(start + segment) / SEGMENT] = highest;
            m = highest > m ? highest : m;
        }
    }

    double s0 = 0, s1 = 0, s2 = 0, sd = 0; /* sums of e, e d, e d^2, d with d = z - m, e = exp d */
    for (long start = 0; start < V; start += CHUNK) {
        const float *part = chunk(z, start, V, room);
        vf c0 = {0}, c1 = {0}, c2 = {0}, cd = {0};
        for (long i = 0; i < CHUNK; i += LANES) {
            vf x = load(part + i);
            vf d = x - m;
            vi low = d < LOWEST, top = d == 0.0f, real_number = x > -INFINITY;
            vf c = pick(low, all(LOWEST), d);
            vf e = keep(~(low | top), exp_lanes(c));
            vf t = e * c;
            c0 += e;
            c1 += t;
            c2 += t * c;
            cd += keep(real_number, d);
            finite -= real_number;
            at_max -= top;
        }
        s0 += hsum(c0), s1 += hsum(c1), s2 += hsum(c2), sd += hsum(cd);
    }

    long n_max = hcount(at_max), n_finite = hcount(finite);
    double S = (double)n_max + s0, log_s = n_max == 1 ? log1p(s0) : log(S);
    if (!isfinite(log_s)) { /* a nan, a +inf, or nothing but -inf */
        undefined(real, count, k, ids, top_logp);
        return;
    }
    double mean = s1 / S, bound = log((double)V);
    double entropy = log_s - mean, variance = s2 / S - mean * mean;
    double logp = (double)zy - m - log_s, kl = log_s - sd / n_finite - log((double)n_finite);
    real[MAX] = m;
    real[LOG_S] = log_s;
    real[LSE] = m + log_s;
    real[LOGP] = y < 0 ? NAN : logp > 0 ? 0 : logp;
    real[ENTROPY] = entropy < 0 ? 0 : entropy > bound ? bound : entropy;
    real[VARENTROPY] = variance < 0 ? 0 : variance;
    real[KL_UNIFORM] = kl < 0 ? 0 : kl;
    long padding = (CHUNK - V % CHUNK) % CHUNK;
    count[RANK] = y < 0 ? -1 : (int)hcount(above) + 1;
    count[TIES] = y < 0 ? -1 : (int)(hcount(equal) - 1 - (zy == -INFINITY ? padding : 0));
    count[FINITE] = (int)n_finite;
    if (k > 0) {
        top_k(z, V, seg_max, k, top_logp, ids);
        for (int j = 0; j < k; j++) {
            double value = (double)top_logp[j] - m - log_s;
            top_logp[j] = (float)(value > 0 ? 0 : value);
        }
    }
}

/* z (rows, V); y (rows,), -1 for none; real (rows, N_REAL); count (rows, N_COUNT); top (rows, k). */
void nll_row_stats(const float *z, long rows, long V, const long long *y, int k, double *real,
                   int *count, int *ids, float *top_logp) {
    for (long r = 0; r < rows; r++)
        one_row(z + r * V, V, (long)y[r], k, real + r * N_REAL, count + r * N_COUNT, ids + r * k,
                top_logp + r * k);
}

static inline vf scaled(const float *z, const float *add, float m, float beta) {
    vf x = (load(z) - m) * beta;
    return add ? x + load(add) : x;
}

/* out[r] = ln sum_v exp(beta (z_v - shift_r) + add_v); add may be null; beta >= 0.
 * At beta = 0 an impossible z_v gives nan, which fails every comparison below and so weighs nothing;
 * a row with a nan of its own is known by its nan shift. */
void nll_row_lse(const float *z, long rows, long V, const double *shift, float beta,
                 const float *add, double *out) {
    float room[CHUNK], add_room[CHUNK];
    for (long r = 0; r < rows; r++, z += V) {
        float m = (float)shift[r];
        vf top = all(-INFINITY);
        for (long start = 0; start < V; start += CHUNK) {
            const float *part = chunk(z, start, V, room);
            const float *plus = add ? chunk(add, start, V, add_room) : 0;
            for (long i = 0; i < CHUNK; i += LANES) {
                vf x = scaled(part + i, plus ? plus + i : 0, m, beta);
                top = pick(x > top, x, top);
            }
        }
        float highest = hmax(top);
        double sum = 0;
        for (long start = 0; start < V; start += CHUNK) {
            const float *part = chunk(z, start, V, room);
            const float *plus = add ? chunk(add, start, V, add_room) : 0;
            vf c = {0};
            for (long i = 0; i < CHUNK; i += LANES) {
                vf x = scaled(part + i, plus ? plus + i : 0, m, beta) - highest;
                vi high = x >= LOWEST;
                c += keep(high, exp_lanes(pick(high, x, all(LOWEST))));
            }
            sum += hsum(c);
        }
        out[r] = isnan(m) ? NAN : highest == -INFINITY ? -INFINITY : highest + log(sum);
    }
}
