# One model while it is trained, included in sgd.pyx: its coefficients and what is done to them in every step.
#
# A *model* has `width` weight vectors, one after the other: one, or as many as a loss over K scores has scores.  The
# coefficients are scale * v, so that shrinking all of them costs one multiplication; v is folded (multiplied by the
# scale) when the scale gets small.
#
# The L1 penalty is the cumulative one of Tsuruoka, Tsujii and Ananiadou (2009): `penalty` is what every coefficient
# should have been moved towards zero by so far, `paid` by how much (with sign) it really was, for none is moved
# beyond zero.  For dense rows each step goes over all coefficients.  For CSR a step touches the columns of its row
# only; the others catch up on what they missed when a row has them, and all of them every `window` steps (`settle`).
# A coefficient that is not zero has always paid in full, so what it missed is the difference of two entries of `due`,
# the running sum of what each step takes off v; only where it reached zero in between must the step be found.  The
# result is that of dense rows, up to rounding.
#
# Averages use Bottou's trick (Stochastic gradient descent tricks, 2012): the average is
# (average + average_scale * v) / average_total, so that a step changes it in the row's columns only.

cdef struct Model:
    void *weights               # v
    double scale
    double square               # squared norm of v, kept up to date when the objective is wanted
    double peak                 # largest `square` since it was last computed afresh
    double absolute             # sum of absolute values of v, likewise, with an L1 penalty
    double intercept
    double *intercepts          # of all scores; &intercept where there is one
    double eta                  # the held step size
    double t
    Py_ssize_t positive         # class code of the positive class
    double negative_weight      # factors on the gradient by the sign of the target
    double positive_weight
    const void *targets         # the model's first target; NULL: they are class codes
    const double *params        # of the loss
    const double *params64      # implicit steps: in float64
    double[MAX_PARAMS] envelope_params
    void *averages              # NULL: no averages
    double *average_intercepts
    double average_scale
    double average_total
    double penalty
    double *paid                # NULL: no L1 penalty
    double *settled             # CSR: `due` of the step after which a column was last settled
    double *due                 # CSR: what the steps of this window took off v, summed up; entry 0 is 0
    double *penalties           # CSR: `penalty` after each of them
    Py_ssize_t n_steps          # CSR: steps of this window ...
    Py_ssize_t n_step_rows      # ... and the rows they came from
    double loss_sum             # over this epoch, before each update
    double square_sum           # of the squared norms of the coefficients
    double absolute_sum         # of the sums of their absolute values
    Py_ssize_t n_clipped        # derivatives beyond MAX_SLOPE, over this epoch
    bint active

# What is the same for all models of a fit.
cdef struct Task:
    const Table *table
    Rows X
    const int32_t *codes
    Py_ssize_t target_step      # from one sample's target to the next, in elements
    const double *sample_weight     # or NULL
    const double *offset            # or NULL
    kernel_f32 kernel32
    kernel_f64 kernel64
    scores_f32 scores32         # losses over K scores; NULL for others
    scores_f64 scores64
    void *data
    Py_ssize_t block            # rows of a mini-batch that are one call of the kernel
    Schedule schedule
    Passive passive
    Implicit implicit
    kernel_f64 envelope64       # implicit steps in closed form: the kernel of the loss's envelope ...
    Py_ssize_t step_param       # ... and which of its parameters is the step
    double curvature            # damped steps: bound of the second derivative, or inf
    double tolerance            # of solutions, relative
    const double *squares       # squared norms of the rows, where columns repeat; NULL: they are computed
    bint sided                  # passive steps: the loss says how far from y*raw >= 1, not from y
    double l1
    double l2
    double average_from         # first step that counts for averages
    double intercept_rate       # 0: no intercept is fitted
    double smallest_scale
    Py_ssize_t width
    Py_ssize_t window           # CSR with L1: steps after which all columns are settled
    bint lazy                   # CSR with L1
    bint soft                   # targets are probabilities of the positive class
    bint want_objective         # losses are added up, and norms ...
    bint want_norms             # ... at every update; False: at the epoch's ends, and where L1 is settled
    bint grouped                # rows are visited in groups
    bint many_params            # models have losses of different parameters


