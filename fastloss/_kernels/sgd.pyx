# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Stochastic gradient descent over the rows of X: everything that must run without the interpreter.

Who does what
-------------
``Design``     the rows of X (dense or CSR, float32 or float64, int32 or int64 indices): dot with w, add to w, prefetch
``RowOrder``   in which order an epoch visits the rows
``Schedule``   the step size of update number t
``Implicit``   steps that cannot overshoot, see ``sgd_implicit.pxi``
``Model``      weight vectors while they are trained, see ``sgd_model.pxi``: scale, penalties, averages
``visit``      updates a model row by row, ``visit_groups`` with dense rows, four at a time and several models at once
``Trainer``    walks an epoch block by block; in each block the models visit the same rows

Epochs are driven from Python (`fastloss.linear_model`), which also decides when to stop: an epoch costs a microsecond
of Python, and the rules stay readable there.

Why blocks: with one model a block is just what one look at the row order hands out.  With several (one-vs-rest) the
rows of a block are still in cache when the second model visits them, so X is read from memory once per epoch and not
once per class.  A slab is many blocks, some 10 to 50 ms: between slabs the interpreter looks at Ctrl-C.  Threads share
the models of a slab; a model never reads another one's state, so the result cannot depend on their number.
"""
from cpython.buffer cimport PyBUF_C_CONTIGUOUS, PyBUF_FORMAT, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cython cimport floating
from cython.parallel cimport prange
from libc.math cimport INFINITY, NAN, copysign, fabs, isfinite, pow, sqrt
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memcpy

from fastloss._kernels.abi cimport BLOCK, MAX_PARAMS, Table, kernel_f32, kernel_f64, scores_f32, scores_f64
from fastloss._kernels.dispatch cimport Kernel, active_table, resolve_threads

import numpy as np

from fastloss._kernels.dispatch import RefusedSampleError

cdef extern from *:
    """
    static inline void fastloss_prefetch(const void *address) {
    #if defined(__GNUC__) || defined(__clang__)
        __builtin_prefetch(address, 0, 3);
        /* gcc takes a function that only prefetches for one without effect and drops its calls */
        __asm__ volatile("");
    #else
        (void)address;
    #endif
    }
    """
    void prefetch "fastloss_prefetch"(const void *address) noexcept nogil

ctypedef fused index_t:
    int32_t
    int64_t

cdef enum:
    LINE = 64                   # bytes of a cache line
    AHEAD = 6                   # rows between the one being read and the one being prefetched
    GROUP = 4                   # rows updated together: FASTLOSS_GROUP of simd.h
    LONG_ROW = 1024             # bytes; so long rows are prefetched one group ahead, shorter ones two
    TOGETHER = 16               # models that share a look at a group
    MAX_LINES = 16              # prefetched per row: what follows is a stream the hardware recognises by itself
    MAX_BLOCK_ROWS = 1024
    BLOCK_BYTES = 1 << 18       # of X per block when several models share it: half of a usual L2
    # Work is counted in elements of X, about a nanosecond each.
    UPDATE_WORK = 32            # what an update costs beside its row
    THREADS_FROM = 1 << 21      # of an epoch, all models: with less, threads would mostly wait for each other
    SLAB_WORK = 1 << 24         # of a thread between two looks at pending signals: some 10 to 50 ms

cdef double MAX_SLOPE = 1e12    # a larger derivative of the loss is clipped to this (as scikit-learn does) and counted


# ---------------------------------------------------------------------------------------------------------------------
# Memory of NumPy arrays as pointers
# ---------------------------------------------------------------------------------------------------------------------
cdef class Buffer:
    """Holds the memory of a C-contiguous array; refuses any other dtype, so a pointer cast cannot go wrong."""
    cdef Py_buffer view

    def __cinit__(self, array, *dtypes, bint writable=False):
        if array.dtype not in dtypes:
            raise TypeError(f"expected an array of {' or '.join(str(np.dtype(t)) for t in dtypes)}, got {array.dtype}")
        PyObject_GetBuffer(
            array, &self.view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (PyBUF_WRITABLE if writable else 0)
        )

    def __dealloc__(self):
        PyBuffer_Release(&self.view)


cdef Py_ssize_t first_refused(Kernel kernel, const floating *y, Py_ssize_t n) except -2:
    cdef floating[BLOCK] zeros, losses
    cdef const double *params = kernel.params(floating is float)
    cdef kernel_f32 kernel32 = kernel.kernels().f32
    cdef kernel_f64 kernel64 = kernel.kernels().f64
    cdef Py_ssize_t begin = 0, count, accepted
    for count in range(BLOCK):
        zeros[count] = 0
    with nogil:
        while begin < n:
            count = min(n - begin, <Py_ssize_t> BLOCK)
            if floating is float:
                accepted = kernel32(y + begin, zeros, losses, NULL, NULL, count, params, kernel.data)
            else:
                accepted = kernel64(y + begin, zeros, losses, NULL, NULL, count, params, kernel.data)
            if accepted != count:
                return begin + (accepted if 0 <= accepted < count else 0)
            begin += count
    return -1


def check_targets(Kernel kernel not None, y):
    """Raise for the first element of y (float32 or float64, contiguous) outside the loss's domain.

    Done before training, where a bad target would otherwise come up in random order and after some updates.
    """
    cdef Buffer buffer = Buffer(y, np.float32, np.float64)
    cdef Py_ssize_t n = buffer.view.len // buffer.view.itemsize, refused
    kernel = kernel.session()
    if buffer.view.itemsize == 4:
        refused = first_refused(kernel, <const float *> buffer.view.buf, n)
    else:
        refused = first_refused(kernel, <const double *> buffer.view.buf, n)
    if refused >= 0:
        where = tuple(int(k) for k in np.unravel_index(refused, y.shape))
        try:
            kernel.raise_failure()
        except RefusedSampleError as error:
            raise error.at(where) from None
        value = y[where].item()
        kernel = kernel.refusing(value, where[len(where) - 1])
        raise ValueError(f"y[{', '.join(map(str, where))}] = {value!r}: {kernel.name} needs {kernel.target}")


# ---------------------------------------------------------------------------------------------------------------------
# The rows of X
# ---------------------------------------------------------------------------------------------------------------------
cdef struct Rows:
    Py_ssize_t n_rows
    Py_ssize_t n_columns
    const void *values
    const void *columns         # CSR column indices; NULL when the rows are dense
    const void *starts          # CSR row starts
    bint wide_columns           # int64, else int32
    bint wide_starts


cdef inline Py_ssize_t row_start(const Rows *X, Py_ssize_t i) noexcept nogil:
    if X.wide_starts:
        return <Py_ssize_t> (<const int64_t *> X.starts)[i]
    return (<const int32_t *> X.starts)[i]


cdef inline double dense_dot(const Table *table, const floating *x, const floating *w, Py_ssize_t n) noexcept nogil:
    if floating is float:
        return table.rows32.dot(x, w, n)
    else:
        return table.rows64.dot(x, w, n)


cdef inline void dense_add(const Table *table, double a, const floating *x, floating *w, Py_ssize_t n) noexcept nogil:
    if floating is float:
        table.rows32.axpy(<float> a, x, w, n)
    else:
        table.rows64.axpy(a, x, w, n)


cdef inline void dense_scale(const Table *table, double a, floating *w, Py_ssize_t n) noexcept nogil:
    if floating is float:
        table.rows32.scale(<float> a, w, n)
    else:
        table.rows64.scale(a, w, n)


cdef inline double sparse_dot(
    const floating *x, const index_t *columns, const floating *w, Py_ssize_t n
) noexcept nogil:
    # Four chains, or every addition would wait for the one before; sums in the dtype of X, as those of dense rows are:
    # converting every number of a float32 row took as long as its arithmetic.
    cdef floating s0 = 0, s1 = 0, s2 = 0, s3 = 0
    cdef Py_ssize_t j = 0
    while j + 3 < n:
        s0 += x[j] * w[columns[j]]
        s1 += x[j + 1] * w[columns[j + 1]]
        s2 += x[j + 2] * w[columns[j + 2]]
        s3 += x[j + 3] * w[columns[j + 3]]
        j += 4
    while j < n:
        s0 += x[j] * w[columns[j]]
        j += 1
    return (<double> s0 + s1) + (<double> s2 + s3)


cdef inline double sparse_add(
    double a, const floating *x, const index_t *columns, floating *w, Py_ssize_t n, bint want_change
) noexcept nogil:
    """w += a*x; returns by how much that changed the squared norm of w (right for duplicate columns too)."""
    cdef double change = 0.0, before
    cdef floating factor = <floating> a, after
    cdef Py_ssize_t j
    if not want_change:
        for j in range(n):
            w[columns[j]] += factor * x[j]
        return 0.0
    for j in range(n):
        before = w[columns[j]]
        after = w[columns[j]] + factor * x[j]
        w[columns[j]] = after
        change += (after - before) * (after + before)
    return change


cdef inline double row_dot(const Table *table, const Rows *X, Py_ssize_t i, const floating *w) noexcept nogil:
    cdef const floating *values = <const floating *> X.values
    cdef Py_ssize_t start, n
    if X.columns == NULL:
        return dense_dot(table, values + i * X.n_columns, w, X.n_columns)
    start = row_start(X, i)
    n = row_start(X, i + 1) - start
    if X.wide_columns:
        return sparse_dot(values + start, <const int64_t *> X.columns + start, w, n)
    return sparse_dot(values + start, <const int32_t *> X.columns + start, w, n)


cdef inline double row_add(
    const Table *table, const Rows *X, Py_ssize_t i, double a, floating *w, double dot, bint want_change
) noexcept nogil:
    """w += a*x_i; returns the change of the squared norm of w (0 when not wanted).  `dot` is w.x_i before the call."""
    cdef const floating *values = <const floating *> X.values
    cdef Py_ssize_t start, n
    cdef double change = 0.0
    if X.columns == NULL:
        values += i * X.n_columns
        if want_change:
            change = a * (2.0 * dot + a * dense_dot(table, values, values, X.n_columns))
        dense_add(table, a, values, w, X.n_columns)
        return change
    start = row_start(X, i)
    n = row_start(X, i + 1) - start
    if X.wide_columns:
        return sparse_add(a, values + start, <const int64_t *> X.columns + start, w, n, want_change)
    return sparse_add(a, values + start, <const int32_t *> X.columns + start, w, n, want_change)


cdef inline Py_ssize_t column_at(const Rows *X, Py_ssize_t j) noexcept nogil:
    if X.wide_columns:
        return <Py_ssize_t> (<const int64_t *> X.columns)[j]
    return (<const int32_t *> X.columns)[j]


cdef inline double row_square(const Table *table, const Rows *X, Py_ssize_t i, floating like) noexcept nogil:
    """Squared norm of x_i, whose columns must not occur twice."""
    cdef const floating *values = <const floating *> X.values
    cdef Py_ssize_t start = i * X.n_columns, n = X.n_columns
    if X.columns != NULL:
        start = row_start(X, i)
        n = row_start(X, i + 1) - start
    return dense_dot(table, values + start, values + start, n)


cdef inline void prefetch_bytes(const char *begin, Py_ssize_t n_bytes) noexcept nogil:
    cdef Py_ssize_t offset = 0, limit = min(n_bytes, <Py_ssize_t> (MAX_LINES * LINE))
    while offset < limit:
        prefetch(begin + offset)
        offset += LINE
    if limit > 0:
        # rows do not start at a cache line: they usually end in one more than the steps above touched, and a single
        # miss costs more than the arithmetic of the row
        prefetch(begin + limit - 1)


cdef inline void prefetch_row(const Rows *X, Py_ssize_t i, Py_ssize_t item) noexcept nogil:
    cdef Py_ssize_t start, n, index_size
    if X.columns == NULL:
        prefetch_bytes(<const char *> X.values + i * X.n_columns * item, X.n_columns * item)
        return
    start = row_start(X, i)
    n = row_start(X, i + 1) - start
    index_size = 8 if X.wide_columns else 4
    prefetch_bytes(<const char *> X.values + start * item, n * item)
    prefetch_bytes(<const char *> X.columns + start * index_size, n * index_size)


cdef inline void prefetch_start(const Rows *X, Py_ssize_t i) noexcept nogil:
    if X.columns != NULL:
        prefetch(<const char *> X.starts + i * (8 if X.wide_starts else 4))


cdef Py_ssize_t bad_start(const Rows *X, Py_ssize_t n_stored) noexcept nogil:
    """First row whose stored elements are not inside [0, n_stored), or -1."""
    cdef Py_ssize_t i, begin = row_start(X, 0), end
    if begin < 0:
        return 0
    for i in range(X.n_rows):
        end = row_start(X, i + 1)
        if end < begin or end > n_stored:
            return i
        begin = end
    return -1


cdef Py_ssize_t bad_column(
    const index_t *columns, Py_ssize_t begin, Py_ssize_t end, Py_ssize_t n_columns
) noexcept nogil:
    """First position in [begin, end) whose column does not exist, or -1."""
    cdef Py_ssize_t j
    for j in range(begin, end):
        if columns[j] < 0 or columns[j] >= n_columns:
            return j
    return -1


cdef class Design:
    """The rows of X: a C-contiguous array or a CSR matrix of float32 or float64, used in place, never copied.

    The structure of a CSR matrix is checked here once (SciPy does not do it for attributes set by hand), because later
    every index is trusted.
    """
    cdef Rows rows
    cdef list buffers
    cdef readonly bint single, sparse
    cdef readonly Py_ssize_t n_rows, n_columns, n_stored

    def __cinit__(self, X):
        self.sparse = hasattr(X, "indptr")
        self.single = X.dtype == np.float32
        self.n_rows, self.n_columns = X.shape
        self.n_stored = self.n_rows * self.n_columns
        self.rows.n_rows, self.rows.n_columns = X.shape
        values = Buffer(X.data if self.sparse else X, np.float32, np.float64)
        self.buffers = [values]
        self.rows.values = (<Buffer> values).view.buf
        if self.sparse:
            self._take_structure(X.indices, X.indptr, X.data.shape[0])

    cdef _take_structure(self, indices, indptr, Py_ssize_t n_values):
        cdef Buffer columns = Buffer(indices, np.int32, np.int64)
        cdef Buffer starts = Buffer(indptr, np.int32, np.int64)
        cdef Py_ssize_t bad, begin
        if indptr.shape[0] != self.n_rows + 1:
            raise ValueError(f"X.indptr has {indptr.shape[0]} elements, expected {self.n_rows + 1}")
        self.buffers += [columns, starts]
        self.rows.columns, self.rows.starts = columns.view.buf, starts.view.buf
        self.rows.wide_columns = columns.view.itemsize == 8
        self.rows.wide_starts = starts.view.itemsize == 8
        with nogil:
            bad = bad_start(&self.rows, min(n_values, columns.view.len // columns.view.itemsize))
        if bad >= 0:
            raise ValueError(f"X.indptr[{bad + 1}] = {indptr[bad + 1]} does not fit the row before or X.data")
        begin = row_start(&self.rows, 0)
        self.n_stored = row_start(&self.rows, self.n_rows) - begin
        with nogil:
            if self.rows.wide_columns:
                bad = bad_column(<const int64_t *> self.rows.columns, begin, begin + self.n_stored, self.n_columns)
            else:
                bad = bad_column(<const int32_t *> self.rows.columns, begin, begin + self.n_stored, self.n_columns)
        if bad >= 0:
            raise ValueError(f"X.indices[{bad}] = {indices[bad]} is not a column of X, which has {self.n_columns}")


# ---------------------------------------------------------------------------------------------------------------------
# The order in which an epoch visits them
# ---------------------------------------------------------------------------------------------------------------------
cdef inline uint64_t splitmix64(uint64_t *state) noexcept nogil:
    """Steele, Lea and Flood's generator: one 64-bit word of state, any seed is a good one."""
    cdef uint64_t z
    state[0] += 0x9E3779B97F4A7C15ULL
    z = state[0]
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL
    return z ^ (z >> 31)


