# What the kernels of losses over K scores are made of, included in every instruction-set module.
#
# A *panel* holds scores in rows of up to WIDE lanes, and every loop here runs over the lanes of one row after another:
#
#   few classes    a row is a class, a lane is a sample:        panel (K, n), class-major, n <= WIDE
#   many classes   one sample's classes, WIDE after WIDE:       panel (K / WIDE, WIDE), as they stand in memory
#
# In the first form a maximum or sum over the classes is complete when the rows have gone by; in the second the lanes
# are then folded into one.  That is the only difference, and everything is written once for both.  Quantities of a
# sample ("columns" below: its maximum, its sum ...) are arrays of WIDE numbers: one per lane, or `spread` to all lanes.
#
# exp(z - max) is stored where the gradient will be.  The sum leaves out what must not be rounded against it: the true
# class, so that its gradient -sum_{k != y} p_k and the loss log1p(...) keep their digits however sure the model is.

cdef enum:
    WIDE = 256      # lanes: 2 kB of float64 columns; a wide row of 1e6 float32 classes adds 16 x 244 numbers per lane

cdef struct Panel:
    Py_ssize_t rows
    Py_ssize_t lanes            # in a row ...
    Py_ssize_t last             # ... and in the last one
    Py_ssize_t samples          # one per lane, or one in all
    Py_ssize_t step             # elements from a class to the next


cdef inline Panel panel_of_lanes(Py_ssize_t n, Py_ssize_t K) noexcept nogil:
    cdef Panel p
    p.rows, p.lanes, p.last, p.samples, p.step = K, n, n, n, n
    return p


cdef inline Panel panel_of_row(Py_ssize_t K) noexcept nogil:
    cdef Panel p
    p.lanes = min(K, <Py_ssize_t>WIDE)
    p.rows = (K + p.lanes - 1) // p.lanes
    p.last = K - (p.rows - 1) * p.lanes
    p.samples, p.step = 1, 1
    return p


cdef inline Py_ssize_t lanes_of(const Panel *p, Py_ssize_t row) noexcept nogil:
    return p.lanes if row + 1 < p.rows else p.last


cdef inline bint folds(const Panel *p) noexcept nogil:
    return p.samples < p.lanes


cdef void spread(const Panel *p, real *column) noexcept nogil:
    cdef Py_ssize_t j
    if folds(p):
        for j in range(1, p.lanes):
            column[j] = column[0]


cdef void pick(const Panel *p, const Py_ssize_t *seat, const real *x, real *column) noexcept nogil:
    """column = x at each sample's seat (a class)."""
    cdef Py_ssize_t r
    for r in range(p.samples):
        column[r] = x[r + seat[r] * p.step]


cdef void place(const Panel *p, const Py_ssize_t *seat, const real *column, real *x) noexcept nogil:
    """x at each sample's seat = column."""
    cdef Py_ssize_t r
    for r in range(p.samples):
        x[r + seat[r] * p.step] = column[r]


cdef void place_value(const Panel *p, const Py_ssize_t *seat, real value, real *x) noexcept nogil:
    cdef Py_ssize_t r
    for r in range(p.samples):
        x[r + seat[r] * p.step] = value


# ------------------------------------------------------------------------------------------------- over the classes
cdef void largest(const Panel *p, const real *z, real *top) noexcept nogil:
    """top = max over the classes; NaN is passed over, and -inf where there is nothing else."""
    cdef const real *at
    cdef Py_ssize_t row, j, half
    for j in range(p.lanes):
        top[j] = <real>-INFINITY
    for row in range(p.rows):
        at = z + row * p.lanes
        for j in range(lanes_of(p, row)):
            top[j] = fmax(top[j], at[j])
    if folds(p):
        for j in range(1, p.lanes):
            top[0] = fmax(top[0], top[j])
        spread(p, top)


cdef inline void add_exactly(double *total, double *lost, double x) noexcept nogil:
    """total += x, and what that rounded away to lost (Knuth's two-sum)."""
    cdef double sum = total[0] + x
    cdef double part = sum - total[0]
    lost[0] = lost[0] + ((total[0] - (sum - part)) + (x - part))
    total[0] = sum


cdef void fold_sums(const Panel *p, double *sums, double *lost) noexcept nogil:
    """Lanes added pairwise where they belong to one sample, and with what was lost; always in the same order."""
    cdef Py_ssize_t width = WIDE, j
    if folds(p):
        for j in range(p.lanes, WIDE):
            sums[j] = 0
            lost[j] = 0
        while width > 1:
            width = width // 2
            for j in range(width):
                lost[j] = lost[j] + lost[j + width]
                add_exactly(&sums[j], &lost[j], sums[j + width])
    for j in range(p.samples):      # what an infinite sum lost is NaN
        sums[j] = sums[j] + select(lost[j] == lost[j], lost[j], <double>0)


cdef void clear(const Panel *p, double *sums, double *lost) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(p.lanes):
        sums[j] = 0
        lost[j] = 0


