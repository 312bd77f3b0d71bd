# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Everything around a kernel, written once: arguments, blocks, weights, reduction, threads, errors.

The samples are cut into blocks of BLOCK elements and the blocks into fixed chunks, whatever the number of threads: a
chunk is what a thread takes, its partial sum goes to a place of its own, and the partial sums are added in order.
That is why results are the same to the bit for any ``n_threads``.  Chunks are walked in slabs short enough to notice
Ctrl-C between them.

A block is read through ``load``: where an array already holds the working dtype contiguously the kernel reads it in
place, else the block is gathered and converted into a tile.  Kernels therefore see neither strides nor dtypes nor
weights, and no array is ever copied whole.
"""
import operator
import os

import numpy as np

cimport numpy as cnp
from cpython.exc cimport PyErr_CheckSignals
from cpython.pycapsule cimport PyCapsule_GetPointer
from cython.parallel cimport prange, threadid
from libc.limits cimport INT_MAX
from libc.math cimport INFINITY, NAN, fabs, ldexp
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from fastloss._kernels.abi cimport (
    ABI_VERSION,
    BLOCK,
    MAX_PARAMS,
    SCORE_LANES,
    LossKernels,
    ScoreKernels,
    Table,
    kernel_f32,
    kernel_f64,
    scores_f32,
    scores_f64,
)

cnp.import_array()

_DTYPES = {cnp.NPY_FLOAT32: np.dtype(np.float32), cnp.NPY_FLOAT64: np.dtype(np.float64)}
_REDUCTIONS = ("mean", "sum", "none")

cdef extern from *:
    """
    #ifdef _OPENMP
    #include <omp.h>
    #define FASTLOSS_OPENMP _OPENMP
    #else
    #define FASTLOSS_OPENMP 0
    static int omp_get_max_threads(void) { return 1; }
    static int omp_in_parallel(void) { return 0; }
    #endif
    #if (defined(__x86_64__) || defined(__i386__)) && (defined(__GNUC__) || defined(__clang__))
    #define FASTLOSS_SUPPORTS(name) (__builtin_cpu_supports(name) != 0)
    #else
    #define FASTLOSS_SUPPORTS(name) 0
    #endif
    #if defined(__SSE2__)
    #include <emmintrin.h>
    #include <stdint.h>
    #include <string.h>
    #define FASTLOSS_STREAMS 1
    /* Past the caches: an ordinary store reads the line it is about to overwrite, a third more traffic. */
    static void fastloss_stream(char *to, const char *from, Py_ssize_t bytes) {
        Py_ssize_t head = (Py_ssize_t)(-(uintptr_t)to & 15), k;
        if (head > bytes) head = bytes;
        memcpy(to, from, (size_t)head);
        for (k = head; k + 16 <= bytes; k += 16)
            _mm_stream_si128((__m128i *)(to + k), _mm_loadu_si128((const __m128i *)(from + k)));
        memcpy(to + k, from + k, (size_t)(bytes - k));
    }
    static void fastloss_stream_end(void) { _mm_sfence(); }
    #else
    #define FASTLOSS_STREAMS 0
    #define fastloss_stream(to, from, bytes) memcpy((to), (from), (size_t)(bytes))
    #define fastloss_stream_end() ((void)0)
    #endif
    static int fastloss_has_avx2(void) { return FASTLOSS_SUPPORTS("avx2") && FASTLOSS_SUPPORTS("fma"); }
    static int fastloss_has_avx512(void) {
        return fastloss_has_avx2() && FASTLOSS_SUPPORTS("avx512f") && FASTLOSS_SUPPORTS("avx512dq")
            && FASTLOSS_SUPPORTS("avx512vl") && FASTLOSS_SUPPORTS("avx512bw") && FASTLOSS_SUPPORTS("avx512cd");
    }
    #if defined(__clang__)
    #define FASTLOSS_COMPILER "clang " __clang_version__
    #elif defined(__GNUC__)
    #define FASTLOSS_COMPILER "gcc " __VERSION__
    #elif defined(_MSC_VER)
    #define FASTLOSS_COMPILER "MSVC"
    #else
    #define FASTLOSS_COMPILER "unknown"
    #endif
    """
    const int FASTLOSS_OPENMP
    const char *FASTLOSS_COMPILER
    int omp_get_max_threads() noexcept nogil
    int omp_in_parallel() noexcept nogil
    const bint FASTLOSS_STREAMS
    void fastloss_stream(char *to, const char *source, Py_ssize_t bytes) noexcept nogil
    void fastloss_stream_end() noexcept nogil
    bint fastloss_has_avx2() noexcept nogil
    bint fastloss_has_avx512() noexcept nogil

ctypedef long double longdouble

ctypedef fused source:
    float
    double
    int8_t
    int16_t
    int32_t
    int64_t
    uint8_t
    uint16_t
    uint32_t
    uint64_t
    longdouble

ABI = ABI_VERSION
LOSS = 1
GRADIENT = 2
HESSIAN = 4

cdef enum:
    WANT_LOSS = 1
    WANT_GRADIENT = 2
    WANT_HESSIAN = 4
    # 16 blocks are ~15 µs of the cheapest and ~150 µs of the dearest loss: enough to hide the cost of handing out a
    # chunk (0.1 µs), small enough that two threads share 32768 elements.
    BLOCKS_PER_CHUNK = 16
    CHUNK_ELEMENTS = BLOCKS_PER_CHUNK * BLOCK
    # 4 M elements: 3 ms of the cheapest loss on many cores, 40 ms of the dearest on one.
    CHUNKS_PER_SLAB = 256
    TILES = 5
    IGNORED = -1            # the label of a sample that does not count
    # Up to this many classes a tile is class-major: lanes are samples, and a maximum or sum over few classes needs no
    # folding.  With more, lanes are classes.  At K = 257 the first still takes 3/4 (float64) and 1/2 (float32) of the
    # other's time per score, but its tiles outgrow L2.
    FEW_CLASSES = 256
    # Outputs above this are written past the caches: the caller finds them in memory, where most of them would have
    # ended anyway, and the pass saves reading the lines it overwrites.
    STREAM_BYTES = 1 << 25


# ----------------------------------------------------------------------------------------- instruction sets, threads
cdef const Table *_active = NULL
cdef int _cpu_limit = 0
cdef bint _forked = False


cdef const Table *active_table() noexcept nogil:
    return _active


def set_table(capsule):
    """Make the functions of an instruction-set module the ones in use."""
    global _active
    cdef const Table *table = <const Table *>PyCapsule_GetPointer(capsule, "fastloss._kernels.Table")
    if table.abi_version != ABI_VERSION:
        raise ImportError(f"kernels have ABI version {table.abi_version}, expected {ABI_VERSION}: rebuild fastloss")
    _active = table


def cpu_features():
    """Names of the instruction sets beyond the baseline that this CPU (and its operating system) runs."""
    return tuple(["avx2"] * fastloss_has_avx2() + ["avx512"] * fastloss_has_avx512())


def build_info():
    """Compiler and OpenMP version (0: built without) of this module."""
    return {"compiler": FASTLOSS_COMPILER.decode(), "openmp": FASTLOSS_OPENMP}


def _after_fork():
    # GNU OpenMP's threads do not survive a fork, and a child that starts new ones hangs.
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


cdef int _usable_threads() except -1:
    """What n_threads=None may use: OpenMP's own limit (OMP_NUM_THREADS, threadpoolctl), else the CPUs we may run on."""
    global _cpu_limit
    if omp_in_parallel():
        return 1
    if _cpu_limit == 0:
        if "OMP_NUM_THREADS" in os.environ:
            _cpu_limit = 1 << 30
        else:
            from joblib import cpu_count        # knows affinity and cgroup limits

            _cpu_limit = max(1, cpu_count())
    return max(1, min(omp_get_max_threads(), _cpu_limit))


