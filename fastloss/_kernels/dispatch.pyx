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
import os

import numpy as np

cimport numpy as cnp
from cpython.exc cimport PyErr_CheckSignals
from cpython.pycapsule cimport PyCapsule_GetPointer
from cython.parallel cimport prange
from libc.limits cimport INT_MAX
from libc.math cimport INFINITY, NAN, ldexp
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from fastloss._kernels.abi cimport ABI_VERSION, BLOCK, MAX_PARAMS, LossKernels, Table, kernel_f32, kernel_f64

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

ctypedef fused real:
    float
    double

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
    # 4 M elements: 3 ms of the cheapest loss on many cores, 40 ms of the dearest on one.
    CHUNKS_PER_SLAB = 256
    TILES = 5
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
        self.lost32 = -1
        self.lost64 = -1
        for k in range(len(values)):
            self.params32[k] = params32[k]
            self.params64[k] = params64[k]
            if self.params32[k] != self.params32[k]:
                self.lost32 = k
            if self.params64[k] != self.params64[k]:
                self.lost64 = k

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


# ----------------------------------------------------------------------------------------- arrays
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

cdef struct Job:
    Input y
    Input raw
    Input weight
    Output loss
    Output gradient
    Output hessian
    Py_ssize_t n                # samples
    Py_ssize_t width            # outputs of a sample
    int want
    bint binary
    double factor               # of the gradient and hessian
    bint stream                 # write the gradient past the caches
    void *kernel
    void *fisher                # NULL: the hessian is the kernel's own, or constant
    double hessian_constant     # used when >= 0
    const double *params
    void *data
    Py_ssize_t rows_per_block

cdef struct ChunkResult:
    double total                # of weight * loss
    Py_ssize_t refused          # first refused element, or -1
    int signs                   # see row_label_signs
    bint no_memory


def as_floating(values, str name):
    """The array as float32 or float64 (other real types become float64)."""
    cdef cnp.ndarray array = _real_array(values, name)
    return array if cnp.PyArray_TYPE(array) in (cnp.NPY_FLOAT32, cnp.NPY_FLOAT64) else array.astype(np.float64)


cdef cnp.ndarray _real_array(object values, str name):
    """The values as a numpy array of real numbers; arrays are taken as they are."""
    cdef cnp.ndarray array
    if type(values) is np.ndarray:
        array = values
    else:
        if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
            raise ValueError(f"{name} has masked entries; fill them, or give those samples weight 0")
        try:
            array = np.asarray(values)
        except (ValueError, TypeError) as error:
            raise type(error)(f"{name} cannot be read as an array: {error}") from error
    if not (cnp.PyArray_ISINTEGER(array) or cnp.PyArray_ISFLOAT(array) or cnp.PyArray_ISBOOL(array)):
        raise TypeError(f"{name} must hold real numbers, got dtype {array.dtype}")
    return array


cdef Input _input(cnp.ndarray array):
    cdef Input view
    view.data = NULL
    if array is None:
        return view
    view.data = <const char *>cnp.PyArray_DATA(array)
    view.row = array.strides[0]
    view.column = array.strides[1] if array.ndim == 2 else 0
    view.type_number = cnp.PyArray_TYPE(array)
    view.swapped = 0 if cnp.PyArray_ISNOTSWAPPED(array) else array.itemsize
    view.aligned = cnp.PyArray_ISALIGNED(array)
    return view


cdef Output _output(cnp.ndarray array):
    cdef Output view
    view.data = NULL
    if array is None:
        return view
    view.data = <char *>cnp.PyArray_DATA(array)
    view.row = array.strides[0]
    view.column = array.strides[1] if array.ndim == 2 else 0
    return view


cdef tuple _shape(cnp.ndarray array):
    return tuple([array.shape[k] for k in range(array.ndim)])


cdef void _extent(cnp.ndarray array, Py_ssize_t *low, Py_ssize_t *high):
    """First byte and one past the last."""
    cdef int k
    low[0] = <Py_ssize_t>cnp.PyArray_DATA(array)
    high[0] = low[0] + cnp.PyArray_ITEMSIZE(array)
    for k in range(array.ndim):
        if array.shape[k] == 0:
            high[0] = low[0]
            return
        if array.strides[k] < 0:
            low[0] += array.strides[k] * (array.shape[k] - 1)
        else:
            high[0] += array.strides[k] * (array.shape[k] - 1)


