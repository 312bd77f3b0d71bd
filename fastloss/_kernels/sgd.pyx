# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Stochastic gradient descent over the rows of X: everything that must run without the interpreter.

Who does what
-------------
``Design``     the rows of X (dense or CSR, float32 or float64, int32 or int64 indices): dot with w, add to w, prefetch
``RowOrder``   in which order an epoch visits the rows
``Schedule``   the step size of update number t
``Model``      one weight vector while it is trained: a scaled vector, an intercept, the sums of this epoch
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
from libc.math cimport isfinite, pow, sqrt
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memcpy

from fastloss._kernels.abi cimport BLOCK, Table, kernel_f32, kernel_f64
from fastloss._kernels.dispatch cimport Kernel, active_table, resolve_threads

import numpy as np

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
            if accepted < count:
                return begin + accepted
            begin += count
    return -1


def check_targets(Kernel kernel not None, y):
    """Raise for the first element of y (float32 or float64, contiguous) outside the loss's domain.

    Done before training, where a bad target would otherwise come up in random order and after some updates.
    """
    cdef Buffer buffer = Buffer(y, np.float32, np.float64)
    cdef Py_ssize_t n = buffer.view.len // buffer.view.itemsize, refused
    if buffer.view.itemsize == 4:
        refused = first_refused(kernel, <const float *> buffer.view.buf, n)
    else:
        refused = first_refused(kernel, <const double *> buffer.view.buf, n)
    if refused >= 0:
        raise ValueError(f"y[{refused}] = {y[refused].item()!r}: {kernel.name} needs {kernel.target}")


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

    32-bit positions while they suffice: half the memory, and swapping random elements of the order is a twentieth of
    the time of an epoch with few columns.

    Every row has a place of its own.  Runs of 8 neighbours in random order, 16 runs mixed, made an epoch with 54
    columns faster (log_loss by 4 %, hinge by 18 %), but where neighbours are alike the steps are noisier: on covtype
    sorted by label, the objective of log_loss was 0.675, 0.590, 0.547 after 1, 2, 5 epochs, not 0.557, 0.535, 0.522.
    """
    cdef readonly Py_ssize_t n
    cdef uint64_t state
    cdef object array
    cdef uint32_t *narrow
    cdef uint64_t *wide

    def __cinit__(self, Py_ssize_t n, seed=None):
        cdef Buffer buffer
        self.n = n
        if seed is None:
            return
        self.state = seed
        buffer = Buffer(
            np.arange(n, dtype=np.uint32 if n <= 0xFFFFFFFF else np.uint64), np.uint32, np.uint64, writable=True
        )
        self.array = buffer
        if buffer.view.itemsize == 4:
            self.narrow = <uint32_t *> buffer.view.buf
        else:
            self.wide = <uint64_t *> buffer.view.buf

    cdef void start_epoch(self) noexcept nogil:
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
    HELD                        # eta stays as it is ("constant"; "adaptive" lowers it between epochs)
    OPTIMAL                     # 1 / (alpha * (t0 + t - 1))
    POWER                       # eta0 / t**power

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
    schedule.kind = {"constant": HELD, "adaptive": HELD, "optimal": OPTIMAL, "invscaling": POWER}[learning_rate]
    schedule.alpha, schedule.eta0, schedule.power, schedule.t0 = alpha, eta0, power_t, 0.0
    if schedule.kind == OPTIMAL:
        # Bottou's rule: the first step is as long as a typical weight, alpha**-1/4; scikit-learn's is always this one
        # too (the derivative it divides by is negative for every loss, and max(1, negative) is 1).
        schedule.t0 = 1.0 / (sqrt(1.0 / sqrt(alpha)) * alpha)
    return schedule


# ---------------------------------------------------------------------------------------------------------------------
# One model, visiting rows
# ---------------------------------------------------------------------------------------------------------------------
cdef struct Model:
    void *weights               # v; the coefficients are scale * v, so that shrinking them costs one multiplication
    double scale
    double square               # squared norm of v, kept up to date when the objective is wanted
    double peak                 # largest `square` since it was last computed afresh
    double intercept
    double eta                  # the held step size
    double t
    Py_ssize_t positive         # class code of the positive class
    double negative_weight      # factors on the gradient by the sign of the target
    double positive_weight
    double loss_sum             # over this epoch, before each update
    double square_sum           # of the squared norms of the coefficients
    Py_ssize_t n_clipped        # derivatives beyond MAX_SLOPE, over this epoch
    bint active

# What is the same for all models of a fit.
cdef struct Task:
    const Table *table
    Rows X
    const void *targets         # of X's dtype, or NULL: the target is +1 for the model's own class code, else -1
    const int32_t *codes
    const double *sample_weight     # or NULL
    kernel_f32 kernel32
    kernel_f64 kernel64
    const double *params
    void *data
    Schedule schedule
    double l2
    double intercept_rate       # 0: no intercept is fitted
    double smallest_scale
    bint want_objective
    bint grouped                # rows are visited in groups


cdef inline void sample_loss(
    const Task *task, floating y, floating raw, floating *loss, floating *slope
) noexcept nogil:
    """The block kernel on a block of one.  Domains of y were checked before, so its answer is not looked at."""
    if floating is float:
        task.kernel32(&y, &raw, loss, slope, NULL, 1, task.params, task.data)
    else:
        task.kernel64(&y, &raw, loss, slope, NULL, 1, task.params, task.data)


cdef void fold_scale(const Task *task, Model *model, floating *v) noexcept nogil:
    dense_scale(task.table, model.scale, v, task.X.n_columns)
    model.scale = 1.0


cdef inline void measure(const Task *task, Model *model, const floating *v) noexcept nogil:
    model.square = dense_dot(task.table, v, v, task.X.n_columns)
    model.peak = model.square


cdef inline void prefetch_target(const Task *task, Py_ssize_t soon, Py_ssize_t item) noexcept nogil:
    if task.targets != NULL:
        prefetch(<const char *> task.targets + soon * item)
    else:
        prefetch(task.codes + soon)
    if task.sample_weight != NULL:
        prefetch(task.sample_weight + soon)


cdef inline void look_ahead(const Task *task, Py_ssize_t soon, Py_ssize_t later, Py_ssize_t item) noexcept nogil:
    prefetch_row(&task.X, soon, item)
    prefetch_start(&task.X, later)
    prefetch_target(task, soon, item)


cdef void visit(
    const Task *task, Model *model, const Py_ssize_t *rows, Py_ssize_t n, Py_ssize_t n_known, floating *v
) noexcept nogil:
    """One update for each of rows[:n], in order; rows[n:n_known] are those that come next, to prefetch."""
    cdef Py_ssize_t j, i
    cdef double dot, eta, slope64, step, weight, shrink
    cdef floating y, raw, slope = 0, loss = 0
    cdef floating *loss_out = &loss if task.want_objective else NULL
    cdef const floating *targets = <const floating *> task.targets
    cdef const double *sample_weight = task.sample_weight
    for j in range(n):
        i = rows[j]
        if j + AHEAD < n_known:
            look_ahead(task, rows[j + AHEAD], rows[min(j + 2 * AHEAD, n_known - 1)], sizeof(floating))
        dot = row_dot(task.table, &task.X, i, v)
        raw = <floating> (dot * model.scale + model.intercept)
        if targets != NULL:
            y = targets[i]
        else:
            y = 1 if task.codes[i] == model.positive else -1
        eta = step_size(&task.schedule, model.eta, model.t)
        sample_loss(task, y, raw, loss_out, &slope)
        if task.want_objective:
            model.loss_sum += loss
            model.square_sum += model.scale * model.scale * model.square
        slope64 = slope
        if slope64 > MAX_SLOPE or slope64 < -MAX_SLOPE:
            slope64 = MAX_SLOPE if slope64 > 0 else -MAX_SLOPE
            model.n_clipped += 1
        weight = model.positive_weight if y > 0 else model.negative_weight
        if sample_weight != NULL:
            weight = weight * sample_weight[i]
        step = -eta * slope64 * weight
        if task.l2 != 0.0:
            shrink = 1.0 - eta * task.l2
            model.scale *= shrink if shrink > 0.0 else 0.0      # a step too long ends at zero, not beyond
            if model.scale < task.smallest_scale:
                shrink = model.scale
                fold_scale(task, model, v)
                dot *= shrink
                if task.want_objective:
                    measure(task, model, v)
        if step != 0.0:
            model.square += row_add(
                task.table, &task.X, i, step / model.scale, v, dot, task.want_objective
            )
            model.intercept += step * task.intercept_rate
            if task.want_objective:
                if model.square > model.peak:
                    model.peak = model.square
                elif not model.square > 0.01 * model.peak:
                    # the running norm lost two digits to cancellation: start it afresh
                    measure(task, model, v)
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
        task.table.rows32.group_gram(row, later, task.X.n_columns, task.want_objective, gram)
    else:
        task.table.rows64.group_gram(row, later, task.X.n_columns, task.want_objective, gram)


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


cdef inline bint scale_holds(const Task *task, const Model *model) noexcept nogil:
    """Whether the scale cannot fall so low during the next group that it must be folded into the weights."""
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
            if task.targets != NULL:
                y[c] = (<const floating *> task.targets)[rows[k]]
            else:
                y[c] = <floating> (2 * (task.codes[rows[k]] == model.positive) - 1)
            raw[c] = <floating> (dots[c * GROUP + k] * model.scale + model.intercept)
            if task.want_objective:
                model.square_sum += model.scale * model.scale * model.square
            # all that does not depend on the score, divisions above all, is ready before it
            eta = step_size(&task.schedule, model.eta, model.t)
            model.t += 1.0
            model.scale *= 1.0 - eta * task.l2
            sides[0], sides[1] = model.negative_weight, model.positive_weight
            factor[c] = -eta * weight * sides[y[c] > 0]
            divided[c] = factor[c] / model.scale
        if floating is float:
            task.kernel32(y, raw, loss_out, slope, NULL, n_models, task.params, task.data)
        else:
            task.kernel64(y, raw, loss_out, slope, NULL, n_models, task.params, task.data)
        for c in range(n_models):
            model = models[c]
            slope64 = slope[c]
            if slope64 > MAX_SLOPE or slope64 < -MAX_SLOPE:
                slope64 = MAX_SLOPE if slope64 > 0 else -MAX_SLOPE
                model.n_clipped += 1
            model.intercept += factor[c] * slope64 * task.intercept_rate
            change = divided[c] * slope64
            a[c * GROUP + k] = change
            if task.want_objective:
                model.loss_sum += loss[c]
                model.square += change * (2.0 * dots[c * GROUP + k] + change * gram[k * GROUP + k])
                model.peak = max(model.peak, model.square)
            for m in range(k + 1, GROUP):
                dots[c * GROUP + m] += change * gram[m * GROUP + k]
    for c in range(n_models):
        group_add(task, row, a + c * GROUP, <floating *> models[c].weights)
        if task.want_objective and not models[c].square > 0.01 * models[c].peak:
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
            if scale_holds(task, models[c]):
                steady[n_steady] = models[c]
                n_steady += 1
            else:
                visit(task, models[c], rows + j, GROUP, n_known - j, <floating *> models[c].weights)
        if n_steady > 0:
            for k in range(GROUP):
                row[k] = X + rows[j + k] * d
                soon = rows[min(j + k + ahead, n_known - 1)]
                later[k] = X + soon * d
                prefetch_target(task, soon, sizeof(floating))
            group_gram(task, row, later, gram)
            visit_group(task, steady, n_steady, rows + j, row, later, gram)
        j += GROUP
    for c in range(n_models):
        visit(task, models[c], rows + j, n - j, n_known - j, <floating *> models[c].weights)


cdef inline void visit_groups_any(
    const Task *task, bint single, Model **models, Py_ssize_t n_models, const Py_ssize_t *rows, Py_ssize_t n,
    Py_ssize_t n_known
) noexcept nogil:
    if single:
        visit_groups(task, models, n_models, rows, n, n_known, <const float *> task.X.values)
    else:
        visit_groups(task, models, n_models, rows, n, n_known, <const double *> task.X.values)


cdef inline void visit_any(
    const Task *task, bint single, Model *model, const Py_ssize_t *rows, Py_ssize_t n, Py_ssize_t n_known
) noexcept nogil:
    if single:
        visit(task, model, rows, n, n_known, <float *> model.weights)
    else:
        visit(task, model, rows, n, n_known, <double *> model.weights)


cdef bint all_finite(const floating *v, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        if not isfinite(v[j]):
            return False
    return True


cdef class Trainer:
    """Trains the rows of `coef` and the elements of `intercept`, each its own model, all on the same rows of X.

    Parameters
    ----------
    design : Design
    kernel : Kernel
        Compiled half of the loss.
    targets : ndarray of X's dtype, or of int32
        int32 means class codes: model k learns code ``positive[k]`` (+1) against all others (-1).
    sample_weight : ndarray of float64, or None
    order : RowOrder
    coef, intercept : ndarray of shape (n_models, n_columns) of X's dtype, and (n_models,) of float64
        Start values; `finish` writes the result there.
    positive : sequence of int
    class_weight : ndarray of shape (n_models, 2)
        Factor on the gradient of negative and positive targets.
    learning_rate, alpha, eta0, power_t : the step size, see `Schedule`
    l2 : float
        Strength of the squared penalty.
    intercept_rate : float
        Length of the intercept's steps in units of the others'; 0 leaves it alone.
    want_objective : bool
        Whether epochs sum up losses and norms.
    n_threads : int or None
        Models of a block run in parallel.
    """
    cdef Task task
    cdef Model *models
    cdef void *weights          # of all models
    cdef char *coef_memory
    cdef Design design
    cdef RowOrder order
    cdef object kernel, coef, intercept, buffers
    cdef Py_ssize_t block_rows, slab_rows
    cdef int n_threads
    cdef readonly Py_ssize_t n_models
    cdef readonly double t

    def __cinit__(self, Design design, Kernel kernel, targets, sample_weight, RowOrder order, coef, intercept, *,
                  positive=(1,), class_weight=None, str learning_rate, double alpha, double eta0, double power_t,
                  double l2, double intercept_rate, bint want_objective, double t=1.0, n_threads=None):
        dtype = np.float32 if design.single else np.float64
        self.design, self.order, self.kernel = design, order, kernel
        self.coef, self.intercept = coef, intercept
        self.n_models, self.t = coef.shape[0], t
        self.buffers = []
        self._check_shapes(targets, sample_weight, positive)
        self._take_kernel(kernel)
        self._take_data(dtype, targets, sample_weight)
        self.task.schedule = make_schedule(learning_rate, alpha, eta0, power_t)
        self.task.l2, self.task.intercept_rate = l2, intercept_rate
        self.task.smallest_scale = 1e-6 if design.single else 1e-9
        self.task.want_objective = want_objective
        self.task.grouped = not design.sparse and groups_pay(self.task.table, design.single, design.n_columns)
        self._make_models(dtype, positive, class_weight, eta0)
        self._plan(n_threads)

    cdef _check_shapes(self, targets, sample_weight, positive):
        if targets.shape != (self.design.n_rows,) or self.order.n != self.design.n_rows:
            raise ValueError("targets and order must have one element per row of X")
        if sample_weight is not None and sample_weight.shape != targets.shape:
            raise ValueError("sample_weight must have one element per row of X")
        if self.coef.shape != (self.n_models, self.design.n_columns) or self.intercept.shape != (self.n_models,):
            raise ValueError("coef and intercept do not fit X")
        if len(positive) != self.n_models:
            raise ValueError("positive must have one element per model")

    cdef _take_kernel(self, Kernel kernel):
        self.task.table = active_table()
        self.task.kernel32, self.task.kernel64 = kernel.kernels().f32, kernel.kernels().f64
        self.task.params, self.task.data = kernel.params(self.design.single), kernel.data

    cdef void *_pointer(self, array, dtype, bint writable=False) except? NULL:
        cdef Buffer buffer = Buffer(array, dtype, writable=writable)
        self.buffers.append(buffer)
        return buffer.view.buf

    cdef _take_data(self, dtype, targets, sample_weight):
        self.task.X = self.design.rows
        if targets.dtype == np.int32:
            self.task.codes = <const int32_t *> self._pointer(targets, np.int32)
        else:
            self.task.targets = self._pointer(targets, dtype)
        if sample_weight is not None:
            self.task.sample_weight = <const double *> self._pointer(sample_weight, np.float64)

    cdef _make_models(self, dtype, positive, class_weight, double eta0):
        cdef Py_ssize_t k, row_bytes = self.design.n_columns * (4 if self.design.single else 8)
        cdef Py_ssize_t padded = (row_bytes + LINE - 1) // LINE * LINE
        cdef char *weights
        cdef Model *model
        self.coef_memory = <char *> self._pointer(self.coef, dtype, True)
        self.models = <Model *> PyMem_Calloc(max(self.n_models, 1), sizeof(Model))
        self.weights = PyMem_Calloc(self.n_models * padded + LINE, 1)
        if self.models == NULL or self.weights == NULL:
            raise MemoryError
        # vectors from cache line to cache line, the last filled up with zeros (simd_body.h says why)
        weights = <char *> self.weights + (LINE - <uintptr_t> self.weights % LINE) % LINE
        for k in range(self.n_models):
            model = self.models + k
            model.weights = weights + k * padded
            memcpy(model.weights, self.coef_memory + k * row_bytes, row_bytes)
            model.scale, model.intercept, model.eta, model.t = 1.0, self.intercept[k], eta0, self.t
            model.positive, model.active = positive[k], True
            model.negative_weight, model.positive_weight = (1.0, 1.0) if class_weight is None else class_weight[k]

    cdef _plan(self, n_threads):
        """How many threads share the models, and how many rows a block and a slab have."""
        cdef Py_ssize_t per_row = self.design.n_stored // max(self.design.n_rows, 1) + UPDATE_WORK
        cdef Py_ssize_t row_bytes = per_row * (4 if self.design.single else 8)
        cdef bint enough = per_row * self.design.n_rows * self.n_models >= THREADS_FROM
        self.n_threads = resolve_threads(n_threads, self.n_models if enough else 1)
        self.block_rows = MAX_BLOCK_ROWS
        if self.n_models > 1:
            self.block_rows = min(max(BLOCK_BYTES // row_bytes, 16), MAX_BLOCK_ROWS)
            self.block_rows -= self.block_rows % GROUP
        # Whole blocks, and blocks of whole groups: where a group begins must not depend on the number of threads.
        self.slab_rows = max(SLAB_WORK * self.n_threads // (per_row * self.n_models), self.block_rows)
        self.slab_rows -= self.slab_rows % self.block_rows

    def __dealloc__(self):
        PyMem_Free(self.models)
        PyMem_Free(self.weights)

    # -- training ------------------------------------------------------------------------------------------------------
    def epoch(self):
        """Visit every row once with every active model; `loss`, `objective` and `n_clipped` are then this epoch's."""
        cdef Py_ssize_t begin = 0, end, k
        for k in range(self.n_models):
            self._start_epoch(self.models + k)
        with nogil:
            self.order.start_epoch()
        while begin < self.design.n_rows:
            end = min(begin + self.slab_rows, self.design.n_rows)
            with nogil:
                self._walk(begin, end)
            PyErr_CheckSignals()
            begin = end
        self.t += self.design.n_rows

    cdef void _start_epoch(self, Model *model) noexcept nogil:
        model.loss_sum, model.square_sum, model.n_clipped = 0.0, 0.0, 0
        if self.design.single:
            measure(&self.task, model, <float *> model.weights)
        else:
            measure(&self.task, model, <double *> model.weights)

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
        cdef Py_ssize_t[MAX_BLOCK_ROWS + 2 * AHEAD] rows
        cdef Model *together[TOGETHER]
        cdef Py_ssize_t n, n_known, k, n_active, n_together
        while begin < end:
            n = min(self.block_rows, end - begin)
            n_known = min(n + 2 * AHEAD, self.design.n_rows - begin)
            self.order.read(begin, n_known, rows)
            n_active = n_together = 0
            for k in range(self.n_models):
                if not self.models[k].active:
                    continue
                if n_active % self.n_threads == share:
                    if self.task.grouped:
                        together[n_together] = self.models + k
                        n_together += 1
                        if n_together == TOGETHER:
                            visit_groups_any(&self.task, self.design.single, together, TOGETHER, rows, n, n_known)
                            n_together = 0
                    else:
                        visit_any(&self.task, self.design.single, self.models + k, rows, n, n_known)
                n_active += 1
            if n_together > 0:
                visit_groups_any(&self.task, self.design.single, together, n_together, rows, n, n_known)
            begin += n

    def finish(self):
        """Write coefficients and intercepts back to the arrays the trainer was given."""
        cdef Py_ssize_t k, row_bytes = self.design.n_columns * (4 if self.design.single else 8)
        for k in range(self.n_models):
            if self.design.single:
                fold_scale(&self.task, self.models + k, <float *> self.models[k].weights)
            else:
                fold_scale(&self.task, self.models + k, <double *> self.models[k].weights)
            memcpy(self.coef_memory + k * row_bytes, self.models[k].weights, row_bytes)
            self.intercept[k] = self.models[k].intercept

    # -- what an epoch found, model by model -------------------------------------------------------------------------
    def loss(self, Py_ssize_t k):
        """Mean loss over the epoch, each sample's before its update."""
        return self.models[k].loss_sum / self.design.n_rows

    def objective(self, Py_ssize_t k):
        """Mean of loss plus penalty over the epoch, each sample's before its update."""
        return (self.models[k].loss_sum + 0.5 * self.task.l2 * self.models[k].square_sum) / self.design.n_rows

    def norm(self, Py_ssize_t k):
        """Euclidean norm of the coefficients."""
        return self.models[k].scale * sqrt(max(self.models[k].square, 0.0))

    def current_intercept(self, Py_ssize_t k):
        return self.models[k].intercept

    def n_clipped(self, Py_ssize_t k):
        """How many derivatives of the epoch were clipped."""
        return self.models[k].n_clipped

    def finite(self, Py_ssize_t k):
        """Whether all coefficients and the intercept are finite."""
        if not isfinite(self.models[k].intercept):
            return False
        if self.design.single:
            return bool(all_finite(<const float *> self.models[k].weights, self.design.n_columns))
        return bool(all_finite(<const double *> self.models[k].weights, self.design.n_columns))

    # -- what the rules between epochs may change ---------------------------------------------------------------------
    def eta(self, Py_ssize_t k):
        return self.models[k].eta

    def set_eta(self, Py_ssize_t k, double eta):
        self.models[k].eta = eta

    def stop(self, Py_ssize_t k):
        """The model takes no part in further epochs."""
        self.models[k].active = False
