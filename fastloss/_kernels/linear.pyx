# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Loss of a linear model and its derivatives by the coefficients, in one pass over X.

X is cut into tiles of rows that stay in cache.  For each tile: ``forward`` raw = X w, ``middle`` the loss's kernel
turns raw predictions into gradients (`blocks.pxi` of dispatch), ``backward`` g += X' (gradients).  So X is read from
memory once per evaluation, and neither raw predictions nor gradients of all samples are ever stored.

One score per sample (K = 1) uses vectors w and g of d numbers.  K scores use *panels*: the coefficients of ``width``
classes (one or two vectors' worth) for every feature, [panel][feature][class]; raw predictions of a tile likewise,
[panel][row][class].  Both products are then one loop that keeps a few rows of the result in registers (``panel`` in
simd.h): 120 (float64) and 230 (float32) Gflop/s on one AVX-512 core where a BLAS may reach a few per cent more, without
its threads, its packing of small operands and its dependence on how many of them there are.

A loss over the whole batch needs all raw predictions before the first gradient: that is two passes, one that ends with
`forward` and one that begins with `backward`, and vectors of all raw predictions and slopes between them.

Sums over the rows are added up per tile in the working dtype and over tiles in float64.  Two ways to share the work:

* few coefficients: the rows are cut into up to 16 chunks with accumulators of their own, added in order at the end;
* many (``SHARED_FROM``): one accumulator; tiles are walked in order, and threads share each tile's work: rows in the
  forward and middle part, panels or stretches of features in the backward one.

Neither depends on the number of threads, nor do the results.
"""
import numpy as np

cimport numpy as cnp
from cpython.exc cimport PyErr_CheckSignals
from cython.parallel cimport prange, threadid
from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from fastloss._kernels.dispatch cimport (
    ChunkResult,
    Input,
    Job,
    Kernel,
    Scratch,
    _input,
    _real_array,
    active_table,
    bind_kernel,
    bind_targets,
    check_data,
    compute,
    fetch,
    lay_out,
    load,
    no_mean,
    plain,
    raise_refused,
    real,
    resolve_threads,
    scratch_bytes,
    transpose,
    weigh,
)

cdef extern from "Python.h":
    const Py_ssize_t PY_SSIZE_T_MAX

cnp.import_array()

VALUE = 0
PRODUCT = 1
DIAGONAL = 2
SCORES = 3
SLOPES = 4

cdef enum:
    MODE_VALUE = 0              # loss and gradient
    MODE_PRODUCT = 1            # hessian times a direction
    MODE_DIAGONAL = 2           # diagonal of the hessian
    MODE_SCORES = 3             # raw predictions of all rows, into `whole`
    MODE_SLOPES = 4             # X' times `whole`
    WANT_LOSS = 1
    WANT_GRADIENT = 2
    WANT_HESSIAN = 4
    TILE_BYTES = 1 << 17        # of X: read twice, the second time from L2
    LARGE_TILE = 1 << 19        # rather than less than 64 rows: a column-major X is read in stretches of a tile's rows
    TILE_ROWS = 256
    SCORE_BYTES = 1 << 24       # of a tile's raw predictions, at home in a last-level cache
    CHUNKS = 16
    FEWER_CHUNKS = 8            # accumulators of more than FEWER_FROM numbers
    FEWER_FROM = 100000
    SHARED_FROM = 1000000
    THREADS_FROM = 1 << 23
    SPARSE_WORK = 1 << 27
    SLAB_WORK = 1 << 28         # multiply-adds between two looks at pending signals: some 10 ms
    LEAST_BLOCK = 8             # rows of a kernel's call
    LONG_TILE = 1 << 26         # bytes of X at most, where long blocks are wanted
    # Bytes of a row up to which the next tile's are fetched ahead: 1e6 x 20 float64 13 -> 7.1 ns per row, float32
    # 8.7 -> 5.0; rows of 512 bytes gain nothing and longer ones lose, for the hardware follows them by itself.
    LONG_ROW = 448
    STRIP = 16                  # rows of X between two looks ahead
    BLOCKS = TILE_ROWS // LEAST_BLOCK

cdef struct Plan:
    # X
    bint sparse
    bint in_place               # dense rows that can be read where they are
    Input x
    const void *values
    const void *columns
    const void *starts
    bint wide_indices           # columns and starts are int64, else int32
    Py_ssize_t n
    Py_ssize_t d
    # the model
    Py_ssize_t K                # scores of a sample
    Py_ssize_t width            # scores of a panel
    Py_ssize_t panels
    int wide                    # vectors of a panel's row; 0: K = 1
    const void *w
    const void *intercept
    const void *v               # direction, for MODE_PRODUCT
    const void *v_intercept
    Input offset
    int mode
    void *whole                 # one number per row, K = 1
    # tiles
    Py_ssize_t rows             # of a tile
    Py_ssize_t block            # rows of a kernel's call
    Py_ssize_t size             # of the working dtype
    Py_ssize_t worker_bytes

# A thread's memory.
cdef struct Worker:
    void *x                     # rows * d, where X is not read in place (or squared)
    void *z                     # rows * panels * width: raw predictions, then their gradients
    void *u                     # likewise for the direction
    void *g                     # d * width: a panel of the gradient; or d entries of a sparse row
    void *offset
    void *swap
    char *scratch


# ----------------------------------------------------------------------------------------- calls by dtype
cdef inline void rows_times(const real *x, Py_ssize_t ld, const real *w, real *z, Py_ssize_t rows,
                            Py_ssize_t d) noexcept nogil:
    if real is float:
        active_table().rows32.rows_times(x, ld, w, z, rows, d)
    else:
        active_table().rows64.rows_times(x, ld, w, z, rows, d)


cdef inline void add_rows(const real *x, Py_ssize_t ld, const real *a, real *g, Py_ssize_t rows,
                          Py_ssize_t d) noexcept nogil:
    if real is float:
        active_table().rows32.add_rows(x, ld, a, g, rows, d)
    else:
        active_table().rows64.add_rows(x, ld, a, g, rows, d)


cdef inline void panel(const real *a, Py_ssize_t ai, Py_ssize_t ap, const real *b, real *c, Py_ssize_t count,
                       Py_ssize_t length, int wide) noexcept nogil:
    if real is float:
        active_table().rows32.panel(a, ai, ap, b, c, count, length, wide)
    else:
        active_table().rows64.panel(a, ai, ap, b, c, count, length, wide)


cdef inline void sum_panel(const real *b, Py_ssize_t rows, int wide, double *out) noexcept nogil:
    if real is float:
        active_table().rows32.sum_panel(b, rows, wide, out)
    else:
        active_table().rows64.sum_panel(b, rows, wide, out)


cdef inline double total(const real *x, Py_ssize_t n) noexcept nogil:
    if real is float:
        return active_table().rows32.total(x, n)
    else:
        return active_table().rows64.total(x, n)


cdef inline Py_ssize_t start_of(const Plan *plan, Py_ssize_t row) noexcept nogil:
    if plan.wide_indices:
        return <Py_ssize_t>(<const int64_t *>plan.starts)[row]
    return (<const int32_t *>plan.starts)[row]


cdef inline void sparse_times(const Plan *plan, Py_ssize_t row, Py_ssize_t rows, const real *w, real *z) noexcept nogil:
    cdef const real *x = <const real *>plan.values
    cdef const int *narrow = <const int *>plan.columns
    cdef const int *narrow_starts = <const int *>plan.starts + row
    cdef const long long *wide = <const long long *>plan.columns
    cdef const long long *wide_starts = <const long long *>plan.starts + row
    if real is float:
        if plan.wide_indices:
            active_table().rows32.sparse64_times(x, wide, wide_starts, rows, w, z, plan.wide)
        else:
            active_table().rows32.sparse32_times(x, narrow, narrow_starts, rows, w, z, plan.wide)
    else:
        if plan.wide_indices:
            active_table().rows64.sparse64_times(x, wide, wide_starts, rows, w, z, plan.wide)
        else:
            active_table().rows64.sparse32_times(x, narrow, narrow_starts, rows, w, z, plan.wide)


cdef inline void sparse_add(const Plan *plan, Py_ssize_t row, Py_ssize_t rows, const real *a, double *g,
                            Py_ssize_t low, Py_ssize_t high) noexcept nogil:
    cdef const real *x = <const real *>plan.values
    cdef const int *narrow = <const int *>plan.columns
    cdef const int *narrow_starts = <const int *>plan.starts + row
    cdef const long long *wide = <const long long *>plan.columns
    cdef const long long *wide_starts = <const long long *>plan.starts + row
    if high >= plan.d:
        high = PY_SSIZE_T_MAX       # with low = 0: all columns, nothing to compare
    if real is float:
        if plan.wide_indices:
            active_table().rows32.sparse64_add(x, wide, wide_starts, rows, a, g, plan.wide, low, high)
        else:
            active_table().rows32.sparse32_add(x, narrow, narrow_starts, rows, a, g, plan.wide, low, high)
    else:
        if plan.wide_indices:
            active_table().rows64.sparse64_add(x, wide, wide_starts, rows, a, g, plan.wide, low, high)
        else:
            active_table().rows64.sparse32_add(x, narrow, narrow_starts, rows, a, g, plan.wide, low, high)


cdef inline Py_ssize_t column_of(const Plan *plan, Py_ssize_t at) noexcept nogil:
    if plan.wide_indices:
        return <Py_ssize_t>(<const int64_t *>plan.columns)[at]
    return (<const int32_t *>plan.columns)[at]


cdef void sparse_add_squares(const Plan *plan, Py_ssize_t row, const real *a, real *entries, double *g, Py_ssize_t low,
                             Py_ssize_t high) noexcept nogil:
    """`sparse_add` with the row's entries squared: duplicates are added up first, in `entries` (d zeros, left so)."""
    cdef const real *x = <const real *>plan.values
    cdef Py_ssize_t begin = start_of(plan, row), end = start_of(plan, row + 1), at, column, k
    cdef double square
    for at in range(begin, end):
        entries[column_of(plan, at)] += x[at]
    for at in range(begin, end):
        column = column_of(plan, at)
        square = <double>entries[column] * entries[column]
        entries[column] = 0
        if low <= column < high:
            for k in range(plan.width):
                g[column * plan.width + k] += square * a[k]


# ----------------------------------------------------------------------------------------- the parts of a tile
cdef const real *rows_of(const Plan *plan, Worker *worker, Py_ssize_t first, Py_ssize_t rows, Py_ssize_t *ld,
                         real like) noexcept nogil:
    """A tile of dense rows: in place, or as a copy."""
    if plan.sparse:
        return NULL
    if plan.in_place:
        ld[0] = plan.x.row // <Py_ssize_t>sizeof(real)
        return <const real *>(plan.x.data + first * plan.x.row)
    ld[0] = plan.d
    return load(&plan.x, first, rows, plan.d, <real *>worker.x)


cdef const real *squares(const Plan *plan, Worker *worker, const real *x, Py_ssize_t *ld,
                         Py_ssize_t rows) noexcept nogil:
    """The tile's numbers squared."""
    cdef real *to = <real *>worker.x
    cdef Py_ssize_t i, j
    for i in range(rows):
        for j in range(plan.d):
            to[i * plan.d + j] = x[i * ld[0] + j] * x[i * ld[0] + j]
    ld[0] = plan.d
    return to


cdef inline void look_ahead(const Plan *plan, const real *x, Py_ssize_t ld, Py_ssize_t first, Py_ssize_t r0,
                            Py_ssize_t r1, Py_ssize_t r, bint second_half) noexcept nogil:
    """Fetch half of a strip of the next tile's rows, so that memory works while this tile is multiplied: half with
    each of its two products."""
    cdef Py_ssize_t rows = r1 - r0, begin = r + rows + (STRIP // 2 if second_half else 0)
    cdef Py_ssize_t end = min(begin + STRIP // 2, plan.n - first), k
    if plan.sparse:
        return
    if not plan.in_place and plan.x.row == plan.size:       # column-major: a share of the columns, a tile of each
        begin = (r - r0) * plan.d // (2 * rows) + (plan.d // 2 if second_half else 0)
        end = min(r - r0 + STRIP, rows) * plan.d // (2 * rows) + (plan.d // 2 if second_half else 0)
        rows = min(rows, plan.n - first - rows)
        for k in range(begin, end):
            fetch(plan.x.data + (first + r1 - r0) * plan.x.row + k * plan.x.column, rows * plan.size)
    elif plan.in_place and plan.d * plan.size <= LONG_ROW:
        if ld == plan.d and end > begin:
            fetch(<const char *>(x + begin * ld), (end - begin) * ld * sizeof(real))
        elif ld != plan.d:
            for k in range(begin, end):
                fetch(<const char *>(x + k * ld), plan.d * sizeof(real))


cdef void forward(const Plan *plan, const real *x, Py_ssize_t ld, Py_ssize_t first, Py_ssize_t r0, Py_ssize_t r1,
                  Py_ssize_t p0, Py_ssize_t p1, const real *w, real *z) noexcept nogil:
    """z = X w for rows r0 ... r1 - 1 of the tile that starts at sample `first`, panels p0 ... p1 - 1."""
    cdef Py_ssize_t p, r
    cdef real *to
    cdef const real *coefficients
    if plan.wide == 0 and not plan.sparse:
        r = r0
        while r < r1:
            look_ahead(plan, x, ld, first, r0, r1, r, False)
            rows_times(x + r * ld, ld, w, z + r, min(<Py_ssize_t>STRIP, r1 - r), plan.d)
            r += STRIP
        return
    for p in range(p0, p1):
        to = z + (p * plan.rows + r0) * plan.width
        coefficients = w + p * plan.d * plan.width
        if plan.sparse:
            sparse_times(plan, first + r0, r1 - r0, coefficients, to)
        else:
            memset(to, 0, (r1 - r0) * plan.width * sizeof(real))
            panel(x + r0 * ld, ld, 1, coefficients, to, r1 - r0, plan.d, plan.wide)


cdef void backward(const Plan *plan, const real *x, Py_ssize_t ld, Py_ssize_t first, Py_ssize_t rows, Py_ssize_t p0,
                   Py_ssize_t p1, Py_ssize_t j0, Py_ssize_t j1, const real *dz, real *part, double *g,
                   double *g_intercept) noexcept nogil:
    """g += X' dz over the tile, for features j0 ... j1 - 1 of panels p0 ... p1 - 1; intercepts go with feature 0."""
    cdef Py_ssize_t p, r, many, width = plan.width
    cdef const real *slopes
    cdef real *direct
    cdef double *to
    for p in range(p0, p1):
        slopes = dz + p * plan.rows * width
        to = g + (p * plan.d + j0) * width
        if j0 == 0 and plan.wide == 0:
            g_intercept[0] += total(slopes, rows)
        elif j0 == 0:
            sum_panel(slopes, rows, plan.wide, g_intercept + p * width)
        if plan.sparse and plan.mode == MODE_DIAGONAL:
            memset(part, 0, plan.d * sizeof(real))
            for r in range(rows):
                sparse_add_squares(plan, first + r, slopes + r * width, part, g + p * plan.d * width, j0, j1)
            continue
        if plan.sparse:
            sparse_add(plan, first, rows, slopes, g + p * plan.d * width, j0, j1)
            continue
        direct = part
        if real is double:
            direct = to
        else:
            memset(part, 0, (j1 - j0) * width * sizeof(real))
        r = 0
        while r < rows:     # in strips, each sum going on where the last left off
            many = min(<Py_ssize_t>STRIP, rows - r)
            if p == 0 and j0 == 0:
                look_ahead(plan, x, ld, first, 0, rows, r, True)
            if plan.wide == 0:
                add_rows(x + r * ld + j0, ld, slopes + r, direct, many, j1 - j0)
            else:
                panel(x + r * ld + j0, 1, ld, slopes + r * width, direct, j1 - j0, many, plan.wide)
            r += many
        if real is float:
            active_table().rows32.widen_add(part, to, (j1 - j0) * width)


cdef void unpack(const Plan *plan, const Job *job, const real *z, Py_ssize_t r0, Py_ssize_t rows,
                 real *tile) noexcept nogil:
    """Scores of some rows, from panels to the layout the kernel wants."""
    cdef Py_ssize_t p, r, many
    cdef const real *at
    if plan.wide == 0:
        memcpy(tile, z + r0, rows * sizeof(real))
        return
    for p in range(plan.panels):
        at = z + (p * plan.rows + r0) * plan.width
        many = min(plan.width, plan.K - p * plan.width)
        if job.lanes:
            transpose(at, plan.width, tile + p * plan.width * rows, rows, rows, many)
        else:
            for r in range(rows):
                memcpy(tile + r * plan.K + p * plan.width, at + r * plan.width, many * sizeof(real))


cdef void pack(const Plan *plan, const Job *job, const real *tile, Py_ssize_t r0, Py_ssize_t rows,
               real *z) noexcept nogil:
    """`unpack` backwards; lanes beyond the last class get 0."""
    cdef Py_ssize_t p, r, k, many
    cdef real *at
    if plan.wide == 0:
        memcpy(z + r0, tile, rows * sizeof(real))
        return
    for p in range(plan.panels):
        at = z + (p * plan.rows + r0) * plan.width
        many = min(plan.width, plan.K - p * plan.width)
        if job.lanes:
            transpose(tile + p * plan.width * rows, rows, at, plan.width, many, rows)
        else:
            for r in range(rows):
                memcpy(at + r * plan.width, tile + r * plan.K + p * plan.width, many * sizeof(real))
        if many < plan.width:
            for r in range(rows):
                for k in range(many, plan.width):
                    at[r * plan.width + k] = 0


cdef void shift(const Plan *plan, const Job *job, const real *intercept, const Input *offset, Py_ssize_t first,
                Py_ssize_t rows, Worker *worker, real *tile) noexcept nogil:
    """tile += intercept + offset."""
    cdef const real *extra = NULL
    cdef real by
    cdef Py_ssize_t r, k
    if offset != NULL and offset.data != NULL:
        extra = load(offset, first, rows, plan.K, <real *>worker.offset)
    if job.lanes:
        for k in range(plan.K):
            by = intercept[k]
            for r in range(rows):
                tile[k * rows + r] += by
            if extra != NULL:
                for r in range(rows):
                    tile[k * rows + r] += extra[r * plan.K + k]
        return
    for r in range(rows):
        for k in range(plan.K):
            tile[r * plan.K + k] += intercept[k]
    if extra != NULL:
        for r in range(rows * plan.K):
            tile[r] += extra[r]


cdef void middle(const Plan *plan, const Job *job, Worker *worker, Py_ssize_t first, Py_ssize_t r0, Py_ssize_t rows,
                 real *z, const real *u, ChunkResult *result) noexcept nogil:
    """z (IN raw predictions, OUT what `backward` adds up) for rows r0 ... of the tile that starts at `first`."""
    cdef Scratch scratch
    cdef real *raw
    cdef real *grad
    cdef real *out
    cdef Py_ssize_t n = rows * plan.K, accepted, i
    cdef real like = 0
    cdef real *hess = NULL
    cdef real *loss = NULL
    lay_out(&scratch, job, worker.scratch, like)
    raw, grad = <real *>scratch.raw, <real *>scratch.grad
    out = grad
    unpack(plan, job, z, r0, rows, raw)
    shift(plan, job, <const real *>plan.intercept, &plan.offset, first + r0, rows, worker, raw)
    if plan.mode == MODE_VALUE:
        loss = <real *>scratch.loss
    else:
        out = hess = <real *>scratch.hess
    if plan.mode == MODE_PRODUCT and job.scores:
        unpack(plan, job, u, r0, rows, hess)
        shift(plan, job, <const real *>plan.v_intercept, NULL, first + r0, rows, worker, hess)
    accepted = compute(job, first + r0, rows, raw, loss, grad, hess, &scratch, result)
    if accepted != n:
        result.refused = (first + r0) * plan.K + accepted
        return
    if plan.mode == MODE_PRODUCT and not job.scores:
        unpack(plan, job, u, r0, rows, raw)
        shift(plan, job, <const real *>plan.v_intercept, NULL, first + r0, rows, worker, raw)
        for i in range(n):
            hess[i] *= raw[i]
    weigh(job, &scratch, out, rows)
    pack(plan, job, out, r0, rows, z)


cdef bint exchange(const Plan *plan, const Job *job, Worker *worker, Py_ssize_t first, Py_ssize_t rows,
                   real *z) noexcept nogil:
    """A tile's raw predictions to `whole`, or its slopes from there; whether that was all."""
    cdef real *whole = <real *>plan.whole + first
    if plan.mode == MODE_SCORES:
        shift(plan, job, <const real *>plan.intercept, &plan.offset, first, rows, worker, z)
        memcpy(whole, z, rows * sizeof(real))
    else:
        memcpy(z, whole, rows * sizeof(real))
    return plan.mode == MODE_SCORES


# ----------------------------------------------------------------------------------------- chunks
cdef void run_tile(const Plan *plan, const Job *job, Worker *worker, Py_ssize_t first, Py_ssize_t rows, double *g,
                   ChunkResult *result, real like) noexcept nogil:
    """One tile, all of it by one thread.  g holds the coefficients' part, then the intercepts'."""
    cdef Py_ssize_t ld = 0, r = 0
    cdef const real *x = rows_of(plan, worker, first, rows, &ld, like)
    cdef real *z = <real *>worker.z
    if plan.mode != MODE_SLOPES:
        forward(plan, x, ld, first, 0, rows, 0, plan.panels, <const real *>plan.w, z)
    if plan.mode == MODE_PRODUCT:
        forward(plan, x, ld, first, 0, rows, 0, plan.panels, <const real *>plan.v, <real *>worker.u)
    if plan.whole != NULL:
        if exchange(plan, job, worker, first, rows, z):
            return
        r = rows
    while r < rows and result.refused < 0:
        middle(plan, job, worker, first, r, min(plan.block, rows - r), z, <const real *>worker.u, result)
        r += plan.block
    if result.refused >= 0:
        return
    if plan.mode == MODE_DIAGONAL and not plan.sparse:
        x = squares(plan, worker, x, &ld, rows)
    backward(plan, x, ld, first, rows, 0, plan.panels, 0, plan.d, z, <real *>worker.g, g,
             g + plan.panels * plan.d * plan.width)


cdef void run_stretch(const Plan *plan, const Job *job, char *memory, Py_ssize_t first, Py_ssize_t last, double *g,
                      ChunkResult *result, real like) noexcept nogil:
    """Tiles of samples first ... last - 1, in order."""
    cdef Worker worker
    settle(plan, job, &worker, memory)
    while first < last and result.refused < 0:
        run_tile(plan, job, &worker, first, min(plan.rows, last - first), g, result, like)
        first += plan.rows


cdef int by_chunks(const Plan *plan, const Job *job, int n_threads, Py_ssize_t chunks, char *memory, double *g,
                   Py_ssize_t g_size, ChunkResult *results) except -1:
    """Every chunk into its own accumulator, a stretch of each at a time (between them: Ctrl-C)."""
    cdef Py_ssize_t tiles = (plan.n + plan.rows - 1) // plan.rows
    cdef Py_ssize_t length = (tiles + chunks - 1) // chunks * plan.rows, c, at = 0
    cdef Py_ssize_t work = max(<Py_ssize_t>1, chunks * plan.rows * (row_work(plan) + 64))
    cdef Py_ssize_t stride = max(<Py_ssize_t>1, SLAB_WORK // work) * plan.rows
    cdef bint single = plan.size == 4
    while at < length:
        with nogil:
            if n_threads == 1:
                for c in range(chunks):
                    run_piece(plan, job, single, memory, c * length, length, at, stride, g + c * g_size, &results[c])
            else:
                for c in prange(chunks, num_threads=n_threads, schedule="dynamic"):
                    run_piece(plan, job, single, memory + threadid() * plan.worker_bytes, c * length, length, at,
                              stride, g + c * g_size, &results[c])
        at += stride
        if at < length:
            PyErr_CheckSignals()
    return 0


cdef void run_piece(const Plan *plan, const Job *job, bint single, char *memory, Py_ssize_t start, Py_ssize_t length,
                    Py_ssize_t at, Py_ssize_t stride, double *g, ChunkResult *result) noexcept nogil:
    cdef Py_ssize_t first = start + at
    cdef Py_ssize_t last = min(start + min(at + stride, length), plan.n)
    if single:
        run_stretch(plan, job, memory, first, last, g, result, <float>0)
    else:
        run_stretch(plan, job, memory, first, last, g, result, <double>0)


cdef Py_ssize_t row_work(const Plan *plan) noexcept nogil:
    """Multiply-adds of a row, about."""
    cdef Py_ssize_t entries = plan.d
    if plan.sparse:
        entries = 4 * (start_of(plan, plan.n) // max(<Py_ssize_t>1, plan.n) + 1)
    return entries * plan.panels * plan.width


# ----------------------------------------------------------------------------------------- shared tiles
cdef int by_tiles(const Plan *plan, const Job *job, int n_threads, char *memory, double *g,
                  ChunkResult *result) except -1:
    """Tile after tile into one accumulator, each shared by the threads."""
    cdef Py_ssize_t first = 0, since = 0
    while first < plan.n and result.refused < 0:
        with nogil:
            if plan.size == 4:
                share_tile(plan, job, n_threads, memory, first, min(plan.rows, plan.n - first), g, result, <float>0)
            else:
                share_tile(plan, job, n_threads, memory, first, min(plan.rows, plan.n - first), g, result, <double>0)
        since += plan.rows * row_work(plan)
        first += plan.rows
        if since > SLAB_WORK:
            since = 0
            PyErr_CheckSignals()
    return 0


cdef void share_tile(const Plan *plan, const Job *job, int n_threads, char *memory, Py_ssize_t first, Py_ssize_t rows,
                     double *g, ChunkResult *result, real like) noexcept nogil:
    """`run_tile` by several threads.  Tiles, raw predictions and directions are those of the first worker."""
    cdef Worker common
    cdef ChunkResult results[BLOCKS]
    cdef Py_ssize_t ld = 0, k, blocks = (rows + plan.block - 1) // plan.block
    cdef Py_ssize_t items = plan.panels if plan.panels >= n_threads else n_threads
    settle(plan, job, &common, memory)
    cdef const real *x = rows_of(plan, &common, first, rows, &ld, like)
    for k in prange(items if plan.mode != MODE_SLOPES else 0, num_threads=n_threads, schedule="dynamic"):
        share_forward(plan, x, ld, first, rows, k, items, <const real *>plan.w, <real *>common.z)
        if plan.mode == MODE_PRODUCT:
            share_forward(plan, x, ld, first, rows, k, items, <const real *>plan.v, <real *>common.u)
    if plan.whole != NULL:
        if exchange(plan, job, &common, first, rows, <real *>common.z):
            return
        blocks = 0
    for k in prange(blocks, num_threads=n_threads, schedule="dynamic"):
        share_middle(plan, job, memory + threadid() * plan.worker_bytes, first, k * plan.block,
                     min(plan.block, rows - k * plan.block), <real *>common.z, <const real *>common.u, &results[k])
    for k in range(blocks):
        result.total += results[k].total
        result.signs |= results[k].signs
        if results[k].refused >= 0 and result.refused < 0:
            result.refused = results[k].refused
            result.returned, result.asked = results[k].returned, results[k].asked
    if result.refused >= 0:
        return
    if plan.mode == MODE_DIAGONAL and not plan.sparse:
        x = squares(plan, &common, x, &ld, rows)
    for k in prange(items, num_threads=n_threads, schedule="dynamic"):
        share_backward(plan, job, memory + threadid() * plan.worker_bytes, x, ld, first, rows, k, items,
                       <const real *>common.z, g)


cdef void share_forward(const Plan *plan, const real *x, Py_ssize_t ld, Py_ssize_t first, Py_ssize_t rows,
                        Py_ssize_t k, Py_ssize_t items, const real *w, real *z) noexcept nogil:
    """Item k: a panel, or a share of the rows."""
    if plan.panels >= items:
        forward(plan, x, ld, first, 0, rows, k, k + 1, w, z)
    else:
        forward(plan, x, ld, first, rows * k // items, rows * (k + 1) // items, 0, plan.panels, w, z)


cdef void share_middle(const Plan *plan, const Job *job, char *memory, Py_ssize_t first, Py_ssize_t r0,
                       Py_ssize_t rows, real *z, const real *u, ChunkResult *result) noexcept nogil:
    cdef Worker own
    settle(plan, job, &own, memory)
    result.total = 0
    result.refused = -1
    result.signs = 0
    middle(plan, job, &own, first, r0, rows, z, u, result)


cdef void share_backward(const Plan *plan, const Job *job, char *memory, const real *x, Py_ssize_t ld,
                         Py_ssize_t first, Py_ssize_t rows, Py_ssize_t k, Py_ssize_t items, const real *z,
                         double *g) noexcept nogil:
    """Item k: a panel, or a stretch of the features."""
    cdef Worker own
    cdef double *g_intercept = g + plan.panels * plan.d * plan.width
    settle(plan, job, &own, memory)
    if plan.panels >= items:
        backward(plan, x, ld, first, rows, k, k + 1, 0, plan.d, z, <real *>own.g, g, g_intercept)
    elif plan.d * (k + 1) // items > plan.d * k // items:
        backward(plan, x, ld, first, rows, 0, plan.panels, plan.d * k // items, plan.d * (k + 1) // items, z,
                 <real *>own.g, g, g_intercept)


# ----------------------------------------------------------------------------------------- memory
cdef inline Py_ssize_t aligned(Py_ssize_t nbytes) noexcept nogil:
    return (nbytes + 63) & ~<Py_ssize_t>63


cdef void settle(const Plan *plan, const Job *job, Worker *worker, char *memory) noexcept nogil:
    """Give a worker's tiles their places; with memory = NULL only count the bytes into `scratch`."""
    cdef Py_ssize_t scores = aligned(plan.rows * plan.panels * plan.width * plan.size)
    cdef bint needs_part = plan.mode == MODE_DIAGONAL if plan.sparse else plan.size == 4
    cdef bint copies = not plan.sparse and (not plan.in_place or plan.mode == MODE_DIAGONAL)
    worker.x = memory
    memory += aligned(plan.rows * plan.d * plan.size) if copies else 0
    worker.z = memory
    memory += scores
    worker.u = memory
    memory += scores if plan.mode == MODE_PRODUCT else 0
    worker.g = memory
    memory += aligned(plan.d * (1 if plan.sparse else plan.width) * plan.size) if needs_part else 0
    worker.offset = memory
    memory += aligned(plan.block * plan.K * plan.size) if plan.offset.data != NULL else 0
    worker.scratch = memory


# ----------------------------------------------------------------------------------------- the face to Python
ctypedef fused index_t:
    int32_t
    int64_t


cdef Py_ssize_t _first_descent(const index_t *values, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n - 1):
        if values[i + 1] < values[i]:
            return i
    return -1


cdef Py_ssize_t _first_outside(const index_t *values, Py_ssize_t n, Py_ssize_t end) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        if not 0 <= values[i] < end:
            return i
    return -1


cdef cnp.ndarray _indices(values):
    """int32 and int64 as they are, other integers as int64."""
    cdef object dtype = np.int32 if values.dtype.newbyteorder("=") == np.int32 else np.int64
    return np.ascontiguousarray(values, dtype)


def first_descent(values):
    """Position of the first index that is larger than the next, or -1; without a temporary."""
    cdef cnp.ndarray array = _indices(values)
    if array.itemsize == 4:
        return _first_descent(<const int32_t *>cnp.PyArray_DATA(array), array.shape[0])
    return _first_descent(<const int64_t *>cnp.PyArray_DATA(array), array.shape[0])


def first_outside(values, Py_ssize_t end):
    """Position of the first index that is not in 0 ... end - 1, or -1; without a temporary."""
    cdef cnp.ndarray array = _indices(values)
    if array.itemsize == 4:
        return _first_outside(<const int32_t *>cnp.PyArray_DATA(array), array.shape[0], end)
    return _first_outside(<const int64_t *>cnp.PyArray_DATA(array), array.shape[0], end)


cdef class Linear:
    """The compiled half of a LinearObjective: data, loss, and how the work is cut.

    Parameters
    ----------
    kernel : Kernel
    X : ndarray (n, d), or tuple (data, indices, indptr, n, d) of checked CSR arrays
    y, sample_weight, offset : ndarray, or None
        y has the shape the kernel wants; offset (n,), or (n, K).
    K : int
        Scores of a sample.
    single : bool
        Whether float32 is the working dtype.
    n_threads : int or None
    """
    cdef Kernel kernel
    cdef object keep            # everything whose memory is pointed to
    cdef cnp.ndarray y
    cdef cnp.ndarray weight
    cdef Plan plan
    cdef bint single
    cdef double factor
    cdef object n_threads

    def __init__(self, Kernel kernel not None, X, y, sample_weight, offset, Py_ssize_t K, bint single, n_threads):
        self.kernel = kernel
        self.y = _real_array(y, "y")
        self.weight = None if sample_weight is None else _real_array(sample_weight, "sample_weight")
        self.keep = (X, offset)
        self.single = single
        self.n_threads = n_threads
        memset(&self.plan, 0, sizeof(Plan))
        self.plan.K = K
        self.plan.size = 4 if single else 8
        if isinstance(X, tuple):
            data, indices, indptr, n, d = X
            self.point_to_sparse(data, indices, indptr, n, d)
        else:
            self.point_to_dense(X)
        self.plan.offset = _input(offset)
        self.cut()
        self.look_through()

    cdef int point_to_dense(self, cnp.ndarray X) except -1:
        cdef Plan *plan = &self.plan
        plan.n, plan.d = X.shape[0], X.shape[1]
        plan.x = _input(X)
        plan.in_place = plain(&plan.x, plan.size) and (plan.x.column == plan.size or plan.d <= 1)
        return 0

    cdef int point_to_sparse(self, cnp.ndarray data, cnp.ndarray indices, cnp.ndarray indptr, Py_ssize_t n,
                             Py_ssize_t d) except -1:
        cdef Plan *plan = &self.plan
        plan.sparse = True
        plan.n, plan.d = n, d
        plan.values = cnp.PyArray_DATA(data)
        plan.columns = cnp.PyArray_DATA(indices)
        plan.starts = cnp.PyArray_DATA(indptr)
        plan.wide_indices = indices.itemsize == 8
        return 0

    cdef int cut(self) except -1:
        """Panels and tiles; they follow from n, d, K, the dtype and the instruction set."""
        cdef Plan *plan = &self.plan
        cdef Py_ssize_t lanes = active_table().rows32.lanes if self.single else active_table().rows64.lanes
        cdef Py_ssize_t rows, row, most = TILE_ROWS
        plan.wide = 0 if plan.K == 1 else (1 if plan.K <= lanes else 2)
        plan.width = max(<Py_ssize_t>1, plan.wide * lanes)
        plan.panels = (plan.K + plan.width - 1) // plan.width
        row = max(<Py_ssize_t>1, plan.d * plan.size)
        rows = TILE_ROWS if plan.sparse else max(TILE_BYTES // row, min(<Py_ssize_t>64, LARGE_TILE // row))
        if self.kernel.python:
            rows = most = max(min(rows, most), min(self.kernel.block_rows(plan.K), LONG_TILE // row))
        rows = min(rows, <Py_ssize_t>SCORE_BYTES // (plan.panels * plan.width * plan.size))
        if plan.sparse:     # long rows of many scores: a tile must not outlast the patience of Ctrl-C
            rows = min(rows, <Py_ssize_t>SPARSE_WORK // row_work(plan))
        plan.rows = max(<Py_ssize_t>16, min(rows, most)) // 16 * 16
        return 0

    cdef int look_through(self) except -1:
        """Weights, labels and targets, before the first evaluation; sets the factor 1 / sum of the weights."""
        cdef Job job
        cdef double weights
        cdef Kernel kernel = self.kernel.session()
        if self.y.ndim == 2 and not self.kernel.scores and self.y.shape[1] != self.plan.K:
            raise ValueError(f"y has {self.y.shape[1]} outputs, expected {self.plan.K}")
        bind_kernel(&job, kernel, self.single, self.plan.K, WANT_LOSS, "exact", False)
        bind_targets(&job, kernel, self.y, self.weight)
        job.n = self.plan.n
        weights = check_data(&job, self.single, kernel, self.y, self.weight, self.n_threads)
        if not weights > 0:
            raise ValueError(f"the mean loss is not defined: {no_mean(&job, weights)}")
        self.factor = 1 / weights
        return 0

    def evaluate(self, int mode, w, v=None, whole=None):
        """Sums over the samples, divided by the sum of the weights.

        Parameters
        ----------
        mode : VALUE, PRODUCT, DIAGONAL, SCORES or SLOPES
        w, v : tuple (coef (K, d), intercept (K,))
            Coefficients, and for PRODUCT the direction; of the working dtype.
        whole : ndarray (n,), contiguous, of the working dtype
            For one score per sample: SCORES writes the raw predictions there, SLOPES takes the slopes from there, whose
            sums it returns as they are.

        Returns
        -------
        value : float
            The mean loss (VALUE).
        coef : ndarray (K, d), float64
        intercept : ndarray (K,), float64
        """
        cdef Plan plan
        cdef Job job
        cdef Py_ssize_t g_size, chunks = 1
        cdef ChunkResult results[CHUNKS]
        cdef cnp.ndarray g
        cdef char *memory = NULL
        cdef char *tiles
        cdef int threads
        cdef Worker last
        cdef Kernel kernel = self.kernel.session()
        self.cut()
        plan = self.plan
        plan.mode = mode
        bends = mode == MODE_PRODUCT or mode == MODE_DIAGONAL
        bind_kernel(&job, kernel, self.single, plan.K,
                    WANT_GRADIENT | WANT_HESSIAN if bends else WANT_LOSS | WANT_GRADIENT, "exact",
                    mode == MODE_PRODUCT)
        bind_targets(&job, kernel, self.y, self.weight)
        job.n = plan.n
        job.factor = self.factor
        plan.block = min(plan.rows, max(<Py_ssize_t>LEAST_BLOCK, job.rows_per_block))
        if whole is not None:
            plan.whole = cnp.PyArray_DATA(whole)
            plan.block = plan.rows
        job.rows_per_block = plan.block
        packed = self.packed(w)
        plan.w, plan.intercept = cnp.PyArray_DATA(packed[0]), cnp.PyArray_DATA(packed[1])
        if v is not None:
            direction = self.packed(v)
            plan.v, plan.v_intercept = cnp.PyArray_DATA(direction[0]), cnp.PyArray_DATA(direction[1])
        settle(&plan, &job, &last, NULL)
        plan.worker_bytes = aligned((last.scratch - <char *>NULL) + scratch_bytes(&job, plan.size))
        g_size = plan.panels * plan.width * (plan.d + 1)
        shared = plan.panels * plan.width * plan.d > SHARED_FROM
        if not shared:
            chunks = FEWER_CHUNKS if g_size > FEWER_FROM else CHUNKS
            chunks = min(chunks, (plan.n + plan.rows - 1) // plan.rows)
        threads = resolve_threads(self.n_threads, 1 << 30 if shared else self.most_threads(&plan, chunks))
        if kernel.python:
            threads = 1
        g = np.zeros((chunks, g_size))
        start(results, chunks)
        memory = <char *>malloc(threads * plan.worker_bytes + 64)
        if memory == NULL:
            raise MemoryError(f"no memory for tiles of {plan.rows} rows, {plan.K} scores and {plan.d} features")
        try:
            tiles = memory + (64 - <Py_ssize_t>memory % 64)
            if shared:
                by_tiles(&plan, &job, threads, tiles, <double *>cnp.PyArray_DATA(g), results)
            else:
                by_chunks(&plan, &job, threads, chunks, tiles, <double *>cnp.PyArray_DATA(g), g_size, results)
        finally:
            free(memory)
        return self.collected(kernel, &plan, g, results, chunks)

    cdef Py_ssize_t most_threads(self, const Plan *plan, Py_ssize_t chunks):
        """One per chunk; where nobody asked for a number, one for what takes less than 2 ms or so.  A team of threads
        can wait 10 ms for a core on which a BLAS thread, woken by the optimiser, still spins: with a 1/2 ms evaluation
        (a9a, 2 cores) a fit took 10 times as long with two threads as with one."""
        if self.n_threads is None and plan.n * (row_work(plan) + 64 * plan.K) < THREADS_FROM:
            return 1
        return chunks

    cdef tuple packed(self, tuple model):
        """Coefficients as panels and intercepts, in the working dtype."""
        cdef cnp.ndarray coef = np.ascontiguousarray(model[0], np.float32 if self.single else np.float64)
        cdef cnp.ndarray intercept = np.ascontiguousarray(model[1], coef.dtype)
        cdef Plan *plan = &self.plan
        cdef cnp.ndarray panels
        cdef Py_ssize_t p, many
        if plan.wide == 0:
            return coef, intercept
        panels = np.zeros((plan.panels, plan.d, plan.width), coef.dtype)
        for p in range(plan.panels):
            many = min(plan.width, plan.K - p * plan.width)
            if self.single:
                transpose(<float *>cnp.PyArray_DATA(coef) + p * plan.width * plan.d, plan.d,
                          <float *>cnp.PyArray_DATA(panels) + p * plan.d * plan.width, plan.width, many, plan.d)
            else:
                transpose(<double *>cnp.PyArray_DATA(coef) + p * plan.width * plan.d, plan.d,
                          <double *>cnp.PyArray_DATA(panels) + p * plan.d * plan.width, plan.width, many, plan.d)
        return panels, intercept

    cdef tuple collected(self, Kernel kernel, const Plan *plan, cnp.ndarray g, const ChunkResult *results,
                         Py_ssize_t chunks):
        """The chunks' sums added in order; raises what a chunk refused."""
        cdef double value = 0
        cdef int signs = 0
        cdef Py_ssize_t c, p, refused = -1, first = 0
        cdef cnp.ndarray total = g[0]
        cdef cnp.ndarray coef
        for c in range(chunks):
            value += results[c].total
            signs |= results[c].signs
            if results[c].refused >= 0 and refused < 0:
                refused, first = results[c].refused, c
            if c:
                total += g[c]
        raise_refused(kernel, self.y, refused, results[first].returned, results[first].asked, signs, plan.K)
        split = plan.panels * plan.width * plan.d
        intercept = total[split:][:plan.K]
        if plan.wide == 0:
            return value * self.factor, total[:split].reshape(1, plan.d), intercept
        coef = np.empty((plan.panels * plan.width, plan.d))
        for p in range(plan.panels):
            transpose(<double *>cnp.PyArray_DATA(total) + p * plan.d * plan.width, plan.width,
                      <double *>cnp.PyArray_DATA(coef) + p * plan.d * plan.width, plan.d, plan.d, plan.width)
        return value * self.factor, coef[:plan.K], intercept


cdef void start(ChunkResult *results, Py_ssize_t chunks) noexcept nogil:
    cdef Py_ssize_t c
    for c in range(chunks):
        results[c].total = 0
        results[c].refused = -1
        results[c].signs = 0
