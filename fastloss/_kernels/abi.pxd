# cython: language_level=3
"""The one block signature, and the table of functions an instruction-set module exports.

Everything that computes a pointwise loss (built-in kernels of every instruction set, and later callbacks of a user)
has this signature; its relative for losses over K scores stands below.  A kernel maps a block of ``n`` samples to
losses, gradients and hessian diagonals:

* ``y``, ``raw``          IN   targets and raw predictions, contiguous, of the working dtype
* ``loss, grad, hess``    OUT  may be NULL for a built-in kernel: "not wanted"
* ``params``              IN   the loss's parameters, already rounded to the working dtype
* ``data``                IN   for callbacks; built-ins ignore it

It returns ``n``, or the index of the first sample it refuses (a target outside the loss's domain).
"""
from libc.stdint cimport int32_t, int64_t

cdef enum:
    ABI_VERSION = 3
    MAX_PARAMS = 8
    BLOCK = 1024            # elements per block: five float64 tiles are 40 kB, at home in L1 + L2
    SCORE_LANES = 256       # most samples of a class-major tile

ctypedef Py_ssize_t (*kernel_f32)(const float *y, const float *raw, float *loss, float *grad, float *hess,
                                  Py_ssize_t n, const double *params, void *data) noexcept nogil
ctypedef Py_ssize_t (*kernel_f64)(const double *y, const double *raw, double *loss, double *grad, double *hess,
                                  Py_ssize_t n, const double *params, void *data) noexcept nogil

# K scores per sample.  Exactly one of y (targets, n*K) and label (classes in 0 ... K-1) is given, or none where the
# function takes neither; raw, grad and hess are tiles (n, K), C-contiguous.  A kernel for lanes takes them
# class-major, (K, n), for n <= SCORE_LANES.  grad is always given: kernels work in it; loss and hess may be NULL.
# A kernel of the product form finds a direction u in hess and leaves the hessian times u there.
ctypedef Py_ssize_t (*scores_f32)(const float *y, const Py_ssize_t *label, const float *raw, float *loss, float *grad,
                                  float *hess, Py_ssize_t n, Py_ssize_t K, const double *params,
                                  void *data) noexcept nogil
ctypedef Py_ssize_t (*scores_f64)(const double *y, const Py_ssize_t *label, const double *raw, double *loss,
                                  double *grad, double *hess, Py_ssize_t n, Py_ssize_t K, const double *params,
                                  void *data) noexcept nogil

# Kernels of one loss: the loss itself and, where the statistics define it, the expected (Fisher) hessian, which
# writes only ``hess``.
cdef struct LossKernels:
    const char *name
    kernel_f32 f32
    kernel_f64 f64
    kernel_f32 fisher_f32
    kernel_f64 fisher_f64

cdef struct ScoreKernels:
    const char *name
    scores_f32 rows_f32             # (n, K) tiles
    scores_f64 rows_f64
    scores_f32 rows_product_f32
    scores_f64 rows_product_f64
    scores_f32 lanes_f32            # (K, n) tiles; NULL: there is none
    scores_f64 lanes_f64
    scores_f32 lanes_product_f32
    scores_f64 lanes_product_f64

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
    # Products with tiles (simd.h): z = X w;  g += X' a;  c[i, :] += sum_p a[i, p] b[p, :] over panels of `wide`
    # vectors of `lanes` numbers, a addressed by two strides;  a tile transposed;  sums of a panel's rows;  rows of a
    # sparse matrix times such a panel, or added to one.
    Py_ssize_t lanes
    void (*rows_times)(const float *x, Py_ssize_t ld, const float *w, float *z, Py_ssize_t rows,
                       Py_ssize_t d) noexcept nogil
    void (*add_rows)(const float *x, Py_ssize_t ld, const float *a, float *g, Py_ssize_t rows,
                     Py_ssize_t d) noexcept nogil
    # Rows anywhere, FASTLOSS_GROUP of them: their products with each other (and a prefetch of later ones), with w, and
    # w += sum a*row.
    void (*group_gram)(const float *const *row, const float *const *later, Py_ssize_t d, int squares,
                       double *gram) noexcept nogil
    void (*group_dots)(const float *const *row, const float *const *later, const float *w, Py_ssize_t d,
                       double *z) noexcept nogil
    void (*group_add)(const float *const *row, const double *a, float *w, Py_ssize_t d) noexcept nogil
    void (*panel)(const float *a, Py_ssize_t ai, Py_ssize_t ap, const float *b, float *c, Py_ssize_t count,
                  Py_ssize_t length, int wide) noexcept nogil
    void (*transpose)(const float *x, Py_ssize_t ld_from, float *to, Py_ssize_t ld_to, Py_ssize_t rows,
                      Py_ssize_t columns) noexcept nogil
    void (*sum_panel)(const float *b, Py_ssize_t rows, int wide, double *out) noexcept nogil
    void (*widen_add)(const float *x, double *to, Py_ssize_t n) noexcept nogil
    void (*sparse32_times)(const float *x, const int *column, const int *start, Py_ssize_t rows, const float *w,
                           float *z, int wide) noexcept nogil
    void (*sparse64_times)(const float *x, const long long *column, const long long *start, Py_ssize_t rows,
                           const float *w, float *z, int wide) noexcept nogil
    void (*sparse32_add)(const float *x, const int *column, const int *start, Py_ssize_t rows, const float *a,
                         double *g, int wide, Py_ssize_t low, Py_ssize_t high) noexcept nogil
    void (*sparse64_add)(const float *x, const long long *column, const long long *start, Py_ssize_t rows,
                         const float *a, double *g, int wide, Py_ssize_t low, Py_ssize_t high) noexcept nogil