cdef inline uint64_t draw_below(uint64_t *state, uint64_t bound) noexcept nogil:
    """Uniform on [0, bound), exactly.  Below 2**32 by Lemire's multiplication, without a division in the usual case."""
    cdef uint64_t draw, rejected
    if bound <= 0xFFFFFFFFULL:
        draw = (splitmix64(state) >> 32) * bound
        if (draw & 0xFFFFFFFFULL) < bound:
            rejected = (0x100000000ULL - bound) % bound
            while (draw & 0xFFFFFFFFULL) < rejected:
                draw = (splitmix64(state) >> 32) * bound
        return draw >> 32
    rejected = (0 - bound) % bound
    draw = splitmix64(state)
    while draw < rejected:
        draw = splitmix64(state)
    return draw % bound


ctypedef fused position_t:
    uint32_t
    uint64_t


cdef void shuffle_positions(position_t *order, Py_ssize_t n, uint64_t *state) noexcept nogil:
    cdef Py_ssize_t i, j
    for i in range(n - 1, 0, -1):
        j = <Py_ssize_t> draw_below(state, <uint64_t> i + 1)
        order[i], order[j] = order[j], order[i]


cdef class RowOrder:
    """Order of the rows: storage order (`seed=None`) or a fresh Fisher-Yates permutation for every epoch.

    `rows`, ascending, are those of the n rows to visit; None: all of them.

    32-bit positions while they suffice: half the memory, and swapping random elements of the order is a twentieth of
    the time of an epoch with few columns.

    Every row has a place of its own.  Runs of 8 neighbours in random order, 16 runs mixed, made an epoch with 54
    columns faster (log_loss by 4 %, hinge by 18 %), but where neighbours are alike the steps are noisier: on covtype
    sorted by label, the objective of log_loss was 0.675, 0.590, 0.547 after 1, 2, 5 epochs, not 0.557, 0.535, 0.522.
    """
    cdef readonly Py_ssize_t n
    cdef uint64_t state
    cdef bint shuffled
    cdef object array
    cdef uint32_t *narrow
    cdef uint64_t *wide

    def __cinit__(self, Py_ssize_t n, seed=None, rows=None):
        cdef Buffer buffer
        dtype = np.uint32 if n <= 0xFFFFFFFF else np.uint64
        self.n = n if rows is None else len(rows)
        self.shuffled = seed is not None
        if seed is None and rows is None:
            return
        if seed is not None:
            self.state = seed
        if rows is not None and self.n and not 0 <= rows.min() <= rows.max() < n:
            raise ValueError(f"rows must be from 0 to {n - 1}")
        buffer = Buffer(
            np.arange(n, dtype=dtype) if rows is None else np.array(rows, dtype=dtype),
            np.uint32,
            np.uint64,
            writable=True,
        )
        self.array = buffer
        if buffer.view.itemsize == 4:
            self.narrow = <uint32_t *> buffer.view.buf
        else:
            self.wide = <uint64_t *> buffer.view.buf

    cdef void start_epoch(self) noexcept nogil:
        if not self.shuffled:
            return
        if self.narrow != NULL:
            shuffle_positions(self.narrow, self.n, &self.state)
        elif self.wide != NULL:
            shuffle_positions(self.wide, self.n, &self.state)

    cdef void read(self, Py_ssize_t begin, Py_ssize_t count, Py_ssize_t *rows) noexcept nogil:
        """The rows at positions begin ... begin + count of this epoch."""
        cdef Py_ssize_t j
        for j in range(count):
            if self.narrow != NULL:
                rows[j] = self.narrow[begin + j]
            elif self.wide != NULL:
                rows[j] = <Py_ssize_t> self.wide[begin + j]
            else:
                rows[j] = begin + j

    def permutation(self):
        """The order of the next epoch, as an array (for tests)."""
        rows = np.empty(self.n, dtype=np.intp)
        cdef Py_ssize_t[::1] view = rows
        self.start_epoch()
        if self.n:
            self.read(0, self.n, &view[0])
        return rows