cdef inline void gather(real x, double *sum, double *lost) noexcept nogil:
    """sum += x.  A float64 sum of float32 numbers loses nothing that matters; one of float64 numbers is compensated:
    the errors of a thousand equal probabilities all have one sign."""
    if real is float:
        sum[0] = sum[0] + x
    else:
        add_exactly(sum, lost, x)


cdef void add_up(const Panel *p, const real *x, real *column, double *exact) noexcept nogil:
    """column = sum over the classes: eight rows in a tree, in the working dtype, and these sums gathered; where
    wanted also before it is rounded to float32."""
    cdef double sums[WIDE]
    cdef double lost[WIDE]
    cdef const real *at
    cdef Py_ssize_t row = 0, n = p.lanes, j
    clear(p, sums, lost)
    while row + 8 < p.rows:
        at = x + row * n
        for j in range(n):
            gather(((at[j] + at[j + n]) + (at[j + 2 * n] + at[j + 3 * n]))
                   + ((at[j + 4 * n] + at[j + 5 * n]) + (at[j + 6 * n] + at[j + 7 * n])), &sums[j], &lost[j])
        row += 8
    while row < p.rows:
        at = x + row * n
        for j in range(lanes_of(p, row)):
            gather(at[j], &sums[j], &lost[j])
        row += 1
    fold_sums(p, sums, lost)
    for j in range(p.samples):
        column[j] = <real>sums[j]
        if exact != NULL:
            exact[j] = sums[j]


cdef void dot_up(const Panel *p, const real *x, const real *u, real *column) noexcept nogil:
    """column = sum over the classes of x*u."""
    cdef double sums[WIDE]
    cdef double lost[WIDE]
    cdef const real *at
    cdef const real *by
    cdef Py_ssize_t row, j
    clear(p, sums, lost)
    for row in range(p.rows):
        at = x + row * p.lanes
        by = u + row * p.lanes
        for j in range(lanes_of(p, row)):
            sums[j] = sums[j] + at[j] * by[j]
    fold_sums(p, sums, lost)
    for j in range(p.samples):
        column[j] = <real>sums[j]


cdef void find_peak(const Panel *p, const real *z, const real *top, Py_ssize_t *peak) noexcept nogil:
    """The first class whose score is the maximum; some class where there is none (NaN)."""
    cdef real found[WIDE]        # the row, as a number of the working dtype: integers would halve the lanes
    cdef const real *at
    cdef Py_ssize_t row, j, best, candidate
    for j in range(p.lanes):
        found[j] = -1
    for row in range(p.rows - 1, -1, -1):
        at = z + row * p.lanes
        for j in range(lanes_of(p, row)):
            found[j] = select(at[j] == top[j], <real>row, found[j])
    if not folds(p):
        for j in range(p.lanes):
            peak[j] = max(<Py_ssize_t>found[j], 0)
        return
    best = -1
    for j in range(p.lanes):
        if found[j] >= 0:
            candidate = <Py_ssize_t>found[j] * p.lanes + j
            if best < 0 or candidate < best:
                best = candidate
    peak[0] = max(best, 0)


cdef inline real smallest_normal(real like) noexcept nogil:
    return <real>1.17549435e-38 if real is float else <real>2.2250738585072014e-308


cdef inline real unless_zero(real p, real factor) noexcept nogil:
    """factor * p, where p = 0 wins over an infinite factor (z_loss where the scores are), but not over NaN."""
    return select((p == 0) & (factor == factor), <real>0, factor * p)


cdef inline real below_top(real z, real top) noexcept nogil:
    """z - top, 0 where both are the same infinity."""
    return select(z == top, <real>0, z - top)


# ------------------------------------------------------------------------------------------------- softmax
cdef void softmax_open(const Panel *p, const real *z, real *e, real *top) noexcept nogil:
    """top = max z, e = exp(z - top).  Several +inf share; a sample without any score above -inf becomes NaN."""
    cdef const real *at
    cdef real *to
    cdef Py_ssize_t row, j
    largest(p, z, top)
    for j in range(p.lanes):
        top[j] = select(top[j] == <real>-INFINITY, <real>NAN, top[j])
    for row in range(p.rows):
        at = z + row * p.lanes
        to = e + row * p.lanes
        for j in range(lanes_of(p, row)):
            to[j] = exp_fall(below_top(at[j], top[j]))


cdef void softmax_sums(const Panel *p, const Py_ssize_t *seat, const Py_ssize_t *peak, real *e, real *own,
                       real *others, double *exact_others, real *below) noexcept nogil:
    """own = e at the seat, others = the sum of all e but own (where wanted also unrounded); with a peak also
    below = the sum of all but the peak's.
    What is left out is never added, so that neither rounds the other away."""
    cdef Py_ssize_t r
    pick(p, seat, e, own)
    place_value(p, seat, <real>0, e)
    add_up(p, e, others, exact_others)
    if peak != NULL:
        place_value(p, peak, <real>0, e)
        add_up(p, e, below, NULL)
        place_value(p, peak, <real>1, e)
        for r in range(p.samples):
            below[r] = below[r] + (<real>0 if peak[r] == seat[r] else own[r])
    place(p, seat, own, e)


