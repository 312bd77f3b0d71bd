# Losses computed by a user's function, included in dispatch.pyx.
#
# A CallbackKernel looks like any other Kernel: its kernels are *trampolines* with the block signature that call the
# user's function, found through `data`.  Built-in kernels may be told "not wanted" by NULL; users' functions always get
# room for losses and gradients, and for hessians exactly when they were declared, so that they never test for NULL.
# What a function does not offer, a trampoline makes of what it does: float32 blocks are converted for a function of
# float64, hessians are differences of gradients, or 0 for a piecewise linear loss.
#
# A Python function is one more function of the same signature, which takes the GIL and hands the block over as arrays.
#
# Failures (a return value other than the number of samples, an exception) are kept in the kernel.  A pass or a fit
# therefore works with a kernel of its own (`session`), and two that run at once do not see each other's.
from cpython.ref cimport PyObject

cdef extern from *:
    """
    #if defined(__GNUC__) || defined(__clang__)
    #define fastloss_first(flag) __sync_bool_compare_and_swap((flag), 0, 1)
    #else
    #define fastloss_first(flag) (*(flag) ? 0 : (*(flag) = 1))
    #endif
    """
    bint first_of "fastloss_first"(int *flag) noexcept nogil

cdef enum:
    FEW = 16                        # samples for which outputs that nobody wants find room in a small frame
    PYTHON_ROWS = 4096              # of a block for a Python function: the call is paid once for all of them ...
    PYTHON_SCORES = 1 << 18         # ... unless they have so many scores
    # What `failed` says.
    REFUSED = 1
    NO_MEMORY = 2
    # What `labels` says, in the bits of `label_signs`: which labels have to be recoded.
    AS_GIVEN = 0
    ZERO_ONE = 1
    SIGNS = 2

cdef struct Callback:
    void *f32                       # the functions, of the types in abi.pxd; NULL: there is none
    void *f64
    void *data32                    # what they get as `data`
    void *data64
    const double *params
    bint hessian                    # they write hessians
    bint straight                   # the loss is piecewise linear: its second derivative is 0
    int labels                      # what the functions call the two labels
    bint python
    PyObject *owner                 # the kernel, for Python functions; borrowed
    int claimed                     # by the thread that writes down the first failure
    int failed
    Py_ssize_t returned
    Py_ssize_t asked
    double y
    double raw


cdef void note(Callback *callback, int failed, Py_ssize_t returned, Py_ssize_t asked, double y,
               double raw) noexcept nogil:
    """Write down a failure, if it is the first."""
    if first_of(&callback.claimed):
        callback.returned, callback.asked, callback.y, callback.raw = returned, asked, y, raw
        callback.failed = failed


cdef inline Py_ssize_t inside(Py_ssize_t returned, Py_ssize_t asked) noexcept nogil:
    """The sample that a return value other than `asked` refuses; the first, where the value is none of them."""
    return returned if 0 <= returned < asked else 0


cdef void *room_for(Callback *callback, Py_ssize_t n, Py_ssize_t size) noexcept nogil:
    cdef void *room = malloc(n * size)
    if room == NULL:
        note(callback, NO_MEMORY, -1, n, 0, 0)
    return room


cdef inline real cube_root_of_eps(real like) noexcept nogil:
    """Relative step of central differences: truncation (step²) and rounding (eps / step) are then about equal."""
    return <real>4.9e-3 if real is float else <real>6.1e-6


cdef inline real magnitude(real x) noexcept nogil:
    return -x if x < 0 else x


cdef inline real difference_step(real x) noexcept nogil:
    """Distance from x of the two points of a central difference."""
    return cube_root_of_eps(x) * max(<real>1, magnitude(x))


# ----------------------------------------------------------------------------------------- one score per sample
cdef inline Py_ssize_t run(Callback *callback, const real *y, const real *raw, real *loss, real *grad, real *hess,
                           Py_ssize_t n) noexcept nogil:
    """Call the user's function of the working dtype."""
    if real is float:
        return (<kernel_f32>callback.f32)(y, raw, loss, grad, hess, n, callback.params, callback.data32)
    else:
        return (<kernel_f64>callback.f64)(y, raw, loss, grad, hess, n, callback.params, callback.data64)


