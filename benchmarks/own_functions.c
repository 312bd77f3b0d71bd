/* Losses of a user's own in C, for own_functions.py: one text for double and float. */
#include "fastloss_math.h"

#define HUBER(name, T)                                                                                                 \
    ptrdiff_t name(const T *restrict y, const T *restrict raw, T *restrict loss, T *restrict grad, T *restrict hess,   \
                   ptrdiff_t n, const double *params, void *data) {                                                    \
        const T delta = (T)params[0];                                                                                  \
        for (ptrdiff_t i = 0; i < n; i++) {                                                                            \
            const T r = raw[i] - y[i], a = r < 0 ? -r : r;                                                             \
            loss[i] = a <= delta ? (T)0.5 * r * r : delta * (a - (T)0.5 * delta);                                      \
            grad[i] = a <= delta ? r : (r > 0 ? delta : -delta);                                                       \
        }                                                                                                              \
        return n;                                                                                                      \
    }
HUBER(huber_float64, double)
HUBER(huber_float32, float)

#define LOG_COSH(name, T, EXPM1, LOG_COSH, ABS, COPYSIGN)                                                              \
    ptrdiff_t name(const T *restrict y, const T *restrict raw, T *restrict loss, T *restrict grad, T *restrict hess,   \
                   ptrdiff_t n, const double *params, void *data) {                                                    \
        for (ptrdiff_t i = 0; i < n; i++) {                                                                            \
            const T r = raw[i] - y[i], e = EXPM1(-2 * ABS(r));                                                         \
            loss[i] = LOG_COSH(r);                                                                                     \
            grad[i] = COPYSIGN(-e / (2 + e), r);                                                                       \
        }                                                                                                              \
        return n;                                                                                                      \
    }
LOG_COSH(log_cosh_float64, double, fastloss_expm1, fastloss_log_cosh, fastloss_fabs, fastloss_copysign)
LOG_COSH(log_cosh_float32, float, fastloss_expm1f, fastloss_log_coshf, fastloss_fabsf, fastloss_copysignf)