cdef void softmax_hessian(const Panel *p, const real *e, real *hess, const real *total, const real *slope,
                          const real *curl, const real *knee) noexcept nogil:
    """hess = slope p (1 - p) + (curl e)(knee e) with p = e / total."""
    cdef real inverse[WIDE]
    cdef const real *at
    cdef real *to
    cdef Py_ssize_t row, j
    for j in range(p.lanes):
        inverse[j] = <real>1 / total[j]
    for row in range(p.rows):
        at = e + row * p.lanes
        to = hess + row * p.lanes
        for j in range(lanes_of(p, row)):
            to[j] = unless_zero((at[j] * inverse[j]) * ((total[j] - at[j]) * inverse[j]), slope[j]) \
                + (curl[j] * at[j]) * (knee[j] * at[j])


cdef void softmax_product(const Panel *p, const real *e, real *hess, const real *total, const real *slope,
                          const real *curl, const real *swing) noexcept nogil:
    """hess (IN u, OUT) = slope p (u - p.u) + curl swing e: the hessian of a function of the softmax, times u."""
    cdef real inverse[WIDE]
    cdef real mean[WIDE]
    cdef const real *at
    cdef real *to
    cdef Py_ssize_t row, j
    dot_up(p, e, hess, mean)
    spread(p, mean)
    for j in range(p.lanes):
        inverse[j] = <real>1 / total[j]
        mean[j] = mean[j] * inverse[j]
    for row in range(p.rows):
        at = e + row * p.lanes
        to = hess + row * p.lanes
        for j in range(lanes_of(p, row)):
            to[j] = (at[j] * inverse[j]) * (slope[j] * (to[j] - mean[j])) + at[j] * (curl[j] * swing[j])


cdef void scale_rows(const Panel *p, const real *factor, real *x) noexcept nogil:
    cdef real *at
    cdef Py_ssize_t row, j
    for row in range(p.rows):
        at = x + row * p.lanes
        for j in range(lanes_of(p, row)):
            at[j] = factor[j] * at[j]


cdef void true_class_close(const Panel *p, const Py_ssize_t *label, const Py_ssize_t *peak, real *grad, real *hess,
                           bint product, const real *own, const real *others, const real *below, real *slope,
                           const real *bend) noexcept nogil:
    """Gradient and hessian of a function f of -log p_y: slope = f' / total, bend = f'' (1 - p_y), where total is the
    sum of all e.  grad holds e."""
    cdef real at[WIDE]
    cdef Py_ssize_t r
    if hess != NULL:
        true_class_hessian(p, label, peak, grad, hess, product, own, others, below, slope, bend)
    for r in range(p.samples):
        at[r] = -slope[r] * others[r]
    spread(p, slope)
    scale_rows(p, slope, grad)
    place(p, label, at, grad)


cdef void true_class_hessian(const Panel *p, const Py_ssize_t *label, const Py_ssize_t *peak, const real *e, real *hess,
                             bint product, const real *own, const real *others, const real *below, const real *slope,
                             const real *bend) noexcept nogil:
    cdef real total[WIDE]
    cdef real steep[WIDE]
    cdef real curl[WIDE]
    cdef real knee[WIDE]
    cdef real at[WIDE]
    cdef real inverse
    cdef Py_ssize_t r
    for r in range(p.samples):
        total[r] = own[r] + others[r]
        steep[r] = slope[r] * total[r]
        # where the others' sum is not even a normal number, neither is what it would be divided out of
        knee[r] = select(others[r] < smallest_normal(others[r]), <real>0, <real>1 / others[r])
        curl[r] = bend[r] / total[r]
    spread(p, total)
    spread(p, steep)
    if product:
        true_class_product(p, label, e, hess, own, total, steep, bend, knee)
        return
    spread(p, knee)
    spread(p, curl)
    softmax_hessian(p, e, hess, total, steep, curl, knee)
    # 1 - p of the two classes whose e may be all of the sum, from the sum of the others
    for r in range(p.samples):
        inverse = <real>1 / total[r]
        at[r] = steep[r] * (inverse * (below[r] * inverse)) + curl[r] * knee[r]
    place(p, peak, at, hess)
    for r in range(p.samples):
        inverse = <real>1 / total[r]
        at[r] = steep[r] * ((own[r] * inverse) * (others[r] * inverse)) + bend[r] * (others[r] * inverse)
    place(p, label, at, hess)


