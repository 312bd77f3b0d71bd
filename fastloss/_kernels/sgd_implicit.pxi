# Implicit steps, included in sgd.pyx: the slope is taken where the step ends, not where it begins.
#
# A step of length eta along row x with weight w changes its raw prediction z by -eta*w*q*s, where q = |x|**2, plus 1
# with an intercept.  The implicit step solves s = l'(z - eta*w*q*s): it minimises the loss plus the squared way, so it
# goes towards the loss's minimum and never beyond, however long eta is.  Many losses know s in closed form (the slope
# of their Moreau envelope); other convex ones are solved by Newton's method.  Where there may be several solutions, or
# K scores at once, the explicit slope is divided by 1 + eta*w*q*curvature, the step of a parabola above the loss.
#
# All slopes are in float64, for float32 rows too: the loss at z and at a point close to z must differ.

cdef enum:
    MAX_ROUNDS = 100            # of a solution; four to six are usual, at most 40 were seen


cdef inline double reach(const Task *task, Py_ssize_t i, floating like) noexcept nogil:
    """By how much a step of length 1 along row i changes its raw prediction."""
    cdef double square
    if task.squares != NULL:
        square = task.squares[i]
    else:
        square = row_square(task.table, &task.X, i, like)
    return square + task.intercept_rate


cdef double solve_slope(const Task *task, const double *params, double y, double z, double step) noexcept nogil:
    """s = l'(z - step*s) for a convex loss.

    s lies between 0 and l'(z), and the residual s - l'(z - step*s) rises with s.  Newton's method from 0; but it goes
    round in circles where the loss is flat, and crawls where it grows as exp does.  So a step out of the bracket, or
    after one that did not cut the residual to a third, halves the bracket instead, or its logarithm.
    """
    cdef double u = z, slope = 0.0, hess = 0.0, sign, size = 0.0, low = 0.0, high, residual, before = INFINITY, trial
    cdef Py_ssize_t k
    task.kernel64(&y, &u, NULL, &slope, &hess, 1, params, task.data)
    if slope == 0.0 or slope != slope:
        return slope
    sign = 1.0 if slope > 0.0 else -1.0
    high = min(sign * slope, 2.0 * MAX_SLOPE)
    for k in range(MAX_ROUNDS):
        residual = size - sign * slope
        trial = size - residual / (1.0 + step * hess)
        if fabs(trial - size) <= task.tolerance * size:
            return sign * trial
        if residual < 0.0:
            low = size
        else:
            high = size
        if low < trial <= high and 3.0 * fabs(residual) <= before:
            before = fabs(residual)
        else:
            trial = sqrt(low * high) if high > 4.0 * low > 0.0 else 0.5 * (low + high)
            if high - low <= task.tolerance * high:
                return sign * trial
            before = INFINITY
        size = trial
        u = z - step * (sign * size)
        task.kernel64(&y, &u, NULL, &slope, &hess, 1, params, task.data)
    return sign * low               # too short rather than too long


cdef double damped_slope(const Task *task, const double *params, double y, double z, double step) noexcept nogil:
    """The explicit slope, less the more curved the loss can be; the loss's curvature at z, where that has no bound."""
    cdef double slope = 0.0, hess = 0.0
    if isfinite(task.curvature):
        task.kernel64(&y, &z, NULL, &slope, NULL, 1, params, task.data)
        return slope / (1.0 + step * task.curvature)
    task.kernel64(&y, &z, NULL, &slope, &hess, 1, params, task.data)
    return slope / (1.0 + step * fabs(hess))


cdef double implicit_slope(const Task *task, Model *model, double y, double z, double step) noexcept nogil:
    cdef double slope = 0.0
    if step == 0.0:                 # a row that counts for nothing, or only zeros: there is nowhere to go
        return 0.0
    if task.implicit == CLOSED:
        model.envelope_params[task.step_param] = step
        task.envelope64(&y, &z, NULL, &slope, NULL, 1, model.envelope_params, task.data)
        return slope
    if task.implicit == SOLVED:
        return solve_slope(task, model.params64, y, z, step)
    return damped_slope(task, model.params64, y, z, step)


cdef double resistance(
    const Task *task, double step, double loss, const floating *slope, Py_ssize_t width
) noexcept nogil:
    """By what the explicit step of a loss over K scores is divided.

    Where its curvature has no bound (hinge), no step goes further than where the tangent is zero.
    """
    cdef double square = 0.0
    cdef Py_ssize_t k
    if isfinite(task.curvature):
        return 1.0 + step * task.curvature
    for k in range(width):
        square += <double> slope[k] * slope[k]
    if square == 0.0:
        return 1.0
    return max(1.0, step * square / loss)


cdef bint columns_repeat(const Rows *X) noexcept nogil:
    """Whether a row may have a column twice: whether columns do not ascend everywhere."""
    cdef Py_ssize_t i, j
    for i in range(X.n_rows):
        for j in range(row_start(X, i) + 1, row_start(X, i + 1)):
            if column_at(X, j) <= column_at(X, j - 1):
                return True
    return False


cdef void square_rows(const Rows *X, const floating *values, double *sums, double *squares) noexcept nogil:
    """Squared norms of the rows, elements of the same place added up; `sums` are zeros, one per column."""
    cdef Py_ssize_t i, j
    for i in range(X.n_rows):
        for j in range(row_start(X, i), row_start(X, i + 1)):
            sums[column_at(X, j)] += values[j]
        squares[i] = 0.0
        for j in range(row_start(X, i), row_start(X, i + 1)):
            squares[i] += sums[column_at(X, j)] * sums[column_at(X, j)]
            sums[column_at(X, j)] = 0.0