cdef bint _overlap(cnp.ndarray a, cnp.ndarray b) except -1:
    cdef Py_ssize_t low_a, high_a, low_b, high_b
    _extent(a, &low_a, &high_a)
    _extent(b, &low_b, &high_b)
    if high_a <= low_b or high_b <= low_a:
        return False
    try:
        return np.shares_memory(a, b, max_work=100000)
    except np.exceptions.TooHardError:
        return True


cdef struct Layout:             # what an output must be
    int type_number
    int ndim
    Py_ssize_t shape[2]


cdef Layout _layout(cnp.ndarray like, int ndim, int type_number):
    cdef Layout layout
    layout.type_number = type_number
    layout.ndim = ndim
    layout.shape[0] = like.shape[0]
    layout.shape[1] = like.shape[1] if like.ndim == 2 else 0
    return layout


cdef cnp.ndarray _check_output(object out, str name, Layout wanted, others):
    """The caller's output buffer, or an error that says what is wrong with it."""
    cdef cnp.ndarray array
    cdef bint same
    cdef int k
    if not isinstance(out, np.ndarray):
        raise TypeError(f"{name} must be a numpy array, got {type(out).__name__}")
    array = out
    same = array.ndim == wanted.ndim
    for k in range(wanted.ndim):
        same = same and array.shape[k] == wanted.shape[k]
    if not same:
        expected = tuple([wanted.shape[k] for k in range(wanted.ndim)])
        raise ValueError(f"{name} has shape {_shape(array)}, expected {expected}")
    if cnp.PyArray_TYPE(array) != wanted.type_number or not cnp.PyArray_ISNOTSWAPPED(array):
        raise TypeError(f"{name} has dtype {array.dtype}, expected {_DTYPES[wanted.type_number]}")
    if not cnp.PyArray_ISWRITEABLE(array):
        raise ValueError(f"{name} is read-only")
    if not cnp.PyArray_ISALIGNED(array):
        raise ValueError(f"{name} is not aligned to its dtype")
    for k in range(array.ndim):
        if array.strides[k] == 0 and array.shape[k] > 1:
            raise ValueError(f"{name} has several entries at one address (stride 0)")
    for other_name, other in others:
        if _overlap(array, other):
            raise ValueError(f"{name} shares memory with {other_name}")
    return array


# ----------------------------------------------------------------------------------------- tiles
cdef void convert(const source *values, Py_ssize_t step, real *tile, Py_ssize_t tile_step, Py_ssize_t n) noexcept nogil:
    """tile = values, `step` bytes apart, aligned or not."""
    cdef const char *at = <const char *>values
    cdef source value
    cdef Py_ssize_t i
    for i in range(n):
        memcpy(&value, at + i * step, sizeof(source))
        tile[i * tile_step] = <real>value


cdef void convert_half(const char *at, Py_ssize_t step, real *tile, Py_ssize_t tile_step, Py_ssize_t n) noexcept nogil:
    """`convert` for float16: sign, 5 bits of exponent, 10 of fraction."""
    cdef uint16_t bits
    cdef int exponent, fraction
    cdef double value
    cdef Py_ssize_t i
    for i in range(n):
        memcpy(&bits, at + i * step, 2)
        exponent = (bits >> 10) & 31
        fraction = bits & 1023
        if exponent == 31:
            value = NAN if fraction else INFINITY
        elif exponent == 0:
            value = ldexp(fraction, -24)
        else:
            value = ldexp(1024 + fraction, exponent - 25)
        tile[i * tile_step] = <real>(-value if bits >> 15 else value)


cdef void gather_swapped(const char *at, int type_number, int size, Py_ssize_t step, real *tile, Py_ssize_t tile_step,
                         Py_ssize_t n) noexcept nogil:
    """`gather` for bytes in the other order, one element at a time."""
    cdef char element[16]
    cdef Py_ssize_t i
    cdef int k
    for i in range(n):
        for k in range(size):
            element[k] = at[i * step + size - 1 - k]
        gather(element, type_number, 0, 0, tile + i * tile_step, 1, 1)