cdef void true_class_product(const Panel *p, const Py_ssize_t *label, const real *e, real *hess, const real *own,
                             const real *total, const real *slope, const real *bend, real *knee) noexcept nogil:
    """hess (IN u, OUT) = f' (diag p - p p') u + f'' q (q.u), q = p - onehot."""
    cdef real swing[WIDE]
    cdef real at[WIDE]
    cdef real theirs[WIDE]
    cdef Py_ssize_t r
    dot_up(p, e, hess, swing)
    pick(p, label, hess, theirs)
    for r in range(p.samples):
        swing[r] = swing[r] / total[r] - theirs[r]      # q.u
        knee[r] = bend[r] * knee[r]                     # f'' (1 - p_y) / (sum of the others' e)
        # f' p_y (u_y - p.u) - f'' (1 - p_y) (q.u)
        at[r] = -slope[r] * (own[r] / total[r]) * swing[r] - bend[r] * swing[r]
    spread(p, swing)
    spread(p, knee)
    softmax_product(p, e, hess, total, slope, knee, swing)
    place(p, label, at, hess)


# ------------------------------------------------------------------------------------------------- cross-entropy
cdef void cross_entropy_panel(const Panel *p, const real *y, const Py_ssize_t *label, const real *z, real *loss,
                              real *grad, real *hess, bint product, const double *params) noexcept nogil:
    """-sum_k t_k log p_k + z_loss lse^2 for labels or targets, smoothed or not."""
    cdef Py_ssize_t peaks[WIDE]
    cdef real top[WIDE]
    cdef real own[WIDE]
    cdef real others[WIDE]
    cdef real below[WIDE]
    cdef real slope[WIDE]
    cdef real zero[WIDE]
    cdef real d[WIDE]
    cdef const Py_ssize_t *peak = NULL
    cdef Py_ssize_t r
    if label == NULL or params[0] != 0 or params[1] != 0:
        soft_cross_entropy_panel(p, y, label, z, loss, grad, hess, product, <real>params[0], <real>params[1])
        return
    softmax_open(p, z, grad, top)
    if hess != NULL and not product:
        find_peak(p, z, top, peaks)
        peak = peaks
    softmax_sums(p, label, peak, grad, own, others, NULL, below)
    for r in range(p.samples):
        slope[r] = <real>1 / (own[r] + others[r])
        zero[r] = 0
    if loss != NULL:
        pick(p, label, z, d)
        for r in range(p.samples):
            loss[r] = log_sum(own[r], others[r]) - below_top(d[r], top[r])
    true_class_close(p, label, peak, grad, hess, product, own, others, below, slope, zero)


cdef void soft_cross_entropy_panel(const Panel *p, const real *y, const Py_ssize_t *label, const real *z, real *loss,
                                   real *grad, real *hess, bint product, real smoothing, real z_loss) noexcept nogil:
    """The form with a target t_k for every class.  The peak takes the place of the true class in the sums."""
    cdef Py_ssize_t peak[WIDE]
    cdef real top[WIDE]
    cdef real own[WIDE]
    cdef real others[WIDE]
    cdef real mass[WIDE]
    cdef real cross[WIDE]
    cdef real share[WIDE]
    cdef real total[WIDE]
    cdef real pull[WIDE]
    cdef real twice[WIDE]
    cdef real at[WIDE]
    cdef real rest[WIDE]
    cdef real keep = <real>1 - smoothing
    cdef real lse, d, t
    cdef Py_ssize_t r
    softmax_open(p, z, grad, top)
    find_peak(p, z, top, peak)
    softmax_sums(p, peak, NULL, grad, own, others, NULL, NULL)
    soft_sums(p, y, label, z, top, keep, smoothing, share, mass, cross)
    for r in range(p.samples):
        total[r] = own[r] + others[r]
        rest[r] = log_sum(own[r], others[r])
    for r in range(p.samples):
        pull[r] = mass[r]
        twice[r] = 0
        if loss != NULL:
            loss[r] = mass[r] * rest[r] - cross[r]
        if z_loss != 0:
            lse = top[r] + rest[r]
            twice[r] = <real>2 * z_loss
            pull[r] = fma(twice[r], lse, mass[r])
            if loss != NULL:
                loss[r] = loss[r] + z_loss * lse * lse
        # t of the peak.  Where p > 1/2 its gradient is -mass (1 - p) + (mass - t), exact for a one-hot target; where p
        # is smaller, mass would be larger than what it is subtracted from.
        d = 0 if y == NULL else y[r + peak[r] * p.step]
        t = keep * d + share[r]
        if label != NULL and label[r] == peak[r]:
            t = t + keep
        if others[r] < own[r]:
            at[r] = (mass[r] - t) - mass[r] * (others[r] / total[r]) + (pull[r] - mass[r]) * (own[r] / total[r])
        else:
            at[r] = pull[r] * (own[r] / total[r]) - t
    spread(p, total)
    spread(p, pull)
    if hess != NULL:
        soft_hessian(p, peak, grad, hess, product, others, total, pull, twice)
    soft_gradient(p, y, label, z, grad, total, pull, share, keep)
    place(p, peak, at, grad)


