# Operations on rows of numbers, included in every instruction-set module.
#
# A sum runs through 16 interleaved accumulators, which the compiler may keep in vector registers of any width: it
# never reorders a floating-point sum by itself, and the result depends on n alone, not on the instruction set.

cdef enum:
    LANES = 16


cdef inline double _fold(const double *lanes) noexcept nogil:
    """The lanes added pairwise, always in the same order."""
    cdef double half[8]
    cdef Py_ssize_t j
    for j in range(8):
        half[j] = lanes[j] + lanes[j + 8]
    for j in range(4):
        half[j] = half[j] + half[j + 4]
    return (half[0] + half[2]) + (half[1] + half[3])


cdef double row_dot(const real *x, const real *w, Py_ssize_t n) noexcept nogil:
    """sum x*w in the working dtype's products, float64 at the end."""
    cdef real lanes[LANES]
    cdef double wide[LANES]
    cdef Py_ssize_t i = 0, j
    for j in range(LANES):
        lanes[j] = 0
    while i + LANES <= n:
        for j in range(LANES):
            lanes[j] = fma(x[i + j], w[i + j], lanes[j])
        i += LANES
    for j in range(n - i):
        lanes[j] = fma(x[i + j], w[i + j], lanes[j])
    for j in range(LANES):
        wide[j] = lanes[j]
    return _fold(wide)


cdef void row_axpy(real a, const real *x, real *w, Py_ssize_t n) noexcept nogil:
    """w += a*x"""
    cdef Py_ssize_t i
    for i in range(n):
        w[i] = fma(a, x[i], w[i])


cdef void row_scale(real a, real *w, Py_ssize_t n) noexcept nogil:
    """w *= a"""
    cdef Py_ssize_t i
    for i in range(n):
        w[i] = a * w[i]


cdef double row_total(const real *x, Py_ssize_t n) noexcept nogil:
    """sum x, in float64"""
    cdef double lanes[LANES]
    cdef Py_ssize_t i = 0, j
    for j in range(LANES):
        lanes[j] = 0
    while i + LANES <= n:
        for j in range(LANES):
            lanes[j] = lanes[j] + x[i + j]
        i += LANES
    for j in range(n - i):
        lanes[j] = lanes[j] + x[i + j]
    return _fold(lanes)


cdef double row_weighted_total(const real *x, const double *w, Py_ssize_t n) noexcept nogil:
    """sum x*w, in float64; weight 0 contributes 0 also where x is NaN or inf"""
    cdef double lanes[LANES]
    cdef Py_ssize_t i = 0, j
    for j in range(LANES):
        lanes[j] = 0
    while i + LANES <= n:
        for j in range(LANES):
            lanes[j] = lanes[j] + select(w[i + j] != 0, <double>x[i + j] * w[i + j], <double>0)
        i += LANES
    for j in range(n - i):
        lanes[j] = lanes[j] + select(w[i + j] != 0, <double>x[i + j] * w[i + j], <double>0)
    return _fold(lanes)


cdef void row_store(const real *x, const double *w, double factor, real *out, Py_ssize_t n) noexcept nogil:
    """out = factor * x, or factor * w * x where weights are given (weight 0 wins over NaN and inf)"""
    cdef Py_ssize_t i
    cdef real constant = <real>factor
    if w == NULL:
        for i in range(n):
            out[i] = constant * x[i]
    else:
        for i in range(n):
            out[i] = select(w[i] != 0, <real>(factor * w[i]) * x[i], <real>0)


cdef int row_label_signs(const real *y, Py_ssize_t n) noexcept nogil:
    """1 if some label is below 0, 2 if some label is in [0, 1), both added: -1 and 0 must not be mixed."""
    cdef Py_ssize_t i
    # Flags as wide as the labels: others would halve the lanes.
    cdef int32_t below32 = 0, inside32 = 0
    cdef int64_t below64 = 0, inside64 = 0
    for i in range(n):
        if real is float:
            below32 |= y[i] < 0
            inside32 |= (y[i] >= 0) & (y[i] < 1)
        else:
            below64 |= y[i] < 0
            inside64 |= (y[i] >= 0) & (y[i] < 1)
    return (1 if below32 or below64 else 0) + (2 if inside32 or inside64 else 0)