# ---------------------------------------------------------------------------------------------------------------------
# Step sizes
# ---------------------------------------------------------------------------------------------------------------------
cdef enum ScheduleKind:
    HELD                        # eta stays as it is ("constant"; "adaptive" lowers it between epochs; see `Passive`)
    OPTIMAL                     # 1 / (alpha * (t0 + t - 1))
    POWER                       # eta0 / t**power

# Passive-aggressive steps (Crammer et al., JMLR 7, 2006): as long as it takes to make the sample's loss zero, but ...
cdef enum Passive:
    NOT_PASSIVE
    BOUNDED                     # "pa1": ... at most eta
    DAMPED                      # "pa2": ... shortened by 1/(2 eta) in the denominator

# Steps that cannot overshoot, see sgd_implicit.pxi.
cdef enum Implicit:
    EXPLICIT                    # not these
    CLOSED                      # in closed form
    SOLVED                      # of a convex loss
    BRAKED                      # of any loss, and of K scores

cdef struct Schedule:
    ScheduleKind kind
    double alpha
    double eta0
    double power
    double t0


cdef inline double step_size(const Schedule *schedule, double held, double t) noexcept nogil:
    if schedule.kind == OPTIMAL:
        return 1.0 / (schedule.alpha * (schedule.t0 + t - 1.0))
    if schedule.kind == POWER:
        # pow takes longer than a whole update of few columns; these are the two defaults
        if schedule.power == 0.5:
            return schedule.eta0 / sqrt(t)
        if schedule.power == 0.25:
            return schedule.eta0 / sqrt(sqrt(t))
        return schedule.eta0 / pow(t, schedule.power)
    return held


cdef Schedule make_schedule(str learning_rate, double alpha, double eta0, double power_t) except *:
    cdef Schedule schedule
    schedule.kind = {"optimal": OPTIMAL, "invscaling": POWER}.get(learning_rate, HELD)
    schedule.alpha, schedule.eta0, schedule.power, schedule.t0 = alpha, eta0, power_t, 0.0
    if schedule.kind == OPTIMAL:
        # Bottou's rule: the first step is as long as a typical weight, alpha**-1/4; scikit-learn's is always this one
        # too (the derivative it divides by is negative for every loss, and max(1, negative) is 1).
        schedule.t0 = 1.0 / (sqrt(1.0 / sqrt(alpha)) * alpha)
    return schedule


# ---------------------------------------------------------------------------------------------------------------------
# One model, visiting rows
# ---------------------------------------------------------------------------------------------------------------------
include "sgd_model.pxi"
include "sgd_implicit.pxi"


cdef inline void sample_loss(
    const Task *task, const double *params, floating y, floating raw, floating *loss, floating *slope
) noexcept nogil:
    """The block kernel on a block of one.  Domains of y were checked before, so its answer is not looked at; a
    callback's failures are found at the end of a slab."""
    if floating is float:
        task.kernel32(&y, &raw, loss, slope, NULL, 1, params, task.data)
    else:
        task.kernel64(&y, &raw, loss, slope, NULL, 1, params, task.data)


cdef inline void prefetch_target(
    const Task *task, const Model *model, Py_ssize_t soon, Py_ssize_t item
) noexcept nogil:
    if model.targets != NULL:
        prefetch(<const char *> model.targets + soon * task.target_step * item)
    else:
        prefetch(task.codes + soon)
    if task.sample_weight != NULL:
        prefetch(task.sample_weight + soon)


cdef inline void look_ahead(
    const Task *task, const Model *model, Py_ssize_t soon, Py_ssize_t later, Py_ssize_t item
) noexcept nogil:
    prefetch_row(&task.X, soon, item)
    prefetch_start(&task.X, later)
    prefetch_target(task, model, soon, item)


cdef inline floating target_of(const Task *task, const Model *model, Py_ssize_t i, floating like) noexcept nogil:
    if model.targets != NULL:
        return (<const floating *> model.targets)[i * task.target_step]
    return 1 if task.codes[i] == model.positive else -1


cdef inline double weight_of(const Task *task, const Model *model, Py_ssize_t i, double y) noexcept nogil:
    cdef double weight = model.positive_weight if y > 0 else model.negative_weight
    if task.soft:
        weight = y * model.positive_weight + (1.0 - y) * model.negative_weight
    return weight if task.sample_weight == NULL else weight * task.sample_weight[i]


cdef inline double clipped(Model *model, double slope) noexcept nogil:
    if -MAX_SLOPE <= slope <= MAX_SLOPE or slope != slope:
        return slope
    model.n_clipped += 1
    return MAX_SLOPE if slope > 0 else -MAX_SLOPE


cdef inline double passive_step(
    const Task *task, const Model *model, Py_ssize_t i, double y, double raw, double loss, floating like
) noexcept nogil:
    """How far to go along x_i: until the loss is zero, or less far, see `Passive`; NaN for a row of zeros only, which
    "pa1" leaves out altogether."""
    cdef double square = row_square(task.table, &task.X, i, like), step
    if task.passive == BOUNDED:
        if square == 0.0:
            return NAN
        step = min(model.eta, loss / square)
    else:
        step = loss / (square + 0.5 / model.eta)
    return step * y if task.sided else (-step if y < raw else step)