cdef void soft_sums(const Panel *p, const real *y, const Py_ssize_t *label, const real *z, const real *top, real keep,
                    real smoothing, real *share, real *mass, real *cross) noexcept nogil:
    """mass = sum t, cross = sum t (z - top), for t = keep y + share, or keep at the label + share.
    The smoothing is shared by the classes that are not masked (above -inf); a target of 0 costs nothing anywhere."""
    cdef double masses[WIDE]
    cdef double crosses[WIDE]
    cdef double lost[WIDE]
    cdef double cross_lost[WIDE]
    cdef const real *at
    cdef const real *target
    cdef real t, d
    cdef Py_ssize_t row, j, r
    clear(p, masses, lost)
    if smoothing != 0:
        for row in range(p.rows):
            at = z + row * p.lanes
            for j in range(lanes_of(p, row)):
                masses[j] = masses[j] + select(at[j] > <real>-INFINITY, <real>1, <real>0)
        fold_sums(p, masses, lost)
    for r in range(p.samples):
        share[r] = <real>(smoothing / masses[r]) if smoothing != 0 else <real>0
    spread(p, share)
    clear(p, masses, lost)
    clear(p, crosses, cross_lost)
    for row in range(p.rows):
        at = z + row * p.lanes
        target = at if y == NULL else y + row * p.lanes
        for j in range(lanes_of(p, row)):
            d = below_top(at[j], top[j])
            t = select(at[j] > <real>-INFINITY, share[j], <real>0) + (<real>0 if y == NULL else keep * target[j])
            gather(t, &masses[j], &lost[j])
            gather(select(t == 0, <real>0, t * d), &crosses[j], &cross_lost[j])
    fold_sums(p, masses, lost)
    fold_sums(p, crosses, cross_lost)
    for r in range(p.samples):
        mass[r] = <real>masses[r]
        cross[r] = <real>crosses[r]
        if label != NULL:
            mass[r] = <real>(masses[r] + keep)
            cross[r] = <real>(crosses[r] + <double>keep * below_top(z[r + label[r] * p.step], top[r]))


cdef void soft_gradient(const Panel *p, const real *y, const Py_ssize_t *label, const real *z, real *grad,
                        const real *total, const real *pull, const real *share, real keep) noexcept nogil:
    """grad (IN e, OUT) = pull p - t."""
    cdef real factor[WIDE]
    cdef const real *at
    cdef const real *target
    cdef real *to
    cdef real t
    cdef Py_ssize_t row, j, r
    for j in range(p.lanes):
        factor[j] = pull[j] / total[j]
    for row in range(p.rows):
        at = z + row * p.lanes
        to = grad + row * p.lanes
        target = at if y == NULL else y + row * p.lanes
        for j in range(lanes_of(p, row)):
            t = select(at[j] > <real>-INFINITY, share[j], <real>0) + (<real>0 if y == NULL else keep * target[j])
            to[j] = unless_zero(to[j], factor[j]) - t
    if label != NULL:
        for r in range(p.samples):
            grad[r + label[r] * p.step] -= keep


cdef void soft_hessian(const Panel *p, const Py_ssize_t *peak, const real *e, real *hess, bint product,
                       const real *others, const real *total, const real *pull, real *twice) noexcept nogil:
    """pull p (1 - p) + 2 z_loss p^2, or that matrix times u."""
    cdef real curl[WIDE]
    cdef real knee[WIDE]
    cdef real at[WIDE]
    cdef real inverse
    cdef Py_ssize_t r
    if product:
        dot_up(p, e, hess, knee)        # 2 z_loss p (p.u): curl * swing * e
    for r in range(p.samples):
        inverse = <real>1 / total[r]
        curl[r] = twice[r] * inverse
        knee[r] = knee[r] * inverse if product else inverse
        at[r] = unless_zero(inverse * (others[r] * inverse), pull[r]) + curl[r] * inverse
    spread(p, curl)
    spread(p, knee)
    if product:
        softmax_product(p, e, hess, total, pull, curl, knee)
    else:
        softmax_hessian(p, e, hess, total, pull, curl, knee)
        place(p, peak, at, hess)


# ------------------------------------------------------------------------------------------------- the functions
cdef bint nothing(const Panel *p, const real *z) noexcept nogil:
    """Whether every score of a sample is -inf."""
    cdef Py_ssize_t k, K = p.rows if p.samples > 1 or p.step > 1 else (p.rows - 1) * p.lanes + p.last
    for k in range(K):
        if z[k * p.step] != <real>-INFINITY:
            return False
    return True