cdef void gather(const char *at, int type_number, int swapped, Py_ssize_t step, real *tile, Py_ssize_t tile_step,
                 Py_ssize_t n) noexcept nogil:
    """`convert` by numpy's type number.  (C's long and long long may both have 64 bits, hence the sizes.)"""
    if swapped > 1:
        gather_swapped(at, type_number, swapped, step, tile, tile_step, n)
    elif type_number == cnp.NPY_FLOAT64:
        convert(<const double *>at, step, tile, tile_step, n)
    elif type_number == cnp.NPY_FLOAT32:
        convert(<const float *>at, step, tile, tile_step, n)
    elif type_number == cnp.NPY_FLOAT16:
        convert_half(at, step, tile, tile_step, n)
    elif type_number == cnp.NPY_LONGDOUBLE:
        convert(<const longdouble *>at, step, tile, tile_step, n)
    elif type_number == cnp.NPY_BOOL or type_number == cnp.NPY_UINT8:
        convert(<const uint8_t *>at, step, tile, tile_step, n)
    elif type_number == cnp.NPY_INT8:
        convert(<const int8_t *>at, step, tile, tile_step, n)
    elif type_number == cnp.NPY_INT16:
        convert(<const int16_t *>at, step, tile, tile_step, n)
    elif type_number == cnp.NPY_UINT16:
        convert(<const uint16_t *>at, step, tile, tile_step, n)
    elif type_number == cnp.NPY_INT or (type_number == cnp.NPY_LONG and sizeof(long) == 4):
        convert(<const int32_t *>at, step, tile, tile_step, n)
    elif type_number == cnp.NPY_UINT or (type_number == cnp.NPY_ULONG and sizeof(long) == 4):
        convert(<const uint32_t *>at, step, tile, tile_step, n)
    elif type_number == cnp.NPY_LONG or type_number == cnp.NPY_LONGLONG:
        convert(<const int64_t *>at, step, tile, tile_step, n)
    else:
        convert(<const uint64_t *>at, step, tile, tile_step, n)


cdef inline int _type_number(real like) noexcept nogil:
    return cnp.NPY_FLOAT32 if real is float else cnp.NPY_FLOAT64


cdef inline bint _packed(Py_ssize_t row, Py_ssize_t column, Py_ssize_t width, Py_ssize_t size) noexcept nogil:
    """Whether consecutive samples stand one behind the other."""
    return row == width * size and (width == 1 or column == size)


cdef const real *load(const Input *view, Py_ssize_t first, Py_ssize_t rows, Py_ssize_t width,
                      real *tile) noexcept nogil:
    """Samples first ... first + rows - 1, contiguous: in place, or gathered into the tile."""
    cdef const char *at = view.data + first * view.row
    cdef Py_ssize_t k
    cdef bint same = view.type_number == _type_number(tile[0]) and view.aligned and not view.swapped
    if same and _packed(view.row, view.column, width, sizeof(real)):
        return <const real *>at
    if width == 1:
        gather(at, view.type_number, view.swapped, view.row, tile, 1, rows)
    elif view.row == width * view.column:
        gather(at, view.type_number, view.swapped, view.column, tile, 1, rows * width)
    elif view.row > view.column:
        for k in range(rows):
            gather(at + k * view.row, view.type_number, view.swapped, view.column, tile + k * width, 1, width)
    else:       # column-major: along the columns, where memory is consecutive
        for k in range(width):
            gather(at + k * view.column, view.type_number, view.swapped, view.row, tile + k, width, rows)
    return tile


cdef void scatter(const real *tile, const Output *view, Py_ssize_t first, Py_ssize_t rows,
                  Py_ssize_t width) noexcept nogil:
    """The tile to samples first ... of an output that is not packed."""
    cdef char *at = view.data + first * view.row
    cdef Py_ssize_t i, k
    for i in range(rows):
        for k in range(width):
            (<real *>(at + i * view.row + k * view.column))[0] = tile[i * width + k]


