/* Callbacks for test_custom.py. */
#include "fastloss_math.h"
#define LOSS(name, T)                                                                                                  \
    ptrdiff_t name(const T *y, const T *raw, T *loss, T *grad, T *hess, ptrdiff_t n, const double *params, void *data)
#define UNUSED (void)raw, (void)hess, (void)params, (void)data

#define HUBER(name, T)                                                                                                 \
    LOSS(name, T) {                                                                                                    \
        const T delta = (T)params[0];                                                                                  \
        (void)hess, (void)data;                                                                                        \
        for (ptrdiff_t i = 0; i < n; i++) {                                                                            \
            const T r = raw[i] - y[i], a = r < 0 ? -r : r;                                                             \
            loss[i] = a <= delta ? (T)0.5 * r * r : delta * (a - (T)0.5 * delta);                                      \
            grad[i] = a <= delta ? r : (r > 0 ? delta : -delta);                                                       \
            grad[i] = r != r ? r : grad[i];                                                                            \
        }                                                                                                              \
        return n;                                                                                                      \
    }
HUBER(huber, double)
HUBER(huberf, float)

LOSS(huber_with_hessian, double) {
    huber(y, raw, loss, grad, hess, n, params, data);
    for (ptrdiff_t i = 0; i < n; i++) hess[i] = fabs(raw[i] - y[i]) <= params[0];
    return n;
}
LOSS(squares, double) {     /* 100 parameters, and user data: the factor */
    const double factor = data ? *(const double *)data : params[99];
    (void)hess;
    for (ptrdiff_t i = 0; i < n; i++) {
        loss[i] = 0.5 * factor * (raw[i] - y[i]) * (raw[i] - y[i]);
        grad[i] = factor * (raw[i] - y[i]);
    }
    return n;
}
LOSS(log_cosh, double) {
    UNUSED;
    for (ptrdiff_t i = 0; i < n; i++) {
        const double r = raw[i] - y[i], e = fastloss_expm1(-2 * fastloss_fabs(r));
        loss[i] = fastloss_log_cosh(r);
        grad[i] = fastloss_copysign(-e / (2 + e), r);
    }
    return n;
}
LOSS(refuses_negative, double) {
    UNUSED;
    for (ptrdiff_t i = 0; i < n; i++) {
        if (y[i] < 0) return i;
        loss[i] = grad[i] = 0;
    }
    return n;
}
LOSS(returns_minus_five, double) { UNUSED; (void)y, (void)loss, (void)grad, (void)n; return -5; }
LOSS(returns_too_much, double) { UNUSED; (void)y, (void)loss, (void)grad; return n + 1; }
LOSS(refuses_large_raw, double) {
    (void)hess, (void)data;
    for (ptrdiff_t i = 0; i < n; i++) {
        if (fabs(raw[i]) > params[0]) return i;
        loss[i] = 0.5 * (raw[i] - y[i]) * (raw[i] - y[i]);
        grad[i] = raw[i] - y[i];
    }
    return n;
}
/* Cross-entropy of a softmax, labels or targets. */
ptrdiff_t softmax(const double *y, const ptrdiff_t *label, const double *raw, double *loss, double *grad, double *hess,
                  ptrdiff_t n, ptrdiff_t K, const double *params, void *data) {
    UNUSED;
    for (ptrdiff_t i = 0; i < n; i++) {
        const double *z = raw + i * K;
        double *g = grad + i * K, top = z[0], sum = 0;
        for (ptrdiff_t k = 1; k < K; k++) top = fastloss_fmax(top, z[k]);
        for (ptrdiff_t k = 0; k < K; k++) sum += g[k] = fastloss_exp(z[k] - top);
        loss[i] = 0;
        double mass = 0;
        for (ptrdiff_t k = 0; k < K; k++) {
            const double target = y ? y[i * K + k] : label[i] == k;
            mass += target;
            loss[i] -= target == 0 ? 0 : target * (z[k] - top - fastloss_log(sum));
        }
        for (ptrdiff_t k = 0; k < K; k++) g[k] = mass * g[k] / sum - (y ? y[i * K + k] : label[i] == k);
    }
    return n;
}

/* One call of a function of the header, for comparisons with mpmath. */
#define EACH(name)                                                                                                     \
    void each_##name(const double *x, double *out, ptrdiff_t n) {                                                      \
        for (ptrdiff_t i = 0; i < n; i++) out[i] = fastloss_##name(x[i]);                                              \
    }                                                                                                                  \
    void each_##name##f(const float *x, float *out, ptrdiff_t n) {                                                     \
        for (ptrdiff_t i = 0; i < n; i++) out[i] = fastloss_##name##f(x[i]);                                           \
    }
EACH(exp)
EACH(expm1)
EACH(log)
EACH(log1p)
EACH(log_cosh)
EACH(sigmoid)