cdef void softmax_panel(const Panel *p, const real *y, const Py_ssize_t *label, const real *z, real *loss, real *grad,
                        real *hess, bint product, const double *params) noexcept nogil:
    """Not a loss: grad = softmax, or (params[0] != 0) its logarithm; loss = logsumexp."""
    cdef Py_ssize_t peak[WIDE]
    cdef real top[WIDE]
    cdef real own[WIDE]
    cdef real others[WIDE]
    cdef real rest[WIDE]
    cdef real at[WIDE]
    cdef const real *score
    cdef real *to
    cdef Py_ssize_t row, j, r
    softmax_open(p, z, grad, top)
    find_peak(p, z, top, peak)
    softmax_sums(p, peak, NULL, grad, own, others, NULL, NULL)
    for r in range(p.samples):
        rest[r] = log_sum(own[r], others[r])
        at[r] = <real>1 / (own[r] + others[r])
    if loss != NULL:
        for r in range(p.samples):
            loss[r] = top[r] + rest[r]
            if loss[r] != loss[r] and nothing(p, z + r):
                loss[r] = <real>-INFINITY
    if params[0] == 0:
        spread(p, at)
        scale_rows(p, at, grad)
        return
    spread(p, rest)
    for row in range(p.rows):
        score = z + row * p.lanes
        to = grad + row * p.lanes
        for j in range(lanes_of(p, row)):
            to[j] = below_top(score[j], top[j]) - rest[j]


# ------------------------------------------------------------------------------------------------- margins
cdef void margin_open(const Panel *p, const Py_ssize_t *label, const real *z, real *copy, real *margin, real *best,
                      real *ties) noexcept nogil:
    """margin = z_y - best, best = the largest score of the other classes, ties = how many have it.
    copy = z with -inf at the label; a NaN anywhere makes the margin NaN."""
    cdef real bad[WIDE]
    cdef const real *at
    cdef real *to
    cdef real own
    cdef Py_ssize_t row, j, r
    for j in range(p.lanes):
        bad[j] = 0
    for row in range(p.rows):
        at = z + row * p.lanes
        to = copy + row * p.lanes
        for j in range(lanes_of(p, row)):
            to[j] = at[j]
            bad[j] = select(at[j] == at[j], bad[j], <real>NAN)
    any_bad(p, bad)
    place_value(p, label, <real>-INFINITY, copy)
    largest(p, copy, best)
    count_ties(p, copy, best, ties)
    for r in range(p.samples):
        own = z[r + label[r] * p.step]
        margin[r] = select(bad[r] == bad[r], own - best[r], bad[r])


cdef void any_bad(const Panel *p, real *bad) noexcept nogil:
    cdef Py_ssize_t j
    if folds(p):
        for j in range(1, p.lanes):
            bad[0] = bad[0] + bad[j]


cdef void count_ties(const Panel *p, const real *x, const real *best, real *ties) noexcept nogil:
    cdef double sums[WIDE]
    cdef double lost[WIDE]
    cdef const real *at
    cdef Py_ssize_t row, j
    clear(p, sums, lost)
    for row in range(p.rows):
        at = x + row * p.lanes
        for j in range(lanes_of(p, row)):
            sums[j] = sums[j] + select(at[j] == best[j], <real>1, <real>0)
    fold_sums(p, sums, lost)
    for j in range(p.samples):
        ties[j] = <real>sums[j]


cdef void margin_close(const Panel *p, const Py_ssize_t *label, real *grad, real *hess, bint product, real *best,
                       const real *ties, real *slope, real *bend) noexcept nogil:
    """Derivatives of a function of the margin: slope at the label, -slope shared by the runners-up.
    grad holds the copy that margin_open made."""
    cdef real up[WIDE]
    cdef real level[WIDE]
    cdef real swing[WIDE]
    cdef real theirs[WIDE]
    cdef Py_ssize_t r
    if hess != NULL and product:
        for r in range(p.samples):
            up[r] = <real>1 / ties[r]
            level[r] = 0
        dot_where(p, grad, hess, best, swing)
        pick(p, label, hess, theirs)
        for r in range(p.samples):
            swing[r] = bend[r] * (theirs[r] - swing[r] * up[r])     # bend times (gradient of the margin).u
            up[r] = -swing[r] * up[r]
        write_where(p, grad, best, up, level, hess)
        place(p, label, swing, hess)
    elif hess != NULL:
        for r in range(p.samples):
            up[r] = bend[r] / (ties[r] * ties[r])
            level[r] = unless_nan(bend[r], <real>0)
        write_where(p, grad, best, up, level, hess)
        place(p, label, bend, hess)
    for r in range(p.samples):
        up[r] = <real>0 - slope[r] / ties[r]
        level[r] = unless_nan(slope[r], <real>0)
    write_where(p, grad, best, up, level, grad)
    place(p, label, slope, grad)


cdef void write_where(const Panel *p, const real *x, const real *best, real *up, real *level,
                      real *out) noexcept nogil:
    """out = up where x is best, level elsewhere."""
    cdef const real *at
    cdef real *to
    cdef Py_ssize_t row, j
    spread(p, up)
    spread(p, level)
    for row in range(p.rows):
        at = x + row * p.lanes
        to = out + row * p.lanes
        for j in range(lanes_of(p, row)):
            to[j] = select(at[j] == best[j], up[j], level[j])