# ----------------------------------------------------------------------------------------- calls by dtype
cdef inline Py_ssize_t call(void *kernel, const Job *job, const real *y, const real *raw, real *loss, real *grad,
                            real *hess, Py_ssize_t n) noexcept nogil:
    if real is float:
        return (<kernel_f32>kernel)(y, raw, loss, grad, hess, n, job.params, job.data)
    else:
        return (<kernel_f64>kernel)(y, raw, loss, grad, hess, n, job.params, job.data)


cdef inline double total(const real *values, const double *weights, Py_ssize_t n) noexcept nogil:
    if real is float:
        return _active.rows32.total(values, n) if weights == NULL else _active.rows32.weighted_total(values, weights, n)
    else:
        return _active.rows64.total(values, n) if weights == NULL else _active.rows64.weighted_total(values, weights, n)


cdef inline void scaled(const real *values, const double *weights, double factor, real *out,
                        Py_ssize_t n) noexcept nogil:
    if real is float:
        _active.rows32.store(values, weights, factor, out, n)
    else:
        _active.rows64.store(values, weights, factor, out, n)


cdef inline int label_signs(const real *y, Py_ssize_t n) noexcept nogil:
    if real is float:
        return _active.rows32.label_signs(y, n)
    else:
        return _active.rows64.label_signs(y, n)


# ----------------------------------------------------------------------------------------- one block, one chunk
cdef inline real *_direct(const Output *view, Py_ssize_t first, Py_ssize_t width, real *tile) noexcept nogil:
    """Where a packed output holds the block, or NULL."""
    if _packed(view.row, view.column, width, sizeof(real)):
        return <real *>(view.data + first * view.row)
    return NULL


cdef void deliver(real *tile, const double *weights, double factor, const Output *view, Py_ssize_t first,
                  Py_ssize_t rows, Py_ssize_t width, bint stream) noexcept nogil:
    """factor * weights * tile to the output."""
    cdef real *out = _direct(view, first, width, tile)
    if out != NULL and stream:
        scaled(tile, weights, factor, tile, rows * width)
        fastloss_stream(<char *>out, <const char *>tile, rows * width * <Py_ssize_t>sizeof(real))
    elif out != NULL:
        scaled(tile, weights, factor, out, rows * width)
    else:
        scaled(tile, weights, factor, tile, rows * width)
        scatter(tile, view, first, rows, width)


cdef void add_outputs(real *tile, Py_ssize_t rows, Py_ssize_t width) noexcept nogil:
    """Sum each sample's outputs, in place: tile[i] = sum_k tile[i, k]."""
    cdef double value
    cdef Py_ssize_t i, k
    for i in range(rows):
        value = 0
        for k in range(width):
            value += tile[i * width + k]
        tile[i] = <real>value


cdef const double *block_weights(const Job *job, Py_ssize_t first, Py_ssize_t rows, bint spread,
                                 double *tile) noexcept nogil:
    """Weights of the block's samples, or (spread) of its elements; NULL where none are given.  In float64 for every
    working dtype: weight / total is a float32 also where the two are not."""
    cdef const double *weights
    cdef Py_ssize_t i, k
    if job.weight.data == NULL:
        return NULL
    if not spread or job.width == 1:
        return load(&job.weight, first, rows, 1, tile)
    # From the end, so that a sample's weight is read before its place is overwritten.
    weights = load(&job.weight, first, rows, 1, tile)
    for i in range(rows - 1, -1, -1):
        for k in range(job.width - 1, -1, -1):
            tile[i * job.width + k] = weights[i]
    return tile