cdef inline void add_objective(const Task *task, Model *model, double loss, double count) noexcept nogil:
    model.loss_sum += loss
    if task.want_norms and not task.lazy:       # then settle_all does the rest
        add_norms(model, count)


cdef inline void watch_square(const Task *task, Model *model, const floating *v) noexcept nogil:
    """The running norm after an update."""
    if task.l1 != 0.0:
        if not task.lazy:
            measure(task, model, v)
    elif model.square > model.peak:
        model.peak = model.square
    elif not model.square > 0.01 * model.peak:
        # the running norm lost two digits to cancellation: start it afresh
        measure(task, model, v)


cdef void visit(
    const Task *task, Model *model, const Py_ssize_t *rows, Py_ssize_t n, Py_ssize_t n_known, floating *v
) noexcept nogil:
    """One update for each of rows[:n], in order; rows[n:n_known] are those that come next, to prefetch."""
    cdef Py_ssize_t j, i
    cdef double dot, z, eta, weight, step
    cdef floating y, raw, slope = 0, loss = 0
    cdef floating *loss_out = &loss if task.want_objective or task.passive != NOT_PASSIVE else NULL
    for j in range(n):
        i = rows[j]
        if j + AHEAD < n_known:
            look_ahead(task, model, rows[j + AHEAD], rows[min(j + 2 * AHEAD, n_known - 1)], sizeof(floating))
        if task.lazy:
            settle_row(task, model, i, v)
        dot = row_dot(task.table, &task.X, i, v)
        z = dot * model.scale + model.intercept
        if task.offset != NULL:
            z += task.offset[i]
        raw = <floating> z
        y = target_of(task, model, i, y)
        eta = step_size(&task.schedule, model.eta, model.t)
        weight = weight_of(task, model, i, y)
        if task.implicit == EXPLICIT or task.want_objective:
            sample_loss(task, model.params, y, raw, loss_out, &slope)
        if task.want_objective:
            add_objective(task, model, loss, 1.0)
        if task.implicit != EXPLICIT:
            step = -eta * clipped(model, implicit_slope(task, model, y, z, eta * weight * reach(task, i, v[0])))
        elif task.passive == NOT_PASSIVE:
            step = -eta * clipped(model, slope)
        else:
            step = passive_step(task, model, i, y, raw, loss, v[0])
            if step != step and loss == loss:
                continue
        step *= weight
        if task.l2 != 0.0:
            dot *= shrink(task, model, eta, v)
        if step != 0.0:
            model.square += row_add(
                task.table, &task.X, i, step / model.scale, v, dot, task.want_norms and task.l1 == 0.0
            )
            model.intercept += step * task.intercept_rate
            if task.want_norms:
                watch_square(task, model, v)
        if averaging(task, model):
            keep_average(task, model, i, 0, step, v[0])
            count_average(task, model)
        if task.l1 != 0.0:
            charge(task, model, eta, rows + j, 1, v)
        model.t += 1.0


# ---------------------------------------------------------------------------------------------------------------------
# Dense rows in groups
# ---------------------------------------------------------------------------------------------------------------------
# An update waits for its score, the score for the update before: one at a time, most of a core is idle.  GROUP rows
# together need not wait.  With the weights v before the group and a_m the factor of row m's update, row k's score is
#     (v + sum_{m<k} a_m x_m) . x_k  =  v . x_k  +  sum_{m<k} a_m (x_m . x_k):
# all products of rows come first, what remains sequential are a few numbers per row, and the updates are added in one
# pass over v.  In exact arithmetic this is plain SGD; rounding differs as it does with any other order of a sum.
# Nanoseconds per row, shuffled, one core of a Zen 5: hinge with 784 columns of float32 263 -> 142, of float64
# 354 -> 270; log_loss with 54 columns of float32 59 -> 49, of float64 64 -> 54 (its own latency is 25 of them).
#
# Groups of 4: all sums fit into 16 vector registers, 3.5 fma per number of a row.  Groups of 8 would halve the waiting
# that is left but need 36 sums and 5.5 fma.
#
# Models that share the rows share their products, and the losses of all models at one row are one call of the kernel:
# hinge with 10 classes on 784 columns of float32 takes 390 ns per row instead of 760, log_loss 570 instead of 1660.
#
# Without fma and with vectors of 16 bytes the products of short rows cost more than the waiting: 54 columns of float32
# took 25 % longer in groups.
cdef inline bint groups_pay(const Table *table, bint single, Py_ssize_t n_columns) noexcept nogil:
    cdef Py_ssize_t item = 4 if single else 8, lanes = table.rows32.lanes if single else table.rows64.lanes
    return lanes * item > 16 or n_columns * item > LONG_ROW


cdef inline void group_gram(
    const Task *task, const floating **row, const floating **later, double *gram
) noexcept nogil:
    if floating is float:
        task.table.rows32.group_gram(row, later, task.X.n_columns, task.want_norms, gram)
    else:
        task.table.rows64.group_gram(row, later, task.X.n_columns, task.want_norms, gram)


cdef inline void group_dots(
    const Task *task, const floating **row, const floating **later, const floating *v, double *dots
) noexcept nogil:
    if floating is float:
        task.table.rows32.group_dots(row, later, v, task.X.n_columns, dots)
    else:
        task.table.rows64.group_dots(row, later, v, task.X.n_columns, dots)


cdef inline void group_add(const Task *task, const floating **row, const double *a, floating *v) noexcept nogil:
    if floating is float:
        task.table.rows32.group_add(row, a, v, task.X.n_columns)
    else:
        task.table.rows64.group_add(row, a, v, task.X.n_columns)


cdef inline bint next_are_plain(const Task *task, const Model *model) noexcept nogil:
    """Whether none of the next GROUP updates counts for averages, and the scale cannot fall so low during them that it
    must be folded into the weights."""
    if model.averages != NULL and model.t + GROUP > task.average_from:
        return False
    cdef double shrink = 1.0 - step_size(&task.schedule, model.eta, model.t) * task.l2      # later steps are not longer
    return shrink > 0.0 and model.scale * (shrink * shrink) * (shrink * shrink) >= task.smallest_scale


cdef void visit_group(
    const Task *task, Model **models, Py_ssize_t n_models, const Py_ssize_t *rows, const floating **row,
    const floating **later, const double *gram
) noexcept nogil:
    """`visit` for the GROUP rows whose products are in `gram`, with each of at most TOGETHER models."""
    cdef double[TOGETHER * GROUP] dots, a
    cdef double[TOGETHER] factor, divided
    cdef floating[TOGETHER] y, raw, loss, slope
    cdef floating *loss_out = loss if task.want_objective else NULL
    cdef double[2] sides        # no branch on the label: half of them would be mispredicted
    cdef double eta, weight, slope64, change
    cdef Py_ssize_t k, m, c
    cdef Model *model
    for c in range(n_models):
        group_dots(task, row, later if c == 0 else NULL, <const floating *> models[c].weights, dots + c * GROUP)
    for k in range(GROUP):
        weight = 1.0 if task.sample_weight == NULL else task.sample_weight[rows[k]]
        for c in range(n_models):
            model = models[c]
            if model.targets != NULL:
                y[c] = (<const floating *> model.targets)[rows[k] * task.target_step]
            else:
                y[c] = <floating> (2 * (task.codes[rows[k]] == model.positive) - 1)
            raw[c] = <floating> (dots[c * GROUP + k] * model.scale + model.intercept)
            if task.offset != NULL:
                raw[c] = <floating> (dots[c * GROUP + k] * model.scale + model.intercept + task.offset[rows[k]])
            if task.want_norms:
                model.square_sum += model.scale * model.scale * model.square
            # all that does not depend on the score, divisions above all, is ready before it
            eta = step_size(&task.schedule, model.eta, model.t)
            model.t += 1.0
            model.scale *= 1.0 - eta * task.l2
            sides[0], sides[1] = model.negative_weight, model.positive_weight
            factor[c] = -eta * weight * sides[y[c] > 0]
            divided[c] = factor[c] / model.scale
        if task.many_params:
            for c in range(n_models):
                sample_loss(task, models[c].params, y[c], raw[c], loss + c if task.want_objective else NULL, slope + c)
        elif floating is float:
            task.kernel32(y, raw, loss_out, slope, NULL, n_models, models[0].params, task.data)
        else:
            task.kernel64(y, raw, loss_out, slope, NULL, n_models, models[0].params, task.data)
        for c in range(n_models):
            model = models[c]
            slope64 = clipped(model, slope[c])
            model.intercept += factor[c] * slope64 * task.intercept_rate
            change = divided[c] * slope64
            a[c * GROUP + k] = change
            if task.want_objective:
                model.loss_sum += loss[c]
            if task.want_norms:
                model.square += change * (2.0 * dots[c * GROUP + k] + change * gram[k * GROUP + k])
                model.peak = max(model.peak, model.square)
            for m in range(k + 1, GROUP):
                dots[c * GROUP + m] += change * gram[m * GROUP + k]
    for c in range(n_models):
        group_add(task, row, a + c * GROUP, <floating *> models[c].weights)
        if task.want_norms and not models[c].square > 0.01 * models[c].peak:
            measure(task, models[c], <const floating *> models[c].weights)


