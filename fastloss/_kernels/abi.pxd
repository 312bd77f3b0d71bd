# cython: language_level=3
"""The one block signature, and the table of functions an instruction-set module exports.

Everything that computes a pointwise loss (built-in kernels of every instruction set, and later callbacks of a user)
has this signature.  A kernel maps a block of ``n`` samples to losses, gradients and hessian diagonals:

* ``y``, ``raw``          IN   targets and raw predictions, contiguous, of the working dtype
* ``loss, grad, hess``    OUT  may be NULL for a built-in kernel: "not wanted"
* ``params``              IN   the loss's parameters, already rounded to the working dtype
* ``data``                IN   for callbacks; built-ins ignore it

It returns ``n``, or the index of the first sample it refuses (a target outside the loss's domain).
"""
from libc.stdint cimport int32_t, int64_t

cdef enum:
    ABI_VERSION = 1
    MAX_PARAMS = 8
    BLOCK = 1024            # elements per block: five float64 tiles are 40 kB, at home in L1 + L2

ctypedef Py_ssize_t (*kernel_f32)(const float *y, const float *raw, float *loss, float *grad, float *hess,
                                  Py_ssize_t n, const double *params, void *data) noexcept nogil
ctypedef Py_ssize_t (*kernel_f64)(const double *y, const double *raw, double *loss, double *grad, double *hess,
                                  Py_ssize_t n, const double *params, void *data) noexcept nogil

# Kernels of one loss: the loss itself and, where the statistics define it, the expected (Fisher) hessian, which
# writes only ``hess``.
cdef struct LossKernels:
    const char *name
    kernel_f32 f32
    kernel_f64 f64
    kernel_f32 fisher_f32
    kernel_f64 fisher_f64

# Row operations; sums run through fixed interleaved accumulators, so a result depends on n alone.
cdef struct Rows32:
    double (*dot)(const float *x, const float *w, Py_ssize_t n) noexcept nogil                 # sum x*w
    void (*axpy)(float a, const float *x, float *w, Py_ssize_t n) noexcept nogil               # w += a*x
    void (*scale)(float a, float *w, Py_ssize_t n) noexcept nogil                              # w *= a
    double (*total)(const float *x, Py_ssize_t n) noexcept nogil                               # sum x, in float64
    # sum x*w; w = 0 beats NaN
    double (*weighted_total)(const float *x, const double *w, Py_ssize_t n) noexcept nogil
    void (*store)(const float *x, const double *w, double factor, float *out, Py_ssize_t n) noexcept nogil
    int (*label_signs)(const float *y, Py_ssize_t n) noexcept nogil

cdef struct Rows64:
    double (*dot)(const double *x, const double *w, Py_ssize_t n) noexcept nogil
    void (*axpy)(double a, const double *x, double *w, Py_ssize_t n) noexcept nogil
    void (*scale)(double a, double *w, Py_ssize_t n) noexcept nogil
    double (*total)(const double *x, Py_ssize_t n) noexcept nogil
    double (*weighted_total)(const double *x, const double *w, Py_ssize_t n) noexcept nogil
    void (*store)(const double *x, const double *w, double factor, double *out, Py_ssize_t n) noexcept nogil
    int (*label_signs)(const double *y, Py_ssize_t n) noexcept nogil

# What one instruction-set module exports (as a capsule named TABLE_CAPSULE).
cdef struct Table:
    int abi_version
    const char *isa
    Py_ssize_t n_losses
    const LossKernels *losses
    Rows32 rows32
    Rows64 rows64