cdef int resolve_threads(object n_threads, Py_ssize_t work) except -1:
    """Threads for `work` units that can be handed out; raises for what is not a positive integer."""
    cdef Py_ssize_t wanted
    if n_threads is not None:
        if isinstance(n_threads, (bool, np.bool_)) or not hasattr(n_threads, "__index__"):
            raise TypeError(f"n_threads must be a positive integer or None, got {n_threads!r}")
        if n_threads < 1:
            raise ValueError(f"n_threads must be >= 1 or None, got {n_threads!r}")
        if n_threads > INT_MAX:
            raise ValueError(f"n_threads must be <= {INT_MAX}, got {n_threads!r}")
        wanted = n_threads
    if work < 2 or _forked:
        return 1
    if n_threads is None:
        wanted = _usable_threads()
    return <int>max(1, min(wanted, work))


def usable_threads():
    """Number of threads n_threads=None uses on large arrays."""
    return resolve_threads(None, 1 << 30)


# ----------------------------------------------------------------------------------------- a loss's compiled half
cdef class Kernel:
    """The compiled half of a Loss.

    Parameters
    ----------
    name : str
        Under which the tables list its kernels.
    target : str
        Domain of y, for error messages.
    binary : bool
        Whether y are class labels.
    params32, params64 : list of float
        Parameters rounded to float32 and float64; NaN marks one that the dtype cannot hold.
    values : dict of str to float
        The parameters as given, by name.
    """

    def __init__(self, str name, str target, bint binary, list params32, list params64, dict values):
        cdef Py_ssize_t k
        if len(values) > MAX_PARAMS:
            raise ValueError(f"{name}: at most {MAX_PARAMS} parameters, got {len(values)}")
        self.name = name
        self.target = target
        self.binary = binary
        self.names = list(values)
        self.values = list(values.values())
        self.data = NULL
        self.scores = False
        self.outputs = 0
        self.lost32 = -1
        self.lost64 = -1
        for k in range(len(values)):
            self.params32[k] = params32[k]
            self.params64[k] = params64[k]
            if self.params32[k] != self.params32[k]:
                self.lost32 = k
            if self.params64[k] != self.params64[k]:
                self.lost64 = k

    def set_scores(self, class_weight, ignore_index, bint soft_targets, bint signed_weights):
        """Make this the compiled half of a loss over K scores.

        Parameters
        ----------
        class_weight : tuple of float or None
            One factor of the sample weight per class.
        ignore_index : int or None
            The label whose samples have weight 0.
        soft_targets : bool
            Whether y may be (n, K) targets.
        signed_weights : bool
            Whether sample weights may be negative.
        """
        self.scores = True
        self.class_weight = None if class_weight is None else np.array(class_weight, np.float64)
        self.ignore_index = ignore_index
        self.soft_targets = soft_targets
        self.signed_weights = signed_weights

    cdef const ScoreKernels *score_kernels(self):
        cdef bytes name
        cdef Py_ssize_t k
        if self.table != _active:
            name = self.name.encode()
            for k in range(_active.n_scores):
                if <bytes>_active.scores[k].name == name:
                    self.table = _active
                    self.found_scores = &_active.scores[k]
                    break
            else:
                raise RuntimeError(f"no kernel named {self.name!r} was built: rebuild fastloss")
        return self.found_scores

    cdef const LossKernels *kernels(self):
        cdef bytes name
        cdef Py_ssize_t k
        if self.table != _active:
            name = self.name.encode()
            for k in range(_active.n_losses):
                if <bytes>_active.losses[k].name == name:
                    self.table = _active
                    self.found = &_active.losses[k]
                    break
            else:
                raise RuntimeError(f"no kernel named {self.name!r} was built: rebuild fastloss")
        return self.found

    cdef const double *params(self, bint single) except NULL:
        cdef int lost = self.lost32 if single else self.lost64
        if lost >= 0:
            dtype = "float32" if single else "float64"
            raise ValueError(f"{self.name}: {self.names[lost]} = {self.values[lost]!r} is out of the range of {dtype}")
        return &self.params32[0] if single else &self.params64[0]

    cdef Kernel refusing(self, double y, Py_ssize_t column):
        return self

    cdef Kernel session(self):
        return self

    cdef Py_ssize_t block_rows(self, Py_ssize_t width) noexcept:
        return max(<Py_ssize_t>1, BLOCK // width)

    cdef bint failed(self) noexcept:
        return False

    cdef str refusal(self, Py_ssize_t returned, Py_ssize_t asked):
        return f"{self.name} needs {self.target}"

    cdef int raise_failure(self) except -1:
        return 0


include "arrays.pxi"
include "blocks.pxi"
include "callback.pxi"
include "composite.pxi"
include "envelope.pxi"


# ----------------------------------------------------------------------------------------- the walk
cdef struct Outcome:
    double total
    Py_ssize_t refused
    bint bad_weight             # it is the weight that was refused
    Py_ssize_t returned         # see ChunkResult
    Py_ssize_t asked
    int signs


cdef Py_ssize_t many_scores_rows(Py_ssize_t K) noexcept nogil:
    """Samples of a chunk whose lanes are classes: up to 16, so that a column-major array is read in whole cache lines,
    but not more than 2^20 scores, so that two threads share a handful of very long samples."""
    return max(<Py_ssize_t>1, min(<Py_ssize_t>16, (1 << 20) // K))


cdef Py_ssize_t chunk_rows(const Job *job) noexcept nogil:
    """Samples of a chunk: whole blocks, about CHUNK_ELEMENTS elements."""
    cdef Py_ssize_t block = job.rows_per_block * job.width
    if job.scores and not job.lanes:
        return max(job.rows_per_block, many_scores_rows(job.width))
    return job.rows_per_block * max(<Py_ssize_t>1, min(<Py_ssize_t>BLOCKS_PER_CHUNK, CHUNK_ELEMENTS // block))


cdef int walk(const Job *job, bint single, bint only_weights, int n_threads, Outcome *outcome) except -1:
    """All chunks of the samples, slab by slab; partial sums are added in the chunks' order."""
    cdef Py_ssize_t step = chunk_rows(job), chunks = (job.n + step - 1) // step, start = 0, stop, c
    cdef Py_ssize_t slab = max(<Py_ssize_t>16, min(<Py_ssize_t>CHUNKS_PER_SLAB,
                                                   CHUNKS_PER_SLAB * CHUNK_ELEMENTS // (step * job.width)))
    cdef Py_ssize_t bytes_each = 0
    cdef char *memory = NULL
    cdef char *columns = NULL
    cdef ChunkResult results[CHUNKS_PER_SLAB]
    outcome.total = 0
    outcome.refused = -1
    outcome.bad_weight = False
    outcome.signs = 0
    if job.scores or job.rows_per_block * job.width > BLOCK:
        bytes_each = (scratch_bytes(job, 4 if single else 8) + 63) & ~<Py_ssize_t>63
        memory = <char *>malloc(n_threads * bytes_each + 64)
        if memory == NULL:
            raise MemoryError(f"no memory for tiles of {job.width} outputs")
    try:
        if job.column_totals != NULL and not only_weights:
            columns = column_places(job, results)
        while start < chunks and outcome.refused < 0:
            stop = min(start + slab, chunks)
            with nogil:
                if columns != NULL:
                    memset(columns, 0, CHUNKS_PER_SLAB * 2 * job.width * sizeof(double))
                run_slab(job, single, only_weights, n_threads, step, start, stop, memory, bytes_each, results)
                for c in range(stop - start):
                    outcome.total += results[c].total
                    if columns != NULL:
                        add_up(results[c].columns, job.column_totals, 2 * job.width)
                    outcome.signs |= results[c].signs
                    if results[c].refused >= 0 and outcome.refused < 0:
                        outcome.refused = results[c].refused
                        outcome.bad_weight = results[c].bad_weight
                        outcome.returned, outcome.asked = results[c].returned, results[c].asked
            start = stop
            if start < chunks:
                PyErr_CheckSignals()
    finally:
        free(memory)
        free(columns)
    return 0


cdef char *column_places(const Job *job, ChunkResult *results) except NULL:
    """Memory for the column sums of a slab's chunks."""
    cdef double *memory = <double *>malloc(CHUNKS_PER_SLAB * 2 * job.width * sizeof(double))
    cdef Py_ssize_t c
    if memory == NULL:
        raise MemoryError(f"no memory for sums over {job.width} columns")
    for c in range(CHUNKS_PER_SLAB):
        results[c].columns = memory + 2 * c * job.width
    return <char *>memory


cdef void add_up(const double *sums, double *totals, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(n):
        totals[k] += sums[k]


cdef void run_slab(const Job *job, bint single, bint only_weights, int n_threads, Py_ssize_t step, Py_ssize_t start,
                   Py_ssize_t stop, char *memory, Py_ssize_t bytes_each, ChunkResult *results) noexcept nogil:
    cdef Py_ssize_t c
    cdef char *aligned = NULL if memory == NULL else memory + (64 - <Py_ssize_t>memory % 64) % 64
    if n_threads == 1:      # no OpenMP region at all: 1 µs saved, and safe after a fork
        for c in range(start, stop):
            run_one(job, single, only_weights, c * step, min((c + 1) * step, job.n), aligned, &results[c - start])
    else:
        for c in prange(start, stop, num_threads=n_threads, schedule="dynamic"):
            run_one(job, single, only_weights, c * step, min((c + 1) * step, job.n),
                    NULL if aligned == NULL else aligned + threadid() * bytes_each, &results[c - start])


cdef int threads_for(const Job *job, Kernel kernel, object n_threads) except -1:
    """Threads that share the chunks; Python functions are called by the calling thread only."""
    return resolve_threads(n_threads, 1 if kernel.python else job.n // chunk_rows(job))


# ----------------------------------------------------------------------------------------- evaluate
cdef double total_weight(Job *job, bint single, int n_threads, Kernel kernel, object y,
                         object sample_weight) except? -1:
    """Sum of the weights, class weights and ignored labels included; raises for what is no weight (or label)."""
    cdef Outcome outcome
    if not is_weighted(job) and not (job.look and job.scores):
        return <double>job.n
    walk(job, single, True, n_threads, &outcome)
    if outcome.refused >= 0 and outcome.bad_weight:
        row = outcome.refused // job.width
        wanted = "finite" if job.signed_weights else "finite and >= 0"
        raise ValueError(f"sample_weight[{row}] = {sample_weight[row].item()!r}: weights must be {wanted}")
    raise_outcome(kernel, y, &outcome, job.width)
    return outcome.total


cdef double check_data(Job *job, bint single, Kernel kernel, cnp.ndarray y, cnp.ndarray weight,
                       object n_threads) except? -1:
    """Raises for the first weight, label or target that is none; returns the sum of the weights.  `job` is bound to
    them and wants losses."""
    cdef double zero = 0
    cdef Outcome outcome
    cdef int threads = threads_for(job, kernel, n_threads)
    job.look = True
    weights = total_weight(job, single, threads, kernel, y, weight)
    if not kernel.scores:       # a target's domain is its kernel's business: the losses at raw = 0, without their sum
        job.raw.data, job.raw.type_number, job.raw.aligned = <const char *>&zero, cnp.NPY_FLOAT64, True
        job.factor = 1
        walk(job, single, False, threads, &outcome)
        raise_outcome(kernel, y, &outcome, job.width)
    return weights


cdef int raise_outcome(Kernel kernel, cnp.ndarray y, const Outcome *outcome, Py_ssize_t width) except -1:
    return raise_refused(kernel, y, outcome.refused, outcome.returned, outcome.asked, outcome.signs, width)


cdef int raise_refused(Kernel kernel, cnp.ndarray y, Py_ssize_t refused, Py_ssize_t returned, Py_ssize_t asked,
                       int signs, Py_ssize_t width) except -1:
    """The error of a pass that went wrong, if it did."""
    cdef list place
    if refused >= 0:
        place = [refused // width]
        if y.ndim == 2:
            place.append(refused % width)
        where = ", ".join([str(index) for index in place])
        value, reason = y[tuple(place)].item(), ""
        if asked:
            reason = kernel.refusing(value, refused % width).refusal(returned, asked)
        else:
            wanted = "targets that are finite and >= 0" if y.ndim == 2 else f"labels in 0 ... {width - 1}"
            if y.ndim == 1 and kernel.ignore_index is not None:
                wanted += f" (or {kernel.ignore_index}, ignored)"
            reason = f"{kernel.name} needs {wanted}"
        raise ValueError(f"y_true[{where}] = {value!r}: {reason}")
    if signs == 3:
        raise ValueError(f"y_true mixes label -1 with labels in [0, 1): {kernel.name} needs {kernel.target}")
    return 0


def evaluate(Kernel kernel not None, int want, y_true, raw_prediction, sample_weight, reduction, loss_out, gradient_out,
             hessian_out, n_threads, hessian="exact", column_totals=None):
    """One fused pass: what `want` asks for (LOSS, GRADIENT, HESSIAN added), in that order.

    Arguments are those of the methods of Loss; `hessian` is "exact", "fisher" or a constant.  `column_totals`, zeros
    (2, T) of float64, receives for every output the sums of weight * loss and of the weights of targets that are no
    NaN, and is scaled as the loss is (only for reductions that add up).
    """
    cdef double[:, ::1] columns
    cdef cnp.ndarray y = _real_array(y_true, "y_true")
    cdef cnp.ndarray raw = _real_array(raw_prediction, "raw_prediction")
    cdef cnp.ndarray weight = None if sample_weight is None else _real_array(sample_weight, "sample_weight")
    cdef cnp.ndarray loss_array = None
    cdef cnp.ndarray gradient_array = None
    cdef cnp.ndarray hessian_array = None
    cdef bint single = cnp.PyArray_TYPE(raw) == cnp.NPY_FLOAT32
    cdef int type_number = cnp.NPY_FLOAT32 if single else cnp.NPY_FLOAT64
    cdef bint per_sample = _is_reduction(reduction, "none"), mean = _is_reduction(reduction, "mean")
    cdef Job job
    cdef Outcome outcome
    cdef int threads
    cdef double weights = 0

    kernel = kernel.session()
    check_shapes(kernel, y, raw, weight)
    others = [("y_true", y), ("raw_prediction", raw)]
    if weight is not None:
        others.append(("sample_weight", weight))
    if loss_out is not None:
        if not per_sample:
            raise ValueError(f"loss_out is for reduction='none'; with {reduction!r} the loss is a float")
        loss_array = _check_output(loss_out, "loss_out", _layout(raw, 1, type_number), others)
        others.append(("loss_out", loss_array))
    elif want & WANT_LOSS and per_sample:
        loss_array = np.empty(raw.shape[0], _DTYPES[type_number])
    if want & WANT_GRADIENT:
        gradient_array = _result(gradient_out, "gradient_out", raw, type_number, others)
    if want & WANT_HESSIAN:
        others.append(("gradient_out", gradient_array))
        hessian_array = _result(hessian_out, "hessian_out", raw, type_number, others)

    bind_kernel(&job, kernel, single, raw.shape[1] if raw.ndim == 2 else 1, want, hessian, False)
    bind_targets(&job, kernel, y, weight)
    _bind_outputs(&job, raw, loss_array, gradient_array, hessian_array)
    threads = threads_for(&job, kernel, n_threads)
    if weight is not None or mean:
        weights = total_weight(&job, single, threads, kernel, y, weight)
    if mean and not weights > 0:
        raise ValueError(f"reduction='mean' is not defined: {no_mean(&job, weights)}; use 'sum' or 'none'")
    job.factor = 1.0 / weights if mean else 1.0
    if column_totals is not None:
        columns = column_totals
        job.column_totals = &columns[0, 0]
    walk(&job, single, False, threads, &outcome)
    raise_outcome(kernel, y, &outcome, job.width)

    if column_totals is not None and mean:
        column_totals /= weights
    value = None
    if want & WANT_LOSS:
        value = loss_array if per_sample else (outcome.total / weights if mean else outcome.total)
    if want == WANT_LOSS:
        return value
    if want == WANT_GRADIENT:
        return gradient_array
    return (gradient_array, hessian_array) if want & WANT_HESSIAN else (value, gradient_array)


cdef str no_mean(const Job *job, double weights):
    """Why there is no mean."""
    if job.n == 0:
        return "there are no samples"
    if job.signed_weights and weights < 0:
        return f"the sum of the weights is {weights!r}, not > 0"
    return "all weights are 0" if not job.signed_weights else "the sum of the weights is 0"


cdef bint _is_reduction(object reduction, str name) except -1:
    if not isinstance(reduction, str) or reduction not in _REDUCTIONS:
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
    return reduction == name


cdef int bind_kernel(Job *job, Kernel kernel, bint single, Py_ssize_t width, int want, object hessian,
                     bint product) except -1:
    """What the job computes, for samples of `width` outputs or scores; `product`: hessian times a direction."""
    cdef const LossKernels *found
    memset(job, 0, sizeof(Job))
    job.want = want
    job.width = width
    job.binary = kernel.binary
    job.params = kernel.params(single)
    job.data = kernel.data
    job.hessian_constant = -1
    job.scores = kernel.scores
    if kernel.scores:
        _bind_scores(job, kernel, single, product)
    else:
        found = kernel.kernels()
        job.kernel = <void *>found.f32 if single else <void *>found.f64
        job.rows_per_block = kernel.block_rows(job.width)
        if want & WANT_HESSIAN and hessian == "fisher":
            job.fisher = <void *>found.fisher_f32 if single else <void *>found.fisher_f64
    if want & WANT_HESSIAN and hessian != "exact" and hessian != "fisher":
        job.hessian_constant = hessian
    return 0


cdef int _bind_scores(Job *job, Kernel kernel, bint single, bint product) except -1:
    cdef const ScoreKernels *scores = kernel.score_kernels()
    cdef cnp.ndarray class_weight = kernel.class_weight
    job.lanes = job.width <= FEW_CLASSES and scores.lanes_f64 != NULL
    if product:
        job.kernel = <void *>scores.rows_product_f32 if single else <void *>scores.rows_product_f64
        if job.lanes:
            job.kernel = <void *>scores.lanes_product_f32 if single else <void *>scores.lanes_product_f64
    elif job.lanes:
        job.kernel = <void *>scores.lanes_f32 if single else <void *>scores.lanes_f64
    else:
        job.kernel = <void *>scores.rows_f32 if single else <void *>scores.rows_f64
    if scores.lanes_f64 == NULL:
        job.rows_per_block = kernel.block_rows(job.width)
    elif job.lanes:   # 32 to 256 samples, in eights: tiles of about 4096 scores
        job.rows_per_block = max(32, min(<Py_ssize_t>SCORE_LANES, 4096 // job.width // 8 * 8))
    else:
        job.rows_per_block = max(1, min(many_scores_rows(job.width), CHUNK_ELEMENTS // job.width))
    if class_weight is not None:
        if class_weight.shape[0] != job.width:
            raise ValueError(
                f"{kernel.name}: class_weight has {class_weight.shape[0]} entries, but there are {job.width} classes"
            )
        job.class_weight = <const double *>cnp.PyArray_DATA(class_weight)
    job.signed_weights = kernel.signed_weights
    if kernel.ignore_index is not None:
        job.has_ignored = True
        job.ignored = kernel.ignore_index
    return 0


cdef int bind_targets(Job *job, Kernel kernel, cnp.ndarray y, cnp.ndarray weight) except -1:
    """What the job reads beside the raw predictions; None becomes a view without data."""
    job.soft = kernel.scores and y is not None and y.ndim == 2
    if job.soft and job.has_ignored:
        raise ValueError(f"{kernel.name}: ignore_index = {kernel.ignore_index} is for labels, y_true holds targets")
    job.y = _input(y)
    job.weight = _input(weight)
    return 0


cdef int _bind_outputs(Job *job, cnp.ndarray raw, cnp.ndarray loss, cnp.ndarray gradient,
                       cnp.ndarray hessian) except -1:
    job.n = raw.shape[0]
    job.stream = FASTLOSS_STREAMS and job.n * job.width * raw.itemsize > STREAM_BYTES
    job.raw = _input(raw)
    if job.scores and not job.lanes and job.raw.row == raw.itemsize:
        job.rows_per_block = max(job.rows_per_block, many_scores_rows(job.width))
    job.loss = _output(loss)
    job.gradient = _output(gradient)
    job.hessian = _output(hessian)
    return 0


cdef int check_shapes(Kernel kernel, cnp.ndarray y, cnp.ndarray raw, cnp.ndarray weight) except -1:
    if kernel.scores:
        _check_score_shapes(kernel, y, raw)
    else:
        if raw.ndim != 1 and raw.ndim != 2:
            raise ValueError(f"raw_prediction must have shape (n,) or (n, T), got {_shape(raw)}")
        if raw.ndim == 2 and raw.shape[1] == 0:
            raise ValueError(f"raw_prediction has no outputs: shape {_shape(raw)}")
        if y.ndim != raw.ndim or y.shape[0] != raw.shape[0] or (raw.ndim == 2 and y.shape[1] != raw.shape[1]):
            raise ValueError(
                f"y_true has shape {_shape(y)} and raw_prediction {_shape(raw)}; they must be equal (nothing is "
                "broadcast)"
            )
        if kernel.outputs > 0 and (raw.ndim != 2 or raw.shape[1] != kernel.outputs):
            raise ValueError(
                f"raw_prediction has shape {_shape(raw)}, expected (n, {kernel.outputs}): {kernel.name} has a loss for "
                f"each of {kernel.outputs} columns"
            )
    if weight is not None and (weight.ndim != 1 or weight.shape[0] != raw.shape[0]):
        raise ValueError(f"sample_weight has shape {_shape(weight)}, expected ({raw.shape[0]},)")
    return 0


cdef int _check_score_shapes(Kernel kernel, cnp.ndarray y, cnp.ndarray raw) except -1:
    if raw.ndim != 2 or raw.shape[1] == 0:
        raise ValueError(
            f"raw_prediction must have shape (n, K) with one of K >= 1 scores for every class, got {_shape(raw)}"
        )
    if y.ndim == 1 and y.shape[0] == raw.shape[0]:
        return 0
    if not kernel.soft_targets:
        raise ValueError(
            f"y_true has shape {_shape(y)}: {kernel.name} needs labels of shape ({raw.shape[0]},) for raw_prediction "
            f"of shape {_shape(raw)}"
        )
    if y.ndim != 2 or y.shape[0] != raw.shape[0] or y.shape[1] != raw.shape[1]:
        raise ValueError(
            f"y_true has shape {_shape(y)} and raw_prediction {_shape(raw)}; {kernel.name} needs labels of shape "
            f"({raw.shape[0]},) or targets of shape {_shape(raw)}"
        )
    return 0


cdef cnp.ndarray _result(object out, str name, cnp.ndarray like, int type_number, list others):
    """The caller's buffer, or a new array in `like`'s memory order."""
    cdef bint fortran = cnp.PyArray_IS_F_CONTIGUOUS(like) and not cnp.PyArray_IS_C_CONTIGUOUS(like)
    if out is not None:
        return _check_output(out, name, _layout(like, like.ndim, type_number), others)
    return cnp.PyArray_EMPTY(like.ndim, like.shape, type_number, fortran)


# ----------------------------------------------------------------------------------------- functions of scores
cdef Kernel _softmax_kernel(bint logarithm):
    cdef Kernel kernel = Kernel("softmax", "", False, [logarithm], [logarithm], {"logarithm": logarithm})
    kernel.set_scores(None, None, False, False)
    return kernel


cdef tuple _SOFTMAX = (_softmax_kernel(False), _softmax_kernel(True))


def softmax(raw_prediction, bint logarithm, out=None, lse_out=None, n_threads=None):
    """Softmax of the rows of an (n, K) array, or its logarithm; with lse_out (n,) also their logsumexp."""
    cdef cnp.ndarray raw = _real_array(raw_prediction, "raw")
    cdef bint single = cnp.PyArray_TYPE(raw) == cnp.NPY_FLOAT32
    cdef int type_number = cnp.NPY_FLOAT32 if single else cnp.NPY_FLOAT64
    cdef cnp.ndarray result = None
    cdef cnp.ndarray lse = None
    cdef Kernel kernel = _SOFTMAX[logarithm]
    cdef Job job
    cdef Outcome outcome
    if lse_out is not None:
        lse = _check_output(lse_out, "out", _layout(raw, 1, type_number), [("raw", raw)])
    else:
        result = _result(out, "out", raw, type_number, [("raw", raw)])
    bind_kernel(&job, kernel, single, raw.shape[1], WANT_GRADIENT if lse is None else WANT_LOSS, "exact", False)
    bind_targets(&job, kernel, None, None)
    _bind_outputs(&job, raw, lse, result, None)
    job.factor = 1.0
    walk(&job, single, False, resolve_threads(n_threads, job.n // chunk_rows(&job)), &outcome)
    return result if lse is None else lse


# ----------------------------------------------------------------------------------------- bandwidth
def _triad(double[::1] a, const double[::1] b, const double[::1] c, double s, int n_threads=1):
    """a = b + s*c, the STREAM triad: the yardstick of the benchmarks (3 streams of 8 bytes per element)."""
    cdef Py_ssize_t n = a.shape[0], i
    if b.shape[0] != n or c.shape[0] != n:
        raise ValueError(f"a, b and c must have equal lengths, got {n}, {b.shape[0]} and {c.shape[0]}")
    for i in prange(n, nogil=True, num_threads=n_threads, schedule="static"):
        a[i] = b[i] + s * c[i]