cdef void visit_groups(
    const Task *task, Model **models, Py_ssize_t n_models, const Py_ssize_t *rows, Py_ssize_t n, Py_ssize_t n_known,
    const floating *X
) noexcept nogil:
    """`visit` for dense rows X and at most TOGETHER models; groups begin at rows[0]."""
    cdef const floating *row[GROUP]
    cdef const floating *later[GROUP]
    cdef Model *steady[TOGETHER]
    cdef double[GROUP * GROUP] gram
    cdef Py_ssize_t d = task.X.n_columns, j = 0, k, c, soon, n_steady
    cdef Py_ssize_t ahead = GROUP if d * sizeof(floating) > LONG_ROW else 2 * GROUP
    while j + GROUP <= n:
        n_steady = 0
        for c in range(n_models):
            if next_are_plain(task, models[c]):
                steady[n_steady] = models[c]
                n_steady += 1
            else:
                visit(task, models[c], rows + j, GROUP, n_known - j, <floating *> models[c].weights)
        if n_steady > 0:
            for k in range(GROUP):
                row[k] = X + rows[j + k] * d
                soon = rows[min(j + k + ahead, n_known - 1)]
                later[k] = X + soon * d
                prefetch_target(task, models[0], soon, sizeof(floating))
            group_gram(task, row, later, gram)
            visit_group(task, steady, n_steady, rows + j, row, later, gram)
        j += GROUP
    for c in range(n_models):
        visit(task, models[c], rows + j, n - j, n_known - j, <floating *> models[c].weights)


# Tiles of a mini-batch, (batch, width); one set per thread.
cdef struct Tiles:
    void *y
    void *raw
    void *grad
    void *loss
    double *dots
    Py_ssize_t *labels
    Py_ssize_t *rows            # the order's next rows


cdef void batch_losses(
    const Task *task, const Model *model, const Tiles *tiles, Py_ssize_t n, floating like
) noexcept nogil:
    """Losses and gradients of a batch, by kernel calls on at most a block."""
    cdef Py_ssize_t first = 0, count, at
    cdef const Py_ssize_t *labels
    cdef floating *y
    cdef floating *raw = <floating *> tiles.raw
    cdef floating *grad = <floating *> tiles.grad
    cdef floating *loss = <floating *> tiles.loss
    while first < n:
        count, at = min(task.block, n - first), first * task.width
        if task.scores64 == NULL:
            y = <floating *> tiles.y + first
            if floating is float:
                task.kernel32(y, raw + at, loss + first, grad + at, NULL, count, model.params, task.data)
            else:
                task.kernel64(y, raw + at, loss + first, grad + at, NULL, count, model.params, task.data)
        else:
            y = NULL if model.targets == NULL else <floating *> tiles.y + at
            labels = tiles.labels + first if model.targets == NULL else NULL
            if floating is float:
                task.scores32(y, labels, raw + at, loss + first, grad + at, NULL, count, task.width, model.params,
                              task.data)
            else:
                task.scores64(y, labels, raw + at, loss + first, grad + at, NULL, count, task.width, model.params,
                              task.data)
        first += count


cdef void read_batch(
    const Task *task, const Model *model, const Tiles *tiles, const Py_ssize_t *rows, Py_ssize_t n, floating like
) noexcept nogil:
    """Targets, or labels, of a batch's rows."""
    cdef floating *y = <floating *> tiles.y
    cdef const floating *targets = <const floating *> model.targets
    cdef Py_ssize_t b
    for b in range(n):
        if task.scores64 == NULL:
            y[b] = target_of(task, model, rows[b], like)
        elif targets != NULL:
            memcpy(y + b * task.width, targets + rows[b] * task.width, task.width * sizeof(floating))
        else:
            tiles.labels[b] = task.codes[rows[b]]


cdef void visit_batch(
    const Task *task, Model *model, const Tiles *tiles, const Py_ssize_t *rows, Py_ssize_t n, Py_ssize_t n_known,
    floating *v
) noexcept nogil:
    """One update along the mean gradient of rows[:n], all at the same coefficients."""
    cdef Py_ssize_t b, k, p, i, width = task.width, d = task.X.n_columns
    cdef floating *raw = <floating *> tiles.raw
    cdef const floating *grad = <const floating *> tiles.grad
    cdef const floating *loss = <const floating *> tiles.loss
    cdef double eta = step_size(&task.schedule, model.eta, model.t), total = 0.0, weight, step, factor = 1.0
    # the change of the norm is known from each row's product only while no other row was added
    cdef bint change = task.want_norms and task.l1 == 0.0 and (n == 1 or task.X.columns != NULL)
    cdef bint average = averaging(task, model), moved = False
    for b in range(n):
        i = rows[b]
        if b + AHEAD < n_known:
            look_ahead(task, model, rows[b + AHEAD], rows[min(b + 2 * AHEAD, n_known - 1)], sizeof(floating))
        if task.lazy:
            settle_row(task, model, i, v)
        for k in range(width):
            p = b * width + k
            tiles.dots[p] = row_dot(task.table, &task.X, i, v + k * d)
            raw[p] = <floating> (
                tiles.dots[p] * model.scale + model.intercepts[k] + (0.0 if task.offset == NULL else task.offset[i])
            )
    read_batch(task, model, tiles, rows, n, v[0])
    batch_losses(task, model, tiles, n, v[0])
    if task.want_objective:
        for b in range(n):
            total += loss[b]
        add_objective(task, model, total, n)
    if task.l2 != 0.0:
        factor = shrink(task, model, eta, v)
    for b in range(n):
        i = rows[b]
        if task.scores64 == NULL:
            weight = weight_of(task, model, i, (<const floating *> tiles.y)[b]) / n
        else:
            weight = (1.0 if task.sample_weight == NULL else task.sample_weight[i]) / n
        if task.implicit != EXPLICIT:
            weight /= resistance(task, eta * weight * reach(task, i, v[0]), loss[b], grad + b * width, width)
        for k in range(width):
            p = b * width + k
            step = -eta * clipped(model, grad[p]) * weight
            if step == 0.0:
                continue
            moved = True
            model.square += row_add(
                task.table, &task.X, i, step / model.scale, v + k * d, factor * tiles.dots[p], change
            )
            model.intercepts[k] += step * task.intercept_rate
            if average:
                keep_average(task, model, i, k, step, v[0])
    if moved and task.want_norms:
        if change or task.l1 != 0.0:
            watch_square(task, model, v)
        else:
            measure(task, model, v)
    if average:
        count_average(task, model)
    if task.l1 != 0.0:
        charge(task, model, eta, rows, n, v)
    model.t += 1.0


cdef void visit_batches(
    const Task *task, Model *model, const Tiles *tiles, Py_ssize_t size, Py_ssize_t n, Py_ssize_t n_known, floating *v
) noexcept nogil:
    cdef Py_ssize_t begin = 0
    while begin < n:
        visit_batch(task, model, tiles, tiles.rows + begin, min(size, n - begin), n_known - begin, v)
        begin += size