cdef Py_ssize_t run_block(const Job *job, Py_ssize_t first, Py_ssize_t rows, real *tiles, double *weight_tile,
                          ChunkResult *result) noexcept nogil:
    """One block of samples; returns the first refused element of the block, or the number of elements."""
    cdef Py_ssize_t width = job.width, n = rows * width, size = job.rows_per_block * width, accepted, i
    cdef real *loss = NULL
    cdef real *grad = NULL
    cdef real *hess = NULL
    cdef const double *weights
    cdef const real *y = load(&job.y, first, rows, width, tiles)
    cdef const real *raw = load(&job.raw, first, rows, width, tiles + size)
    cdef bint direct = job.weight.data == NULL and job.factor == 1.0 and not job.stream
    if job.want & WANT_LOSS:
        loss = tiles + 2 * size
    if job.want & WANT_GRADIENT:
        grad = _direct(&job.gradient, first, width, tiles) if direct else NULL
        if grad == NULL:
            grad = tiles + 3 * size
    if job.want & WANT_HESSIAN:
        hess = tiles + 4 * size
    accepted = call(job.kernel, job, y, raw, loss, grad,
                    NULL if job.fisher != NULL or job.hessian_constant >= 0 else hess, n)
    if accepted != n:
        return accepted
    if job.binary:
        result.signs |= label_signs(y, n)
    weights = block_weights(job, first, rows, True, weight_tile)
    if hess != NULL:
        if job.fisher != NULL:
            call(job.fisher, job, y, raw, NULL, NULL, hess, n)
        elif job.hessian_constant >= 0:
            for i in range(n):
                hess[i] = <real>job.hessian_constant
        deliver(hess, weights, job.factor, &job.hessian, first, rows, width, job.stream)
    if grad == tiles + 3 * size:
        deliver(grad, weights, job.factor, &job.gradient, first, rows, width, job.stream)
    if loss != NULL and job.loss.data == NULL:
        result.total += total(loss, weights, n)
    elif loss != NULL:
        if width > 1:
            add_outputs(loss, rows, width)
            weights = block_weights(job, first, rows, False, weight_tile)
        deliver(loss, weights, 1.0, &job.loss, first, rows, 1, job.stream)
    return n


cdef void run_chunk(const Job *job, Py_ssize_t first, Py_ssize_t last, ChunkResult *result, real like) noexcept nogil:
    """The blocks of one chunk, in order."""
    cdef real on_stack[TILES * BLOCK]
    cdef double weights_on_stack[BLOCK]
    cdef real *tiles = on_stack
    cdef double *weight_tile = weights_on_stack
    cdef Py_ssize_t at = first, rows, done
    result.total = 0
    result.refused = -1
    result.signs = 0
    result.no_memory = False
    if job.width > BLOCK:
        weight_tile = <double *>malloc(job.width * (sizeof(double) + TILES * sizeof(real)))
        if weight_tile == NULL:
            result.no_memory = True
            return
        tiles = <real *>(weight_tile + job.width)
    while at < last:
        rows = min(job.rows_per_block, last - at)
        done = run_block(job, at, rows, tiles, weight_tile, result)
        if done != rows * job.width:
            result.refused = at * job.width + done
            break
        at += rows
    if job.stream:
        fastloss_stream_end()
    if weight_tile != weights_on_stack:
        free(weight_tile)


cdef void sum_weights(const Job *job, Py_ssize_t first, Py_ssize_t last, ChunkResult *result) noexcept nogil:
    """Sum of the weights of one chunk, and the first that is not a weight."""
    cdef double tile[BLOCK]
    cdef const double *weights
    cdef Py_ssize_t at = first, rows, i
    cdef int bad
    result.total = 0
    result.refused = -1
    while at < last:
        rows = min(<Py_ssize_t>BLOCK, last - at)
        weights = load(&job.weight, at, rows, 1, tile)
        bad = 0
        for i in range(rows):
            bad |= not (weights[i] >= 0 and weights[i] - weights[i] == 0)
        if bad:
            for i in range(rows):
                if not (weights[i] >= 0 and weights[i] - weights[i] == 0):
                    result.refused = at + i
                    return
        result.total += total(weights, NULL, rows)
        at += rows


# ----------------------------------------------------------------------------------------- the walk
cdef struct Outcome:
    double total
    Py_ssize_t refused
    int signs
    bint no_memory