cdef Py_ssize_t run_recoded(Callback *callback, const real *y, const real *raw, real *loss, real *grad, real *hess,
                            Py_ssize_t n, real unknown, real known) noexcept nogil:
    """Call the user's function with its own word for the negative label."""
    cdef real[BLOCK] block
    cdef real *labels = block
    cdef Py_ssize_t i, returned
    if n > BLOCK:
        labels = <real *>room_for(callback, n, sizeof(real))
        if labels == NULL:
            return -1
    for i in range(n):
        labels[i] = known if y[i] == unknown else y[i]
    returned = run(callback, labels, raw, loss, grad, hess, n)
    if labels != block:
        free(labels)
    return returned


cdef inline Py_ssize_t ask(Callback *callback, const real *y, const real *raw, real *loss, real *grad, real *hess,
                           Py_ssize_t n) noexcept nogil:
    """Call the user's function with labels it knows, and write down what it refuses."""
    cdef real unknown = 0 if callback.labels == SIGNS else -1
    cdef Py_ssize_t returned, k
    if callback.labels != AS_GIVEN and label_signs(y, n) & callback.labels:
        returned = run_recoded(callback, y, raw, loss, grad, hess, n, unknown, -1 - unknown)
    else:
        returned = run(callback, y, raw, loss, grad, hess, n)
    if returned != n:
        k = inside(returned, n)
        note(callback, REFUSED, returned, n, y[k], raw[k])
    return returned


cdef Py_ssize_t call_points(const real *y, const real *raw, real *loss, real *grad, real *hess, Py_ssize_t n,
                            const double *params, void *data) noexcept nogil:
    """The trampoline of a pointwise loss."""
    cdef Callback *callback = <Callback *>data
    cdef real[2 * FEW] few
    if real is float:
        if callback.f32 == NULL:
            return convert_points(callback, y, raw, loss, grad, hess, n)
    if hess != NULL and not callback.hessian:
        if not callback.straight:
            return differ_points(callback, y, raw, loss, grad, hess, n)
        clear(hess, n)
        hess = NULL
    if loss == NULL or grad == NULL or (hess == NULL and callback.hessian):
        if n > FEW or (loss == NULL and grad == NULL):
            return house_points(callback, y, raw, loss, grad, hess, n)
        # one of the two is wanted
        if loss == NULL:
            loss = few
        if grad == NULL:
            grad = few
        if callback.hessian and hess == NULL:
            hess = few + FEW
    return ask(callback, y, raw, loss, grad, hess, n)


cdef Py_ssize_t house_points(Callback *callback, const real *y, const real *raw, real *loss, real *grad, real *hess,
                             Py_ssize_t n) noexcept nogil:
    """Room for what the function writes and nobody wants."""
    cdef real[3 * BLOCK] block
    cdef real *room = block
    cdef Py_ssize_t returned
    if n > BLOCK:
        room = <real *>room_for(callback, 3 * n, sizeof(real))
        if room == NULL:
            return -1
    if callback.hessian and hess == NULL:
        hess = room + 2 * n
    returned = ask(callback, y, raw, room if loss == NULL else loss, room + n if grad == NULL else grad, hess, n)
    if room != block:
        free(room)
    return returned


cdef Py_ssize_t convert_points(Callback *callback, const real *y, const real *raw, real *loss, real *grad, real *hess,
                               Py_ssize_t n) noexcept nogil:
    """A function of float64 on other blocks, stretch by stretch."""
    cdef double[5 * BLOCK] tiles
    cdef double *losses = tiles + 2 * BLOCK
    cdef double *slopes = tiles + 3 * BLOCK
    cdef double *bends = tiles + 4 * BLOCK
    cdef Py_ssize_t at = 0, size, i, returned
    while at < n:
        size = min(n - at, <Py_ssize_t>BLOCK)
        for i in range(size):
            tiles[i] = y[at + i]
            tiles[BLOCK + i] = raw[at + i]
        returned = call_points[double](tiles, tiles + BLOCK, losses, slopes, bends if hess != NULL else NULL, size,
                                       NULL, callback)
        if returned != size:
            return at + returned if 0 <= returned < size else -1
        for i in range(size):
            if loss != NULL:
                loss[at + i] = <real>losses[i]
            if grad != NULL:
                grad[at + i] = <real>slopes[i]
            if hess != NULL:
                hess[at + i] = <real>bends[i]
        at += size
    return n