# ----------------------------------------------------------------------------------------- norms
cdef double sum_absolute(const floating *v, Py_ssize_t n) noexcept nogil:
    cdef double a = 0.0, b = 0.0, c = 0.0, d = 0.0      # four chains: additions need not wait for each other
    cdef Py_ssize_t j = 0
    while j + 3 < n:
        a += fabs(v[j])
        b += fabs(v[j + 1])
        c += fabs(v[j + 2])
        d += fabs(v[j + 3])
        j += 4
    while j < n:
        a += fabs(v[j])
        j += 1
    return (a + b) + (c + d)


cdef void measure(const Task *task, Model *model, const floating *v) noexcept nogil:
    cdef Py_ssize_t n = task.X.n_columns * task.width
    model.square = dense_dot(task.table, v, v, n)
    model.peak = model.square
    if task.l1 != 0.0:
        model.absolute = sum_absolute(v, n)


cdef inline void add_norms(Model *model, double n) noexcept nogil:
    """Let the coefficients as they are now count in the sums of norms for the updates of so many rows."""
    model.square_sum += n * model.scale * model.scale * model.square
    model.absolute_sum += n * model.scale * model.absolute


# ----------------------------------------------------------------------------------------- the L1 penalty
cdef double paid_until_zero(const Task *task, const Model *model, double settled, double size) noexcept nogil:
    """What a coefficient of |v| = size paid until it was zero."""
    cdef Py_ssize_t low = 0, high = model.n_steps, middle, probes = 0
    cdef const double *due = model.due
    cdef const double *penalties = model.penalties
    cdef double wanted = settled + size
    if task.l2 == 0.0:              # the scale never changes, so that `due` and `penalty` grow alike
        return model.penalty - model.scale * (due[high] - wanted)
    while high - low > 1:           # due[low] < wanted <= due[high]
        middle = (low + high) // 2
        if probes % 2 == 0:         # steps are of similar sizes: most guesses are close
            middle = low + <Py_ssize_t> ((wanted - due[low]) / (due[high] - due[low]) * (high - low))
            middle = min(max(middle, low + 1), high - 1)
        if due[middle] < wanted:
            low = middle
        else:
            high = middle
        probes += 1
    return penalties[low] + (penalties[high] - penalties[low]) * ((wanted - due[low]) / (due[high] - due[low]))


cdef inline void settle(const Task *task, Model *model, Py_ssize_t column, floating *v) noexcept nogil:
    """Move the coefficients of a column as the steps since they were last settled should have."""
    cdef Py_ssize_t p, k
    cdef double settled = model.settled[column], due = model.due[model.n_steps] - settled, size
    if due == 0.0:
        return
    for k in range(task.width):
        p = column + k * task.X.n_columns
        size = fabs(v[p])
        if size > due:
            v[p] = <floating> copysign(size - due, v[p])
            model.paid[p] = -copysign(model.penalty, v[p])
        elif size > 0.0:
            model.paid[p] = -copysign(paid_until_zero(task, model, settled, size), v[p])
            v[p] = 0
    model.settled[column] = model.due[model.n_steps]


cdef void settle_row(const Task *task, Model *model, Py_ssize_t i, floating *v) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(row_start(&task.X, i), row_start(&task.X, i + 1)):
        settle(task, model, column_at(&task.X, j), v)


cdef void settle_all(const Task *task, Model *model, floating *v) noexcept nogil:
    """Settle every column, and start a new window."""
    cdef Py_ssize_t column
    for column in range(task.X.n_columns):
        settle(task, model, column, v)
        model.settled[column] = 0.0
    if task.want_objective:
        # half of the window counts as its beginning, half as its end: between them nothing is known of the columns that
        # no row touched
        add_norms(model, 0.5 * model.n_step_rows)
        measure(task, model, v)
        add_norms(model, 0.5 * model.n_step_rows)
    model.n_steps, model.n_step_rows = 0, 0
    model.penalties[0] = model.penalty


cdef inline double truncated(double before, double penalty, double paid, double inverse) noexcept nogil:
    """A coefficient once it paid what it owes, at most down to zero; `inverse` is 1 / scale.

    Without branches: a sign is not to be predicted, and loops over all coefficients become vector code.
    """
    cdef double above = before - (penalty + paid) * inverse, below = before + (penalty - paid) * inverse
    above = above if above > 0.0 else 0.0
    below = below if below < 0.0 else 0.0
    above = above if before > 0.0 else 0.0
    below = below if before < 0.0 else 0.0
    return above + below + 0.0 * before     # NaN stays NaN