cdef int walk(const Job *job, bint single, bint only_weights, int n_threads, Outcome *outcome) except -1:
    """All chunks of the samples, slab by slab; partial sums are added in the chunks' order."""
    cdef Py_ssize_t step = BLOCKS_PER_CHUNK * (BLOCK if only_weights else job.rows_per_block)
    cdef Py_ssize_t chunks = (job.n + step - 1) // step, start, stop, c
    cdef ChunkResult results[CHUNKS_PER_SLAB]
    outcome.total = 0
    outcome.refused = -1
    outcome.signs = 0
    outcome.no_memory = False
    start = 0
    while start < chunks and outcome.refused < 0:
        stop = min(start + CHUNKS_PER_SLAB, chunks)
        with nogil:
            run_slab(job, single, only_weights, n_threads, step, start, stop, results)
            for c in range(stop - start):
                outcome.total += results[c].total
                outcome.signs |= results[c].signs
                outcome.no_memory |= results[c].no_memory
                if results[c].refused >= 0 and outcome.refused < 0:
                    outcome.refused = results[c].refused
        start = stop
        if start < chunks:
            PyErr_CheckSignals()
    return 0


cdef void run_slab(const Job *job, bint single, bint only_weights, int n_threads, Py_ssize_t step, Py_ssize_t start,
                   Py_ssize_t stop, ChunkResult *results) noexcept nogil:
    cdef Py_ssize_t c
    if n_threads == 1:      # no OpenMP region at all: 1 µs saved, and safe after a fork
        for c in range(start, stop):
            run_one(job, single, only_weights, c * step, min((c + 1) * step, job.n), &results[c - start])
    else:
        for c in prange(start, stop, num_threads=n_threads, schedule="dynamic"):
            run_one(job, single, only_weights, c * step, min((c + 1) * step, job.n), &results[c - start])


cdef void run_one(const Job *job, bint single, bint only_weights, Py_ssize_t first, Py_ssize_t last,
                  ChunkResult *result) noexcept nogil:
    result.signs = 0
    result.no_memory = False
    if only_weights:
        sum_weights(job, first, last, result)
    elif single:
        run_chunk(job, first, last, result, <float>0)
    else:
        run_chunk(job, first, last, result, <double>0)


# ----------------------------------------------------------------------------------------- evaluate
cdef double _total_weight(Job *job, bint single, int n_threads, object sample_weight) except? -1:
    cdef Outcome outcome
    if job.weight.data == NULL:
        return <double>job.n
    walk(job, single, True, n_threads, &outcome)
    if outcome.refused >= 0:
        weight = sample_weight[outcome.refused].item()
        raise ValueError(f"sample_weight[{outcome.refused}] = {weight!r}: weights must be finite and >= 0")
    return outcome.total