cdef void dot_where(const Panel *p, const real *x, const real *u, const real *best, real *column) noexcept nogil:
    """column = sum of u where x is best."""
    cdef double sums[WIDE]
    cdef double lost[WIDE]
    cdef const real *at
    cdef const real *by
    cdef Py_ssize_t row, j
    clear(p, sums, lost)
    for row in range(p.rows):
        at = x + row * p.lanes
        by = u + row * p.lanes
        for j in range(lanes_of(p, row)):
            sums[j] = sums[j] + select(at[j] == best[j], by[j], <real>0)
    fold_sums(p, sums, lost)
    for j in range(p.samples):
        column[j] = <real>sums[j]


# ------------------------------------------------------------------------------------------------- projections
# p = [x - threshold]_+^power with sum p = 1: sparsemax (x = z, power 1), 1.5-entmax (x = z/2, power 2).  The sum falls
# and is convex in the threshold: Newton's steps from -1, where it is at least 1 (the largest x is 0), climb to the
# root without passing it.  For power 1 they are Michelot's and end exactly.
cdef enum:
    STEPS = 200     # of Newton; quadratic convergence takes about 8, K distinct supports at the most for power 1

cdef inline real above(real x, real top, real high, real low, real scale) noexcept nogil:
    """[scale (x - top) - threshold]_+"""
    cdef real over = (scale * below_top(x, top) - high) - low
    return select(over < 0, <real>0, over)


cdef void threshold(const Panel *p, const real *x, const real *top, real scale, bint squared, real *found,
                    real *slip) noexcept nogil:
    cdef double sums[WIDE]
    cdef double slopes[WIDE]
    cdef double lost[WIDE]
    cdef double unused[WIDE]
    cdef const real *at
    cdef real over
    cdef double step, climbed
    cdef bint last = False
    cdef Py_ssize_t row, j, turn
    for j in range(p.lanes):
        found[j] = -1
        slip[j] = 0
    for turn in range(STEPS):
        clear(p, sums, lost)
        clear(p, slopes, unused)
        for row in range(p.rows):
            at = x + row * p.lanes
            if squared:
                for j in range(lanes_of(p, row)):
                    over = fmax(scale * below_top(at[j], top[j]) - found[j], <real>0)
                    gather(over * over, &sums[j], &lost[j])
                    slopes[j] = slopes[j] + <real>2 * over
            else:
                for j in range(lanes_of(p, row)):
                    over = fmax(below_top(at[j], top[j]) - found[j], <real>0)
                    gather(over, &sums[j], &lost[j])
                    slopes[j] = slopes[j] + select(over > 0, <real>1, <real>0)
        fold_sums(p, sums, lost)
        fold_sums(p, slopes, unused)
        climbed = 0
        for j in range(p.samples):
            step = (sums[j] - 1) / slopes[j]
            if step > 0 or last:
                over = <real>(found[j] + step)
                climbed += over - found[j]
                # many equal x would all feel the rounding of the threshold, with one sign
                slip[j] = <real>(step - (<double>over - found[j])) if last else <real>0
                found[j] = over
            elif step != step:
                found[j] = <real>NAN
        spread(p, found)
        if last:
            spread(p, slip)
            return
        # Rounding may have carried a step past the root: the last one may go either way.
        last = not climbed > 0


cdef void project(const Panel *p, const real *z, real scale, bint squared, const real *top, const real *found,
                  const real *slip, real *out) noexcept nogil:
    """out = p"""
    cdef const real *at
    cdef real *to
    cdef real over
    cdef Py_ssize_t row, j
    for row in range(p.rows):
        at = z + row * p.lanes
        to = out + row * p.lanes
        for j in range(lanes_of(p, row)):
            over = above(at[j], top[j], found[j], slip[j], scale)
            to[j] = over * over if squared else over


cdef void projection_panel(const Panel *p, const Py_ssize_t *label, const real *z, real *loss, real *grad, real *hess,
                           bint product, bint squared) noexcept nogil:
    """Fenchel-Young loss of a projection: gradient p - onehot.  In terms that are all positive, with s_k = p_k^(1/2):
        sparsemax   ((1 - p_y)^2 + sum_{k != y} p_k^2) / 2 + max(0, threshold - x_y)
        entmax15    (sum_{k != y} s_k^3 + (1 - s_y)^2 (s_y + 2)) 2/3 + 2 max(0, threshold - x_y)."""
    cdef real top[WIDE]
    cdef real found[WIDE]
    cdef real slip[WIDE]
    cdef real own[WIDE]
    cdef real others[WIDE]
    cdef real scale = <real>0.5 if squared else <real>1
    cdef Py_ssize_t row, j, r
    largest(p, z, top)
    for j in range(p.lanes):
        top[j] = select(top[j] == <real>-INFINITY, <real>NAN, top[j])
    threshold(p, z, top, scale, squared, found, slip)
    if hess != NULL and product:
        projection_product(p, z, scale, squared, top, found, slip, hess)
    elif hess != NULL:
        projection_hessian(p, z, scale, squared, top, found, slip, hess)
    project(p, z, scale, squared, top, found, slip, grad)
    pick(p, label, grad, own)
    place_value(p, label, <real>0, grad)
    add_up(p, grad, others, NULL)
    for r in range(p.samples):      # 1 - p_y, from the smaller side
        others[r] = select(own[r] < <real>0.5, <real>1 - own[r], others[r])
    if loss != NULL:
        projection_loss(p, label, z, scale, squared, top, found, slip, grad, own, others, loss)
    for r in range(p.samples):
        others[r] = (own[r] - own[r]) - others[r]       # NaN stays NaN where there are no others
    place(p, label, others, grad)