cdef void truncate_all(const Model *model, floating *v, Py_ssize_t n) noexcept nogil:
    # copies, which no store to v can change: else the loop would not become vector code, and take three times as long
    cdef double penalty = model.penalty, scale = model.scale, inverse = 1.0 / model.scale, before
    cdef double *paid = model.paid
    cdef Py_ssize_t p
    for p in range(n):
        before = v[p]
        v[p] = <floating> truncated(before, penalty, paid[p], inverse)
        paid[p] += scale * (v[p] - before)


cdef void truncate_row(const Task *task, Model *model, Py_ssize_t i, floating *v) noexcept nogil:
    cdef Py_ssize_t j, k, p, column
    cdef double before, inverse = 1.0 / model.scale, due = model.due[model.n_steps]
    for j in range(row_start(&task.X, i), row_start(&task.X, i + 1)):
        column = column_at(&task.X, j)
        for k in range(task.width):
            p = column + k * task.X.n_columns
            before = v[p]
            v[p] = <floating> truncated(before, model.penalty, model.paid[p], inverse)
            model.paid[p] += model.scale * (v[p] - before)
        model.settled[column] = due


cdef void charge(
    const Task *task, Model *model, double eta, const Py_ssize_t *rows, Py_ssize_t n, floating *v
) noexcept nogil:
    """The L1 penalty of a step that came from these rows."""
    cdef Py_ssize_t j
    model.penalty += task.l1 * eta
    if not task.lazy:
        truncate_all(model, v, task.X.n_columns * task.width)
        return
    model.due[model.n_steps + 1] = model.due[model.n_steps] + task.l1 * eta / model.scale
    model.n_steps += 1
    model.n_step_rows += n
    model.penalties[model.n_steps] = model.penalty
    for j in range(n):
        truncate_row(task, model, rows[j], v)
    if model.n_steps == task.window:
        settle_all(task, model, v)


# ----------------------------------------------------------------------------------------- scale and averages
cdef void fold(const Task *task, Model *model, floating *v) noexcept nogil:
    """Make the scale 1, and the averages just that."""
    cdef Py_ssize_t n = task.X.n_columns * task.width
    if task.lazy:
        settle_all(task, model, v)
    if model.averages != NULL:
        dense_add(task.table, model.average_scale, v, <floating *> model.averages, n)
        dense_scale(task.table, 1.0 / model.average_total, <floating *> model.averages, n)
        model.average_scale, model.average_total = 0.0, 1.0
    dense_scale(task.table, model.scale, v, n)
    model.scale = 1.0


cdef inline double shrink(const Task *task, Model *model, double eta, floating *v) noexcept nogil:
    """The L2 penalty of a step; returns by what v was multiplied."""
    cdef double factor = 1.0 - eta * task.l2
    model.scale *= factor if factor > 0.0 else 0.0      # a step too long ends at zero, not beyond
    if model.scale >= task.smallest_scale:
        return 1.0
    factor = model.scale
    fold(task, model, v)
    if task.want_objective:
        measure(task, model, v)
    return factor


cdef inline bint averaging(const Task *task, const Model *model) noexcept nogil:
    return model.averages != NULL and model.t >= task.average_from


cdef inline void keep_average(
    const Task *task, const Model *model, Py_ssize_t i, Py_ssize_t k, double step, floating like
) noexcept nogil:
    """Undo in the averages what adding step * x_i to weight vector k changed in them."""
    row_add(
        task.table,
        &task.X,
        i,
        -model.average_scale * step / model.scale,
        <floating *> model.averages + k * task.X.n_columns,
        0.0,
        False,
    )


cdef inline void count_average(const Task *task, Model *model) noexcept nogil:
    """Let the coefficients and intercepts as they are now count in the averages."""
    cdef double count = model.t - task.average_from + 1.0
    cdef Py_ssize_t k
    if count > 1.0:
        model.average_total /= 1.0 - 1.0 / count
    model.average_scale += model.average_total * model.scale / count
    for k in range(task.width):
        model.average_intercepts[k] += (model.intercepts[k] - model.average_intercepts[k]) / count