cdef int _raise_refused(Kernel kernel, cnp.ndarray y, const Outcome *outcome, Py_ssize_t width) except -1:
    """The error of a pass that went wrong, if it did."""
    cdef list place
    if outcome.no_memory:
        raise MemoryError(f"no memory for the tiles of {width} outputs")
    if outcome.refused >= 0:
        place = [outcome.refused // width]
        if y.ndim == 2:
            place.append(outcome.refused % width)
        where = ", ".join([str(index) for index in place])
        raise ValueError(f"y_true[{where}] = {y[tuple(place)].item()!r}: {kernel.name} needs {kernel.target}")
    if outcome.signs == 3:
        raise ValueError(f"y_true mixes label -1 with labels in [0, 1): {kernel.name} needs {kernel.target}")
    return 0


def evaluate(Kernel kernel not None, int want, y_true, raw_prediction, sample_weight, reduction, loss_out, gradient_out,
             hessian_out, n_threads, hessian="exact"):
    """One fused pass: what `want` asks for (LOSS, GRADIENT, HESSIAN added), in that order.

    Arguments are those of the methods of Loss; `hessian` is "exact", "fisher" or a constant.
    """
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

    _check_shapes(y, raw, weight)
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

    _bind_kernel(&job, kernel, single, want, hessian)
    _bind_arrays(&job, y, raw, weight, loss_array, gradient_array, hessian_array)
    threads = resolve_threads(n_threads, job.n // (BLOCKS_PER_CHUNK * job.rows_per_block))
    if weight is not None or mean:
        weights = _total_weight(&job, single, threads, weight)
    if mean and not weights > 0:
        what = "there are no samples" if job.n == 0 else "all weights are 0"
        raise ValueError(f"reduction='mean' is not defined: {what}; use 'sum' or 'none'")
    job.factor = 1.0 / weights if mean else 1.0
    walk(&job, single, False, threads, &outcome)
    _raise_refused(kernel, y, &outcome, job.width)

    value = None
    if want & WANT_LOSS:
        value = loss_array if per_sample else (outcome.total / weights if mean else outcome.total)
    if want == WANT_LOSS:
        return value
    if want == WANT_GRADIENT:
        return gradient_array
    return (gradient_array, hessian_array) if want & WANT_HESSIAN else (value, gradient_array)


cdef bint _is_reduction(object reduction, str name) except -1:
    if not isinstance(reduction, str) or reduction not in _REDUCTIONS:
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
    return reduction == name


cdef int _bind_kernel(Job *job, Kernel kernel, bint single, int want, object hessian) except -1:
    """What the job computes."""
    cdef const LossKernels *found = kernel.kernels()
    job.want = want
    job.binary = kernel.binary
    job.params = kernel.params(single)
    job.data = kernel.data
    job.kernel = <void *>found.f32 if single else <void *>found.f64
    job.fisher = NULL
    job.hessian_constant = -1
    if want & WANT_HESSIAN and hessian == "fisher":
        job.fisher = <void *>found.fisher_f32 if single else <void *>found.fisher_f64
    elif want & WANT_HESSIAN and hessian != "exact":
        job.hessian_constant = hessian
    return 0


cdef int _bind_arrays(Job *job, cnp.ndarray y, cnp.ndarray raw, cnp.ndarray weight, cnp.ndarray loss,
                      cnp.ndarray gradient, cnp.ndarray hessian) except -1:
    """What the job reads and writes; None becomes a view without data."""
    job.n = raw.shape[0]
    job.width = raw.shape[1] if raw.ndim == 2 else 1
    job.rows_per_block = max(1, BLOCK // job.width)
    job.stream = FASTLOSS_STREAMS and job.n * job.width * raw.itemsize > STREAM_BYTES
    job.y = _input(y)
    job.raw = _input(raw)
    job.weight = _input(weight)
    job.loss = _output(loss)
    job.gradient = _output(gradient)
    job.hessian = _output(hessian)
    return 0


cdef int _check_shapes(cnp.ndarray y, cnp.ndarray raw, cnp.ndarray weight) except -1:
    if raw.ndim != 1 and raw.ndim != 2:
        raise ValueError(f"raw_prediction must have shape (n,) or (n, T), got {_shape(raw)}")
    if raw.ndim == 2 and raw.shape[1] == 0:
        raise ValueError(f"raw_prediction has no outputs: shape {_shape(raw)}")
    if y.ndim != raw.ndim or y.shape[0] != raw.shape[0] or (raw.ndim == 2 and y.shape[1] != raw.shape[1]):
        raise ValueError(
            f"y_true has shape {_shape(y)} and raw_prediction {_shape(raw)}; they must be equal (nothing is broadcast)"
        )
    if weight is not None and (weight.ndim != 1 or weight.shape[0] != raw.shape[0]):
        raise ValueError(f"sample_weight has shape {_shape(weight)}, expected ({raw.shape[0]},)")
    return 0


cdef cnp.ndarray _result(object out, str name, cnp.ndarray like, int type_number, list others):
    """The caller's buffer, or a new array in `like`'s memory order."""
    cdef bint fortran = cnp.PyArray_IS_F_CONTIGUOUS(like) and not cnp.PyArray_IS_C_CONTIGUOUS(like)
    if out is not None:
        return _check_output(out, name, _layout(like, like.ndim, type_number), others)
    return cnp.PyArray_EMPTY(like.ndim, like.shape, type_number, fortran)


# ----------------------------------------------------------------------------------------- bandwidth
def _triad(double[::1] a, const double[::1] b, const double[::1] c, double s, int n_threads=1):
    """a = b + s*c, the STREAM triad: the yardstick of the benchmarks (3 streams of 8 bytes per element)."""
    cdef Py_ssize_t n = a.shape[0], i
    if b.shape[0] != n or c.shape[0] != n:
        raise ValueError(f"a, b and c must have equal lengths, got {n}, {b.shape[0]} and {c.shape[0]}")
    for i in prange(n, nogil=True, num_threads=n_threads, schedule="static"):
        a[i] = b[i] + s * c[i]