cdef Py_ssize_t differ_points(Callback *callback, const real *y, const real *raw, real *loss, real *grad, real *hess,
                              Py_ssize_t n) noexcept nogil:
    """Hessians as central differences of gradients."""
    cdef real *room = <real *>room_for(callback, 4 * n, sizeof(real))
    cdef real *point = room
    cdef real *above = room + n
    cdef real *below = room + 2 * n
    cdef Py_ssize_t i, returned = n
    cdef real step, width
    if room == NULL:
        return -1
    if loss != NULL or grad != NULL:
        returned = call_points(y, raw, loss, grad, NULL, n, NULL, callback)
    if returned == n:
        for i in range(n):
            point[i] = raw[i] + difference_step(raw[i])
        returned = ask(callback, y, point, room + 3 * n, above, NULL, n)
    if returned == n:
        for i in range(n):
            point[i] = raw[i] - difference_step(raw[i])
        returned = ask(callback, y, point, room + 3 * n, below, NULL, n)
    if returned == n:
        for i in range(n):
            step = raw[i] + difference_step(raw[i])
            width = step - point[i]         # what is between the two points once they are rounded
            hess[i] = (above[i] - below[i]) / width
    free(room)
    return returned


# ----------------------------------------------------------------------------------------- K scores per sample
cdef inline Py_ssize_t ask_scores(Callback *callback, const real *y, const Py_ssize_t *label, const real *raw,
                                  real *loss, real *grad, real *hess, Py_ssize_t n, Py_ssize_t K) noexcept nogil:
    cdef Py_ssize_t returned, k
    if real is float:
        returned = (<scores_f32>callback.f32)(y, label, raw, loss, grad, hess, n, K, callback.params, callback.data32)
    else:
        returned = (<scores_f64>callback.f64)(y, label, raw, loss, grad, hess, n, K, callback.params, callback.data64)
    if returned != n:
        k = inside(returned, n)
        note(callback, REFUSED, returned, n, <double>label[k] if label != NULL else <double>y[k * K], raw[k * K])
    return returned


cdef Py_ssize_t call_scores_of(const real *y, const Py_ssize_t *label, const real *raw, real *loss, real *grad,
                               real *hess, Py_ssize_t n, Py_ssize_t K, const double *params, void *data) noexcept nogil:
    """The trampoline of a loss over K scores, for tiles (n, K)."""
    cdef Callback *callback = <Callback *>data
    cdef real *room
    cdef Py_ssize_t returned
    if real is float:
        if callback.f32 == NULL:
            return convert_scores(callback, y, label, raw, loss, grad, hess, n, K)
    if hess != NULL and not callback.hessian:
        return differ_scores(callback, y, label, raw, loss, grad, hess, n, K)
    if loss != NULL and (hess != NULL) == callback.hessian:
        return ask_scores(callback, y, label, raw, loss, grad, hess, n, K)
    room = <real *>room_for(callback, n * (K + 1), sizeof(real))
    if room == NULL:
        return -1
    if callback.hessian and hess == NULL:
        hess = room + n
    returned = ask_scores(callback, y, label, raw, room if loss == NULL else loss, grad, hess, n, K)
    free(room)
    return returned


cdef Py_ssize_t convert_scores(Callback *callback, const real *y, const Py_ssize_t *label, const real *raw, real *loss,
                               real *grad, real *hess, Py_ssize_t n, Py_ssize_t K) noexcept nogil:
    """A function of float64 on other tiles."""
    cdef Py_ssize_t size = n * K, i, returned
    cdef double *room = <double *>room_for(callback, 4 * size + n, sizeof(double))
    cdef double *slopes = room + 2 * size
    cdef double *bends = room + 3 * size
    cdef double *losses = room + 4 * size
    if room == NULL:
        return -1
    for i in range(size):
        room[i] = raw[i]
        if y != NULL:
            room[size + i] = y[i]
    returned = call_scores_of[double](room + size if y != NULL else NULL, label, room, losses, slopes,
                                      bends if hess != NULL else NULL, n, K, NULL, callback)
    if returned == n:
        for i in range(size):
            grad[i] = <real>slopes[i]
            if hess != NULL:
                hess[i] = <real>bends[i]
        if loss != NULL:
            for i in range(n):
                loss[i] = <real>losses[i]
    free(room)
    return returned