cdef void projection_loss(const Panel *p, const Py_ssize_t *label, const real *z, real scale, bint squared,
                          const real *top, const real *found, const real *slip, const real *others_p, const real *own,
                          const real *others, real *loss) noexcept nogil:
    """others_p: p with 0 at the label."""
    cdef double sums[WIDE]
    cdef double lost[WIDE]
    cdef const real *at
    cdef real root, miss, short_of
    cdef Py_ssize_t row, j, r
    clear(p, sums, lost)
    for row in range(p.rows):
        at = others_p + row * p.lanes
        for j in range(lanes_of(p, row)):
            gather(at[j] * (sqrt(at[j]) if squared else at[j]), &sums[j], &lost[j])
    fold_sums(p, sums, lost)
    for r in range(p.samples):
        short_of = (found[r] - scale * below_top(z[r + label[r] * p.step], top[r])) + slip[r]
        short_of = select(short_of < 0, <real>0, short_of)
        if squared:
            root = sqrt(own[r])
            miss = others[r] / (<real>1 + root)
            loss[r] = <real>((sums[r] + miss * miss * (root + 2)) * (2.0 / 3.0)) + <real>2 * short_of
        else:
            loss[r] = <real>0.5 * (others[r] * others[r] + <real>sums[r]) + short_of


cdef void support_weights(const Panel *p, const real *z, real scale, bint squared, const real *top, const real *found,
                          const real *slip, real *out, real *mass) noexcept nogil:
    """out = the weights s of the jacobian diag(s) - s s' / sum(s) of the projection: 1 on the support, or p^(1/2)."""
    cdef const real *at
    cdef real *to
    cdef real over
    cdef Py_ssize_t row, j
    for row in range(p.rows):
        at = z + row * p.lanes
        to = out + row * p.lanes
        for j in range(lanes_of(p, row)):
            over = above(at[j], top[j], found[j], slip[j], scale)
            to[j] = over if squared else select(over > 0, <real>1, over)
    add_up(p, out, mass, NULL)


cdef void projection_hessian(const Panel *p, const real *z, real scale, bint squared, const real *top,
                             const real *found, const real *slip, real *hess) noexcept nogil:
    """s - s^2 / sum(s)."""
    cdef real mass[WIDE]
    cdef real *to
    cdef Py_ssize_t row, j
    support_weights(p, z, scale, squared, top, found, slip, hess, mass)
    spread(p, mass)
    for row in range(p.rows):
        to = hess + row * p.lanes
        for j in range(lanes_of(p, row)):
            to[j] = to[j] * ((mass[j] - to[j]) / mass[j])


cdef void projection_product(const Panel *p, const real *z, real scale, bint squared, const real *top,
                             const real *found, const real *slip, real *hess) noexcept nogil:
    """hess (IN u, OUT) = s (u - (s.u) / sum(s))."""
    cdef double sums[WIDE]
    cdef double masses[WIDE]
    cdef double lost[WIDE]
    cdef double unused[WIDE]
    cdef real mean[WIDE]
    cdef const real *at
    cdef real *to
    cdef real over
    cdef Py_ssize_t row, j, turn
    clear(p, sums, lost)
    clear(p, masses, unused)
    for turn in range(2):
        for row in range(p.rows):
            at = z + row * p.lanes
            to = hess + row * p.lanes
            for j in range(lanes_of(p, row)):
                over = above(at[j], top[j], found[j], slip[j], scale)
                over = over if squared else select(over > 0, <real>1, over)
                if turn == 0:
                    masses[j] = masses[j] + over
                    sums[j] = sums[j] + over * to[j]
                else:
                    to[j] = over * (to[j] - mean[j])
        if turn == 0:
            fold_sums(p, sums, lost)
            fold_sums(p, masses, unused)
            for j in range(p.samples):
                mean[j] = <real>(sums[j] / masses[j])
            spread(p, mean)


cdef void sparsemax_panel(const Panel *p, const real *y, const Py_ssize_t *label, const real *z, real *loss,
                          real *grad, real *hess, bint product, const double *params) noexcept nogil:
    projection_panel(p, label, z, loss, grad, hess, product, False)


cdef void entmax15_panel(const Panel *p, const real *y, const Py_ssize_t *label, const real *z, real *loss,
                         real *grad, real *hess, bint product, const double *params) noexcept nogil:
    projection_panel(p, label, z, loss, grad, hess, product, True)
