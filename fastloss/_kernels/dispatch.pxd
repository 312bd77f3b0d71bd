# cython: language_level=3
"""What the other compiled modules (SGD, linear objectives) use of dispatch."""
cimport numpy as cnp

from fastloss._kernels.abi cimport MAX_PARAMS, LossKernels, ScoreKernels, Table

cdef extern from *:
    """
    /* Into L2: what is read next. */
    static inline void fastloss_fetch(const char *from, Py_ssize_t bytes) {
    #if defined(__GNUC__) || defined(__clang__)
        const char *end = from + bytes;
        for (; from < end; from += 64) __builtin_prefetch(from, 0, 2);
        __asm__ volatile("");       /* gcc takes a function that only prefetches for one without effect */
    #endif
    }
    """
    void fetch "fastloss_fetch"(const char *source, Py_ssize_t nbytes) noexcept nogil

ctypedef fused real:
    float
    double

cdef struct Input:
    const char *data            # NULL: not given
    Py_ssize_t row              # bytes from one sample to the next
    Py_ssize_t column           # bytes from one output to the next
    int type_number             # numpy's
    int swapped                 # element size if the bytes are in the other order, else 0
    bint aligned

cdef struct Output:
    char *data
    Py_ssize_t row
    Py_ssize_t column

# What is computed from which arrays.
cdef struct Job:
    Input y
    Input raw
    Input weight
    Output loss
    Output gradient
    Output hessian
    Py_ssize_t n                # samples
    Py_ssize_t width            # outputs, or scores, of a sample
    Py_ssize_t rows_per_block
    int want
    bint binary
    double factor               # of the gradient and hessian
    bint stream                 # write the gradient past the caches
    void *kernel
    void *fisher                # NULL: the hessian is the kernel's own, or constant
    double hessian_constant     # used when >= 0
    const double *params
    void *data
    bint scores                 # `width` is the number of classes, y holds labels ...
    bint soft                   # ... or (n, width) targets
    bint lanes                  # tiles are class-major
    bint signed_weights
    bint has_ignored
    double ignored              # label
    bint look                   # read every label or target also where no weight depends on it
    const double *class_weight  # NULL: none
    double *column_totals       # NULL: not wanted; else 2 * width sums, see `evaluate`

cdef struct ChunkResult:
    double total                # of weight * loss
    Py_ssize_t refused          # first refused element, or -1
    bint bad_weight             # it was refused for its weight
    Py_ssize_t returned         # what the kernel returned ...
    Py_ssize_t asked            # ... when it was to return this; 0: it was not the kernel that refused
    int signs                   # see row_label_signs
    double *columns             # this chunk's part of job.column_totals

# The tiles of one block (of the working dtype), and where its weights are.
cdef struct Scratch:
    void *y
    void *raw
    void *loss
    void *grad
    void *hess
    void *staging
    double *weight
    Py_ssize_t *label
    const double *weights       # of the block's elements (K scores: samples); NULL: all 1

# The table of the instruction set in use; set at import, switched only by tests.
cdef const Table *active_table() noexcept nogil


cdef class Kernel:
    """The compiled half of a Loss: which kernels, and the parameters in both working dtypes."""
    cdef readonly str name
    cdef readonly str target        # how y is described in an error message
    cdef bint binary                # labels: -1 and 0 must not be mixed
    cdef double params32[MAX_PARAMS]
    cdef double params64[MAX_PARAMS]
    cdef list names, values         # of the parameters, as given
    cdef int lost32, lost64         # a parameter the dtype cannot hold, or -1
    cdef void *data
    cdef const Table *table         # the table `found` (K scores: `found_scores`) was looked up in
    cdef const LossKernels *found
    cdef const ScoreKernels *found_scores
    cdef readonly bint scores       # a loss over K scores; the rest is for these
    cdef readonly bint soft_targets
    cdef bint signed_weights
    cdef object class_weight        # float64 array or None
    cdef readonly object ignore_index
    cdef readonly Py_ssize_t outputs    # a loss of its own for each of so many outputs; 0: any number of them
    cdef readonly bint python       # calls a Python function: on the calling thread only, in long blocks

    # The kernels in the active table; looked up per call, so that a switch of instruction set reaches live objects.
    cdef const LossKernels *kernels(self)
    cdef const ScoreKernels *score_kernels(self)

    # The parameters for float32 (single) or float64; raises where the dtype cannot hold one.
    cdef const double *params(self, bint single) except NULL

    # The kernel that refuses a target: this one, or a part of it.
    cdef Kernel refusing(self, double y, Py_ssize_t column)

    # For one pass or one fit: itself, or a copy that keeps what went wrong in it.
    cdef Kernel session(self)

    # Samples of a block, for `width` outputs or scores.
    cdef Py_ssize_t block_rows(self, Py_ssize_t width) noexcept

    # Whether a call went wrong in this session.
    cdef bint failed(self) noexcept

    # Why a sample was refused: the kernel returned something else than the number of samples asked for.
    cdef str refusal(self, Py_ssize_t returned, Py_ssize_t asked)

    # Raises what went wrong in a session whose return values nobody looked at.
    cdef int raise_failure(self) except -1

# Number of threads a request means: None -> as many as useful for `work` elements; raises for < 1 or non-integers.
cdef int resolve_threads(object n_threads, Py_ssize_t work) except -1

# arrays.pxi
cdef cnp.ndarray _real_array(object values, str name)
cdef Input _input(cnp.ndarray array)
cdef bint plain(const Input *view, Py_ssize_t size) noexcept nogil
cdef const real *load(const Input *view, Py_ssize_t first, Py_ssize_t rows, Py_ssize_t width, real *tile) noexcept nogil

# blocks.pxi
cdef Py_ssize_t scratch_bytes(const Job *job, Py_ssize_t size) noexcept nogil
cdef void lay_out(Scratch *scratch, const Job *job, char *memory, real like) noexcept nogil
cdef Py_ssize_t compute(const Job *job, Py_ssize_t first, Py_ssize_t rows, const real *raw, real *loss, real *grad,
                        real *hess, Scratch *scratch, ChunkResult *result) noexcept nogil
cdef void weigh(const Job *job, const Scratch *scratch, real *tile, Py_ssize_t rows) noexcept nogil
cdef void transpose(const real *tile, Py_ssize_t ld_from, real *to, Py_ssize_t ld_to, Py_ssize_t rows,
                    Py_ssize_t columns) noexcept nogil

# dispatch.pyx
cdef int check_shapes(Kernel kernel, cnp.ndarray y, cnp.ndarray raw, cnp.ndarray weight) except -1
cdef int bind_kernel(Job *job, Kernel kernel, bint single, Py_ssize_t width, int want, object hessian,
                     bint product) except -1
cdef int bind_targets(Job *job, Kernel kernel, cnp.ndarray y, cnp.ndarray weight) except -1
cdef double total_weight(Job *job, bint single, int n_threads, Kernel kernel, object y,
                         object sample_weight) except? -1
cdef double check_data(Job *job, bint single, Kernel kernel, cnp.ndarray y, cnp.ndarray weight,
                       object n_threads) except? -1
cdef int raise_refused(Kernel kernel, cnp.ndarray y, Py_ssize_t refused, Py_ssize_t returned, Py_ssize_t asked,
                       int signs, Py_ssize_t width) except -1
cdef str no_mean(const Job *job, double weights)