cdef bint all_finite(const floating *v, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        if not isfinite(v[j]):
            return False
    return True


cdef class Trainer:
    """Trains the rows of `coef` and the elements of `intercept` on the same rows of X.

    Each is a model of its own, or, for a loss over K scores, all of them together are one.

    Parameters
    ----------
    design : Design
    kernels : sequence of Kernel
        Compiled half of the loss; one, or one per model (of the same loss, with other parameters).
    targets : ndarray of X's dtype, or of int32
        int32 means class codes: model k learns code ``positive[k]`` (+1) against all others (-1), a loss over K scores
        the code.  Else numbers, (n,) or, one column per model, (n, n_models).
    sample_weight : ndarray of float64, or None
    order : RowOrder
    coef, intercept : ndarray of shape (n_scores, n_columns) of X's dtype, and (n_scores,) of float64
        Start values; `finish` writes the result there.
    positive : sequence of int, or None
    class_weight : ndarray of shape (n_models, 2)
        Factor on the gradient of negative and positive targets.
    soft : bool
        Targets are probabilities of the positive class.
    offset : ndarray of float64, or None
        Added to the raw predictions.
    learning_rate, alpha, eta0, power_t : the step size, see `Schedule` and `Passive`
        "implicit": the held one, for steps that do not overshoot, see ``sgd_implicit.pxi``.
    l1, l2 : float
        Strengths of the absolute and the squared penalty.
    intercept_rate : float
        Length of the intercept's steps in units of the others'; 0 leaves it alone.
    want_objective : bool
        Whether epochs sum up losses and penalties.
    want_norms : bool
        Whether the penalties are those before every update; otherwise they are the mean of the epoch's two ends.  Rows
        of 784 float32 columns take 18 % longer with them.
    batch_size : int
        Rows per update.
    average_from : int
        The first update that counts for averages; 0: no averages.
    average_coef, average_intercept : ndarray like coef and intercept, or None
        Averages so far; `finish` writes the result there.
    paid, penalty : ndarray of float64 of shape (n_scores, n_columns) and (n_models,), or None
        State of the L1 penalty; `finish` writes the new one there.
    blocks : RowBlocks, or None
        Gathers the rows of X, block by block, into the array that `design` describes; `order` is then not looked at.
    t : float
        Number of the first update.
    eta : sequence of float, or None
        Held step size of each model; None: eta0.
    envelopes : sequence of Kernel, or None
        Implicit steps: Moreau envelopes of `kernels`, where the loss has one in closed form.
    curvature : float, or None
        Implicit steps: bound of the loss's second derivative, inf without one.  None: the loss is convex, and its steps
        are solved for.
    n_threads : int or None
        Models of a block run in parallel.
    """
    cdef Task task
    cdef Model *models
    cdef Tiles *tiles
    cdef void *weights          # of all models, padded; NULL: they are trained in coef's memory
    cdef char *coef_memory
    cdef Design design
    cdef RowOrder order
    cdef object kernels, coef, intercept, penalty, averages, blocks, all_targets, all_weights, all_offsets
    cdef list buffers
    cdef Py_ssize_t block_rows, slab_rows, batch_size, n_visited
    cdef int n_threads
    cdef readonly Py_ssize_t n_models
    cdef readonly double t

    def __cinit__(self, Design design, kernels, targets, sample_weight, RowOrder order, coef, intercept, *,
                  positive=None, class_weight=None, bint soft=False, offset=None, str learning_rate, double alpha,
                  double eta0, double power_t, double l1, double l2, double intercept_rate, bint want_objective,
                  bint want_norms=False, Py_ssize_t batch_size=1, double average_from=0.0, average_coef=None,
                  average_intercept=None, paid=None, penalty=None, blocks=None, double t=1.0, eta=None, envelopes=None,
                  curvature=None, n_threads=None):
        cdef Kernel kernel
        dtype = np.float32 if design.single else np.float64
        self.design, self.order = design, order
        self.kernels = [(<Kernel?> one).session() for one in kernels]
        kernel = self.kernels[0]
        self.coef, self.intercept, self.penalty, self.t = coef, intercept, penalty, t
        self.n_models = 1 if kernel.scores else coef.shape[0]
        self.task.width = coef.shape[0] if kernel.scores else 1
        self.blocks, self.all_targets, self.all_weights, self.all_offsets = blocks, targets, sample_weight, offset
        self.n_visited = order.n if blocks is None else blocks.n
        self.batch_size = min(batch_size, max(self.n_visited, 1))
        self.buffers = []
        self._check_shapes(targets, sample_weight, positive, offset)
        self._take_kernel(kernel)
        self.task.X = design.rows
        self.task.schedule = make_schedule(learning_rate, alpha, eta0, power_t)
        self.task.passive = {"pa1": BOUNDED, "pa2": DAMPED}.get(learning_rate, NOT_PASSIVE)
        self.task.sided, self.task.soft = kernel.binary, soft
        self.task.l1, self.task.l2, self.task.intercept_rate = l1, l2, intercept_rate
        self.task.smallest_scale = 1e-6 if design.single else 1e-9
        self.task.want_objective = want_objective
        self.task.want_norms = want_objective and want_norms
        self.task.average_from = average_from
        self.task.lazy = l1 != 0.0 and design.sparse
        self.task.window = max(design.n_columns, 1024)
        self._make_models(dtype, positive, class_weight, np.full(self.n_models, eta0) if eta is None else eta)
        if learning_rate == "implicit":
            self._make_implicit(envelopes, curvature)
        self.task.many_params = len(self.kernels) > 1
        self.task.grouped = self._can_group()
        self._give_weights(dtype)
        if blocks is None:
            self._give_samples(targets, sample_weight, offset, self.buffers)
        if average_from > 0.0:
            self._give_averages(dtype, average_coef, average_intercept)
            self.averages = average_coef, average_intercept
        if l1 != 0.0:
            self._give_penalty(paid)
        self._plan(n_threads)

    cdef _check_shapes(self, targets, sample_weight, positive, offset):
        n = self.design.n_rows if self.blocks is None else self.blocks.X.shape[0]
        if targets.shape[0] != n or (targets.ndim == 2 and targets.shape[1] != self.coef.shape[0]):
            raise ValueError("targets must have one element per row of X and model")
        for name, array in (("sample_weight", sample_weight), ("offset", offset)):
            if array is not None and array.shape != (n,):
                raise ValueError(f"{name} must have one element per row of X")
        if self.coef.shape[1:] != (self.design.n_columns,) or self.intercept.shape != self.coef.shape[:1]:
            raise ValueError("coef and intercept do not fit X")
        if positive is not None and len(positive) != self.n_models:
            raise ValueError("positive must have one element per model")
        if len(self.kernels) not in (1, self.n_models):
            raise ValueError("kernels must be one, or one per model")

    cdef _take_kernel(self, Kernel kernel):
        self.task.table = active_table()
        self.task.data = kernel.data
        self.task.block = kernel.block_rows(self.task.width)
        if kernel.scores:
            self.task.scores32, self.task.scores64 = kernel.score_kernels().rows_f32, kernel.score_kernels().rows_f64
        else:
            self.task.kernel32, self.task.kernel64 = kernel.kernels().f32, kernel.kernels().f64

    cdef void *_pointer(self, array, dtype, bint writable=False) except? NULL:
        cdef Buffer buffer = Buffer(array, dtype, writable=writable)
        self.buffers.append(buffer)
        return buffer.view.buf

    cdef _make_models(self, dtype, positive, class_weight, eta):
        cdef double *intercepts = <double *> self._pointer(self.intercept, np.float64, True)
        cdef Py_ssize_t k
        cdef Kernel kernel
        cdef Model *model
        self.models = <Model *> PyMem_Calloc(max(self.n_models, 1), sizeof(Model))
        if self.models == NULL:
            raise MemoryError
        for k in range(self.n_models):
            model = self.models + k
            kernel = self.kernels[k if len(self.kernels) > 1 else 0]
            model.params = kernel.params(self.design.single)
            model.scale, model.intercept, model.eta, model.t = 1.0, self.intercept[k], eta[k], self.t
            # models on other threads write theirs all the time: not into the same cache line
            model.intercepts = intercepts if self.task.scores64 != NULL else &model.intercept
            model.positive, model.active = 1 if positive is None else positive[k], True
            model.negative_weight, model.positive_weight = (1.0, 1.0) if class_weight is None else class_weight[k]

    cdef _make_implicit(self, envelopes, curvature):
        cdef Py_ssize_t k
        cdef Kernel kernel
        cdef Kernel envelope
        cdef Task *task = &self.task
        if self.batch_size > 1:
            raise ValueError(f"learning_rate='implicit' needs batch_size=1, got {self.batch_size}")
        if envelopes is not None and len(envelopes) != len(self.kernels):
            raise ValueError(f"envelopes must be {len(self.kernels)}, one per kernel, got {len(envelopes)}")
        task.intercept_rate = 1.0 if task.intercept_rate != 0.0 else 0.0
        task.curvature = INFINITY if curvature is None else curvature
        task.tolerance = 1e-6 if self.design.single else 1e-10
        if self.design.sparse and columns_repeat(&task.X):
            self._take_squares()
        if task.scores64 != NULL or (envelopes is None and curvature is not None):
            task.implicit = BRAKED
        else:
            task.implicit = SOLVED if envelopes is None else CLOSED
        for k in range(self.n_models):
            kernel = self.kernels[k if len(self.kernels) > 1 else 0]
            self.models[k].params64 = kernel.params(False)
            if task.implicit == CLOSED:
                envelope = envelopes[k if len(envelopes) > 1 else 0]
                task.envelope64, task.step_param = envelope.kernels().f64, len(envelope.values) - 1
                memcpy(self.models[k].envelope_params, envelope.params(False), MAX_PARAMS * sizeof(double))

    cdef _take_squares(self):
        cdef double *sums = <double *> self._pointer(np.zeros(self.design.n_columns), np.float64, True)
        cdef double *squares = <double *> self._pointer(np.empty(self.design.n_rows), np.float64, True)
        with nogil:
            if self.design.single:
                square_rows(&self.task.X, <const float *> self.task.X.values, sums, squares)
            else:
                square_rows(&self.task.X, <const double *> self.task.X.values, sums, squares)
        self.task.squares = squares

    cdef _give_weights(self, dtype):
        cdef Py_ssize_t k, row_bytes = self.design.n_columns * (4 if self.design.single else 8)
        cdef Py_ssize_t padded = (row_bytes + LINE - 1) // LINE * LINE
        cdef char *first
        self.coef_memory = <char *> self._pointer(self.coef, dtype, True)
        if not self.task.grouped:
            for k in range(self.n_models):
                self.models[k].weights = self.coef_memory + k * row_bytes
            return
        self.weights = PyMem_Calloc(self.n_models * padded + LINE, 1)
        if self.weights == NULL:
            raise MemoryError
        # vectors from cache line to cache line, the last filled up with zeros (simd_body.h says why)
        first = <char *> self.weights + (LINE - <uintptr_t> self.weights % LINE) % LINE
        for k in range(self.n_models):
            self.models[k].weights = first + k * padded
            memcpy(self.models[k].weights, self.coef_memory + k * row_bytes, row_bytes)

    cdef _give_samples(self, targets, sample_weight, offset, list buffers):
        """Targets, weights and offsets of the rows that `design` describes; `buffers` keeps them alive."""
        cdef Py_ssize_t k, size = 4 if self.design.single else 8
        cdef const char *first
        cdef Buffer buffer
        if sample_weight is not None:
            buffer = Buffer(sample_weight, np.float64)
            buffers.append(buffer)
            self.task.sample_weight = <const double *> buffer.view.buf
        if offset is not None:
            buffer = Buffer(offset, np.float64)
            buffers.append(buffer)
            self.task.offset = <const double *> buffer.view.buf
        buffer = Buffer(targets, np.int32, np.float32 if self.design.single else np.float64)
        buffers.append(buffer)
        if targets.dtype == np.int32:
            self.task.codes = <const int32_t *> buffer.view.buf
            return
        first = <const char *> buffer.view.buf
        self.task.target_step = targets.shape[1] if targets.ndim == 2 else 1
        for k in range(self.n_models):
            self.models[k].targets = first + (k * size if targets.ndim == 2 else 0)

    cdef _give_averages(self, dtype, average_coef, average_intercept):
        cdef char *averages = <char *> self._pointer(average_coef, dtype, True)
        cdef double *intercepts = <double *> self._pointer(average_intercept, np.float64, True)
        cdef Py_ssize_t k, row_bytes = self.design.n_columns * (4 if self.design.single else 8)
        for k in range(self.n_models):
            self.models[k].averages, self.models[k].average_intercepts = averages + k * row_bytes, intercepts + k
            self.models[k].average_scale, self.models[k].average_total = 0.0, 1.0

    cdef _give_penalty(self, paid):
        cdef Py_ssize_t k, window = self.task.window + 1, d = self.design.n_columns
        cdef double *first = <double *> self._pointer(paid, np.float64, True)
        cdef double *history
        cdef double *settled
        for k in range(self.n_models):
            self.models[k].penalty, self.models[k].paid = self.penalty[k], first + k * d
        if not self.task.lazy:
            return
        history = <double *> self._pointer(np.zeros((self.n_models, 2, window)), np.float64, True)
        settled = <double *> self._pointer(np.zeros((self.n_models, d)), np.float64, True)
        for k in range(self.n_models):
            self.models[k].due, self.models[k].penalties = history + 2 * k * window, history + (2 * k + 1) * window
            self.models[k].penalties[0], self.models[k].settled = self.models[k].penalty, settled + k * d

    cdef _plan(self, n_threads):
        """How many threads share the models, and how many rows a block and a slab have."""
        cdef Py_ssize_t per_row = self.design.n_stored // max(self.design.n_rows, 1) + UPDATE_WORK
        cdef Py_ssize_t row_bytes = per_row * (4 if self.design.single else 8)
        cdef bint enough = per_row * self.n_visited * self.n_models >= THREADS_FROM
        python = any([kernel.python for kernel in self.kernels])
        self.n_threads = resolve_threads(n_threads, self.n_models if enough and not python else 1)
        self.block_rows = MAX_BLOCK_ROWS
        if self.n_models > 1:
            self.block_rows = min(max(BLOCK_BYTES // row_bytes, 16), MAX_BLOCK_ROWS)
            self.block_rows -= self.block_rows % GROUP
        if self._batched():
            self.block_rows = min(self.block_rows, SLAB_WORK // (per_row * self.task.width))
            self.block_rows = max(self.block_rows // self.batch_size, 1) * self.batch_size
            self._make_tiles()
        self.slab_rows = max(SLAB_WORK * self.n_threads // (per_row * self.n_models * self.task.width), 1)
        # whole blocks: a batch must not be cut, and where a group begins must not depend on the number of threads
        self.slab_rows = (self.slab_rows + self.block_rows - 1) // self.block_rows * self.block_rows

    cdef bint _can_group(self) noexcept:
        """Whether `visit_groups` does all that this fit asks for, and faster."""
        cdef Task *task = &self.task
        return (
            groups_pay(task.table, self.design.single, self.design.n_columns)
            and not (self.design.sparse or self._batched() or task.soft)
            and task.l1 == 0.0
            and task.passive == NOT_PASSIVE
            and task.implicit == EXPLICIT
            and not (task.schedule.kind == POWER and task.schedule.power < 0.0)     # see `next_are_plain`
        )

    cdef bint _batched(self) noexcept nogil:
        return self.batch_size > 1 or self.task.scores64 != NULL

    cdef _make_tiles(self):
        cdef Py_ssize_t elements = self.batch_size * self.task.width, share
        cdef double *numbers
        cdef Py_ssize_t *integers
        self.tiles = <Tiles *> PyMem_Calloc(self.n_threads, sizeof(Tiles))
        if self.tiles == NULL:
            raise MemoryError
        for share in range(self.n_threads):
            numbers = <double *> self._pointer(np.empty((5, elements)), np.float64, True)
            integers = <Py_ssize_t *> self._pointer(
                np.empty(self.batch_size + self.block_rows + 2 * AHEAD, dtype=np.intp), np.intp, True
            )
            self.tiles[share].y, self.tiles[share].raw = numbers, numbers + elements
            self.tiles[share].grad, self.tiles[share].loss = numbers + 2 * elements, numbers + 3 * elements
            self.tiles[share].dots = numbers + 4 * elements
            self.tiles[share].labels, self.tiles[share].rows = integers, integers + self.batch_size

    def __dealloc__(self):
        PyMem_Free(self.models)
        PyMem_Free(self.tiles)
        PyMem_Free(self.weights)

    # -- training ------------------------------------------------------------------------------------------------------
    def epoch(self):
        """Visit every row once with every active model; `loss`, `objective` and `n_clipped` are then this epoch's."""
        cdef Py_ssize_t k
        for k in range(self.n_models):
            self._start_epoch(self.models + k)
        if self.blocks is None:
            with nogil:
                self.order.start_epoch()
            self._walk_order()
        else:
            for rows, places in self.blocks.epoch():
                self._walk_block(rows, places)
        for k in range(self.n_models):
            self._end_epoch(self.models + k)
        self.t += self.n_visited

    cdef _walk_block(self, rows, places):
        """Visit the rows of a gathered block."""
        cdef list buffers = []
        self._give_samples(
            self.all_targets[rows],
            None if self.all_weights is None else self.all_weights[rows],
            None if self.all_offsets is None else self.all_offsets[rows],
            buffers,
        )
        self.order = RowOrder(self.design.n_rows, None, places)
        self._walk_order()

    cdef _walk_order(self):
        """Visit the rows that `order` says, a slab at a time."""
        cdef Py_ssize_t begin = 0, end
        while begin < self.order.n:
            end = min(begin + self.slab_rows, self.order.n)
            with nogil:
                self._walk(begin, end)
            PyErr_CheckSignals()
            for kernel in self.kernels:
                (<Kernel> kernel).raise_failure()
            begin = end

    cdef void _start_epoch(self, Model *model) noexcept nogil:
        model.loss_sum, model.square_sum, model.absolute_sum, model.n_clipped = 0.0, 0.0, 0.0, 0
        if self.design.single:
            self._begin(model, <float *> model.weights)
        else:
            self._begin(model, <double *> model.weights)

    cdef void _begin(self, Model *model, floating *v) noexcept nogil:
        measure(&self.task, model, v)
        if not self.task.want_norms and not self.task.lazy:
            add_norms(model, 0.5 * self.n_visited)

    cdef void _end_epoch(self, Model *model) noexcept nogil:
        if self.design.single:
            self._end(model, <float *> model.weights)
        else:
            self._end(model, <double *> model.weights)

    cdef void _end(self, Model *model, floating *v) noexcept nogil:
        if self.task.lazy:
            settle_all(&self.task, model, v)
        elif self.task.want_objective and not self.task.want_norms:
            measure(&self.task, model, v)
            add_norms(model, 0.5 * self.n_visited)

    cdef void _walk(self, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
        """Visit the rows at positions begin ... end of the order with every active model."""
        cdef int share
        if self.n_threads == 1:
            self._walk_share(begin, end, 0)
            return
        for share in prange(self.n_threads, num_threads=self.n_threads, schedule="static", chunksize=1):
            self._walk_share(begin, end, share)

    cdef void _walk_share(self, Py_ssize_t begin, Py_ssize_t end, int share) noexcept nogil:
        """A thread's part of `_walk`: every n_threads-th active model, block by block.

        Threads meet at the end of a slab only.  Where they met after every block, a machine with other work to do made
        each meeting wait for a time slice: 22 s instead of 0.4 s for a one-vs-rest fit on two busy cores.
        """
        cdef Py_ssize_t[MAX_BLOCK_ROWS + 2 * AHEAD] places
        cdef Py_ssize_t *rows = self.tiles[share].rows if self._batched() else places
        cdef Model *together[TOGETHER]
        cdef Py_ssize_t n, n_known, k, n_active, n_together
        while begin < end:
            n = min(self.block_rows, end - begin)
            n_known = min(n + 2 * AHEAD, self.order.n - begin)
            self.order.read(begin, n_known, rows)
            n_active = n_together = 0
            for k in range(self.n_models):
                if not self.models[k].active:
                    continue
                if n_active % self.n_threads == share:
                    if not self.task.grouped:
                        self._visit(self.models + k, rows, n, n_known, share)
                    else:
                        together[n_together] = self.models + k
                        n_together += 1
                        if n_together == TOGETHER:
                            self._visit_together(together, TOGETHER, rows, n, n_known)
                            n_together = 0
                n_active += 1
            if n_together > 0:
                self._visit_together(together, n_together, rows, n, n_known)
            begin += n

    cdef void _visit(
        self, Model *model, const Py_ssize_t *rows, Py_ssize_t n, Py_ssize_t n_known, int share
    ) noexcept nogil:
        if self._batched():
            if self.design.single:
                visit_batches(
                    &self.task, model, self.tiles + share, self.batch_size, n, n_known, <float *> model.weights
                )
            else:
                visit_batches(
                    &self.task, model, self.tiles + share, self.batch_size, n, n_known, <double *> model.weights
                )
        elif self.design.single:
            visit(&self.task, model, rows, n, n_known, <float *> model.weights)
        else:
            visit(&self.task, model, rows, n, n_known, <double *> model.weights)

    cdef void _visit_together(
        self, Model **models, Py_ssize_t n_models, const Py_ssize_t *rows, Py_ssize_t n, Py_ssize_t n_known
    ) noexcept nogil:
        if self.design.single:
            visit_groups(&self.task, models, n_models, rows, n, n_known, <const float *> self.task.X.values)
        else:
            visit_groups(&self.task, models, n_models, rows, n, n_known, <const double *> self.task.X.values)

    def finish(self):
        """Write coefficients, intercepts, averages and penalties back to the arrays the trainer was given."""
        cdef Py_ssize_t k
        for k in range(self.n_models):
            if self.design.single:
                fold(&self.task, self.models + k, <float *> self.models[k].weights)
            else:
                fold(&self.task, self.models + k, <double *> self.models[k].weights)
        self._write_back()
        for k in range(self.n_models):
            if self.task.scores64 == NULL:
                self.intercept[k] = self.models[k].intercept
            if self.task.l1 != 0.0:
                self.penalty[k] = self.models[k].penalty

    cdef void _write_back(self) noexcept:
        """Bring coef up to date with the models, scales apart."""
        cdef Py_ssize_t k, row_bytes = self.design.n_columns * (4 if self.design.single else 8)
        if self.weights != NULL:
            for k in range(self.n_models):
                memcpy(self.coef_memory + k * row_bytes, self.models[k].weights, row_bytes)

    def snapshot(self):
        """Coefficients and intercepts as they are now, as new arrays."""
        return self.coefficients() * self.scales().astype(self.coef.dtype)[:, None], self.current_intercepts()

    def average_snapshot(self):
        """The averages as they are now, as new arrays; the snapshot until they begin."""
        cdef Py_ssize_t k
        cdef Model *model
        if self.averages is None or self.models[0].t <= self.task.average_from:
            return self.snapshot()
        coef = self.averages[0].astype(np.float64)
        weights = self.coefficients()
        for k in range(len(coef)):
            model = self.models + (k if self.task.scores64 == NULL else 0)
            coef[k] = (coef[k] + model.average_scale * weights[k]) / model.average_total
        return coef.astype(self.coef.dtype), self.averages[1].copy()

    def coefficients(self):
        """The array `coef` that was given, in which rows are still to be multiplied by `scales`."""
        self._write_back()
        return self.coef

    def scales(self):
        return np.array([self.models[k if self.task.scores64 == NULL else 0].scale for k in range(len(self.coef))])

    def current_intercepts(self):
        if self.task.scores64 != NULL:
            return self.intercept.copy()
        return np.array([self.models[k].intercept for k in range(self.n_models)])

    # -- what an epoch found, model by model -------------------------------------------------------------------------
    def loss(self, Py_ssize_t k):
        """Mean loss over the epoch, each sample's before its update."""
        return self.models[k].loss_sum / self.n_visited

    def objective(self, Py_ssize_t k):
        """Mean of loss plus penalty over the epoch, each sample's before its update; "pa1" and "pa2" have no penalty in
        what they minimise."""
        cdef Model *model = self.models + k
        if self.task.passive != NOT_PASSIVE:
            return self.loss(k)
        return (
            model.loss_sum + 0.5 * self.task.l2 * model.square_sum + self.task.l1 * model.absolute_sum
        ) / self.n_visited

    def norm(self, Py_ssize_t k):
        """Euclidean norm of the coefficients."""
        return self.models[k].scale * sqrt(max(self.models[k].square, 0.0))

    def n_clipped(self, Py_ssize_t k):
        """How many derivatives of the epoch were clipped."""
        return self.models[k].n_clipped

    def finite(self, Py_ssize_t k):
        """Whether all coefficients and intercepts are finite."""
        cdef Py_ssize_t n = self.design.n_columns * self.task.width
        if not all_finite(<const double *> self.models[k].intercepts, self.task.width):
            return False
        if self.design.single:
            return bool(all_finite(<const float *> self.models[k].weights, n))
        return bool(all_finite(<const double *> self.models[k].weights, n))

    # -- what the rules between epochs may change ---------------------------------------------------------------------
    def step_size(self, Py_ssize_t k):
        """Step size of the next update."""
        return step_size(&self.task.schedule, self.models[k].eta, self.models[k].t)

    def eta(self, Py_ssize_t k):
        return self.models[k].eta

    def set_eta(self, Py_ssize_t k, double eta):
        self.models[k].eta = eta

    def stop(self, Py_ssize_t k):
        """The model takes no part in further epochs."""
        self.models[k].active = False