cdef struct Rows64:
    double (*dot)(const double *x, const double *w, Py_ssize_t n) noexcept nogil
    void (*axpy)(double a, const double *x, double *w, Py_ssize_t n) noexcept nogil
    void (*scale)(double a, double *w, Py_ssize_t n) noexcept nogil
    double (*total)(const double *x, Py_ssize_t n) noexcept nogil
    double (*weighted_total)(const double *x, const double *w, Py_ssize_t n) noexcept nogil
    void (*store)(const double *x, const double *w, double factor, double *out, Py_ssize_t n) noexcept nogil
    int (*label_signs)(const double *y, Py_ssize_t n) noexcept nogil
    Py_ssize_t lanes
    void (*rows_times)(const double *x, Py_ssize_t ld, const double *w, double *z, Py_ssize_t rows,
                       Py_ssize_t d) noexcept nogil
    void (*add_rows)(const double *x, Py_ssize_t ld, const double *a, double *g, Py_ssize_t rows,
                     Py_ssize_t d) noexcept nogil
    void (*group_gram)(const double *const *row, const double *const *later, Py_ssize_t d, int squares,
                       double *gram) noexcept nogil
    void (*group_dots)(const double *const *row, const double *const *later, const double *w, Py_ssize_t d,
                       double *z) noexcept nogil
    void (*group_add)(const double *const *row, const double *a, double *w, Py_ssize_t d) noexcept nogil
    void (*panel)(const double *a, Py_ssize_t ai, Py_ssize_t ap, const double *b, double *c, Py_ssize_t count,
                  Py_ssize_t length, int wide) noexcept nogil
    void (*transpose)(const double *x, Py_ssize_t ld_from, double *to, Py_ssize_t ld_to, Py_ssize_t rows,
                      Py_ssize_t columns) noexcept nogil
    void (*sum_panel)(const double *b, Py_ssize_t rows, int wide, double *out) noexcept nogil
    void (*widen_add)(const double *x, double *to, Py_ssize_t n) noexcept nogil
    void (*sparse32_times)(const double *x, const int *column, const int *start, Py_ssize_t rows, const double *w,
                           double *z, int wide) noexcept nogil
    void (*sparse64_times)(const double *x, const long long *column, const long long *start, Py_ssize_t rows,
                           const double *w, double *z, int wide) noexcept nogil
    void (*sparse32_add)(const double *x, const int *column, const int *start, Py_ssize_t rows, const double *a,
                         double *g, int wide, Py_ssize_t low, Py_ssize_t high) noexcept nogil
    void (*sparse64_add)(const double *x, const long long *column, const long long *start, Py_ssize_t rows,
                         const double *a, double *g, int wide, Py_ssize_t low, Py_ssize_t high) noexcept nogil

# What one instruction-set module exports (as a capsule named TABLE_CAPSULE).
cdef struct Table:
    int abi_version
    const char *isa
    Py_ssize_t n_losses
    const LossKernels *losses
    Py_ssize_t n_scores
    const ScoreKernels *scores
    Rows32 rows32
    Rows64 rows64