cdef Py_ssize_t differ_scores(Callback *callback, const real *y, const Py_ssize_t *label, const real *raw, real *loss,
                              real *grad, real *hess, Py_ssize_t n, Py_ssize_t K) noexcept nogil:
    """Hessian diagonals as central differences of gradients, class by class."""
    cdef Py_ssize_t size = n * K, r, k, i, returned
    cdef real *room = <real *>room_for(callback, 3 * size + n, sizeof(real))
    cdef real *above = room + size
    cdef real *below = room + 2 * size
    cdef real step, high
    if room == NULL:
        return -1
    returned = call_scores_of(y, label, raw, loss, grad, NULL, n, K, NULL, callback)
    memcpy(room, raw, size * sizeof(real))
    for k in range(K):
        if returned != n:
            break
        for r in range(n):
            i = r * K + k
            room[i] = raw[i] + difference_step(raw[i])
        returned = ask_scores(callback, y, label, room, room + 3 * size, above, NULL, n, K)
        if returned != n:
            break
        for r in range(n):
            i = r * K + k
            room[i] = raw[i] - difference_step(raw[i])
        returned = ask_scores(callback, y, label, room, room + 3 * size, below, NULL, n, K)
        for r in range(n):
            i = r * K + k
            step = difference_step(raw[i])
            high = raw[i] + step
            hess[i] = (above[i] - below[i]) / (high - room[i])
            room[i] = raw[i]
    free(room)
    return returned


cdef Py_ssize_t call_product(const real *y, const Py_ssize_t *label, const real *raw, real *loss, real *grad,
                             real *hess, Py_ssize_t n, Py_ssize_t K, const double *params, void *data) noexcept nogil:
    """hess (IN direction u, OUT hessian times u), by central differences of gradients along u."""
    cdef Callback *callback = <Callback *>data
    cdef Py_ssize_t size = n * K, r, k, side, returned = n
    cdef real *room = <real *>room_for(callback, 2 * size + 2 * n, sizeof(real))
    cdef real *above = room + size
    cdef real *step = room + 2 * size
    cdef real *losses = step + n
    cdef real longest, largest
    if room == NULL:
        return -1
    for r in range(n):
        longest, largest = 0, 1
        for k in range(K):
            longest = max(longest, magnitude(hess[r * K + k]))
            largest = max(largest, magnitude(raw[r * K + k]))
        step[r] = cube_root_of_eps(longest) * largest / longest if longest > 0 else <real>0
    for side in range(2):
        for r in range(n):
            for k in range(K):
                room[r * K + k] = raw[r * K + k] + (step[r] if side == 0 else -step[r]) * hess[r * K + k]
        returned = call_scores_of(y, label, room, losses, above if side == 0 else grad, NULL, n, K, NULL, callback)
        if returned != n:
            break
    if returned == n:
        for r in range(n):
            for k in range(K):
                hess[r * K + k] = (above[r * K + k] - grad[r * K + k]) / (2 * step[r]) if step[r] > 0 else <real>0
    free(room)
    return returned


# ----------------------------------------------------------------------------------------- Python functions
cdef Py_ssize_t ask_python(const real *y, const real *raw, real *loss, real *grad, real *hess, Py_ssize_t n,
                           const double *params, void *data) noexcept nogil:
    """A function of the block signature that calls a Python function."""
    cdef Callback *callback = <Callback *>data
    cdef int type_number = cnp.NPY_FLOAT32 if real is float else cnp.NPY_FLOAT64
    if callback.failed:             # an exception is on its way: nothing is called any more
        return -1
    with gil:
        return (<CallbackKernel>callback.owner).ask(y, NULL, raw, loss, grad, hess, n, 0, type_number)


cdef Py_ssize_t ask_python_scores(const real *y, const Py_ssize_t *label, const real *raw, real *loss, real *grad,
                                  real *hess, Py_ssize_t n, Py_ssize_t K, const double *params,
                                  void *data) noexcept nogil:
    cdef Callback *callback = <Callback *>data
    cdef int type_number = cnp.NPY_FLOAT32 if real is float else cnp.NPY_FLOAT64
    if callback.failed:
        return -1
    with gil:
        return (<CallbackKernel>callback.owner).ask(y, label, raw, loss, grad, hess, n, K, type_number)


cdef cnp.ndarray _block_array(const void *memory, Py_ssize_t n, Py_ssize_t K, int type_number):
    """A read-only copy of a block, (n,) or, for K > 0, (n, K).  The memory itself is a thread's scratch, which a
    function that keeps its argument would read after it is gone."""
    cdef cnp.npy_intp[2] shape
    cdef cnp.ndarray array
    shape[0], shape[1] = n, K
    array = cnp.PyArray_EMPTY(2 if K else 1, shape, type_number, False)
    memcpy(cnp.PyArray_DATA(array), memory, cnp.PyArray_NBYTES(array))
    cnp.PyArray_CLEARFLAGS(array, cnp.NPY_ARRAY_WRITEABLE)
    return array


# ----------------------------------------------------------------------------------------- the kernel
class RefusedSampleError(ValueError):
    """A sample that a user's function refuses.

    Kernels in the midst of a pass know its target `y` and raw prediction `raw`, but not which one it is; those who do
    raise what :meth:`at` returns.
    """

    @classmethod
    def of(cls, y, raw, reason, place="a sample with y", more=""):
        error = cls(f"{place} = {y!r}{more} and raw prediction {raw!r}: {reason}")
        error.y, error.raw, error.reason = y, raw, reason
        return error

    def at(self, index, unique=True):
        """The same error of a sample whose place in y is known."""
        place = ", ".join(map(str, index))
        return self.of(self.y, self.raw, self.reason, f"y[{place}]", "" if unique else " (the first with that target)")


cdef class CallbackKernel(Kernel):
    """The compiled half of a CustomLoss.

    Parameters
    ----------
    name, target, binary
        As for Kernel.
    functions : dict
        "float32" and "float64" -> (address, address of the user data); or a Python function under "python".
    params : ndarray of float64
        What the functions get as parameters, as they are.
    hessian : bool
        Whether the functions write hessians.
    scores : bool
        Whether the loss is one over K scores.
    straight : bool
        Whether it is piecewise linear.
    keep : object
        What has to stay alive as long as the kernel.
    """
    cdef Callback callback
    cdef LossKernels points
    cdef ScoreKernels rows
    cdef object function, keep, error
    cdef tuple arguments            # params as Python floats
    cdef cnp.ndarray constants

    def __init__(self, str name, str target, bint binary, dict functions, cnp.ndarray constants, bint hessian,
                 bint scores, bint straight, keep):
        Kernel.__init__(self, name, target, binary, [], [], {})
        self.scores = scores
        self.constants, self.keep = constants, keep
        self.arguments = tuple(constants.tolist())
        self.callback.hessian, self.callback.straight = hessian, straight
        if "python" in functions:
            self.function = functions["python"]
            self.python = True
        for dtype, (address, data) in functions.items() if self.function is None else ():
            if dtype == "float32":
                self.callback.f32, self.callback.data32 = <void *><size_t>address, <void *><size_t>data
            else:
                self.callback.f64, self.callback.data64 = <void *><size_t>address, <void *><size_t>data
        self.settle()

    cdef int settle(self) except -1:
        """Pointers to what belongs to this kernel."""
        cdef Callback *callback = &self.callback
        callback.params = <const double *>cnp.PyArray_DATA(self.constants)
        callback.python, callback.owner = self.python, <PyObject *>self
        callback.claimed = callback.failed = 0
        if self.python:
            callback.data32 = callback.data64 = callback
            callback.f32 = <void *>ask_python_scores[float] if self.scores else <void *>ask_python[float]
            callback.f64 = <void *>ask_python_scores[double] if self.scores else <void *>ask_python[double]
        self.data = callback
        self.points.f32, self.points.f64 = call_points[float], call_points[double]
        self.rows.rows_f32, self.rows.rows_f64 = call_scores_of[float], call_scores_of[double]
        self.rows.rows_product_f32, self.rows.rows_product_f64 = call_product[float], call_product[double]
        return 0

    cdef CallbackKernel copy(self):
        cdef CallbackKernel other = CallbackKernel.__new__(CallbackKernel)
        other.name, other.target, other.binary = self.name, self.target, self.binary
        other.names, other.values, other.lost32, other.lost64 = self.names, self.values, -1, -1
        other.params32, other.params64 = self.params32, self.params64
        other.scores, other.soft_targets, other.signed_weights = self.scores, self.soft_targets, self.signed_weights
        other.class_weight, other.ignore_index = self.class_weight, self.ignore_index
        other.callback = self.callback
        other.function, other.keep, other.arguments = self.function, self.keep, self.arguments
        other.constants, other.python = self.constants, self.python
        other.settle()
        return other

    cdef Kernel session(self):
        return self.copy()

    cdef const LossKernels *kernels(self):
        return &self.points

    cdef const ScoreKernels *score_kernels(self):
        return &self.rows

    def set_labels(self, labels):
        """The two labels that the functions know, (0, 1) or (-1, 1); others are recoded before they are called."""
        self.callback.labels = SIGNS if labels[0] else ZERO_ONE

    cdef const double *params(self, bint single) except NULL:
        if not single and self.callback.f64 == NULL:
            raise ValueError(
                f"{self.name} has a callback for float32 only, which would lose digits of float64 data: pass "
                "{'float32': ..., 'float64': ...}, or one for float64, which takes both"
            )
        return &self.params32[0] if single else &self.params64[0]

    cdef Py_ssize_t block_rows(self, Py_ssize_t width) noexcept:
        if not self.python:
            return max(<Py_ssize_t>1, (4 * BLOCK if self.scores else BLOCK) // width)
        if not self.scores:
            return max(<Py_ssize_t>1, <Py_ssize_t>PYTHON_ROWS // width)
        return max(<Py_ssize_t>1, min(<Py_ssize_t>PYTHON_ROWS, <Py_ssize_t>PYTHON_SCORES // width))

    cdef bint failed(self) noexcept:
        return self.callback.failed != 0

    cdef str refusal(self, Py_ssize_t returned, Py_ssize_t asked):
        self.raise_error()
        if self.callback.failed:        # not what became of it in a sum
            returned, asked = self.callback.returned, self.callback.asked
        return (
            f"{self.name} refused it: its callback returned {returned} instead of {asked}, the number of samples it got"
            + " (what a numba cfunc returns that raised)" * (returned == 0)
        )

    cdef int raise_error(self) except -1:
        """What the functions raised."""
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        if self.callback.failed == NO_MEMORY:
            raise MemoryError(f"{self.name}: no memory for a block of {self.callback.asked} numbers")
        return 0

    cdef int raise_failure(self) except -1:
        if not self.callback.failed:
            return 0
        self.raise_error()
        reason = self.refusal(self.callback.returned, self.callback.asked)
        raise RefusedSampleError.of(self.callback.y, self.callback.raw, reason)

    # -- Python functions ----------------------------------------------------------------------------------------------
    cdef Py_ssize_t ask(self, const void *y, const Py_ssize_t *label, const void *raw, void *loss, void *grad,
                        void *hess, Py_ssize_t n, Py_ssize_t K, int type_number) noexcept:
        """Call the function on a block; n, or -1 after an exception, which is kept."""
        cdef cnp.ndarray targets
        try:
            if label != NULL:
                targets = _block_array(label, n, 0, cnp.NPY_INTP)
            else:
                targets = _block_array(y, n, K, type_number)
            results = self.function(targets, _block_array(raw, n, K, type_number), *self.arguments)
            if not isinstance(results, (tuple, list)) or len(results) not in (2 + self.callback.hessian, 3):
                self.wrong_results(results)
            self.take(results[0], "losses", loss, n, 0, type_number)
            self.take(results[1], "gradients", grad, n, K, type_number)
            if self.callback.hessian:
                self.take(results[2], "hessians", hess, n, K, type_number)
            return n
        except BaseException as error:      # KeyboardInterrupt too
            self.error = error
            self.callback.failed = REFUSED
            return -1

    cdef int wrong_results(self, object results) except -1:
        wanted = "(loss, gradient, hessian)" if self.callback.hessian else "(loss, gradient[, hessian])"
        if isinstance(results, (tuple, list)):
            raise ValueError(f"{self.name}: the function returned {len(results)} things, expected {wanted}")
        raise TypeError(f"{self.name}: the function returned {type(results).__name__}, expected {wanted}")

    cdef int take(self, object values, str what, void *out, Py_ssize_t n, Py_ssize_t K, int type_number) except -1:
        """Copy a result, once it is seen to be one."""
        cdef cnp.npy_intp[2] shape
        cdef cnp.ndarray array = np.asarray(values)
        shape[0], shape[1] = n, K
        if array.dtype.kind not in "fiub":
            raise TypeError(f"{self.name}: the function returned {what} of dtype {array.dtype}, expected real numbers")
        if array.ndim != (2 if K else 1) or array.shape[0] != n or (K and array.shape[1] != K):
            expected = f"({n}, {K})" if K else f"({n},)"
            raise ValueError(f"{self.name}: the function returned {what} of shape {_shape(array)}, expected {expected}")
        if cnp.PyArray_TYPE(array) == type_number and cnp.PyArray_ISCARRAY_RO(array):
            memcpy(out, cnp.PyArray_DATA(array), cnp.PyArray_NBYTES(array))
        else:
            np.copyto(cnp.PyArray_SimpleNewFromData(array.ndim, shape, type_number, out), array, casting="same_kind")
        return 0
